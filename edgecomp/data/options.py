"""What the user says about the data, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from edgecomp.errors import UsageError

Progress = Callable[[str, int, int | None], None]
"""Called as progress(what, samples done, samples in all or None where that is not known)."""


@dataclass(frozen=True)
class DataOptions:
    """Where the data is and how it is split; small and picklable.

    Attributes:
        source: An .npz file, a folder of images or "module:function".
        mean, std: The model gets (x - mean) / std; one value, or one per channel (the last axis). None: left out.
        calibration_samples: How many training samples the calibration gets where the source has none of its own.
        validation_fraction: Part of the training samples that is set aside where the source has no validation split.
        max_validation_samples: Upper limit of the validation split; None for no limit.
        group_key: Array of the .npz whose equal values belong together: "subject" finds `subject_train`.
        image_size: (height, width) in pixels that every image is resized to; None: all images must have one size.
        seed: Every draw is repeatable by it.

    Raises:
        UsageError: A value is out of its range, or mean and std do not go together.
    """

    source: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    calibration_samples: int = 200
    validation_fraction: float = 0.2
    max_validation_samples: int | None = 2000
    group_key: str | None = None
    image_size: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for option, values in (("--mean", self.mean), ("--std", self.std)):
            if values is not None and (not values or not all(math.isfinite(value) for value in values)):
                raise UsageError(f"{option} must be one finite number, or one per channel, got {_shown(values)}.")
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(
                f"--std must be above zero everywhere, got {_shown(self.std)}.",
                hint="A channel that never changes can have a std of 1.",
            )
        if self.mean and self.std and 1 < len(self.mean) != len(self.std) > 1:
            raise UsageError(
                f"--mean has {len(self.mean)} values and --std has {len(self.std)}.",
                hint="Give both one value, or both one per channel.",
            )
        if self.calibration_samples < 1:
            raise UsageError(f"The number of calibration samples must be at least 1, got {self.calibration_samples}.")
        if not 0 < self.validation_fraction < 1:
            raise UsageError(f"The validation fraction must lie between 0 and 1, got {self.validation_fraction:g}.")
        if self.max_validation_samples is not None and self.max_validation_samples < 1:
            raise UsageError(f"The limit of validation samples must be at least 1, got {self.max_validation_samples}.")
        if self.image_size is not None and min(self.image_size) < 1:
            raise UsageError(f"An image size is two positive numbers of pixels, got {_shown(self.image_size)}.")
        if self.seed < 0:
            raise UsageError(f"The seed must not be negative, got {self.seed}.")


def _shown(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values) or "nothing"


def parse_channel_values(text: str, option: str) -> tuple[float, ...]:
    """`"0.485,0.456,0.406"` -> (0.485, 0.456, 0.406), the text of --mean or --std.

    Raises:
        UsageError: Something between the commas is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f'{option} must be numbers with commas between, like "0.5" or "1,2,3", got {text!r}.'
        ) from None


def parse_image_size(text: str) -> tuple[int, int]:
    """`"96x128"` (height x width, in pixels) -> (96, 128); `"96"` is square.

    Raises:
        UsageError: Not one or two positive whole numbers.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f'An image size must look like "96" or "96x128" (height x width), got {text!r}.')
    return int(parts[0]), int(parts[-1])
