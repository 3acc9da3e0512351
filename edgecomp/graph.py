"""Read a .tflite file without TensorFlow: operators, tensors, shapes, MACs and bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgecomp.errors import GraphError
from edgecomp.flatbuffer import Buffer, Table
from edgecomp.tensors import TensorSpec
from edgecomp.tflite_schema import BUILTIN_OPERATORS, FILE_IDENTIFIER, TENSOR_TYPES

_MAX_RANK = 8
_DECODE_HEADER_BYTES = 16


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        shape: As stored; with 1 where the size is dynamic.
        dynamic: The axes whose size is not fixed.
        type: The schema's name, for example "INT8".
        data_bytes: Size of its constant data, 0 for an activation.
        scales, zero_points: Per tensor (one value) or per channel; empty for a float tensor.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dynamic: tuple[int, ...]
    type: str
    data_bytes: int
    is_variable: bool
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]

    @property
    def is_constant(self) -> bool:
        """True for weights, biases, shapes and other data stored in the file."""
        return self.data_bytes > 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory (4-bit types two to a byte); 0 for types without a fixed size."""
        bits = _BITS[self.type]
        return 0 if bits is None else (self.elements * bits + 7) // 8

    def spec(self, name: str) -> TensorSpec:
        """The tensor as input or output `name` of the model."""
        dtype = _NUMPY[self.type]
        if dtype is None:
            raise GraphError(f"Tensor {name!r} has type {self.type}, which cannot be fed from numpy.")
        shape = tuple(None if axis in self.dynamic else size for axis, size in enumerate(self.shape))
        if not self.scales:
            return TensorSpec(name, shape, dtype)
        return TensorSpec(name, shape, dtype, self.scales[0], self.zero_points[0] if self.zero_points else 0)


@dataclass(frozen=True)
class Operator:
    """One node: its operator, and the indices of its tensors (-1 for an optional input that is absent).

    Attributes:
        decode_headers: Of TFLM_DECODE: the first bytes of what its decoder is told of each output.
    """

    index: int
    code: str
    version: int
    is_custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    decode_headers: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Subgraph:
    """Operators in the order in which they run, and their tensors."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def layer(self, operator: Operator) -> str:
        """The name of an operator as its model calls it: its first output's."""
        result = self.output(operator)
        return f"operator {operator.index}" if result is None else result.name

    def input(self, operator: Operator, position: int = 0) -> Tensor | None:
        """An input of an operator; None where it has no such input, or leaves it out."""
        index = operator.inputs[position] if position < len(operator.inputs) else -1
        return None if index < 0 else self.tensors[index]

    def output(self, operator: Operator, position: int = 0) -> Tensor | None:
        """An output of an operator, likewise."""
        index = operator.outputs[position] if position < len(operator.outputs) else -1
        return None if index < 0 else self.tensors[index]


