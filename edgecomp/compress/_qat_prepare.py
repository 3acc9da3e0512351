"""A model whose layers all have a range of their own between them, so that each can be computed in integers.

Quantization-aware training measures what flows between layers. An operator inside a layer (the sum in x * scale +
offset, the sigmoid behind a convolution) has no place for a range and would stay float in the file: such layers are
split, or replaced by one operator that TFLite has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from edgecomp.keras_fold import foldable
from edgecomp.keras_graph import flatten, free_name, nodes_of, rewrite
from edgecomp.keras_layers import activation_of
from edgecomp.keras_separable import halves

_layers = tf_keras.layers
# Those of Keras 3, as functions of tf_keras: its own hard sigmoid is another one.
_HARD_SIGMOID, _HARD_SILU = (
    activation_of(function, "edgecomp") for function in (keras.activations.hard_sigmoid, keras.activations.hard_silu)
)
# The converter fuses these into the operator before them.
_FUSED = ("linear", "relu", "relu6")
_SIXTH_TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Part:
    """A layer by its class and configuration, the weights it gets, and which input it takes beside what came before."""

    kind: Any
    config: dict[str, Any] = field(default_factory=dict)
    weights: Sequence[np.ndarray] = field(default=())
    beside: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A model ready for ranges.

    Attributes:
        model: Flat.
        origins: Name of a layer that is a piece of another -> name of that one.
    """

    model: Any
    origins: Mapping[str, str]

    def origin(self, name: str) -> str:
        """The layer of the user's model that a layer belongs to."""
        return self.origins.get(name, name)


def prepare(model: Any) -> Prepared:
    """A flat copy with the same outputs: compound layers are split, hard-swish is one layer.

    Batch normalization stays behind the layer that the converter folds it into. Folding multiplies whole channels, so
    it changes none of their integers; but trained without it, weights of very different size would take the same steps
    (ResNet8 after one epoch: validation loss 0.18 folded, 0.09 not).

    Args:
        model: A tf_keras functional or Sequential model.

    Raises:
        ModelError: The model has no graph of layers.
    """
    flat = flatten(model)
    splitting = _Splitting(flat)
    plain = rewrite(flat, splitting.replace)
    return Prepared(rewrite(plain, _HardSwish(plain).replace), splitting.origins)


class _Splitting:
    """Replaces layers by chains of simpler ones; the last one of a chain keeps the name."""

    def __init__(self, model: Any) -> None:
        self._nodes = {id(node.layer): node for node in nodes_of(model)}
        self._folded = {id(norm) for norm in foldable(model).values()}
        self._names = {layer.name for layer in model.layers}
        self._chains: dict[int, list[tuple[_Part, Any]]] = {}
        self.origins: dict[str, str] = {}

    def replace(self, layer: Any, inputs: tuple[Any, ...]) -> Any:
        """See `keras_graph.Replacement`."""
        if id(layer) in self._folded:
            return None
        made = inputs[0] if len(inputs) == 1 else list(inputs)
        if id(layer) in self._chains:
            for part, item in self._chains[id(layer)]:
                made = _call(item, part, made, inputs)
            return made
        form = _operation if type(layer).__name__ == "TFOpLambda" else _FORMS.get(type(layer))
        parts = None if form is None else form(layer, self._nodes[id(layer)])
        if parts is None and _is_regularized(layer):
            parts = [_Part(type(layer), layer.get_config(), layer.get_weights())]
        if parts is None:
            return None
        chain = self._chains.setdefault(id(layer), [])
        for number, part in enumerate(parts):
            name = layer.name
            if number < len(parts) - 1:
                name = free_name(f"{layer.name}_{number + 1}", self._names)
                self.origins[name] = layer.name
            # Weight decay shrinks the outputs where the statistics of batch normalization do not follow.
            config = {key: None if key.endswith("_regularizer") else value for key, value in part.config.items()}
            item = part.kind.from_config({**config, "name": name})
            made = _call(item, part, made, inputs)
            if part.weights:
                item.set_weights(part.weights)
            chain.append((part, item))
        return made


