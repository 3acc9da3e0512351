"""The order of a fit: profile -> model + data -> check -> plan -> candidates -> validate -> bundle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from edgecomp.candidates import Shop, Target, accuracy_of, evaluate
from edgecomp.data import DataOptions
from edgecomp.delivery import describe_limits, versions
from edgecomp.device_fit import DeviceFit, resolved
from edgecomp.errors import DataError, ModelError, UsageError
from edgecomp.executors.local import Progress, silent
from edgecomp.inference import KernelFamily
from edgecomp.intake import Imported, take_in
from edgecomp.means import Means, digest
from edgecomp.metrics import looks_memorised
from edgecomp.model import identify
from edgecomp.objective import Objective
from edgecomp.planner.thorough import require_optuna
from edgecomp.profile import Precision
from edgecomp.quantize import Io
from edgecomp.recipe import Recipe
from edgecomp.results import DeviceResult, FitResult, FloatModel, ModelSummary
from edgecomp.scoring import Comparison
from edgecomp.stages import MadeFile
from edgecomp.store import Run, Store
from edgecomp.training.settings import TrainingSettings

_STAGES = "edgecomp.stages:"
_NO_LABELS = (
    "There are no labels: the accuracy limit holds the share of answers that change (accuracy cannot fall by more); "
    "for outputs that are no classes it holds the noise in them (1pp is an SNR of 20 dB)."
)


Effort = Literal["quick", "standard", "thorough"]


@dataclass(frozen=True)
class Replay:
    """What an earlier fit has chosen, to be tried first.

    Attributes:
        precision: Of its file; without a recipe the name of the candidate, as "INT8 repaired".
        recipe: How the model was compressed; None: it was quantized only.
    """

    precision: str
    recipe: Recipe | None


@dataclass(frozen=True)
class FitRequest:
    """What the user asks for.

    Attributes:
        model: Path of the model.
        targets: The devices, each with its limits.
        precisions: Asked for; empty for each profile's own order.
        metric: "accuracy", "top5", "auc", "mse", "mae" or "module:function".
        confident: The bound of the interval decides the accuracy limit, not the point estimate.
        out: Folder of the bundles.
        minimize: What the best candidate has least of; None: nobody said.
        effort: "quick": post-training only; "standard": a ladder of trained candidates; "thorough": Optuna on top.
        time_limit_s: No training is begun that would end later; None: no limit.
        settings: How to fine-tune.
        unlabelled: More inputs for the teacher.
        store: Folder that keeps what is made; None: nothing is kept.
        resume: Go on with the interrupted run of this very request.
        jobs: Trainings at the same time.
        plan_only: Train nothing and ship nothing: say what would be tried.
        replay: Tried first; a search follows only if it breaks a limit.
        part_of: Name of the run of several models that this is one of; None: it stands alone.
    """

    model: Path
    data: DataOptions
    targets: tuple[Target, ...]
    out: Path
    metric: str = "accuracy"
    precisions: tuple[Precision, ...] = ()
    confident: bool = False
    trust_code: bool = False
    custom_objects: str | None = None
    seed: int = 0
    minimize: Objective | None = None
    effort: Effort = "quick"
    time_limit_s: float | None = None
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    unlabelled: DataOptions | None = None
    store: Path | None = None
    resume: bool = False
    jobs: int = 1
    plan_only: bool = False
    replay: Replay | None = None
    part_of: str | None = None


def fit(request: FitRequest, *, progress: Progress | None = None) -> FitResult:
    """Fit a model to every device and write a bundle for each that fits.

    Raises:
        EdgecompError: The model or the data cannot be used, or nothing can be written; the store keeps what was made.
    """
    report = progress or silent
    if request.effort == "thorough":
        require_optuna()
    with ExitStack() as stack:
        identify(request.model, trust_code=request.trust_code, custom_objects=request.custom_objects)
        folder = request.store or Path(stack.enter_context(TemporaryDirectory(prefix="edgecomp-store-")))
        store = stack.enter_context(Store.open(folder))
        asked, key = describe_request(request), request_key(request)
        run = begin_run(store, asked, key, request.model.stem, resume=request.resume)
        try:
            result = _fit(request, stack, store, run, report)
        except (UsageError, ModelError, DataError):
            run.finish("failed", None)
            raise
        except BaseException:
            # Whatever came in between: what is done is done, and --resume goes on.
            run.finish("interrupted", None)
            raise
        run.finish("done", result.to_json())
        return result


def describe_request(request: FitRequest) -> dict[str, Any]:
    """What was asked for, as plain values for the journal."""
    return {
        "model": str(request.model),
        "data": request.data.source,
        "devices": [target.profile.name for target in request.targets],
        "limits": {target.profile.name: describe_limits(target.budget) for target in request.targets},
        "minimize": request.minimize,
        "effort": request.effort,
        "time_limit_s": request.time_limit_s,
        "seed": request.seed,
        "plan_only": request.plan_only,
        "part_of": request.part_of,
    }


def request_key(request: FitRequest) -> str:
    """Digest of all that the result depends on, but for the contents of model and data."""
    targets = [[target.profile.text, asdict(target.budget), target.io] for target in request.targets]
    return digest(
        str(request.model.resolve()), asdict(request.data), targets, request.metric, request.precisions,
        request.confident, request.seed, request.minimize, request.effort, asdict(request.settings),
        str(request.unlabelled), request.plan_only, str(request.replay), request.part_of,
    )  # fmt: skip


def begin_run(store: Store, asked: dict[str, Any], key: str, label: str, *, resume: bool) -> Run:
    """A new run, or the interrupted one of the same request.

    Args:
        store: Where.
        asked: See `describe_request`.
        key: See `request_key`.
        label: A word for people.
        resume: Go on with the interrupted one.

    Raises:
        UsageError: There is none to go on with.
    """
    if not resume:
        return store.begin_run(asked, key, label)
    run = store.unfinished_run(key)
    if run is None:
        raise UsageError(
            f"--resume: the store {store.folder} has no interrupted run of this very command.",
            hint="`edgecomp runs list` shows what it has; a new run, too, takes over all finished work.",
        )
    run.resume()
    return run


def _fit(request: FitRequest, stack: ExitStack, store: Store, run: Run, report: Progress) -> FitResult:
    means = prepare(request, stack, store, run, report)
    shop, imported = means.shop, means.imported
    kernels = KernelFamily.LITERT_XNNPACK
    validation = evaluate(shop, imported.bench.float_model, kernels, "validation")
    test = evaluate(shop, imported.bench.float_model, kernels, "test")
    memorised = _memorised(imported, validation, test)
    flattery = 0.0
    if memorised is not None and validation.score is not None and test.score is not None:
        flattery = validation.score.value - test.score.value
    score = None if validation.score is None else validation.score.value
    targets = resolved(request, imported, flattery)
    devices = tuple(DeviceFit(request, imported, means, target, score).run() for target in targets)
    return _result(request, imported, devices, run, (validation, test), memorised)


def _memorised(imported: Imported, validation: Comparison, test: Comparison) -> str | None:
    """Whether the float model has learned the validation samples by heart, as a sentence."""
    if validation.score is None or test.score is None:
        return None
    return looks_memorised(
        validation.score,
        test.score,
        higher_is_better=imported.facts.metric_higher_is_better,
        is_ratio=imported.facts.metric_is_ratio,
    )


def prepare(request: FitRequest, stack: ExitStack, store: Store, run: Run, report: Progress) -> Means:
    """What all devices of a fit share: the imported model and data, workers, store. Raises as `fit`."""

    def beat(what: str, done: int, total: int) -> None:
        run.beat()
        report(what, done, total)

    imported = take_in(stack, request, [target.profile for target in request.targets], beat, request.jobs)
    shop = Shop(
        bench=imported.bench,
        quantizing=imported.workers.quantizing,
        micro=imported.workers.micro,
        metric_is_ratio=imported.facts.metric_is_ratio,
        confident=request.confident,
        progress=beat,
        convert=_converter(request, imported),
    )
    return Means(
        source=request.model.resolve(),
        trust_code=request.trust_code,
        imported=imported,
        shop=shop,
        store=store,
        run=run,
        trainers=(imported.workers.training, *imported.workers.more_training),
        settings=request.settings,
        profiles=[target.profile for target in request.targets],
        unlabelled=request.unlabelled,
        deadline_s=request.time_limit_s,
    )


def _converter(request: FitRequest, imported: Imported) -> Callable[[Io], MadeFile]:
    """TensorFlow's own INT8 road, for graphs that ai-edge-quantizer refuses."""

    def convert(io: Io) -> MadeFile:
        made: MadeFile = imported.workers.training.call(
            _STAGES + "make_candidate_with_converter",
            bench=imported.bench,
            source=request.model.resolve(),
            trust_code=request.trust_code,
            io=io,
        )
        return made

    return convert


