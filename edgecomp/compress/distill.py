"""Distillation into a smaller student: the model with fewer channels or fewer blocks, taught by the model itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgecomp.compress._base import Compressed, Context, Footprint, TechniqueOptions
from edgecomp.profile import DeviceProfile

SUMMARY = "A narrower or shallower copy of the model, trained on the labels and on what the model itself says."


class Options(TechniqueOptions):
    """How much smaller the student is.

    Depth goes first: of what is left, every group of channels that only go together keeps the same part.
    """

    width: float = Field(default=0.5, gt=0, le=1, description="Part of its channels that every layer keeps.")
    depth: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Part of its repeated blocks that stay; the first of a stage always does.",
    )


def preview(model: Any, options: Options, context: Context) -> Compressed:
    """The student with the weights that it inherits, as yet untrained.

    Raises:
        CompressionError: The student would be the model itself.
        ModelError: The model has no graph of layers.
    """
    from edgecomp.compress._student import student

    return student(model, options, context.profile, context)


def apply(model: Any, options: Options, context: Context) -> Compressed:
    """The student, trained on labels and teacher; unlabelled samples have the teacher alone.

    The teacher is the model before any compression, and without one the model given.

    Raises:
        CompressionError, ModelError: As `preview`.
        UsageError: The weight of distillation is 0.
        MissingDataError: There are no training samples.
        TrainingError: See `training.loop`.
    """
    from edgecomp.compress._student import taught

    return taught(model, options, context)


def estimate(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """Of the student. Raises as `preview`."""
    from edgecomp.compress._footprint import footprint
    from edgecomp.compress._student import student

    return footprint(student(model, options, profile, None).model, profile)
