"""A data set seen through one model: names, shapes, dtypes and labels checked, batches ready to be fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgecomp.data.inputs import BoundInput, bind_inputs
from edgecomp.data.labels import BoundLabels, LabelKind, bind_labels
from edgecomp.errors import MissingDataError
from edgecomp.tensors import TensorSpec

if TYPE_CHECKING:
    from edgecomp.data.dataset import Dataset

_MISSING_HINTS = {
    "train": 'Add x_train to an .npz, a folder train/<class>, or batches for "train".',
    "calibration": "Add x_calib, or training samples that it can be drawn from.",
}


class Split:
    """Some samples of a bound data set, read from disk as they are asked for.

    Attributes:
        name: "train", "validation", "calibration" or "test".
        count: Number of samples.
    """

    def __init__(self, bound: BoundDataset, name: str, positions: np.ndarray | None) -> None:
        plan = bound.dataset.plans[name]
        self.name = name
        self.count = plan.count if positions is None else len(positions)
        self._bound = bound
        self._stored = plan.stored
        self._positions = positions

    @property
    def labels(self) -> dict[str, np.ndarray] | None:
        """Output name -> the labels of all samples, in order; None without labels. See `LabelKind` for shapes."""
        return self._labels(0, self.count)

    def batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Input name -> shape (n, *sample shape) in the model's dtype, preprocessed; n is smaller in the last batch."""
        for start in range(0, self.count, batch_size):
            yield self._inputs(start, start + batch_size)

    def real_batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """As `batches`, but the values before they are cast or quantized to the model's dtype."""
        for start in range(0, self.count, batch_size):
            yield self._inputs(start, start + batch_size, for_model=False)

    def stored_batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """As `batches`, but the values as they are stored: before mean and std are applied."""
        for start in range(0, self.count, batch_size):
            yield self._stored_inputs(start, start + batch_size)

    def label_batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """The labels alone, for splits whose labels are large. Raises MissingDataError."""
        for start in range(0, self.count, batch_size):
            labels = self._labels(start, start + batch_size)
            if labels is None:
                raise MissingDataError(f"The {self.name} samples have no labels.", hint="Add them to the data.")
            yield labels

    def labelled_batches(self, batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Batches with their labels by output name.

        Raises:
            MissingDataError: The split has no labels.
        """
        yield from zip(self.batches(batch_size), self.label_batches(batch_size), strict=True)

    def read(self) -> dict[str, np.ndarray]:
        """All samples at once, preprocessed: for splits that are known to be small."""
        return self._inputs(0, self.count)

    def take(self, indices: np.ndarray | Sequence[int]) -> Split:
        """The samples at these places of this split, in this order; repetitions are allowed. Raises IndexError."""
        places = np.asarray(indices, dtype=np.int64)
        positions = np.arange(self.count) if self._positions is None else self._positions
        return Split(self._bound, self.name, positions[places])

    def head(self, count: int) -> Split:
        """The first samples, at most as many as there are. Validation and calibration are in random order."""
        return self.take(np.arange(min(count, self.count)))

    def _inputs(self, start: int, stop: int, *, for_model: bool = True) -> dict[str, np.ndarray]:
        entries = self._bound.bound_inputs
        return {
            name: entries[name].apply(rows) if for_model else entries[name].real(rows)
            for name, rows in self._stored_inputs(start, stop).items()
        }

    def _stored_inputs(self, start: int, stop: int) -> dict[str, np.ndarray]:
        arrays = {}
        for name, entry in self._bound.bound_inputs.items():
            rows = self._rows(self._bound.dataset.array(self._stored, "inputs", entry.stored_name), start, stop)
            arrays[name] = rows.reshape(len(rows), *entry.sample_shape)
        return arrays

    def _labels(self, start: int, stop: int) -> dict[str, np.ndarray] | None:
        dataset = self._bound.dataset
        if not dataset.stored[self._stored].labels:
            return None
        return {
            name: entry.apply(self._rows(dataset.array(self._stored, "labels", entry.stored_name), start, stop))
            for name, entry in self._bound.bound_labels.items()
        }

    def _rows(self, array: np.ndarray, start: int, stop: int) -> np.ndarray:
        if self._positions is None:
            return np.array(array[start:stop])
        return np.asarray(array[self._positions[start:stop]])


@dataclass(frozen=True)
class BoundDataset:
    """A data set that fits a model; made by `Dataset.bind`.

    Attributes:
        dataset: What it reads from.
        inputs, outputs: The model's.
        bound_inputs: Input name -> how its samples are made.
        bound_labels: Labelled output name -> how its labels are made; empty without labels.
        notes: Everything to announce: the data set's notes and those of the fit to this model.
    """

    dataset: Dataset
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    bound_inputs: Mapping[str, BoundInput]
    bound_labels: Mapping[str, BoundLabels]
    notes: list[str]

    @property
    def label_kinds(self) -> dict[str, LabelKind]:
        """Labelled output name -> what its labels are."""
        return {name: labels.kind for name, labels in self.bound_labels.items()}

    @property
    def class_outputs(self) -> tuple[str, ...] | None:
        """Outputs whose labels are classes; None without any labels, when nothing is known about the outputs."""
        if not self.bound_labels:
            return None
        return tuple(name for name, kind in self.label_kinds.items() if kind.is_class)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of every class by its index, where the source has names."""
        return self.dataset.class_names

    def has(self, split: str) -> bool:
        """Whether a split exists."""
        return self.dataset.has(split)

    def has_labels(self, split: str) -> bool:
        """Whether a split exists and has labels."""
        return self.has(split) and bool(self.dataset.stored[self.dataset.plans[split].stored].labels)

    def split(self, name: str) -> Split:
        """The samples of "train", "validation", "calibration" or "test".

        Raises:
            MissingDataError: The data has no such split.
        """
        if not self.has(name):
            raise MissingDataError(f"{self.dataset.source}: has no {name} samples.", hint=_MISSING_HINTS.get(name))
        return Split(self, name, self.dataset.positions(name))


def bind(dataset: Dataset, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> BoundDataset:
    """See `Dataset.bind`."""
    bound_inputs, notes = bind_inputs(dataset, inputs)
    bound_labels = bind_labels(dataset, outputs)
    return BoundDataset(
        dataset=dataset,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        bound_inputs=bound_inputs,
        bound_labels=bound_labels,
        notes=dataset.notes + notes,
    )
