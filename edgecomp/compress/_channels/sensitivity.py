"""Sensitivity curves: how far the outputs move when one group alone loses channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.compress._channels.allocation import Curve
from edgecomp.compress._channels.compensation import InputMoments, compensated
from edgecomp.compress._channels.gating import GatedModel
from edgecomp.compress._channels.groups import ChannelGraph, Keep

Distance = Callable[[list[Any], list[Any]], Any]
"""(outputs, wanted outputs) -> distance of every sample, shape (n,)."""

Batches = Sequence[tuple[Any, ...]]
"""Inputs: each batch a tuple of tensors."""


class Damage:
    """How far the outputs of a model are from its own when channels go.

    What repairs the model after the cut is done here too: batch normalization takes the moments of each batch, and
    the remaining weights make up for the lost ones. Without that, damage that is easily repaired would count most.

    Args:
        graph: The channels of the model.
        batches: Inputs to look at.
        distance: Of outputs from those of the whole model.
        moments: For `compensated`; empty where nothing makes up for lost channels.
        renews: Whether statistics of batch normalization will be renewed after the cut.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        batches: Batches,
        distance: Distance,
        moments: dict[int, InputMoments],
        *,
        renews: bool,
    ) -> None:
        self._graph, self._batches, self._moments = graph, batches, moments
        model = GatedModel(graph)
        whole = tf.ones([1, graph.member_count])

        @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
        def distances(inputs: tuple[Any, ...], wanted: list[Any], factors: Any) -> Any:
            outputs = model.outputs(inputs, factors, {} if renews else None)
            return tf.reduce_sum(distance(outputs, wanted))

        self._distances = distances
        answer = tf.function(lambda inputs: model.outputs(inputs, whole), reduce_retracing=True, autograph=False)
        self._wanted = [answer(inputs) for inputs in batches]

    def of(self, keep: Keep) -> float:
        """Mean distance of the outputs with these channels."""
        factors = tf.constant(self._graph.mask(keep)[np.newaxis], tf.float32)
        with compensated(self._graph, self._graph.kept(keep), self._moments):
            total = sum(
                float(self._distances(inputs, wanted, factors))
                for inputs, wanted in zip(self._batches, self._wanted, strict=True)
            )
        return total / sum(int(inputs[0].shape[0]) for inputs in self._batches)


def keep_best(graph: ChannelGraph, scores: np.ndarray, left: np.ndarray) -> Keep:
    """The members with the highest scores.

    Args:
        graph: The channels.
        scores: Of every member, shape (member_count,).
        left: How many of each group, shape (groups,).
    """
    keep: dict[int, np.ndarray] = {}
    for index, (start, group) in enumerate(zip(graph.starts, graph.groups, strict=True)):
        order = np.argsort(scores[start : start + group.size], kind="stable")
        keep[index] = np.ones(group.size, bool)
        keep[index][order[: group.size - int(left[index])]] = False
    return keep


def measured_counts(allowed: Sequence[int], points: int) -> tuple[int, ...]:
    """At most so many counts of those allowed, evenly spaced, from all members to the fewest."""
    places = np.linspace(0, len(allowed) - 1, min(len(allowed), points)).round().astype(int)
    return tuple(allowed[place] for place in sorted(set(places.tolist())))


def measured_curves(
    graph: ChannelGraph,
    scores: np.ndarray,
    counts: Sequence[tuple[int, ...]],
    damage: Damage,
    report: Callable[[int, int], None],
) -> list[Curve]:
    """The curve of every group, each pruned alone, the lowest scores first.

    Args:
        graph: The channels.
        scores: Importance, shape (member_count,).
        counts: Of every group, falling, what to measure; the first is the whole group.
        damage: What to measure.
        report: Called with (measured, in all).
    """
    whole = np.array([group.size for group in graph.groups])
    undamaged = damage.of({})
    curves: list[Curve] = []
    total = sum(len(item) - 1 for item in counts)
    for index, own in enumerate(counts):
        found = [undamaged]
        for count in own[1:]:
            left = whole.copy()
            left[index] = count
            found.append(damage.of(keep_best(graph, scores, left)))
            report(sum(len(curve.counts) - 1 for curve in curves) + len(found) - 1, total)
        curves.append(Curve(own, tuple(np.maximum.accumulate(found).tolist())))
    return curves


def weight_curves(graph: ChannelGraph, sizes: np.ndarray, allowed: Sequence[Sequence[int]]) -> list[Curve]:
    """Curves where there is nothing to measure with: the share of the squared weights that goes.

    Args:
        graph: The channels.
        sizes: `importance.magnitude`.
        allowed: Counts that each group may have, falling.
    """
    curves = []
    for start, group, counts in zip(graph.starts, graph.groups, allowed, strict=True):
        squares = np.sort(np.square(sizes[start : start + group.size]))
        gone = np.concatenate([[0.0], np.cumsum(squares)]) / max(float(squares.sum()), np.finfo(float).tiny)
        curves.append(Curve(tuple(counts), tuple(float(gone[group.size - count]) for count in counts)))
    return curves
