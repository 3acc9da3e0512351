"""Code the weights of an INT8 .tflite file for TensorFlow Lite Micro, which decodes them as it runs.

A tensor with few distinct values, as clustering makes them, becomes indices of 1 to 7 bits into lookup tables. The same
DECODE operator also takes Huffman codes and pruned tensors; each tensor gets what is smallest for it. DECODE writes the
weights into the arena right before the operator that reads them, at every inference.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgecomp.pack._codes import HEADER_BYTES, Code, Kind, huffman, lut_by_channel, lut_shared, prune, value_counts
from edgecomp.pack._decode import Key
from edgecomp.pack._huffman import coded_bits
from edgecomp.pack.size import ANCILLARY_BYTES, OPERATOR_BYTES, TABLE_BYTES_PER_VALUE
from edgecomp.tflite_edit import text_of

KINDS: tuple[Kind, ...] = ("LUT", "HUFFMAN", "PRUNE")

_INT8 = 9


@dataclass(frozen=True, eq=False)
class Weights:
    """A constant int8 tensor of a model.

    Attributes:
        axis: Of the channels; 0 with a single scale.
        channels: Number of scales.
        reason: Why it cannot be coded, or None.
    """

    key: Key
    name: str
    values: np.ndarray = field(repr=False)
    axis: int
    channels: int
    reason: str | None = None

    @cached_property
    def counts(self) -> Counter[int]:
        """How often each value occurs."""
        return value_counts(self.values)

    @cached_property
    def values_per_channel(self) -> int:
        """The most distinct values that a channel has."""
        if self.channels == 1 or not 0 <= self.axis < self.values.ndim:
            return len(self.counts)
        return max(len(np.unique(channel)) for channel in np.moveaxis(self.values, self.axis, 0))

    @cached_property
    def lut(self) -> Code | None:
        """As indices into lookup tables, whichever way is smaller; None with too many values."""
        codes = [lut_shared(self.values, self.channels)]
        if self.channels > 1:
            codes.append(lut_by_channel(self.values, self.axis))
        return min((code for code in codes if code is not None), key=lambda code: code.size_bytes, default=None)


def find_weights(model: Any) -> list[Weights]:
    """Every constant int8 tensor that an operator reads, in the order in which they are read."""
    users = Counter(tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors)
    found: dict[Key, Weights] = {}
    for number, subgraph in enumerate(model.subgraphs):
        for operator in subgraph.operators:
            for index in map(int, operator.inputs if operator.inputs is not None else ()):
                tensor = subgraph.tensors[index] if index >= 0 else None
                if tensor is None or tensor.type != _INT8 or (number, index) in found:
                    continue
                data = model.buffers[tensor.buffer].data
                if data is None or len(data) == 0:
                    continue
                reason = None
                if users[tensor.buffer] > 1:
                    reason = "another tensor shares its data"
                elif index in subgraph.outputs:
                    reason = "it is an output of the model"
                found[number, index] = _weights((number, index), tensor, data, reason)
    return list(found.values())


def _weights(key: Key, tensor: Any, data: Any, reason: str | None) -> Weights:
    values = np.frombuffer(bytes(data), np.int8)
    shape = tuple(map(int, tensor.shape)) if tensor.shape is not None else ()
    if math.prod(shape) == values.size:
        values = values.reshape(shape)
    else:
        reason = f"it has {values.size} values for a shape of {shape}"
    quantization = tensor.quantization
    channels = 1 if quantization is None or quantization.scale is None else len(quantization.scale)
    axis = quantization.quantizedDimension if channels > 1 else 0
    if reason is None and channels > 1 and axis not in (0, values.ndim - 1):
        reason = f"its channels are axis {axis}, and DECODE takes the first or the last"
    return Weights(key, text_of(tensor.name) or f"tensor {key[1]}", values, axis, channels, reason)


def smallest_codes(weights: Sequence[Weights], kinds: Collection[Kind] = KINDS) -> dict[Key, Code]:
    """The code that makes the file smallest, for each tensor that some code makes smaller.

    Tensors with Huffman codes share a table where that is smaller; they are joined greedily, the pair first that saves
    most.
    """
    alone = {item.key: _alone(item, kinds) for item in weights if item.reason is None}
    groups: list[tuple[Weights, ...]] = [(item,) for item in weights if item.reason is None]
    if "HUFFMAN" in kinds:
        groups = _join(groups, alone)
    codes: dict[Key, Code] = {}
    for group in groups:
        joint = huffman([item.values for item in group]) if "HUFFMAN" in kinds else []
        if joint and _bytes(joint) < sum(_bytes_alone(item, alone[item.key]) for item in group):
            codes |= {item.key: code for item, code in zip(group, joint, strict=True)}
        else:
            codes |= {item.key: code for item in group if (code := alone[item.key]) is not None}
    return codes


def _alone(item: Weights, kinds: Collection[Kind]) -> Code | None:
    """The smallest code without a table that others share; None where the plain bytes are smaller."""
    codes = [item.lut if "LUT" in kinds else None, prune(item.values) if "PRUNE" in kinds else None]
    best = min((code for code in codes if code is not None), key=lambda code: code.size_bytes, default=None)
    return best if best is not None and _bytes([best]) < item.values.size else None


def _bytes(codes: Sequence[Code]) -> int:
    """Bytes in the file of tensors with one header."""
    return ANCILLARY_BYTES + len(codes[0].ancillary) + sum(OPERATOR_BYTES + len(code.encoded) for code in codes)


def _bytes_alone(item: Weights, code: Code | None) -> int:
    return item.values.size if code is None else _bytes([code])


def _join(groups: list[tuple[Weights, ...]], alone: Mapping[Key, Code | None]) -> list[tuple[Weights, ...]]:
    sizes: dict[tuple[Weights, ...], float] = {
        group: min(_huffman_bytes(group), _bytes_alone(group[0], alone[group[0].key])) for group in groups
    }
    while True:
        pairs = list(itertools.combinations(groups, 2))
        for left, right in pairs:
            if left + right not in sizes:
                sizes[left + right] = _huffman_bytes(left + right)
        saved, left, right = max(
            ((sizes[left] + sizes[right] - sizes[left + right], left, right) for left, right in pairs),
            key=lambda item: item[0],
            default=(0.0, (), ()),
        )
        if saved <= 0:
            return groups
        groups = [group for group in groups if group not in (left, right)] + [left + right]


def _huffman_bytes(group: tuple[Weights, ...]) -> float:
    """Bytes in the file of a group with one Huffman code, without making it."""
    counts = sum((item.counts for item in group), Counter())
    tables = HEADER_BYTES + TABLE_BYTES_PER_VALUE * len(counts)
    return coded_bits(counts) / 8 + tables + ANCILLARY_BYTES + OPERATOR_BYTES * len(group)
