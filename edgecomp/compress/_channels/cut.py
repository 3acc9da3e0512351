"""The model without some of its channels: a plain smaller tf_keras model, computed by slicing."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecomp.compress._base import LayerChange
from edgecomp.compress._channels.flow import Ids, LayerChannels
from edgecomp.compress._channels.groups import ChannelGraph, Keep
from edgecomp.keras_graph import rewrite


def cut(graph: ChannelGraph, keep: Keep) -> Any:
    """A smaller copy of a model; layers keep their names.

    Args:
        graph: The channels of the model, which is left as it is.
        keep: What stays; at least one member of every group.
    """
    kept = graph.kept(keep)
    smaller = {id(record.layer): record for record in graph.layers if not _is_whole(record, kept)}
    made: dict[int, Any] = {}

    def replace(layer: Any, inputs: tuple[Any, ...]) -> Any:
        record = smaller.get(id(layer))
        if record is None:
            return None
        if id(layer) in made:
            return made[id(layer)](inputs[0])
        config = layer.get_config() | record.resize(lambda ids: int(np.count_nonzero(kept[ids])))
        made[id(layer)] = layer.__class__.from_config(config)
        output = made[id(layer)](inputs[0], **_plain_arguments(layer))
        made[id(layer)].set_weights(_sliced(record, kept))
        return output

    return rewrite(graph.model, replace)


def changes(graph: ChannelGraph, keep: Keep) -> tuple[LayerChange, ...]:
    """Layers with kernels that lose output channels, or input channels alone."""
    kept = graph.kept(keep)
    found = []
    for record in graph.layers:
        if not record.positions or _is_whole(record, kept):
            continue
        before, after = _sizes(record.made, kept)
        if after < before:
            found.append(LayerChange(record.layer.name, f"{before} -> {after} channels"))
        else:
            before, after = _sizes(record.source, kept)
            found.append(LayerChange(record.layer.name, f"{before} -> {after} input channels"))
    return tuple(found)


def _sizes(ids: Ids, kept: np.ndarray) -> tuple[int, int]:
    return len(ids), int(np.count_nonzero(kept[ids]))


def _is_whole(record: LayerChannels, kept: np.ndarray) -> bool:
    return bool(kept[record.source].all() and kept[record.made].all())


def _sliced(record: LayerChannels, kept: np.ndarray) -> list[np.ndarray]:
    """The weights of a layer in its own order, without the channels that go."""
    names = {id(getattr(record.layer, name)): name for name in record.weights}
    slices = []
    for variable in record.layer.weights:
        values = variable.numpy()
        for axis, ids in enumerate(record.weights[names[id(variable)]]):
            if ids is not None:
                values = np.compress(kept[ids], values, axis=axis)
        slices.append(values)
    return slices


def _plain_arguments(layer: Any) -> dict[str, Any]:
    """What the layer was called with beside tensors: `training=False` keeps a batch normalization as it is."""
    arguments = layer.inbound_nodes[0].call_kwargs
    return {name: value for name, value in arguments.items() if isinstance(value, bool)}
