"""The steps of a fit that run in worker processes, as plain functions of files.

Every function takes a `Workbench`, which says where the files of the run are, and leaves what it makes in the run
folder: a worker that died is started again and finds everything there. What is costly to open is kept per process.
"""

from __future__ import annotations

import functools
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.convert import Io as ConverterIo
from edgecomp.convert import quantize_with_converter
from edgecomp.data import BoundDataset, DataOptions, Dataset, lint_calibration, prepare_dataset
from edgecomp.executors._child import report_progress
from edgecomp.files import sha256_of, write_atomic
from edgecomp.graph import Graph
from edgecomp.inference import KernelFamily, TflmModel, dequantize, load, stored_inputs
from edgecomp.metrics import Estimate, Metric, agreement, estimate, load_metric, output_snr_db, paired_drop
from edgecomp.profile import Precision
from edgecomp.quantize import QuantizationOptions, Quantizer, rank_by_sensitivity
from edgecomp.tensors import TensorSpec

_SENSITIVITY_SAMPLES = 32
_TFLM_CHECK_SAMPLES = 100
_GOLDEN_SAMPLES = 8
_BATCH = 64


@dataclass(frozen=True)
class Workbench:
    """Where a run keeps its files, and what holds for all of its candidates.

    Attributes:
        folder: Private folder of the run.
        inputs, outputs: Of the float model; empty until it has been read.
        metric: As the user wrote it.
    """

    folder: Path
    metric: str
    seed: int
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def data(self) -> Path:
        """Folder of the prepared data."""
        return self.folder / "data"

    @property
    def float_model(self) -> Path:
        """The float .tflite that everything post-training starts from."""
        return self.folder / "float.tflite"

    def with_model(self, graph: Graph) -> Workbench:
        """The same workbench for a model that has been read."""
        return replace(self, inputs=graph.inputs, outputs=graph.outputs)


@dataclass(frozen=True)
class MadeFile:
    """A candidate on disk."""

    path: Path
    sha256: str
    model_bytes: int
    compressed_bytes: int
    method: str
    float_operators: tuple[str, ...]


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


@functools.lru_cache(maxsize=1)
def _bound(bench: Workbench) -> BoundDataset:
    return Dataset.open(bench.data).bind(bench.inputs, bench.outputs)


@functools.lru_cache(maxsize=1)
def _quantizer(bench: Workbench) -> Quantizer:
    bound = _bound(bench)
    samples: list[dict[str, np.ndarray]] = []
    if bound.has("calibration"):
        for batch in bound.split("calibration").batches(_BATCH):
            count = len(next(iter(batch.values())))
            samples += [{name: values[i : i + 1] for name, values in batch.items()} for i in range(count)]
    return Quantizer(bench.float_model.read_bytes(), samples)


@functools.lru_cache(maxsize=1)
def _metric(spec: str) -> Metric:
    return load_metric(spec)


def prepare_data(bench: Workbench, options: DataOptions) -> dict[str, Any]:
    """Read and check the data once; returns its description."""
    dataset = prepare_dataset(options, bench.data, lambda what, done, total: report_progress(what, done, total or 0))
    return {"source": options.source, "sha256": dataset.sha256, "splits": dataset.counts, "notes": dataset.notes}


@dataclass(frozen=True)
class DataFacts:
    """The data as it fits the model.

    Attributes:
        notes: What was announced while reading and binding.
        calibration_lint: What the lint of the calibration samples found, {"level": ..., "message": ...}.
        metric_is_ratio: Differences of the metric are percentage points.
    """

    notes: tuple[str, ...]
    calibration_lint: tuple[dict[str, str], ...]
    has_calibration: bool
    has_labels: bool
    class_names: tuple[str, ...] | None
    metric_name: str
    metric_is_ratio: bool
    metric_higher_is_better: bool


def bind_data(bench: Workbench) -> DataFacts:
    """Hold the data against the model, and lint the calibration samples.

    Raises:
        DataError: Shapes, dtypes or labels do not fit the model.
    """
    bound = _bound(bench)
    metric = _metric(bench.metric)
    for split in ("validation", "test"):
        if (labels := bound.split(split).labels) is not None:
            metric.check(labels, bench.outputs)
    has_calibration = bound.has("calibration")
    findings = lint_calibration(bound) if has_calibration else []
    warnings = tuple(f"Calibration: {finding.message}" for finding in findings if finding.level != "info")
    return DataFacts(
        notes=tuple(bound.notes) + warnings,
        calibration_lint=tuple({"level": finding.level, "message": finding.message} for finding in findings),
        has_calibration=has_calibration,
        has_labels=bound.has_labels("validation") and bound.has_labels("test"),
        class_names=bound.class_names,
        metric_name=metric.name,
        metric_is_ratio=metric.is_ratio,
        metric_higher_is_better=metric.higher_is_better,
    )


def save_samples(bench: Workbench, path: Path, split: str, count: int) -> None:
    """Write the first `count` preprocessed samples of a split as .npz, by input name."""
    batch = _bound(bench).split(split).head(count).read()
    np.savez(path, **batch)  # type: ignore[arg-type]  # numpy's stub takes no mapping of arrays.


def make_candidate(bench: Workbench, options: QuantizationOptions) -> MadeFile:
    """Quantize the float model. Raises QuantizationError."""
    made = _quantizer(bench).quantize(options)
    return _store(bench, made.data, "ai-edge-quantizer", made.float_operators)


