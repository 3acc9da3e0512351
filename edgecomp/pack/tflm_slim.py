"""Leave out of a .tflite file what TensorFlow Lite Micro never reads, and write the rest as small as the format allows.

TFLM reads a file where it lies (tflite-micro, micro_allocator.cc, micro_interpreter.cc). It never asks for names,
descriptions, signatures, metadata, ranges, versions of operators, or the quantization of a bias whose weights have a
scale for each channel; a single zero point stands for all channels ("space-saving optimization" in micro_allocator.cc).
LiteRT asks for some of that and refuses such a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgecomp.errors import PackingError
from edgecomp.pack._layout import lay_out
from edgecomp.pack._tree import TreeBuilder
from edgecomp.tflite_schema import BUILTIN_OPERATORS, FILE_IDENTIFIER

DATA_ALIGNMENT_BYTES = 16
"""Of constant data, as the schema says: kernels of any core may rely on it. With `lay_out` it costs next to nothing."""

_OFFLINE_PLAN = b"OfflineMemoryAllocation"
_RESHAPE = BUILTIN_OPERATORS.index("RESHAPE")
_FULLY_CONNECTED = BUILTIN_OPERATORS.index("FULLY_CONNECTED")
# Where the bias of weights, which are input 1, stands.
_BIAS_POSITION = {
    BUILTIN_OPERATORS.index("CONV_2D"): 2,
    BUILTIN_OPERATORS.index("DEPTHWISE_CONV_2D"): 2,
    BUILTIN_OPERATORS.index("TRANSPOSE_CONV"): 3,
    _FULLY_CONNECTED: 2,
}


def slim(model: Any) -> None:
    """Take out of an object tree (`ModelT`) what TFLM never reads.

    Raises:
        PackingError: The model carries a memory plan of its own.
    """
    for entry in model.metadata or []:
        if entry.name == _OFFLINE_PLAN:
            raise PackingError(
                "The file carries a memory plan of its own (OfflineMemoryAllocation), which packing would break.",
                hint="Pack the file before the plan is made.",
            )
    model.description = model.metadata = model.metadataBuffer = model.signatureDefs = None
    for code in model.operatorCodes:
        # Old files have the number in a byte, new ones in an int: the larger one counts.
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        code.version, code.deprecatedBuiltinCode = 1, 0
    for subgraph in model.subgraphs:
        subgraph.name, subgraph.debugMetadataIndex = None, -1
        for operator in subgraph.operators:
            operator.mutatingVariableInputs, operator.debugMetadataIndex = None, -1
        _drop_reshapes(model, subgraph)
        _drop_bias_quantization(model, subgraph)
        for tensor in subgraph.tensors:
            _slim_tensor(tensor)
        _drop_unused_tensors(subgraph)
    _share_buffers(model)
    _order_operator_codes(model)


def write(model: Any) -> bytes:
    """The smallest file of an object tree, equal parts written once."""
    tree = TreeBuilder(DATA_ALIGNMENT_BYTES)
    return lay_out(tree, model.Pack(tree), FILE_IDENTIFIER)


def _slim_tensor(tensor: Any) -> None:
    tensor.name = tensor.shapeSignature = None
    tensor.hasRank = False
    quantization = tensor.quantization
    if quantization is None:
        return
    if not _count(quantization.scale) or not _count(quantization.zeroPoint):
        tensor.quantization = None  # TFLM takes both or neither.
        return
    quantization.min = quantization.max = None
    points = np.asarray(quantization.zeroPoint)
    if (points == points[0]).all():
        quantization.zeroPoint = points[:1]


def _count(values: Any) -> int:
    return 0 if values is None else len(values)


def _drop_reshapes(model: Any, subgraph: Any) -> None:
    """Drop the second input and options of RESHAPE, whose kernel goes by the shape of its output.

    In front of FULLY_CONNECTED the operator itself goes: that takes its input as one vector, whatever the shape.
    """
    outputs = {int(index) for index in subgraph.outputs}
    kept = []
    for operator in subgraph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode != _RESHAPE:
            kept.append(operator)
            continue
        source, result = int(operator.inputs[0]), int(operator.outputs[0])
        readers = list(_readers(subgraph, result))
        if result in outputs or not all(_flattens(model, reader, position) for reader, position in readers):
            # A shape of [0] is an old way to say scalar, which the kernel reads from the second input.
            if list(subgraph.tensors[result].shape) != [0]:
                operator.inputs = operator.inputs[:1]
            operator.builtinOptions, operator.builtinOptionsType = None, 0
            kept.append(operator)
            continue
        for reader, position in readers:
            reader.inputs = reader.inputs.copy()
            reader.inputs[position] = source
    subgraph.operators = kept


def _readers(subgraph: Any, tensor: int) -> Iterator[tuple[Any, int]]:
    """Every operator that reads a tensor, and at which position."""
    for operator in subgraph.operators:
        for position, index in enumerate(operator.inputs if operator.inputs is not None else ()):
            if index == tensor:
                yield operator, position


def _flattens(model: Any, operator: Any, position: int) -> bool:
    if model.operatorCodes[operator.opcodeIndex].builtinCode != _FULLY_CONNECTED or position != 0:
        return False
    return operator.builtinOptions is not None and not operator.builtinOptions.keepNumDims


def bias_input(code: Any, inputs: Sequence[int]) -> int | None:
    """The tensor that is the bias of an operator (an `OperatorCodeT` and its inputs), or None."""
    position = _BIAS_POSITION.get(max(code.builtinCode, code.deprecatedBuiltinCode))
    if position is None or len(inputs) <= position or inputs[position] < 0:
        return None
    return int(inputs[position])


def _drop_bias_quantization(model: Any, subgraph: Any) -> None:
    for operator in subgraph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        bias = bias_input(code, operator.inputs if operator.inputs is not None else ())
        if bias is None:
            continue
        weights = subgraph.tensors[operator.inputs[1]].quantization
        # With one scale FULLY_CONNECTED compares the bias's with it.
        if code.builtinCode != _FULLY_CONNECTED or (weights is not None and _count(weights.scale) > 1):
            subgraph.tensors[bias].quantization = None


def _drop_unused_tensors(subgraph: Any) -> None:
    lists = [subgraph.inputs, subgraph.outputs]
    for operator in subgraph.operators:
        lists += [operator.inputs, operator.outputs, operator.intermediates]
    used = sorted({int(index) for values in lists if values is not None for index in values if index >= 0})
    number = {old: new for new, old in enumerate(used)} | {-1: -1}

    def renumbered(values: Any) -> Any:
        return None if values is None else np.array([number[int(index)] for index in values], np.int32)

    subgraph.tensors = [subgraph.tensors[index] for index in used]
    subgraph.inputs, subgraph.outputs = renumbered(subgraph.inputs), renumbered(subgraph.outputs)
    for operator in subgraph.operators:
        operator.inputs, operator.outputs = renumbered(operator.inputs), renumbered(operator.outputs)
        operator.intermediates = renumbered(operator.intermediates) if _count(operator.intermediates) else None


def _share_buffers(model: Any) -> None:
    """Keep the buffers that tensors use, one for each content; number 0 is the empty one."""
    empty = model.buffers[0]
    empty.data = None
    buffers, number = [empty], {b"": 0}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            buffer = model.buffers[tensor.buffer]
            content = b"" if buffer.data is None else bytes(buffer.data)
            if content not in number:
                number[content] = len(buffers)
                buffers.append(buffer)
            tensor.buffer = number[content]
    model.buffers = buffers


def _order_operator_codes(model: Any) -> None:
    """The most used code first: number 0 is the default, which takes no bytes."""
    uses = Counter(operator.opcodeIndex for subgraph in model.subgraphs for operator in subgraph.operators)
    order = [index for index, _ in uses.most_common()]
    number = {old: new for new, old in enumerate(order)}
    model.operatorCodes = [model.operatorCodes[index] for index in order]
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            operator.opcodeIndex = number[operator.opcodeIndex]
