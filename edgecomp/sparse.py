"""Pruned weights stored sparse in a .tflite file: what is not zero, and where it stands. No TensorFlow.

The format is the schema's own (SparsityParameters, after the TACO compiler, arXiv 1804.10112), of which one form is
written here: all axes but the last are dense, the last one is compressed (CSR), which is what TFLiteConverter's
EXPERIMENTAL_SPARSITY writes too. A DENSIFY operator unpacks the weights; LiteRT runs it once, when the model is
loaded. `sparse_inference` tells whether a runtime also multiplies less for it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.graph import read_graph
from edgecomp.tflite_edit import pack_model, text_of, unpack_model

# Where the weights of an operator stand among its inputs. DEQUANTIZE is there for float16 weights.
_WEIGHTS = {
    schema.BuiltinOperator.CONV_2D: 1,
    schema.BuiltinOperator.FULLY_CONNECTED: 1,
    schema.BuiltinOperator.DEQUANTIZE: 0,
}
# What DENSIFY unpacks: LiteRT's kernel and XNNPACK agree on these.
_TYPES: dict[int, np.dtype] = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT8: np.dtype("i1"),
}
# About what the tables around one sparse tensor take, its second tensor and its DENSIFY included.
_TABLE_BYTES = 400


def encode_sparse(data: bytes, where: str = "The model") -> bytes:
    """A .tflite file with its pruned weights stored sparse, wherever that takes fewer bytes.

    Convolutions and fully connected layers with constant weights in float32, float16 or int8 are looked at. Only
    LiteRT reads such a file: TFLM has no DENSIFY. TRAP: stored so, float weights make XNNPACK look for parts of the
    graph to run with sparse kernels, and some graphs give wrong results then; `sparse_inference.with_sparse_kernels`
    knows which do not.

    Args:
        data: The file.
        where: What to call it in messages.

    Returns:
        The new file, or the very bytes that were given where nothing gets smaller.

    Raises:
        GraphError: Damaged, cut, or not a .tflite file.
    """
    read_graph(data, where)
    model = unpack_model(data, where)
    changed = [
        _encode_tensor(model, graph, index) for graph in model.subgraphs for index in _weight_tensors(model, graph)
    ]
    if not any(changed):
        return data
    packed = pack_model(model)
    return packed if len(packed) < len(data) else data


def _weight_tensors(model: Any, graph: Any) -> list[int]:
    """Constant weights in a type that DENSIFY knows, each once, in the order of the operators."""
    found: dict[int, None] = {}
    for operator in graph.operators:
        place = _WEIGHTS.get(operator_code(model, operator))
        if place is None or place >= len(operator.inputs):
            continue
        index = int(operator.inputs[place])
        tensor = graph.tensors[index]
        if tensor.type in _TYPES and tensor.sparsity is None and constant(model, tensor) is not None:
            found[index] = None
    return list(found)


def operator_code(model: Any, operator: Any) -> int:
    """The builtin operator of the object tree; old files have it in a byte, new ones in an int."""
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.deprecatedBuiltinCode, code.builtinCode))


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """The values of a constant tensor of the object tree in a type of ours, in its shape; else None."""
    stored = model.buffers[tensor.buffer].data
    dtype = _TYPES.get(tensor.type)
    if dtype is None or tensor.shape is None or stored is None or len(stored) == 0:
        return None
    values = np.asarray(stored, np.uint8).view(dtype)
    return values.reshape(tensor.shape) if values.size == math.prod(tensor.shape) else None


def _encode_tensor(model: Any, graph: Any, index: int) -> bool:
    """Store one tensor sparse and unpack it into a new one that its readers get; False where that saves nothing."""
    tensor = graph.tensors[index]
    values = constant(model, tensor)
    if values is None or values.ndim == 0:
        return False
    rows = values.reshape(-1, values.shape[-1])
    kept = rows != 0
    segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    places = np.nonzero(kept)[1]
    stored = rows[kept]
    # All three lie in the file as vectors of the smallest type that holds them.
    sizes = stored.nbytes + places.size * _index_bytes(places) + segments.size * _index_bytes(segments)
    if sizes + _TABLE_BYTES >= values.nbytes:
        return False
    dense = schema.TensorT()
    for field, value in vars(tensor).items():
        setattr(dense, field, value)
    dense.buffer = 0  # By convention the empty one: its values come from DENSIFY.
    graph.tensors.append(dense)
    position = len(graph.tensors) - 1
    for operator in graph.operators:
        operator.inputs = [position if item == index else item for item in operator.inputs]
    # Scales are a matter of those who read the unpacked weights.
    tensor.quantization = None
    tensor.sparsity = _csr(values.shape, segments, places)
    tensor.name = f"{text_of(tensor.name)}/sparse"
    # Equal constants may share a buffer, and the others stay dense.
    if sum(item.buffer == tensor.buffer for part in model.subgraphs for item in part.tensors) > 1:
        model.buffers.append(schema.BufferT())
        tensor.buffer = len(model.buffers) - 1
    model.buffers[tensor.buffer].data = np.ascontiguousarray(stored).view(np.uint8)
    graph.operators.insert(0, _densify(model, index, position))
    return True


def _index_bytes(values: np.ndarray) -> int:
    highest = int(values.max(initial=0))
    return 1 if highest < 1 << 8 else 2 if highest < 1 << 16 else 4


def _csr(shape: tuple[int, ...], segments: np.ndarray, places: np.ndarray) -> Any:
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = list(range(len(shape)))
    sparsity.blockMap = []
    sparsity.dimMetadata = []
    for size in shape[:-1]:
        axis = schema.DimensionMetadataT()
        axis.format, axis.denseSize = schema.DimensionType.DENSE, int(size)
        sparsity.dimMetadata.append(axis)
    last = schema.DimensionMetadataT()
    last.format = schema.DimensionType.SPARSE_CSR
    last.arraySegmentsType, last.arraySegments = _vector(segments)
    last.arrayIndicesType, last.arrayIndices = _vector(places)
    sparsity.dimMetadata.append(last)
    return sparsity


def _vector(values: np.ndarray) -> tuple[int, Any]:
    kind, table, dtype = {
        1: (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT, np.uint8),
        2: (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT, np.uint16),
        4: (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT, np.int32),
    }[_index_bytes(values)]
    made = table()
    made.values = values.astype(dtype)
    return kind, made


def _densify(model: Any, source: int, target: int) -> Any:
    code = schema.BuiltinOperator.DENSIFY
    known = [max(item.deprecatedBuiltinCode, item.builtinCode) for item in model.operatorCodes]
    if code not in known:
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = code
        made.version = 1
        model.operatorCodes.append(made)
        known.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = known.index(code)
    operator.inputs, operator.outputs = [source], [target]
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    return operator
