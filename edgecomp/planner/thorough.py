"""The long search: combinations of all families, proposed by Optuna, on top of what the ladder has found.

Two objectives (what is to be small, and the drop), with the limits as constraints (TPE, Watanabe, arXiv 2304.11127).
Its study lies in the store as SQLite, to be looked at. Proposals depend on the seed and on what was measured only: an
interrupted search, started anew, gets what it had from the store and goes on.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecomp.errors import UsageError
from edgecomp.objective import value_of
from edgecomp.planner.families import Family, join
from edgecomp.planner.ladder import Ladder, Trial, furthest
from edgecomp.recipe import Recipe, make_recipe

_PROPOSALS = 30
_LAST_UNAFFORDABLE = 5
# Where nothing is known: worse than anything.
_NOTHING = 1e18


def require_optuna() -> None:
    """Fail before the work rather than in the middle of it. Raises UsageError."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--effort thorough needs Optuna, which is not installed.", hint='pip install "edgecomp[thorough]"'
        ) from error


def explore(
    ladder: Ladder, families: Sequence[Family], storage: Path, seed: int, proposals: int = _PROPOSALS
) -> list[Trial]:
    """Try combinations of families until the time or the number of proposals is used up.

    Args:
        ladder: After its climb; its best candidate and its trials go on.
        families: To be combined.
        storage: The study's SQLite file; an older one is replaced.
        seed: Of the proposals.
        proposals: So many, beside what the ladder has tried.

    Returns:
        All trials of the ladder, the new ones at the end.
    """
    ladders = list({family.technique: family for family in families if len(family.recipes) > 1}.values())
    if not ladders:
        return ladder.trials
    with _quiet():
        study = _study(storage, seed)
        for known in furthest(ladder.trials):
            if (params := _params(known.recipe, ladders, with_qat=ladder.can_qat)) is not None:
                study.enqueue_trial(params)
        unaffordable = 0
        for _ in range(proposals + len(study.trials)):
            asked = study.ask()
            recipe = _proposed(asked, ladders, with_qat=ladder.can_qat)
            trial = None if recipe is None else _tried(ladder, recipe)
            _tell(study, asked, ladder, trial)
            unaffordable = unaffordable + 1 if trial is not None and trial.is_unaffordable else 0
            if unaffordable == _LAST_UNAFFORDABLE:
                break
    return ladder.trials


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _study(storage: Path, seed: int) -> Any:
    import optuna
    from sqlalchemy import URL

    storage.parent.mkdir(parents=True, exist_ok=True)
    storage.unlink(missing_ok=True)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return optuna.create_study(
        storage=URL.create("sqlite", database=str(storage)).render_as_string(),
        study_name="edgecomp",
        directions=["minimize", "minimize"],
        sampler=sampler,
    )


def _proposed(asked: Any, families: Sequence[Family], *, with_qat: bool) -> Recipe | None:
    """The recipe that is asked for; None if it has no steps."""
    parts = []
    for family in families:
        strength = asked.suggest_int(family.technique, 0, len(family.recipes))
        if strength:
            parts.append(family.recipes[strength - 1])
    if with_qat and asked.suggest_categorical("qat", [False, True]):
        parts.append(make_recipe(["qat"], {}))
    return join(*parts) if parts else None


def _params(recipe: Recipe, families: Sequence[Family], *, with_qat: bool) -> dict[str, Any] | None:
    """A recipe of the ladder as a proposal."""
    found: dict[str, Any] = {family.technique: 0 for family in families}
    if with_qat:
        found["qat"] = False
    for step in recipe.steps:
        if step.technique == "qat" and with_qat:
            found["qat"] = True
            continue
        family = next((item for item in families if item.technique == step.technique), None)
        known = [] if family is None else [item.steps[-1] for item in family.recipes]
        if step not in known:
            return None
        found[step.technique] = known.index(step) + 1
    return found


def _tried(ladder: Ladder, recipe: Recipe) -> Trial | None:
    ladder.attempt(recipe, alone=False)
    return next((trial for trial in reversed(ladder.trials) if trial.recipe.slug == recipe.slug), None)


def _tell(study: Any, asked: Any, ladder: Ladder, trial: Trial | None) -> None:
    import optuna

    if trial is None or trial.values is None:
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
        return
    for kind in (True, False):
        gap = sum(item.gap for item in trial.broken if item.is_resource is kind)
        asked.set_constraint("resources" if kind else "quality", gap or -1.0)
    value, drop = value_of(trial.values, ladder.objective), trial.values.drop
    study.tell(asked, [_NOTHING if value is None else value, _NOTHING if drop is None else drop])
