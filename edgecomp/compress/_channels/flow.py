"""Follows every channel from the layer that makes it to the layers that add up over it.

Each channel that a layer makes gets a number. A tensor is then a vector of numbers, one for each index of its last
axis: an activation hands them on, a Concatenate puts them one behind the other, an Add says that two of them live and
die together, a Flatten repeats them. A layer that nothing is known about freezes what it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Ids = np.ndarray
"""Numbers of channels, int64, shape (size of the axis,)."""

Count = Callable[[Ids], int]
"""How many of these channels are left."""


@dataclass
class LayerChannels:
    """One layer whose size or weights depend on channels.

    Attributes:
        layer: The tf_keras layer.
        source: Channels of its input.
        made: Channels of its output.
        weights: Attribute of the layer -> for every axis of that weight its channels, or None.
        adds_up: Whether it adds up over its input channels: without one of them its outputs change. A layer that
            treats each channel by itself does not.
        resize: Options of a copy of which only some channels are left.
        positions: Of every kernel, how often each of its weights is multiplied in one inference; None: not known.
    """

    layer: Any
    source: Ids
    made: Ids
    weights: dict[str, tuple[Ids | None, ...]] = field(default_factory=dict)
    adds_up: bool = False
    resize: Callable[[Count], dict[str, Any]] = lambda count: {}  # noqa: ARG005
    positions: dict[str, int | None] = field(default_factory=dict)


class Flow:
    """The channels of a model while it is walked through.

    Attributes:
        layers: By identity of the layer, in the order of the model.
        frozen: Number of a channel -> why it must stay.
    """

    def __init__(self) -> None:
        self.layers: dict[int, LayerChannels] = {}
        self.frozen: dict[int, str] = {}
        self._of: dict[int, Ids] = {}
        self._parents: list[int] = []

    def new(self, count: int) -> Ids:
        """Channels that have not been there before."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def ids(self, tensor: Any) -> Ids:
        """Channels of a symbolic tensor."""
        return self._of[id(tensor)]

    def set(self, tensor: Any, ids: Ids) -> None:
        """Say which channels a symbolic tensor has."""
        self._of[id(tensor)] = ids

    def tie(self, left: Ids, right: Ids) -> None:
        """Pairs of channels that only go together; both of shape (n,)."""
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            roots = sorted((self._root(one), self._root(other)))
            self._parents[roots[1]] = roots[0]

    def freeze(self, ids: Ids, reason: str) -> None:
        """Channels that must stay; the first reason counts."""
        for number in ids.tolist():
            self.frozen.setdefault(number, reason)

    def roots(self) -> Ids:
        """Of every channel, the lowest number of those that it is tied to."""
        return np.array([self._root(number) for number in range(len(self._parents))], dtype=np.int64)

    def _root(self, number: int) -> int:
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number
