"""A score on the device: samples of the test split of the data that a bundle was fitted to.

They are chosen and quantized here, answered there, and scored here; the same file answers them on this machine too.
"""

from __future__ import annotations

import io
import math
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgecomp.bench.scores import DeviceScore
from edgecomp.bundle.fitted import data_as_fitted, fitted_metric
from edgecomp.bundle.manifest import Manifest
from edgecomp.data import BoundDataset, DataOptions, Progress, Split, prepare_dataset
from edgecomp.data.splits import class_ids, draw
from edgecomp.errors import BenchmarkError, BundleError, MissingDataError, UsageError
from edgecomp.inference import KernelFamily, dequantize, load
from edgecomp.metrics import Metric, agreement, estimate, load_metric
from edgecomp.tensors import TensorSpec
from edgecomp.units import format_bytes

MOST_INPUT_BYTES = 256 * 2**20
"""The device holds all samples in memory, and so does this machine."""

MOST_OUTPUT_BYTES = 32 * 2**20
"""Answers come back as text, which is a third larger, beside every time of an inference."""

# Of draws by the seed: 0 and 1 are those of the splits, 2 that of the corruptions.
_PURPOSE = 3
_BATCH = 64
# What the headers of an .npz take, by array.
_HEADER_BYTES = 4096


@dataclass(frozen=True)
class _Samples:
    """What was chosen for one bundle.

    Attributes:
        stored: The inputs as the model stores them, each of shape (n, *sample shape).
        labels: By output name.
        class_outputs: See `BoundDataset.class_outputs`.
        total: How many the test split has.
        kernels: Of this machine, the ones that scored the bundle.
    """

    stored: list[np.ndarray]
    labels: dict[str, np.ndarray]
    class_outputs: tuple[str, ...] | None
    total: int
    metric: Metric
    kernels: KernelFamily


