"""Operators that work value by value, and those that change a type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from scripts.one_operator.build import Node, OneOperator, Tensor
from scripts.one_operator.tensors import (
    EVERY,
    FLOATS_AND_QUANTIZED,
    NUMBERS,
    SHAPE,
    constant,
    feature,
    result,
    values,
    words,
)

Maker = Callable[[str], OneOperator]

# Where the kernels fix scale and zero point of the output: (scale, zero point) by type.
_FIXED = {
    "LOGISTIC": {"INT8": (1 / 256, -128), "UINT8": (1 / 256, 0), "INT16": (1 / 32768, 0)},
    "TANH": {"INT8": (1 / 128, 0), "UINT8": (1 / 128, 128), "INT16": (1 / 32768, 0)},
    "SOFTMAX": {"INT8": (1 / 256, -128), "UINT8": (1 / 256, 0), "INT16": (1 / 32768, 0)},
    "LOG_SOFTMAX": {"INT8": (16 / 256, 127), "UINT8": (16 / 256, 255), "INT16": (16 / 65536, 0)},
    "L2_NORMALIZATION": {"INT8": (1 / 128, 0), "UINT8": (1 / 128, 128)},
}
_WIDE = {"EXP": 0.02, "RSQRT": 0.1, "SQUARE": 0.01}


def _unary(code: str, kind: str, options: Any = None) -> OneOperator:
    positive = code in ("LOG", "SQRT", "RSQRT")
    source = feature(kind, positive=positive)
    scale, zero_point = _FIXED.get(code, {}).get(kind, (0.0, 0))
    target = result(kind, scale=scale, zero_point=zero_point)
    if source.scales and code in _WIDE:
        target = result(kind, scale=_WIDE[code], zero_point=source.zero_point if kind != "INT16" else 0)
    elif source.scales and not scale and code in ("ZEROS_LIKE", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"):
        target = result(kind)
    return OneOperator(code, [source], [target], options)


def _softmax(kind: str) -> OneOperator:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return _unary("SOFTMAX", kind, options)


def _leaky_relu(kind: str) -> OneOperator:
    options = schema.LeakyReluOptionsT()
    options.alpha = 0.1
    return _unary("LEAKY_RELU", kind, options)


def _prelu(kind: str) -> OneOperator:
    source = feature(kind)
    slopes = constant(values(kind, (1, 1, SHAPE[3])), kind, like=source)
    return OneOperator("PRELU", [source, slopes], [result(kind)])


def _lrn(kind: str) -> OneOperator:
    options = schema.LocalResponseNormalizationOptionsT()
    options.radius, options.bias, options.alpha, options.beta = 2, 1.0, 1.0, 0.5
    return _unary("LOCAL_RESPONSE_NORMALIZATION", kind, options)


def _fake_quant(kind: str) -> OneOperator:
    options = schema.FakeQuantOptionsT()
    options.min, options.max, options.numBits = -1.0, 1.0, 8
    return _unary("FAKE_QUANT", kind, options)


def _complex(code: str, kind: str) -> OneOperator:
    return OneOperator(code, [feature(kind)], [result("FLOAT32")])


def _binary(code: str, kind: str, options: Callable[[], Any] | None = None, truth: bool = False) -> OneOperator:
    left, right = feature(kind, positive=code == "POW"), feature(kind, positive=code in ("DIV", "POW"))
    target = result("BOOL" if truth else kind)
    if left.scales and not truth:
        # A sum, product or quotient of such values fits twice the range (DIV: its divisor is never below 0.1).
        scale = left.scales[0] * (8 if code == "DIV" else 2)
        target = result(kind, scale=scale, zero_point=left.zero_point)
    if code in ("MAXIMUM", "MINIMUM") or (code == "SQUARED_DIFFERENCE" and kind == "INT16"):
        target = result(kind)
    made = options() if options is not None else None
    if hasattr(made, "potScaleInt16"):
        made.potScaleInt16 = False  # General scales, as every present converter writes them.
    return OneOperator(code, [left, right], [target], made)


def _add_n(kind: str) -> OneOperator:
    return OneOperator("ADD_N", [feature(kind), feature(kind), feature(kind)], [result(kind, scale=0.04)])


def _select(code: str, kind: str) -> OneOperator:
    return OneOperator(code, [feature("BOOL"), feature(kind), feature(kind)], [result(kind)])


def _convert(code: str, kinds: str) -> OneOperator:
    """QUANTIZE, DEQUANTIZE and CAST from `IN->OUT`."""
    before, _, after = kinds.partition("->")
    if code == "CAST":
        options = schema.CastOptionsT()
        options.inDataType = int(getattr(schema.TensorType, before))
        options.outDataType = int(getattr(schema.TensorType, after))
        return OneOperator("CAST", [feature(before)], [result(after)], options)
    if before in ("FLOAT16", "INT4"):
        # Only weights are stored so: a constant, unpacked for an operator that takes floats.
        stored = values(before, SHAPE) % (8 if before == "INT4" else 2)
        source = Tensor(before, SHAPE, stored, (0.1,) if before == "INT4" else ())
        weights = result("FLOAT32")
        user = Node("ADD", [feature("FLOAT32"), weights], [result("FLOAT32")], schema.AddOptionsT())
        return OneOperator(code, [source], [weights], after=[user])
    scale = 0.012 if after != "FLOAT32" else 0.0
    return OneOperator(code, [feature(before)], [result(after, scale=scale, zero_point=0)])


def _bitcast(kind: str) -> OneOperator:
    return OneOperator("BITCAST", [feature(kind)], [result("INT32" if kind == "FLOAT32" else kind)])


_UNARY = words(
    "ABS NEG SQRT RSQRT EXP LOG SIN COS FLOOR CEIL ROUND SQUARE SIGN LOGISTIC TANH RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 "
    "ELU HARD_SWISH LOG_SOFTMAX L2_NORMALIZATION ZEROS_LIKE"
)
_ARITHMETIC = {
    "ADD": schema.AddOptionsT,
    "SUB": schema.SubOptionsT,
    "MUL": schema.MulOptionsT,
    "DIV": schema.DivOptionsT,
    "MAXIMUM": schema.MaximumMinimumOptionsT,
    "MINIMUM": schema.MaximumMinimumOptionsT,
    "SQUARED_DIFFERENCE": None,
    "POW": None,
    "FLOOR_DIV": None,
    "FLOOR_MOD": None,
}
_TRUTHS = ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
_QUANTIZE = words(
    "FLOAT32->INT8 FLOAT32->UINT8 FLOAT32->INT16 INT8->INT8 INT8->UINT8 INT8->INT16 UINT8->INT8 UINT8->UINT8 "
    "INT16->INT8 INT16->INT16 INT16->UINT8"
)
_DEQUANTIZE = words("INT8->FLOAT32 UINT8->FLOAT32 INT16->FLOAT32 FLOAT16->FLOAT32 INT4->FLOAT32")
_CAST = words(
    "FLOAT32->INT8 FLOAT32->INT16 FLOAT32->INT32 FLOAT32->INT64 FLOAT32->UINT8 FLOAT32->BOOL FLOAT32->FLOAT16 "
    "INT8->FLOAT32 INT16->FLOAT32 INT32->FLOAT32 INT64->FLOAT32 UINT8->FLOAT32 BOOL->FLOAT32 FLOAT16->FLOAT32 "
    "INT8->INT32 INT32->INT8 INT32->INT64 INT64->INT32 INT32->INT16 INT16->INT32 UINT8->INT8 INT8->UINT8 BOOL->INT32"
)


def _norm(kind: str) -> OneOperator:
    return _unary("L2_NORMALIZATION", kind, schema.L2NormOptionsT())


OPERATORS: Mapping[str, tuple[tuple[str, ...], Maker]] = (
    {code: (EVERY, partial(_unary, code)) for code in _UNARY}
    | {code: (EVERY, partial(_binary, code, options=options)) for code, options in _ARITHMETIC.items()}
    | {code: (EVERY, partial(_binary, code, truth=True)) for code in _TRUTHS}
    | {code: (("BOOL",), partial(_binary, code, truth=True)) for code in ("LOGICAL_AND", "LOGICAL_OR")}
    | {code: (("INT8", "INT16", "INT32", "UINT8"), partial(_binary, code)) for code in ("BITWISE_XOR", "RIGHT_SHIFT")}
    | {code: (EVERY, partial(_select, code)) for code in ("SELECT", "SELECT_V2")}
    | {code: (("COMPLEX64",), partial(_complex, code)) for code in ("REAL", "IMAG", "COMPLEX_ABS")}
    | {
        "LOGICAL_NOT": (("BOOL",), partial(_unary, "LOGICAL_NOT")),
        "GELU": (FLOATS_AND_QUANTIZED, lambda kind: _unary("GELU", kind, schema.GeluOptionsT())),
        "L2_NORMALIZATION": (FLOATS_AND_QUANTIZED, _norm),
        "SOFTMAX": (FLOATS_AND_QUANTIZED, _softmax),
        "LEAKY_RELU": (FLOATS_AND_QUANTIZED, _leaky_relu),
        "PRELU": (FLOATS_AND_QUANTIZED, _prelu),
        "LOCAL_RESPONSE_NORMALIZATION": (FLOATS_AND_QUANTIZED, _lrn),
        "FAKE_QUANT": (("FLOAT32",), _fake_quant),
        "ADD_N": (NUMBERS, _add_n),
        "ATAN2": (("FLOAT32",), partial(_binary, "ATAN2")),
        "BITCAST": (("FLOAT32", "INT32"), _bitcast),
        "QUANTIZE": (_QUANTIZE, partial(_convert, "QUANTIZE")),
        "DEQUANTIZE": (_DEQUANTIZE, partial(_convert, "DEQUANTIZE")),
        "CAST": (_CAST, partial(_convert, "CAST")),
    }
)
