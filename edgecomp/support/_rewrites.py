"""The nearest change to a model that a runtime takes: of an operator's types, or of the operator itself.

Nothing is suggested that the runtime's own table does not take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecomp.support._node import Node
from edgecomp.support._types import INT8_OPERATORS

Takes = Callable[[str, str], bool]

_NUMBERS = ("INT32", "INT64", "BOOL")

# What a type of values is called as a precision; what to do with an operator at it.
_PRECISIONS = {
    "INT8": "quantize it: precision INT8",
    "FLOAT32": "keep this layer in float: precision SELECTIVE, or FLOAT32 for the whole model",
    "INT16": "16-bit activations: precision INT16X8",
}


@dataclass(frozen=True)
class Rewrite:
    """A change to the model.

    Attributes:
        text: What to do, as the user would.
        operators: What stands there afterwards: (operator, types). Empty where the operator just goes.
    """

    text: str
    operators: tuple[tuple[str, str], ...]


def nearest(
    node: Node,
    takes: Takes,
    precisions: Sequence[str] = ("INT8", "FLOAT32", "INT16"),
    *,
    application: bool = True,
) -> Rewrite | None:
    """The first change that the runtime takes: other types if they do, else another operator.

    Args:
        node: What it does not take.
        takes: Whether it takes an (operator, types).
        precisions: Types to move to, best first.
        application: Whether leaving the operator to who calls the model counts.
    """
    return of_types(node, takes, precisions) or of_operator(node, takes, precisions, application=application)


def of_types(node: Node, takes: Takes, precisions: Sequence[str]) -> Rewrite | None:
    """The same operator with other types."""
    if node.left_in_float:
        return None  # No precision changes that.
    if node.types.endswith("INT4"):
        single = f"{node.types}_PER_TENSOR"
        if takes(node.code, single):
            return Rewrite("one scale for all its 4-bit weights, or 8-bit weights for it", ((node.code, single),))
    if "->" in node.types:
        return _of_conversion(node, takes)
    if node.types == "ANY":
        return None
    if node.kind in _NUMBERS:
        # Indices and sizes are not quantized: the model itself has to carry them as another type.
        for kind in ("INT32", "FLOAT32"):
            if kind != node.kind and takes(node.code, kind) and (kind == "INT32" or "FLOAT32" in precisions):
                return Rewrite(f"carry these values as {kind} in the model", ((node.code, kind),))
        return None
    for kind in precisions:
        if kind != node.types and takes(node.code, kind):
            only_weights = "INT4" in node.types and kind == node.kind
            text = "8-bit weights for this operator" if only_weights else _PRECISIONS[kind]
            return Rewrite(text, ((node.code, kind),))
    return None


def _of_conversion(node: Node, takes: Takes) -> Rewrite | None:
    """QUANTIZE, DEQUANTIZE and CAST between other types."""
    if node.code == "DEQUANTIZE" and node.kind in ("FLOAT16", "INT4"):
        return Rewrite("other weights: precision INT8 or FLOAT32", ())
    for old, new in (("UINT8", "INT8"), ("INT64", "INT32"), ("FLOAT16", "FLOAT32")):
        types = node.types.replace(old, new)
        before, _, after = types.partition("->")
        if types != node.types and (before == after or takes(node.code, types)):
            kept = () if before == after else ((node.code, types),)
            return Rewrite(f"{new.lower()} in place of {old.lower()} in the model", kept)
    return None


def of_operator(
    node: Node, takes: Takes, precisions: Sequence[str] = (), *, application: bool = True
) -> Rewrite | None:
    """Other operators in its place, of the same types or, for one in float, of those that it will be quantized to.

    Args:
        node: See `nearest`.
        takes: See `nearest`.
        precisions: See `nearest`.
        application: Whether leaving the operator to who calls the model counts.
    """
    quantized = node.integer_kind if node.left_in_float else "INT8" if "INT8" in precisions else None
    for codes, text in (*_by_shape(node), *_REPLACEMENTS.get(node.code, ())):
        if not node.left_in_float and all(takes(code, node.kind) for code in codes):
            return Rewrite(text, tuple((code, node.kind) for code in codes))
        if node.kind != "FLOAT32" or quantized is None or not set(codes) <= INT8_OPERATORS:
            continue
        if all(takes(code, quantized) for code in codes):
            return Rewrite(text, tuple((code, quantized) for code in codes))
    if application and node.code in _IN_THE_APPLICATION:
        return Rewrite(_IN_THE_APPLICATION[node.code], ())
    return None


def _by_shape(node: Node) -> list[tuple[tuple[str, ...], str]]:
    """Replacements that hold for this shape only: a reduction over the whole image is a pooling, and the reverse."""
    source, target = node.input(), node.output()
    if source is None or target is None or len(source.shape) != 4:
        return []
    batch, height, width, channels = source.shape
    if target.elements != batch * channels or target.shape[-1:] != (channels,):
        return []
    window = f"with a window of {height}x{width}"
    if node.code == "MEAN":
        return [(("AVERAGE_POOL_2D",), f"AVERAGE_POOL_2D {window} (AveragePooling2D(({height}, {width})))")]
    if node.code == "SUM":
        return [(("AVERAGE_POOL_2D", "MUL"), f"AVERAGE_POOL_2D {window}, times {height * width}")]
    if node.code == "REDUCE_MAX":
        return [(("MAX_POOL_2D",), f"MAX_POOL_2D {window} (MaxPooling2D(({height}, {width})))")]
    if node.code == "AVERAGE_POOL_2D":
        return [(("MEAN",), "MEAN over height and width (GlobalAveragePooling2D)")]
    if node.code == "MAX_POOL_2D":
        return [(("REDUCE_MAX",), "REDUCE_MAX over height and width (GlobalMaxPooling2D)")]
    return []


def _activations(*codes: str) -> tuple[tuple[tuple[str, ...], str], ...]:
    return tuple(((code,), f"{code} as the activation") for code in codes)


_RESHAPED = ((("RESHAPE",), "RESHAPE"),)
_OVER_TIME = ((("CONV_2D",), "convolutions over time (CONV_2D with a kernel of 1xk) in place of the recurrent layer"),)
_SEQUENCE_LSTM = (("UNIDIRECTIONAL_SEQUENCE_LSTM",), "UNIDIRECTIONAL_SEQUENCE_LSTM (keras.layers.LSTM, not unrolled)")
_DILATED = ((("CONV_2D",), "CONV_2D with its dilation as an option (fixed shapes let the converter fold the pair)"),)

_REPLACEMENTS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "HARD_SWISH": _activations("RELU6", "RELU"),
    "GELU": _activations("RELU", "RELU6"),
    "ELU": _activations("LEAKY_RELU", "RELU", "RELU6"),
    "LEAKY_RELU": _activations("RELU", "RELU6"),
    "PRELU": _activations("LEAKY_RELU", "RELU", "RELU6"),
    "RELU_N1_TO_1": _activations("RELU6", "RELU"),
    "RELU_0_TO_1": _activations("RELU6", "RELU"),
    "RELU6": _activations("RELU"),
    "RELU": _activations("RELU6"),
    "LOG_SOFTMAX": ((("SOFTMAX",), "SOFTMAX; its logarithm, if wanted, in the application"),),
    "TRANSPOSE_CONV": (
        (("RESIZE_NEAREST_NEIGHBOR", "CONV_2D"), "RESIZE_NEAREST_NEIGHBOR + CONV_2D (UpSampling2D, Conv2D)"),
        (("RESIZE_BILINEAR", "CONV_2D"), 'RESIZE_BILINEAR + CONV_2D (UpSampling2D(interpolation="bilinear"), Conv2D)'),
    ),
    "RESIZE_BILINEAR": ((("RESIZE_NEAREST_NEIGHBOR",), "RESIZE_NEAREST_NEIGHBOR"),),
    "RESIZE_NEAREST_NEIGHBOR": ((("RESIZE_BILINEAR",), "RESIZE_BILINEAR"),),
    "SQUEEZE": _RESHAPED,
    "EXPAND_DIMS": _RESHAPED,
    "UNPACK": ((("STRIDED_SLICE", "RESHAPE"), "STRIDED_SLICE + RESHAPE for each part"),),
    "PACK": ((("RESHAPE", "CONCATENATION"), "RESHAPE + CONCATENATION"),),
    "SPLIT": ((("STRIDED_SLICE",), "STRIDED_SLICE for each part"), (("SLICE",), "SLICE for each part")),
    "SPLIT_V": ((("STRIDED_SLICE",), "STRIDED_SLICE for each part"), (("SLICE",), "SLICE for each part")),
    "SLICE": ((("STRIDED_SLICE",), "STRIDED_SLICE"),),
    "STRIDED_SLICE": ((("SLICE",), "SLICE"),),
    "GATHER": ((("STRIDED_SLICE",), "STRIDED_SLICE where the indices are a range"),),
    "GATHER_ND": ((("GATHER",), "GATHER"), (("STRIDED_SLICE",), "STRIDED_SLICE where the indices are a range")),
    "TILE": ((("CONCATENATION",), "CONCATENATION of the tensor with itself"),),
    "BROADCAST_TO": ((("ADD",), "the ADD or MUL that follows: it broadcasts by itself"),),
    "PADV2": ((("PAD",), "PAD (with zeros)"),),
    "MIRROR_PAD": ((("PAD",), "PAD (with zeros)"),),
    "SELECT": ((("SELECT_V2",), "SELECT_V2 (tf.where)"), (("MUL", "ADD"), "MUL by a mask of 0 and 1, and ADD")),
    "SELECT_V2": ((("SELECT",), "SELECT"), (("MUL", "ADD"), "MUL by a mask of 0 and 1, and ADD")),
    "SQUARE": ((("MUL",), "MUL of the tensor by itself"),),
    "SQUARED_DIFFERENCE": ((("SUB", "MUL"), "SUB, and MUL of the result by itself"),),
    "POW": ((("MUL",), "MUL of the tensor by itself"),),
    "DIV": ((("MUL",), "MUL by the reciprocal, where the divisor is a constant"),),
    "NEG": ((("MUL",), "MUL by -1"), (("SUB",), "SUB from 0")),
    "ABS": ((("RELU", "MUL", "ADD"), "RELU(x) + RELU(-x)"), (("MUL", "MAXIMUM"), "MAXIMUM(x, -x)")),
    "MAXIMUM": ((("RELU",), "RELU, where one side is 0"),),
    "MINIMUM": ((("RELU6",), "RELU6, where the bounds are 0 and 6"),),
    "ADD_N": ((("ADD",), "ADD, twice or more"),),
    "SUB": ((("MUL", "ADD"), "MUL by -1, and ADD"),),
    "SQRT": ((("RSQRT", "MUL"), "RSQRT, times the tensor"),),
    "RSQRT": ((("SQRT", "DIV"), "SQRT and DIV"),),
    "LOCAL_RESPONSE_NORMALIZATION": ((("MUL", "ADD"), "BatchNormalization (MUL and ADD, folded into a convolution)"),),
    "L2_POOL_2D": ((("AVERAGE_POOL_2D",), "AVERAGE_POOL_2D"),),
    "SPACE_TO_DEPTH": ((("RESHAPE", "TRANSPOSE"), "RESHAPE + TRANSPOSE + RESHAPE"), (("CONV_2D",), "CONV_2D, strided")),
    "DEPTH_TO_SPACE": (
        (("RESHAPE", "TRANSPOSE"), "RESHAPE + TRANSPOSE + RESHAPE"),
        (("RESIZE_NEAREST_NEIGHBOR", "CONV_2D"), "RESIZE_NEAREST_NEIGHBOR + CONV_2D"),
    ),
    "SPACE_TO_BATCH_ND": _DILATED,
    "BATCH_TO_SPACE_ND": _DILATED,
    "REVERSE_V2": ((("GATHER",), "GATHER with the indices backwards"),),
    "BATCH_MATMUL": ((("FULLY_CONNECTED",), "FULLY_CONNECTED, where one side is a constant"),),
    "CONV_3D": ((("CONV_2D",), "CONV_2D, frame by frame"),),
    "CUMSUM": ((("FULLY_CONNECTED",), "FULLY_CONNECTED with a triangular matrix of ones"),),
    "EMBEDDING_LOOKUP": ((("GATHER",), "GATHER"),),
    "LSTM": (_SEQUENCE_LSTM, *_OVER_TIME),
    "RNN": (_SEQUENCE_LSTM, *_OVER_TIME),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (_SEQUENCE_LSTM, *_OVER_TIME),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _OVER_TIME,
    "BIDIRECTIONAL_SEQUENCE_LSTM": (
        (
            ("UNIDIRECTIONAL_SEQUENCE_LSTM", "REVERSE_V2", "CONCATENATION"),
            "two UNIDIRECTIONAL_SEQUENCE_LSTM, REVERSE_V2 around one of them, CONCATENATION",
        ),
        *_OVER_TIME,
    ),
    "BIDIRECTIONAL_SEQUENCE_RNN": _OVER_TIME,
    "SVDF": _OVER_TIME,
}

# At the end of a model they can just as well be done by who calls it.
_IN_THE_APPLICATION = dict.fromkeys(
    ("ARG_MAX", "ARG_MIN", "TOPK_V2", "SOFTMAX", "LOG_SOFTMAX", "LOGISTIC"),
    "leave it out and do it in the application, on the model's output",
) | dict.fromkeys(
    (
        *("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "WHERE", "UNIQUE", "HASHTABLE_LOOKUP", "HASHTABLE_FIND"),
        *("RFFT2D", "RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL", "BUCKETIZE", "SPARSE_TO_DENSE"),
    ),
    "do it in the application, before or after the model",
)
