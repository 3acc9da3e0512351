"""Small models layer by layer, straight to a .tflite file: calibration kernels, with weights that mean nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.tflite_build import Node, Tensor, build_model

Dtype = Literal["float32", "int8"]
_SCALE, _ZERO_POINT = 0.05, 3
_WEIGHT_SCALE = 0.003
_SAME, _VALID, _RELU = 0, 1, 1


class Layers:
    """A model in the making: each call adds an operator behind the one before, and gives the model back.

    Batch 1, height x width x channels; weights come from a generator with a fixed seed. Operators have the versions
    and the quantization (per channel for weights, per tensor for activations) that a converter gives them.

    Attributes:
        x: What the last operator made.
    """

    def __init__(self, dtype: Dtype, shape: tuple[int, ...], *, float_io: bool = False) -> None:
        """An input of this shape, without the batch.

        Args:
            dtype: Of all arithmetic.
            shape: (height, width, channels), or (features,).
            float_io: At int8, inputs and outputs are float32 all the same: QUANTIZE first, DEQUANTIZE last.
        """
        self._dtype, self._random = dtype, np.random.default_rng(11)
        self._nodes: list[Node] = []
        self._float_io = float_io and dtype == "int8"
        self.x = Tensor("FLOAT32", (1, *shape)) if self._float_io else self._activation(shape)
        if self._float_io:
            self._add("QUANTIZE", [], self._activation(shape))

    def build(self) -> bytes:
        """The file."""
        if self._float_io:
            self._add("DEQUANTIZE", [], Tensor("FLOAT32", self.x.shape), version=2)
        return build_model(self._nodes)

    def conv(self, filters: int, kernel: int | tuple[int, int] = 1, stride: int = 1) -> Self:
        """CONV_2D with ReLU, "same" padding; the stride of a kernel of height 1 is along the width alone."""
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        strides = (1 if height == 1 < width else stride, stride)
        options = _options(schema.Conv2DOptionsT(), strides)
        weights = self._weights((filters, height, width, self.x.shape[-1]), 0)
        shape = (*self._strided(strides), filters)
        return self._add("CONV_2D", [weights, self._bias(filters)], self._activation(shape), options, version=(1, 3))

    def depthwise(self, kernel: int = 3, stride: int = 1) -> Self:
        """DEPTHWISE_CONV_2D with ReLU, "same" padding."""
        options = _options(schema.DepthwiseConv2DOptionsT(), (stride, stride), depthMultiplier=1)
        channels = self.x.shape[-1]
        weights = self._weights((1, kernel, kernel, channels), 3)
        shape = (*self._strided((stride, stride)), channels)
        inputs = [weights, self._bias(channels)]
        return self._add("DEPTHWISE_CONV_2D", inputs, self._activation(shape), options, version=(1, 3))

    def dense(self, units: int) -> Self:
        """FULLY_CONNECTED with ReLU. One scale for all its weights: older runtimes know no other."""
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = _RELU
        weights, bias = self._weights((units, self.x.shape[-1]), 0), self._bias(units)
        inputs = [replace(tensor, scales=tensor.scales[:1]) for tensor in (weights, bias)]
        return self._add("FULLY_CONNECTED", inputs, self._activation((units,)), options, version=(1, 4))

    def pool(self, code: str, size: tuple[int, int], stride: int | None = None) -> Self:
        """MAX_POOL_2D or AVERAGE_POOL_2D, as large as its stride unless that is given, "valid" padding."""
        strides = size if stride is None else (stride, stride)
        options = schema.Pool2DOptionsT()
        options.padding, (options.strideH, options.strideW) = _VALID, strides
        options.filterHeight, options.filterWidth = size
        height, width = ((self.x.shape[axis + 1] - size[axis]) // strides[axis] + 1 for axis in (0, 1))
        return self._add(code, [], self._activation((height, width, self.x.shape[-1])), options, version=(1, 2))

    def mean(self) -> Self:
        """MEAN over height and width."""
        options = schema.ReducerOptionsT()
        options.keepDims = False
        axes = Tensor("INT32", (2,), np.array([1, 2]))
        return self._add("MEAN", [axes], self._activation((self.x.shape[-1],)), options, version=(1, 2))

    def add(self, other: Tensor | None = None) -> Self:
        """ADD of another activation of the same shape, or of itself."""
        return self.binary("ADD", schema.AddOptionsT(), other)

    def binary(self, code: str, options: Any, other: Tensor | None = None) -> Self:
        """ADD, MUL, SUB: with another activation of the same shape, or with itself."""
        return self._add(code, [other or self.x], self._activation(self.x.shape[1:]), options, version=(1, 2))

    def unary(self, code: str) -> Self:
        """LOGISTIC, TANH, HARD_SWISH."""
        options = schema.HardSwishOptionsT() if code == "HARD_SWISH" else None
        target = self._activation(self.x.shape[1:])
        if self._dtype == "int8" and code in ("LOGISTIC", "TANH"):  # Their range is fixed.
            scale, zero_point = (1 / 256, -128) if code == "LOGISTIC" else (1 / 128, 0)
            target = Tensor("INT8", target.shape, scales=(scale,), zero_point=zero_point)
        return self._add(code, [], target, options)

    def softmax(self) -> Self:
        """SOFTMAX over the last axis."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        shape = self.x.shape
        target = (
            Tensor("FLOAT32", shape)
            if self._dtype == "float32"
            else Tensor("INT8", shape, scales=(1 / 256,), zero_point=-128)
        )
        return self._add("SOFTMAX", [], target, options, version=(1, 2))

    def flatten(self) -> Self:
        """RESHAPE to one axis."""
        count = int(np.prod(self.x.shape))
        options = schema.ReshapeOptionsT()
        options.newShape = [1, count]
        return self._add("RESHAPE", [Tensor("INT32", (2,), np.array([1, count]))], self._activation((count,)), options)

    def _add(
        self, code: str, more: list[Tensor], target: Tensor, options: Any = None, version: int | tuple[int, int] = 1
    ) -> Self:
        """One operator; `version` is one for both dtypes, or that of float32 and that of int8."""
        number = version if isinstance(version, int) else version[self._dtype == "int8"]
        self._nodes.append(Node(code, [self.x, *more], [target], options, version=number))
        self.x = target
        return self

    def _strided(self, strides: tuple[int, int]) -> tuple[int, int]:
        return -(-self.x.shape[1] // strides[0]), -(-self.x.shape[2] // strides[1])

    def _activation(self, shape: tuple[int, ...]) -> Tensor:
        if self._dtype == "float32":
            return Tensor("FLOAT32", (1, *shape))
        return Tensor("INT8", (1, *shape), scales=(_SCALE,), zero_point=_ZERO_POINT)

    def _weights(self, shape: tuple[int, ...], axis: int) -> Tensor:
        if self._dtype == "float32":
            # Variances stay about the same from layer to layer: neither infinities nor denormals, which are slow.
            products = np.prod(shape) / shape[axis]
            return Tensor("FLOAT32", shape, self._random.normal(0.0, np.sqrt(2 / products), shape))
        return Tensor("INT8", shape, self._random.integers(-127, 128, shape), (_WEIGHT_SCALE,) * shape[axis], 0, axis)

    def _bias(self, channels: int) -> Tensor:
        if self._dtype == "float32":
            return Tensor("FLOAT32", (channels,), self._random.uniform(0.0, 0.1, channels))
        scales = (_SCALE * _WEIGHT_SCALE,) * channels
        return Tensor("INT32", (channels,), self._random.integers(-100, 100, channels), scales)


def _options(options: Any, strides: tuple[int, int], **more: int) -> Any:
    options.strideH, options.strideW = strides
    options.dilationHFactor = options.dilationWFactor = 1
    options.padding, options.fusedActivationFunction = _SAME, _RELU
    for name, value in more.items():
        setattr(options, name, value)
    return options
