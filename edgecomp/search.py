"""Which candidate is made next, and which one wins: the first of the plan that meets every limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgecomp.budget import QUALITY_LIMITS
from edgecomp.plan import Step
from edgecomp.profile import Precision
from edgecomp.results import CandidateResult


def search(
    steps: Sequence[Step], make: Callable[[Step], CandidateResult], *, everything: bool = False
) -> list[CandidateResult]:
    """Make candidates in order until one fits.

    Args:
        steps: The plan.
        make: Makes and measures one candidate: status "chosen" if it meets every limit, "rejected" with what it
            breaks if not, "failed" with the reason if it could not be made.
        everything: Go on after one that fits, but for fallbacks: there is something to compare by.

    Returns:
        One result per step, in the order of the plan; at most one has status "chosen", unless everything is made.
    """
    results: list[CandidateResult] = []
    for step in steps:
        reason = step.ruled_out or _skip(step, results, everything=everything)
        if reason is not None:
            results.append(CandidateResult(name=step.name, status="skipped", reason=reason))
        else:
            results.append(make(step))
    return results


def _skip(step: Step, results: Sequence[CandidateResult], *, everything: bool) -> str | None:
    """Why a step is not worth making after those before it, or None."""
    chosen = next((result.name for result in results if result.status == "chosen"), None)
    if chosen is not None and (step.is_fallback or not everything):
        suffix = ", and this one is tried only when the others do not fit" if step.is_fallback else ""
        return f"{chosen} already meets every limit{suffix}"
    if step.is_repaired:
        return _why_not_repair(step.precision, results)
    if step.precision is Precision.SELECTIVE:
        int8 = next((result for result in results if result.name == Precision.INT8), None)
        if int8 is not None and int8.status == "failed":
            return "it builds on INT8, which could not be made"
        if int8 is not None and int8.breaks:
            broken = {limit.limit for limit in int8.breaks}
            if not broken & set(QUALITY_LIMITS):
                return "it raises INT8's accuracy, which is not what INT8 lacks"
            if "model_size" in broken:
                return "it is larger than INT8, which is already too large"
    return None


def _why_not_repair(precision: Precision, results: Sequence[CandidateResult]) -> str | None:
    plain = next((result for result in results if result.name == precision), None)
    if plain is None or plain.status == "failed":
        return f"it builds on {precision}, which could not be made"
    broken = [limit.limit for limit in plain.breaks]
    if not set(broken) & set(QUALITY_LIMITS):
        return f"it raises the accuracy of {precision}, which is not what {precision} lacks"
    others = [name.replace("_", " ") for name in broken if name not in QUALITY_LIMITS]
    if others:
        return f"it changes nothing but the accuracy of {precision}, which also breaks the limit of {', '.join(others)}"
    return None
