"""The candidates of one device that are compressed before they are quantized: searched, judged, told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecomp.budget import RESOURCE_LIMITS, Budget, Values
from edgecomp.candidates import judged
from edgecomp.lab import Lab
from edgecomp.objective import Objective, is_better, value_of
from edgecomp.planner.families import families_for
from edgecomp.planner.ladder import Ladder, Trial, furthest, nearest
from edgecomp.planner.thorough import explore
from edgecomp.planner.whatif import relaxed
from edgecomp.profile import Precision
from edgecomp.results import CandidateResult, WhatIf

_OF_LIMIT = {
    "model_size": Objective.SIZE,
    "ram": Objective.RAM,
    "latency": Objective.LATENCY,
    "energy": Objective.ENERGY,
}
_WORDS = {
    Objective.LATENCY: "faster",
    Objective.SIZE: "smaller",
    Objective.RAM: "smaller in RAM",
    Objective.ENERGY: "more frugal",
    Objective.ACCURACY_DROP: "more accurate",
}


@dataclass(frozen=True)
class Aim:
    """What a search for one device is for.

    Attributes:
        objective: What is made small among the candidates that fit.
        best: The best candidate that fits already; None if none does.
        base: What recipes start from.
        wanted: Resources, or the accuracy, that recipes must lower to be of use.
    """

    objective: Objective
    best: CandidateResult | None
    base: CandidateResult
    wanted: frozenset[Objective]


def aim_of(results: Sequence[CandidateResult], objective: Objective, budget: Budget, lab: Lab) -> Aim:
    """What the candidates made so far leave to wish for."""
    best = best_of([result for result in results if result.status == "chosen"], objective, lab)
    wanted = {objective}
    if best is None:
        broken = budget.violations(lab.values(lab.base))
        wanted |= {_OF_LIMIT[item.limit] for item in broken if item.limit in RESOURCE_LIMITS}
        if any(not item.is_resource for item in broken):
            wanted.add(Objective.ACCURACY_DROP)
    return Aim(objective, best, lab.base, frozenset(wanted))


def base_of(results: Sequence[CandidateResult]) -> CandidateResult | None:
    """The candidate whose precision the compressed ones get: INT8 if it could be made, else the first plain one."""
    plain = [result for result in results if result.name in set(Precision) and result.sha256 is not None]
    plain = [result for result in plain if result.name != Precision.SELECTIVE]
    return next((result for result in plain if result.name == Precision.INT8), plain[0] if plain else None)


def search_recipes(lab: Lab, aim: Aim, *, study: Path | None) -> list[CandidateResult]:
    """Search the recipes that can serve the aim.

    Args:
        lab: Of the device.
        aim: What for.
        study: Where the long search keeps its study; None: the ladder alone.

    Returns:
        A result for each recipe that was looked at, as far as it was taken, and one for each family that is of no use.
        Those with status "chosen" meet every limit.
    """
    target = lab.target
    families, ruled = families_for(target.profile, Precision(aim.base.name), aim.wanted)
    ladder = Ladder(
        budget=target.budget,
        objective=aim.objective,
        oracle=lab,
        best=None if aim.best is None else lab.values(aim.best),
        can_qat=aim.base.name == Precision.INT8,
        combines=not lab.only_plans,
    )
    ladder.climb(families)
    if study is not None:
        explore(ladder, families, study, lab.means.shop.bench.seed)
    lab.notes.extend(
        f"Nothing that was looked at comes nearer: {violation} "
        f"({'by arithmetic' if trial.stage == 'estimate' else trial.stage}, {trial.recipe})."
        for violation, trial in nearest(ladder.trials, target.budget)
    )
    found = [_told(trial) for trial in furthest(ladder.trials)]
    return found + [CandidateResult(name=item.name, status="skipped", reason=item.reason) for item in ruled]


def _told(trial: Trial) -> CandidateResult:
    """The trial as a row of the report."""
    name = str(trial.recipe)
    result: CandidateResult | None = trial.result
    if trial.values is None or result is None:
        if trial.stage == "estimate":
            return CandidateResult(name=name, status="skipped", reason=f"by arithmetic: {trial.reason}")
        return result or CandidateResult(name=name, status="skipped", reason=trial.reason)
    told = judged(result, list(trial.broken))
    if trial.stage == "full":
        return told
    return told.model_copy(update={"status": "skipped", "reason": _why_no_further(trial)})


def _why_no_further(trial: Trial) -> str:
    """Of a trial that was not trained in full."""
    if trial.is_unaffordable:
        return trial.reason
    if trial.stage == "short":
        return f"stopped after a few epochs: {'; '.join(map(str, trial.broken)) or 'it could not become the best'}"
    broken = [str(item) for item in trial.broken if item.is_resource]
    return f"not trained: {'; '.join(broken) or 'a weaker form came first, or another one was better already'}"


def best_of(fitting: Sequence[CandidateResult], objective: Objective, lab: Lab) -> CandidateResult | None:
    """The best by the objective; of equal ones the one with the fewest steps, then the first."""
    best: CandidateResult | None = None
    for result in sorted(fitting, key=lambda item: 0 if item.recipe is None else len(item.recipe.steps)):
        if best is None or _beats(result, best, objective, lab):
            best = result
    return best


def _beats(result: CandidateResult, best: CandidateResult, objective: Objective, lab: Lab) -> bool:
    """Accuracy must be better by more than chance: the paired interval of the difference is above zero."""
    if not is_better(lab.values(result), lab.values(best), objective):
        return False
    if objective is not Objective.ACCURACY_DROP:
        return True
    gain = lab.paired_gain(result, best)
    return gain is None or gain.low > 0


def choose(results: Sequence[CandidateResult], objective: Objective, lab: Lab) -> list[CandidateResult]:
    """The same results with one of them chosen, the others that fit beaten by it."""
    best = best_of([result for result in results if result.status == "chosen"], objective, lab)
    if best is None:
        return list(results)

    def told(result: CandidateResult) -> CandidateResult:
        if result is best or result.status != "chosen":
            return result
        why = (
            f"is {_WORDS[objective]}" if _beats(best, result, objective, lab) else "is as good, and simpler or earlier"
        )
        return result.model_copy(update={"status": "beaten", "reason": f"meets every limit; {best.name} {why}"})

    return [told(result) for result in results]


def known_objective(objective: Objective, base: Values) -> tuple[Objective, str | None]:
    """The objective, or the size of the file where the device has no figures for it; and a sentence that says so."""
    if objective is Objective.ACCURACY_DROP or value_of(base, objective) is not None:
        return objective, None
    return Objective.SIZE, f"There is no estimate of {objective} for this device: candidates are compared by size."


def what_if(results: Sequence[CandidateResult], objective: Objective, lab: Lab) -> tuple[WhatIf, ...]:
    """What looser limits would allow, one limit at a time, from the candidates that were finished."""
    finished = [
        item for item in results if item.sha256 is not None and (not item.recipe or item.recipe.stage == "full")
    ]
    chosen = next((lab.values(item) for item in finished if item.status == "chosen"), None)
    rows = relaxed([(item.name, lab.values(item)) for item in finished], lab.target.budget, objective, chosen)
    return tuple(
        WhatIf(
            limit=row.limit.limit,
            allowed=row.limit.allowed,
            needed=row.limit.value,
            unit=row.limit.unit,
            candidate=row.candidate,
            text=str(row.limit),
            objective_value=value_of(row.values, objective),
        )
        for row in rows
    )
