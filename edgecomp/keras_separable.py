"""Separable convolutions as the two layers that they are. Imported by workers only.

TFLite knows no separable convolution: its converter writes a depthwise and a 1x1 one. As two layers every technique
sees their kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tf_keras

from edgecomp.keras_graph import flatten, free_name, rewrite

_layers = tf_keras.layers

Half = tuple[Any, dict[str, Any], Sequence[np.ndarray]]
"""Class of a layer, its configuration without a name, its weights."""


def halves(config: dict[str, Any], weights: Sequence[np.ndarray]) -> tuple[Half, Half]:
    """The depthwise and the 1x1 convolution of a SeparableConv2D.

    Args:
        config: Of the separable layer.
        weights: Its weights: depthwise kernel, pointwise kernel, bias if it has one.
    """
    depthwise, *rest = weights
    own = (
        "kernel_size",
        "strides",
        "padding",
        "dilation_rate",
        "depth_multiplier",
        "data_format",
        "trainable",
        "dtype",
    )
    first = {key: config[key] for key in own if key in config} | {"use_bias": False}
    shared = ("filters", "activation", "use_bias", "data_format", "trainable", "dtype", "activity_regularizer")
    second = {key: config[key] for key in shared if key in config} | {"kernel_size": (1, 1)}
    for item in ("initializer", "regularizer", "constraint"):
        first[f"depthwise_{item}"] = config[f"depthwise_{item}"]
        second[f"kernel_{item}"] = config[f"pointwise_{item}"]
        second[f"bias_{item}"] = config[f"bias_{item}"]
    return (_layers.DepthwiseConv2D, first, [depthwise]), (_layers.Conv2D, second, rest)


def split_separable(model: Any) -> Any | None:
    """A copy with two layers for every SeparableConv2D; the second has its name. None where there are none.

    Args:
        model: A tf_keras functional or Sequential model; left as it is.

    Raises:
        ModelError: The model has no graph of layers.
    """
    if not any(isinstance(layer, _layers.SeparableConv2D) for layer in model._flatten_layers(include_self=False)):
        return None
    flat = flatten(model)
    names = {layer.name for layer in flat.layers}
    made: dict[int, tuple[Any, Any]] = {}

    def replace(layer: Any, inputs: tuple[Any, ...]) -> Any:
        if not isinstance(layer, _layers.SeparableConv2D):
            return None
        if id(layer) in made:
            first, second = made[id(layer)]
            return second(first(inputs[0]))
        halved = halves(layer.get_config(), layer.get_weights())
        wanted = (free_name(f"{layer.name}_depthwise", names), layer.name)
        first, second = (
            kind.from_config({**config, "name": name}) for (kind, config, _), name in zip(halved, wanted, strict=True)
        )
        output = second(first(inputs[0]))
        for item, (_, _, weights) in zip((first, second), halved, strict=True):
            item.set_weights(weights)
        made[id(layer)] = first, second
        return output

    return rewrite(flat, replace)
