"""The planner's oracle for one device: recipes applied, converted and measured, or taken from the store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from edgecomp.budget import Values
from edgecomp.candidates import Target, decision_kernels, judged, measure_file, values_of
from edgecomp.compress import Footprint
from edgecomp.compress._traits import device_traits
from edgecomp.delivery import candidate_files, unpacked_path
from edgecomp.errors import EdgecompError, WorkerError
from edgecomp.executors.local import Progress, Worker
from edgecomp.judging import corrected_by
from edgecomp.means import Means, digest
from edgecomp.metrics import Estimate
from edgecomp.planner.ladder import Stage, Trial
from edgecomp.profile import Precision
from edgecomp.quantize import QuantizationOptions
from edgecomp.recipe import Recipe
from edgecomp.results import CandidateResult, RecipeReport, RecipeStepReport
from edgecomp.scoring import Comparison
from edgecomp.stages import MadeFile
from edgecomp.training.settings import TrainingSettings
from edgecomp.units import format_seconds
from edgecomp.variants import Variant, VariantRequest

_STAGES, _SCORING, _VARIANTS = "edgecomp.stages:", "edgecomp.scoring:", "edgecomp.variants:"
_SHORT_SHARE = 0.25
# Of a plain epoch: what codebooks, masks and rounding take beside it.
_DEARER = 1.4
_CODED_TENSOR_BYTES = 75


class Lab:
    """What `planner.ladder` asks of one device.

    Args:
        means: Shared by the devices.
        target: The device.
        base: The post-training candidate that recipes start from: of the same precision, made of the whole model.
        float_score: The float model's on validation, None without labels.
        finish: What is left to do to a trained candidate that fits: its timing on the device.

    Attributes:
        timed: Candidates of the base's arithmetic that were timed there, if any could be: they correct the estimates of
            the others.
    """

    only_plans = False

    def __init__(
        self,
        means: Means,
        target: Target,
        base: CandidateResult,
        float_score: float | None,
        finish: Callable[[CandidateResult], CandidateResult],
    ) -> None:
        self.means, self.target, self.base, self.float_score, self.finish = means, target, base, float_score, finish
        self.timed = [base]
        self.stand_in = means.stand_in(target.profile)
        self.notes: list[str] = []
        if self.stand_in.name != target.profile.name:
            self.notes.append(
                f"Recipes were applied as for {self.stand_in.name}, so that devices share what is trained."
            )
        self.options = QuantizationOptions(
            Precision(base.name), target.io, int4_operators=target.profile.runtime.int4_weight_operators
        )

    def values(self, result: CandidateResult) -> Values:
        """What the limits are held against."""
        values = values_of(
            result,
            self.float_score,
            confident=self.means.shop.confident,
            higher_is_better=self.target.budget.higher_is_better,
        )
        if self.target.measure is None or result.latency_ms is not None:
            return values
        # It will be timed: only an estimate that cannot be right rules it out, by all that was timed so far.
        latency, energy = result.estimated_latency_ms, result.energy_mj
        if latency is None:
            return replace(values, latency_ms=None, energy_mj=None if energy is None else energy.low)
        moved, _ = corrected_by(self.timed, latency)
        return replace(
            values,
            latency_ms=moved.low,
            energy_mj=None if energy is None else energy.low * moved.low / latency.low,
        )

    def correction_note(self) -> str | None:
        """What timings on the device said of the estimates, in a sentence."""
        estimate = self.base.estimated_latency_ms
        found = None if estimate is None else corrected_by(self.timed, estimate)[1]
        if found is None:
            return None
        models = f"{found.num_models} candidate{'s' if found.num_models > 1 else ''}"
        return f"Latency estimates count {found.factor:.2f} times, by {models} timed on the device."

    def paired_gain(self, first: CandidateResult, second: CandidateResult) -> Estimate | None:
        """How much the first scores above the second on the same samples, with its interval; None without labels."""
        shop = self.means.shop
        kernels = decision_kernels(self.target.profile)
        outputs = [
            shop.quantizing.call(
                _SCORING + "predict",
                bench=shop.bench,
                model=unpacked_path(shop, item),
                kernels=kernels,
                split="validation",
            )
            for item in (first, second)
        ]
        compared: Comparison = shop.quantizing.call(
            _SCORING + "compare", bench=shop.bench, candidate=outputs[1], reference=outputs[0], split="validation"
        )
        return compared.drop

    def estimate(self, recipe: Recipe) -> Values | None:
        """See `planner.ladder.Oracle`. The file of the base, less what its weights lose; latency falls with MACs."""
        before, after = self._weigh(None), self._weigh(recipe)
        if before is None or after is None:
            return None
        base = self.values(self.base)
        size = None
        if base.model_bytes is not None:
            is_coded = any(step.technique == "cluster" for step in recipe.steps)
            overhead = _CODED_TENSOR_BYTES * self._coded_tensors() if is_coded else 0
            packing = self.base.packing
            plain = base.model_bytes if packing is None else packing.plain_bytes
            size = max(0, plain - before.weight_bytes + after.weight_bytes) + overhead
        part = after.macs / max(before.macs, 1)
        return Values(
            drop=None,
            float_score=base.float_score,
            model_bytes=size,
            ram_bytes=None,
            latency_ms=None if base.latency_ms is None else base.latency_ms * part,
            energy_mj=None if base.energy_mj is None else base.energy_mj * part,
        )

    def _coded_tensors(self) -> int:
        kinds = ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
        return sum(operator.code in kinds for operator in self.means.imported.graph.main.operators)

    def _weigh(self, recipe: Recipe | None) -> Footprint | None:
        key = digest("weigh", str(recipe), self.stand_in.name)
        if key not in self.means.weights:
            self.means.weights[key] = self._weighed(recipe)
        return self.means.weights[key]

    def _weighed(self, recipe: Recipe | None) -> Footprint | None:
        try:
            found: Footprint = self.means.trainers[0].call(
                _VARIANTS + "weigh",
                source=self.means.source,
                trust_code=self.means.trust_code,
                profile=self.stand_in,
                recipe=recipe,
            )
        except EdgecompError:
            return None  # It cannot be applied so far, or its arithmetic alone is too much for this machine.
        return found

    def preview(self, recipe: Recipe) -> Trial:
        """See `planner.ladder.Oracle`."""
        return self._trial(recipe, "preview", self.means.trainers[0])

    def train(self, recipe: Recipe, *, short: bool) -> Trial:
        """See `planner.ladder.Oracle`."""
        return self._trial(recipe, "short" if short else "full", self.means.trainers[0])

    def expect(self, recipes: Sequence[Recipe], *, short: bool) -> None:
        """See `planner.ladder.Oracle`. With several trainers these are trained side by side."""
        trainers = self.means.trainers
        recipes = [recipe for recipe in recipes if self.unaffordable(recipe, short=short) is None]
        if len(trainers) < 2 or len(recipes) < 2:
            return
        stage: Stage = "short" if short else "full"
        free = list(trainers)

        def train(recipe: Recipe) -> None:
            trainer = free.pop()
            try:
                self._variant(recipe, stage, trainer)
            except EdgecompError:
                pass  # It is told when the recipe's turn comes.
            finally:
                free.append(trainer)

        with ThreadPoolExecutor(len(trainers)) as pool:
            list(pool.map(train, recipes))

    def unaffordable(self, recipe: Recipe, *, short: bool) -> str | None:
        """See `planner.ladder.Oracle`."""
        left = self.means.left_s()
        if left is None or self._is_done(recipe, "short" if short else "full"):
            return None
        needs = self.seconds(recipe, short=short)
        if needs <= left:
            return None
        return f"not trained: it would take about {format_seconds(needs)}, and {format_seconds(max(left, 0))} are left"

    def seconds(self, recipe: Recipe, *, short: bool) -> float:
        """How long a training will take, estimated from the measured time of an epoch."""
        epochs = self._settings("short" if short else "full").epochs
        done = sum(0.25 if step.technique == "qat" else 1.0 for step in recipe.steps)
        return max(1.0, _DEARER * self.means.epoch_s() * epochs * done)

    def _settings(self, stage: Stage) -> TrainingSettings:
        full = self.means.settings
        return full if stage != "short" else replace(full, epochs=math.ceil(full.epochs * _SHORT_SHARE))

    def _traits(self, recipe: Recipe) -> list[list[Any]]:
        """What the techniques look at: the same device can have another stand-in in another fit of the store."""
        return [device_traits(step.technique, self.stand_in) for step in recipe.steps]

    def _key(self, recipe: Recipe, stage: Stage) -> str:
        """Of the candidate's figures on this device."""
        target = self.target
        return self.means.key(
            "trial", recipe.slug, stage, self._traits(recipe), asdict(self._settings(stage)), asdict(self.options),
            target.profile.text,
            target.budget.max_model_bytes, target.budget.max_ram_bytes, target.prefers_small, target.num_threads,
            self.means.unlabelled,
        )  # fmt: skip

    def _is_done(self, recipe: Recipe, stage: Stage) -> bool:
        return self.means.store.recall(self._key(recipe, stage)) is not None

    def _trial(self, recipe: Recipe, stage: Stage, trainer: Worker) -> Trial:
        started = time.monotonic()
        key, store = self._key(recipe, stage), self.means.store
        with store.lock(key):
            known = store.recall(key)
            if known is None:
                result = self._made(recipe, stage, trainer)
                result = result.model_copy(update={"seconds": round(time.monotonic() - started, 2)})
                known = result.model_dump(mode="json")
                kept = [store.put(path.read_bytes()) for path in candidate_files(self.means.shop, result)]
                if result.status != "failed":
                    store.remember(key, stage, known, kept, result.seconds)
                    self.means.run.record("made", {"key": key, "stage": stage, "name": result.name})
            result = CandidateResult.model_validate(known)
        self.means.run.use(key)
        self.means.bring(result)
        if result.status != "failed":
            result = judged(result, self.target.budget.violations(self.values(result)))
        if stage == "full" and result.status == "chosen":
            result = self.finish(result)
            self.timed.append(result)
        self.means.run.record(
            "trial", {"device": self.target.profile.name, "stage": stage, "candidate": result.model_dump(mode="json")}
        )
        values = None if result.status == "failed" else self.values(result)
        return Trial(recipe, stage, values, reason=result.reason if values is None else "", result=result)

    def _made(self, recipe: Recipe, stage: Stage, trainer: Worker) -> CandidateResult:
        """Apply, convert, quantize and measure; a failure is a result with its reason."""
        try:
            made, report = self._compressed(recipe, stage, trainer)
            result = measure_file(self.means.shop, self.target, self.options, made)
        except EdgecompError as error:
            reason = str(error) if isinstance(error, WorkerError) else error.message
            return CandidateResult(name=str(recipe), status="failed", reason=reason)
        return result.model_copy(update={"name": str(recipe), "recipe": report})

    def _compressed(self, recipe: Recipe, stage: Stage, trainer: Worker) -> tuple[MadeFile, RecipeReport]:
        """The file and what was done; devices that are alike in what the techniques look at share it."""
        means, store = self.means, self.means.store
        key = means.key(
            "file", recipe.slug, stage, self._traits(recipe), asdict(self._settings(stage)), asdict(self.options),
            means.unlabelled,
        )  # fmt: skip
        with store.lock(key):
            known = store.recall(key)
            if known is None:
                started = time.monotonic()
                variant = self._variant(recipe, stage, trainer)
                made = self._file(variant)
                known = {
                    "made": {**asdict(made), "path": None},
                    "report": self._report(recipe, stage, variant).model_dump(mode="json"),
                    "steps": variant.step_names,
                }
                kept = [store.put(made.path.read_bytes())]
                store.remember(key, "file", known, kept, round(time.monotonic() - started, 2))
        for used in (key, *known["steps"]):
            means.run.use(used)
        path = means.file(known["made"]["sha256"])
        fields = {**known["made"], "path": path, "float_operators": tuple(known["made"]["float_operators"])}
        return MadeFile(**fields), RecipeReport.model_validate(known["report"])

    def _report(self, recipe: Recipe, stage: Stage, variant: Variant) -> RecipeReport:
        return RecipeReport(
            stage="preview" if stage == "estimate" else stage,
            steps=tuple(
                RecipeStepReport(
                    technique=step.technique,
                    options=step.options.model_dump(mode="json", exclude_unset=True),
                    changes=tuple(f"{item.layer}: {item.change}" for item in told.changes),
                    best_epoch=told.best_epoch,
                )
                for step, told in zip(recipe.steps, variant.steps, strict=True)
            ),
            precision=str(self.options.precision),
            settings=asdict(self._settings(stage)),
            epochs=sum(step.epochs or 0 for step in variant.steps),
            train_seconds=round(sum(step.train_seconds or 0.0 for step in variant.steps), 2),
        )

    def _variant(self, recipe: Recipe, stage: Stage, trainer: Worker) -> Variant:
        means = self.means
        what = {"preview": "previewing", "short": "first epochs of", "full": "training"}[stage]
        means.shop.progress(f"{self.target.profile.name}: {what} {recipe}", 0, 0)
        made: Variant = trainer.call(
            _VARIANTS + "make_variant",
            bench=means.imported.bench,
            request=VariantRequest(
                source=means.source,
                trust_code=means.trust_code,
                recipe=recipe,
                settings=self._settings(stage),
                profile=self.stand_in,
                preview=stage == "preview",
                unlabelled=means.unlabelled,
                steps=means.store.steps_root,
            ),
            progress=_renamed(means.shop.progress, f"{self.target.profile.name}: {recipe}: "),
        )
        return made

    def _file(self, variant: Variant) -> MadeFile:
        """The variant's own int8 file where its ranges were learned, else quantized after training."""
        shop = self.means.shop
        if variant.int8_path is not None:
            made: MadeFile = shop.quantizing.call(
                _STAGES + "take_file", bench=variant.bench, path=variant.int8_path, method="quantization-aware training"
            )
            return made
        quantized: MadeFile = shop.quantizing.call(
            _STAGES + "make_candidate", bench=variant.bench, options=self.options
        )
        return quantized


class Planned(Lab):
    """A lab that trains nothing, and says of everything how long it would take."""

    only_plans = True

    def unaffordable(self, recipe: Recipe, *, short: bool) -> str | None:
        """See `planner.ladder.Oracle`."""
        if short:
            rest = self.seconds(recipe, short=False)
            return f"would be trained: {format_seconds(self.seconds(recipe, short=True))}, then {format_seconds(rest)}"
        return f"would be trained: {format_seconds(self.seconds(recipe, short=False))}"


def _renamed(progress: Progress, prefix: str) -> Callable[[str, int, int], None]:
    def report(what: str, done: int, total: int) -> None:
        progress(prefix + what, done, total)

    return report
