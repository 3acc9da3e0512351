"""Make one candidate for one device and measure everything that the limits speak of."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgecomp.bench import Measurement
from edgecomp.budget import Budget, Violation
from edgecomp.errors import EdgecompError, QuantizationError, WorkerError
from edgecomp.executors.local import Progress, Worker
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily
from edgecomp.judging import broken_limits, estimates_of
from edgecomp.judging import values_of as values_of
from edgecomp.memory import estimate_arena, estimate_linux_memory
from edgecomp.metrics import Estimate
from edgecomp.packing import ship_for_tflm, with_file
from edgecomp.plan import Step, kept_precision
from edgecomp.profile import DeviceProfile, Precision
from edgecomp.quantize import Io, QuantizationOptions, effective_io
from edgecomp.results import (
    Accuracy,
    BrokenLimit,
    CandidateResult,
    Interval,
    Mode,
    Repair,
    RepairTrial,
    TflmCheck,
)
from edgecomp.scoring import Comparison, TflmReport
from edgecomp.stages import MadeFile, RepairedFile, Workbench

Split = Literal["validation", "test"]

_STAGES = "edgecomp.stages:"
_SCORING = "edgecomp.scoring:"


@dataclass(frozen=True)
class Shop:
    """What candidates are made with: the workers, and what holds for the whole fit.

    Attributes:
        quantizing: Worker with ai-edge-quantizer and LiteRT.
        micro: Worker with tflite-micro, apart because it aborts on some files.
        metric_is_ratio: Differences are percentage points.
        confident: The bound of the interval decides a limit, not the point estimate.
        convert: Makes INT8 by TensorFlow's converter.
        seen: What `once` has made.
    """

    bench: Workbench
    quantizing: Worker
    micro: Worker
    metric_is_ratio: bool
    confident: bool
    progress: Progress
    convert: Callable[[Io], MadeFile]
    seen: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns; made once for all devices of the fit."""
        if key not in self.seen:
            self.seen[key] = make()
        return self.seen[key]


@dataclass(frozen=True)
class Target:
    """One device: its profile, limits, type of inputs and outputs, and what times a bundle on it (None: nothing).

    Attributes:
        num_threads: Of the interpreter on it, for the estimate of its latency.
        prefers_small: Files for TFLM are coded even if they fit without.
    """

    profile: DeviceProfile
    budget: Budget
    io: Io
    measure: Callable[[Path], Measurement] | None = None
    num_threads: int = 1
    prefers_small: bool = False


def tflm_available() -> bool:
    """Whether the tflite-micro interpreter is installed (wheels exist for Linux x86-64 only)."""
    return importlib.util.find_spec("tflite_micro") is not None


def decision_kernels(profile: DeviceProfile) -> KernelFamily:
    """The kernels on this machine that stand for the target's while choosing."""
    return KernelFamily.LITERT_XNNPACK if profile.runtime.delegate == "xnnpack" else KernelFamily.LITERT_BUILTIN


def make_candidate(shop: Shop, target: Target, step: Step) -> CandidateResult:
    """Make, check and measure one candidate; a failure is a result with the reason, never an exception."""
    started = time.monotonic()
    try:
        if step.is_repaired:
            result = _repaired(shop, target, step)
        else:
            result = _selective(shop, target) if step.precision is Precision.SELECTIVE else _plain(shop, target, step)
    except EdgecompError as error:
        # A worker's hint says where its log is; other hints repeat what to do for the whole command.
        reason = str(error) if isinstance(error, WorkerError) else error.message
        result = CandidateResult(name=step.name, status="failed", reason=reason)
    return result.model_copy(update={"seconds": round(time.monotonic() - started, 3)})


def _options(target: Target, step: Step) -> QuantizationOptions:
    return QuantizationOptions(step.precision, target.io, int4_operators=target.profile.runtime.int4_weight_operators)


