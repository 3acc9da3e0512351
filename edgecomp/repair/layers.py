"""The layers of a .tflite file that have weights: their arrays, and what they compute before their activation."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.graph import Graph, Operator, Tensor, read_graph
from edgecomp.tflite_edit import pack_model, text_of, unpack_model

LAYER_CODES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_ACTIVATIONS = {value: name for name, value in vars(schema.ActivationFunctionType).items() if not name.startswith("_")}


@dataclass(frozen=True)
class Layer:
    """One convolution or fully connected layer.

    Attributes:
        position: Among the operators of these kinds; the same in a float file and in one quantized from it.
        weights: Index of the tensor: (out, height, width, in / groups), (1, height, width, out) or (out, in).
        activation: Fused: NONE, RELU, RELU6, ...
        options: The operator's options in the object tree.
    """

    position: int
    operator: Operator
    name: str
    weights: int
    activation: str
    options: Any

    @property
    def code(self) -> str:
        """The operator."""
        return self.operator.code

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel reads one input channel."""
        return self.code == "DEPTHWISE_CONV_2D"

    @property
    def channel_axis(self) -> int:
        """Axis of the weights that counts output channels."""
        return 3 if self.is_depthwise else 0


class Network:
    """A .tflite file to be read and rewritten layer by layer. What it does not touch stays as it is.

    Args:
        data: Bytes of the file, float or quantized; only a float one may be changed.

    Raises:
        GraphError: Not a .tflite file, or a damaged one.
    """

    def __init__(self, data: bytes) -> None:
        self.graph: Graph = read_graph(data)
        self._model = unpack_model(data, "The model")
        number = next(i for i, part in enumerate(self.graph.subgraphs) if part is self.graph.main)
        self._part = self._model.subgraphs[number]
        # Bytes that two tensors share, or a tensor that two operators read, cannot be changed for one of them.
        self._uses = Counter(
            int(part.tensors[index].buffer)
            for part in self._model.subgraphs
            for operator in part.operators
            for index in operator.inputs
            if index >= 0
        )
        self.layers = tuple(self._layers())

    def _layers(self) -> list[Layer]:
        found: list[Layer] = []
        main, position = self.graph.main, -1
        for operator, entry in zip(main.operators, self._part.operators, strict=True):
            if operator.code not in LAYER_CODES:
                continue
            position += 1
            weights = main.input(operator, 1)
            if weights is None or weights.data_bytes == 0 or weights.data_bytes != weights.size_bytes:
                continue  # Computed by another operator, or stored as a sparse tensor.
            found.append(
                Layer(
                    position=position,
                    operator=operator,
                    name=main.layer(operator),
                    weights=weights.index,
                    activation=_ACTIVATIONS[entry.builtinOptions.fusedActivationFunction],
                    options=entry.builtinOptions,
                )
            )
        return found

    def activation(self, operator: Operator) -> str:
        """The activation fused into an operator: NONE, RELU, ..."""
        return str(_ACTIVATIONS[self._part.operators[operator.index].builtinOptions.fusedActivationFunction])

    def is_shared(self, tensor: int) -> bool:
        """Whether more than one operator reads the bytes of a constant."""
        return self._uses[int(self._part.tensors[tensor].buffer)] > 1

    def buffer(self, tensor: Tensor) -> int:
        """The index of the buffer with the bytes of a constant."""
        return int(self._part.tensors[tensor.index].buffer)

    def constant(self, tensor: int) -> np.ndarray:
        """The real values of a constant, float64, in its shape."""
        spec = self.graph.main.tensors[tensor]
        data = self._model.buffers[self._part.tensors[tensor].buffer].data
        stored = _unpacked(spec, np.asarray(data, dtype=np.uint8))
        if not spec.scales:
            return stored.astype(np.float64)
        shape = np.ones(len(spec.shape), dtype=int)
        if len(spec.scales) > 1:
            shape[self._part.tensors[tensor].quantization.quantizedDimension] = len(spec.scales)
        scales = np.array(spec.scales, dtype=np.float64).reshape(shape)
        # Weights and biases are symmetric: their zero points are all 0.
        return np.asarray(stored * scales)

    def bias(self, layer: Layer) -> np.ndarray:
        """The bias of a layer of a float file as it is now, shape (out,); zeros where it has none."""
        index = self._bias_index(layer)
        if index < 0:
            return np.zeros(self.graph.main.tensors[layer.weights].shape[layer.channel_axis])
        data = self._model.buffers[self._part.tensors[index].buffer].data
        return np.asarray(data, dtype=np.uint8).view("<f4").astype(np.float64)

    def _bias_index(self, layer: Layer) -> int:
        inputs = self._part.operators[layer.operator.index].inputs
        return int(inputs[2]) if len(inputs) > 2 else -1

    def set_weights(self, layer: Layer, values: np.ndarray) -> None:
        """Replace the weights of a layer of a float file."""
        self._write(self._part.tensors[layer.weights], values)

    def set_bias(self, layer: Layer, values: np.ndarray) -> None:
        """Replace the bias of a layer of a float file; one that it shares, or has not, becomes its own.

        Args:
            layer: Of this network.
            values: Shape (out,).
        """
        entry, index = self._part.operators[layer.operator.index], self._bias_index(layer)
        if index < 0 or self.is_shared(index):
            tensor = schema.TensorT() if index < 0 else copy.copy(self._part.tensors[index])
            tensor.name = self._unused_name(f"{layer.name};bias")
            tensor.shape, tensor.type = [len(values)], schema.TensorType.FLOAT32
            tensor.buffer = len(self._model.buffers)
            self._model.buffers.append(schema.BufferT())
            self._uses[tensor.buffer] = 1
            if index >= 0:
                self._uses[int(self._part.tensors[index].buffer)] -= 1
            index = len(self._part.tensors)
            self._part.tensors.append(tensor)
            entry.inputs = [*(int(item) for item in entry.inputs[:2]), index]
        self._write(self._part.tensors[index], values)

    def _unused_name(self, wanted: str) -> str:
        taken = {text_of(tensor.name) for tensor in self._part.tensors}
        number, name = 0, wanted
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        return name

    def _write(self, tensor: Any, values: np.ndarray) -> None:
        self._model.buffers[tensor.buffer].data = np.frombuffer(values.astype("<f4").tobytes(), dtype=np.uint8)

    def pack(self) -> bytes:
        """The bytes of the file as it is now."""
        return pack_model(self._model)


