"""Pruning: zeros among the weights. They deflate well; whether anything runs faster for them depends on the runtime."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgecomp.compress._base import Compressed, Context, Footprint, TechniqueOptions
from edgecomp.profile import DeviceProfile

SUMMARY = "Zeros among the weights: smaller updates, and less work where XNNPACK runs 1x1 convolutions sparse."


class Options(TechniqueOptions):
    """How many zeros, and where."""

    sparsity: float | None = Field(
        default=None, gt=0, lt=1, description="Share of zeros over all pruned layers; 0.5, or what the pattern makes."
    )
    pattern: str = Field(
        default="unstructured",
        description='Where zeros may stand: "unstructured", or N:M, at most N non-zeros in any M neighbours along the '
        'input channels ("2:4").',
    )
    per_layer: Literal["lamp", "uniform"] = Field(
        default="lamp",
        description="Unstructured zeros fall to layers by layer-adaptive magnitude, or to each in equal shares.",
    )
    min_weights: int = Field(default=1024, ge=1, description="Smaller layers are left as they are.")
    keep_last: bool = Field(default=False, description="The layer that makes the output is left as it is.")


def preview(model: Any, options: Options, context: Context) -> Compressed:
    """The smallest weights set to zero at once.

    Raises:
        UsageError: The pattern cannot be read, or does not go with the sparsity.
        CompressionError: No layer can be pruned.
    """
    from edgecomp.compress._prune import pruned

    return pruned(model, options, context, train=False)


def apply(model: Any, options: Options, context: Context) -> Compressed:
    """Zeros come gradually over the first 60 % of the epochs, the rest is recovery with the zeros fixed.

    Zeros and codebooks that the model has are kept.

    Raises:
        UsageError, CompressionError: As `preview`.
        MissingDataError: There are no training samples.
        TrainingError: See `training.loop`.
    """
    from edgecomp.compress._prune import pruned

    return pruned(model, options, context, train=True)


def estimate(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """Fewer non-zeros; parameters, MACs and bytes in flash stay what they are.

    Raises:
        UsageError, CompressionError: As `preview`.
    """
    from edgecomp.compress._prune import planned_footprint

    return planned_footprint(model, options, profile)
