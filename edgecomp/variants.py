"""Compressed forms of a model, made by a recipe: the steps that run in the TensorFlow worker."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecomp.compress import Compressed, Context, Footprint, technique
from edgecomp.compress._traits import device_traits
from edgecomp.data import BoundDataset, DataOptions, Dataset, prepare_unlabelled
from edgecomp.diary import Done, StepReport, save_keras
from edgecomp.executors._child import report_progress
from edgecomp.files import sha256_of_path, write_atomic
from edgecomp.profile import DeviceProfile
from edgecomp.recipe import Recipe
from edgecomp.stages import Workbench
from edgecomp.training.settings import TrainingSettings

if TYPE_CHECKING:
    from edgecomp.training.samples import TrainingData


@dataclass(frozen=True)
class Variant:
    """A compressed model on disk.

    Attributes:
        bench: The workbench whose float model it is.
        keras_path: The tf_keras model, .h5.
        int8_path: The int8 .tflite with learned ranges, where the recipe ends with quantization-aware training.
        steps: One report a step.
        step_names: Their folders in `VariantRequest.steps`.
    """

    bench: Workbench
    keras_path: Path
    int8_path: Path | None
    steps: tuple[StepReport, ...]
    step_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class VariantRequest:
    """What to make.

    Attributes:
        source: The model as the user gave it.
        recipe: Steps in order.
        settings: How to fine-tune.
        profile: The device, or None.
        preview: Train nothing.
        unlabelled: More inputs for the teacher; its train split is used.
        steps: Folder in which every step leaves what it has done, for the next run to go on from; None: nothing.
    """

    source: Path
    trust_code: bool
    recipe: Recipe
    settings: TrainingSettings
    profile: DeviceProfile | None = None
    preview: bool = False
    unlabelled: DataOptions | None = None
    steps: Path | None = None


def make_variant(bench: Workbench, request: VariantRequest) -> Variant:
    """Apply a recipe, step by step; every step starts from what the one before it made.

    Raises:
        ModelError: The model cannot be trained.
        CompressionError: A technique finds nothing to change.
        TrainingError, MissingDataError: See `training.loop`.
    """
    from edgecomp.load import from_tf_keras

    original = _original(request.source, request.trust_code)
    data, data_key = _data(bench, request.unlabelled)
    # One recipe has several forms: not trained, trained for a few epochs or in full, and for devices that differ.
    step_names = _step_names(request, data_key)
    form = hashlib.sha256(json.dumps([step_names, request.preview]).encode()).hexdigest()[:8]
    variant = f"{request.recipe.slug}-{form}"
    named = Workbench(bench.folder, bench.metric, bench.seed, bench.inputs, bench.outputs, variant=variant)
    folder = named.variant_folder
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(
        data=data,
        settings=request.settings,
        teacher=original if request.settings.distill_weight > 0 else None,
        profile=request.profile,
        report=report_progress,
    )
    model, int8, reports = original, None, []
    names = () if request.preview or request.steps is None else step_names
    for number, step in enumerate(request.recipe.steps):
        own = _step_folder(request.steps, names, number)
        done = None if own is None else Done.load(own, trust_code=request.trust_code)
        if done is None:
            report, made = _run_step(step, model, replace(context, folder=own), preview=request.preview)
            done = Done(made.model, made.int8, report)
            if own is not None:
                # What goes on is what would be read again, so that a run that was interrupted ends like any other.
                done = done.save(own, trust_code=request.trust_code)
        reports.append(done.report)
        model, int8 = done.model, done.int8
    from edgecomp.convert import to_tflite

    write_atomic(named.float_model, to_tflite(from_tf_keras(model), where="The compressed model"))
    keras_path = folder / "model.h5"
    save_keras(model, keras_path)
    int8_path = None
    if int8 is not None:
        int8_path = folder / "int8.tflite"
        write_atomic(int8_path, int8)
    return Variant(named, keras_path, int8_path, tuple(reports), names)


def _run_step(step: Any, model: Any, context: Context, *, preview: bool) -> tuple[StepReport, Compressed]:
    from edgecomp.compress._footprint import footprint
    from edgecomp.keras_graph import flatten

    started = time.monotonic()
    tool = technique(step.technique)
    before = footprint(flatten(model), context.profile)
    made = (tool.preview if preview else tool.apply)(model, step.options, context)
    history = made.history
    return StepReport(
        step=str(step),
        technique=step.technique,
        before=before,
        after=footprint(made.model, context.profile),
        changes=made.changes,
        skipped=made.skipped,
        notes=made.notes,
        epochs=None if history is None else history.epochs,
        best_epoch=None if history is None else history.best_epoch + 1,
        start_loss=None if history is None else history.start_loss,
        validation_losses=() if history is None else history.validation_losses,
        train_seconds=None if history is None else history.seconds,
        seconds=round(time.monotonic() - started, 2),
        resumed_epochs=0 if history is None else history.resumed_at,
    ), made


@functools.lru_cache(maxsize=1)
def _data(bench: Workbench, unlabelled: DataOptions | None) -> tuple[TrainingData, str]:
    """The samples, and a digest of them."""
    from edgecomp.training.samples import training_data

    bound = Dataset.open(bench.data).bind(bench.inputs, bench.outputs)
    extra = None if unlabelled is None else _unlabelled(bench, unlabelled)
    key = bound.dataset.sha256 + ("" if extra is None else extra.dataset.sha256)
    return training_data(bound, extra), key


def _unlabelled(bench: Workbench, options: DataOptions) -> BoundDataset:
    folder = bench.folder / "unlabelled"
    if not (folder / "dataset.json").exists():
        prepare_unlabelled(options, folder, lambda what, done, total: report_progress(what, done, total or 0))
    return Dataset.open(folder).bind(bench.inputs, bench.outputs)


def _step_folder(root: Path | None, names: tuple[str, ...], number: int) -> Path | None:
    if root is None or not names:
        return None
    folder = root / names[number]
    folder.mkdir(parents=True, exist_ok=True)
    folder.touch()  # In use: a collection of the store goes by it.
    return folder


def _step_names(request: VariantRequest, data_key: str) -> tuple[str, ...]:
    """A name for every step, with a digest of all that its result depends on: recipes share their first steps."""
    parts: list[Any] = [
        sha256_of_path(request.source),
        data_key,
        asdict(request.settings),
        [version(name) for name in ("edgecomp", "tensorflow", "tf-keras", "numpy")],
    ]
    names = []
    for step in request.recipe.steps:
        parts.append([step.technique, step.options.model_dump(), device_traits(step.technique, request.profile)])
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        names.append(f"{step.technique.replace('_', '-')}-{digest}")
    return tuple(names)


@functools.lru_cache(maxsize=1)
def _original(source: Path, trust_code: bool) -> Any:
    from edgecomp.load import load_trainable

    return load_trainable(str(source), trust_code=trust_code)


def weigh(source: Path, trust_code: bool, profile: DeviceProfile, recipe: Recipe | None) -> Footprint:
    """What the model weighs, as it is or by arithmetic after a recipe. Several steps count as if they were independent.

    Raises:
        CompressionError: A technique finds nothing to do, or not as much as asked for.
    """
    from edgecomp.compress._footprint import footprint
    from edgecomp.keras_graph import flatten

    model = _original(source, trust_code)
    before = footprint(flatten(model), profile)
    weighs = asdict(before)
    for step in () if recipe is None else recipe.steps:
        after = asdict(technique(step.technique).estimate(model, step.options, profile))
        weighs = {name: round(value * after[name] / getattr(before, name)) for name, value in weighs.items()}
    return Footprint(**weighs)


def seconds_per_epoch(
    bench: Workbench, source: Path, trust_code: bool, settings: TrainingSettings, unlabelled: DataOptions | None
) -> float:
    """How long an epoch of plain fine-tuning takes, measured on a few steps."""
    from edgecomp.keras_graph import flatten
    from edgecomp.training.loop import FineTuning, Run

    original = _original(source, trust_code)
    data, _ = _data(bench, unlabelled)
    job = FineTuning(data, settings, original if settings.distill_weight > 0 else None)
    run = Run(job, flatten(original), data.require_train("training"), "timing", {})
    return run.seconds_per_epoch()