def _repaired(shop: Shop, target: Target, step: Step) -> CandidateResult:
    """The plain candidate of the same precision, repaired on calibration samples."""
    options = _options(target, step)
    made: RepairedFile = shop.once(
        ("repair", options),
        lambda: shop.quantizing.call(
            _STAGES + "repair_candidate", bench=shop.bench, options=options, progress=shop.progress
        ),
    )
    trials = tuple(
        RepairTrial(name=name, snr_db=_finite(inner), output_snr_db=_finite(outer))
        for name, (inner, outer) in made.trials.items()
    )
    before, after = made.trials["plain"][0], made.trials[", ".join(made.steps)][0]
    what = f"{', '.join(made.steps)} (SNR {before:.1f} to {after:.1f} dB on {made.samples} calibration samples)"
    result = measure_file(shop, target, options, made.file)
    repair = Repair(samples=made.samples, trials=trials, ranges=made.ranges, notes=made.notes)
    return result.model_copy(update={"name": step.name, "repair": repair, "reason": f"{what}; {result.reason}"})


def _finite(snr_db: float) -> float | None:
    return round(snr_db, 2) if math.isfinite(snr_db) else None


def _plain(shop: Shop, target: Target, step: Step) -> CandidateResult:
    options = _options(target, step)
    try:
        made: MadeFile = shop.once(
            ("make", options),
            lambda: shop.quantizing.call(_STAGES + "make_candidate", bench=shop.bench, options=options),
        )
    except QuantizationError:
        if step.precision is not Precision.INT8:
            raise
        made = shop.convert(effective_io(step.precision, target.io))
    return measure_file(shop, target, options, made)


def _selective(shop: Shop, target: Target) -> CandidateResult:
    """Keep the most sensitive layers at higher precision: one, two, four, ... until the limits are met."""
    kept_as = kept_precision(target.profile) or Precision.FLOAT32
    options = QuantizationOptions(Precision.SELECTIVE, target.io, kept_precision=kept_as)
    ranked: list[tuple[str, float]] = shop.quantizing.call(
        _STAGES + "rank_layers", bench=shop.bench, options=options, progress=shop.progress
    )
    if not ranked:
        raise QuantizationError("Keeping no single layer at higher precision lowers the error of the outputs.")
    best: CandidateResult | None = None
    count = 1
    while True:
        kept = tuple(layer for layer, _ in ranked[:count])
        options = QuantizationOptions(Precision.SELECTIVE, target.io, kept_operators=kept, kept_precision=kept_as)
        made = shop.quantizing.call(_STAGES + "make_candidate", bench=shop.bench, options=options)
        result = measure_file(shop, target, options, made).model_copy(update={"kept_operators": kept})
        if best is None or len(result.breaks) < len(best.breaks) or _drop(result) < _drop(best):
            best = result
        if result.status == "chosen" or count >= len(ranked):
            what = f"{len(best.kept_operators)} of {len(ranked)} sensitive layers kept as {kept_as}"
            return best.model_copy(update={"reason": f"{what}; {best.reason}"})
        count = min(2 * count, len(ranked))


def _drop(result: CandidateResult) -> float:
    drop = result.accuracy_drop_pp or result.score_drop
    return drop.value if drop is not None else 0.0


def measure_file(shop: Shop, target: Target, options: QuantizationOptions, made: MadeFile) -> CandidateResult:
    """Arena and correctness in the target's runtime, score on validation, limits."""
    arena_bytes, arena_mode, ram_bytes, tflm = _memory(shop, target.profile, made)
    kernels = decision_kernels(target.profile)
    comparison = evaluate(shop, made.path, kernels, "validation")
    result = CandidateResult(
        name=options.precision,
        status="rejected",
        reason="",
        sha256=made.sha256,
        method=made.method,
        io=effective_io(options.precision, target.io),
        model_bytes=made.model_bytes,
        compressed_bytes=made.compressed_bytes,
        arena_bytes=arena_bytes,
        arena_mode=arena_mode,
        ram_bytes=ram_bytes,
        tflm=tflm,
        float_operators=made.float_operators,
    )
    result = with_scores(result, comparison, "validation", kernels, shop.metric_is_ratio)
    shipped = ship_for_tflm(shop, target, made, coded=target.prefers_small)
    return _judge(shop, target, shipped, with_file(result, shipped), comparison)


