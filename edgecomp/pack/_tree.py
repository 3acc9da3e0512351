"""A FlatBuffers file as a tree of tables and vectors in which equal parts are one part.

The generated classes of the schema write themselves through a builder, children first. `TreeBuilder` is such a builder,
but it keeps what it is told instead of laying it out: which part refers to which, and which are equal, is then known
before the first byte is placed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Blob:
    """A vector of numbers, or a string.

    Attributes:
        count: Number of elements.
        data: Their bytes, little-endian; a string's with its final zero.
        alignment: Of the first element, in bytes.
    """

    count: int
    data: bytes
    alignment: int

    @property
    def stored(self) -> bytes:
        """As the file holds it: the count, then the elements."""
        return struct.pack("<I", self.count) + self.data


@dataclass(frozen=True)
class Refs:
    """A vector of offsets to other parts, by their handles."""

    parts: tuple[int, ...]


@dataclass(frozen=True)
class Scalar:
    """A number in a table, as stored."""

    data: bytes


@dataclass(frozen=True)
class Ref:
    """An offset in a table, by the handle of the part that it leads to."""

    part: int


@dataclass(frozen=True)
class Table:
    """A table: what is not the schema's default, by the field's number, ascending."""

    fields: tuple[tuple[int, Scalar | Ref], ...]


Part = Blob | Refs | Table


class TreeBuilder:
    """Takes the calls that generated FlatBuffers code makes, and keeps every distinct part once.

    Handles are positive numbers; equal parts get the same one.

    Args:
        byte_alignment: Of vectors of bytes, which are the constant data of a model.
    """

    def __init__(self, byte_alignment: int) -> None:
        self.parts: list[Part] = []
        self._handles: dict[Part, int] = {}
        self._byte_alignment = byte_alignment
        self._fields: dict[int, Scalar | Ref] = {}
        self._items: list[bytes | int] = []
        self._item_bytes = 0

    def part(self, handle: int) -> Part:
        """The part of a handle."""
        return self.parts[handle - 1]

    def _keep(self, part: Part) -> int:
        if part not in self._handles:
            self.parts.append(part)
            self._handles[part] = len(self.parts)
        return self._handles[part]

    # What generated code calls. Its names are those of flatbuffers.Builder.

    def StartObject(self, _fields: int) -> None:  # noqa: N802
        self._fields = {}

    def EndObject(self) -> int:  # noqa: N802
        return self._keep(Table(tuple(sorted(self._fields.items()))))

    def _scalar(self, slot: int, kind: str, value: Any, default: Any) -> None:
        if value != default:
            self._fields[slot] = Scalar(struct.pack("<" + kind, value))

    def PrependBoolSlot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "?", value, default)

    def PrependInt8Slot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "b", value, default)

    def PrependUint8Slot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "B", value, default)

    def PrependInt16Slot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "h", value, default)

    def PrependInt32Slot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "i", value, default)

    def PrependUint32Slot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "I", value, default)

    def PrependInt64Slot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "q", value, default)

    def PrependUint64Slot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "Q", value, default)

    def PrependFloat32Slot(self, slot: int, value: Any, default: Any) -> None:  # noqa: N802
        self._scalar(slot, "f", value, default)

    def PrependUOffsetTRelativeSlot(self, slot: int, handle: int, _default: Any) -> None:  # noqa: N802
        if handle:
            self._fields[slot] = Ref(handle)

    def StartVector(self, item_bytes: int, _count: int, _alignment: int) -> None:  # noqa: N802
        self._items, self._item_bytes = [], item_bytes

    def _item(self, kind: str, value: Any) -> None:
        self._items.append(struct.pack("<" + kind, value))

    def PrependBool(self, value: Any) -> None:  # noqa: N802
        self._item("?", value)

    def PrependUint8(self, value: Any) -> None:  # noqa: N802
        self._item("B", value)

    def PrependUint16(self, value: Any) -> None:  # noqa: N802
        self._item("H", value)

    def PrependInt32(self, value: Any) -> None:  # noqa: N802
        self._item("i", value)

    def PrependUint32(self, value: Any) -> None:  # noqa: N802
        self._item("I", value)

    def PrependInt64(self, value: Any) -> None:  # noqa: N802
        self._item("q", value)

    def PrependFloat32(self, value: Any) -> None:  # noqa: N802
        self._item("f", value)

    def PrependUOffsetTRelative(self, handle: int) -> None:  # noqa: N802
        self._items.append(handle)

    def EndVector(self) -> int:  # noqa: N802
        items = self._items[::-1]  # A builder writes backwards.
        if any(isinstance(item, int) for item in items):
            return self._keep(Refs(tuple(item for item in items if isinstance(item, int))))
        return self._blob(len(items), b"".join(item for item in items if isinstance(item, bytes)), self._item_bytes)

    def CreateNumpyVector(self, values: np.ndarray) -> int:  # noqa: N802
        data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        return self._blob(values.size, data, values.itemsize)

    def CreateString(self, text: str | bytes) -> int:  # noqa: N802
        data = text.encode() if isinstance(text, str) else bytes(text)
        return self._keep(Blob(len(data), data + b"\0", 1))

    def _blob(self, count: int, data: bytes, item_bytes: int) -> int:
        return self._keep(Blob(count, data, self._byte_alignment if item_bytes == 1 else item_bytes))
