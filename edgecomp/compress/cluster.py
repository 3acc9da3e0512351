"""Weight clustering: few values, so that indices of a few bits and a small table replace 8-bit weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgecomp.compress._base import Compressed, Context, Footprint, TechniqueOptions
from edgecomp.profile import DeviceProfile

SUMMARY = "Few values a channel, learned with the weights; on TFLM they become indices of 1 to 7 bits."


class Options(TechniqueOptions):
    """How many values, and for what they are.

    With `mean_bits` every layer gets its own number of bits, or none, so that all weights with their tables take as
    many bytes as asked for and the outputs on validation samples move least.
    """

    num_clusters: int = Field(default=8, ge=2, le=128, description="Values a channel, for every layer.")
    mean_bits: float | None = Field(
        default=None,
        ge=1,
        le=7,
        description="Instead: bits of flash a weight, tables included, shared out among layers.",
    )
    codebook: Literal["channel", "tensor"] = Field(
        default="channel",
        description="One table a channel, or one for all channels of a layer, which is smaller and harder to train.",
    )


def preview(model: Any, options: Options, context: Context) -> Compressed:
    """k-means alone."""
    from edgecomp.compress._cluster import clustered

    return clustered(model, options, context, train=False)


def apply(model: Any, options: Options, context: Context) -> Compressed:
    """k-means, then fine-tuning through the codebooks.

    Zeros of pruned kernels stay zeros.

    Raises:
        CompressionError: No layer can be clustered.
        MissingDataError: There are no training samples.
        TrainingError: See `training.loop`.
    """
    from edgecomp.compress._cluster import clustered

    return clustered(model, options, context, train=True)


def estimate(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """Indices and tables where the runtime decodes them, else 8 bits a weight."""
    from edgecomp.compress._cluster import planned_footprint

    return planned_footprint(model, options, profile)
