"""From a model to the flow of its channels."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from edgecomp.compress._channels.flow import Flow, Ids, LayerChannels
from edgecomp.compress._channels.rules import RULES, channel_count, freeze_all, positions_of
from edgecomp.keras_graph import nodes_of


def follow(model: Any, keep_layers: tuple[str, ...] = ()) -> Flow:
    """The channels of a model.

    Args:
        model: A flat tf_keras model (`keras_graph.flatten`).
        keep_layers: Names of layers whose outputs must keep their channels.

    Raises:
        ModelError: As `keras_graph.nodes_of`.
    """
    nodes = nodes_of(model)
    flow = Flow()
    for tensor in model.inputs:
        flow.set(tensor, flow.new(channel_count(tensor)))
        flow.freeze(flow.ids(tensor), "they are an input of the model")
    for node in nodes:
        layer = node.layer
        known = flow.layers.get(id(layer))
        if known is not None:
            made = _use_again(flow, known, node)
        elif getattr(layer, "data_format", None) == "channels_first":
            made = freeze_all(flow, node, "is channels_first")
        else:
            made = RULES.get(type(layer), freeze_all)(flow, node)
        for tensor, ids in zip(tf.nest.flatten(node.outputs), made, strict=True):
            flow.set(tensor, ids)
        if layer.name in keep_layers:
            for ids in made:
                flow.freeze(ids, "they are compared with the teacher's")
    for tensor in model.outputs:
        flow.frozen.update(dict.fromkeys(flow.ids(tensor).tolist(), "they are an output of the model"))
    return flow


def _use_again(flow: Flow, known: LayerChannels, node: Any) -> list[Ids]:
    """A layer that is shared: both inputs meet the same weights."""
    source = flow.ids(node.keras_inputs[0])
    if len(source) != len(known.source):
        for ids in (known.source, known.made):
            flow.freeze(ids, f"{known.layer.name} is used with several shapes")
        return freeze_all(flow, node, "is used with several shapes")
    flow.tie(known.source, source)
    more = positions_of(known.layer, node)
    for name, times in known.positions.items():
        known.positions[name] = None if times is None or more is None else times + more
    return [known.made]
