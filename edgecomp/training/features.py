"""Student and teacher side by side: their outputs, and those of layers that are to be alike."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras

from edgecomp.errors import UsageError
from edgecomp.training.settings import TrainingSettings
from edgecomp.training.task import feature_distance


def call_flat(model: Any, inputs: Any, *, training: bool) -> list[Any]:
    """Flat inputs -> flat outputs of a tf_keras model."""
    structure = getattr(model, "_nested_inputs", None)
    given = tf.nest.pack_sequence_as(structure, list(inputs)) if isinstance(structure, dict) else list(inputs)
    return list(tf.nest.flatten(model(given if len(inputs) > 1 else inputs[0], training=training)))


def feature_models(model: Any, teacher: Any, names: tuple[str, ...]) -> tuple[Any, Any] | None:
    """Student and teacher with the outputs of the named layers behind their own."""
    if not names:
        return None
    if teacher is None:
        raise UsageError("--feature-layer needs a teacher: leave --distill-weight above 0.")
    pair = []
    for item in (model, teacher):
        known = {layer.name: layer for layer in item.layers}
        missing = [name for name in names if name not in known]
        if missing:
            raise UsageError(
                f"--feature-layer {missing[0]}: the model has no such layer.", hint=f"It has {', '.join(known)}."
            )
        pair.append(tf_keras.Model(item.inputs, [*item.outputs, *(known[name].output for name in names)]))
    own, its = ([tuple(t.shape[1:]) for t in item.outputs[len(model.outputs) :]] for item in pair)
    if own != its:
        raise UsageError(f"--feature-layer: the shapes differ, {own} in the model and {its} in its teacher.")
    return pair[0], pair[1]


def features_loss(features: list[Any], wanted: Any, settings: TrainingSettings) -> Any:
    """What the named layers add to the loss, a scalar; 0 without any."""
    distances = [
        tf.reduce_mean(feature_distance(left, right, settings.feature_loss))
        for left, right in zip(features, wanted, strict=True)
    ]
    return settings.distill_weight * tf.add_n(distances) if distances else tf.zeros(())
