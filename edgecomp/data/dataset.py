"""Dataset: the samples of a run on disk, split into train, validation, calibration and test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.data.binding import BoundDataset, bind
from edgecomp.data.store import StoredSplit
from edgecomp.errors import DataError
from edgecomp.files import write_atomic
from edgecomp.tensors import TensorSpec

_FILE = "dataset.json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SplitPlan:
    """Which samples a split has.

    Attributes:
        stored: Name of the stored split that the samples are in.
        count: How many samples.
        file: .npy of positions in the stored split, shape (count,), int64; None for all, in order.
    """

    stored: str
    count: int
    file: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Samples in a folder; made by `prepare_dataset`, reopened in any process by `Dataset.open`.

    Attributes:
        folder: Holds dataset.json and the arrays.
        source: What --data said.
        stored: Split of the source -> its arrays.
        plans: "train", "validation", "calibration", "test" -> the samples; only those that exist.
        mean, std: Applied to every batch as (x - mean) / std; None for neither.
        class_names: Name of every class by its index, where the source has names.
        notes: What is announced to the user, one sentence each.
        sha256: Changes whenever samples, labels, splits or preprocessing do.
    """

    folder: Path
    source: str
    stored: dict[str, StoredSplit]
    plans: dict[str, SplitPlan]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    notes: list[str]
    sha256: str
    _maps: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """Split name -> number of samples."""
        return {name: plan.count for name, plan in self.plans.items()}

    def has(self, split: str) -> bool:
        """Whether a split exists."""
        return split in self.plans

    def bind(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> BoundDataset:
        """Check the samples against a model's inputs and outputs; reads no samples, so it is cheap in any process.

        Raises:
            DataError: Names, shapes, dtypes or labels do not fit the model.
            UsageError: --mean or --std do not fit it.
        """
        return bind(self, inputs, outputs)

    def array(self, stored: str, role: str, name: str) -> np.ndarray:
        """A stored array as a read-only memory map; role is "inputs" or "labels". Raises DataError."""
        entry = getattr(self.stored[stored], role)[name]
        if entry.file not in self._maps:
            self._maps[entry.file] = entry.open(self.folder)
        return self._maps[entry.file]

    def positions(self, split: str) -> np.ndarray | None:
        """Positions of a split's samples in its stored split; None for all in order. Raises DataError."""
        file = self.plans[split].file
        if file is None:
            return None
        try:
            positions: np.ndarray = np.load(self.folder / file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder / file}: cannot be read: {error}.") from error
        return positions

    def save(self) -> None:
        """Write dataset.json; the folder counts as a data set from then on. Raises OSError."""
        table = {
            "schema_version": _SCHEMA_VERSION,
            "source": self.source,
            "stored": {name: split.to_json() for name, split in self.stored.items()},
            "plans": {name: vars(plan) for name, plan in self.plans.items()},
            "mean": self.mean,
            "std": self.std,
            "class_names": self.class_names,
            "notes": self.notes,
            "sha256": self.sha256,
        }
        write_atomic(self.folder / _FILE, json.dumps(table, indent=1).encode())

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Open what `prepare_dataset` wrote; maps the arrays, reads none.

        Raises:
            DataError: The folder holds no finished data set, or one of another version.
        """
        path = folder / _FILE
        try:
            table = json.loads(path.read_bytes())
            if table["schema_version"] != _SCHEMA_VERSION:
                raise DataError(f"{path}: is of version {table['schema_version']}, expected {_SCHEMA_VERSION}.")
            return cls(
                folder=folder,
                source=table["source"],
                stored={name: StoredSplit.from_json(entry) for name, entry in table["stored"].items()},
                plans={name: SplitPlan(**entry) for name, entry in table["plans"].items()},
                mean=_tuple(table["mean"]),
                std=_tuple(table["std"]),
                class_names=_tuple(table["class_names"]),
                notes=list(table["notes"]),
                sha256=table["sha256"],
            )
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}.", hint="Read the data again.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: is damaged ({error}).", hint="Read the data again.") from error


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
