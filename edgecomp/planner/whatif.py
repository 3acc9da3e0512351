"""What would be possible if one limit were another one, from the candidates that were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecomp.budget import Budget, Values, Violation
from edgecomp.objective import Objective, is_better


@dataclass(frozen=True)
class Relaxed:
    """One limit, and what a looser one would allow.

    Attributes:
        limit: The broken limit, with what the candidate needs and what is allowed.
        candidate: Name of the best candidate that breaks nothing else.
        values: Its figures.
    """

    limit: Violation
    candidate: str
    values: Values


def relaxed(
    candidates: Sequence[tuple[str, Values]], budget: Budget, objective: Objective, chosen: Values | None
) -> list[Relaxed]:
    """For every limit the candidate that needs the least of it, and the best one, if only that limit were looser.

    Args:
        candidates: Names and figures of candidates that were finished, chosen one included.
        budget: The limits.
        objective: What makes one better than another.
        chosen: Figures of the chosen candidate; what does not beat it is left out.
    """
    alone: dict[str, list[Relaxed]] = {}
    for name, values in candidates:
        broken = budget.violations(values)
        if len(broken) == 1 and (chosen is None or is_better(values, chosen, objective)):
            alone.setdefault(broken[0].limit, []).append(Relaxed(broken[0], name, values))
    found = []
    for rows in alone.values():
        nearest = min(rows, key=lambda row: row.limit.gap)
        best = nearest
        for row in rows:
            if is_better(row.values, best.values, objective):
                best = row
        found += [nearest] if best is nearest else [nearest, best]
    return found
