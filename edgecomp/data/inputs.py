"""The inputs of a data set against the inputs of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgecomp.data.sources import UNNAMED
from edgecomp.data.store import StoredArray
from edgecomp.errors import DataError, UsageError, did_you_mean
from edgecomp.tensors import TensorSpec

if TYPE_CHECKING:
    from edgecomp.data.dataset import Dataset


@dataclass(frozen=True)
class BoundInput:
    """How samples of the store become one input of the model.

    Attributes:
        spec: The model's input.
        stored_name: Name of the array in the store.
        sample_shape: Shape of one sample as the model takes it.
        mean, std: Values that broadcast against the last axis, or None.
    """

    spec: TensorSpec
    stored_name: str
    sample_shape: tuple[int, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def real(self, stored: np.ndarray) -> np.ndarray:
        """(x - mean) / std in at least float32, shape (n, *sample_shape); without mean and std x as it is."""
        samples = stored.reshape(len(stored), *self.sample_shape)
        if self.mean is None and self.std is None:
            return samples
        work = samples.astype(np.result_type(samples.dtype, np.float32))
        if self.mean is not None:
            work -= np.asarray(self.mean, work.dtype)
        if self.std is not None:
            work /= np.asarray(self.std, work.dtype)
        return work

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """Stored samples, shape (n, ...), as the model takes them; a quantized input gets quantized values."""
        return self.spec.quantize(self.real(stored))


def bind_inputs(dataset: Dataset, specs: Sequence[TensorSpec]) -> tuple[dict[str, BoundInput], list[str]]:
    """Check every split's inputs against the model's.

    Returns:
        Input name -> how it is made, and what to announce.

    Raises:
        DataError: A name, shape or dtype does not fit.
        UsageError: --mean or --std does not fit.
    """
    stored_names = _match_names(dataset, specs)
    if len(specs) > 1 and (dataset.mean or dataset.std):
        raise UsageError(
            f"--mean and --std work with one input, the model takes {len(specs)}: {_listed(specs)}.",
            hint="Store the arrays ready for the model, and leave both out.",
        )
    bound, notes = {}, []
    for spec in specs:
        name = stored_names[spec.name]
        shape: tuple[int, ...] = ()
        for split, entry in dataset.stored.items():
            array = entry.inputs[name]
            where = f"{dataset.source}: x of {split}" + (f" for input {name!r}" if name != UNNAMED else "")
            shape = _fit_shape(array.sample_shape, spec, where)
            _require_channels(dataset, spec, shape)
            _require_dtype(dataset, array, spec, where)
            if shape != array.sample_shape:
                note = (
                    f"The samples are {_shape(array.sample_shape)}, the model's input {spec.name!r} takes "
                    f"{_shape(spec.sample_shape)}: an axis of size 1 is added."
                )
                notes += [note] if note not in notes else []
        bound[spec.name] = BoundInput(spec, name, shape, dataset.mean, dataset.std)
    return bound, notes


def _match_names(dataset: Dataset, specs: Sequence[TensorSpec]) -> dict[str, str]:
    """Model's input name -> name in the store."""
    given = list((dataset.stored.get("test") or next(iter(dataset.stored.values()))).inputs)
    wanted = [spec.name for spec in specs]
    if given == [UNNAMED]:
        if len(specs) == 1:
            return {wanted[0]: UNNAMED}
        raise DataError(
            f"{dataset.source}: has one x, the model takes {len(specs)} inputs: {_listed(specs)}.",
            hint=f"Name an array for each: x_test.{wanted[0]}, x_test.{wanted[1]}, ...",
        )
    for name in given:
        if name not in wanted:
            raise DataError(f"{dataset.source}: the model has no input {name!r}.", hint=did_you_mean(name, wanted))
    missing = [name for name in wanted if name not in given]
    if missing:
        raise DataError(
            f"{dataset.source}: there is no x for the model's input {missing[0]!r}.",
            hint=f"Add x_test.{missing[0]} (and the same for the other splits).",
        )
    return {name: name for name in wanted}


def _fit_shape(shape: tuple[int, ...], spec: TensorSpec, where: str) -> tuple[int, ...]:
    wanted = spec.sample_shape
    if _matches(shape, wanted):
        return shape
    for axis, size in enumerate(wanted):
        if size == 1 and _matches(shape, wanted[:axis] + wanted[axis + 1 :]):
            return (*shape[:axis], 1, *shape[axis:])
    hint = "Store the samples in the model's shape."
    if len(shape) == 3 and _matches((*shape[1:], shape[0]), wanted):
        hint = "They look channels-first: store np.moveaxis(x, 1, -1)."
    elif len(shape) == len(wanted) == 3 and shape[2] == wanted[2]:
        hint = "Resize them; a folder of images takes --image-size."
    raise DataError(
        f"{where}: a sample is {_shape(shape)}, the model's input {spec.name!r} takes {_shape(wanted)}.", hint=hint
    )


def _matches(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        allowed is None or size == allowed for size, allowed in zip(shape, wanted, strict=True)
    )


def _require_channels(dataset: Dataset, spec: TensorSpec, shape: tuple[int, ...]) -> None:
    channels = shape[-1] if shape else 1
    for option, values in (("--mean", dataset.mean), ("--std", dataset.std)):
        if values is not None and len(values) not in (1, channels):
            raise UsageError(
                f"{option} has {len(values)} values, the input {spec.name!r} of shape {_shape(shape)} has {channels} "
                f"channel{'s' if channels > 1 else ''}.",
                hint=f"Give one value, or {channels}." if channels > 1 else "Give one value.",
            )


def _require_dtype(dataset: Dataset, array: StoredArray, spec: TensorSpec, where: str) -> None:
    source = np.dtype(array.dtype)
    try:
        target = np.dtype(spec.dtype)
    except TypeError:
        target = np.dtype(object)
    if target.kind not in "fiu":
        raise DataError(
            f"The model's input {spec.name!r} is {spec.dtype}: only numbers can be fed.",
            hint="Cut the model after the step that turns its input into numbers.",
        )
    low, high = _real_range(dataset, array)
    if target.kind == "f":
        limit = float(np.finfo(target).max)
        if max(abs(low), abs(high)) > limit:
            raise DataError(
                f"{where}: the values reach {max(low, high, key=abs):g}, {target} of the input {spec.name!r} ends at "
                f"{limit:g}.",
                hint="Scale the samples, or use --mean and --std.",
            )
    elif spec.scale is None:
        if source.kind == "f" or dataset.mean or dataset.std:
            what = f"{source}" if source.kind == "f" else "scaled by --mean and --std"
            raise DataError(
                f"{where}: the samples are {what}, the model's input {spec.name!r} takes whole numbers ({target}).",
                hint="Store whole numbers, and leave --mean and --std out.",
            )
        limits = np.iinfo(target)
        if low < limits.min or high > limits.max:
            raise DataError(
                f"{where}: the values run from {low:g} to {high:g}, the input {spec.name!r} is {target} "
                f"({limits.min} to {limits.max}).",
                hint="Store the samples in the range of the model's input.",
            )


def _real_range(dataset: Dataset, array: StoredArray) -> tuple[float, float]:
    """Bounds of the preprocessed values."""
    means, stds = dataset.mean or (0.0,), dataset.std or (1.0,)
    size = max(len(means), len(stds))
    pairs = list(zip(means * (size // len(means)), stds * (size // len(stds)), strict=True))
    low = min((array.low - mean) / std for mean, std in pairs)
    high = max((array.high - mean) / std for mean, std in pairs)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (-math.inf, math.inf)


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)
