"""The order of a fit: profile -> model + data -> check -> plan -> candidates -> validate -> bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from edgecomp.candidates import Shop, Target, accuracy_of, evaluate, make_candidate
from edgecomp.check import require_runnable
from edgecomp.data import DataOptions
from edgecomp.delivery import Provenance, deliver, describe_limits, time_candidate, versions
from edgecomp.errors import BenchmarkError, ModelError, TransportError
from edgecomp.executors.local import Progress, silent
from edgecomp.inference import KernelFamily
from edgecomp.intake import Imported, take_in
from edgecomp.metrics import looks_memorised
from edgecomp.plan import Step, make_plan
from edgecomp.profile import Precision
from edgecomp.quantize import Io
from edgecomp.results import CandidateResult, DeviceResult, FitResult, FloatModel, ModelSummary
from edgecomp.search import search
from edgecomp.stages import MadeFile

_STAGES = "edgecomp.stages:"
_NO_LABELS = (
    "There are no labels: the accuracy limit holds the share of answers that change (accuracy cannot fall by more); "
    "for outputs that are no classes it holds the noise in them (1pp is an SNR of 20 dB)."
)


@dataclass(frozen=True)
class FitRequest:
    """What the user asks for.

    Attributes:
        model: Path of the model.
        targets: The devices, each with its limits.
        precisions: Asked for; empty for each profile's own order.
        metric: "accuracy", "top5", "auc", "mse", "mae" or "module:function".
        confident: The bound of the interval decides the accuracy limit, not the point estimate.
        out: Folder of the bundles.
    """

    model: Path
    data: DataOptions
    targets: tuple[Target, ...]
    out: Path
    metric: str = "accuracy"
    precisions: tuple[Precision, ...] = ()
    confident: bool = False
    trust_code: bool = False
    custom_objects: str | None = None
    seed: int = 0


def fit(request: FitRequest, *, progress: Progress | None = None) -> FitResult:
    """Fit a model to every device and write a bundle for each that fits.

    Raises:
        EdgecompError: The model or the data cannot be used, or nothing can be written; nothing is left behind.
    """
    started = time.monotonic()
    report = progress or silent
    with ExitStack() as stack:
        imported = take_in(stack, request, [target.profile for target in request.targets], report)
        shop = Shop(
            bench=imported.bench,
            quantizing=imported.workers.quantizing,
            micro=imported.workers.micro,
            metric_is_ratio=imported.facts.metric_is_ratio,
            confident=request.confident,
            progress=report,
            convert=_converter(request, imported),
        )
        facts = imported.facts
        targets = [
            replace(target, budget=target.budget.for_metric(facts.metric_name, is_ratio=facts.metric_is_ratio))
            for target in request.targets
        ]
        devices = tuple(_fit_device(request, shop, imported, target) for target in targets)
        return _result(request, shop, imported, devices, started)


def _converter(request: FitRequest, imported: Imported) -> Callable[[Io], MadeFile]:
    """TensorFlow's own INT8 road, for graphs that ai-edge-quantizer refuses."""

    def convert(io: Io) -> MadeFile:
        made: MadeFile = imported.workers.training.call(
            _STAGES + "make_candidate_with_converter",
            bench=imported.bench,
            source=request.model.resolve(),
            trust_code=request.trust_code,
            io=io,
        )
        return made

    return convert


def _fit_device(request: FitRequest, shop: Shop, imported: Imported, target: Target) -> DeviceResult:
    """Candidates, choice, test score and bundle for one device."""
    device, limits = target.profile.name, describe_limits(target.budget)
    shop.progress(f"{device}: checking operators", 0, 0)
    try:
        require_runnable(imported.graph, target.profile, data=shop.bench.float_model.read_bytes())
        steps = make_plan(target.profile, request.precisions, has_calibration=imported.facts.has_calibration)
    except ModelError as error:
        if len(request.targets) == 1:
            raise
        return DeviceResult(device=device, status="failed", reason=str(error), limits=limits, candidates=())

    provenance = Provenance(
        source={"name": request.model.name, "kind": imported.info.kind, "sha256": imported.info.sha256},
        data_sha256=imported.data["sha256"],
        mean=request.data.mean,
        std=request.data.std,
        class_names=imported.facts.class_names,
        seed=request.seed,
        versions=versions(),
    )
    failures: list[str] = []

    def make(step: Step) -> CandidateResult:
        shop.progress(f"{device}: {step.name}", 0, 0)
        result = make_candidate(shop, target, step)
        if result.status != "chosen":
            return result
        try:
            return time_candidate(shop, target, result, provenance)
        except (TransportError, BenchmarkError) as error:
            # The bundle is worth having without its timing, unless the timing was to decide.
            failures.append(f"{step.name} could not be timed: {error}")
            if target.budget.max_latency_ms is None:
                return result
            return result.model_copy(update={"status": "failed", "reason": failures[-1]})

    results = search(steps, make)
    failure = "; ".join(failures) or None
    if not any(result.status == "chosen" for result in results):
        return DeviceResult(device=device, status="no_fit", limits=limits, candidates=tuple(results), error=failure)
    return deliver(shop, target, results, provenance, request.out).model_copy(update={"error": failure})


def _result(
    request: FitRequest, shop: Shop, imported: Imported, devices: tuple[DeviceResult, ...], started: float
) -> FitResult:
    kernels = KernelFamily.LITERT_XNNPACK
    validation = evaluate(shop, imported.bench.float_model, kernels, "validation")
    test = evaluate(shop, imported.bench.float_model, kernels, "test")
    notes = imported.facts.notes
    if not imported.facts.has_labels:
        notes += (_NO_LABELS,)
    if validation.score is not None and test.score is not None:
        memorised = looks_memorised(
            validation.score,
            test.score,
            higher_is_better=imported.facts.metric_higher_is_better,
            is_ratio=imported.facts.metric_is_ratio,
        )
        notes += () if memorised is None else (memorised,)
    return FitResult(
        status="fits" if all(device.status == "fits" for device in devices) else "no_fit",
        model=ModelSummary(
            path=str(request.model),
            kind=imported.info.kind,
            sha256=imported.info.sha256,
            is_trainable=imported.info.is_trainable,
            rebuild_max_difference=imported.info.rebuild_max_difference,
            notes=imported.info.notes,
        ),
        data=imported.data | {"calibration": imported.facts.calibration_lint},
        metric=imported.facts.metric_name,
        float_model=FloatModel(
            model_bytes=imported.graph.file_bytes,
            macs=imported.graph.macs,
            accuracy=accuracy_of(test.score, test.samples, "test", kernels),
            validation_accuracy=accuracy_of(validation.score, validation.samples, "validation", kernels),
        ),
        devices=devices,
        notes=notes,
        seed=request.seed,
        versions=versions(),
        seconds=round(time.monotonic() - started, 2),
    )
