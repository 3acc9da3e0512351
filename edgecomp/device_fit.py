"""The fit of one device: post-training candidates, compressed ones, the choice, the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecomp.candidates import Shop, Target, make_candidate
from edgecomp.check import require_runnable
from edgecomp.delivery import Provenance, candidate_files, deliver, describe_limits, time_candidate, versions
from edgecomp.errors import BenchmarkError, ModelError, TransportError
from edgecomp.intake import Imported
from edgecomp.judging import require_estimates
from edgecomp.lab import Lab, Planned
from edgecomp.means import Means, digest
from edgecomp.objective import Objective
from edgecomp.plan import Step, make_plan
from edgecomp.profile import Precision
from edgecomp.results import CandidateResult, DeviceResult, WhatIf
from edgecomp.search import search
from edgecomp.trials import Aim, aim_of, base_of, choose, known_objective, search_recipes, what_if

if TYPE_CHECKING:
    from edgecomp.pipeline import FitRequest, Replay

_RANKED_LAYERS = 12


@dataclass
class DeviceFit:
    """One device of a fit.

    Attributes:
        float_score: The float model's on validation; None without labels.
        failures: What could not be timed.
    """

    request: FitRequest
    imported: Imported
    means: Means
    target: Target
    float_score: float | None
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    what_if: tuple[WhatIf, ...] = ()

    def run(self) -> DeviceResult:
        """Candidates, choice, test score and bundle.

        Raises:
            ModelError: The device cannot run the model at all, and it is the only device.
            BundleError: The bundle cannot be written; nothing is left behind.
        """
        device, limits = self.target.profile.name, describe_limits(self.target.budget)
        self._shop.progress(f"{device}: checking operators", 0, 0)
        budget = self.target.budget
        if budget.flattery and budget.min_accuracy is not None:
            self.notes.append(
                f"Against --min-accuracy a score on validation counts {abs(budget.flattery):.3f} "
                f"{'less' if budget.higher_is_better else 'more'}: so much the float model loses from there to test."
            )
        try:
            steps = self._plan()
        except ModelError as error:
            if len(self.request.targets) == 1:
                raise
            return DeviceResult(device=device, status="failed", reason=str(error), limits=limits, candidates=())
        objective = self.request.minimize or Objective.LATENCY
        results = [] if self.request.replay is None else self._replayed(steps, self.request.replay)
        was_replayed = any(result.status == "chosen" for result in results)
        if self.request.replay is not None and not was_replayed:
            told = "; ".join(f"{item.name}: {item.reason}" for item in results if item.status != "skipped")
            self.notes.append(f"Not replayed: {told or 'the old candidate cannot be made of this model'}.")
        if not was_replayed:
            results = search(steps, self._make, everything=self._is_searching or self.request.minimize is not None)
            base = base_of(results)
            if base is not None:
                results, objective = self._with_recipes(results, base, objective)
        self.means.run.record("device", {"device": device, "objective": objective})
        failure = "; ".join(self.failures) or None
        fits = any(result.status == "chosen" for result in results)
        if not fits and not self._is_searching and self.imported.info.is_trainable:
            self.notes.append("Nothing was trained: `--effort standard` tries compressed models, too.")
        if self.request.plan_only or not fits:
            return DeviceResult(
                device=device,
                status="no_fit" if not self.request.plan_only else "planned",
                limits=limits,
                objective=objective,
                candidates=tuple(results),
                what_if=self.what_if,
                notes=tuple(self.notes),
                error=failure,
            )
        found = deliver(self._shop, self.target, results, self._provenance(), self.request.out)
        return found.model_copy(
            update={
                "was_replayed": was_replayed,
                "error": failure,
                "objective": objective,
                "what_if": self.what_if,
                "notes": (*self.notes, *found.notes),
            }
        )

    @property
    def _shop(self) -> Shop:
        return self.means.shop

    @property
    def _is_searching(self) -> bool:
        return self.request.effort != "quick"

    def _plan(self) -> tuple[Step, ...]:
        target, profile = self.target, self.target.profile
        require_estimates(profile, target.budget, is_timed=target.measure is not None)
        require_runnable(self.imported.graph, profile, data=self._shop.bench.float_model.read_bytes())
        return make_plan(profile, self.request.precisions, has_calibration=self.imported.facts.has_calibration)

    def _make(self, step: Step) -> CandidateResult:
        """One post-training candidate, made or taken from the store, timed if it fits."""
        self._shop.progress(f"{self.target.profile.name}: {step.name}", 0, 0)
        store, key = self.means.store, self._key(step)
        with store.lock(key):
            known = store.recall(key)
            if known is None:
                made = make_candidate(self._shop, self.target, step)
                known = made.model_dump(mode="json")
                if made.status != "failed":
                    kept = [store.put(path.read_bytes()) for path in candidate_files(self._shop, made)]
                    store.remember(key, "candidate", known, kept, made.seconds)
                    self.means.run.record("made", {"key": key, "stage": "post-training", "name": made.name})
        self.means.run.use(key)
        result = CandidateResult.model_validate(known)
        self.means.bring(result)
        self.means.run.record("candidate", {"device": self.target.profile.name, "candidate": known})
        return self._timed(result)

    def _key(self, step: Step) -> str:
        target = self.target
        return self.means.key(
            "candidate", asdict(step), target.profile.text, asdict(target.budget), target.io, target.num_threads,
            self._shop.confident, target.measure is not None, target.prefers_small,
        )  # fmt: skip

    def _timed(self, result: CandidateResult) -> CandidateResult:
        """A candidate that fits, timed on the host of its device if it has one."""
        if result.status != "chosen":
            return result
        try:
            return time_candidate(self._shop, self.target, result, self._provenance())
        except (TransportError, BenchmarkError) as error:
            # The bundle is worth having without its timing, unless the timing was to decide.
            self.failures.append(f"{result.name} could not be timed: {error}")
            if not self.target.budget.is_limited("latency") and not self.target.budget.is_limited("energy"):
                return result
            return result.model_copy(update={"status": "failed", "reason": self.failures[-1]})

    def _replayed(self, steps: Sequence[Step], replay: Replay) -> list[CandidateResult]:
        """The candidate of an earlier bundle, made of this model; empty if it cannot be made any more."""
        recipe = replay.recipe
        name = replay.precision if recipe is None else str(Precision(replay.precision))
        step = next((item for item in steps if item.name == name), None)
        if step is None:
            return []
        made = self._make(replace(step, ruled_out=None))
        if recipe is None or made.sha256 is None or not self._can_train():
            return [made] if recipe is None else []
        lab = Lab(self.means, self.target, made, self.float_score, self._timed)
        if (reason := lab.unaffordable(recipe, short=False)) is not None:
            self.notes.append(f"{recipe}: {reason}.")
            return []
        trial = lab.train(recipe, short=False)
        if trial.result is None:
            return []
        plain = made.model_copy(update={"status": "skipped", "reason": "the recipe starts from it"})
        return [plain, trial.result]

    def _with_recipes(
        self, results: list[CandidateResult], base: CandidateResult, objective: Objective
    ) -> tuple[list[CandidateResult], Objective]:
        """The results with those of compressed models, one of them chosen by the objective."""
        kind = Planned if self.request.plan_only else Lab
        lab = kind(self.means, self.target, base, self.float_score, self._timed)
        objective, note = known_objective(objective, lab.values(base))
        if note is not None and (self._is_searching or self.request.minimize is not None):
            self.notes.append(note)
        if self._is_searching and self._can_train():
            aim = aim_of(results, objective, self.target.budget, lab)
            self._tell_layers(aim)
            results = results + search_recipes(lab, aim, study=self._study())
            self.notes += lab.notes
            if (note := lab.correction_note()) is not None:
                self.notes.append(note)
        if self._is_searching or self.request.minimize is not None:
            results = choose(results, objective, lab)
        self.what_if = what_if(results, objective, lab)
        return results, objective

    def _can_train(self) -> bool:
        reason = None
        if not self.imported.info.is_trainable:
            reason = str(self.imported.info.training_unavailable_reason)
        elif not self.imported.data["splits"].get("train"):
            reason = "the data has no training samples (x_train)"
        if reason is None:
            return True
        if (note := f"Nothing was trained: {reason}.") not in self.notes:
            self.notes.append(note)
        return False

    def _study(self) -> Path | None:
        if self.request.effort != "thorough" or self.request.plan_only:
            return None
        key = f"study-{digest(self.means.run.name, self.target.profile.name)[:16]}"
        self.means.run.use(key)
        return self.means.store.step_folder(key) / "study.db"

    def _tell_layers(self, aim: Aim) -> None:
        """Which layers suffer most from rounding, for whoever asks why."""
        ranked = self.means.sensitivity(self.target.io)
        value = {"device": self.target.profile.name, "base": aim.base.name, "layers": ranked[:_RANKED_LAYERS]}
        self.means.run.record("sensitivity", value)

    def _provenance(self) -> Provenance:
        request, imported = self.request, self.imported
        return Provenance(
            source={"name": request.model.name, "kind": imported.info.kind, "sha256": imported.info.sha256},
            data_sha256=imported.data["sha256"],
            mean=request.data.mean,
            std=request.data.std,
            class_names=imported.facts.class_names,
            seed=request.seed,
            versions=versions(),
            fit={
                "minimize": request.minimize,
                "confident": request.confident,
                "effort": request.effort,
                "metric": request.metric,
            },
        )


def resolved(request: FitRequest, imported: Imported, flattery: float = 0.0) -> list[Target]:
    """The targets with their limits as they hold for the metric of the data.

    Args:
        request: The fit.
        imported: Its model and data.
        flattery: See `Budget`.
    """
    facts = imported.facts

    def with_metric(target: Target) -> Target:
        budget = target.budget.for_metric(
            facts.metric_name,
            is_ratio=facts.metric_is_ratio,
            higher_is_better=facts.metric_higher_is_better,
            has_labels=facts.has_labels,
        )
        budget = replace(budget, flattery=flattery)
        return replace(target, budget=budget, prefers_small=request.minimize is Objective.SIZE)

    return [with_metric(target) for target in request.targets]
