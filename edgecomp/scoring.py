"""What files answer: outputs on a split, scores, corrupted inputs, tflite-micro. Plain functions that run in workers.

As in `stages`, everything is left in the run folder.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.executors._child import report_progress
from edgecomp.inference import KernelFamily, Model, TflmModel, dequantize, load, stored_inputs
from edgecomp.metrics import Estimate, agreement, estimate, output_snr_db, paired_drop
from edgecomp.metrics.corruptions import CLEAN, Corruptor
from edgecomp.metrics.robustness import Condition, Flips, WorstClass, compare_condition, flips, worst_class
from edgecomp.stages import Workbench, bound_data, metric_of

_TFLM_CHECK_SAMPLES = 100
_GOLDEN_SAMPLES = 8
_CORRUPTED_SAMPLES = 500
_BATCH = 64


@dataclass(frozen=True)
class Comparison:
    """A candidate against the float model on one split. Without labels there are no scores."""

    samples: int
    score: Estimate | None
    float_score: Estimate | None
    drop: Estimate | None
    agreement: Estimate | None
    output_snr_db: float


@dataclass(frozen=True)
class TflmReport:
    """A candidate in tflite-micro: bytes of its arena, and its outputs beside LiteRT's reference kernels."""

    arena_bytes: int
    head_bytes: int
    samples: int
    max_difference_lsb: float
    argmax_agreement: float | None


@dataclass(frozen=True)
class Robustness:
    """A candidate against the float model beyond the average.

    Attributes:
        kernels: Of the candidate on the samples under `conditions`.
        samples: How many those are.
        conditions: CLEAN first, then each corruption by name.
        strengths: Corruption -> how strong it is, in words.
    """

    flips: Flips | None
    worst_class: WorstClass | None
    kernels: KernelFamily
    samples: int
    conditions: dict[str, Condition]
    strengths: dict[str, str]


def predict(bench: Workbench, model: Path, kernels: KernelFamily, split: str) -> Path:
    """Outputs of a file on a whole split, dequantized, as a folder of .npy by output name. Made once."""
    folder = _outputs_folder(bench, model, kernels, split)
    if not folder.exists():
        part = bound_data(bench).split(split)
        loaded = load(model.read_bytes(), kernels)
        _write_outputs(folder, loaded, part.batches(_BATCH), part.count, f"evaluating on {split}")
    return folder


def _outputs_folder(bench: Workbench, model: Path, kernels: KernelFamily, what: str) -> Path:
    return bench.folder / "outputs" / f"{model.stem}-{kernels}-{what}"


def _write_outputs(
    folder: Path, loaded: Model, batches: Iterable[Mapping[str, np.ndarray]], count: int, what: str
) -> None:
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    written: list[np.memmap[Any, Any]] = []
    done = 0
    for batch in batches:
        outputs = dequantize(loaded.graph.outputs, loaded.run(batch))
        if not written:
            written = [
                np.lib.format.open_memmap(
                    partial / f"{index}.npy", mode="w+", dtype=np.float32, shape=(count, *values.shape[1:])
                )
                for index, values in enumerate(outputs)
            ]
        for sink, values in zip(written, outputs, strict=True):
            sink[done : done + len(values)] = values
        done += len(outputs[0])
        report_progress(what, done, count)
    for sink in written:
        sink.flush()
    partial.rename(folder)


def _load_outputs(bench: Workbench, folder: Path) -> dict[str, np.ndarray]:
    return {spec.name: np.load(folder / f"{index}.npy", mmap_mode="r") for index, spec in enumerate(bench.outputs)}


def compare(bench: Workbench, candidate: Path, reference: Path, split: str) -> Comparison:
    """Score a candidate's outputs and hold them against the float model's, sample by sample."""
    bound = bound_data(bench)
    labels = bound.split(split).labels
    got, want = _load_outputs(bench, candidate), _load_outputs(bench, reference)
    score = float_score = drop = None
    if labels is not None:
        metric = metric_of(bench.metric)
        score = estimate(metric, labels, got, bench.seed)
        float_score = estimate(metric, labels, want, bench.seed)
        drop = paired_drop(metric, labels, got, want, bench.seed)
    return Comparison(
        samples=len(next(iter(got.values()))),
        score=score,
        float_score=float_score,
        drop=drop,
        agreement=agreement(got, want, bench.seed, bound.class_outputs),
        output_snr_db=output_snr_db(got, want),
    )


@functools.lru_cache(maxsize=1)
def _corruptor(bench: Workbench) -> Corruptor:
    return Corruptor(bound_data(bench), "test", _CORRUPTED_SAMPLES, bench.seed)


def predict_corrupted(bench: Workbench, model: Path, kernels: KernelFamily) -> None:
    """Leave the outputs of a file on at most 500 test samples, clean and under each corruption. Made once."""
    corruptor = _corruptor(bench)
    loaded = None
    for name in (CLEAN, *corruptor.names):
        folder = _outputs_folder(bench, model, kernels, name)
        if folder.exists() or (name == CLEAN and _outputs_folder(bench, model, kernels, "test").exists()):
            continue
        loaded = loaded or load(model.read_bytes(), kernels)
        batches = corruptor.split.batches(_BATCH) if name == CLEAN else corruptor.batches(name, _BATCH)
        _write_outputs(folder, loaded, batches, corruptor.split.count, f"test samples: {name}")


