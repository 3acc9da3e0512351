"""Ranges between the layers of a model, learned while it is trained. Imported by the TensorFlow worker only.

TF-MOT's fake quantization (Jacob et al., arXiv 1712.05877, section 3) is put where TFLite's integer operators round:
behind every operator with an output scale of its own, not between two that are fused, nor where an operator hands its
input's scale on. TF-MOT's own placement is not used: it refuses models within models, TensorFlow operations, several
activations and most merging layers, and it rounds depthwise and dense kernels with one scale for all channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.quantization.keras.quantizers import MovingAverageQuantizer

from edgecomp.keras_graph import LayerCall, copy_layer, free_name, layer_calls, rewrite

_layers = tf_keras.layers
# A tensor that is always zero still needs a scale above zero.
_LEAST_RANGE = 1e-5

# The output has the input's scale.
_PASSING = (
    _layers.MaxPooling2D, _layers.AveragePooling2D, _layers.GlobalMaxPooling2D, _layers.UpSampling2D, _layers.Flatten,
    _layers.Reshape, _layers.Permute, _layers.RepeatVector, _layers.ZeroPadding2D, _layers.Cropping2D, _layers.Dropout,
    _layers.SpatialDropout2D, _layers.GaussianNoise, _layers.GaussianDropout, _layers.AlphaDropout,
    _layers.ActivityRegularization,
)  # fmt: skip
_PASSING_OPERATIONS = ("getitem", "reshape", "transpose", "squeeze", "expand_dims", "identity", "strided_slice")
# TFLite fixes the scale of these outputs.
_FIXED_ACTIVATIONS = ("softmax", "sigmoid", "tanh")
# An activation behind these becomes part of their operator.
_FUSING = (
    _layers.Conv2D, _layers.DepthwiseConv2D, _layers.Dense, _layers.BatchNormalization, _layers.Add, _layers.Subtract,
    _layers.Multiply, _layers.Rescaling,
)  # fmt: skip


class Rounding(tf_keras.layers.Layer):  # type: ignore[misc]
    """Rounds a tensor to 8 bits between two numbers, which follow what is seen in training as a moving average."""

    def build(self, input_shape: Any) -> None:
        """Two variables."""
        self._quantizer = MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        self.limits = self._quantizer.build(input_shape, "range", self)
        super().build(input_shape)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The rounded tensor; gradients pass where it lies within the range."""
        return self._quantizer(inputs, training, weights=self.limits)


@dataclass(frozen=True)
class Emulation:
    """A model that rounds its activations.

    Attributes:
        model: Layers have the names of those they are copies of.
        ranges: Every fake quantization, with the tensor of the source model that it rounds the twin of.
        source: What it was made from.
    """

    model: Any
    ranges: tuple[tuple[Any, Any], ...]
    source: Any

    def calibrate(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """Start from the smallest and largest value that every tensor takes, so that no epoch begins at chance.

        Args:
            batches: Flat inputs, as real samples.
        """
        probe = tf_keras.Model(self.source.inputs, [tensor for _, tensor in self.ranges])
        structure = getattr(self.source, "_nested_inputs", None)

        @tf.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
        def measure(inputs: tuple[Any, ...]) -> Any:
            given = tf.nest.pack_sequence_as(structure, list(inputs)) if isinstance(structure, dict) else list(inputs)
            tensors = tf.nest.flatten(probe(given if len(inputs) > 1 else inputs[0], training=False))
            return tf.stack([[tf.reduce_min(item), tf.reduce_max(item)] for item in tensors])

        found = np.stack([measure(inputs).numpy() for inputs in batches])
        low, high = np.minimum(found[..., 0].min(axis=0), 0), np.maximum(found[..., 1].max(axis=0), 0)
        for (layer, _), least, most in zip(self.ranges, low, high, strict=True):
            layer.limits["min_var"].assign(least)
            layer.limits["max_var"].assign(most if most - least > 0 else _LEAST_RANGE)


def emulate(model: Any, *, activations: bool) -> Emulation:
    """A copy of a model to be trained on a grid, with fixed statistics of batch normalization.

    Statistics that move would move all ranges behind them: with them the validation loss of ResNet8 after five epochs
    is 0.12, with fixed ones 0.07.

    Args:
        model: As `_qat_prepare.prepare` makes it.
        activations: With a learned 8-bit range wherever the int8 file will round.
    """
    readers: dict[int, list[LayerCall]] = {}
    for call in layer_calls(model):
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    ends = {id(tensor) for tensor in model.outputs}
    names = {layer.name for layer in model.layers}
    ranges: list[tuple[Any, Any]] = []

    def finish(old: Any, new: Any) -> Any:
        if not activations or not _is_rounded(old, readers.get(id(old), []), is_end=id(old) in ends):
            return new
        layer = Rounding(name=free_name(f"{old.node.layer.name}_range", names))
        made = layer(new)
        ranges.append((layer, old))
        return made

    made = rewrite(model, _with_fixed_statistics, finish)
    made.output_names = list(model.output_names)  # Labels are found by them.
    return Emulation(made, tuple(ranges), model)


def _with_fixed_statistics(layer: Any, inputs: tuple[Any, ...]) -> Any:
    """Batch normalization computes as in inference, and its scale and offset are still trained."""
    if not isinstance(layer, _layers.BatchNormalization):
        return None
    made = copy_layer(layer)
    outputs = made(inputs[0], training=False)
    made.set_weights(layer.get_weights())
    return outputs


def _is_rounded(tensor: Any, readers: list[LayerCall], *, is_end: bool) -> bool:
    """Whether TFLite rounds this tensor to a scale of its own."""
    layer = tensor.node.layer
    if not tensor.dtype.is_floating or _passes(layer) or _is_fixed(layer):
        return False
    if is_end or len(readers) != 1:
        return True
    reader = readers[0].layer
    if isinstance(reader, _layers.BatchNormalization):
        return False  # All that are left are folded.
    # The pieces of a concatenation take its scale, or it would round them a second time.
    return not (isinstance(reader, _layers.Concatenate) or (isinstance(layer, _FUSING) and _is_fused(reader)))


def _passes(layer: Any) -> bool:
    if type(layer).__name__ == "TFOpLambda":
        return str(getattr(layer, "symbol", "")).rpartition(".")[2] in _PASSING_OPERATIONS
    is_nothing = isinstance(layer, _layers.Activation) and getattr(layer.activation, "__name__", "") == "linear"
    return is_nothing or type(layer) in _PASSING


def _is_fixed(layer: Any) -> bool:
    if isinstance(layer, _layers.Softmax):
        return True
    return type(layer) is _layers.Activation and getattr(layer.activation, "__name__", "") in _FIXED_ACTIVATIONS


def _is_fused(layer: Any) -> bool:
    if type(layer) is _layers.ReLU:
        return layer.max_value in (None, 6) and not layer.negative_slope and not layer.threshold
    return type(layer) is _layers.Activation and getattr(layer.activation, "__name__", "") in ("relu", "relu6")
