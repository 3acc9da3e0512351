"""One keras.ops operation in a Keras 3 model -> a tf_keras layer. Imported by workers only."""

from __future__ import annotations

import json
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from edgecomp.keras_layers import first_line
from edgecomp.model import CannotRebuildError

_MERGES = {"Add", "Subtract", "Multiply", "Maximum", "Minimum"}
_UNARY = {
    "Relu6": "relu6", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Softsign": "softsign",
    "Silu": "swish", "Exp": "exponential", "Selu": "selu",
}  # fmt: skip


class KerasOperation(tf_keras.layers.Layer):  # type: ignore[misc]
    """Runs one keras.ops operation, which works on TensorFlow tensors as it is, as a tf_keras layer.

    Args:
        operation: The serialized operation, as JSON: tf_keras would wrap a dict, and Keras 3 not know the wrapper.
        arguments: Its serialized [args, kwargs], likewise, with a Keras tensor wherever an input of this layer goes.
    """

    def __init__(self, operation: str, arguments: str, **options: Any) -> None:
        super().__init__(**options)
        self._serialized = (operation, arguments)
        self._operation = keras.saving.deserialize_keras_object(json.loads(operation))

    def call(self, inputs: Any) -> Any:
        """The operation on the inputs, in the order in which they occur in its arguments."""
        tensors = iter(tf.nest.flatten(inputs))
        arguments = keras.saving.deserialize_keras_object(json.loads(self._serialized[1]))
        args, kwargs = keras.tree.map_structure(
            lambda leaf: next(tensors) if isinstance(leaf, keras.KerasTensor) else leaf, arguments
        )
        return self._operation.call(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs to make the layer again."""
        return {**super().get_config(), "operation": self._serialized[0], "arguments": self._serialized[1]}


class StopMask(tf_keras.layers.Layer):  # type: ignore[misc]
    """Hands its input on without the mask, where Keras 3 drops one that tf_keras would hand on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """The input."""
        return tf.identity(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """No mask, whatever comes in."""


# Registered, so that a model can be cloned from its configuration (TF-MOT clones).
for _layer in (KerasOperation, StopMask):
    tf_keras.utils.register_keras_serializable("edgecomp")(_layer)


def run_operation(operation: Any, name: str, args: Any, kwargs: Any, arguments: tuple[Any, Any]) -> Any:
    """Apply a keras.ops operation to tf_keras tensors, as an ordinary layer where there is one.

    Args:
        operation: The Keras 3 operation.
        name: Name of the new layer.
        args: Its positional arguments with tf_keras tensors in place of the Keras 3 ones.
        kwargs: Its keyword arguments likewise.
        arguments: The same with the Keras 3 tensors, for the record in `KerasOperation`.
    """
    kind = type(operation).__name__
    tensors = [leaf for leaf in tf.nest.flatten((args, kwargs)) if hasattr(leaf, "_keras_history")]
    layers = tf_keras.layers
    if not kwargs and len(args) == len(tensors):
        first = tensors[0]
        if kind == "Relu":
            return layers.ReLU(name=name)(first)
        if kind in _UNARY:
            return layers.Activation(_UNARY[kind], name=name)(first)
        if kind == "Mean" and _is_spatial_mean(operation, first):
            return layers.GlobalAveragePooling2D(keepdims=bool(operation.keepdims), name=name)(first)
        if kind == "Softmax" and isinstance(operation.axis, int):
            return layers.Softmax(operation.axis, name=name)(first)
        if kind in _MERGES and len(tensors) == 2 and first.shape[1:] == tensors[1].shape[1:]:
            return getattr(layers, kind)(name=name)(tensors)
    scalar = _scalar_operand(kind, args, kwargs)
    if scalar is not None and tensors[0].dtype == tf.float32:
        return layers.Rescaling(*scalar, name=name)(tensors[0])
    if kind == "Concatenate" and operation.axis != 0 and len(tensors) > 1 and not kwargs:
        return layers.Concatenate(operation.axis, name=name)(tensors)
    try:
        serialized = [json.dumps(keras.saving.serialize_keras_object(item)) for item in (operation, arguments)]
        layer = KerasOperation(*serialized, name=name)
        return layer(tensors if len(tensors) > 1 else tensors[0])
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise CannotRebuildError(f"the operation {operation.name!r} ({kind}): {first_line(error)}") from error


def _scalar_operand(kind: str, args: Any, kwargs: Any) -> tuple[float, float] | None:
    """(scale, offset) of `x * 2`, `2 - x` and the like, or None."""
    if kwargs or len(args) != 2:
        return None
    left, right = args
    if isinstance(right, int | float):
        if kind == "TrueDivide" and right:
            return 1 / right, 0
        return {"Multiply": (right, 0), "Add": (1, right), "Subtract": (1, -right)}.get(kind)
    if isinstance(left, int | float):
        return {"Multiply": (left, 0), "Add": (1, left), "Subtract": (-1, left)}.get(kind)
    return None


def _is_spatial_mean(operation: Any, tensor: Any) -> bool:
    axis = operation.axis
    return len(tensor.shape) == 4 and isinstance(axis, list | tuple) and sorted(axis) == [1, 2]
