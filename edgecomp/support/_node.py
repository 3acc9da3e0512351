"""Operators as a runtime meets them: with their types, their layer, and their options where the file is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgecomp.flatbuffer import Buffer, Table
from edgecomp.graph import Graph, Operator, Subgraph, Tensor
from edgecomp.support._finding import Finding, Severity, user_layer
from edgecomp.support._types import activation_type, projected, types_of, unpacked_weights

if TYPE_CHECKING:
    from edgecomp.profile import DeviceProfile, Precision

_INTEGERS = {"INT32": "<i4", "INT64": "<i8", "INT8": "i1", "UINT8": "u1"}


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        types: Its key, see `types_of`; at the precision that was asked for.
        around: Operators (code, types) that the precision puts around it.
        position: Which operator of the file it is, counted over all subgraphs.
        details: The file, None without it.
    """

    subgraph: Subgraph
    operator: Operator
    types: str
    around: tuple[tuple[str, str], ...]
    position: int
    details: Details | None

    @property
    def code(self) -> str:
        """The operator."""
        return self.operator.code

    @property
    def kind(self) -> str:
        """The type of its values."""
        return activation_type(self.types)

    @property
    def left_in_float(self) -> bool:
        """Whether the quantizer has no integer form of it: it computes in float between a DEQUANTIZE and a QUANTIZE."""
        return any(code == "QUANTIZE" for code, _ in self.around)

    @property
    def integer_kind(self) -> str:
        """The type of the values around it where it is left in float."""
        return self.around[0][1].partition("->")[0]

    @property
    def options(self) -> Table | None:
        """Its options, or None where the file is not at hand or has none."""
        return None if self.details is None else self.details.options(self.subgraph, self.operator)

    def option(self, number: int, fmt: str, default: int = 0) -> int | None:
        """A field of the options by its number in the schema; None where the file is not at hand."""
        if self.details is None:
            return None
        return default if self.options is None else self.options.scalar(number, fmt, default)

    def input(self, position: int = 0) -> Tensor | None:
        """An input, None if it is left out."""
        return self.subgraph.input(self.operator, position)

    def output(self) -> Tensor | None:
        """The first output."""
        return self.subgraph.output(self.operator)

    def axis(self, position: int, rank: int) -> int | None:
        """A constant input that is a single axis, counted from 0; None where it is not known or makes no sense."""
        values = self.constant(position)
        return None if values is None or values.size != 1 or rank < 1 else int(values.reshape(-1)[0]) % rank

    def constant(self, position: int) -> np.ndarray | None:
        """An integer constant among the inputs (axes, sizes, paddings), or None where it is not known."""
        tensor = self.input(position)
        if tensor is None or not tensor.is_constant or self.details is None:
            return None
        return self.details.integers(self.subgraph, tensor)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that is there, inputs first."""
        for index in self.operator.inputs + self.operator.outputs:
            if index >= 0:
                yield self.subgraph.tensors[index]

    def finding(self, severity: Severity, reason: str, rewrite: str | None = None) -> Finding:
        """A finding about it."""
        layer, tensor = user_layer(self.subgraph, self.operator), self.subgraph.layer(self.operator)
        return Finding(severity, self.code, layer, reason, rewrite, tensor, self.position)


class Details:
    """What a graph does not hold: options of operators and values of constants, read from the file when asked for."""

    def __init__(self, graph: Graph, data: bytes) -> None:
        self._buffer = Buffer(data, "The model")
        self._numbers = {id(subgraph): number for number, subgraph in enumerate(graph.subgraphs)}

    @cached_property
    def _subgraphs(self) -> list[Table]:
        return list(self._buffer.root().tables(2))

    @cached_property
    def _buffers(self) -> list[Table]:
        return list(self._buffer.root().tables(4))

    @cached_property
    def _operators(self) -> list[list[Table]]:
        return [list(table.tables(3)) for table in self._subgraphs]

    @cached_property
    def _tensors(self) -> list[list[Table]]:
        return [list(table.tables(0)) for table in self._subgraphs]

    def options(self, subgraph: Subgraph, operator: Operator) -> Table | None:
        """The table of builtin options of an operator."""
        return self._operators[self._numbers[id(subgraph)]][operator.index].table(4)

    def integers(self, subgraph: Subgraph, tensor: Tensor) -> np.ndarray | None:
        """The values of an integer constant in its shape, or None if it is none."""
        if tensor.type not in _INTEGERS:
            return None
        number = self._tensors[self._numbers[id(subgraph)]][tensor.index].scalar(2, "I")
        values = self._buffers[number].numbers(0, _INTEGERS[tensor.type])
        return values.reshape(tensor.shape) if values.size == tensor.elements else None


def nodes(graph: Graph, profile: DeviceProfile, data: bytes | None, precision: Precision | None) -> list[Node]:
    """Every operator of every subgraph, as the file is or as a precision would make it."""
    details = None if data is None else Details(graph, data)
    int4_operators = tuple(profile.runtime.int4_weight_operators)

    unpacked = {id(subgraph): unpacked_weights(subgraph) for subgraph in graph.subgraphs}

    def made(subgraph: Subgraph, operator: Operator) -> tuple[str, tuple[tuple[str, str], ...]]:
        types = types_of(subgraph, operator, unpacked[id(subgraph)])
        if precision is None:
            return types, ()
        return projected(subgraph, operator, types, precision, int4_operators)

    return [
        Node(subgraph, operator, *made(subgraph, operator), position, details)
        for position, (subgraph, operator) in enumerate(graph.operators())
    ]
