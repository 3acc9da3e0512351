"""Statistics of batch normalization after channels are gone: what the layers before it give has changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.compress._channels.gating import GatedModel, Moments
from edgecomp.compress._channels.groups import channel_graph


def renew_statistics(model: Any, inputs: Iterable[tuple[Any, ...]]) -> int:
    """Set mean and variance of every batch normalization to those of its input, in place.

    No labels and no gradients: one pass over the inputs, every layer normalizing by the moments of its batch, as in
    training (Li et al., arXiv 2007.02491, show that pruned networks can hardly be compared without it).

    Args:
        model: A flat tf_keras model.
        inputs: Batches of at least 2 samples, each a tuple of tensors.

    Returns:
        How many layers it were.
    """
    graph = channel_graph(model)
    gated = GatedModel(graph)
    layers = {str(id(record.layer)): record.layer for record in graph.layers if "moving_mean" in record.weights}
    if not layers:
        return 0

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def moments_of(batch: tuple[Any, ...]) -> dict[str, tuple[Any, Any]]:
        moments: Moments = {}
        gated.outputs(batch, tf.ones([1, graph.member_count]), moments)
        return {str(key): pair for key, pair in moments.items()}

    found, sizes = [], []
    for batch in inputs:
        found.append({key: [part.numpy() for part in pair] for key, pair in moments_of(batch).items()})
        sizes.append(int(batch[0].shape[0]))
    for key, layer in layers.items():
        means = np.array([moments[key][0] for moments in found])
        variances = np.array([moments[key][1] for moments in found])
        mean = np.average(means, axis=0, weights=sizes)
        layer.moving_mean.assign(mean)
        # Of all samples together: within the batches and between them.
        layer.moving_variance.assign(np.average(variances + np.square(means - mean), axis=0, weights=sizes))
    return len(layers)
