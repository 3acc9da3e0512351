"""A model that was trained again: the recipe of an earlier bundle on its new weights, under the same limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgecomp.budget import Budget
from edgecomp.bundle.fitted import data_as_fitted, fitted_metric
from edgecomp.bundle.manifest import Manifest
from edgecomp.bundle.reader import Bundle, profile_of, read_bundle
from edgecomp.candidates import Target
from edgecomp.data import DataOptions
from edgecomp.errors import BundleError, UsageError
from edgecomp.executors.local import Progress, silent
from edgecomp.objective import Objective
from edgecomp.pipeline import Effort, FitRequest, Replay, fit
from edgecomp.recipe import Recipe, make_recipe
from edgecomp.results import CandidateResult, FitResult, RecipeReport
from edgecomp.training.settings import TrainingSettings
from edgecomp.units import parse_drop


@dataclass(frozen=True)
class RefitRequest:
    """What the user asks for.

    Attributes:
        bundle: Of the earlier fit: a folder or a .zip.
        model: The new model.
        data: Its data; preprocessing that it does not state is the bundle's, and the seed in any case.
        metric: None for the bundle's.
        effort: Of the search, if the old recipe no longer meets the limits.
    """

    bundle: Path
    model: Path
    data: DataOptions
    out: Path
    effort: Effort = "standard"
    time_limit_s: float | None = None
    metric: str | None = None
    unlabelled: DataOptions | None = None
    trust_code: bool = False
    custom_objects: str | None = None
    store: Path | None = None
    resume: bool = False
    jobs: int = 1


@dataclass(frozen=True)
class Change:
    """One figure of the bundle, then and now; None where it is not known."""

    what: str
    before: float | str | None
    after: float | str | None
    unit: str = ""


@dataclass(frozen=True)
class RefitResult:
    """What came out.

    Attributes:
        fit: Of the new model.
        was_replayed: The old recipe meets the limits again; otherwise there was a search.
        recipe: Of the old bundle, in words.
        changes: Against the old bundle; empty where nothing fits.
    """

    fit: FitResult
    was_replayed: bool
    recipe: str
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": "edgecomp.refit/1",
            "recipe": self.recipe,
            "was_replayed": self.was_replayed,
            "changes": [asdict(change) for change in self.changes],
            "fit": self.fit.to_json(),
        }


def refit(request: RefitRequest, *, progress: Progress | None = None) -> RefitResult:
    """Replay the recipe of a bundle on a new model; search where the limits no longer hold.

    Raises:
        BundleError: The bundle cannot be read.
        UsageError: It was made by an edgecomp that did not write down what it did.
        EdgecompError: See `pipeline.fit`.
    """
    opened = read_bundle(request.bundle)
    try:
        asked = _asked(request, opened)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{request.bundle}: the manifest does not say how the bundle was made in words that this edgecomp knows: "
            f"{str(error).splitlines()[0]}.",
            hint="Use `edgecomp fit` once; its bundle can be refitted.",
        ) from error
    result = fit(asked, progress=progress or silent)
    manifest, device = opened.manifest, result.devices[0]
    chosen = next((item for item in device.candidates if item.status == "chosen"), None)
    changes = () if chosen is None else _changes(manifest, chosen, result)
    return RefitResult(result, device.was_replayed, manifest.chosen, changes)


def _asked(request: RefitRequest, opened: Bundle) -> FitRequest:
    """The fit that the bundle came from, of the new model. Raises KeyError, TypeError or ValueError for nonsense."""
    manifest, profile = opened.manifest, profile_of(opened)
    report = _recipe_report(manifest)
    data, unlabelled = data_as_fitted(request.data, manifest), request.unlabelled
    if unlabelled is not None:
        unlabelled = replace(unlabelled, mean=data.mean, std=data.std, seed=data.seed)
    settings = TrainingSettings() if report is None else _settings(report.settings)
    return FitRequest(
        model=request.model,
        data=data,
        targets=(Target(profile, budget_from(manifest.limits), manifest.metrics["io"]),),
        out=request.out,
        metric=request.metric or fitted_metric(manifest),
        confident=bool(manifest.fit.get("confident")),
        trust_code=request.trust_code,
        custom_objects=request.custom_objects,
        seed=manifest.seed,
        minimize=None if manifest.fit.get("minimize") is None else Objective(manifest.fit["minimize"]),
        effort=request.effort,
        time_limit_s=request.time_limit_s,
        settings=settings,
        unlabelled=unlabelled,
        store=request.store,
        resume=request.resume,
        jobs=request.jobs,
        replay=Replay(manifest.chosen, None) if report is None else Replay(report.precision, recipe_of(report)),
    )


def recipe_of(report: RecipeReport) -> Recipe:
    """The recipe that a report tells of."""
    values = {name: value for step in report.steps for name, value in step.options.items()}
    return make_recipe([step.technique for step in report.steps], values)


def _recipe_report(manifest: Manifest) -> RecipeReport | None:
    if not manifest.fit:
        raise UsageError(
            "The bundle does not say how it was made: it comes from an older edgecomp.",
            hint="Use `edgecomp fit` once; its bundle can be refitted.",
        )
    told = manifest.metrics.get("recipe")
    return None if told is None else RecipeReport.model_validate(told)


def _settings(told: dict[str, Any]) -> TrainingSettings:
    lists = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    return TrainingSettings(**{**told, **lists})


def budget_from(limits: dict[str, Any]) -> Budget:
    """The limits of a manifest, as `delivery.describe_limits` has written them."""
    drop = limits.get("max_accuracy_drop")
    return Budget(
        max_accuracy_drop=None if drop is None else parse_drop(drop),
        min_accuracy=limits.get("min_accuracy"),
        max_flips=limits.get("max_flips"),
        max_model_bytes=limits.get("max_model_bytes"),
        max_ram_bytes=limits.get("max_ram_bytes"),
        max_latency_ms=limits.get("max_latency_ms"),
        max_energy_mj=limits.get("max_energy_mj"),
    )


def _float_score(metrics: dict[str, Any]) -> float | None:
    score, drop = metrics.get("accuracy"), metrics.get("accuracy_drop_pp")
    return None if score is None or drop is None else score["value"] + drop["value"] / 100


def _changes(manifest: Manifest, chosen: CandidateResult, result: FitResult) -> tuple[Change, ...]:
    old = manifest.metrics
    new = chosen.model_dump(mode="json")

    def value(table: dict[str, Any], *path: str) -> Any:
        found: Any = table
        for name in path:
            found = None if found is None else found.get(name)
        return found

    float_now = result.float_model.accuracy
    rows = [
        Change("model", manifest.source["sha256"][:12], result.model.sha256[:12]),
        Change("candidate", manifest.chosen, chosen.name),
        Change(f"{result.metric} on test", value(old, "accuracy", "value"), value(new, "accuracy", "value")),
        Change("float model on test", _float_score(old), None if float_now is None else float_now.value),
        Change("drop", value(old, "accuracy_drop_pp", "value"), value(new, "accuracy_drop_pp", "value"), "pp"),
        Change("flips", value(old, "robustness", "flips", "value"), value(new, "robustness", "flips", "value")),
        Change("file", old.get("model_bytes"), chosen.model_bytes, "bytes"),
        Change("RAM", old.get("ram_bytes"), chosen.ram_bytes, "bytes"),
        Change(
            "latency, estimated", value(old, "estimated_latency_ms", "value"),
            value(new, "estimated_latency_ms", "value"), "ms",
        ),
    ]  # fmt: skip
    return tuple(row for row in rows if row.before is not None or row.after is not None)