def _judge(
    shop: Shop, target: Target, made: MadeFile, result: CandidateResult, comparison: Comparison
) -> CandidateResult:
    latency, energy, why_not = estimates_of(read_graph(made.path.read_bytes()), target.profile, target.num_threads)
    result = result.model_copy(update={"estimated_latency_ms": latency, "energy_mj": energy})
    broken = broken_limits(
        result,
        target.budget,
        None if comparison.float_score is None else comparison.float_score.value,
        confident=shop.confident,
        is_timed=target.measure is not None,
        why_no_latency=why_not,
    )
    return judged(result, broken)


def judged(result: CandidateResult, broken: list[Violation]) -> CandidateResult:
    """The result with the limits that it breaks: chosen if there are none."""
    breaks = tuple(
        BrokenLimit(limit=item.limit, value=item.value, allowed=item.allowed, unit=item.unit, text=str(item))
        for item in broken
    )
    reason = "; ".join(item.text for item in breaks) if breaks else "meets every limit"
    return result.model_copy(update={"breaks": breaks, "reason": reason, "status": "rejected" if breaks else "chosen"})


def evaluate(shop: Shop, model: Path, kernels: KernelFamily, split: Split) -> Comparison:
    """Outputs of a file on a split, held against the float model's in LiteRT."""
    found: Comparison = shop.once(("evaluate", model, kernels, split), lambda: _evaluated(shop, model, kernels, split))
    return found


def _evaluated(shop: Shop, model: Path, kernels: KernelFamily, split: Split) -> Comparison:
    worker = shop.micro if kernels is KernelFamily.TFLM else shop.quantizing
    reference = shop.quantizing.call(
        _SCORING + "predict",
        bench=shop.bench,
        model=shop.bench.float_model,
        kernels=KernelFamily.LITERT_XNNPACK,
        split=split,
        progress=shop.progress,
    )
    outputs = worker.call(
        _SCORING + "predict", bench=shop.bench, model=model, kernels=kernels, split=split, progress=shop.progress
    )
    comparison: Comparison = shop.quantizing.call(
        _SCORING + "compare", bench=shop.bench, candidate=outputs, reference=reference, split=split
    )
    return comparison


def with_scores(
    result: CandidateResult, comparison: Comparison, split: Split, kernels: KernelFamily, is_ratio: bool
) -> CandidateResult:
    """The result with the fields that a comparison fills."""
    agreement, drop = comparison.agreement, comparison.drop
    fields: dict[str, object] = {
        "output_snr_db": round(comparison.output_snr_db, 2) if math.isfinite(comparison.output_snr_db) else None,
        "agreement": None if agreement is None else Interval(**vars(agreement)),
        "accuracy": accuracy_of(comparison.score, comparison.samples, split, kernels),
    }
    if drop is not None and is_ratio:
        fields["accuracy_drop_pp"] = Interval(value=100 * drop.value, low=100 * drop.low, high=100 * drop.high)
    elif drop is not None:
        fields["score_drop"] = Interval(**vars(drop))
    return result.model_copy(update=fields)


def accuracy_of(score: Estimate | None, samples: int, split: Split, kernels: KernelFamily) -> Accuracy | None:
    """A score with where it comes from; None without labels."""
    if score is None:
        return None
    return Accuracy(**vars(score), mode="measured", split=split, samples=samples, kernels=kernels)


def _memory(shop: Shop, profile: DeviceProfile, made: MadeFile) -> tuple[int, Mode, int, TflmCheck | None]:
    """Arena in bytes, where the figure comes from, what it means for RAM, and the check in TFLM if it applies."""
    graph = read_graph(made.path.read_bytes())
    if not profile.runs_tflm:
        memory = estimate_linux_memory(graph)
        return memory.arena_bytes, "estimated", memory.model_bytes, None
    if not tflm_available():
        arena = estimate_arena(graph).total_bytes
        return arena, "estimated", arena, None
    report: TflmReport = shop.once(
        ("check_in_tflm", made.path),
        lambda: shop.micro.call(_SCORING + "check_in_tflm", bench=shop.bench, model=made.path),
    )
    check = TflmCheck(
        samples=report.samples,
        max_difference_lsb=report.max_difference_lsb,
        argmax_agreement=report.argmax_agreement,
    )
    return report.arena_bytes, "simulated", report.arena_bytes, check
