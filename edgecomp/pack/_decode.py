"""TFLM's DECODE operator in a model: coded tensors in place of plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.graph import Graph, Operator
from edgecomp.memory import TFLM, plan_memory
from edgecomp.pack._codes import Code
from edgecomp.tflite_schema import BUILTIN_OPERATORS

DECODE = "TFLM_DECODE"

Key = tuple[int, int]
"""A tensor: number of its subgraph, and its own."""

_CUSTOM = BUILTIN_OPERATORS.index("CUSTOM")


def insert_decode(model: Any, codes: Mapping[Key, Code]) -> None:
    """Put coded tensors in place of plain ones in an object tree (`ModelT`), DECODE before each operator that reads."""
    if not codes:
        return
    model.operatorCodes.append(schema.OperatorCodeT(builtinCode=_CUSTOM, customCode=DECODE))
    for number, subgraph in enumerate(model.subgraphs):
        mine = {index: code for (home, index), code in codes.items() if home == number}
        headers: dict[bytes, int] = {}
        sources: dict[int, list[int]] = {}
        for index, code in mine.items():
            if code.ancillary not in headers:
                headers[code.ancillary] = _constant(model, subgraph, code.ancillary)
            sources[index] = [_constant(model, subgraph, code.encoded), headers[code.ancillary]]
            subgraph.tensors[index].buffer = 0
        operators, decoded = [], set()
        for operator in subgraph.operators:
            for position, index in enumerate(map(int, operator.inputs if operator.inputs is not None else ())):
                if index not in mine:
                    continue
                # A result lives from its DECODE to its reader; a second reader gets one of its own.
                result = index if index not in decoded else _another(subgraph, index, operator, position)
                decoded.add(index)
                operators.append(_decode(len(model.operatorCodes) - 1, sources[index], [result]))
            operators.append(operator)
        subgraph.operators = operators


def _constant(model: Any, subgraph: Any, data: bytes) -> int:
    """A new tensor with these bytes. DECODE asks neither for its type nor for its shape, so it has none."""
    model.buffers.append(schema.BufferT(data=np.frombuffer(data, np.uint8)))
    subgraph.tensors.append(schema.TensorT(buffer=len(model.buffers) - 1))
    return len(subgraph.tensors) - 1


def _another(subgraph: Any, index: int, operator: Any, position: int) -> int:
    subgraph.tensors.append(copy(subgraph.tensors[index]))
    operator.inputs = operator.inputs.copy()
    operator.inputs[position] = len(subgraph.tensors) - 1
    return len(subgraph.tensors) - 1


def _decode(code: int, inputs: list[int], outputs: list[int]) -> Any:
    return schema.OperatorT(opcodeIndex=code, inputs=np.array(inputs, np.int32), outputs=np.array(outputs, np.int32))


def join_decodes(model: Any, graph: Graph) -> None:
    """Let one DECODE do the work of the next one too, wherever the arena's plan does not grow by it.

    Each one less saves about 24 bytes of the file, and its node in the arena.

    Args:
        model: An object tree (`ModelT`) with one subgraph.
        graph: The same model, read.
    """
    raw, operators = list(model.subgraphs[0].operators), list(graph.main.operators)
    limit = _head_bytes(graph, operators)
    earlier: int | None = None
    position = 0
    while position < len(operators):
        operator = operators[position]
        if operator.code != DECODE:
            position += 1
            continue
        if earlier is not None:
            first = operators[earlier]
            joined = replace(first, inputs=first.inputs + operator.inputs, outputs=first.outputs + operator.outputs)
            trial = [*operators[:earlier], joined, *operators[earlier + 1 : position], *operators[position + 1 :]]
            if _head_bytes(graph, trial) <= limit:
                operators = trial
                raw[earlier] = _decode(raw[earlier].opcodeIndex, list(joined.inputs), list(joined.outputs))
                del raw[position]
                continue
        earlier = position
        position += 1
    model.subgraphs[0].operators = raw


def _head_bytes(graph: Graph, operators: list[Operator]) -> int:
    main = replace(graph.main, operators=tuple(operators))
    return plan_memory(replace(graph, subgraphs=(main,)), TFLM).head_bytes
