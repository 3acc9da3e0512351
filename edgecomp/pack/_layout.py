"""Place the parts of a FlatBuffers file one behind the other with next to nothing between them.

What the format asks (https://flatbuffers.dev/internals/): an offset leads forward, so a part lies behind all that
refer to it; numbers lie at multiples of their size, data of a vector at its alignment; a table's layout stands in a
vtable, which any number of tables share. The order is free otherwise. Here it follows what fits without padding, and a
vector whose bytes already stand behind all that refer to it is not written again.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Sequence

from edgecomp.pack._tree import Blob, Part, Ref, Refs, Scalar, Table, TreeBuilder

_DATA_ALIGNMENT = 16
_SHORT_BYTES = 64


def lay_out(tree: TreeBuilder, root: int, file_identifier: bytes) -> bytes:
    """The file of a tree.

    Args:
        tree: The parts.
        root: Handle of the root table.
        file_identifier: Four bytes.
    """
    return _Layout(tree, root, file_identifier).run()


class _Layout:
    def __init__(self, tree: TreeBuilder, root: int, file_identifier: bytes) -> None:
        self._tree = tree
        self._out = bytearray(4) + file_identifier
        # Offsets are filled in once their target is placed; until then their bytes say nothing.
        self._final = bytearray(4) + b"\1" * 4
        # By part: the offsets that lead to it, and how far behind its start.
        self._waiting: dict[int, list[tuple[int, int]]] = defaultdict(list, {root: [(0, 0)]})
        reached = _reached(tree, root)
        self._inside = _find_inside(tree, reached)
        self._referrers = Counter(self._home(target)[0] for handle in reached for target in _targets(tree.part(handle)))
        self._vtables: dict[bytes, int] = {}
        # What may be placed: constant data; what leads to more of it; and the rest by size and alignment.
        self._data: list[int] = []
        self._leading: list[int] = []
        self._small: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._leads = _leading_to_data(tree, reached)
        self._make_ready(root)

    def run(self) -> bytes:
        while self._data or self._leading or self._small:
            self._place(self._next())
        return bytes(self._out)

    def _home(self, handle: int) -> tuple[int, int]:
        """The part whose bytes a part is made of, itself or another, and where in it."""
        return self._inside.get(handle, (handle, 0))

    def _make_ready(self, handle: int) -> None:
        part = self._tree.part(handle)
        if _is_data(part):
            self._data.append(handle)
        elif handle in self._leads:
            self._leading.append(handle)
        else:
            self._small[_size(part), _alignment(part)].append(handle)

    def _next(self) -> int:
        """Data that fits here without padding; else what makes more of it ready; else what fills the gap before it."""
        data = min(self._data, key=self._data_rank, default=None)
        if data is not None and (self._data_rank(data)[0] == 0 or not (self._leading or self._small)):
            self._data.remove(data)
            return data
        if self._leading and (data is None or not self._small):
            return self._leading.pop(0)
        chosen = min(self._small, key=self._small_rank)
        handle = self._small[chosen].pop(0)
        if not self._small[chosen]:
            del self._small[chosen]
        return handle

    def _data_rank(self, handle: int) -> tuple[int, int]:
        part = self._tree.part(handle)
        return self._padding(_alignment(part)), -_size(part)

    def _small_rank(self, kind: tuple[int, int]) -> tuple[int, int, int]:
        """Padding before it, what then still lacks to where data would fit, and its size."""
        size, alignment = kind
        padding = self._padding(alignment)
        end = len(self._out) + padding + size
        # The number of elements stands before the data.
        return padding, (-4 - end) % _DATA_ALIGNMENT, size

    def _padding(self, alignment: int) -> int:
        """What a part must be moved on by, so that what follows its first four bytes is aligned."""
        return (-len(self._out) - 4) % alignment

    def _place(self, handle: int) -> None:
        part = self._tree.part(handle)
        position = self._find(part, after=max(self._waiting[handle])[0]) if isinstance(part, Blob) else None
        if position is None:
            self._write(bytes(self._padding(_alignment(part))))
            position = self._write_part(part)
        for field, behind in self._waiting.pop(handle):
            struct.pack_into("<I", self._out, field, position + behind - field)
            self._final[field : field + 4] = b"\1" * 4

    def _find(self, blob: Blob, after: int) -> int | None:
        """Where the same bytes already stand, behind `after` and aligned."""
        stored = blob.stored
        position = self._out.find(stored, after + 4)
        while position >= 0:
            aligned = position % 4 == 0 and (position + 4) % blob.alignment == 0
            if aligned and 0 not in self._final[position : position + len(stored)]:
                return position
            position = self._out.find(stored, position + 1)
        return None

    def _write(self, data: bytes) -> int:
        position = len(self._out)
        self._out += data
        self._final += b"\1" * len(data)
        return position

    def _write_part(self, part: Part) -> int:
        if isinstance(part, Blob):
            return self._write(part.stored)
        if isinstance(part, Table):
            return self._write_table(part)
        position = self._write(struct.pack("<I", len(part.parts)))
        for target in part.parts:
            self._refer(target)
        return position

    def _refer(self, target: int) -> None:
        field = self._write(bytes(4))
        self._final[field : field + 4] = bytes(4)
        home, behind = self._home(target)
        self._waiting[home].append((field, behind))
        self._referrers[home] -= 1
        if not self._referrers[home]:
            self._make_ready(home)

    def _write_table(self, table: Table) -> int:
        order = sorted(table.fields, key=lambda item: (-_field_bytes(item[1]), item[0]))
        # Its alignment is that of the place behind its first four bytes, like a vector's.
        offsets, end = {}, 4
        for slot, value in order:
            end += -(end - 4) % _field_bytes(value)
            offsets[slot] = end
            end += _field_bytes(value)
        vtable = _vtable(offsets, end)
        position = self._write(bytes(4))
        for slot, value in order:
            self._write(bytes(position + offsets[slot] - len(self._out)))
            if isinstance(value, Ref):
                self._refer(value.part)
            else:
                self._write(value.data)
        if vtable not in self._vtables:
            self._write(bytes(len(self._out) % 2))
            self._vtables[vtable] = self._write(vtable)
        struct.pack_into("<i", self._out, position, position - self._vtables[vtable])
        return position


def _vtable(offsets: dict[int, int], end: int) -> bytes:
    """Size of the vtable and of the table, then where each field lies in it, 0 for one that has its default."""
    slots = max(offsets, default=-1) + 1
    return struct.pack(f"<HH{slots}H", 4 + 2 * slots, end, *(offsets.get(slot, 0) for slot in range(slots)))


def _targets(part: Part) -> Sequence[int]:
    if isinstance(part, Refs):
        return part.parts
    if isinstance(part, Table):
        return [value.part for _, value in part.fields if isinstance(value, Ref)]
    return ()


def _field_bytes(value: Scalar | Ref) -> int:
    return 4 if isinstance(value, Ref) else len(value.data)


def _size(part: Part) -> int:
    if isinstance(part, Blob):
        return 4 + len(part.data)
    if isinstance(part, Refs):
        return 4 + 4 * len(part.parts)
    return 4 + sum(_field_bytes(value) for _, value in part.fields)


def _alignment(part: Part) -> int:
    """Of what follows the first four bytes: the elements of a vector, the fields of a table."""
    if isinstance(part, Blob):
        return max(part.alignment, 4)
    return max([4, *(_field_bytes(value) for _, value in part.fields)]) if isinstance(part, Table) else 4


def _is_data(part: Part) -> bool:
    return isinstance(part, Blob) and part.alignment == _DATA_ALIGNMENT


def _leading_to_data(tree: TreeBuilder, handles: Sequence[int]) -> set[int]:
    """Parts from which offsets lead to constant data, by one or more steps."""
    leads: set[int] = set()
    # Parts that are referred to have the lower handles.
    for handle in sorted(handles):
        if any(target in leads or _is_data(tree.part(target)) for target in _targets(tree.part(handle))):
            leads.add(handle)
    return leads


def _reached(tree: TreeBuilder, root: int) -> list[int]:
    """The parts that offsets lead to from the root on."""
    reached = {root: None}
    pending = [root]
    while pending:
        for target in _targets(tree.part(pending.pop())):
            if target not in reached:
                reached[target] = None
                pending.append(target)
    return list(reached)


def _find_inside(tree: TreeBuilder, handles: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Short vectors whose length and elements stand within a longer one: which, and where in it.

    The shape [16] is the end of the shape [32, 1, 1, 16]: one element, 16.
    """
    blobs = [(handle, part) for handle in handles if isinstance(part := tree.part(handle), Blob)]
    blobs.sort(key=lambda item: len(item[1].data), reverse=True)
    inside: dict[int, tuple[int, int]] = {}
    for number, (handle, part) in enumerate(blobs):
        if part.alignment > 4 or _size(part) > _SHORT_BYTES:
            continue
        for home, other in blobs[:number]:
            place = other.stored.find(part.stored)
            if home not in inside and place >= 0 and place % 4 == 0:
                inside[handle] = (home, place)
                break
    return inside