STORED = {"FLOAT32": "<f4", "INT8": "i1", "UINT8": "u1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8"}


def _unpacked(tensor: Tensor, data: np.ndarray) -> np.ndarray:
    if tensor.type == "INT4":  # Two to a byte, the first in the low half.
        nibbles = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: tensor.elements].astype(np.int8)
        return np.where(nibbles > 7, nibbles - 16, nibbles).reshape(tensor.shape)
    return data.view(STORED[tensor.type]).reshape(tensor.shape)


def preactivation(layer: Layer, weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """What a layer computes before bias and activation.

    Args:
        layer: Its strides, dilation and padding count.
        weights: Real values in the shape of the layer's weights.
        inputs: Real values of its input tensor, (n, height, width, in), or anything of (n * in) elements for a fully
            connected layer. A convolution sees their mean over n.

    Returns:
        (positions, out).
    """
    if layer.code == "FULLY_CONNECTED":
        return np.asarray(inputs.reshape(-1, weights.shape[1]) @ weights.T)
    options = layer.options
    height, width = weights.shape[1:3]
    steps = (options.strideH, options.strideW)
    dilation = (options.dilationHFactor, options.dilationWFactor)
    same = options.padding == schema.Padding.SAME
    sizes, borders = [], []
    for size, kernel, step, spread in zip(inputs.shape[1:3], (height, width), steps, dilation, strict=True):
        reach = (kernel - 1) * spread + 1
        count = -(-size // step) if same else (size - reach) // step + 1
        missing = max((count - 1) * step + reach - size, 0) if same else 0
        sizes.append(count)
        borders.append((missing // 2, missing - missing // 2))
    padded = np.pad(inputs.mean(axis=0), (*borders, (0, 0)))
    result: Any = 0.0
    for row in range(height):
        for column in range(width):
            window = padded[row * dilation[0] :: steps[0], column * dilation[1] :: steps[1]]
            result = result + _meet(layer, weights[:, row, column], window[: sizes[0], : sizes[1]])
    return np.asarray(result).reshape(-1, result.shape[-1])


def _meet(layer: Layer, weights: np.ndarray, window: np.ndarray) -> np.ndarray:
    """One position of the kernel: weights (1, out) or (out, in / groups); window (height, width, in)."""
    if layer.is_depthwise:
        return np.asarray(np.repeat(window, weights.shape[1] // window.shape[-1], axis=-1) * weights[0])
    each = weights.shape[1]
    groups = window.shape[-1] // each
    parts = [
        window[..., group * each : (group + 1) * each] @ block.T
        for group, block in enumerate(np.split(weights, groups))
    ]
    return np.concatenate(parts, axis=-1)


def by_feature(layer: Layer, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values of the input features, shape (features,), shaped to meet the weights that read them.

    Args:
        layer: Whose weights they are.
        weights: In the shape of the layer's weights.
        values: One for each channel of the layer's input. Where a fully connected layer reads more than one position,
            that many times the same.
    """
    if layer.is_depthwise:
        return np.repeat(values, weights.shape[3] // len(values)).reshape(1, 1, 1, -1)
    if layer.code == "FULLY_CONNECTED":
        return np.resize(values, weights.shape[1]).reshape(1, -1)
    # Output o of a grouped convolution reads the features of its own group.
    groups = len(values) // weights.shape[3]
    return np.repeat(values.reshape(groups, -1), weights.shape[0] // groups, axis=0).reshape(-1, 1, 1, weights.shape[3])