class SampleEvaluation:
    """Samples of a data set, as an `Evaluation`: read as the fit of each bundle did.

    Args:
        source: What --data said: an .npz file, a folder of images or "module:function".
        count: So many test samples, drawn by the seed of the bundle, each class in proportion; all if there are fewer.
        group_key, image_size: As for the fit: a bundle does not hold them. See `DataOptions`.
        progress: Called while data is read.

    Raises:
        UsageError: A number that makes no sense.
    """

    def __init__(
        self,
        source: str,
        count: int,
        *,
        group_key: str | None = None,
        image_size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> None:
        if count < 1:
            raise UsageError(f"--accuracy must be at least 1 sample, got {count}.")
        # Nothing is calibrated, so a fit with fewer training samples than usual is no obstacle.
        self._options = DataOptions(source, calibration_samples=1, group_key=group_key, image_size=image_size)
        self._count = count
        self._progress = progress
        self._samples: dict[str, _Samples] = {}

    def inputs_for(self, manifest: Manifest) -> bytes:
        """See `Evaluation`.

        Raises:
            UsageError: The source or the bundle's metric cannot be had, or that many samples are too large to send.
            MissingDataError: There are no test samples, or they have no labels.
            DataError: The data is damaged, does not fit the model, or its labels do not suit the metric.
            BundleError: The manifest speaks of kernels that do not exist.
        """
        inputs, outputs = _specs(manifest)
        metric, kernels = _metric_of(manifest), _kernels_of(manifest)
        with tempfile.TemporaryDirectory(prefix="edgecomp-data-") as folder:
            dataset = prepare_dataset(data_as_fitted(self._options, manifest), Path(folder), self._progress)
            bound = dataset.bind([_as_fitted(spec) for spec in inputs], outputs)
            if not bound.has_labels("test"):
                raise MissingDataError(
                    f"{self._options.source}: the test samples have no labels, so there is nothing to score them by.",
                    hint="Add y_test, or leave --accuracy out.",
                )
            split, total = _chosen(bound, self._count, manifest.seed)
            labels = split.labels or {}
            metric.check(labels, outputs)
            _refuse_much(split.count, _stored(split.head(1), inputs), outputs)
            stored = _stored(split, inputs)
        self._samples[_key(manifest)] = _Samples(stored, labels, bound.class_outputs, total, metric, kernels)
        return _npz(stored)

    def score(self, manifest: Manifest, model: bytes, outputs_npz: bytes) -> DeviceScore:
        """See `Evaluation`; after `inputs_for`.

        Raises:
            BenchmarkError: What came back are no answers to these samples.
            DataError: The metric cannot be computed from them.
            RuntimeRefusedError: The file does not run on this machine.
        """
        samples, (inputs, outputs) = self._samples[_key(manifest)], _specs(manifest)
        loaded = load(model, samples.kernels)
        here = loaded.run({spec.name: _real(spec, one) for spec, one in zip(inputs, samples.stored, strict=True)})
        answers = _answers(outputs_npz, here)
        theirs, ours = (_by_name(outputs, dequantize(loaded.graph.outputs, stored)) for stored in (answers, here))
        found = estimate(samples.metric, samples.labels, theirs, manifest.seed)
        same = agreement(theirs, ours, manifest.seed, samples.class_outputs)
        return DeviceScore(
            metric=samples.metric.name,
            value=found.value,
            low=found.low,
            high=found.high,
            samples=len(here[0]),
            test_samples=samples.total,
            host_value=samples.metric.score(samples.labels, ours),
            host_kernels=samples.kernels,
            agreement=None if same is None else same.value,
        )


def _key(manifest: Manifest) -> str:
    return manifest.model_dump_json()


def _specs(manifest: Manifest) -> tuple[list[TensorSpec], list[TensorSpec]]:
    return [entry.spec() for entry in manifest.inputs], [entry.spec() for entry in manifest.outputs]


def _as_fitted(spec: TensorSpec) -> TensorSpec:
    """A quantized input as the fit has seen it, which read the data for the float model."""
    return spec if spec.scale is None else replace(spec, dtype="float32", scale=None, zero_point=None)


def _metric_of(manifest: Manifest) -> Metric:
    name = fitted_metric(manifest)
    try:
        return load_metric(name)
    except UsageError as error:
        raise UsageError(
            f"The metric of the bundle, {name}, cannot be had here: {error.message.removeprefix(f'--metric {name}: ')}",
            hint=error.hint,
        ) from error


def _kernels_of(manifest: Manifest) -> KernelFamily:
    try:
        return KernelFamily(manifest.golden.kernel_family)
    except ValueError as error:
        raise BundleError(
            f"The manifest speaks of kernels {manifest.golden.kernel_family!r}, there are {', '.join(KernelFamily)}.",
            hint="It may come from another version of edgecomp: make the bundle again.",
        ) from error


def _refuse_much(count: int, inputs: Sequence[np.ndarray], outputs: Sequence[TensorSpec]) -> None:
    """Samples must fit into memory, here and there, and their answers come back.

    Args:
        count: Samples.
        inputs: Of one sample, as the model stores them.
        outputs: Of the model; an axis of no fixed size counts as 1.
    """
    of_inputs = sum(array.nbytes for array in inputs)
    of_outputs = sum(math.prod(size or 1 for size in spec.shape) * np.dtype(spec.dtype).itemsize for spec in outputs)
    for one_bytes, limit_bytes, what in (
        (of_inputs, MOST_INPUT_BYTES, "samples"),
        (of_outputs, MOST_OUTPUT_BYTES, "answers"),
    ):
        if count * one_bytes > limit_bytes:
            raise UsageError(
                f"--accuracy: {count} {what} of this model are {format_bytes(count * one_bytes)}, at most "
                f"{format_bytes(limit_bytes)} can be sent.",
                hint=f"Ask for {limit_bytes // one_bytes}, or fewer.",
            )


def _chosen(bound: BoundDataset, count: int, seed: int) -> tuple[Split, int]:
    """So many test samples, in the order of the split, and how many there are."""
    whole = bound.split("test")
    if count >= whole.count:
        return whole, whole.count
    ids = (class_ids(labels) for labels in (whole.labels or {}).values() if labels.ndim <= 2)
    classes = next((found for found in ids if found is not None), None)
    return whole.take(np.sort(draw(count, whole.count, (seed, _PURPOSE), classes))), whole.count


def _stored(split: Split, specs: Sequence[TensorSpec]) -> list[np.ndarray]:
    batches = [[spec.quantize(batch[spec.name]) for spec in specs] for batch in split.batches(_BATCH)]
    return [np.concatenate([batch[index] for batch in batches]) for index in range(len(specs))]


def _real(spec: TensorSpec, stored: np.ndarray) -> np.ndarray:
    """What quantizes to the same values again."""
    return stored if spec.scale is None else spec.dequantize(stored)


def _by_name(specs: Sequence[TensorSpec], values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}


def _npz(arrays: Sequence[np.ndarray]) -> bytes:
    stream = io.BytesIO()
    named: Mapping[str, np.ndarray] = {f"input_{index}": array for index, array in enumerate(arrays)}
    np.savez(stream, **named)  # type: ignore[arg-type]  # numpy's stub takes no mapping of arrays.
    return stream.getvalue()


def _answers(outputs_npz: bytes, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs that came back, each shaped like this machine's; anything else is refused, for a device wrote it."""
    try:
        with zipfile.ZipFile(io.BytesIO(outputs_npz)) as archive:
            unpacked_bytes = sum(info.file_size for info in archive.infolist())
        if unpacked_bytes > sum(array.nbytes + _HEADER_BYTES for array in like):
            raise ValueError(f"they hold {unpacked_bytes} bytes")
        with np.load(io.BytesIO(outputs_npz), allow_pickle=False) as arrays:
            found = [arrays[f"output_{index}"] for index in range(len(like))]
    except (ValueError, OSError, EOFError, KeyError, MemoryError, NotImplementedError, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise BenchmarkError(f"The answers of the device to the test samples cannot be read: {why}.") from error
    for index, (array, expected) in enumerate(zip(found, like, strict=True)):
        # One inference gives one sample, with the batch axis that the model has.
        if array.dtype != expected.dtype or array.shape not in (
            expected.shape,
            (len(expected), 1, *expected.shape[1:]),
        ):
            raise BenchmarkError(
                f"Answer {index} of the device is {array.dtype.name} of shape {array.shape}, this machine's "
                f"{expected.dtype.name} of {expected.shape}."
            )
    return [array.reshape(expected.shape) for array, expected in zip(found, like, strict=True)]
