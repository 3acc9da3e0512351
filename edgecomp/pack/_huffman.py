"""Huffman codes in the form of TFLM's DECODE operator, decode type 1 with table entries of 16 bits.

A table is looked up with the next bits of the stream. An entry is a value and how many of those bits it took, or the
place of a further table and how many bits that one takes (tflite-micro, kernels/decode_state_huffman.h). How wide the
tables are is free: here they are what takes the fewest bytes.

Codes: D. A. Huffman, "A Method for the Construction of Minimum-Redundancy Codes", Proc. IRE 40 (1952).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_FOUND = 0x8000
_BITS_SHIFT = 11
_MAX_BITS = 15  # Four bits of an entry say how many bits of its lookup a value took.
_WORD_BITS = 32


def coded_bits(counts: Mapping[int, int]) -> int:
    """Length of coded values without making their code: the sum of what every joining of two branches weighs."""
    heap = list(counts.values())
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heap[0]
        heapq.heapreplace(heap, joined)
        total += joined
    return total


class HuffmanCode:
    """The code of an alphabet of int8 values. The same counts give the same code.

    Args:
        counts: How often each value occurs.
    """

    def __init__(self, counts: Mapping[int, int]) -> None:
        self._root = _tree(counts)
        self._words = {node.value: (word, end) for node, word, end in _leaves(self._root)}

    @property
    def first_lookup_bits(self) -> int:
        """Bits of the first lookup, 1 to 15."""
        return self._root.plan[1]

    def tables(self) -> bytes:
        """The lookup tables, one behind the other."""
        entries: list[int] = []
        _append_table(self._root, entries)
        return np.array(entries, "<u2").tobytes()

    def encode(self, values: np.ndarray) -> bytes:
        """The stream, in whole words of 32 bits that are read from their highest bit on, the first byte first.

        The last lookup takes all bits of its table even where the value needs fewer: they belong to the stream.
        """
        flat = values.ravel().tolist()
        if not flat:
            return b""
        bits = "".join([self._words[value][0] for value in flat])
        word, end = self._words[flat[-1]]
        bits += "0" * (end - len(word))
        bits += "0" * (-len(bits) % _WORD_BITS)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


@dataclass(frozen=True, eq=False)
class _Node:
    """A value, or a branch on the next bit."""

    value: int = 0
    branches: tuple[_Node, ...] = ()

    @cached_property
    def plan(self) -> tuple[int, int]:
        """Entries of all tables from this branch on at their fewest, and the bits of the first table.

        A table of b bits has 2 ** b entries and stands for every branch above depth b.
        """
        best: tuple[int, int] | None = None
        level = list(self.branches)
        for bits in range(1, _MAX_BITS + 1):
            further = [node for node in level if node.branches]
            entries = (1 << bits) + sum(node.plan[0] for node in further)
            # Of two that are equally small the wider first table, which saves lookups.
            if best is None or entries <= best[0]:
                best = (entries, bits)
            if not further:
                break
            level = [branch for node in further for branch in node.branches]
        if best is None:
            raise AssertionError("a value has no table")
        return best


def _tree(counts: Mapping[int, int]) -> _Node:
    if len(counts) == 1:  # A word must have a bit.
        leaf = _Node(next(iter(counts)))
        return _Node(branches=(leaf, leaf))
    heap = [(count, order, _Node(value)) for order, (value, count) in enumerate(sorted(counts.items()))]
    heapq.heapify(heap)
    for order in range(len(heap), 2 * len(heap) - 1):
        low, high = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (low[0] + high[0], order, _Node(branches=(low[2], high[2]))))
    return heap[0][2]


def _under(node: _Node, bits: int, word: str = "") -> Iterator[tuple[_Node, str]]:
    """What a lookup of that many bits can meet: values, branches at that depth; each with the bits that lead there."""
    if not node.branches or len(word) == bits:
        yield node, word
        return
    for bit, branch in zip("01", node.branches, strict=True):
        yield from _under(branch, bits, word + bit)


def _leaves(root: _Node, prefix: str = "") -> Iterator[tuple[_Node, str, int]]:
    """Every value with its word, and the bits taken from the stream until it is known."""
    bits = root.plan[1]
    for node, word in _under(root, bits):
        if node.branches:
            yield from _leaves(node, prefix + word)
        else:
            yield node, prefix + word, len(prefix) + bits


def _append_table(root: _Node, entries: list[int]) -> None:
    """The table of a branch and all that follow from it."""
    bits = root.plan[1]
    start = len(entries)
    entries.extend([0] * (1 << bits))
    for node, word in _under(root, bits):
        unused = bits - len(word)
        first = start + (int(word, 2) << unused)
        if node.branches:
            # Counted from the entry itself.
            entries[first] = (node.plan[1] - 1) << _BITS_SHIFT | (len(entries) - first)
            _append_table(node, entries)
        else:
            entry = _FOUND | len(word) << _BITS_SHIFT | node.value & 0xFF
            entries[first : first + (1 << unused)] = [entry] * (1 << unused)
