"""How each kind of layer hands its channels on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras.src.layers.core.tf_op_layer import TFOpLambda

from edgecomp.compress._channels.flow import Count, Flow, Ids, LayerChannels

Rule = Callable[[Flow, Any], list[Ids]]
"""Called with the node of one use of a layer; returns the channels of each of its outputs."""

_layers = tf_keras.layers

_EACH_BY_ITSELF = {
    "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "linear", "log_sigmoid",
    "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "swish", "tanh", "tanh_shrink",
}  # fmt: skip
"""Activations that look at one element at a time; those with an underscore in front are edgecomp's own."""

_ELEMENTWISE = {
    "__operators__.add", "__operators__.mul", "__operators__.sub", "__operators__.truediv", "abs", "add", "add_n",
    "cast", "clip_by_value", "divide", "exp", "identity", "math.abs", "math.add", "math.add_n", "math.divide",
    "math.exp", "math.maximum", "math.minimum", "math.multiply", "math.negative", "math.sigmoid", "math.sqrt",
    "math.square", "math.subtract", "math.tanh", "math.truediv", "maximum", "minimum", "multiply", "nn.elu", "nn.gelu",
    "nn.leaky_relu", "nn.relu", "nn.relu6", "nn.selu", "nn.sigmoid", "nn.silu", "nn.softplus", "nn.swish", "nn.tanh",
    "sigmoid", "sqrt", "square", "stop_gradient", "subtract", "tanh", "truediv",
}  # fmt: skip
"""TensorFlow functions, by canonical name, that a functional model may call without a layer."""


def channel_count(tensor: Any) -> int:
    """Size of the last axis of a symbolic tensor; 0 where it has none or leaves it open."""
    shape = tensor.shape
    return int(shape[-1]) if shape.rank is not None and shape.rank > 1 and shape[-1] is not None else 0


def positions_of(layer: Any, node: Any) -> int | None:
    """How often one weight of a kernel is multiplied in one inference; None where a size is left open."""
    # A transposed convolution meets its kernel once for each input, all others once for each output.
    is_transposed = isinstance(layer, _layers.Conv1DTranspose | _layers.Conv2DTranspose | _layers.Conv3DTranspose)
    tensor = node.keras_inputs[0] if is_transposed else node.outputs
    sizes = list(tensor.shape[1:-1])
    return None if None in sizes else math.prod(sizes)


def freeze_all(flow: Flow, node: Any, why: str = "is of a kind that cannot be cut") -> list[Ids]:
    """The rule of layers that nothing is known about."""
    for tensor in node.keras_inputs:
        flow.freeze(flow.ids(tensor), f"{node.layer.name} ({type(node.layer).__name__}), which reads them, {why}")
    made = [flow.new(channel_count(tensor)) for tensor in tf.nest.flatten(node.outputs)]
    for ids in made:
        flow.freeze(ids, f"it {why}")
    return made