@dataclass(frozen=True)
class Graph:
    """A model file.

    Attributes:
        inputs, outputs: By the first signature's names where there is one, else by the tensors' names.
        has_signature: ai-edge-quantizer calibrates by signature.
    """

    file_bytes: int
    subgraphs: tuple[Subgraph, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    has_signature: bool

    @property
    def main(self) -> Subgraph:
        """The subgraph that runs first."""
        return self.subgraphs[0]

    @property
    def is_for_tflm_only(self) -> bool:
        """Packed for TensorFlow Lite Micro: weights for its DECODE operator, or one zero point for many scales."""
        decoded = any(operator.code == "TFLM_DECODE" for _, operator in self.operators())
        tensors = (tensor for subgraph in self.subgraphs for tensor in subgraph.tensors)
        return decoded or any(len(tensor.zero_points) == 1 < len(tensor.scales) for tensor in tensors)

    def operators(self) -> Iterator[tuple[Subgraph, Operator]]:
        """Every operator of every subgraph."""
        for subgraph in self.subgraphs:
            for operator in subgraph.operators:
                yield subgraph, operator

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one inference, over all subgraphs; see `operator_macs`."""
        return sum(operator_macs(subgraph, operator) for subgraph, operator in self.operators())

    @cached_property
    def weight_bytes(self) -> int:
        """Constant data in the file."""
        return sum(tensor.data_bytes for subgraph in self.subgraphs for tensor in subgraph.tensors)


_BITS = {name: bits for name, _, bits in TENSOR_TYPES.values()}
_NUMPY = {name: dtype for name, dtype, _ in TENSOR_TYPES.values()}


def operator_macs(subgraph: Subgraph, operator: Operator) -> int:
    """Multiply-accumulates of one convolution, matrix product or transposed convolution; 0 for anything else."""
    result, kernel, source = subgraph.output(operator), subgraph.input(operator, 1), subgraph.input(operator)
    if result is None or kernel is None or source is None:
        return 0
    outputs, weights = result.elements, kernel.shape
    if operator.code == "CONV_2D" and len(weights) == 4:
        return outputs * math.prod(weights[1:])  # (out, height, width, in)
    if operator.code == "CONV_3D" and len(weights) == 5:
        return outputs * math.prod(weights[:4])  # (depth, height, width, in, out)
    if operator.code == "DEPTHWISE_CONV_2D" and len(weights) == 4:
        return outputs * weights[1] * weights[2]  # (1, height, width, channels)
    if operator.code == "FULLY_CONNECTED" and len(weights) == 2:
        return outputs * weights[1]  # (out, in)
    if operator.code == "TRANSPOSE_CONV" and len(weights) == 4:
        # Inputs are (output shape, weights, x): each element of x meets the whole kernel.
        x = subgraph.input(operator, 2)
        return 0 if x is None else x.elements * weights[0] * weights[1] * weights[2]
    if operator.code == "BATCH_MATMUL":
        return outputs * source.shape[-1] if source.shape else 0
    return 0


def read_graph(data: bytes, where: str = "The model") -> Graph:
    """Read the bytes of a .tflite file; `where` names it in errors.

    Raises:
        GraphError: Not a .tflite file, or a damaged one.
    """
    if len(data) < 8 or bytes(data[4:8]) != FILE_IDENTIFIER:
        raise GraphError(
            f"{where} is not a .tflite file: bytes 4 to 8 are {bytes(data[4:8])!r}, not {FILE_IDENTIFIER!r}.",
            hint="Give a TensorFlow Lite flatbuffer, a .keras or .h5 file, or a SavedModel folder.",
        )
    buffer = Buffer(data, where)
    root = buffer.root()
    codes = [_operator_code(buffer, code) for code in root.tables(1)]
    sizes = [_buffer_bytes(buffer, item) for item in root.tables(4)]
    subgraphs = [_subgraph(buffer, table, codes, sizes) for table in root.tables(2)]
    if any(name == "TFLM_DECODE" for name, _, _ in codes):
        subgraphs = [_with_decode_headers(root, *pair) for pair in zip(root.tables(2), subgraphs, strict=True)]
    if not subgraphs:
        raise buffer.fail("it holds no subgraph")
    signature = next(root.tables(7), None)
    main = subgraphs[0]
    if signature is not None and (index := signature.scalar(4, "I")) < len(subgraphs):
        main = subgraphs[index]
    return Graph(
        file_bytes=len(data),
        subgraphs=tuple(subgraphs),
        inputs=_border(buffer, main, main.inputs, signature, 0),
        outputs=_border(buffer, main, main.outputs, signature, 1),
        has_signature=signature is not None,
    )


def _operator_code(buffer: Buffer, table: Table) -> tuple[str, int, bool]:
    # Old files have the code in a byte (placeholder 127 beyond it), new ones in an int: the larger one counts.
    number = max(table.scalar(0, "b"), table.scalar(3, "i"))
    version = table.scalar(2, "i", 1)
    if not 0 <= number < len(BUILTIN_OPERATORS):
        raise buffer.fail(f"operator code {number} is not in the schema")
    name = BUILTIN_OPERATORS[number]
    if name == "CUSTOM":
        return table.text(1) or "CUSTOM", version, True
    return name, version, False


def _buffer_bytes(buffer: Buffer, table: Table) -> int:
    size = len(table.bytes(0))
    # Models above 2 GB keep data behind the flatbuffer: (offset, size) instead of a vector.
    outside = table.scalar_u64(2)
    if table.scalar_u64(1) > 1 and outside:
        if table.scalar_u64(1) + outside > len(buffer.data):
            raise buffer.fail("external data runs past the end")
        return outside
    return size


def _subgraph(buffer: Buffer, table: Table, codes: list[tuple[str, int, bool]], sizes: list[int]) -> Subgraph:
    tensors = tuple(_tensor(buffer, index, item, sizes) for index, item in enumerate(table.tables(0)))

    def indices(of: Table, number: int) -> tuple[int, ...]:
        values = of.numbers(number, "i4")
        if len(values) and (values.min() < -1 or values.max() >= len(tensors)):
            raise buffer.fail(f"a tensor index lies outside 0..{len(tensors) - 1}")
        return tuple(int(value) for value in values)

    operators = []
    for index, item in enumerate(table.tables(3)):
        code = item.scalar(0, "I")
        if code >= len(codes):
            raise buffer.fail(f"operator {index} has code {code} of {len(codes)}")
        name, version, is_custom = codes[code]
        operators.append(Operator(index, name, version, is_custom, indices(item, 1), indices(item, 2)))
    return Subgraph(tensors, tuple(operators), indices(table, 1), indices(table, 2))


def _with_decode_headers(root: Table, table: Table, subgraph: Subgraph) -> Subgraph:
    data, buffers = list(root.tables(4)), [item.scalar(2, "I") for item in table.tables(0)]

    def header(index: int) -> bytes:
        return bytes(data[buffers[index]].bytes(0)[:_DECODE_HEADER_BYTES]) if index >= 0 and data else b""

    operators = [
        replace(operator, decode_headers=tuple(header(index) for index in operator.inputs[1::2]))
        if operator.code == "TFLM_DECODE"
        else operator
        for operator in subgraph.operators
    ]
    return replace(subgraph, operators=tuple(operators))


def _tensor(buffer: Buffer, index: int, table: Table, sizes: list[int]) -> Tensor:
    name = table.text(3)
    kind = table.scalar(1, "b")
    if kind not in TENSOR_TYPES:
        raise buffer.fail(f"tensor {index} has type {kind}, which is not in the schema")
    stored, signature = table.numbers(0, "i4"), table.numbers(7, "i4")
    if len(stored) > _MAX_RANK or (len(stored) and stored.min() < -1):
        raise buffer.fail(f"tensor {index} has shape {stored[: _MAX_RANK + 1].tolist()}")
    dynamic = signature if len(signature) == len(stored) else stored
    data = table.scalar(2, "I")
    if data >= max(len(sizes), 1):
        raise buffer.fail(f"tensor {index} uses buffer {data} of {len(sizes)}")
    quantization = table.table(4)
    scales = quantization.numbers(2, "f4") if quantization is not None else np.empty(0)
    zero_points = quantization.numbers(3, "i8") if quantization is not None else np.empty(0)
    return Tensor(
        index=index,
        name=name or f"tensor {index}",
        shape=tuple(max(int(size), 1) if size < 0 else int(size) for size in stored),
        dynamic=tuple(axis for axis, size in enumerate(dynamic) if size < 0),
        type=TENSOR_TYPES[kind][0],
        data_bytes=sizes[data] if sizes else 0,
        is_variable=bool(table.scalar(5, "B")),
        scales=tuple(float(scale) for scale in scales),
        zero_points=tuple(int(point) for point in zero_points),
    )


def _border(
    buffer: Buffer, subgraph: Subgraph, indices: tuple[int, ...], signature: Table | None, field: int
) -> tuple[TensorSpec, ...]:
    names: dict[int, str] = {}
    if signature is not None:
        names = {entry.scalar(1, "I"): entry.text(0) for entry in signature.tables(field)}
    if any(index < 0 for index in indices):
        raise buffer.fail("an input or output of the model names no tensor")
    return tuple(subgraph.tensors[index].spec(names.get(index, subgraph.tensors[index].name)) for index in indices)