def _result(
    request: FitRequest,
    imported: Imported,
    devices: tuple[DeviceResult, ...],
    run: Run,
    scores: tuple[Comparison, Comparison],
    memorised: str | None,
) -> FitResult:
    kernels = KernelFamily.LITERT_XNNPACK
    validation, test = scores
    notes = imported.facts.notes
    if not imported.facts.has_labels:
        notes += (_NO_LABELS,)
    notes += () if memorised is None else (memorised,)
    return FitResult(
        status=_status(request, devices),
        model=ModelSummary(
            path=str(request.model),
            kind=imported.info.kind,
            sha256=imported.info.sha256,
            is_trainable=imported.info.is_trainable,
            rebuild_max_difference=imported.info.rebuild_max_difference,
            notes=imported.info.notes,
        ),
        data=imported.data | {"calibration": imported.facts.calibration_lint},
        metric=imported.facts.metric_name,
        float_model=FloatModel(
            model_bytes=imported.graph.file_bytes,
            macs=imported.graph.macs,
            accuracy=accuracy_of(test.score, test.samples, "test", kernels),
            validation_accuracy=accuracy_of(validation.score, validation.samples, "validation", kernels),
        ),
        devices=devices,
        notes=notes,
        seed=request.seed,
        versions=versions(),
        run=None if request.store is None else run.name,
        seconds=round(run.elapsed_s(), 2),
    )


def _status(request: FitRequest, devices: tuple[DeviceResult, ...]) -> Literal["fits", "no_fit", "planned"]:
    if request.plan_only:
        return "planned"
    return "fits" if all(device.status == "fits" for device in devices) else "no_fit"
