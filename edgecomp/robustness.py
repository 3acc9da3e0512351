"""The chosen candidate beyond the average: changed answers, the worst class, corrupted inputs (docs/robustness.md)."""

from __future__ import annotations

import math
from pathlib import Path

from edgecomp import results, scoring
from edgecomp.candidates import Shop, decision_kernels
from edgecomp.errors import EdgecompError, WorkerError
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily
from edgecomp.metrics import Estimate
from edgecomp.metrics.corruptions import CLEAN
from edgecomp.metrics.robustness import Condition, Flips, WorstClass
from edgecomp.profile import DeviceProfile
from edgecomp.results import Interval

# TFLM's reference kernels take about 1 ns a multiplication here, and 2,000 inferences: 4 s. Not by the clock, so that
# one seed gives one result.
_TFLM_MAX_MACS = 2_000_000
_REFERENCE = KernelFamily.LITERT_XNNPACK


def measure_robustness(
    shop: Shop,
    profile: DeviceProfile,
    model: Path,
    kernels: KernelFamily,
    class_names: tuple[str, ...] | None,
    unpacked: Path | None = None,
) -> tuple[results.Robustness | None, list[str]]:
    """Hold a file that has been run on test against the float model, answer by answer and on corrupted samples.

    Args:
        shop: What candidates are made with.
        profile: The device.
        model: The file; its outputs on test by these `kernels` are in the run folder.
        kernels: Of its test score. The corrupted samples run in them too, but for large models in TFLM.
        class_names: By index, where the data has names.
        unpacked: The file that LiteRT runs, where `model` is packed for TFLM.

    Returns:
        The result and what to announce; None where it could not be measured, which costs no bundle.
    """
    notes = []
    corrupted, corrupted_model = kernels, model
    if kernels is KernelFamily.TFLM and read_graph(model.read_bytes()).macs > _TFLM_MAX_MACS:
        corrupted, corrupted_model = decision_kernels(profile), unpacked or model
        notes.append(
            f"corrupted samples ran in {corrupted}: more than {_TFLM_MAX_MACS / 1e6:g} M MACs take long in tflite-micro"
        )
    try:
        for path, family in ((shop.bench.float_model, _REFERENCE), (corrupted_model, corrupted)):
            worker = shop.micro if family is KernelFamily.TFLM else shop.quantizing
            worker.call(
                "edgecomp.scoring:predict_corrupted",
                bench=shop.bench,
                model=path,
                kernels=family,
                progress=shop.progress,
            )
        found: scoring.Robustness = shop.quantizing.call(
            "edgecomp.scoring:robustness",
            bench=shop.bench,
            model=model,
            test_kernels=kernels,
            kernels=corrupted,
            reference=_REFERENCE,
            corrupted_model=corrupted_model,
        )
    except EdgecompError as error:
        reason = str(error) if isinstance(error, WorkerError) else error.message
        return None, [f"robustness could not be measured: {reason}"]
    return _result(found, class_names, is_ratio=shop.metric_is_ratio), notes


def _result(found: scoring.Robustness, class_names: tuple[str, ...] | None, *, is_ratio: bool) -> results.Robustness:
    return results.Robustness(
        mode="measured",
        flips=None if found.flips is None else _flips(found.flips),
        worst_class=None if found.worst_class is None else _worst_class(found.worst_class, class_names),
        samples=found.samples,
        kernels=found.kernels,
        float_kernels=_REFERENCE,
        conditions=tuple(
            _condition(name, found.strengths.get(name) if name != CLEAN else None, condition, is_ratio=is_ratio)
            for name, condition in found.conditions.items()
        ),
    )


def _flips(found: Flips) -> results.Flips:
    return results.Flips(
        **vars(found.share), samples=found.samples, worse=_interval(found.worse), better=_interval(found.better)
    )


def _worst_class(found: WorstClass, class_names: tuple[str, ...] | None) -> results.WorstClass:
    return results.WorstClass(
        output=found.output,
        index=found.index,
        name=class_names[found.index] if class_names and found.index < len(class_names) else None,
        samples=found.samples,
        accuracy=found.score,
        float_accuracy=found.float_score,
        drop_pp=_points(found.drop),
        compared=found.compared,
    )


def _condition(name: str, strength: str | None, found: Condition, *, is_ratio: bool) -> results.Condition:
    drop = found.drop
    return results.Condition(
        name=name,
        strength=strength,
        score=found.score,
        float_score=found.float_score,
        accuracy_drop_pp=_points(drop) if drop is not None and is_ratio else None,
        score_drop=None if is_ratio else _interval(drop),
        agreement=_interval(found.agreement),
        output_snr_db=round(found.output_snr_db, 2) if math.isfinite(found.output_snr_db) else None,
    )


def _interval(found: Estimate | None) -> Interval | None:
    return None if found is None else Interval(**vars(found))


def _points(found: Estimate) -> Interval:
    return Interval(value=100 * found.value, low=100 * found.low, high=100 * found.high)
