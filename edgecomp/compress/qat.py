"""Quantization-aware training: the model learns with the rounding that its file will have."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgecomp.compress._base import Compressed, Context, Footprint, TechniqueOptions
from edgecomp.profile import DeviceProfile

SUMMARY = "Trains with rounded weights and activations: int8 with learned ranges, or weights on a 4-bit grid."


class Options(TechniqueOptions):
    """How coarse the weights are."""

    weight_bits: Literal[8, 4] = Field(
        default=8,
        description="8: weights and activations, for a full-integer file. 4: weights alone, for runtimes whose kernels "
        "take 4-bit weights.",
    )


def preview(model: Any, options: Options, context: Context) -> Compressed:
    """With 8 bits the model as it is: quantized after training. With 4 bits its weights rounded to the grid at once.

    Raises:
        CompressionError: No layer has weights to round, or the runtime takes no 4-bit weights.
        ModelError: The model has no graph of layers.
    """
    from edgecomp.compress import _qat

    return _qat.unchanged(model) if options.weight_bits == 8 else _qat.low_bit(model, context, train=False)


def apply(model: Any, options: Options, context: Context) -> Compressed:
    """Fine-tuning through the rounding. Zeros of pruned kernels and the few values of clustered ones are kept.

    Raises:
        CompressionError: As `preview`, or the finished file has not kept zeros or few values.
        ModelError: The model has no graph of layers.
        MissingDataError: There are no training samples.
        TrainingError: See `training.loop`.
    """
    from edgecomp.compress import _qat

    context.data.require_train("qat")
    return _qat.full_integer(model, context) if options.weight_bits == 8 else _qat.low_bit(model, context, train=True)


def estimate(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """The weights with the bits asked for: 4 only where the runtime's kernels take them."""
    from edgecomp.compress import _qat

    return _qat.footprint_at(model, options.weight_bits, profile)
