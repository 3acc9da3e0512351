"""What the model is trained for: a loss for every output, from its labels and from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf
import tf_keras

from edgecomp.data.labels import LabelKind
from edgecomp.data.user_code import load_function
from edgecomp.errors import MissingDataError, TrainingError, UsageError
from edgecomp.training.samples import Samples
from edgecomp.training.settings import TrainingSettings

Form = Literal["probabilities", "logits", "independent", "values"]
"""What an output is: softmax; scores before a softmax; sigmoids; or plain numbers."""

_TINY = 1e-7
_NAMED = ("auto", "crossentropy", "mse", "reconstruction")


@dataclass(frozen=True)
class Task:
    """Losses over flat outputs. Every loss has the shape (n,): one value a sample.

    Attributes:
        supervised: (inputs, labels, outputs) -> loss; None without labels and without reconstruction.
        forms: Of every output, in order.
    """

    supervised: Callable[[Any, Any, Any], Any] | None
    forms: tuple[Form, ...]

    def distillation(self, outputs: Any, targets: Any, temperature: float) -> Any:
        """How far outputs are from a teacher's: KL divergence at a temperature, or the squared error of plain numbers.

        The divergence is multiplied by temperature**2, which keeps its gradients at one size (arXiv 1503.02531).
        """
        losses = [
            _from_teacher(form, output, target, temperature)
            for form, output, target in zip(self.forms, outputs, targets, strict=True)
        ]
        return tf.add_n(losses)


def make_task(model: Any, samples: Samples, settings: TrainingSettings) -> Task:
    """The task that the data and `settings.loss` make of a model.

    Raises:
        UsageError: An unknown loss, or one that the outputs cannot have.
        MissingDataError: The loss needs labels and there are none.
        TrainingError: The labels have a form that no loss of ours takes.
    """
    names = list(model.output_names)
    forms = tuple(_form(model, index, samples) for index in range(len(names)))
    loss = settings.loss
    if ":" in loss:
        return Task(_of_user(loss, names, samples), forms)
    if loss not in _NAMED:
        raise UsageError(
            f"Unknown loss {loss!r}.", hint=f"Allowed: {', '.join(_NAMED)}, or module:function of (labels, outputs)."
        )
    same_shapes = [tuple(t.shape[1:]) for t in model.inputs] == [tuple(t.shape[1:]) for t in model.outputs]
    if loss == "reconstruction" and not same_shapes:
        raise UsageError(
            "The loss reconstruction needs outputs of the shape of the inputs.", hint="Use --loss auto or mse."
        )
    if loss == "reconstruction" or (loss == "auto" and not samples.labels and same_shapes):
        return Task(lambda inputs, labels, outputs: tf.add_n(list(map(_squared, outputs, inputs))), forms)  # noqa: ARG005
    if not samples.labels:
        if loss == "auto":
            return Task(None, forms)
        raise MissingDataError(f"The loss {loss} needs labels and the data has none.", hint="Use --loss auto.")
    parts = []
    for position, (name, item) in enumerate(samples.labels.items()):
        index = names.index(name)
        parts.append((index, position, _supervised(name, forms[index], item.kind, loss)))
    return Task(
        lambda inputs, labels, outputs: tf.add_n([fn(labels[at], outputs[index]) for index, at, fn in parts]),  # noqa: ARG005
        forms,
    )


def _of_user(spec: str, names: list[str], samples: Samples) -> Callable[[Any, Any, Any], Any]:
    function = load_function(spec, "--loss")
    if not samples.labels:
        raise MissingDataError(f"The loss {spec} needs labels and the data has none.", hint="Use --loss auto.")
    labelled = list(samples.labels)

    def loss(inputs: Any, labels: Any, outputs: Any) -> Any:  # noqa: ARG001
        several = len(names) > 1
        given = dict(zip(labelled, labels, strict=True)) if several else labels[0]
        made = dict(zip(names, outputs, strict=True)) if several else outputs[0]
        values = tf.convert_to_tensor(function(given, made))
        if values.shape.rank != 1:
            raise TrainingError(
                f"The loss {spec} returned the shape {values.shape}; expected one value a sample, shape (n,)."
            )
        return tf.cast(values, tf.float32)

    return loss


def _form(model: Any, index: int, samples: Samples) -> Form:
    """From the activation of the layer that makes the output, and from its labels where it has none."""
    layer = model.outputs[index].node.layer
    activation = getattr(layer, "activation", None)
    if isinstance(layer, tf_keras.layers.Softmax) or activation is tf_keras.activations.softmax:
        return "probabilities"
    if activation is tf_keras.activations.sigmoid:
        return "independent"
    item = samples.labels.get(model.output_names[index])
    if item is not None and item.kind in (LabelKind.CLASSES, LabelKind.ONE_HOT):
        return "logits"
    return "values"


def _supervised(name: str, form: Form, kind: LabelKind, loss: str) -> Callable[[Any, Any], Any]:
    backend = tf_keras.losses
    if loss == "mse" or (kind is LabelKind.VALUES and form != "independent"):
        return lambda labels, output: _squared(output, tf.cast(labels, output.dtype))
    from_logits = form in ("logits", "values")
    if kind is LabelKind.CLASSES:
        return lambda labels, output: _per_sample(
            backend.sparse_categorical_crossentropy(labels, output, from_logits=from_logits)
        )
    if kind is LabelKind.ONE_HOT:
        return lambda labels, output: _per_sample(
            backend.categorical_crossentropy(tf.cast(labels, output.dtype), output, from_logits=from_logits)
        )
    if kind in (LabelKind.BINARY, LabelKind.VALUES):
        return lambda labels, output: _per_sample(
            backend.binary_crossentropy(
                tf.reshape(tf.cast(labels, output.dtype), tf.shape(output)), output, from_logits=from_logits
            )
        )
    raise TrainingError(
        f"The labels of output {name!r} fit no loss of edgecomp's own.",
        hint="Name one with --loss module:function, which gets (labels, outputs) and returns one value a sample.",
    )


def _from_teacher(form: Form, output: Any, target: Any, temperature: float) -> Any:
    if form == "values":
        return _squared(output, target)
    if form == "independent":
        scores, wanted = (_logit(item) / temperature for item in (output, target))
        divergence = tf.nn.sigmoid_cross_entropy_with_logits(tf.sigmoid(wanted), scores)
        divergence -= tf.nn.sigmoid_cross_entropy_with_logits(tf.sigmoid(wanted), wanted)
    else:
        # log(softmax(z)) is z up to a constant, which the next softmax takes out again.
        scores, wanted = (
            (item if form == "logits" else tf.math.log(item + _TINY)) / temperature for item in (output, target)
        )
        log_target = tf.nn.log_softmax(wanted)
        divergence = tf.reduce_sum(tf.exp(log_target) * (log_target - tf.nn.log_softmax(scores)), axis=-1)
    return temperature**2 * _per_sample(divergence)


def _logit(probability: Any) -> Any:
    inside = tf.clip_by_value(probability, _TINY, 1 - _TINY)
    return tf.math.log(inside) - tf.math.log1p(-inside)


def _squared(left: Any, right: Any) -> Any:
    return _per_sample(tf.math.squared_difference(left, right))


def _per_sample(values: Any) -> Any:
    """Mean over everything but the batch."""
    rank = values.shape.rank
    return values if rank == 1 else tf.reduce_mean(values, axis=list(range(1, rank)))


def feature_distance(left: Any, right: Any, kind: str) -> Any:
    """Mean squared error, or 1 - cosine similarity, of two tensors of one shape, a sample."""
    if kind == "mse":
        return _squared(left, right)
    flat_left, flat_right = (tf.reshape(item, [tf.shape(item)[0], -1]) for item in (left, right))
    return 1 - tf.reduce_sum(tf.math.l2_normalize(flat_left, 1) * tf.math.l2_normalize(flat_right, 1), axis=1)
