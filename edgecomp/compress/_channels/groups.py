"""Sets of channels from which one may be taken: they are made, changed and read by the same layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgecomp.compress._base import Skipped
from edgecomp.compress._channels.flow import Ids, LayerChannels
from edgecomp.compress._channels.walk import follow

Keep = Mapping[int, np.ndarray]
"""Index of a group -> which of its members stay: bool, shape (size,). A group that is not named stays whole."""


@dataclass(frozen=True)
class Group:
    """Members that are exchangeable: each is one channel, or several that live and die together.

    Attributes:
        name: Of the first layer that makes them.
        producers: Names of all layers that make them; in a residual stage there are several.
        members: Lowest channel number of each member, shape (size,), rising.
        width: Channels of the first layer that one member is: more than 1 for a group of a grouped convolution.
    """

    name: str
    producers: tuple[str, ...]
    members: Ids
    width: int

    @property
    def size(self) -> int:
        """How many members."""
        return len(self.members)


@dataclass(frozen=True)
class ChannelGraph:
    """The channels of a model.

    Attributes:
        model: The flat model they belong to.
        layers: Layers whose size or weights depend on channels.
        roots: Number of a channel -> lowest number of those it is tied to, shape (channels,).
        groups: What can be pruned, in the order of the model.
        frozen: Root -> why it must stay.
    """

    model: Any
    layers: tuple[LayerChannels, ...]
    roots: Ids
    groups: tuple[Group, ...]
    frozen: Mapping[int, str]

    @cached_property
    def member_of(self) -> Ids:
        """Root -> its place among the members of all groups, one group behind the other; -1 for a frozen one."""
        places = np.full(len(self.roots), -1)
        for start, group in zip(self.starts, self.groups, strict=True):
            places[group.members] = start + np.arange(group.size)
        return places

    @property
    def member_count(self) -> int:
        """Members of all groups."""
        return sum(group.size for group in self.groups)

    @cached_property
    def starts(self) -> list[int]:
        """Where the members of each group begin in `member_of`."""
        return [int(start) for start in np.cumsum([0, *(group.size for group in self.groups)])[:-1]]

    def mask(self, keep: Keep) -> np.ndarray:
        """Members of all groups that stay, bool, shape (member_count,)."""
        parts = [keep.get(index, np.ones(group.size, bool)) for index, group in enumerate(self.groups)]
        return np.concatenate(parts).astype(bool)

    def kept(self, keep: Keep) -> np.ndarray:
        """Channels that stay, bool, shape (channels,)."""
        places = self.member_of[self.roots]
        return np.where(places < 0, True, self.mask(keep)[places])

    def skipped(self) -> tuple[Skipped, ...]:
        """Layers that make channels which must stay."""
        found = []
        for record in self.layers:
            reasons = [self.frozen[root] for root in self.roots[record.made].tolist() if root in self.frozen]
            if record.adds_up and reasons:
                part = "its channels" if len(reasons) == len(record.made) else f"{len(reasons)} of its channels"
                found.append(Skipped(record.layer.name, f"{part} stay: {reasons[0]}"))
        return tuple(found)


def channel_graph(model: Any, keep_layers: tuple[str, ...] = ()) -> ChannelGraph:
    """The channels of a flat model, and which of them belong together.

    Args:
        model: See `walk.follow`.
        keep_layers: Names of layers whose outputs must keep their channels.

    Raises:
        ModelError: The model has no graph of layers.
    """
    flow = follow(model, keep_layers)
    roots = flow.roots()
    frozen: dict[int, str] = {}
    for number in sorted(flow.frozen):
        frozen.setdefault(int(roots[number]), flow.frozen[number])
    layers = tuple(flow.layers.values())
    return ChannelGraph(model, layers, roots, _groups(layers, roots, frozen), frozen)


def _groups(layers: tuple[LayerChannels, ...], roots: Ids, frozen: Mapping[int, str]) -> tuple[Group, ...]:
    """Channels are exchangeable where they occur in the same axes of the same weights, equally often."""
    places: dict[int, list[tuple[int, str, int, int]]] = {}
    for number, record in enumerate(layers):
        for name, axes in record.weights.items():
            for axis, ids in enumerate(axes):
                if ids is None:
                    continue
                found, counts = np.unique(roots[ids], return_counts=True)
                for root, count in zip(found.tolist(), counts.tolist(), strict=True):
                    if root not in frozen:
                        places.setdefault(root, []).append((number, name, axis, count))
    alike: dict[tuple[tuple[int, str, int, int], ...], list[int]] = {}
    for root in sorted(places):
        alike.setdefault(tuple(places[root]), []).append(root)
    return tuple(_group(layers, roots, np.array(members)) for members in alike.values())


def _group(layers: tuple[LayerChannels, ...], roots: Ids, members: Ids) -> Group:
    producers = [
        (record.layer.name, int(np.count_nonzero(roots[record.made] == members[0])))
        for record in layers
        if record.adds_up and members[0] in roots[record.made]
    ]
    return Group(producers[0][0], tuple(name for name, _ in producers), members, producers[0][1])
