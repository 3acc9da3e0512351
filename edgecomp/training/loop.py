"""The fine-tuning loop that every technique shares: teacher, projections, early stop, best weights, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from edgecomp.errors import TrainingError, UsageError
from edgecomp.executors.local import Progress, silent
from edgecomp.training.checkpoint import Checkpoint, fingerprint
from edgecomp.training.features import call_flat, feature_models, features_loss
from edgecomp.training.latent import Latent, step_factor
from edgecomp.training.projection import Projection
from edgecomp.training.samples import Samples, TrainingData, augment
from edgecomp.training.seeds import epoch_order, make_deterministic, start_epoch
from edgecomp.training.settings import TrainingSettings
from edgecomp.training.task import make_task

_EVALUATION_BATCH = 256
_REPORTED_STEPS = 20
_WARM_UP_STEPS, _TIMED_STEPS = 2, 10


@dataclass(frozen=True)
class History:
    """What one run of fine-tuning did.

    Attributes:
        losses: Mean training loss of every epoch.
        validation_losses: The same loss on the validation samples.
        start_loss: The same before the first epoch; None if it was no number.
        best_epoch: Whose weights the model has, from 0; -1: those that it began with, for no epoch was better.
        seconds: Of training, measured on this machine, over all resumed parts.
        resumed_at: Epochs that an earlier, interrupted run had done.
    """

    losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    start_loss: float | None
    best_epoch: int
    seconds: float
    resumed_at: int = 0

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.losses)


@dataclass(frozen=True)
class FineTuning:
    """One run, made ready.

    Attributes:
        data: Samples to learn from.
        settings: How.
        teacher: A tf_keras model with the same inputs and outputs, or None.
        checkpoint: File that an interrupted run is taken up from; removed at the end. None: start over.
        report: Called with (what, done, total).
    """

    data: TrainingData
    settings: TrainingSettings
    teacher: Any = None
    checkpoint: Path | None = None
    report: Progress = silent

    def run(self, model: Any, technique: str, projections: Mapping[int, Projection] | None = None) -> History:
        """Train a model in place; it ends up with the weights that had the lowest validation loss.

        Those that it began with count, too: a few epochs at a high rate can leave a repaired network worse than it was.

        Args:
            model: A tf_keras model.
            technique: For messages and progress.
            projections: id of a variable of the model -> what it must look like. Afterwards the variable holds the
                projected weights.

        Raises:
            MissingDataError: There are no training samples.
            TrainingError: The loss is no longer a number, or the teacher does not fit the model.
        """
        samples = self.data.require_train(technique)
        make_deterministic(self.settings.seed)
        frozen = _freeze_batch_norm(model) if self.settings.freeze_batch_norm else []
        try:
            return Run(self, model, samples, technique, projections or {}).train()
        finally:
            for layer in frozen:
                layer.trainable = True


def _freeze_batch_norm(model: Any) -> list[Any]:
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, tf_keras.layers.BatchNormalization) and layer.trainable
    ]
    for layer in layers:
        layer.trainable = False
    return layers


class Run:
    """The state of a run while it goes on."""

    def __init__(
        self,
        job: FineTuning,
        model: Any,
        samples: Samples,
        technique: str,
        projections: Mapping[int, Projection],
    ) -> None:
        self.job, self.model, self.samples, self.technique = job, model, samples, technique
        settings = job.settings
        _require_augmentable(settings, samples)
        self.task = make_task(model, samples, settings)
        self.teacher = job.teacher if settings.distill_weight > 0 else None
        if self.teacher is None and self.task.supervised is None:
            raise TrainingError(
                f"{technique} has nothing to learn from: there are no labels and no teacher.",
                hint="Add labels, or leave --distill-weight above 0.",
            )
        _require_same_outputs(model, self.teacher)
        self.features = feature_models(model, self.teacher, settings.feature_layers)
        self.latents = [
            Latent(variable, projections.get(id(variable)))
            for variable in model.trainable_variables
            if id(variable) in projections or step_factor(variable) < 1
        ]
        latent = {id(item.variable): item.stored for item in self.latents}
        self.trained = [latent.get(id(variable), variable) for variable in model.trainable_variables]
        self.steps = math.ceil(samples.count / settings.batch_size)
        rate = tf_keras.optimizers.schedules.CosineDecay(
            settings.learning_rate, self.steps * settings.epochs, alpha=0.01
        )
        self.optimizer = tf_keras.optimizers.Adam(rate)
        self.optimizer.build(self.trained)
        self.targets = self._targets(samples) if self.teacher is not None and not settings.augment else None
        self.step = tf.function(self._step, autograph=False, reduce_retracing=True)
        self.judge = tf.function(self._judge, autograph=False, reduce_retracing=True)

    def train(self) -> History:
        """Epoch by epoch; see `FineTuning.run`."""
        settings = self.job.settings
        losses: list[float] = []
        best: tuple[int, list[np.ndarray]] | None = None  # Place among the validation losses, weights.
        store = Checkpoint(self.job.checkpoint, fingerprint(self.technique, self.model, self.samples, settings))
        seconds = 0.0
        if (saved := store.load()) is not None:
            losses, validation, seconds = saved.losses, saved.validation_losses, saved.seconds
            best = None if saved.best_place is None else (saved.best_place, saved.best)
            self._restore(saved.arrays)
        else:
            validation = [self._start_loss()]
            best = self._better(-1, validation, None)
        resumed_at = len(losses)
        # A run that was stopped between its last epoch and its end has nothing left to do.
        for epoch in range(resumed_at, settings.epochs):
            started = time.monotonic()
            losses.append(self.train_epoch(epoch))
            validation.append(self.validate(epoch))
            best = self._better(epoch, validation, best)
            seconds += time.monotonic() - started
            store.save(self._arrays(), losses, validation, best, seconds)
            if settings.patience is not None and best is not None and len(losses) - best[0] >= settings.patience:
                break
        if best is None:
            raise TrainingError(f"{self.technique}: no epoch reached its final form.", hint="Train for more epochs.")
        for variable, values in zip(self.model.variables, best[1], strict=True):
            variable.assign(values)
        store.remove()
        start = validation[0] if math.isfinite(validation[0]) else None
        return History(tuple(losses), tuple(validation[1:]), start, best[0] - 1, round(seconds, 2), resumed_at)

    def _start_loss(self) -> float:
        """On the validation samples; infinite where it is no number: the first epoch will tell."""
        loss = self._validation_loss()
        return loss if math.isfinite(loss) else math.inf

    def _better(
        self, epoch: int, validation: list[float], best: tuple[int, list[np.ndarray]] | None
    ) -> tuple[int, list[np.ndarray]] | None:
        """The weights as they are, if they have their final form and the lowest loss so far; else the best before."""
        final = all(item.is_final(epoch, self.job.settings.epochs) for item in self._projections())
        if not final or math.isinf(validation[-1]) or (best is not None and validation[-1] >= validation[best[0]]):
            return best
        return len(validation) - 1, [variable.numpy() for variable in self.model.variables]

    def train_epoch(self, epoch: int) -> float:
        """One pass over the training samples; returns their mean loss. Raises TrainingError where it is no number."""
        settings = self.job.settings
        for item in self.latents:
            if item.projection is not None:
                item.projection.start_epoch(epoch, settings.epochs, item.value())
        start_epoch(self.model, settings.seed, epoch)
        order = epoch_order(self.samples.count, settings.seed, epoch)
        total = tf.zeros(())
        done = 0
        for inputs, labels, positions in self.samples.batches(settings.batch_size, order):
            targets = () if self.targets is None else tuple(tf.gather(item, positions) for item in self.targets)
            seed = tf.constant([settings.seed * 100_003 + epoch, done], tf.int32)
            total += self.step(inputs, labels, positions, targets, seed)
            done += 1
            if done % max(1, self.steps // _REPORTED_STEPS) == 0:
                self.job.report(f"{self.technique}: training", epoch * self.steps + done, settings.epochs * self.steps)
        loss = float(total) / done
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.technique}: the loss is {loss:g} in epoch {epoch + 1} of {settings.epochs}.",
                hint=f"Lower --learning-rate (it is {settings.learning_rate:g}), or look for NaN in the data.",
            )
        return loss

    def seconds_per_epoch(self) -> float:
        """Measured on a few steps, which move the weights: for a model that is thrown away afterwards."""
        settings = self.job.settings
        batches = iter(self.samples.batches(settings.batch_size))
        seed, started, done = tf.zeros(2, tf.int32), 0.0, 0
        for done, (inputs, labels, positions) in enumerate(batches):
            if done == _WARM_UP_STEPS:
                started = time.monotonic()
            elif done > _WARM_UP_STEPS + _TIMED_STEPS:
                break
            targets = () if self.targets is None else tuple(tf.gather(item, positions) for item in self.targets)
            self.step(inputs, labels, positions, targets, seed)
        timed = max(done - _WARM_UP_STEPS, 1)
        return self.steps * (time.monotonic() - started) / timed if started else 1.0

    def _step(self, inputs: Any, labels: Any, positions: Any, targets: Any, seed: Any) -> Any:
        settings = self.job.settings
        inputs = augment(inputs, settings.augment, seed)
        wanted, wanted_features = self._ask_teacher(inputs, targets)
        for item in self.latents:
            item.project()
        with tf.GradientTape() as tape:
            outputs, features = self._outputs(inputs, training=True)
            loss = tf.reduce_mean(self._loss(inputs, labels, positions, outputs, wanted))
            loss += features_loss(features, wanted_features, settings)
            if self.model.losses:
                loss += tf.add_n(self.model.losses)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        pairs = [(grad, to) for grad, to in zip(gradients, self.trained, strict=True) if grad is not None]
        self.optimizer.apply_gradients(pairs)
        return loss

    def _loss(self, inputs: Any, labels: Any, positions: Any, outputs: Any, wanted: Any) -> Any:
        """Loss of every sample, shape (n,)."""
        settings, task = self.job.settings, self.task
        loss = tf.zeros(tf.shape(positions), tf.float32)
        taught = None if self.teacher is None else task.distillation(outputs, wanted, settings.temperature)
        if task.supervised is None:
            return taught
        supervised = task.supervised(inputs, labels, outputs)
        if taught is None:
            return supervised
        share = settings.distill_weight
        loss = share * taught + (1 - share) * supervised
        if self.samples.labelled < self.samples.count and self.samples.labels:
            loss = tf.where(positions < self.samples.labelled, loss, taught)
        return loss

    def _outputs(self, inputs: Any, *, training: bool) -> tuple[list[Any], list[Any]]:
        model = self.model if self.features is None else self.features[0]
        made = call_flat(model, inputs, training=training)
        count = len(self.model.outputs)
        return made[:count], made[count:]

    def _ask_teacher(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        if self.teacher is None:
            return (), ()
        if targets and self.features is None:
            return targets, ()
        made = call_flat(self.teacher if self.features is None else self.features[1], inputs, training=False)
        count = len(self.model.outputs)
        return made[:count], made[count:]

    def _targets(self, samples: Samples) -> list[Any]:
        """The teacher's answers to all samples, computed once: without augmentation they never change."""
        parts: list[list[Any]] = []
        ask = tf.function(lambda inputs: call_flat(self.teacher, inputs, training=False), autograph=False)
        for inputs, _, positions in samples.batches(_EVALUATION_BATCH):
            parts.append(ask(inputs))
            self.job.report(f"{self.technique}: asking the teacher", int(positions[-1]) + 1, samples.count)
        return [tf.concat(column, axis=0) for column in zip(*parts, strict=True)]

    def _judge(self, inputs: Any, labels: Any, positions: Any) -> Any:
        outputs, _ = self._outputs(inputs, training=False)
        wanted = () if self.teacher is None else call_flat(self.teacher, inputs, training=False)
        return tf.reduce_sum(self._loss(inputs, labels, positions, outputs, wanted))

    def validate(self, epoch: int) -> float:
        """Mean loss on the validation samples. Raises TrainingError where it is no number."""
        loss = self._validation_loss()
        if not math.isfinite(loss):
            raise TrainingError(f"{self.technique}: the validation loss is {loss:g} after epoch {epoch + 1}.")
        return loss

    def _validation_loss(self) -> float:
        for item in self.latents:
            item.project()
        total, validation = 0.0, self.job.data.validation
        if self.task.supervised is not None and self.samples.labels and not validation.labels:
            raise TrainingError("The validation samples have no labels, the training samples do.")
        for inputs, labels, positions in validation.batches(_EVALUATION_BATCH):
            # Validation samples all count as labelled ones.
            total += float(self.judge(inputs, labels, tf.zeros_like(positions)))
        return total / validation.count

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *(item.stored for item in self.latents), *self.optimizer.variables]

    def _projections(self) -> list[Projection]:
        return [item.projection for item in self.latents if item.projection is not None]

    def _arrays(self) -> list[np.ndarray]:
        states = [array for projection in self._projections() for array in projection.state()]
        return [variable.numpy() for variable in self._variables()] + states

    def _restore(self, arrays: list[np.ndarray]) -> None:
        variables = self._variables()
        for variable, values in zip(variables, arrays, strict=False):
            variable.assign(values)
        rest = arrays[len(variables) :]
        for projection in self._projections():
            count = len(projection.state())
            projection.restore(rest[:count])
            rest = rest[count:]


def _require_same_outputs(model: Any, teacher: Any) -> None:
    if teacher is None:
        return
    own, its = ([tuple(t.shape[1:]) for t in item.outputs] for item in (model, teacher))
    if own != its:
        raise TrainingError(f"The teacher's outputs have the shapes {its}, the student's {own}: they must be equal.")


def _require_augmentable(settings: TrainingSettings, samples: Samples) -> None:
    moved = [name for name in settings.augment if name in ("flip", "shift")]
    for name, item in samples.labels.items():
        if moved and item.values.ndim > 2:
            raise UsageError(
                f"--augment {moved[0]} moves the inputs, but the labels of {name!r} have places (shape "
                f"{item.values.shape[1:]} a sample) and would stay where they are.",
                hint="Use --augment noise, or none.",
            )
