"""What the remaining channels can do for those that go, without training.

Where a layer adds up over its input channels, each channel that goes is written as a linear function of those that
stay, by least squares over training inputs; its weights then go to them, and what is constant goes to the bias. The
idea is the reconstruction step of He et al., arXiv 1707.06168; here only the second moments of the channels are
needed, since one function serves all positions of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.compress._channels.flow import LayerChannels
from edgecomp.compress._channels.gating import GatedModel
from edgecomp.compress._channels.groups import ChannelGraph

# Of the mean variance of a channel: enough to keep channels that say the same apart, far below what they say.
_RIDGE = 1e-3
# A dense layer behind a large Flatten has more inputs than samples could tell apart.
_MOST_INPUTS = 2048


@dataclass(frozen=True)
class InputMoments:
    """Of the channels that a layer reads: mean, shape (channels,), and mean product, shape (channels, channels)."""

    mean: np.ndarray
    product: np.ndarray


def input_moments(graph: ChannelGraph, inputs: Iterable[tuple[Any, ...]]) -> dict[int, InputMoments]:
    """Moments of what layers read, by id of the layer; layers whose inputs cannot stand in for each other are left out.

    Args:
        graph: The channels of the model.
        inputs: Batches, each a tuple of tensors.
    """
    model = GatedModel(graph)
    wanted = {id(record.layer): len(record.source) for record in graph.layers if _can_compensate(record)}

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def sums(batch: tuple[Any, ...]) -> dict[str, tuple[Any, Any, Any]]:
        found: dict[str, tuple[Any, Any, Any]] = {}

        def watch(layer: Any, values: Any) -> None:
            if id(layer) in wanted:
                rows = tf.cast(tf.reshape(values, [-1, wanted[id(layer)]]), tf.float32)
                parts = (tf.shape(rows)[0], tf.reduce_sum(rows, axis=0), tf.matmul(rows, rows, transpose_a=True))
                before = found.get(str(id(layer)))
                found[str(id(layer))] = parts if before is None else tuple(map(tf.add, before, parts))

        model.outputs(batch, tf.ones([1, graph.member_count]), watch=watch)
        return found

    totals: dict[int, list[np.ndarray]] = {}
    for batch in inputs:
        for key, parts in sums(batch).items():
            values = [part.numpy().astype(np.float64) for part in parts]
            before = totals.get(int(key))
            totals[int(key)] = (
                values if before is None else [old + new for old, new in zip(before, values, strict=True)]
            )
    return {key: InputMoments(total / count, product / count) for key, (count, total, product) in totals.items()}


def _can_compensate(record: LayerChannels) -> bool:
    # A separable convolution filters each channel in its own way first, a grouped one reads only its own.
    axes = record.weights.get("kernel", ())
    return record.adds_up and any(ids is record.source for ids in axes) and len(record.source) <= _MOST_INPUTS


@contextmanager
def compensated(graph: ChannelGraph, kept: np.ndarray, moments: dict[int, InputMoments]) -> Iterator[None]:
    """Within it the layers have the weights that make up for channels that are gone; afterwards their own again.

    Args:
        graph: The channels of the model.
        kept: Channels that stay, bool, shape (channels,): `ChannelGraph.kept`.
        moments: See `input_moments`.
    """
    changed = []
    try:
        for record in graph.layers:
            left = kept[record.source]
            if id(record.layer) in moments and not left.all():
                changed.append((record.layer, record.layer.get_weights()))
                _compensate(record, left, moments[id(record.layer)])
        yield
    finally:
        for layer, weights in changed:
            layer.set_weights(weights)


def _compensate(record: LayerChannels, left: np.ndarray, moments: InputMoments) -> None:
    layer = record.layer
    gone = ~left
    # Without a bias nothing takes up what is constant.
    center = moments.mean if layer.use_bias else np.zeros_like(moments.mean)
    covariance = moments.product - np.outer(center, center)
    inner = covariance[np.ix_(left, left)]
    ridge = _RIDGE * max(np.trace(inner) / len(inner), np.finfo(np.float64).tiny)
    cross = covariance[np.ix_(gone, left)]
    share = np.linalg.solve(inner + ridge * np.eye(len(inner)), cross.T)  # (left, gone)
    axis = next(place for place, ids in enumerate(record.weights["kernel"]) if ids is record.source)
    kernel = np.moveaxis(layer.kernel.numpy().astype(np.float64), axis, 0)
    lost = kernel[gone].copy()
    kernel[left] += np.tensordot(share, lost, axes=1)
    layer.kernel.assign(np.moveaxis(kernel, 0, axis))
    if layer.use_bias:
        rest = center[gone] - share.T @ center[left]
        # Of what is left only the axis of output channels: all positions of the kernel see the same constant.
        effect = np.tensordot(rest, lost, axes=1)
        layer.bias.assign_add(effect.reshape(-1, len(record.made)).sum(axis=0) if axis else effect)
