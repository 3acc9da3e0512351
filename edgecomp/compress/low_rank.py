"""Low-rank factorization: a layer becomes a chain of two or three thinner ones."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgecomp.compress._base import Compressed, Context, Footprint, TechniqueOptions
from edgecomp.profile import DeviceProfile

SUMMARY = "Dense layers and convolutions in two or three factors, where that takes fewer operations and fewer bytes."


class Options(TechniqueOptions):
    """How much is kept, and in which form.

    By ratio every layer gets ranks of its own, so that most is kept for what is saved; by energy all keep alike.
    """

    low_rank_ratio: float = Field(
        default=0.7, gt=0, lt=1, description="What the model may keep of its multiply-accumulates, and of its bytes."
    )
    low_rank_energy: float | None = Field(
        default=None, gt=0, le=1, description="Instead: what every layer keeps of its squared singular values."
    )
    low_rank_method: Literal["auto", "svd", "spatial", "tucker2"] = Field(
        default="auto", description="Of convolutions larger than 1 x 1; auto takes the best for each layer."
    )
    min_rank: int = Field(default=1, ge=1, description="No rank below this.")


def preview(model: Any, options: Options, context: Context) -> Compressed:
    """The factorization alone, fitted to the inputs that samples make.

    Raises:
        CompressionError: No layer gets smaller.
        ModelError: The model has no graph of layers.
    """
    from edgecomp.compress._factorize_layers import factorized

    return factorized(model, options, context.profile, context)


def apply(model: Any, options: Options, context: Context) -> Compressed:
    """The factorization, then fine-tuning.

    Raises:
        CompressionError, ModelError: As `preview`.
        MissingDataError: There are no training samples.
        TrainingError: See `training.loop`.
    """
    from edgecomp.compress._factorize_layers import fine_tuned

    return fine_tuned(model, options, context)


def estimate(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """Of factors that are fitted to the weights. With samples the ranks of single layers come out differently.

    By ratio both hold to it, so that one of MACs and bytes comes out alike; by energy, which is then that of the
    weights and not of the outputs, the estimate is too high.
    """
    from edgecomp.compress._factorize_layers import factorized
    from edgecomp.compress._footprint import footprint

    return footprint(factorized(model, options, profile, None).model, profile)