def make_candidate_with_converter(bench: Workbench, source: Path, trust_code: bool, io: ConverterIo) -> MadeFile:
    """INT8 by TensorFlow's converter, for graphs that ai-edge-quantizer refuses. Runs in the TensorFlow worker."""
    samples, out = bench.folder / "calibration.npz", bench.folder / "converter-int8.tflite"
    save_samples(bench, samples, "calibration", _bound(bench).split("calibration").count)
    quantize_with_converter(str(source), trust_code=trust_code, samples_path=str(samples), io=io, out_path=str(out))
    return _store(bench, out.read_bytes(), "TFLiteConverter", ())


def _store(bench: Workbench, data: bytes, method: str, float_operators: tuple[str, ...]) -> MadeFile:
    digest = sha256_of(data)
    path = bench.folder / f"{digest}.tflite"
    if not path.exists():
        write_atomic(path, data)
    return MadeFile(path, digest, len(data), len(zlib.compress(data, 9)), method, float_operators)


def rank_layers(bench: Workbench, options: QuantizationOptions) -> list[tuple[str, float]]:
    """Layers whose rounding hurts the outputs most, worst first; only those that help when they are kept."""
    inputs = _bound(bench).split("calibration").head(_SENSITIVITY_SAMPLES).read()
    quantizer = _quantizer(bench)

    def outputs_of(data: bytes) -> list[np.ndarray]:
        model = load(data, KernelFamily.LITERT_XNNPACK)
        return dequantize(model.graph.outputs, model.run(inputs))

    exact = outputs_of(quantizer.float_model)

    def output_error(data: bytes) -> float:
        return float(sum(np.mean((got - want) ** 2) for got, want in zip(outputs_of(data), exact, strict=True)))

    plain = output_error(quantizer.quantize(replace(options, precision=Precision.INT8)).data)
    ranked = rank_by_sensitivity(
        quantizer, options, output_error, lambda done, total: report_progress("layer sensitivity", done, total)
    )
    return [(layer, error) for layer, error in ranked if error < plain]


def predict(bench: Workbench, model: Path, kernels: KernelFamily, split: str) -> Path:
    """Outputs of a file on a whole split, dequantized, as a folder of .npy by output name. Made once."""
    folder = bench.folder / "outputs" / f"{model.stem}-{kernels}-{split}"
    if folder.exists():
        return folder
    loaded = load(model.read_bytes(), kernels)
    part = _bound(bench).split(split)
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    written: list[np.memmap[Any, Any]] = []
    done = 0
    for batch in part.batches(_BATCH):
        outputs = dequantize(loaded.graph.outputs, loaded.run(batch))
        if not written:
            written = [
                np.lib.format.open_memmap(
                    partial / f"{index}.npy", mode="w+", dtype=np.float32, shape=(part.count, *values.shape[1:])
                )
                for index, values in enumerate(outputs)
            ]
        for sink, values in zip(written, outputs, strict=True):
            sink[done : done + len(values)] = values
        done += len(outputs[0])
        report_progress(f"evaluating on {split}", done, part.count)
    for sink in written:
        sink.flush()
    partial.rename(folder)
    return folder


def _load_outputs(bench: Workbench, folder: Path) -> dict[str, np.ndarray]:
    return {spec.name: np.load(folder / f"{index}.npy", mmap_mode="r") for index, spec in enumerate(bench.outputs)}


def compare(bench: Workbench, candidate: Path, reference: Path, split: str) -> Comparison:
    """Score a candidate's outputs and hold them against the float model's, sample by sample."""
    bound = _bound(bench)
    labels = bound.split(split).labels
    got, want = _load_outputs(bench, candidate), _load_outputs(bench, reference)
    score = float_score = drop = None
    if labels is not None:
        metric = _metric(bench.metric)
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


def check_in_tflm(bench: Workbench, model: Path) -> TflmReport:
    """Load, allocate and run a file in tflite-micro; read its arena; compare it with LiteRT's reference kernels.

    Raises:
        RuntimeRefusedError: It does not load, allocate or run; the message is the interpreter's own.
    """
    data = model.read_bytes()
    split = "calibration" if _bound(bench).has("calibration") else "validation"
    inputs = _bound(bench).split(split).head(_TFLM_CHECK_SAMPLES).read()
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
    same = agreement(real_got, real_want, bench.seed, _bound(bench).class_outputs)
    return TflmReport(
        arena_bytes=arena["total"],
        head_bytes=arena["head"],
        samples=len(got[0]),
        max_difference_lsb=float(max(differences)),
        argmax_agreement=None if same is None else same.value,
    )


def estimate_seconds(bench: Workbench, model: Path, split: str) -> float:
    """How long a split would take in tflite-micro, from one sample."""
    part = _bound(bench).split(split)
    micro, inputs = TflmModel(model.read_bytes()), part.head(1).read()
    started = time.monotonic()
    micro.run(inputs)
    return (time.monotonic() - started) * part.count


def save_golden(bench: Workbench, model: Path, kernels: KernelFamily, path: Path) -> int:
    """Write real test inputs, as the file stores them, and the outputs it must give; returns how many."""
    inputs = _bound(bench).split("test").head(_GOLDEN_SAMPLES).read()
    loaded = load(model.read_bytes(), kernels)
    outputs = loaded.run(inputs)
    arrays = {f"input_{i}": values for i, values in enumerate(stored_inputs(loaded.graph, inputs))}
    arrays |= {f"output_{i}": values for i, values in enumerate(outputs)}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes no mapping of arrays.
    return len(outputs[0])
