"""The steps of a fit that run in worker processes, as plain functions of files.

Every function takes a `Workbench`, which says where the files of the run are, and leaves what it makes in the run
folder: a worker that died is started again and finds everything there. What is costly to open is kept per process.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.convert import Io as ConverterIo
from edgecomp.convert import quantize_with_converter
from edgecomp.data import BoundDataset, DataOptions, Dataset, lint_calibration, prepare_dataset
from edgecomp.errors import QuantizationError
from edgecomp.executors._child import report_progress
from edgecomp.files import sha256_of, write_atomic
from edgecomp.graph import Graph
from edgecomp.inference import KernelFamily, dequantize, load
from edgecomp.metrics import Metric, load_metric
from edgecomp.pack import Packed
from edgecomp.profile import Precision
from edgecomp.quantize import QuantizationOptions, Quantizer, rank_by_sensitivity
from edgecomp.tensors import TensorSpec

_SENSITIVITY_SAMPLES = 32
_PROVEN_SAMPLES = 100
_BATCH = 64


@dataclass(frozen=True)
class Workbench:
    """Where a run keeps its files, and what holds for all of its candidates.

    Attributes:
        folder: Private folder of the run.
        inputs, outputs: Of the float model; empty until it has been read.
        metric: As the user wrote it.
        variant: Name of a compressed form of the model; empty for the model as it was given.
    """

    folder: Path
    metric: str
    seed: int
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    variant: str = ""

    @property
    def data(self) -> Path:
        """Folder of the prepared data."""
        return self.folder / "data"

    @property
    def float_model(self) -> Path:
        """The float .tflite that everything post-training starts from."""
        return self.variant_folder / "float.tflite"

    @property
    def variant_folder(self) -> Path:
        """Where the files of this form of the model are."""
        return self.folder / "variants" / self.variant if self.variant else self.folder

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
class RepairedFile:
    """A repaired candidate on disk.

    Attributes:
        steps: What was done to it.
        samples: Calibration samples that judged.
        trials: What was tried, plain first -> SNR in dB before a final softmax, and of the outputs.
        ranges: Tensor -> how its range was chosen, where it is not min-max.
        notes: What was not done, and why.
    """

    file: MadeFile
    steps: tuple[str, ...]
    samples: int
    trials: dict[str, tuple[float, float]]
    ranges: dict[str, str]
    notes: tuple[str, ...]


@functools.lru_cache(maxsize=1)
def bound_data(bench: Workbench) -> BoundDataset:
    """The data as it fits the model, opened once a process."""
    return Dataset.open(bench.data).bind(bench.inputs, bench.outputs)


@functools.lru_cache(maxsize=1)
def _quantizer(bench: Workbench) -> Quantizer:
    bound = bound_data(bench)
    samples: list[dict[str, np.ndarray]] = []
    if bound.has("calibration"):
        for batch in bound.split("calibration").batches(_BATCH):
            count = len(next(iter(batch.values())))
            samples += [{name: values[i : i + 1] for name, values in batch.items()} for i in range(count)]
    return Quantizer(bench.float_model.read_bytes(), samples)


@functools.lru_cache(maxsize=1)
def metric_of(spec: str) -> Metric:
    """The metric that the user named."""
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
    bound = bound_data(bench)
    metric = metric_of(bench.metric)
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
    batch = bound_data(bench).split(split).head(count).read()
    np.savez(path, **batch)  # type: ignore[arg-type]  # numpy's stub takes no mapping of arrays.


def make_candidate(bench: Workbench, options: QuantizationOptions) -> MadeFile:
    """Quantize the float model. Raises QuantizationError."""
    made = _quantizer(bench).quantize(options)
    return _store(bench, made.data, "ai-edge-quantizer", made.float_operators)


def repair_candidate(bench: Workbench, options: QuantizationOptions) -> RepairedFile:
    """The form of a candidate that post-training repair finds nearest to the float model.

    Raises:
        QuantizationError: None is nearer than the plain one.
        MissingDataError: There are too few calibration samples.
    """
    from edgecomp.repair.repair import repair

    found = repair(_quantizer(bench), options, report_progress)
    if not found.best.steps:
        raise QuantizationError(
            f"Nothing that repair tries comes nearer to the float model than plain {options.precision} "
            f"(SNR {found.best.snr_db:.1f} dB on {found.samples} calibration samples)."
        )
    method = f"ai-edge-quantizer, repaired: {found.best.name}"
    return RepairedFile(
        file=_store(bench, found.model.data, method, found.model.float_operators),
        steps=found.best.steps,
        samples=found.samples,
        trials={trial.name: (trial.snr_db, trial.output_snr_db) for trial in found.trials},
        ranges=dict(found.ranges),
        notes=found.notes,
    )


def make_candidate_with_converter(bench: Workbench, source: Path, trust_code: bool, io: ConverterIo) -> MadeFile:
    """INT8 by TensorFlow's converter, for graphs that ai-edge-quantizer refuses. Runs in the TensorFlow worker."""
    samples, out = bench.folder / "calibration.npz", bench.folder / "converter-int8.tflite"
    save_samples(bench, samples, "calibration", bound_data(bench).split("calibration").count)
    quantize_with_converter(str(source), trust_code=trust_code, samples_path=str(samples), io=io, out_path=str(out))
    return _store(bench, out.read_bytes(), "TFLiteConverter", ())


def take_file(bench: Workbench, path: Path, method: str) -> MadeFile:
    """A finished file as a candidate."""
    return _store(bench, path.read_bytes(), method, ())


def _store(bench: Workbench, data: bytes, method: str, float_operators: tuple[str, ...]) -> MadeFile:
    digest = sha256_of(data)
    path = bench.folder / f"{digest}.tflite"
    if not path.exists():
        write_atomic(path, data)
    return MadeFile(path, digest, len(data), len(zlib.compress(data, 9)), method, float_operators)


def rank_layers(bench: Workbench, options: QuantizationOptions) -> list[tuple[str, float]]:
    """Layers whose rounding hurts the outputs most, worst first; only those that help when they are kept."""
    plain, ranked = _ranked(bench, options)
    return [(layer, error) for layer, error in ranked if error < plain]


def _ranked(bench: Workbench, options: QuantizationOptions) -> tuple[float, list[tuple[str, float]]]:
    """Output error of plain INT8, and with each layer kept; worst layer first."""
    inputs = bound_data(bench).split("calibration").head(_SENSITIVITY_SAMPLES).read()
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
    return plain, ranked


def sensitivities(bench: Workbench, io: ConverterIo) -> list[tuple[str, float]]:
    """Layers and the share of INT8's output error that is gone when each alone is kept in float, worst first.

    Empty where the data has no calibration samples, or the graph cannot be quantized.
    """
    if not bound_data(bench).has("calibration"):
        return []
    options = QuantizationOptions(Precision.SELECTIVE, io, kept_precision=Precision.FLOAT32)
    try:
        plain, ranked = _ranked(bench, options)
    except QuantizationError:
        return []
    return [(layer, 1 - error / plain) for layer, error in ranked if error < plain]


def pack_for_tflm(bench: Workbench, model: Path, arena_limit_bytes: int | None) -> Packed:
    """Pack a file, proven on real inputs. Raises PackingError, RuntimeRefusedError."""
    from edgecomp.pack import pack_for_tflm

    inputs = bound_data(bench).split("validation").head(_PROVEN_SAMPLES).read()
    return pack_for_tflm(model.read_bytes(), inputs, arena_limit_bytes=arena_limit_bytes)
