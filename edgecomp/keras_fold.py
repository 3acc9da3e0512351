"""Batch normalization folded into the layer before it, as the TFLite converter does. Imported by workers only.

Techniques that fix the values of weights (clustering, low-bit grids) work on the folded model: what they train is then
what ships, and statistics of batch normalization no longer move under it (Jacob et al., arXiv 1712.05877, section 3.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras

from edgecomp.keras_graph import LayerCall, flatten, layer_calls, rewrite

_layers = tf_keras.layers


def fold_batch_norm(model: Any) -> Any:
    """A flat copy of a model without the batch normalizations that can be folded.

    A normalization is folded where it alone takes the output of a convolution or dense layer that has no activation
    of its own, and neither is shared. All others stay.

    Args:
        model: A tf_keras functional or Sequential model; left as it is.

    Raises:
        ModelError: The model has no graph of layers.
    """
    flat = flatten(model)
    norm_of = foldable(flat)
    folded = {id(norm) for norm in norm_of.values()}

    def replace(layer: Any, inputs: tuple[Any, ...]) -> Any:
        if id(layer) in folded:
            return inputs[0]
        norm = norm_of.get(id(layer))
        if norm is None:
            return None
        config = layer.get_config() | {"use_bias": True}
        made = layer.__class__.from_config(config)
        outputs = made(inputs[0])
        made.set_weights(_folded_weights(layer, norm))
        return outputs

    return rewrite(flat, replace)


def foldable(model: Any) -> dict[int, Any]:
    """Id of a layer -> the normalization that is folded into it, for a flat model."""
    calls = layer_calls(model)
    readers: dict[int, list[LayerCall]] = {}
    for call in calls:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    ends = {id(tensor) for tensor in model.outputs}
    found = {}
    for call in calls:
        following = readers.get(id(call.outputs[0]), [])
        if call.is_shared or len(following) != 1 or id(call.outputs[0]) in ends or not _takes_norm(call.layer):
            continue
        norm = following[0].layer
        is_last_axis = isinstance(norm, _layers.BatchNormalization) and list(norm.axis) == [
            len(call.outputs[0].shape) - 1
        ]
        if is_last_axis and not following[0].is_shared:
            found[id(call.layer)] = norm
    return found


def _takes_norm(layer: Any) -> bool:
    # A transposed convolution is a Conv2D in tf_keras's class tree, a depthwise one is not.
    kinds = (_layers.Conv1D, _layers.Conv2D, _layers.DepthwiseConv2D, _layers.SeparableConv2D, _layers.Dense)
    return isinstance(layer, kinds) and layer.activation is tf_keras.activations.linear


def _folded_weights(layer: Any, norm: Any) -> list[np.ndarray]:
    """Weights of the layer with a bias, such that layer(x) = norm(old layer(x))."""
    weights = layer.get_weights()
    bias = weights.pop() if layer.use_bias else np.zeros(norm.moving_mean.shape, np.float32)
    scale = 1 / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    if norm.scale:
        scale = scale * norm.gamma.numpy()
    offset = norm.beta.numpy() if norm.center else 0.0
    kernel = weights[-1]
    if isinstance(layer, _layers.DepthwiseConv2D):  # Shape (height, width, channels, multiplier): two axes number them.
        along = scale.reshape(kernel.shape[-2:])
    else:  # A transposed kernel has the shape (height, width, out, in).
        along = scale[:, None] if isinstance(layer, _layers.Conv2DTranspose) else scale
    weights[-1] = kernel * along
    return [*weights, (bias - norm.moving_mean.numpy()) * scale + offset]
