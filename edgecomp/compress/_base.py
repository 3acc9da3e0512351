"""What a compression technique is.

A technique is one module of this package; its name is the file's. It imports nothing heavy at its top: the command
line reads its options. It has

    SUMMARY: str                                      one line
    class Options(TechniqueOptions)                   its strengths, each a field with a description
    preview(model, options, context) -> Compressed    at once, without training
    apply(model, options, context) -> Compressed      with fine-tuning
    estimate(model, options, profile) -> Footprint    arithmetic only: what `preview` would weigh

Model goes in, a new plain tf_keras model comes out; the one given is left as it is. What an earlier technique has
made of the weights is seen in the weights: zeros stay zero, and channels with few values keep as few (`_weights.py`
says what counts as either). All three functions run in the TensorFlow worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict

from edgecomp.executors.local import Progress, silent
from edgecomp.profile import DeviceProfile
from edgecomp.training.settings import TrainingSettings

if TYPE_CHECKING:
    from edgecomp.training.loop import History
    from edgecomp.training.projection import Projection
    from edgecomp.training.samples import TrainingData

ORDER = ("distill", "low_rank", "structured_prune", "prune", "cluster", "qat")
"""Techniques compose in this order: each keeps what those before it have made."""


class TechniqueOptions(BaseModel):
    """Base of every technique's options. A field becomes an option of `edgecomp compress`: `num_x` is `--num-x`.

    Names of fields are unique over all techniques, so that a recipe of several needs no prefixes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Context:
    """What a technique works with, beside the model.

    Attributes:
        data: Samples; its `train` is None where the user gave no training data.
        settings: How to fine-tune.
        teacher: The model before any compression, or None.
        profile: The device, or None: then nothing is left out or rounded for a device.
        folder: For checkpoints.
        report: Called with (what, done, total).
    """

    data: TrainingData
    settings: TrainingSettings
    teacher: Any = None
    profile: DeviceProfile | None = None
    folder: Path | None = None
    report: Progress = silent

    def fine_tune(
        self, model: Any, technique: str, projections: Mapping[int, Projection] | None = None, *, teacher: Any = None
    ) -> History:
        """Train a model in place; see `training.loop.FineTuning.run`.

        Args:
            model: A tf_keras model.
            technique: Also names the file that a killed run is taken up from.
            projections: id of a variable -> what it must look like.
            teacher: In place of the one of this context.
        """
        from edgecomp.training.loop import FineTuning

        checkpoint = None if self.folder is None else self.folder / f"{technique}.npz"
        chosen = self.teacher if teacher is None else teacher
        return FineTuning(self.data, self.settings, chosen, checkpoint, self.report).run(model, technique, projections)


@dataclass(frozen=True)
class LayerChange:
    """What was done to one layer, in words with numbers: "64 -> 40 channels"."""

    layer: str
    change: str


@dataclass(frozen=True)
class Skipped:
    """A layer that stayed as it was, and why, in one clause."""

    layer: str
    reason: str


@dataclass(frozen=True)
class Compressed:
    """What a technique made.

    Attributes:
        model: A plain tf_keras model with the inputs and outputs of the one given.
        changes, skipped: By layer, in the order of the model.
        history: Of the fine-tuning; None for a preview.
        notes: Sentences for the report.
        int8: Set by quantization-aware training alone: the finished int8 .tflite, whose ranges were learned.
    """

    model: Any
    changes: tuple[LayerChange, ...]
    skipped: tuple[Skipped, ...] = ()
    history: History | None = None
    notes: tuple[str, ...] = ()
    int8: bytes | None = None


@dataclass(frozen=True)
class Footprint:
    """What a model weighs, by arithmetic over its layers.

    Attributes:
        parameters: Trainable and constant weights that ship (batch normalization folded into what is before it).
        nonzero: Kernel weights that are not zero, biases included.
        macs: Multiply-accumulates of one inference.
        weight_bytes: Of the kernels at 8 bits, or with fewer bits where the device's runtime stores them so, and of
            biases at 32 bits.
    """

    parameters: int
    nonzero: int
    macs: int
    weight_bytes: int


class Technique(Protocol):
    """A module of this package, as the type checker sees it."""

    SUMMARY: str
    Options: type[TechniqueOptions]

    def preview(self, model: Any, options: Any, context: Context) -> Compressed:
        """Apply at once, without training."""
        ...

    def apply(self, model: Any, options: Any, context: Context) -> Compressed:
        """Apply and recover the accuracy by fine-tuning."""
        ...

    def estimate(self, model: Any, options: Any, profile: DeviceProfile | None) -> Footprint:
        """What the result will weigh."""
        ...