def _call(item: Any, part: _Part, made: Any, inputs: tuple[Any, ...]) -> Any:
    if part.beside is None:
        return item(made)
    return item([inputs[0] if isinstance(made, list) else made, inputs[part.beside]])


def _is_regularized(layer: Any) -> bool:
    is_own = getattr(_layers, type(layer).__name__, None) is type(layer)
    return is_own and any(key.endswith("_regularizer") and value for key, value in layer.get_config().items())


_Form = Callable[[Any, Any], list[_Part] | None]


def _activation(function: Any) -> list[_Part]:
    if function is _HARD_SIGMOID:  # relu6(x + 3) / 6; TFLite has no operator for it.
        return [*_affine(1.0, 3.0), _Part(_layers.ReLU, {"max_value": 6.0}), *_affine(1 / 6, 0.0)]
    return [_Part(_layers.Activation, {"activation": function})]


def _affine(scale: Any, offset: Any) -> list[_Part]:
    """A layer for x * scale and one for + offset: inside of one layer nothing measures the range between them."""
    parts = []
    if np.any(np.asarray(scale) != 1):
        parts.append(_Part(_layers.Rescaling, {"scale": scale, "offset": 0.0}))
    if np.any(np.asarray(offset) != 0):
        parts.append(_Part(_layers.Rescaling, {"scale": 1.0, "offset": offset}))
    return parts or [_Part(_layers.Activation, {"activation": "linear"})]


def _with_activation(layer: Any, node: Any) -> list[_Part] | None:  # noqa: ARG001
    """A layer with weights and an activation that the converter does not fuse."""
    function = layer.activation
    is_layer = isinstance(function, tf.Module)
    if is_layer or getattr(function, "__name__", "") in _FUSED:
        return None
    config = layer.get_config() | {"activation": "linear"}
    return [_Part(type(layer), config, layer.get_weights()), *_activation(function)]


def _plain_activation(layer: Any, node: Any) -> list[_Part] | None:  # noqa: ARG001
    return _activation(layer.activation) if layer.activation is _HARD_SIGMOID else None


def _rescaling(layer: Any, node: Any) -> list[_Part] | None:  # noqa: ARG001
    parts = _affine(layer.scale, layer.offset)
    return parts if len(parts) > 1 else None


def _normalization(layer: Any, node: Any) -> list[_Part]:  # noqa: ARG001
    deviation = np.maximum(np.sqrt(np.asarray(layer.variance)), tf_keras.backend.epsilon())
    return _affine(1 / deviation, -np.asarray(layer.mean) / deviation)


def _batch_normalization(layer: Any, node: Any) -> list[_Part] | None:
    """One that could not be folded: a depthwise convolution with a kernel of one weight, or a product and a sum."""
    rank = node.keras_inputs[0].shape.rank
    if list(layer.axis) != [rank - 1]:
        return None
    scale = 1 / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    if layer.scale:
        scale = scale * layer.gamma.numpy()
    offset = -layer.moving_mean.numpy() * scale + (layer.beta.numpy() if layer.center else 0.0)
    if rank == 4:
        return [_Part(_layers.DepthwiseConv2D, {"kernel_size": (1, 1)}, [scale.reshape(1, 1, -1, 1), offset])]
    return _affine(scale, offset)


def _merge(layer: Any, node: Any) -> list[_Part] | None:
    """Two at a time: within one layer sums of three have no range."""
    count = len(node.keras_inputs)
    return _in_turn(type(layer), count) if count > 2 else None


def _in_turn(kind: Any, count: int) -> list[_Part]:
    return [_Part(kind, beside=number) for number in range(1, count)]


def _average(layer: Any, node: Any) -> list[_Part]:  # noqa: ARG001
    count = len(node.keras_inputs)
    return [*_in_turn(_layers.Add, count), *_affine(1 / count, 0.0)]


def _separable(layer: Any, node: Any) -> list[_Part]:  # noqa: ARG001
    config = layer.get_config()
    function = layer.activation
    is_fused = getattr(function, "__name__", "") in _FUSED
    first, second = halves(config if is_fused else {**config, "activation": "linear"}, layer.get_weights())
    return [_Part(*first), _Part(*second), *([] if is_fused else _activation(function))]