def _some_outputs(bench: Workbench, model: Path, kernels: KernelFamily, name: str) -> dict[str, np.ndarray]:
    """What `predict_corrupted` left; the clean outputs may be a part of those on the whole split."""
    folder = _outputs_folder(bench, model, kernels, name)
    if name == CLEAN and not folder.exists():
        whole = _load_outputs(bench, _outputs_folder(bench, model, kernels, "test"))
        return {key: values[_corruptor(bench).positions] for key, values in whole.items()}
    return _load_outputs(bench, folder)


def robustness(
    bench: Workbench,
    model: Path,
    test_kernels: KernelFamily,
    kernels: KernelFamily,
    reference: KernelFamily,
    corrupted_model: Path | None = None,
) -> Robustness:
    """What the average hides: changed answers and classes on the whole test split, scores on corrupted samples.

    Args:
        bench: Of the run.
        model: `predict` has run it on test, and `predict_corrupted`.
        test_kernels: Of the test score.
        kernels: Of the corrupted samples.
        reference: Of the float model, everywhere.
        corrupted_model: What `predict_corrupted` has run, where it is another file that computes the same.
    """
    bound, corruptor, metric = bound_data(bench), _corruptor(bench), metric_of(bench.metric)
    names, labels = bound.class_outputs, bound.split("test").labels
    got = _load_outputs(bench, _outputs_folder(bench, model, test_kernels, "test"))
    want = _load_outputs(bench, _outputs_folder(bench, bench.float_model, reference, "test"))
    classes = {name: values for name, values in (labels or {}).items() if name in (names or ())}
    some_labels = corruptor.split.labels
    conditions = {
        name: compare_condition(
            metric,
            some_labels,
            _some_outputs(bench, corrupted_model or model, kernels, name),
            _some_outputs(bench, bench.float_model, reference, name),
            bench.seed,
            names,
        )
        for name in (CLEAN, *corruptor.names)
    }
    return Robustness(
        flips=flips(got, want, bench.seed, classes or None, names),
        worst_class=worst_class(classes, got, want, bench.seed) if classes else None,
        kernels=kernels,
        samples=corruptor.split.count,
        conditions=conditions,
        strengths={name: corruptor.strength(name) for name in corruptor.names},
    )


def check_in_tflm(bench: Workbench, model: Path) -> TflmReport:
    """Load, allocate and run a file in tflite-micro; read its arena; compare it with LiteRT's reference kernels.

    Raises:
        RuntimeRefusedError: It does not load, allocate or run; the message is the interpreter's own.
    """
    data = model.read_bytes()
    split = "calibration" if bound_data(bench).has("calibration") else "validation"
    inputs = bound_data(bench).split(split).head(_TFLM_CHECK_SAMPLES).read()
    micro = TflmModel(data)
    got = micro.run(inputs)
    arena = micro.arena_bytes()
    want = load(data, KernelFamily.LITERT_REFERENCE).run(inputs)
    differences = [
        np.max(np.abs(left.astype(np.float64) - right.astype(np.float64)))
        / (1.0 if spec.scale is not None else max(float(np.ptp(right)), 1e-12) / 255)
        for left, right, spec in zip(got, want, micro.graph.outputs, strict=True)
    ]
    real_got = dict(zip([spec.name for spec in bench.outputs], got, strict=True))
    real_want = dict(zip([spec.name for spec in bench.outputs], want, strict=True))
    same = agreement(real_got, real_want, bench.seed, bound_data(bench).class_outputs)
    return TflmReport(
        arena_bytes=arena["total"],
        head_bytes=arena["head"],
        samples=len(got[0]),
        max_difference_lsb=float(max(differences)),
        argmax_agreement=None if same is None else same.value,
    )


def arena_in_tflm(bench: Workbench, model: Path) -> int:
    """Bytes of arena that tflite-micro takes on this machine, after one real inference.

    Raises:
        RuntimeRefusedError: The file does not load, allocate or run.
    """
    micro = TflmModel(model.read_bytes())
    micro.run(bound_data(bench).split("validation").head(1).read())
    return micro.arena_bytes()["total"]


def estimate_seconds(bench: Workbench, model: Path, split: str) -> float:
    """How long a split would take in tflite-micro, from one sample."""
    part = bound_data(bench).split(split)
    micro, inputs = TflmModel(model.read_bytes()), part.head(1).read()
    started = time.monotonic()
    micro.run(inputs)
    return (time.monotonic() - started) * part.count


def save_golden(bench: Workbench, model: Path, kernels: KernelFamily, path: Path) -> int:
    """Write real test inputs, as the file stores them, and the outputs it must give; returns how many."""
    inputs = bound_data(bench).split("test").head(_GOLDEN_SAMPLES).read()
    loaded = load(model.read_bytes(), kernels)
    outputs = loaded.run(inputs)
    arrays = {f"input_{i}": values for i, values in enumerate(stored_inputs(loaded.graph, inputs))}
    arrays |= {f"output_{i}": values for i, values in enumerate(outputs)}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes no mapping of arrays.
    return len(outputs[0])
