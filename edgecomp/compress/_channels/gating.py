"""A model whose channels can be turned down: a factor for each, and what the outputs make of it.

A factor multiplies what a channel brings to every layer that adds up over it. Factor 0 gives the very outputs of the
model without that channel, before anything is rebuilt; the derivative by a factor of 1 is the first-order effect of
taking the channel away.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from edgecomp.compress._channels.groups import ChannelGraph
from edgecomp.keras_graph import nodes_of

Moments = dict[int, tuple[Any, Any]]
"""Id of a batch normalization -> mean and variance of its input in a batch, each of shape (channels,)."""

Watch = Callable[[Any, Any], None]
"""Called with each layer that adds up over channels, and what it reads."""


class GatedModel:
    """Runs a flat model layer by layer.

    Args:
        graph: The channels of the model.
        means: Id of a layer -> mean of each channel that it reads, shape (channels,). There a factor turns down what
            differs from the mean: the rest is a constant, which a bias takes over.
    """

    def __init__(self, graph: ChannelGraph, means: Mapping[int, np.ndarray] | None = None) -> None:
        self._means = {key: tf.constant(mean, tf.float32) for key, mean in (means or {}).items()}
        self._model = graph.model
        self._nodes = nodes_of(graph.model)
        # Channels that must stay take their factor from the place behind the last member, which is always 1.
        places = np.where(graph.member_of < 0, graph.member_count, graph.member_of)[graph.roots]
        self._places = {
            id(record.layer): tf.constant(places[record.source], tf.int32) for record in graph.layers if record.adds_up
        }
        self._norms = {
            id(record.layer) for record in graph.layers if isinstance(record.layer, tf_keras.layers.BatchNormalization)
        }

    def outputs(
        self, inputs: tuple[Any, ...], factors: Any, moments: Moments | None = None, watch: Watch | None = None
    ) -> list[Any]:
        """Flat outputs in inference mode.

        Args:
            inputs: Flat tensors of shape (n, ...).
            factors: Of every member of every group (`ChannelGraph.member_of`), shape (n or 1, member_count).
            moments: Given, batch normalizations use the moments of this batch, and these are put in here.
            watch: See there.
        """
        ones = tf.ones([tf.shape(factors)[0], 1], factors.dtype)
        factors = tf.concat([factors, ones], axis=1)
        known = {id(old): new for old, new in zip(self._model.inputs, inputs, strict=True)}
        for node in self._nodes:
            layer = node.layer
            own = known
            if id(layer) in self._places:
                source = node.keras_inputs[0]
                own = known | {id(source): self._turned(id(layer), known[id(source)], factors)}
                if watch is not None:
                    watch(layer, own[id(source)])
            if moments is not None and id(layer) in self._norms:
                made = _normalized(layer, known[id(node.keras_inputs[0])], moments)
            else:
                made = _called(node, own)
            known.update(zip(map(id, tf.nest.flatten(node.outputs)), tf.nest.flatten(made), strict=True))
        return [known[id(tensor)] for tensor in self._model.outputs]

    def _turned(self, layer: int, values: Any, factors: Any) -> Any:
        own = tf.gather(factors, self._places[layer], axis=1)
        between = [1] * (values.shape.rank - 2)
        own = tf.cast(tf.reshape(own, [tf.shape(own)[0], *between, own.shape[1]]), values.dtype)
        mean = tf.cast(self._means.get(layer, 0.0), values.dtype)
        return mean + (values - mean) * own


def _called(node: Any, known: dict[int, Any]) -> Any:
    layer = node.layer
    replaced: Callable[[Any], Any] = lambda leaf: known.get(id(leaf), leaf)  # noqa: E731
    args, kwargs = tf.nest.map_structure(replaced, (node.call_args, node.call_kwargs))
    if "training" in inspect.signature(layer.call).parameters and kwargs.get("training") is None:
        kwargs["training"] = False
    return layer(*args, **kwargs)


def _normalized(layer: Any, values: Any, moments: Moments) -> Any:
    mean, variance = tf.nn.moments(values, axes=list(range(values.shape.rank - 1)))
    moments[id(layer)] = (mean, variance)
    beta = layer.beta if layer.center else None
    gamma = layer.gamma if layer.scale else None
    return tf.nn.batch_normalization(values, mean, variance, beta, gamma, layer.epsilon)
