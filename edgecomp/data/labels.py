"""The labels of a data set against the outputs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from edgecomp.data.sources import UNNAMED
from edgecomp.data.store import StoredArray
from edgecomp.errors import DataError, did_you_mean
from edgecomp.tensors import TensorSpec

if TYPE_CHECKING:
    from edgecomp.data.dataset import Dataset


class LabelKind(StrEnum):
    """What labels are, seen from the output they belong to.

    CLASSES: int64 class numbers; output (..., classes), labels (n, ...) without the last axis.
    ONE_HOT: shape of the output, one 1 along its last axis, dtype of the source.
    BINARY: int64, 0 or 1, for an output of one score (n,) or (n, ..., 1); labels (n, ...) without that axis.
    VALUES: numbers to be met (regression) or several labels at once; shape of the output, dtype of the source.
    OTHER: any other shape, for metrics of the user's own; as in the source.
    """

    CLASSES = "classes"
    ONE_HOT = "one_hot"
    BINARY = "binary"
    VALUES = "values"
    OTHER = "other"

    @property
    def is_class(self) -> bool:
        """Whether a predicted class can be right or wrong."""
        return self in (LabelKind.CLASSES, LabelKind.ONE_HOT, LabelKind.BINARY)


@dataclass(frozen=True)
class BoundLabels:
    """How labels of the store become the labels of one output.

    Attributes:
        spec: The model's output.
        stored_name: Name of the array in the store.
        kind: What they are.
        num_classes: For CLASSES, ONE_HOT (size of the last axis) and BINARY (2); None where it is not known.
    """

    spec: TensorSpec
    stored_name: str
    kind: LabelKind
    num_classes: int | None

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """Stored labels, shape (n, ...), in the shape and dtype of their kind."""
        if self.kind in (LabelKind.CLASSES, LabelKind.BINARY):
            rank = len(self.spec.sample_shape) - (1 if self.spec.sample_shape else 0)
            return stored.reshape(stored.shape[: rank + 1]).astype(np.int64)
        return stored


def bind_labels(dataset: Dataset, specs: Sequence[TensorSpec]) -> dict[str, BoundLabels]:
    """Check every split's labels against the model's outputs.

    Returns:
        Labelled output name -> how its labels are made; outputs without labels are left out.

    Raises:
        DataError: An unknown name, a negative class, or a class that the model does not have.
    """
    labelled = {split: entry.labels for split, entry in dataset.stored.items() if entry.labels}
    bound = {}
    for name in next(iter(labelled.values()), {}):
        spec = _find(dataset, name, specs)
        arrays = {split: entry[name] for split, entry in labelled.items()}
        kind = _kind(list(arrays.values()), spec.sample_shape)
        num_classes = spec.sample_shape[-1] if kind in (LabelKind.CLASSES, LabelKind.ONE_HOT) else None
        if kind is LabelKind.CLASSES:
            for split, array in arrays.items():
                _require_range(f"{dataset.source}: y of {split}", array, spec, num_classes)
        if kind is LabelKind.BINARY:
            num_classes = 2
        bound[spec.name] = BoundLabels(spec, name, kind, num_classes)
    return bound


def _find(dataset: Dataset, name: str, specs: Sequence[TensorSpec]) -> TensorSpec:
    if name == UNNAMED:
        if len(specs) == 1:
            return specs[0]
        raise DataError(
            f"{dataset.source}: has one y, the model has {len(specs)} outputs: {', '.join(s.name for s in specs)}.",
            hint=f"Say which output it belongs to: y_test.{specs[0].name}.",
        )
    for spec in specs:
        if spec.name == name:
            return spec
    raise DataError(
        f"{dataset.source}: the model has no output {name!r}.", hint=did_you_mean(name, [s.name for s in specs])
    )


def _kind(arrays: Sequence[StoredArray], output: tuple[int | None, ...]) -> LabelKind:
    shape = arrays[0].sample_shape
    whole = all(array.is_integral for array in arrays)
    if not output or output[-1] == 1:
        positions = output[:-1]
        if _fits(shape, positions):
            in_range = all(array.low >= 0 and array.high <= 1 for array in arrays)
            return LabelKind.BINARY if whole and in_range else LabelKind.VALUES
        return LabelKind.OTHER
    if len(shape) == len(output) and _same(shape, output):
        return LabelKind.ONE_HOT if all(array.is_one_hot for array in arrays) else LabelKind.VALUES
    if _fits(shape, output[:-1]) and whole:
        return LabelKind.CLASSES
    return LabelKind.OTHER


def _fits(shape: tuple[int, ...], positions: tuple[int | None, ...]) -> bool:
    """Whether labels are one number per position, with or without a last axis of size 1."""
    return _same(shape, positions) or (shape[-1:] == (1,) and _same(shape[:-1], positions))


def _same(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b is None or a == b for a, b in zip(shape, wanted, strict=True))


def _require_range(where: str, array: StoredArray, spec: TensorSpec, num_classes: int | None) -> None:
    if array.low < 0:
        raise DataError(
            f"{where}: has the class {array.low:g}; classes are numbered from 0.",
            hint="Take such samples out, or number the classes anew.",
        )
    if num_classes is not None and array.high >= num_classes:
        hint = "Number the classes anew, or use the model that was trained on them."
        if array.low >= 1 and array.high == num_classes:
            hint = "They seem to be numbered from 1: subtract 1."
        raise DataError(
            f"{where}: has the class {array.high:g}; the model's output {spec.name!r} knows {num_classes} classes, "
            f"0 to {num_classes - 1}.",
            hint=hint,
        )
