"""The work of the operators of a graph: what their cost depends on, on whatever device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgecomp.graph import Graph, Operator, Subgraph, Tensor, operator_macs

WorkKind = Literal[
    "pointwise", "convolution", "depthwise", "dense", "elementwise", "decode", "constant", "free", "unknown"
]
Decoder = Literal["LUT", "LUT by bits", "HUFFMAN", "PRUNE"]
"""Loops of TFLM's DECODE; "LUT by bits" is the one for tables that the fast loop does not take."""

MAC_KINDS = frozenset({"pointwise", "convolution", "depthwise", "dense"})
# They move no data.
_FREE = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE"})
# By the first byte of the header (tflite-micro, kernels/decode_state.h).
_DECODERS: tuple[Decoder, ...] = ("LUT", "HUFFMAN", "PRUNE")
_FAST_LUT_BITS = (2, 3, 4)
# Their work cannot be read from the shapes of their tensors, or is done in another subgraph.
_UNKNOWN = frozenset({
    "LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "CONV_3D_TRANSPOSE", "WHILE", "IF", "CALL",
})  # fmt: skip


@dataclass(frozen=True)
class OperatorWork:
    """What the cost of one operator depends on.

    Attributes:
        dtype: Of the arithmetic: "int8", "dynamic_range", ...; the schema's own name where no family knows it.
        macs: Multiply-accumulates; 0 for a kind that has none.
        outputs: Elements of its first output.
        channels: The last axis of that.
        elements: Of its largest activation.
        bytes: Weights and activations that it reads and writes.
        taps: Positions of its kernel: height times width (times depth); 1 for a matrix product.
        decoded: Of DECODE: how many values each loop unpacks, at every inference.
    """

    layer: str
    code: str
    kind: WorkKind
    dtype: str
    macs: int
    outputs: int
    channels: int
    elements: int
    bytes: int
    taps: int = 1
    decoded: tuple[tuple[Decoder, int], ...] = ()


def rounded_up(item: OperatorWork, output_multiple: int, reduction_multiple: int) -> tuple[float, float]:
    """MACs and outputs that kernels compute, with their channels in groups of so many."""
    groups = -(-item.channels // output_multiple)
    outputs = item.outputs / item.channels * groups * output_multiple
    reduction = item.macs / item.outputs
    if item.kind != "depthwise":  # There is nothing to add up over channels.
        reduction = math.ceil(reduction / reduction_multiple) * reduction_multiple
    return outputs * reduction, outputs


def operator_work(graph: Graph) -> list[OperatorWork]:
    """The work of every operator of the main subgraph, in order."""
    subgraph = graph.main
    return [_work(subgraph, operator) for operator in subgraph.operators]


def _work(subgraph: Subgraph, operator: Operator) -> OperatorWork:
    inputs = [subgraph.tensors[index] for index in operator.inputs if index >= 0]
    outputs = [subgraph.tensors[index] for index in operator.outputs if index >= 0]
    activations = [tensor for tensor in inputs if not tensor.is_constant] + outputs
    macs = operator_macs(subgraph, operator)
    decoded = _decoded(operator, outputs)
    return OperatorWork(
        layer=subgraph.layer(operator),
        code=operator.code,
        kind="decode" if decoded else _kind(operator, inputs, outputs, macs),
        dtype=_dtype(inputs, outputs),
        macs=macs,
        outputs=outputs[0].elements if outputs else 0,
        channels=outputs[0].shape[-1] if outputs and outputs[0].shape else 1,
        elements=max((tensor.elements for tensor in activations), default=0),
        bytes=sum(tensor.data_bytes if tensor.is_constant else tensor.size_bytes for tensor in [*inputs, *outputs]),
        taps=_taps(operator, inputs),
        decoded=decoded,
    )


def _taps(operator: Operator, inputs: list[Tensor]) -> int:
    if operator.code in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV") and len(inputs) > 1:
        return math.prod(inputs[1].shape[1:3])  # (out or 1, height, width, channels)
    return math.prod(inputs[1].shape[:3]) if operator.code == "CONV_3D" and len(inputs) > 1 else 1


def _decoded(operator: Operator, outputs: list[Tensor]) -> tuple[tuple[Decoder, int], ...]:
    """Values by loop; empty for any other operator, and for a DECODE with a code that TFLM itself does not know."""
    headers = operator.decode_headers
    if len(headers) != len(outputs) or any(len(header) < 6 or header[0] >= len(_DECODERS) for header in headers):
        return ()
    return tuple((_decoder(header, result), result.elements) for header, result in zip(headers, outputs, strict=True))


def _decoder(header: bytes, result: Tensor) -> Decoder:
    code = _DECODERS[header[0]]
    # As its Setup goes by the scales: channels on the last axis (depthwise convolutions) change with each value.
    is_last = len(result.scales) > 1 and result.shape[:1] != (len(result.scales),)
    if code == "LUT" and (is_last or header[5] & 7 not in _FAST_LUT_BITS):
        return "LUT by bits"
    return code


def _kind(operator: Operator, inputs: list[Tensor], outputs: list[Tensor], macs: int) -> WorkKind:
    if operator.is_custom or operator.code in _UNKNOWN:
        return "unknown"
    if operator.code in _FREE:
        return "free"
    if inputs and all(tensor.is_constant for tensor in inputs):
        return "constant"
    if not macs:
        return "elementwise"
    shape = outputs[0].shape
    if operator.code == "DEPTHWISE_CONV_2D":
        return "depthwise"
    if operator.code == "CONV_2D" and inputs[1].shape[1:3] != (1, 1):
        return "convolution"
    if operator.code in ("TRANSPOSE_CONV", "CONV_3D"):
        return "convolution"
    # A matrix times one vector reads every weight for a single multiplication.
    return "dense" if math.prod(shape[:-1]) == 1 else "pointwise"


_ACTIVATION_DTYPES = {"FLOAT32": "float32", "INT8": "int8", "UINT8": "int8", "INT16": "int16x8"}


def _dtype(inputs: list[Tensor], outputs: list[Tensor]) -> str:
    activation = next((tensor for tensor in inputs if not tensor.is_constant), outputs[0] if outputs else None)
    # The largest constant is the weights; biases and shapes are small.
    weights = max((tensor for tensor in inputs if tensor.is_constant), key=lambda item: item.elements, default=None)
    name = "" if activation is None else activation.type
    if weights is not None and weights.type == "INT4":
        return "int4"
    if name == "FLOAT32" and weights is not None and weights.type in ("INT8", "UINT8"):
        return "dynamic_range"
    return _ACTIVATION_DTYPES.get(name, name.lower())