def _operation(layer: Any, node: Any) -> list[_Part] | None:
    """A TensorFlow operation that was written into a functional model: the Keras layer that computes the same."""
    tensors = node.keras_inputs
    given = [*node.call_args, *(value for key, value in node.call_kwargs.items() if key != "name")]
    kind = getattr(layer, "symbol", "").rpartition(".")[2]
    if len(given) == len(tensors) == 1 and kind in _UNARY:
        return [_UNARY[kind]]
    if len(given) != 2 or node.layer.inbound_nodes[1:]:
        return None
    if len(tensors) == 2:
        in_order = all(one is other for one, other in zip(given, tensors, strict=True))
        same_rank = tensors[0].shape.rank == tensors[1].shape.rank
        return [_Part(_MERGES[kind])] if kind in _MERGES and same_rank and in_order else None
    left, right = given
    if isinstance(right, Real):
        number = float(right)
        forms = {"multiply": (number, 0.0), "add": (1.0, number), "subtract": (1.0, -number)}
        if number:
            forms["truediv"] = (1 / number, 0.0)
    elif isinstance(left, Real):
        number = float(left)
        forms = {"multiply": (number, 0.0), "add": (1.0, number), "subtract": (-1.0, number)}
    else:
        return None
    return _affine(*forms[kind]) if kind in forms else None


_UNARY = {
    "relu": _Part(_layers.ReLU),
    "relu6": _Part(_layers.ReLU, {"max_value": 6.0}),
    "sigmoid": _Part(_layers.Activation, {"activation": "sigmoid"}),
    "tanh": _Part(_layers.Activation, {"activation": "tanh"}),
    "softmax": _Part(_layers.Softmax),
}
_MERGES = {"add": _layers.Add, "multiply": _layers.Multiply, "subtract": _layers.Subtract}
_FORMS: dict[type, _Form] = {
    _layers.Conv2D: _with_activation,
    _layers.DepthwiseConv2D: _with_activation,
    _layers.Conv2DTranspose: _with_activation,
    _layers.Dense: _with_activation,
    _layers.SeparableConv2D: _separable,
    _layers.Activation: _plain_activation,
    _layers.Rescaling: _rescaling,
    _layers.Normalization: _normalization,
    _layers.BatchNormalization: _batch_normalization,
    _layers.Average: _average,
    **dict.fromkeys((_layers.Add, _layers.Multiply, _layers.Maximum, _layers.Minimum), _merge),
}


class _HardSwish:
    """Replaces x * relu6(x + 3) / 6, as it is often written, by the activation that TFLite has an operator for."""

    def __init__(self, model: Any) -> None:
        self._sources = {
            id(node.layer): index
            for node in nodes_of(model)
            if type(node.layer) is _layers.Multiply and (index := _hard_swish_source(node)) is not None
        }
        self._names = {layer.name for layer in model.layers}

    def replace(self, layer: Any, inputs: tuple[Any, ...]) -> Any:
        """See `keras_graph.Replacement`."""
        index = self._sources.get(id(layer))
        return None if index is None else _layers.Activation(_HARD_SILU, name=layer.name)(inputs[index])


def _hard_swish_source(node: Any) -> int | None:
    """Which input of a product is x, if the other one is relu6(x + 3) / 6."""
    inputs = node.keras_inputs
    if len(inputs) != 2 or len(node.layer.inbound_nodes) > 1:
        return None
    for index, gate in ((0, inputs[1]), (1, inputs[0])):
        chain = []
        for _ in range(3):
            if len(gate.node.keras_inputs) != 1:
                break
            chain.append(gate.node.layer)
            gate = gate.node.keras_inputs[0]
        if gate is inputs[index] and len(chain) == 3 and _is_hard_sigmoid(*chain):
            return index
    return None


def _is_hard_sigmoid(last: Any, middle: Any, first: Any) -> bool:
    return (
        type(first) is type(last) is _layers.Rescaling
        and (first.scale, first.offset, last.offset) == (1, 3, 0)
        and abs(last.scale - 1 / 6) < _SIXTH_TOLERANCE
        and type(middle) is _layers.ReLU
        and (middle.max_value, middle.negative_slope, middle.threshold) == (6, 0, 0)
    )
