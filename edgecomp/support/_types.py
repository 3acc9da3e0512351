"""The types that decide whether a kernel takes an operator, as one short key; and what a precision makes of them.

- INT8: activations; the weights, if any, are what these activations imply (INT16: INT8 weights).
- INT8xINT4: activations x weights, one scale per channel; INT8xINT4_PER_TENSOR: a single scale for all weights.
- INT8xINT8: both are computed, neither is a constant (BATCH_MATMUL of attention).
- FLOAT32xINT8: hybrid, float activations with integer weights (dynamic-range quantization).
- INT8->FLOAT32: QUANTIZE, DEQUANTIZE and CAST: from, to.
- ANY: control flow and handles, whose types decide nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecomp.graph import Operator, Subgraph, Tensor

if TYPE_CHECKING:
    from edgecomp.profile import Precision

_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "CAST"})
_UNTYPED = frozenset({"IF", "WHILE", "CALL_ONCE", "VAR_HANDLE"})

# Which input holds the weights.
_WEIGHTS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "CONV_3D": 1,
    "CONV_3D_TRANSPOSE": 1,
    "BATCH_MATMUL": 1,
    "EMBEDDING_LOOKUP": 1,
    "SVDF": 1,
    "RNN": 1,
    "UNIDIRECTIONAL_SEQUENCE_RNN": 1,
    "LSTM": 2,  # The first gate may be left out.
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 2,
    "BIDIRECTIONAL_SEQUENCE_LSTM": 2,
}
# Which input holds the values, where it is not the first.
_VALUES = {
    "TRANSPOSE_CONV": 2,
    "CONV_3D_TRANSPOSE": 2,
    "SPLIT": 1,
    "SELECT": 1,
    "SELECT_V2": 1,
    "FILL": 1,
    "ONE_HOT": 2,
    "SCATTER_ND": 1,
    "SPARSE_TO_DENSE": 2,
    "ASSIGN_VARIABLE": 1,
}
# Whose values are those of the first output: inputs are indices, shapes or handles.
_BY_OUTPUT = frozenset(
    {"EMBEDDING_LOOKUP", "READ_VARIABLE", "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL", "HASHTABLE_FIND"}
)
_IMPLIED = {"INT16": "INT8"}
_COMPUTED = "FLOAT32xFLOAT32"


def unpacked_weights(subgraph: Subgraph) -> frozenset[int]:
    """Tensors that an operator makes from constants alone.

    DEQUANTIZE: the weights of a FLOAT16 file, or of a weight-only one. TFLM_DECODE: those of a packed file. DENSIFY:
    those stored sparse.
    """
    return frozenset(
        index
        for operator in subgraph.operators
        if operator.code in ("DENSIFY", "DEQUANTIZE", "TFLM_DECODE")
        and (source := subgraph.input(operator)) is not None
        and source.is_constant
        for index in operator.outputs
    )


def types_of(subgraph: Subgraph, operator: Operator, unpacked: frozenset[int] | None = None) -> str:
    """The key of an operator; "?" where it lacks the tensor that decides.

    Args:
        subgraph: Where it stands.
        operator: The operator.
        unpacked: `unpacked_weights(subgraph)`, if it is at hand already.
    """
    code = operator.code
    if code in _UNTYPED:
        return "ANY"
    if code in _CONVERSIONS:
        return f"{_kind(subgraph.input(operator, 0))}->{_kind(subgraph.output(operator))}"
    source = subgraph.output(operator) if code in _BY_OUTPUT else subgraph.input(operator, _VALUES.get(code, 0))
    activation = _kind(source)
    weights = subgraph.input(operator, _WEIGHTS[code]) if code in _WEIGHTS else None
    if weights is None:
        return activation
    if not weights.is_constant and weights.index not in (unpacked_weights(subgraph) if unpacked is None else unpacked):
        return f"{activation}x{weights.type}"
    if weights.type == _IMPLIED.get(activation, activation):
        return activation
    single = weights.type in ("INT8", "INT4") and len(weights.scales) == 1
    return f"{activation}x{weights.type}" + ("_PER_TENSOR" if single else "")


def activation_type(types: str) -> str:
    """The type of the values of a key."""
    return types.partition("->")[0].partition("x")[0]


def _kind(tensor: Tensor | None) -> str:
    return "?" if tensor is None else tensor.type


def has_constant_weights(subgraph: Subgraph, operator: Operator) -> bool:
    """Whether the operator has weights in the file, which a quantizer can store in fewer bits."""
    weights = subgraph.input(operator, _WEIGHTS[operator.code]) if operator.code in _WEIGHTS else None
    return weights is not None and weights.is_constant


# Operators that ai-edge-quantizer 0.10 computes in integers (its default policy); a test holds these against it.
# It leaves the others in float, between a DEQUANTIZE and a QUANTIZE.
INT16_OPERATORS = frozenset((
    "ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "BROADCAST_TO", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DIV",
    "DYNAMIC_UPDATE_SLICE", "EQUAL", "FULLY_CONNECTED", "GATHER", "GATHER_ND", "GELU", "LOGISTIC", "MAXIMUM",
    "MAX_POOL_2D", "MEAN", "MIRROR_PAD", "MUL", "NOT_EQUAL", "PACK", "PAD", "PADV2", "REDUCE_MIN", "RELU", "RESHAPE",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SELECT", "SELECT_V2", "SLICE", "SOFTMAX", "SPLIT",
    "SQRT", "STABLEHLO_COMPOSITE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK",
))  # fmt: skip
INT8_OPERATORS = INT16_OPERATORS | {"HARD_SWISH", "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE"}
HYBRID_OPERATORS = frozenset(
    {"BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
)


def projected(
    subgraph: Subgraph, operator: Operator, types: str, precision: Precision, int4_operators: tuple[str, ...]
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What a precision makes of an operator of a float model, whose key is `types`.

    Returns:
        Its key then, and the operators (code, types) that the precision puts around it. An operator that does not
        compute in float stays as it is.
    """
    if types not in ("FLOAT32", _COMPUTED):
        return types, ()
    code, constant = operator.code, has_constant_weights(subgraph, operator)
    if precision == "FLOAT16":
        return types, (("DEQUANTIZE", "FLOAT16->FLOAT32"),) if constant else ()
    if precision == "DYNAMIC_RANGE":
        return ("FLOAT32xINT8" if constant and code in HYBRID_OPERATORS else types), ()
    if precision == "INT16X8":
        integer = types.replace("FLOAT32", "INT16")
        return (integer, ()) if code in INT16_OPERATORS else (types, _around("INT16"))
    if precision in ("INT8", "INT4_WEIGHTS", "SELECTIVE"):
        if precision == "INT4_WEIGHTS" and constant and code in int4_operators:
            return "INT8xINT4", ()
        integer = types.replace("FLOAT32", "INT8")
        return (integer, ()) if code in INT8_OPERATORS else (types, _around("INT8"))
    return types, ()


def _around(kind: str) -> tuple[tuple[str, str], ...]:
    return (("DEQUANTIZE", f"{kind}->FLOAT32"), ("QUANTIZE", f"FLOAT32->{kind}"))
