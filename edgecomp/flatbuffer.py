"""A small reader of FlatBuffers that trusts nothing: every offset and length is checked before it is followed.

The generated readers follow offsets blindly, which turns a damaged or hostile file into wild reads. Format:
https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from edgecomp.errors import GraphError

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")


# A whole file is read about once. One that shares a long list between many tables would make us build far more than
# it holds, so what may be read in all is bounded by its size.
_READS_PER_BYTE = 16
_READS_AT_LEAST = 1 << 20
_TABLE_READS = 64


class Buffer:
    """The bytes of one FlatBuffers file."""

    def __init__(self, data: bytes | memoryview, where: str) -> None:
        self.data = memoryview(data)
        self.where = where
        self._reads_left = _READS_PER_BYTE * len(self.data) + _READS_AT_LEAST

    def spend(self, size_bytes: int) -> None:
        """Count what is read; an error where a file unfolds into more than its size allows."""
        self._reads_left -= size_bytes
        if self._reads_left < 0:
            raise self.fail("its tables share data so that it unfolds into many times its size")

    def fail(self, problem: str) -> GraphError:
        """The error to raise for a damaged file."""
        return GraphError(f"{self.where} is damaged: {problem}.", hint="Export or copy the file again.")

    def unpack(self, kind: struct.Struct, position: int) -> int:
        """One number; an error beyond the end of the file."""
        if position < 0 or position + kind.size > len(self.data):
            raise self.fail(f"it points to byte {position} of {len(self.data)}")
        return int(kind.unpack_from(self.data, position)[0])

    def follow(self, position: int) -> int:
        """Where the unsigned offset stored at `position` leads."""
        return position + self.unpack(_U32, position)

    def root(self) -> Table:
        """The root table."""
        return Table(self, self.follow(0))


class Table:
    """One table: fields by their number in the schema, starting at 0."""

    def __init__(self, buffer: Buffer, position: int) -> None:
        buffer.spend(_TABLE_READS)
        self._buffer = buffer
        self._position = position
        self._vtable = position - buffer.unpack(_I32, position)
        self._vtable_bytes = buffer.unpack(_U16, self._vtable)

    def _field(self, number: int) -> int | None:
        slot = 4 + 2 * number
        if slot + 2 > self._vtable_bytes:
            return None
        offset = self._buffer.unpack(_U16, self._vtable + slot)
        return None if offset == 0 else self._position + offset

    def scalar(self, number: int, fmt: str, default: int = 0) -> int:
        """A number of `struct` format `fmt`, or the default where the field is absent."""
        position = self._field(number)
        return default if position is None else self._buffer.unpack(struct.Struct("<" + fmt), position)

    def _vector(self, number: int, item_bytes: int) -> tuple[int, int] | None:
        position = self._field(number)
        if position is None:
            return None
        start = self._buffer.follow(position)
        count = self._buffer.unpack(_U32, start)
        if start + 4 + count * item_bytes > len(self._buffer.data):
            raise self._buffer.fail(f"a list of {count} items at byte {start} runs past the end")
        return start + 4, count

    def bytes(self, number: int) -> memoryview:
        """A vector of bytes, empty where the field is absent; a view, nothing is copied."""
        found = self._vector(number, 1)
        return self._buffer.data[0:0] if found is None else self._buffer.data[found[0] : found[0] + found[1]]

    def text(self, number: int) -> str:
        """A string; bytes that are not UTF-8 are replaced."""
        data = self.bytes(number)
        self._buffer.spend(len(data))
        return bytes(data).decode("utf-8", errors="replace")

    def numbers(self, number: int, dtype: str) -> np.ndarray:
        """A vector of numbers as a numpy array of little-endian `dtype`, empty where the field is absent."""
        kind = np.dtype(dtype).newbyteorder("<")
        found = self._vector(number, kind.itemsize)
        if found is None:
            return np.empty(0, kind)
        self._buffer.spend(kind.itemsize * found[1])
        return np.frombuffer(self._buffer.data, kind, count=found[1], offset=found[0])

    def table(self, number: int) -> Table | None:
        """A nested table."""
        position = self._field(number)
        return None if position is None else Table(self._buffer, self._buffer.follow(position))

    def tables(self, number: int) -> Iterator[Table]:
        """The tables of a vector, one by one."""
        start, count = self._vector(number, 4) or (0, 0)
        for index in range(count):
            yield Table(self._buffer, self._buffer.follow(start + 4 * index))

    def scalar_u64(self, number: int) -> int:
        """An unsigned 64-bit number, 0 where absent."""
        position = self._field(number)
        return 0 if position is None else self._buffer.unpack(_U64, position)
