"""Multiply-accumulates and parameters of a model, as a function of how many members of each group are left."""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgecomp.compress._channels.flow import Ids
from edgecomp.compress._channels.groups import ChannelGraph
from edgecomp.errors import CompressionError

Unit = Literal["macs", "parameters"]


class ChannelCost:
    """Arithmetic over kernels and biases: batch normalization counts as folded.

    A weight with two axes of channels has (fixed + sum over groups of times * left) entries along each.

    Args:
        graph: The channels of the model.
        unit: What to count. Layers that the graph knows nothing about count as nothing: they do not change.

    Raises:
        CompressionError: MACs are asked for and the model leaves sizes open.
    """

    def __init__(self, graph: ChannelGraph, unit: Unit) -> None:
        weights = []
        for record in graph.layers:
            for name, axes in record.weights.items():
                times = record.positions.get(name, 0) if unit == "macs" else 1
                if times is None:
                    layer = record.layer.name
                    raise CompressionError(
                        f"structured_prune: the model leaves sizes open on which the MACs of {layer} depend.",
                        hint="Use --cost parameters, or save the model with a fixed input shape.",
                    )
                if times and (name == "bias" or name in record.positions):
                    shape = getattr(record.layer, name).shape
                    weights.append((times, shape, axes))
        self._scale = np.array([times * _fixed_size(shape, axes) for times, shape, axes in weights], dtype=np.float64)
        self._axes = [_lengths(graph, [[ids for ids in axes if ids is not None] for _, _, axes in weights], place)
                      for place in (0, 1)]  # fmt: skip
        self.whole = self.of(np.array([group.size for group in graph.groups]))

    def of(self, left: np.ndarray) -> float:
        """The cost with so many members of each group, shape (groups,)."""
        return float(self.of_each(left[np.newaxis])[0])

    def of_each(self, choices: np.ndarray) -> np.ndarray:
        """The cost of several choices, shape (n, groups); returns shape (n,)."""
        sizes = self._scale[np.newaxis]
        for fixed, times in self._axes:
            sizes = sizes * (fixed + choices @ times.T)
        costs: np.ndarray = sizes.sum(axis=1)
        return costs


def _fixed_size(shape: tuple[int, ...], axes: tuple[Ids | None, ...]) -> int:
    return int(np.prod([size for size, ids in zip(shape, axes, strict=True) if ids is None]))


def _lengths(graph: ChannelGraph, axes: list[list[Ids]], place: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one axis of every weight: channels that must stay, and how often a member of each group occurs."""
    fixed = np.ones(len(axes))
    times = np.zeros((len(axes), len(graph.groups)))
    group_of = np.repeat(np.arange(len(graph.groups)), [group.size for group in graph.groups])
    for row, found in enumerate(axes):
        if place < len(found):
            members = graph.member_of[graph.roots[found[place]]]
            fixed[row] = np.count_nonzero(members < 0)
            counts = np.bincount(group_of[members[members >= 0]], minlength=len(graph.groups))
            times[row] = counts / [group.size for group in graph.groups]
    return fixed, times