def _conv(flow: Flow, node: Any) -> list[Ids]:
    layer, source = node.layer, flow.ids(node.keras_inputs[0])
    made = flow.new(layer.filters)
    spatial = (None,) * layer.rank
    transposed = isinstance(layer, _layers.Conv1DTranspose | _layers.Conv2DTranspose | _layers.Conv3DTranspose)
    axes = (*spatial, made, source) if transposed else (*spatial, source, made)
    resize: Callable[[Count], dict[str, Any]] = lambda count: {"filters": count(made)}  # noqa: E731
    if layer.groups > 1:
        # Groups of unequal size do not exist: a group goes as a whole, with all that it reads and makes.
        axes = (*spatial, None, made)
        per_group = layer.filters // layer.groups
        for inputs, outputs in zip(source.reshape(layer.groups, -1), made.reshape(layer.groups, -1), strict=True):
            members = np.concatenate([inputs, outputs])
            flow.tie(np.full_like(members, members[0]), members)
        resize = lambda count: {"filters": count(made), "groups": count(made) // per_group}  # noqa: E731
    weights: dict[str, tuple[Ids | None, ...]] = {"kernel": axes}
    return [_produce(flow, node, weights, made, resize)]


def _separable(flow: Flow, node: Any) -> list[Ids]:
    layer, source = node.layer, flow.ids(node.keras_inputs[0])
    made = flow.new(layer.filters)
    spatial = (None,) * layer.rank
    between = np.repeat(source, layer.depth_multiplier)
    weights: dict[str, tuple[Ids | None, ...]] = {
        "depthwise_kernel": (*spatial, source, None),
        "pointwise_kernel": (*spatial, between, made),
    }
    return [_produce(flow, node, weights, made, lambda count: {"filters": count(made)})]


def _dense(flow: Flow, node: Any) -> list[Ids]:
    source = flow.ids(node.keras_inputs[0])
    made = flow.new(node.layer.units)
    return [_produce(flow, node, {"kernel": (source, made)}, made, lambda count: {"units": count(made)})]


def _produce(
    flow: Flow,
    node: Any,
    weights: dict[str, tuple[Ids | None, ...]],
    made: Ids,
    resize: Callable[[Count], dict[str, Any]],
) -> Ids:
    """Record a layer that makes channels."""
    layer = node.layer
    times = positions_of(layer, node)
    positions: dict[str, int | None] = dict.fromkeys(weights, times)
    if layer.use_bias:
        weights["bias"] = (made,)
    source = flow.ids(node.keras_inputs[0])
    flow.layers[id(layer)] = LayerChannels(layer, source, made, weights, True, resize, positions)
    _freeze_mixed(flow, layer, made)
    return made


def _freeze_mixed(flow: Flow, layer: Any, ids: Ids) -> None:
    """A softmax, or a function of the user's, may look at all channels at once."""
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    is_layer = type(activation) in _BY_THEMSELVES
    if activation is not None and not is_layer and name.lstrip("_") not in _EACH_BY_ITSELF:
        flow.freeze(ids, f"the activation {name} may look at all of them at once")


def _depthwise(flow: Flow, node: Any) -> list[Ids]:
    layer, source = node.layer, flow.ids(node.keras_inputs[0])
    made = np.repeat(source, layer.depth_multiplier)
    spatial = len(layer.depthwise_kernel.shape) - 2
    weights: dict[str, tuple[Ids | None, ...]] = {"depthwise_kernel": (*(None,) * spatial, source, None)}
    positions = {"depthwise_kernel": positions_of(layer, node)}
    if layer.use_bias:
        weights["bias"] = (made,)
    flow.layers[id(layer)] = LayerChannels(layer, source, made, weights, positions=positions)
    _freeze_mixed(flow, layer, made)
    return [made]


def _batch_norm(flow: Flow, node: Any) -> list[Ids]:
    layer, source = node.layer, flow.ids(node.keras_inputs[0])
    if list(layer.axis) != [node.outputs.shape.rank - 1]:
        return freeze_all(flow, node, "does not normalize along the last axis")
    names = ["moving_mean", "moving_variance", *(["gamma"] if layer.scale else []), *(["beta"] if layer.center else [])]
    flow.layers[id(layer)] = LayerChannels(layer, source, source, dict.fromkeys(names, (source,)))
    return [source]


def _prelu(flow: Flow, node: Any) -> list[Ids]:
    layer, source = node.layer, flow.ids(node.keras_inputs[0])
    shape = layer.alpha.shape
    last = source if shape[-1] == len(source) > 1 else None
    flow.layers[id(layer)] = LayerChannels(layer, source, source, {"alpha": (*(None,) * (len(shape) - 1), last)})
    return [source]


def _by_itself(flow: Flow, node: Any) -> list[Ids]:
    source = flow.ids(node.keras_inputs[0])
    _freeze_mixed(flow, node.layer, source)
    return [source]


def _rescaling(flow: Flow, node: Any) -> list[Ids]:
    layer = node.layer
    if np.size(layer.scale) > 1 or np.size(layer.offset) > 1:
        return freeze_all(flow, node, "scales each channel by a number of its own")
    return _by_itself(flow, node)


def _reshape(flow: Flow, node: Any) -> list[Ids]:
    """Rows of the old last axis are put together, taken apart, or left whole."""
    layer, source = node.layer, flow.ids(node.keras_inputs[0])
    old, new = len(source), channel_count(node.outputs)
    if old and new and new % old == 0:
        made = np.tile(source, new // old)
    elif old and new and old % new == 0:
        rows = source.reshape(-1, new)
        made = rows[0]
        for row in rows[1:]:
            flow.tie(made, row)
    else:
        return freeze_all(flow, node, "mixes channels with other axes")
    record = LayerChannels(layer, source, made)
    if isinstance(layer, _layers.Reshape) and layer.target_shape[-1] != -1:
        record.resize = lambda count: {"target_shape": (*layer.target_shape[:-1], count(made))}
    flow.layers[id(layer)] = record
    return [made]


def _permute(flow: Flow, node: Any) -> list[Ids]:
    if node.layer.dims[-1] != len(node.layer.dims):
        return freeze_all(flow, node, "moves the channels to another axis")
    return [flow.ids(node.keras_inputs[0])]


def _merge(flow: Flow, node: Any) -> list[Ids]:
    """Tensors element by element; one with a single channel meets all channels of the others."""
    sources = [flow.ids(tensor) for tensor in node.keras_inputs]
    count = channel_count(node.outputs)
    full = [source for source in sources if len(source) == count]
    if not full or any(len(source) not in (1, count) for source in sources):
        return freeze_all(flow, node)
    for source in sources:
        if len(source) == count:
            flow.tie(full[0], source)
        else:
            flow.freeze(source, f"{node.layer.name} combines it with several channels")
    return [full[0]]


def _concatenate(flow: Flow, node: Any, axis: int | None = None) -> list[Ids]:
    axis = node.layer.axis if axis is None else axis
    rank = node.outputs.shape.rank
    if axis % rank != rank - 1:
        return _merge(flow, node)
    made = np.concatenate([flow.ids(tensor) for tensor in node.keras_inputs])
    return [made] if len(made) == channel_count(node.outputs) else freeze_all(flow, node)


def _function(flow: Flow, node: Any) -> list[Ids]:
    """A TensorFlow function that was called on symbolic tensors."""
    symbol = node.layer.symbol
    leaves = tf.nest.flatten((node.call_args, node.call_kwargs))
    tensors = {id(tensor) for tensor in node.keras_inputs}
    constants = [leaf for leaf in leaves if id(leaf) not in tensors]
    if symbol in _ELEMENTWISE and all(isinstance(leaf, str | tf.DType) or np.size(leaf) == 1 for leaf in constants):
        return _merge(flow, node)
    if symbol in ("math.reduce_mean", "math.reduce_max", "math.reduce_sum") and len(node.keras_inputs) == 1:
        rank = node.keras_inputs[0].shape.rank
        axes = node.call_kwargs.get("axis", node.call_args[1] if len(node.call_args) > 1 else None)
        if axes is not None and not {0, rank - 1} & {int(axis) % rank for axis in np.atleast_1d(axes)}:
            return [flow.ids(node.keras_inputs[0])]
    if symbol == "concat":
        axis = node.call_kwargs.get("axis", node.call_args[1] if len(node.call_args) > 1 else None)
        if isinstance(axis, int) and axis % node.outputs.shape.rank != 0:
            return _concatenate(flow, node, axis)
    return freeze_all(flow, node)


def _named(pattern: str, ranks: str = "123") -> list[type]:
    return [getattr(_layers, pattern.format(rank)) for rank in ranks]


_BY_THEMSELVES = {
    _layers.Activation, _layers.ReLU, _layers.LeakyReLU, _layers.ELU, _layers.ThresholdedReLU, _layers.Dropout,
    _layers.GaussianNoise, _layers.GaussianDropout, _layers.AlphaDropout, _layers.ActivityRegularization,
    _layers.RepeatVector,
    *_named("SpatialDropout{}D"), *_named("MaxPooling{}D"), *_named("AveragePooling{}D"),
    *_named("GlobalMaxPooling{}D"), *_named("GlobalAveragePooling{}D"), *_named("ZeroPadding{}D"),
    *_named("Cropping{}D"), *_named("UpSampling{}D"),
}  # fmt: skip
_MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")

RULES: dict[type, Rule] = {
    **dict.fromkeys(_BY_THEMSELVES, _by_itself),
    **dict.fromkeys([*_named("Conv{}D"), *_named("Conv{}DTranspose")], _conv),
    **dict.fromkeys(_named("SeparableConv{}D", "12"), _separable),
    **dict.fromkeys(_named("DepthwiseConv{}D", "12"), _depthwise),
    **dict.fromkeys([getattr(_layers, name) for name in _MERGES], _merge),
    _layers.Dense: _dense,
    _layers.BatchNormalization: _batch_norm,
    _layers.PReLU: _prelu,
    _layers.Rescaling: _rescaling,
    _layers.Flatten: _reshape,
    _layers.Reshape: _reshape,
    _layers.Permute: _permute,
    _layers.Concatenate: _concatenate,
    TFOpLambda: _function,
}
"""By exact class: a subclass may do anything."""
