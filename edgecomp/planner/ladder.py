"""The search among recipes that must be trained: deterministic, and no training that cannot pay off.

For every family of recipes the weakest strength that meets the limits of memory, time and energy is solved for: by
arithmetic, then by a preview, which is exact in all but accuracy. What is left is trained: first for a few epochs, and
only what comes near the limits of quality in full. Where a stronger form would be better still, the strength is
bisected between what holds the accuracy and what does not (branch and bound: a family whose strongest form could not
beat the best candidate so far is left alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from edgecomp.budget import RESOURCE_LIMITS, Budget, Values, Violation
from edgecomp.objective import Objective, is_better, value_of
from edgecomp.planner.families import Family, join, with_qat
from edgecomp.recipe import Recipe

Stage = Literal["estimate", "preview", "short", "full"]

STAGES: tuple[Stage, ...] = ("estimate", "preview", "short", "full")

# What is taken to be won back at most: 5 pp of accuracy, by all epochs after a few as by quantization-aware training.
# With it ResNet8 cut to ranks of 0.8 went from 6.3 to 4.0 pp below, DS-CNN's codebooks of 6 values from 6.7 to less
# than 2. Codebooks are won back by both: ResNet8's of 2.8 bits were 11 pp below after one epoch, 5.6 after all.
_RECOVERY, _CODED_RECOVERY = 0.05, 0.1


@dataclass(frozen=True)
class Trial:
    """One recipe as far as it was taken.

    Attributes:
        stage: How far: by arithmetic, without training, trained for a few epochs, or in full.
        values: What is known of it; None if it failed.
        broken: Limits that it breaks.
        reason: Why it went no further.
        result: What the oracle has to say beside.
        is_unaffordable: There was no time left for the next stage.
    """

    recipe: Recipe
    stage: Stage
    values: Values | None
    broken: tuple[Violation, ...] = ()
    reason: str = ""
    result: Any = None
    is_unaffordable: bool = False

    @property
    def fits(self) -> bool:
        """Trained, and within every limit."""
        return self.stage == "full" and self.values is not None and not self.broken


class Oracle(Protocol):
    """What the search asks about recipes. One that cannot be made is a Trial without values, never an exception."""

    def estimate(self, recipe: Recipe) -> Values | None:
        """By arithmetic alone, None for what that cannot tell; None where the recipe cannot be applied to the model."""
        ...

    def preview(self, recipe: Recipe) -> Trial:
        """Made without training: memory, time and energy are final, the accuracy is not."""
        ...

    def train(self, recipe: Recipe, *, short: bool) -> Trial:
        """Trained, for a few epochs or in full, and measured."""
        ...

    def expect(self, recipes: Sequence[Recipe], *, short: bool) -> None:
        """These trainings come next: they may be done side by side."""
        ...

    def unaffordable(self, recipe: Recipe, *, short: bool) -> str | None:
        """Why there is no time for a training, in one clause; None if there is."""
        ...


@dataclass
class Ladder:
    """One search for one device.

    Attributes:
        best: What to beat: figures of the best candidate that fits, trained or not; None: nothing fits yet.
        use_short: Train for a few epochs first where there are several families, unless the preview holds the accuracy.
        can_qat: Quantization-aware training may win back what rounding costs.
        combines: Try two families together where no single one fits.
        trials: Everything that was looked at, in order.
    """

    budget: Budget
    objective: Objective
    oracle: Oracle
    best: Values | None = None
    use_short: bool = True
    can_qat: bool = True
    combines: bool = True
    trials: list[Trial] = field(default_factory=list)
    chosen: Trial | None = None

    def climb(self, families: Sequence[Family]) -> Trial | None:
        """Search all families, the most promising first; returns the best trial that fits, if it beats `best`."""
        entered = [(trial, family) for family in families if (trial := self._enter(family)) is not None]
        # Of equal ones the simpler comes first; sorting is stable.
        entered.sort(key=lambda item: (_quality_gap(item[0].broken), len(item[0].recipe.steps)))
        if len(entered) > 1:
            self.oracle.expect([trial.recipe for trial, _ in entered if self._is_doubtful(trial)], short=True)
        for trial, family in entered:
            self._climb(family, trial, alone=len(entered) == 1)
        if self.combines and self.chosen is None and self.best is None:
            self._combine(families)
        return self.chosen

    def _enter(self, family: Family) -> Trial | None:
        """The weakest form that is worth a training, previewed; None if there is none."""
        place = self._weakest(family, 0)
        if place is None:
            return None
        found = self._preview(family.recipes[place])
        if self._is_worth(found):
            if place == 0 or not self._is_worth(self._preview(family.recipes[place - 1])):
                return found
            return self._between(family, -1, place - 1)  # Arithmetic was too careful.
        # It was too hopeful: ask the previews themselves, from the strongest that can be made on.
        high = len(family.recipes) - 1
        while high > place and self._preview(family.recipes[high]).values is None:
            high -= 1
        if high == place or not self._is_worth(self._preview(family.recipes[high])):
            return None
        return self._between(family, place, high)

    def _between(self, family: Family, low: int, high: int) -> Trial:
        """The weakest preview that is worth a training, between a place that is not and one that is."""
        while high - low > 1:
            middle = (low + high) // 2
            if self._is_worth(self._preview(family.recipes[middle])):
                high = middle
            else:
                low = middle
        return self._preview(family.recipes[high])

    def _weakest(self, family: Family, start: int) -> int | None:
        """The first place from which on arithmetic finds nothing broken; None if the strongest breaks a limit, too."""
        low, high = start - 1, len(family.recipes) - 1
        while high > low + 1 and self.oracle.estimate(family.recipes[high]) is None:
            high -= 1  # So much cannot be taken from this model.
        if not self._is_worth(strongest := self._estimate(family.recipes[high])):
            self.trials.append(strongest)
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._is_worth(self._estimate(family.recipes[middle])):
                high = middle
            else:
                low = middle
        return high

    def _estimate(self, recipe: Recipe) -> Trial:
        values = self.oracle.estimate(recipe)
        return self._judged(Trial(recipe, "estimate", values, reason="" if values else "it cannot be applied so far"))

    def _preview(self, recipe: Recipe) -> Trial:
        known = next((item for item in self.trials if item.recipe == recipe and item.stage == "preview"), None)
        return known or self._noted(self.oracle.preview(recipe))

    def _is_worth(self, trial: Trial) -> bool:
        """Whether a training could make it the best: its memory, time and energy are within the limits, and better."""
        if trial.values is None or any(item.is_resource for item in trial.broken):
            return False
        if self.best is None or self.objective is Objective.ACCURACY_DROP:
            return True
        if trial.stage == "estimate" and value_of(trial.values, self.objective) is None:
            return True  # Arithmetic cannot tell.
        return is_better(trial.values, self.best, self.objective)

    def _climb(self, family: Family, first: Trial, *, alone: bool) -> None:
        """Train the weakest form, then bisect between what holds the accuracy and what does not."""
        places = list(family.recipes)
        low, high = places.index(first.recipe), len(places)
        if not self._is_worth(first):
            # What to beat has become better since.
            place = self._weakest(family, low)
            if place is None:
                return
            low = place
        if not self.attempt(places[low], alone=alone):
            return
        while self.objective in family.gains and high - low > 1:
            middle = (low + high) // 2
            # A form that gains nothing on the best says nothing of the accuracy of stronger ones.
            if self._gains_nothing(places[middle]) or self.attempt(places[middle], alone=False):
                low = middle
            else:
                high = middle

    def _gains_nothing(self, recipe: Recipe) -> bool:
        trial = self._preview(recipe)
        within = trial.values is not None and not any(item.is_resource for item in trial.broken)
        return within and not self._is_worth(trial)

    def attempt(self, recipe: Recipe, *, alone: bool) -> bool:
        """Take a recipe as far as it is worth it; True if it fits."""
        preview = self._preview(recipe)
        if not self._is_worth(preview):
            return False
        if self._is_doubtful(preview) and not alone:
            short = self._train(recipe, short=True)
            most = _CODED_RECOVERY if any(step.technique == "cluster" for step in recipe.steps) else _RECOVERY
            if short is None or short.values is None or _quality_gap(short.broken) > most:
                return False
        full = self._train(recipe, short=False)
        if full is None:
            return False
        trained = with_qat(recipe) if self.can_qat else None
        if full.broken and trained is not None and _quality_gap(full.broken) <= _RECOVERY and self._is_worth(full):
            full = self._train(trained, short=False) or full
        if full.fits and full.values is not None and (self.best is None or self._is_progress(full.values)):
            self.best, self.chosen = full.values, full
        return full.fits

    def _is_doubtful(self, preview: Trial) -> bool:
        """Whether a few epochs have something to say: what holds the accuracy without any is trained in full."""
        return self.use_short and _quality_gap(preview.broken) > 0

    def _is_progress(self, values: Values) -> bool:
        return self.best is None or is_better(values, self.best, self.objective)

    def _train(self, recipe: Recipe, *, short: bool) -> Trial | None:
        reason = self.oracle.unaffordable(recipe, short=short)
        if reason is not None:
            known = self._preview(recipe)
            self.trials.append(replace(known, reason=reason, is_unaffordable=True))
            return None
        return self._noted(self.oracle.train(recipe, short=short))

    def _combine(self, families: Sequence[Family]) -> None:
        """No single family fits: a smaller network, whose weights are then stored in fewer bits."""
        coders = [family for family in families if family.gains == {Objective.SIZE}]
        for coder in coders:
            for family in families:
                if family.technique == coder.technique or Objective.SIZE not in family.gains:
                    continue
                strongest = self._estimate(join(family.recipes[-1], coder.recipes[-1]))
                if strongest.values is not None and not self._is_worth(strongest):
                    self.trials.append(strongest)
                    continue
                first = self._weakest_but_for_size(family)
                if first is None:
                    continue
                joined = coder.after(first, family.gains)
                if (entered := self._enter(joined)) is not None:
                    self._climb(joined, entered, alone=False)

    def _weakest_but_for_size(self, family: Family) -> Recipe | None:
        """The weakest form whose RAM, time and energy are within the limits, whatever it takes in flash."""

        def holds(trial: Trial) -> bool:
            broken = [item for item in trial.broken if item.is_resource and item.limit != "model_size"]
            return trial.values is not None and not broken

        for recipe in family.recipes:
            if holds(self._estimate(recipe)) and holds(self._preview(recipe)):
                return recipe
        return None

    def _noted(self, trial: Trial) -> Trial:
        trial = self._judged(trial)
        self.trials.append(trial)
        return trial

    def _judged(self, trial: Trial) -> Trial:
        if trial.values is None:
            return trial
        broken = tuple(self.budget.violations(trial.values))
        reason = trial.reason or "; ".join(map(str, broken))
        if trial.stage == "estimate" and not reason:
            reason = "even its strongest form would not be better than the best candidate so far"
        return replace(trial, broken=broken, reason=reason)


def furthest(trials: Sequence[Trial]) -> list[Trial]:
    """One trial a recipe: the one that was taken furthest, in the order in which recipes were first looked at."""
    found: dict[str, Trial] = {}
    for trial in trials:
        known = found.get(trial.recipe.slug)
        if known is None or STAGES.index(trial.stage) >= STAGES.index(known.stage):
            found[trial.recipe.slug] = trial
    return list(found.values())


def nearest(trials: Sequence[Trial], budget: Budget) -> list[tuple[Violation, Trial]]:
    """For every resource that no trial brings within its limit: the nearest one, and by how much it fails."""
    found: dict[str, tuple[Violation, Trial]] = {}
    held: set[str] = set()
    for trial in trials:
        if trial.values is None:
            continue
        broken = {item.limit: item for item in trial.broken if item.is_resource}
        held |= {name for name in RESOURCE_LIMITS if name not in broken and trial.values.of(name) is not None}
        for name, item in broken.items():
            if name not in found or item.gap < found[name][0].gap:
                found[name] = (item, trial)
    return [pair for name, pair in found.items() if name not in held and budget.is_limited(name)]


def _quality_gap(broken: Sequence[Violation]) -> float:
    """How far the worst of the limits of accuracy is broken, as a fraction; 0 if none is."""
    return max((item.gap for item in broken if not item.is_resource), default=0.0)
