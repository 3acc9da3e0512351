"""How many channels each group keeps: damage against savings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecomp.compress._channels.cost import ChannelCost
from edgecomp.errors import CompressionError

# Of a wide layer this many counts are enough to choose from.
_MOST_CHOICES = 32


@dataclass(frozen=True)
class Curve:
    """What it costs in loss to leave so many members of one group.

    Attributes:
        counts: Falling; the first is the whole group.
        damage: The loss with each, never falling: few samples are noisy.
    """

    counts: tuple[int, ...]
    damage: tuple[float, ...]

    def at(self, counts: np.ndarray) -> np.ndarray:
        """The damage with so many members, between the measured ones on straight lines."""
        damage: np.ndarray = np.interp(-counts, [-item for item in self.counts], self.damage)
        return damage


def allocate(curves: Sequence[Curve], allowed: Sequence[Sequence[int]], cost: ChannelCost, target: float) -> np.ndarray:
    """Members that each group keeps, so that the cost is `target` at most and the summed damage small.

    First greedy: the step that does the least damage for what it saves, over all groups and counts, so that a steep
    first step does not hide a flat rest. Then as long as it lessens the damage: one group gets a step back, another
    one pays for it or none does.

    Args:
        curves: Of every group.
        allowed: Counts that each group may have, falling, from the whole group on.
        cost: What is to be saved.
        target: The cost to come down to.

    Returns:
        Shape (groups,).

    Raises:
        CompressionError: Even the lowest counts cost more.
    """
    counts = [_thinned(item) for item in allowed]
    damage = [curve.at(np.array(item)) for curve, item in zip(curves, counts, strict=True)]
    _require_reachable(counts, cost, target)
    places = np.zeros(len(counts), np.int64)
    while (now := _cost(places, counts, cost)) > target:
        places = _cheapest_step(places, counts, damage, cost, now, target)
    while (better := _exchange(places, counts, damage, cost, target)) is not None:
        places = better
    left: np.ndarray = _left(places[np.newaxis], counts)[0]
    return left


def _thinned(counts: Sequence[int]) -> list[int]:
    chosen = np.linspace(0, len(counts) - 1, min(len(counts), _MOST_CHOICES)).round().astype(int)
    return [counts[place] for place in chosen]


def _left(places: np.ndarray, counts: Sequence[Sequence[int]]) -> np.ndarray:
    """Places in the lists of counts -> the counts, both of shape (n, groups)."""
    return np.stack([np.array(own)[places[:, group]] for group, own in enumerate(counts)], axis=1)


def _cost(places: np.ndarray, counts: Sequence[Sequence[int]], cost: ChannelCost) -> float:
    return cost.of(_left(places[np.newaxis], counts)[0])


def _require_reachable(counts: Sequence[Sequence[int]], cost: ChannelCost, target: float) -> None:
    least = cost.of(np.array([own[-1] for own in counts]))
    if least > target:
        raise CompressionError(
            f"structured_prune: {1 - target / cost.whole:.1%} cannot be removed, at most "
            f"{np.floor(1000 * (1 - least / cost.whole)) / 10:.1f}%.",
            hint="Lower --ratio or --min-channels.",
        )


def _cheapest_step(
    places: np.ndarray,
    counts: Sequence[Sequence[int]],
    damage: Sequence[np.ndarray],
    cost: ChannelCost,
    now: float,
    target: float,
) -> np.ndarray:
    """One group with fewer members, no fewer than it takes to reach the target."""
    steps, rises = [], []
    for group, own in enumerate(counts):
        for place in range(places[group] + 1, len(own)):
            steps.append(places.copy())
            steps[-1][group] = place
            rises.append(damage[group][place] - damage[group][places[group]])
    found = np.array(steps)
    costs = cost.of_each(_left(found, counts))
    rates = np.array(rises) / np.maximum(now - costs, np.finfo(float).tiny)
    # Of the steps of one group that reach the target, only the first.
    groups, reach = np.argmax(found != places, axis=1), costs <= target
    rates[1:][reach[1:] & reach[:-1] & (groups[1:] == groups[:-1])] = np.inf
    best: np.ndarray = found[np.argmin(rates)]
    return best


def _exchange(
    places: np.ndarray, counts: Sequence[Sequence[int]], damage: Sequence[np.ndarray], cost: ChannelCost, target: float
) -> np.ndarray | None:
    """The exchange that lessens the damage most, within the target; None where there is none."""
    groups = range(len(counts))
    more = [group for group in groups if places[group] > 0]
    fewer = [group for group in groups if places[group] < len(counts[group]) - 1]
    steps, changes = [], []
    for up in more:
        gain = damage[up][places[up] - 1] - damage[up][places[up]]
        for down in [None, *fewer]:
            loss = 0.0 if down is None else damage[down][places[down] + 1] - damage[down][places[down]]
            # Equal damage is taken once, where nobody pays: it can only end.
            if down != up and (gain + loss < -1e-12 or (down is None and gain == 0)):
                steps.append(places.copy())
                steps[-1][up] -= 1
                if down is not None:
                    steps[-1][down] += 1
                changes.append(gain + loss)
    if not steps:
        return None
    within = cost.of_each(_left(np.array(steps), counts)) <= target
    if not within.any():
        return None
    return steps[int(np.argmin(np.where(within, changes, np.inf)))]
