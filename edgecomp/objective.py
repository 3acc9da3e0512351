"""What is made small among the candidates that meet every limit."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecomp.budget import Values

# Below this share two latencies, sizes, arenas or energies are equal: the simpler candidate may win.
TIE_RATIO = 0.01


class Objective(StrEnum):
    """What `--minimize` names."""

    LATENCY = "latency"
    SIZE = "size"
    RAM = "ram"
    ENERGY = "energy"
    ACCURACY_DROP = "accuracy_drop"


_LIMITS = {
    Objective.LATENCY: "latency",
    Objective.SIZE: "model_size",
    Objective.RAM: "ram",
    Objective.ENERGY: "energy",
    Objective.ACCURACY_DROP: "accuracy_drop",
}


def value_of(values: Values, objective: Objective) -> float | None:
    """What the objective looks at: milliseconds, bytes, millijoules or a drop; None if it is not known."""
    return values.of(_LIMITS[objective])


def is_better(first: Values, second: Values, objective: Objective) -> bool:
    """Whether the first is the smaller one. A tie is not better; what is not known is never better than a number.

    Args:
        first: Of one candidate.
        second: Of the one to beat.
        objective: Latency, size, RAM and energy tie where they differ by less than 1 % of the larger one.
    """
    ours, theirs = value_of(first, objective), value_of(second, objective)
    if ours is None or theirs is None:
        return ours is not None
    if objective is Objective.ACCURACY_DROP:
        return ours < theirs
    return ours < theirs and theirs - ours >= TIE_RATIO * theirs
