"""What each channel is worth: the least important members of a group are taken first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.compress._channels.gating import GatedModel
from edgecomp.compress._channels.groups import ChannelGraph
from edgecomp.training.task import Form

_TINY = 1e-7

LossOf = Callable[[Any, Any, list[Any]], Any]
"""(inputs, labels, outputs) -> loss of every sample, shape (n,)."""


def magnitude(graph: ChannelGraph) -> np.ndarray:
    """Root of the sum of squares of all weights that make a member, over all layers that make it.

    Returns:
        Shape (member_count,). Members of one group are comparable, those of different groups are not.
    """
    sizes: np.ndarray = np.sqrt(_sums(graph, {"kernel", "pointwise_kernel"}, np.square))
    return sizes


def bn_scale(graph: ChannelGraph) -> np.ndarray:
    """Sum of |gamma| over the batch normalizations of a member (Liu et al., arXiv 1708.06519).

    Returns:
        Shape (member_count,); the magnitude for groups without batch normalization.
    """
    scales, sizes = _sums(graph, {"gamma"}, np.abs), magnitude(graph)
    for start, group in zip(graph.starts, graph.groups, strict=True):
        own = slice(start, start + group.size)
        if not scales[own].any():
            scales[own] = sizes[own]
    return scales


def _sums(graph: ChannelGraph, names: set[str], of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Sum of a function of weights over the output channels that are one member."""
    sums = np.zeros(graph.member_count)
    for record in graph.layers:
        for name in names & record.weights.keys():
            axes = record.weights[name]
            axis = next((place for place, ids in enumerate(axes) if ids is record.made), None)
            if axis is None:
                continue
            values = of(getattr(record.layer, name).numpy().astype(np.float64))
            rows = values.sum(axis=tuple(other for other in range(values.ndim) if other != axis))
            members = graph.member_of[graph.roots[record.made]]
            np.add.at(sums, members[members >= 0], rows[members >= 0])
    return sums


def taylor(
    graph: ChannelGraph,
    batches: Iterable[tuple[tuple[Any, ...], Any]],
    loss_of: LossOf,
    means: Mapping[int, np.ndarray] | None = None,
) -> np.ndarray:
    """The squared derivative of the loss by the factor of a member (its first-order effect), averaged over samples.

    Molchanov et al., arXiv 1906.10771: their gate, here on all that a member brings to the layers behind it, and the
    square taken sample by sample.

    Args:
        graph: The channels of the model.
        batches: (inputs, labels), each a tuple of tensors.
        loss_of: The loss.
        means: See `GatedModel`: given, what biases take over after the cut counts as nothing.

    Returns:
        Shape (member_count,): comparable over all groups.
    """
    model = GatedModel(graph, means)

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def squares(inputs: Any, labels: Any) -> Any:
        gates = tf.ones([tf.shape(inputs[0])[0], graph.member_count])
        with tf.GradientTape() as tape:
            tape.watch(gates)
            # A sum: no sample then sees the gates of another.
            loss = tf.reduce_sum(loss_of(inputs, labels, model.outputs(inputs, gates)))
        return tf.reduce_sum(tf.square(tape.gradient(loss, gates)), axis=0)

    total, count = np.zeros(graph.member_count), 0
    for inputs, labels in batches:
        total += squares(inputs, labels).numpy()
        count += int(inputs[0].shape[0])
    return total / count


def own_answers(forms: Sequence[Form]) -> LossOf:
    """A loss without labels: right answers are drawn from what the model itself says.

    So `taylor` is the diagonal of the Fisher information (Theis et al., arXiv 1801.05787). The distance from the
    model's own outputs would not do: where it is taken its derivative is zero.

    Args:
        forms: What each output is.

    Returns:
        A loss whose `labels` is a seed, shape (2,), int32.
    """

    def loss(inputs: Any, seed: Any, outputs: list[Any]) -> Any:
        total = tf.zeros(tf.shape(inputs[0])[0])
        for number, (form, output) in enumerate(zip(forms, outputs, strict=True)):
            own = tf.random.experimental.stateless_fold_in(seed, number)
            total += tf.reduce_sum(tf.reshape(_surprise(form, output, own), [tf.shape(output)[0], -1]), axis=1)
        return total

    return loss


def _surprise(form: Form, output: Any, seed: Any) -> Any:
    """- log of the likelihood of a drawn answer."""
    if form == "values":
        return tf.square(tf.random.stateless_normal(tf.shape(output), seed) + tf.stop_gradient(output) - output) / 2
    if form == "independent":
        drawn = tf.random.stateless_uniform(tf.shape(output), seed) < output
        return -tf.math.log(tf.where(drawn, output, 1 - output) + _TINY)
    scores = tf.reshape(output if form == "logits" else tf.math.log(output + _TINY), [-1, output.shape[-1]])
    drawn = tf.random.stateless_categorical(tf.stop_gradient(scores), 1, seed)
    return -tf.gather(tf.nn.log_softmax(scores), drawn, batch_dims=1)
