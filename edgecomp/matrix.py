"""Several models for the same devices: one fit after the other in one store, and what they found side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from edgecomp.bundle.writer import bundle_name
from edgecomp.errors import BundleError, EdgecompError, StoreError, UsageError
from edgecomp.executors.local import Progress, silent
from edgecomp.files import sha256_of_path
from edgecomp.matrix_result import MatrixResult, Row, row_of
from edgecomp.means import digest
from edgecomp.model_ranking import best_of
from edgecomp.pipeline import FitRequest, begin_run, describe_request, fit, request_key
from edgecomp.results import FitResult
from edgecomp.store import Run, Store

_OWN_FLOAT_SCORE = (
    "A limit of the accuracy drop holds each model against its own float scores. --min-accuracy holds all of them "
    "against one number."
)

_Outcome = FitResult | EdgecompError


def fit_matrix(models: Sequence[Path], request: FitRequest, *, progress: Progress | None = None) -> MatrixResult:
    """Fit each model to every device, one after the other; a model that fails is a row with its reason.

    Args:
        models: Paths of the models, no two with the same name.
        request: What holds for all of them; the model that it names is not looked at. Its time limit is for all
            together: each may use an equal part of what those before it have left.
        progress: Told what takes time.

    Raises:
        UsageError: Two models would have the same bundle, or there is nothing to go on with.
        StoreError, BundleError: Nothing can be written; what was finished stays, and `resume` goes on after it.
        EdgecompError: Every model failed for this one reason.
    """
    require_own_bundles(models, request)
    report = progress or silent
    with ExitStack() as stack:
        folder = request.store or Path(stack.enter_context(TemporaryDirectory(prefix="edgecomp-store-")))
        store = stack.enter_context(Store.open(folder))
        asked = describe_request(request) | {"model": ", ".join(model.name for model in models)}
        key = digest("matrix", *(request_key(replace(request, model=model)) for model in models))
        run = begin_run(store, asked, key, "matrix", resume=request.resume)
        try:
            outcomes = _Series(models, request, store, run, report).outcomes()
            _require_one(outcomes)
        except EdgecompError as error:
            run.finish("interrupted" if isinstance(error, StoreError | BundleError) else "failed", None)
            raise
        except BaseException:
            run.finish("interrupted", None)
            raise
        result = _result(models, request, outcomes, run)
        run.finish("done", result.to_json())
        return result


def require_own_bundles(models: Sequence[Path], request: FitRequest) -> None:
    """Two models must not write the same bundle. Raises UsageError."""
    seen: dict[str, Path] = {}
    for model in models:
        for target in request.targets:
            name = bundle_name(model.name, target.profile.name)
            other = seen.setdefault(name, model)
            if other is model:
                continue
            if other.resolve() == model.resolve():
                raise UsageError(f"{model} is given twice.")
            raise UsageError(
                f"{other} and {model} would both become the bundle {request.out / name}.",
                hint="Bundles are named after models: rename one of them, or fit it by itself with another --out.",
            )


@dataclass
class _Series:
    """Models that are fitted one after the other.

    Attributes:
        run: Of all of them together; each has one of its own besides.
        spent_s: Seconds that those before have taken.
    """

    models: Sequence[Path]
    request: FitRequest
    store: Store
    run: Run
    report: Progress
    spent_s: float = 0.0

    def outcomes(self) -> list[_Outcome]:
        """Of each model its fit, or the error that it ended with. Raises StoreError, BundleError."""
        finished = {event.value["model"]: event.value["run"] for event in self.run.events("model")}
        found = []
        for index, model in enumerate(self.models):
            place = f"{index + 1}/{len(self.models)} {model.name}"
            part = replace(self.request, model=model, part_of=self.run.name, time_limit_s=self._share_s(index))
            outcome: _Outcome | None = self._known(finished.get(str(model)), part)
            if outcome is None:
                outcome = self._fit(part, place)
            else:
                self.report(f"{place}: is finished", 0, 0)
            if isinstance(outcome, FitResult):
                self.spent_s += outcome.seconds
            found.append(outcome)
        return found

    def _share_s(self, index: int) -> float | None:
        """An equal part of what those before have left of the time limit; None without one."""
        limit_s = self.request.time_limit_s
        return None if limit_s is None else max(limit_s - self.spent_s, 0.0) / (len(self.models) - index)

    def _fit(self, part: FitRequest, place: str) -> _Outcome:
        def beat(what: str, done: int, total: int) -> None:
            self.run.beat()
            self.report(f"{place}: {what}", done, total)

        started = time.monotonic()
        is_begun = self.store.unfinished_run(request_key(part)) is not None
        try:
            result = fit(replace(part, resume=is_begun), progress=beat)
        except (StoreError, BundleError):
            raise  # The next model could not be written, either.
        except EdgecompError as error:
            self.spent_s += time.monotonic() - started
            self.report(f"{place}: failed: {error.message}", 0, 0)
            self.run.record("model", {"model": str(part.model), "run": None, "reason": str(error)})
            return error
        self.run.record("model", {"model": str(part.model), "run": result.run, "reason": None})
        return result

    def _known(self, name: str | None, part: FitRequest) -> FitResult | None:
        """What a model was fitted to before the interruption; None if it has to be fitted again."""
        if name is None or not part.model.exists():
            return None
        try:
            result = FitResult.model_validate(self.store.load_run(name).result)
        except (StoreError, ValidationError):
            return None  # Collected meanwhile, or of another version.
        bundles = [Path(device.bundle) for device in result.devices if device.bundle is not None]
        is_there = all(bundle.exists() and bundle.parent == part.out for bundle in bundles)
        return result if is_there and result.model.sha256 == sha256_of_path(part.model) else None


def _require_one(outcomes: Sequence[_Outcome]) -> None:
    """What is wrong with every model in the same words is no matter of the models. Raises EdgecompError."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, EdgecompError)]
    if len(errors) == len(outcomes) and len({str(error) for error in errors}) == 1:
        raise errors[0]


def _result(models: Sequence[Path], request: FitRequest, outcomes: Sequence[_Outcome], run: Run) -> MatrixResult:
    fits = tuple(outcome for outcome in outcomes if isinstance(outcome, FitResult))
    rows = tuple(_row(model, outcome) for model, outcome in zip(models, outcomes, strict=True))
    devices = tuple(target.profile.name for target in request.targets)
    best = () if request.plan_only else tuple(best_of(fits, device) for device in devices)
    notes = (_OWN_FLOAT_SCORE,) if any(item.higher_score for item in best) and not _has_least_score(request) else ()
    fit_all = all(row.status == "fits" for row in rows)
    return MatrixResult(
        status="planned" if request.plan_only else "fits" if fit_all else "no_fit",
        run=None if request.store is None else run.name,
        metric=fits[0].metric if fits else request.metric,
        devices=devices,
        rows=rows,
        best=best,
        fits=fits,
        notes=notes,
        seed=request.seed,
        seconds=round(run.elapsed_s(), 2),
    )


def _row(model: Path, outcome: _Outcome) -> Row:
    if isinstance(outcome, FitResult):
        return row_of(outcome)
    return Row(model=str(model), status="failed", reason=str(outcome))


def _has_least_score(request: FitRequest) -> bool:
    return all(target.budget.min_accuracy is not None for target in request.targets)
