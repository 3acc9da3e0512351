"""How to fine-tune, as plain values: no TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecomp.errors import UsageError

AUGMENTATIONS = ("flip", "shift", "noise")


@dataclass(frozen=True)
class TrainingSettings:
    """What one run of fine-tuning is.

    Attributes:
        epochs: Passes over the training samples, unlabelled ones included.
        batch_size: Samples a step.
        learning_rate: Of Adam at the start; it falls along half a cosine to a hundredth.
        patience: Stop after so many epochs without a lower validation loss; None: never.
        seed: Of the order of the samples, augmentation and dropout.
        augment: Of "flip" (left-right), "shift" (up to an eighth along height and width, or time) and "noise" (5 % of
            the standard deviation). None by default: a digit must not be mirrored.
        loss: "auto", "crossentropy", "mse", "reconstruction" or "module:function" with (labels, outputs) -> (n,).
        distill_weight: Share of the teacher in the loss, 0 to 1; unlabelled samples have the teacher only.
        temperature: Softens both distributions before they are compared (Hinton et al., arXiv 1503.02531).
        feature_layers: Names of layers whose outputs are compared with those of the same layers of the teacher.
        feature_loss: How.
        freeze_batch_norm: Batch normalization keeps its statistics, as in inference.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    patience: int | None = None
    seed: int = 0
    augment: tuple[str, ...] = ()
    loss: str = "auto"
    distill_weight: float = 0.7
    temperature: float = 4.0
    feature_layers: tuple[str, ...] = ()
    feature_loss: Literal["mse", "cosine"] = "mse"
    freeze_batch_norm: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (("epochs", self.epochs, 1), ("batch size", self.batch_size, 1)):
            if value < least:
                raise UsageError(f"The {name} must be at least {least}, got {value}.")
        if not self.learning_rate > 0:
            raise UsageError(f"The learning rate must be positive, got {self.learning_rate:g}.")
        if not 0 <= self.distill_weight <= 1:
            raise UsageError(f"The weight of distillation must lie between 0 and 1, got {self.distill_weight:g}.")
        if not self.temperature > 0:
            raise UsageError(f"The temperature must be positive, got {self.temperature:g}.")
        unknown = [name for name in self.augment if name not in AUGMENTATIONS]
        if unknown:
            raise UsageError(f"Unknown augmentation {unknown[0]!r}.", hint=f"Allowed: {', '.join(AUGMENTATIONS)}.")
