"""Networks over time rewritten as networks over images of height 1. Imported by workers only.

TFLite has no 1-D convolution: its converter puts reshapes around every Conv1D and every pooling. With (1, k) kernels
there is one at the start and none in between (three convolutions with poolings: 10 operators for 16), and every
technique that knows 2-D layers (TF-MOT knows no others) works on these models too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from edgecomp.keras_graph import copy_layer, flatten, free_name, nodes_of, rewrite
from edgecomp.keras_separable import halves

_layers = tf_keras.layers


@dataclass(frozen=True)
class Rewritten:
    """A model over images, and the names of the layers that were changed."""

    model: Any
    changed: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """A 2-D layer by its class and configuration, and the weights it gets."""

    kind: Any
    config: dict[str, Any]
    weights: Sequence[np.ndarray] = field(default=())


def to_2d(model: Any) -> Rewritten | None:
    """A copy with 2-D layers of height 1 for 1-D ones, wherever a convolution or pooling over time has one.

    Layers between them (activations, batch normalization, merges, ...) follow; whatever has no 2-D form keeps its
    place and gets the shapes that it had. Inputs, outputs and their names are those of the model.

    Args:
        model: A tf_keras functional or Sequential model; left as it is.

    Returns:
        None if no layer has a 2-D form.

    Raises:
        ModelError: The model has no graph of layers.
    """
    if not any(type(layer) in _WORTH_IT for layer in model._flatten_layers(include_self=False)):
        return None
    flat = flatten(model)
    work = _Rewriting(flat)
    made = rewrite(flat, work.replace)
    return Rewritten(made, tuple(work.changed)) if _WORTH_IT & work.kinds else None


class _Rewriting:
    """One rewriting: which tensors are there as images, and what became of layers that are called twice."""

    def __init__(self, model: Any) -> None:
        self.changed: dict[str, None] = {}
        self.kinds: set[type] = set()
        self._names = {layer.name for layer in model.layers}
        self._ends = _calls_that_end(model)
        self._calls: Counter[int] = Counter()
        # A layer that was called with an argument of its own (training=False) must be called so again.
        self._fixed = {
            id(node.layer) for node in nodes_of(model) if any(value is not None for value in node.call_kwargs.values())
        }
        self._ended: set[int] = set()
        # Both forms are kept: an id means something only while its tensor lives.
        self._images: dict[int, tuple[Any, Any]] = {}
        self._made: dict[int, list[Any]] = {}

    def replace(self, layer: Any, inputs: tuple[Any, ...]) -> Any:
        """See `keras_graph.Replacement`. Sequences are handed on; whoever can take the image behind one does."""
        call = (id(layer), self._calls[id(layer)])
        self._calls[id(layer)] += 1
        if not self._is_taken(layer, inputs):
            return None
        parts = _FORMS[type(layer)](layer)
        if parts is None:
            return None
        images = [self._image(tensor, layer) for tensor in inputs]
        made = images if len(images) > 1 else images[0]
        if id(layer) not in self._made:
            made = self._build(layer, parts, made)
        else:
            for part in self._made[id(layer)]:
                made = part(made)
        return self._sequence(made, layer, is_end=call in self._ends) if _stays_image(layer) else made

    def _is_taken(self, layer: Any, inputs: tuple[Any, ...]) -> bool:
        if type(layer) not in _FORMS or id(layer) in self._fixed:
            return False
        if any(tensor.shape.rank != 3 or tensor.shape[-1] is None for tensor in inputs):
            return False
        # Convolutions and pooling drop a mask; all others may reckon with it.
        if type(layer) not in _WORTH_IT and any(getattr(item, "_keras_mask", None) is not None for item in inputs):
            return False
        return type(layer) in _STARTS or any(id(tensor) in self._images for tensor in inputs)

    def _build(self, layer: Any, parts: Sequence[_Part], made: Any) -> Any:
        """New layers, called on `made` for the first time."""
        built = []
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            name = layer.name
            if not is_last:
                name = free_name(f"{layer.name}_{part.kind.__name__.lower()}", self._names)
            elif _stays_image(layer) and any(owner == id(layer) for owner, _ in self._ends):
                name = free_name(f"{layer.name}_2d", self._names)  # The reshape back gets the name of the output.
            built.append(part.kind.from_config({**part.config, "name": name}))
            made = built[-1](made)
            if part.weights:
                built[-1].set_weights(part.weights)
        self._made[id(layer)] = built
        if type(layer) not in _PASSING:
            self.changed[layer.name] = None
            self.kinds.add(type(layer))
        return made

    def _image(self, tensor: Any, layer: Any) -> Any:
        """(n, steps, channels) as (n, 1, steps, channels)."""
        if id(tensor) not in self._images:
            _, steps, channels = tensor.shape
            name = free_name(f"{layer.name}_to_2d", self._names)
            image = _layers.Reshape((1, -1 if steps is None else steps, channels), name=name)(tensor)
            self._images[id(tensor)] = tensor, image
        return self._images[id(tensor)][1]

    def _sequence(self, image: Any, layer: Any, *, is_end: bool) -> Any:
        """The way back; left out of the model where nobody takes it."""
        _, _, steps, channels = image.shape
        if is_end and id(layer) not in self._ended:
            name = layer.name
            self._ended.add(id(layer))
        else:
            name = free_name(layer.name if is_end else f"{layer.name}_to_1d", self._names)
        tensor = _layers.Reshape((-1 if steps is None else steps, channels), name=name)(image)
        self._images[id(tensor)] = tensor, image
        return tensor


def _calls_that_end(model: Any) -> set[tuple[int, int]]:
    """(id of a layer, which of its calls, from 0) for every call whose result is an output of the model."""
    ends = {id(tensor) for tensor in model.outputs}
    calls: Counter[int] = Counter()
    found = set()
    for node in nodes_of(model):
        if any(id(tensor) in ends for tensor in tf.nest.flatten(node.outputs)):
            found.add((id(node.layer), calls[id(node.layer)]))
        calls[id(node.layer)] += 1
    return found


def _stays_image(layer: Any) -> bool:
    """Whether the 2-D form gives an image where the layer gives a sequence."""
    if isinstance(layer, _GLOBAL):
        return bool(layer.keepdims)
    return type(layer) not in _LEAVING


_Form = Callable[[Any], list[_Part] | None]


def _wide(value: Any) -> tuple[int, int]:
    """A size along time as (height, width); sizes come as numbers or as tuples of one."""
    return 1, int(tf.nest.flatten(value)[-1])


def _is_channels_last(config: dict[str, Any]) -> bool:
    return config.get("data_format") in (None, "channels_last")


def _window(config: dict[str, Any]) -> tuple[dict[str, Any], list[_Part]] | None:
    """The options of a convolution in 2-D, and the padding in front of a causal one."""
    if not _is_channels_last(config):
        return None
    size, spread = _wide(config["kernel_size"]), _wide(config["dilation_rate"])
    config = {**config, "kernel_size": size, "strides": _wide(config["strides"]), "dilation_rate": spread}
    if config["padding"] != "causal":
        return config, []
    before = (size[1] - 1) * spread[1]
    pad = _Part(_layers.ZeroPadding2D, {"padding": ((0, 0), (before, 0))})
    return {**config, "padding": "valid"}, [pad]


def _convolution(layer: Any) -> list[_Part] | None:
    if (found := _window(layer.get_config())) is None:
        return None
    config, before = found
    kernel, *bias = layer.get_weights()
    return [*before, _Part(_layers.Conv2D, config, [kernel[None], *bias])]


def _depthwise(layer: Any) -> list[_Part] | None:
    if (found := _window(layer.get_config())) is None:
        return None
    config, before = found
    # TensorFlow's depthwise convolution takes one stride for both axes; along a height of 1 it changes nothing.
    config["strides"] = (config["strides"][1],) * 2
    kernel, *bias = layer.get_weights()
    return [*before, _Part(_layers.DepthwiseConv2D, config, [kernel[None], *bias])]


def _separable(layer: Any) -> list[_Part] | None:
    """Its two convolutions: techniques work on layers with one kernel."""
    if (found := _window(layer.get_config())) is None:
        return None
    config, before = found
    depthwise, pointwise, *bias = layer.get_weights()
    # TensorFlow's depthwise convolution takes one stride for both axes; along a height of 1 it changes nothing.
    config["strides"] = (config["strides"][1],) * 2
    found_halves = halves(config, [depthwise[None], pointwise[None], *bias])
    return [*before, *(_Part(*half) for half in found_halves)]


def _transposed(layer: Any) -> list[_Part] | None:
    if (found := _window(layer.get_config())) is None:
        return None
    config, _ = found
    if config["output_padding"] is not None:
        config["output_padding"] = (0, _wide(config["output_padding"])[1])
    kernel, *bias = layer.get_weights()
    return [_Part(_layers.Conv2DTranspose, config, [kernel[None], *bias])]


def _pooling(target: type) -> _Form:
    def form(layer: Any) -> list[_Part] | None:
        config = layer.get_config()
        if not _is_channels_last(config):
            return None
        sizes = {key: _wide(config[key]) for key in ("pool_size", "strides") if key in config}
        return [_Part(target, {**config, **sizes})]

    return form


def _sides(target: type, option: str) -> _Form:
    """Padding and cropping: (before, after)."""

    def form(layer: Any) -> list[_Part]:
        config = layer.get_config()
        return [_Part(target, {**config, option: ((0, 0), tuple(config[option]))})]

    return form


def _upsampling(layer: Any) -> list[_Part]:
    config = layer.get_config()
    return [_Part(_layers.UpSampling2D, {**config, "size": _wide(config["size"])})]


def _normalization(layer: Any) -> list[_Part] | None:
    # Once built, the configuration of a normalization over the last axis says axis=[2].
    if list(tf.nest.flatten(layer.axis)) not in ([2], [-1]):
        return None
    return [_Part(type(layer), {**layer.get_config(), "axis": -1}, layer.get_weights())]


def _along_axis(layer: Any) -> list[_Part] | None:
    config = layer.get_config()
    axis = config["axis"]
    if not isinstance(axis, int) or axis in (0, -3):
        return None
    return [_Part(type(layer), {**config, "axis": axis if axis < 0 else axis + 1})]


def _prelu(layer: Any) -> list[_Part]:
    config = layer.get_config()
    shared = [axis + 1 for axis in config["shared_axes"] or ()]
    return [_Part(type(layer), {**config, "shared_axes": shared or None}, [layer.get_weights()[0][None]])]


def _dropout(layer: Any) -> list[_Part] | None:
    config = layer.get_config()
    return [_Part(type(layer), config)] if config.get("noise_shape") is None else None


def _same(layer: Any) -> list[_Part]:
    """Works on the last axis, or on single values."""
    return [_Part(type(layer), copy_layer(layer).get_config(), layer.get_weights())]


_GLOBAL = (_layers.GlobalAveragePooling1D, _layers.GlobalMaxPooling1D)
# What a model must have for the rewriting to pay.
_WORTH_IT = {
    _layers.Conv1D, _layers.DepthwiseConv1D, _layers.SeparableConv1D, _layers.Conv1DTranspose, _layers.MaxPooling1D,
    _layers.AveragePooling1D,
}  # fmt: skip
# These begin a stretch of images; all others only follow.
_STARTS = _WORTH_IT | {
    _layers.ZeroPadding1D, _layers.Cropping1D, _layers.UpSampling1D, _layers.BatchNormalization,
}  # fmt: skip
_LEAVING = {_layers.Flatten, _layers.Reshape, *_GLOBAL}
_PASSING = {
    _layers.Activation, _layers.ReLU, _layers.LeakyReLU, _layers.ELU, _layers.ThresholdedReLU, _layers.Rescaling,
    _layers.GaussianNoise, _layers.GaussianDropout, _layers.AlphaDropout, _layers.ActivityRegularization, _layers.Dense,
    _layers.Add, _layers.Subtract, _layers.Multiply, _layers.Average, _layers.Maximum, _layers.Minimum,
    _layers.Flatten, _layers.Reshape,
}  # fmt: skip
_FORMS: dict[type, _Form] = {
    **dict.fromkeys(_PASSING, _same),
    _layers.Conv1D: _convolution,
    _layers.DepthwiseConv1D: _depthwise,
    _layers.SeparableConv1D: _separable,
    _layers.Conv1DTranspose: _transposed,
    _layers.MaxPooling1D: _pooling(_layers.MaxPooling2D),
    _layers.AveragePooling1D: _pooling(_layers.AveragePooling2D),
    _layers.GlobalAveragePooling1D: _pooling(_layers.GlobalAveragePooling2D),
    _layers.GlobalMaxPooling1D: _pooling(_layers.GlobalMaxPooling2D),
    _layers.ZeroPadding1D: _sides(_layers.ZeroPadding2D, "padding"),
    _layers.Cropping1D: _sides(_layers.Cropping2D, "cropping"),
    _layers.UpSampling1D: _upsampling,
    _layers.SpatialDropout1D: lambda layer: [_Part(_layers.SpatialDropout2D, layer.get_config())],
    _layers.BatchNormalization: _normalization,
    _layers.LayerNormalization: _normalization,
    _layers.Softmax: _along_axis,
    _layers.Concatenate: _along_axis,
    _layers.PReLU: _prelu,
    _layers.Dropout: _dropout,
}
