"""How large a packed file will be, from a read graph and planned bits, without packing anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgecomp.graph import Graph, Operator, Subgraph, Tensor
from edgecomp.pack._codes import HEADER_BYTES, Kind
from edgecomp.pack._huffman import coded_bits

# What a coded tensor takes beside its bits, in bytes of the file: the operator with its lists, and the coded tensor;
# for each header, which tensors with equal tables share, a tensor and a buffer.
OPERATOR_BYTES = 48
ANCILLARY_BYTES = 28
TABLE_BYTES_PER_VALUE = 3  # Of a Huffman code, about.

# Bytes of the parts of a slimmed file, each with its entry in the list that holds it; see docs/packing.md.
_START = 8 + 20 + 28 + 20  # Identifier, model, subgraph and its lists.
_LAYOUTS = 90  # Which fields tables have, less the lists that stand inside of others.
_TENSOR = 20
_QUANTIZATION = 12
_ZERO_POINT = 12
_BUFFER = 16
_OPERATOR = 20
_OPTIONS = 8 + 12  # In the operator, and their own table, which equal operators share.
_OPERATOR_CODE = 12
_DECODE_CODE = 28
_JOINED = 6  # What a coded tensor saves on average: up to half of them share a DECODE, which saves 24.


@dataclass(frozen=True)
class PlannedCode:
    """How a weight tensor is to be coded.

    Attributes:
        bits: Of an index (LUT), or of a value on average (HUFFMAN: `huffman_bits`, or the entropy and about 0.04).
        values: Distinct values, in each channel where each has a table of its own; None means 2 ** bits.
        shared: One table for all channels; always so for HUFFMAN.
    """

    bits: float
    kind: Kind = "LUT"
    values: int | None = None
    shared: bool = False


def huffman_bits(counts: Mapping[int, int]) -> float:
    """Bits of a value on average in a Huffman code, tables not counted.

    Args:
        counts: How often each value occurs; not empty.
    """
    return coded_bits(counts) / sum(counts.values())


def estimate_packed_bytes(graph: Graph, codes: Mapping[int, PlannedCode]) -> int:
    """Estimate the bytes of the file that `pack_for_tflm` makes, within 1 %; docs/packing.md has the formula.

    Args:
        graph: The unpacked INT8 file; its main subgraph counts.
        codes: By tensor of the main subgraph; weights without an entry stay as they are, and so do those that their
            code does not make smaller.
    """
    main = graph.main
    weights = {index for operator in main.operators for index in operator.inputs if _is_weights(main, index)}
    total = structure_bytes(graph)
    coded = False
    for index in weights:
        tensor = main.tensors[index]
        plain = tensor.data_bytes
        planned = plain if index not in codes else coded_bytes(tensor, codes[index])
        total += min(plain, planned)
        coded |= planned < plain
    return round(total + (_DECODE_CODE if coded else 0))


def coded_bytes(tensor: Tensor, code: PlannedCode) -> float:
    """Bytes of one weight tensor in the packed file, with all that decoding it takes there."""
    values = code.values if code.values is not None else math.ceil(2**code.bits)
    table: float = values
    if code.kind == "HUFFMAN":
        table = TABLE_BYTES_PER_VALUE * values
    elif code.kind == "PRUNE":
        table = 0
    elif not code.shared:
        table = values * max(len(tensor.scales), 1)
    stream = math.ceil(tensor.elements * code.bits / 8)
    return stream + HEADER_BYTES + table + OPERATOR_BYTES + ANCILLARY_BYTES - _JOINED


def structure_bytes(graph: Graph) -> float:
    """Bytes of a slimmed file without its int8 weights: biases, scales, shapes, tensors, operators, lists."""
    main = graph.main
    operators = [operator for operator in main.operators if not _falls_away(main, operator)]
    used = {index for operator in operators for index in _inputs(operator) + operator.outputs if index >= 0}
    tensors = [main.tensors[index] for index in sorted(used)]
    quantized = [tensor for tensor in tensors if tensor.scales and not _is_bias(tensor)]
    constants = [tensor for tensor in tensors if tensor.is_constant]
    total: float = _START + _LAYOUTS
    total += (_TENSOR * len(tensors)) + sum(4 + 4 * len(shape) for shape in {tensor.shape for tensor in tensors})
    total += sum(_QUANTIZATION + 4 + 4 * len(scales) for scales in {tensor.scales for tensor in quantized})
    total += _ZERO_POINT * len({tensor.zero_points[:1] for tensor in quantized})
    total += _BUFFER * len(constants) + sum(tensor.data_bytes for tensor in constants if tensor.type != "INT8")
    total += _OPERATOR_CODE * len({operator.code for operator in operators})
    for operator in operators:
        # A list of one input is the list of the outputs of what comes before.
        lists = 8 + (4 + 4 * len(_inputs(operator)) if len(_inputs(operator)) > 1 else 0)
        total += _OPERATOR + lists + (0 if operator.code == "RESHAPE" else _OPTIONS)
    return total


def _is_weights(main: Subgraph, index: int) -> bool:
    return index >= 0 and main.tensors[index].is_constant and main.tensors[index].type == "INT8"


def _is_bias(tensor: Tensor) -> bool:
    return tensor.is_constant and tensor.type in ("INT32", "INT64")


def _inputs(operator: Operator) -> tuple[int, ...]:
    return operator.inputs[:1] if operator.code == "RESHAPE" else operator.inputs


def _falls_away(main: Subgraph, operator: Operator) -> bool:
    """A RESHAPE whose result only FULLY_CONNECTED reads."""
    if operator.code != "RESHAPE" or operator.outputs[0] in main.outputs:
        return False
    readers = [other for other in main.operators if operator.outputs[0] in other.inputs]
    return all(other.code == "FULLY_CONNECTED" and other.inputs[0] == operator.outputs[0] for other in readers)
