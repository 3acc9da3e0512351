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

from edgecomp.compress import Compressed, Context, technique
from edgecomp.data import BoundDataset, DataOptions, Dataset, prepare_unlabelled
from edgecomp.diary import Diary, Done, StepReport, save_keras
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
    """

    bench: Workbench
    keras_path: Path
    int8_path: Path | None
    steps: tuple[StepReport, ...]


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
        unfinished: Folder in which a killed run leaves what it has done, for the next one to go on from; None: nothing.
    """

    source: Path
    trust_code: bool
    recipe: Recipe
    settings: TrainingSettings
    profile: DeviceProfile | None = None
    preview: bool = False
    unlabelled: DataOptions | None = None
    unfinished: Path | None = None


def make_variant(bench: Workbench, request: VariantRequest) -> Variant:
    """Apply a recipe, step by step; every step starts from what the one before it made.

    Raises:
        ModelError: The model cannot be trained.
        CompressionError: A technique finds nothing to change.
        TrainingError, MissingDataError: See `training.loop`.
    """
    from edgecomp.load import from_tf_keras, load_trainable

    original = load_trainable(str(request.source), trust_code=request.trust_code)
    named = Workbench(bench.folder, bench.metric, bench.seed, bench.inputs, bench.outputs, variant=request.recipe.slug)
    folder = named.variant_folder
    folder.mkdir(parents=True, exist_ok=True)
    data, data_key = _data(bench, request.unlabelled)
    context = Context(
        data=data,
        settings=request.settings,
        teacher=original if request.settings.distill_weight > 0 else None,
        profile=request.profile,
        report=report_progress,
    )
    model, int8, reports = original, None, []
    diary = (
        None if request.preview or request.unfinished is None else Diary(request.unfinished, _key(request, data_key))
    )
    for number, step in enumerate(request.recipe.steps):
        own = None if diary is None else diary.folder(number, step.technique)
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
    return Variant(named, keras_path, int8_path, tuple(reports))


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


def _key(request: VariantRequest, data_key: str) -> str:
    """Digest of all that the result depends on: what another run has left must not be taken up."""
    parts = [
        sha256_of_path(request.source),
        data_key,
        request.recipe.slug,
        asdict(request.settings),
        None if request.profile is None else request.profile.text,
        [version(name) for name in ("edgecomp", "tensorflow", "tf-keras", "numpy")],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
