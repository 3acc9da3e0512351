"""Structured pruning: whole channels go, and what is left is a plain smaller model, faster on every device."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgecomp.compress._base import Compressed, Context, Footprint, TechniqueOptions
from edgecomp.profile import DeviceProfile

SUMMARY = "Whole channels removed: a smaller dense model with fewer operations, on every runtime."


class Options(TechniqueOptions):
    """How much goes, and by what it is chosen."""

    ratio: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Part of the multiply-accumulates of the whole model that goes; with --cost parameters, of its "
        "parameters.",
    )
    cost: Literal["macs", "parameters"] = Field(default="macs", description="What --ratio counts.")
    importance: Literal["taylor", "magnitude", "bn_scale"] = Field(
        default="taylor",
        description="Which channels of a layer go first: those with the smallest effect on the loss of training "
        "samples, the smallest weights, or the smallest scale in batch normalization.",
    )
    min_channels: int = Field(default=4, ge=1, description="No layer keeps fewer channels than this.")


def preview(model: Any, options: Options, context: Context) -> Compressed:
    """The cut alone. With training samples the remaining weights make up for the lost ones as far as they can.

    Raises:
        CompressionError: No channel can be removed, or not as many as asked for.
        ModelError: The model has no graph of layers.
    """
    from edgecomp.compress._channels.pruning import pruned

    return pruned(model, options, context, train=False)


def apply(model: Any, options: Options, context: Context) -> Compressed:
    """The cut, then fine-tuning. Zeros and codebooks that the model has are kept.

    Raises:
        CompressionError, ModelError: As `preview`.
        MissingDataError: There are no training samples.
        TrainingError: See `training.loop`.
    """
    from edgecomp.compress._channels.pruning import pruned

    return pruned(model, options, context, train=True)


def estimate(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """What is asked for, shared out among the layers by their weights, since nothing can be measured without samples.

    Raises:
        CompressionError, ModelError: As `preview`.
    """
    from edgecomp.compress._channels.pruning import planned_footprint

    return planned_footprint(model, options, profile)
