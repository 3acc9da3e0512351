"""An .npz file: x_train, y_train, x_test, y_test; x_val, y_val, x_calib, y_calib are optional.

With several inputs or outputs the names follow a dot: `x_train.image`, `y_train.age`. The arrays are read from the
archive in pieces and never unpickled.
"""

from __future__ import annotations

import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from edgecomp.data.options import DataOptions
from edgecomp.data.sources import CHUNK_BYTES, SPLITS, UNNAMED, Batch
from edgecomp.errors import DataError, UsageError, did_you_mean

_SUFFIXES = dict(zip(SPLITS, ("train", "val", "calib", "test"), strict=True))
# Everything that zipfile and numpy raise on bytes they cannot read; RuntimeError stands for an encrypted member.
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, NotImplementedError, RuntimeError,
    SyntaxError, TypeError, tokenize.TokenError,
)  # fmt: skip


@dataclass(frozen=True)
class _Member:
    """One array of the archive, known by its header: (n, *sample shape)."""

    key: str
    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool


class NpzSource:
    """Reads .npz files."""

    def accepts(self, source: str) -> bool:
        """A file, or a name that ends in .npz."""
        return Path(source).is_file() or (source.endswith(".npz") and not Path(source).is_dir())

    def open(self, options: DataOptions) -> OpenNpz:
        """Read the headers of all arrays and check that they go together."""
        path = Path(options.source)
        if not path.is_file():
            raise UsageError(f"--data {path}: no such file.", hint="Check the path; it is relative to this folder.")
        return OpenNpz(path, options.group_key)


