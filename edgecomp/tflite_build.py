"""From a description of operators and tensors to the bytes of a .tflite file. No TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.tflite_edit import pack_model

NUMPY: dict[str, Any] = {
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
        version: Of the operator.
    """

    code: str
    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    options: Any = None
    intermediates: Sequence[Tensor] = ()
    version: int = 1


class _Writer:
    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.operatorCodes, self.model.subgraphs, self.model.buffers = [], [], [schema.BufferT()]
        self._codes: dict[tuple[str, int], int] = {}

    def code(self, name: str, version: int) -> int:
        if (name, version) not in self._codes:
            builtin, _, custom = name.partition(":")
            code = schema.OperatorCodeT()
            code.builtinCode = int(getattr(schema.BuiltinOperator, builtin))
            code.customCode = custom or None
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = version
            self.model.operatorCodes.append(code)
            self._codes[name, version] = len(self.model.operatorCodes) - 1
        return self._codes[name, version]

    def tensor(self, made: Any, tensor: Tensor, name: str) -> int:
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

    def subgraph(self, nodes: Sequence[Node]) -> None:
        """One subgraph; a tensor object that is met twice is one tensor."""
        made = schema.SubGraphT()
        made.tensors, made.operators = [], []
        seen: dict[int, int] = {}

        def place(tensor: Tensor | None, name: str) -> int:
            if tensor is None:
                return -1
            if id(tensor) not in seen:
                seen[id(tensor)] = self.tensor(made, tensor, name)
            return seen[id(tensor)]

        for node in nodes:
            operator = schema.OperatorT()
            operator.opcodeIndex = self.code(node.code, node.version)
            operator.inputs = [place(item, f"{node.code} in {index}") for index, item in enumerate(node.inputs)]
            operator.outputs = [place(item, f"{node.code} out {index}") for index, item in enumerate(node.outputs)]
            operator.intermediates = [place(item, f"{node.code} between") for item in node.intermediates]
            if node.options is not None:
                kind = type(node.options).__name__.removesuffix("T")
                operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
                operator.builtinOptions = node.options
            made.operators.append(operator)
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
    """The bytes of a constant; none for any other tensor."""
    if tensor.data is None:
        return b""
    if tensor.type == "INT4":
        nibbles = np.append(tensor.data.reshape(-1).astype(np.int8) & 0x0F, np.zeros(tensor.data.size % 2, np.int8))
        return bytes((nibbles[0::2] | (nibbles[1::2] << 4)).astype(np.uint8))
    return np.ascontiguousarray(tensor.data, NUMPY[tensor.type]).tobytes()


def build_model(*subgraphs: Sequence[Node]) -> bytes:
    """The file: operators in the order in which they run, one list for each subgraph.

    The inputs are what nothing makes, the outputs those of the last operator.
    """
    writer = _Writer()
    for nodes in subgraphs:
        writer.subgraph(nodes)
    return pack_model(writer.model)
