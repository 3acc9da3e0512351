"""Operators with weights: each activation type with the weight types that it is used with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from scripts.one_operator.build import OneOperator, Tensor
from scripts.one_operator.elementwise import Maker
from scripts.one_operator.tensors import constant, feature, result

# Keys as `edgecomp.support.types_of` reads them from a file.
_MIXED = ("INT8xINT4", "INT16xINT4", "FLOAT32xINT8", "FLOAT32xINT4")
WEIGHTED = ("FLOAT32", "INT8", "INT16", "UINT8", *_MIXED, *(f"{kind}_PER_TENSOR" for kind in _MIXED))
_COMPUTED = ("FLOAT32xFLOAT32", "INT8xINT8", "INT16xINT16")
_WEIGHT_SCALE = 0.01


def weight_type(kind: str) -> str:
    """Type of the weights of a key; the suffix of a single scale stays."""
    _, _, stored = kind.partition("x")
    return stored or {"INT16": "INT8"}.get(kind, kind)


def weights(kind: str, shape: tuple[int, ...], axis: int | None) -> Tensor:
    """Constant weights; per channel along `axis`, symmetric, as converters make them (UINT8: per tensor, 128)."""
    generator = np.random.default_rng(5)
    if kind.endswith("_PER_TENSOR"):
        kind, axis = kind.removesuffix("_PER_TENSOR"), None
    if kind == "FLOAT32":
        return Tensor(kind, shape, generator.uniform(-0.5, 0.5, shape))
    if kind == "UINT8":
        return Tensor(kind, shape, generator.integers(100, 156, shape), (_WEIGHT_SCALE,), 128)
    limit = 7 if kind == "INT4" else 50
    scale = _WEIGHT_SCALE * 50 / limit
    scales = (scale,) if axis is None else tuple(scale * (1 + channel / 16) for channel in range(shape[axis]))
    return Tensor(kind, shape, generator.integers(-limit, limit + 1, shape), scales, 0, axis or 0)


def _bias(activation: Tensor, kernel: Tensor, channels: int) -> Tensor:
    """The integer bias of an integer operator: scale_in * scale_weights, zero point 0; else a float one."""
    if not activation.scales:
        return Tensor("FLOAT32", (channels,), np.linspace(-0.1, 0.1, channels))
    kind = "INT64" if activation.type == "INT16" else "INT32"
    scales = tuple(activation.scales[0] * scale for scale in kernel.scales)
    return Tensor(kind, (channels,), np.arange(channels) * 7 - 20, scales)


def _layer(
    code: str, kind: str, kernel: Tensor, channels: int, source: tuple[int, ...], out: tuple[int, ...], options: Any
) -> OneOperator:
    activation = feature(kind.partition("x")[0], source)
    target = result(activation.type, out, scale=activation.scales[0] * 4 if activation.scales else 0.0)
    return OneOperator(code, [activation, kernel, _bias(activation, kernel, channels)], [target], options)


def _strides(options: Any, **more: int) -> Any:
    options.strideW = options.strideH = 1
    for name in ("dilationWFactor", "dilationHFactor", "dilationDFactor", "strideD"):
        if hasattr(options, name):
            setattr(options, name, 1)
    for name, value in more.items():
        setattr(options, name, value)
    return options


def _conv_2d(kind: str) -> OneOperator:
    kernel = weights(weight_type(kind), (6, 3, 3, 8), 0)
    return _layer("CONV_2D", kind, kernel, 6, (1, 8, 8, 8), (1, 8, 8, 6), _strides(schema.Conv2DOptionsT()))


def _depthwise(kind: str) -> OneOperator:
    kernel = weights(weight_type(kind), (1, 3, 3, 8), 3)
    options = _strides(schema.DepthwiseConv2DOptionsT(), depthMultiplier=1)
    return _layer("DEPTHWISE_CONV_2D", kind, kernel, 8, (1, 8, 8, 8), (1, 8, 8, 8), options)


def _is_computed(kind: str) -> bool:
    """Whether the key is one of two activations: INT8xINT8."""
    left, _, right = kind.partition("x")
    return left == right


def _fully_connected(kind: str) -> OneOperator:
    if _is_computed(kind):
        left, right = feature(kind.partition("x")[0], (1, 32)), feature(kind.partition("x")[2], (6, 32))
        target = result(left.type, (1, 6), scale=left.scales[0] * 8 if left.scales else 0.0)
        return OneOperator("FULLY_CONNECTED", [left, right, None], [target], schema.FullyConnectedOptionsT())
    kernel = weights(weight_type(kind), (6, 32), 0)
    return _layer("FULLY_CONNECTED", kind, kernel, 6, (1, 32), (1, 6), schema.FullyConnectedOptionsT())


def _transpose_conv(kind: str) -> OneOperator:
    kernel = weights(weight_type(kind), (6, 3, 3, 8), 0)
    options = _strides(schema.TransposeConvOptionsT(), strideW=2, strideH=2)
    made = _layer("TRANSPOSE_CONV", kind, kernel, 6, (1, 4, 4, 8), (1, 8, 8, 6), options)
    activation, _, bias = made.inputs
    return OneOperator("TRANSPOSE_CONV", [constant([1, 8, 8, 6]), kernel, activation, bias], made.outputs, options)


def _conv_3d(code: str, kind: str) -> OneOperator:
    options = _strides(schema.Conv3DOptionsT())
    if code == "CONV_3D":
        kernel = weights(weight_type(kind), (3, 3, 3, 4, 6), 4)
        return _layer(code, kind, kernel, 6, (1, 4, 4, 4, 4), (1, 4, 4, 4, 6), options)
    kernel = weights(weight_type(kind), (3, 3, 3, 6, 4), 3)
    made = _layer(code, kind, kernel, 6, (1, 4, 4, 4, 4), (1, 4, 4, 4, 6), options)
    activation, _, bias = made.inputs
    return OneOperator(code, [constant([1, 4, 4, 4, 6]), kernel, activation, bias], made.outputs, options)


def _batch_matmul(kind: str) -> OneOperator:
    activation = feature(kind.partition("x")[0], (1, 4, 8))
    kernel = feature(activation.type, (1, 8, 6)) if _is_computed(kind) else weights(weight_type(kind), (1, 8, 6), None)
    target = result(activation.type, (1, 4, 6), scale=activation.scales[0] * 4 if activation.scales else 0.0)
    return OneOperator("BATCH_MATMUL", [activation, kernel], [target], schema.BatchMatMulOptionsT())


def _embedding(kind: str) -> OneOperator:
    table = weights(weight_type(kind), (10, 8), 0 if kind.startswith("FLOAT32x") else None)
    target = Tensor(kind.partition("x")[0], (3, 8), scales=() if kind.startswith("FLOAT32") else table.scales)
    return OneOperator("EMBEDDING_LOOKUP", [Tensor("INT32", (3,), low=0, high=9), table], [target])


OPERATORS: Mapping[str, tuple[tuple[str, ...], Maker]] = {
    "CONV_2D": (WEIGHTED, _conv_2d),
    "DEPTHWISE_CONV_2D": (WEIGHTED, _depthwise),
    "FULLY_CONNECTED": ((*WEIGHTED, *_COMPUTED), _fully_connected),
    "TRANSPOSE_CONV": (WEIGHTED, _transpose_conv),
    "CONV_3D": (("FLOAT32", "INT8"), partial(_conv_3d, "CONV_3D")),
    "CONV_3D_TRANSPOSE": (("FLOAT32", "INT8"), partial(_conv_3d, "CONV_3D_TRANSPOSE")),
    "BATCH_MATMUL": (
        ("FLOAT32", "INT8", "INT16", "FLOAT32xINT8_PER_TENSOR", "INT8xINT4_PER_TENSOR", *_COMPUTED),
        _batch_matmul,
    ),
    "EMBEDDING_LOOKUP": (("FLOAT32", "INT8", *(kind for kind in WEIGHTED if kind.startswith("FLOAT32x"))), _embedding),
}
