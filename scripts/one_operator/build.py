"""From a description of one operator to the bytes of a .tflite file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

NUMPY = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT8": np.int8,
    "INT16": np.int16,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "UINT32": np.uint32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "COMPLEX64": np.complex64,
}
QUANTIZED = ("INT8", "INT16", "UINT8", "INT4")


@dataclass(frozen=True)
class Tensor:
    """One tensor; `data` makes it a constant (for INT4: one value a byte, packed when written).

    Attributes:
        scales, zero_point: Quantization; several scales are per channel along `axis`.
        low, high: Stored values between which an input is fed.
    """

    type: str
    shape: tuple[int, ...]
    data: np.ndarray | None = None
    scales: tuple[float, ...] = ()
    zero_point: int = 0
    axis: int = 0
    variable: bool = False
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Node:
    """An operator, its options (an object of the schema), its tensors; None is an optional input left out.

    Attributes:
        code: The schema's name, or "CUSTOM:" and the name of a custom operator.
    """

    code: str
    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    options: Any = None
    intermediates: Sequence[Tensor] = ()


@dataclass(frozen=True)
class OneOperator(Node):
    """The operator in question, and what cannot be left out around it.

    Attributes:
        before, after: Operators without which it makes no sense (VAR_HANDLE before READ_VARIABLE).
        others: Operators of subgraphs 1, 2, ... of the file.
    """

    version: int = 1
    before: Sequence[Node] = ()
    after: Sequence[Node] = ()
    others: Sequence[Sequence[Node]] = ()

    @property
    def chain(self) -> list[Node]:
        """All operators of the first subgraph, in their order."""
        return [*self.before, self, *self.after]


class _Writer:
    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.operatorCodes, self.model.subgraphs, self.model.buffers = [], [], [schema.BufferT()]

    def code(self, name: str, version: int) -> int:
        builtin, _, custom = name.partition(":")
        code = schema.OperatorCodeT()
        code.builtinCode = int(getattr(schema.BuiltinOperator, builtin))
        code.customCode = custom or None
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def tensor(self, made: schema.SubGraphT, tensor: Tensor, name: str) -> int:
        item = schema.TensorT()
        item.name = name
        item.shape = list(tensor.shape)
        item.type = int(getattr(schema.TensorType, tensor.type))
        item.isVariable = tensor.variable
        if tensor.scales:
            item.quantization = schema.QuantizationParametersT()
            item.quantization.scale = list(tensor.scales)
            item.quantization.zeroPoint = [tensor.zero_point] * len(tensor.scales)
            item.quantization.quantizedDimension = tensor.axis
        item.buffer = 0
        if tensor.data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(stored(tensor), np.uint8)
            self.model.buffers.append(buffer)
            item.buffer = len(self.model.buffers) - 1
        made.tensors.append(item)
        return len(made.tensors) - 1

    def operator(self, node: Node, place: Callable[[Tensor | None, str], int], version: int) -> schema.OperatorT:
        operator = schema.OperatorT()
        operator.opcodeIndex = self.code(node.code, version)
        operator.inputs = [place(item, f"{node.code} in {index}") for index, item in enumerate(node.inputs)]
        operator.outputs = [place(item, f"{node.code} out {index}") for index, item in enumerate(node.outputs)]
        operator.intermediates = [place(item, f"{node.code} between") for item in node.intermediates]
        if node.options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(node.options).__name__.removesuffix("T"))
            operator.builtinOptions = node.options
        return operator

    def subgraph(self, nodes: Sequence[Node], versions: Sequence[int]) -> None:
        """One subgraph; a tensor object that is met twice is one tensor."""
        made = schema.SubGraphT()
        made.tensors, made.operators, seen = [], [], {}

        def place(tensor: Tensor | None, name: str) -> int:
            if tensor is None:
                return -1
            if id(tensor) not in seen:
                seen[id(tensor)] = self.tensor(made, tensor, name)
            return seen[id(tensor)]

        for node, version in zip(nodes, versions, strict=True):
            made.operators.append(self.operator(node, place, version))
        made.inputs = [seen[id(item)] for item in fed(nodes)]
        made.outputs = [seen[id(item)] for item in nodes[-1].outputs]
        self.model.subgraphs.append(made)


def fed(nodes: Sequence[Node]) -> list[Tensor]:
    """The tensors that nothing in the subgraph makes: its inputs."""
    made = {id(item) for node in nodes for item in node.outputs}
    found: dict[int, Tensor] = {}
    for node in nodes:
        for item in node.inputs:
            if item is not None and item.data is None and not item.variable and id(item) not in made:
                found.setdefault(id(item), item)
    return list(found.values())


def stored(tensor: Tensor) -> bytes:
    """The bytes of a constant."""
    if tensor.data is None:
        return b""
    if tensor.type == "INT4":
        nibbles = np.append(tensor.data.reshape(-1).astype(np.int8) & 0x0F, np.zeros(tensor.data.size % 2, np.int8))
        return bytes((nibbles[0::2] | (nibbles[1::2] << 4)).astype(np.uint8))
    return np.ascontiguousarray(tensor.data, NUMPY[tensor.type]).tobytes()


def build(operator: OneOperator) -> bytes:
    """The file."""
    writer = _Writer()
    versions = [1] * len(operator.before) + [operator.version] + [1] * len(operator.after)
    writer.subgraph(operator.chain, versions)
    for other in operator.others:
        writer.subgraph(other, [1] * len(other))
    builder = flatbuffers.Builder(1024)
    builder.Finish(writer.model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def feeds(operator: OneOperator) -> list[np.ndarray]:
    """What is fed to the inputs of the file, always the same."""
    generator = np.random.default_rng(7)
    values = []
    for item in fed(operator.chain):
        drawn = item.low + generator.random(item.shape) * (item.high - item.low)
        dtype = NUMPY[item.type]
        values.append(np.asarray(drawn if np.issubdtype(dtype, np.inexact) else np.rint(drawn)).astype(dtype))
    return values
