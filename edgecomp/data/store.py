"""Arrays on disk: written once in pieces, checked on the way, reopened as memory maps by every process."""

from __future__ import annotations

import errno
import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.data.sources import UNNAMED, Batch
from edgecomp.data.splits import is_integral, is_one_hot
from edgecomp.errors import DataError


@dataclass(frozen=True)
class StoredArray:
    """One array of one split in the run folder, in the dtype of the source.

    Attributes:
        file: Name in the folder, an .npy.
        shape: (n, *sample shape).
        dtype: numpy's name with byte order, for example "<f4".
        low, high: Smallest and largest value.
        is_integral, is_one_hot: For labels: whole numbers only; one 1 and otherwise 0 along the last axis.
        sha256: Of the values.
    """

    file: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    is_integral: bool
    is_one_hot: bool
    sha256: str

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape without the sample axis."""
        return self.shape[1:]

    def open(self, folder: Path) -> np.ndarray:
        """Map the array into memory, read only.

        Raises:
            DataError: The file is missing or is not what was written.
        """
        try:
            array: np.ndarray = np.load(folder / self.file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / self.file}: cannot be read: {error}.") from error
        if array.shape != self.shape or array.dtype.str != self.dtype:
            raise DataError(f"{folder / self.file}: is not the array that was stored here.")
        return array


@dataclass(frozen=True)
class StoredSplit:
    """The samples of one split of the source, by input and output name.

    Attributes:
        count: Number of samples.
        inputs, labels: UNNAMED is the name of an only one without a name; labels may be empty.
    """

    count: int
    inputs: dict[str, StoredArray]
    labels: dict[str, StoredArray]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> StoredSplit:
        """The inverse of `to_json`. Raises KeyError, TypeError."""
        families = [
            {name: StoredArray(**(entry | {"shape": tuple(entry["shape"])})) for name, entry in table[role].items()}
            for role in ("inputs", "labels")
        ]
        return cls(table["count"], *families)


class SplitWriter:
    """Writes the batches of one split; use as `append` for every batch, then `close`.

    Every error names the split and the array, and says which sample is meant.
    """

    def __init__(self, folder: Path, split: str, source: str) -> None:
        self._folder = folder
        self._split = split
        self._where = f"{source}: {split}"
        self._inputs: dict[str, _ArrayWriter] | None = None
        self._labels: dict[str, _ArrayWriter] = {}
        self._groups: list[np.ndarray] = []
        self.count = 0

    def append(self, batch: Batch) -> None:
        """Check and store some samples.

        Raises:
            DataError: NaN, inf, a dtype that holds no numbers, names or shapes that differ from the batch before, or a
                full disk.
        """
        if self._inputs is None:
            self._inputs = self._start("x", batch.inputs)
            self._labels = self._start("y", batch.labels)
        for letter, writers, arrays in (("x", self._inputs, batch.inputs), ("y", self._labels, batch.labels)):
            if writers.keys() != arrays.keys():
                raise DataError(
                    f"{self._where}: {letter} has {_names(writers)} at first and {_names(arrays)} from sample "
                    f"{self.count} on.",
                    hint="All batches must have the same inputs and labels.",
                )
            for name, array in arrays.items():
                writers[name].append(array)
        if batch.groups is not None:
            self._groups.append(np.array(batch.groups))
        self.count += len(next(iter(batch.inputs.values())))

    def close(self) -> tuple[StoredSplit, np.ndarray | None]:
        """Finish the files: what was stored, and the groups of the samples, shape (count,), where there are any."""
        inputs = {name: writer.close() for name, writer in (self._inputs or {}).items()}
        labels = {name: writer.close() for name, writer in self._labels.items()}
        return StoredSplit(self.count, inputs, labels), np.concatenate(self._groups) if self._groups else None

    def abort(self) -> None:
        """Close the files without finishing them."""
        for writer in (*(self._inputs or {}).values(), *self._labels.values()):
            writer.stream.close()

    def _start(self, letter: str, arrays: dict[str, np.ndarray]) -> dict[str, _ArrayWriter]:
        writers = {}
        # Names of inputs may hold any character, so the files are numbered.
        for number, (name, array) in enumerate(arrays.items()):
            label = f"{self._where}: {letter}" + (f" {name!r}" if name != UNNAMED else "")
            path = self._folder / f"{letter}_{self._split}.{number}.npy"
            writers[name] = _ArrayWriter(path, label, array, is_label=letter == "y")
        return writers


class _ArrayWriter:
    """Appends to one .npy file; the number of samples is written into its header at the end."""

    def __init__(self, path: Path, where: str, first: np.ndarray, *, is_label: bool) -> None:
        if first.dtype.kind not in "biuf" or first.dtype.itemsize > 8:
            hint = "Store class numbers 0, 1, 2, ..." if is_label else "Store numbers: uint8, int16, float32, ..."
            raise DataError(f"{where}: must hold numbers, got the dtype {first.dtype}.", hint=hint)
        if 0 in first.shape[1:]:
            raise DataError(f"{where}: a sample must hold values, got the shape {first.shape[1:]}.")
        self._where = where
        self._dtype, self._sample_shape = first.dtype, first.shape[1:]
        self._is_label = is_label
        self._is_integral, self._is_one_hot = is_label, is_label
        self._low, self._high = math.inf, -math.inf
        self._count = 0
        self._digest = hashlib.sha256()
        self._path = path
        # Never opened over an old file: another process may still have that one mapped.
        self.stream = path.open("xb")
        self._write_header()
        self._header_bytes = self.stream.tell()

    def append(self, array: np.ndarray) -> None:
        if array.dtype != self._dtype or array.shape[1:] != self._sample_shape:
            raise DataError(
                f"{self._where}: sample {self._count} is {array.dtype} of shape {array.shape[1:]}, the samples before "
                f"are {self._dtype} of shape {self._sample_shape}.",
                hint="All samples must have one dtype and one shape.",
            )
        if array.dtype.kind == "f":
            self._require_finite(array)
        if self._is_label:
            self._is_integral = self._is_integral and is_integral(array)
            self._is_one_hot = self._is_one_hot and is_one_hot(array)
        self._low = min(self._low, float(array.min()))
        self._high = max(self._high, float(array.max()))
        data = array.tobytes()
        self._digest.update(data)
        try:
            self.stream.write(data)
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        self._count += len(array)

    def close(self) -> StoredArray:
        try:
            self.stream.seek(0)
            self._write_header()
            if self.stream.tell() != self._header_bytes:
                raise AssertionError("numpy no longer leaves room in the header for a growing first axis")
            self.stream.close()
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        return StoredArray(
            file=self._path.name,
            shape=(self._count, *self._sample_shape),
            dtype=self._dtype.str,
            low=self._low,
            high=self._high,
            is_integral=self._is_integral,
            is_one_hot=self._is_one_hot,
            sha256=self._digest.hexdigest(),
        )

    def _write_header(self) -> None:
        shape = (self._count, *self._sample_shape)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)

    def _require_finite(self, array: np.ndarray) -> None:
        finite = np.isfinite(array)
        if finite.all():
            return
        bad = np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))
        kind = "NaN" if np.isnan(array[bad[0]]).any() else "inf"
        more = f" and {len(bad) - 1:,} of the {len(array):,} around it" if len(bad) > 1 else ""
        raise DataError(
            f"{self._where}: sample {self._count + bad[0]}{more} has {kind}.",
            hint="Repair these samples or take them out: no range can be calibrated and no model evaluated on them.",
        )


def _names(arrays: Mapping[str, object]) -> str:
    return ", ".join(repr(name) if name != UNNAMED else "one array" for name in arrays) or "nothing"


def _cannot_write(path: Path, error: OSError) -> DataError:
    hint = "Free some space: the samples are kept uncompressed during a run." if error.errno == errno.ENOSPC else None
    return DataError(f"{path}: cannot be written: {error.strerror or error}.", hint=hint)