class OpenNpz:
    """An .npz file whose headers are known.

    Raises:
        DataError: Not an .npz, damaged, an array of objects, or arrays that do not go together.
        UsageError: The group key names no array.
    """

    class_names: tuple[str, ...] | None = None

    def __init__(self, path: Path, group_key: str | None) -> None:
        self.path = path
        self.notes: list[str] = []
        self._members = self._read_headers()
        self._inputs = {split: self._family("x", split) for split in SPLITS}
        self._labels = {split: self._family("y", split) for split in SPLITS}
        self._groups = self._find_groups(group_key) if group_key else {}
        self._check_keys()
        for split in SPLITS:
            self._check_counts(split)

    def count(self, split: str) -> int | None:
        """Samples of a split by the header of its arrays."""
        for member in self._inputs[split].values():
            return member.shape[0]
        return None

    def batches(self, split: str) -> Iterator[Batch] | None:
        """The samples of a split; None where there is no such x."""
        return self._read(split) if self._inputs[split] else None

    def _read(self, split: str) -> Iterator[Batch]:
        inputs, labels, group = self._inputs[split], self._labels[split], self._groups.get(split)
        members = [*inputs.values(), *labels.values(), *([group] if group else [])]
        row_bytes = max(member.dtype.itemsize * math.prod(member.shape[1:]) for member in members)
        rows = max(1, CHUNK_BYTES // max(row_bytes, 1))
        with zipfile.ZipFile(self.path) as archive:
            pieces = {member.key: self._pieces(archive, member, rows) for member in members}
            for _ in range(0, members[0].shape[0], rows):
                piece = {key: next(stream) for key, stream in pieces.items()}
                yield Batch(
                    {name: piece[member.key] for name, member in inputs.items()},
                    {name: piece[member.key] for name, member in labels.items()},
                    piece[group.key] if group else None,
                )
            for stream in pieces.values():
                next(stream, None)

    def _pieces(self, archive: zipfile.ZipFile, member: _Member, rows: int) -> Iterator[np.ndarray]:
        count, sample = member.shape[0], member.shape[1:]
        sample_bytes = member.dtype.itemsize * math.prod(sample)
        try:
            with archive.open(member.file) as stream:
                _read_header(stream)
                if member.is_fortran:
                    # Samples are interleaved in the file: there are no pieces to read, only the whole.
                    whole = np.frombuffer(_exactly(stream, count * sample_bytes), member.dtype)
                    whole = whole.reshape(member.shape[::-1]).T
                for start in range(0, count, rows):
                    size = min(rows, count - start)
                    if member.is_fortran:
                        yield whole[start : start + size]
                    else:
                        data = _exactly(stream, size * sample_bytes)
                        yield np.frombuffer(data, member.dtype).reshape(size, *sample)
                stream.read(1)  # The checksum is compared when the end is reached.
        except _UNREADABLE as error:
            raise self._damaged(member.key, error) from error

    def _read_headers(self) -> dict[str, _Member]:
        members = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for file in archive.namelist():
                    if not file.endswith(".npy"):
                        continue
                    key = file.removesuffix(".npy")
                    try:
                        with archive.open(file) as stream:
                            shape, is_fortran, dtype = _read_header(stream)
                    except _UNREADABLE as error:
                        raise self._damaged(key, error) from error
                    members[key] = _Member(key, file, shape, dtype, is_fortran)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}.") from error
        except _UNREADABLE as error:
            raise self._not_an_npz() from error
        if not members:
            raise DataError(
                f"{self.path}: holds no arrays.", hint="Write it with np.savez(path, x_test=..., y_test=...)."
            )
        return members

    def _not_an_npz(self) -> DataError:
        with self.path.open("rb") as stream:
            start = stream.read(6)
        if start.startswith(b"PK"):
            return DataError(f"{self.path}: is cut short or damaged.", hint="Copy or download it again.")
        what = "is one .npy array, not an .npz file" if start == b"\x93NUMPY" else "is not an .npz file"
        return DataError(f"{self.path}: {what}.", hint="Write it with np.savez(path, x_test=..., y_test=...).")

    def _damaged(self, key: str, error: Exception) -> DataError:
        if isinstance(error, RuntimeError) and "password" in str(error):
            return DataError(f"{self.path}: {key} is encrypted.", hint="Save the file without a password.")
        return DataError(f"{self.path}: {key} is cut short or damaged ({error}).", hint="Copy or write the file again.")

    def _family(self, letter: str, split: str) -> dict[str, _Member]:
        """Arrays of one role and split: {"": x_train}, or {"image": x_train.image, ...}."""
        stem = f"{letter}_{_SUFFIXES[split]}"
        named = {key[len(stem) + 1 :]: member for key, member in self._members.items() if key.startswith(f"{stem}.")}
        if stem not in self._members:
            return named
        if named:
            raise DataError(
                f"{self.path}: has both {stem} and {stem}.{min(named)}.",
                hint=f"Give every array a name ({stem}.<name>), or only one without.",
            )
        return {UNNAMED: self._members[stem]}

    def _find_groups(self, key: str) -> dict[str, _Member]:
        base = key.removesuffix("_train")
        found = {split: self._members.get(f"{base}_{suffix}") for split, suffix in _SUFFIXES.items()}
        groups = {split: member for split, member in found.items() if member is not None}
        if not groups and key in self._members:
            groups = {"train" if self._inputs["train"] else "test": self._members[key]}
        if not groups:
            known = {name.removesuffix("_train") for name in self._members if name[:2] not in ("x_", "y_")}
            raise UsageError(
                f"--group-key {key}: {self.path} has no array {key}_train or {key}.", hint=did_you_mean(key, known)
            )
        for member in groups.values():
            if member.dtype.hasobject:
                raise self._object_array(member)
        return groups

    def _check_keys(self) -> None:
        used = {member.key for family in (*self._inputs.values(), *self._labels.values()) for member in family.values()}
        used |= {member.key for member in self._groups.values()}
        unused = sorted(self._members.keys() - used)
        for key in unused:
            if key.lower().startswith(("x_", "y_")):
                known = [f"{letter}_{suffix}" for letter in "xy" for suffix in _SUFFIXES.values()]
                raise DataError(f"{self.path}: {key} is not a known array.", hint=did_you_mean(key, known))
        if unused:
            self.notes.append(f"Not used of {self.path.name}: {', '.join(unused)}.")

    def _check_counts(self, split: str) -> None:
        inputs, labels = self._inputs[split], self._labels[split]
        if labels and not inputs:
            suffix = _SUFFIXES[split]
            raise DataError(
                f"{self.path}: has y_{suffix} but no x_{suffix}.", hint=f"Add x_{suffix}, or leave both out."
            )
        if not inputs:
            return
        group = self._groups.get(split)
        members = [*inputs.values(), *labels.values(), *([group] if group else [])]
        first = members[0]
        for member in members:
            if member.dtype.hasobject:
                raise self._object_array(member)
            if not member.shape:
                raise DataError(
                    f"{self.path}: {member.key} is a single value.", hint="Its first axis must count the samples."
                )
            if member.shape[0] != first.shape[0]:
                raise DataError(
                    f"{self.path}: {first.key} has {first.shape[0]:,} samples and {member.key} has "
                    f"{member.shape[0]:,}.",
                    hint="Both must have one entry per sample, in the same order.",
                )
        if group and len(group.shape) != 1:
            raise DataError(f"{self.path}: {group.key} must have one value per sample, got the shape {group.shape}.")

    def _object_array(self, member: _Member) -> DataError:
        return DataError(
            f"{self.path}: {member.key} is an array of Python objects, which could run code when read.",
            hint="Store numbers in one array of one shape, for example with np.stack and .astype(np.float32).",
        )


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype; the stream then stands at the data. Raises ValueError."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format is not supported")
    if any(size < 0 for size in header[0]):
        raise ValueError(f"the shape {header[0]} is impossible")
    return header


def _exactly(stream: IO[bytes], size_bytes: int) -> bytes:
    data = stream.read(size_bytes)
    if len(data) != size_bytes:
        raise EOFError(f"{size_bytes - len(data):,} bytes are missing")
    return data


SOURCE = NpzSource()
