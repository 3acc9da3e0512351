"""Quantities with units: text from people <-> plain numbers.

KiB and MiB are powers of 1024, kB and MB powers of 1000. Nothing else is guessed: a size without a unit is bytes,
a time without a unit is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from edgecomp.errors import UsageError

_BYTES = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_MILLIJOULES = {"uj": 1e-3, "µj": 1e-3, "mj": 1.0, "j": 1e3}
_SECONDS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_QUANTITY = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?|\.[0-9]+)\s*([a-zµ%]*)\s*", re.IGNORECASE)


def _split(text: str, what: str, example: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UsageError(f"{what} must look like {example}, got {text!r}.")
    return float(match[1].replace("_", "")), match[2].lower()


def parse_bytes(text: str) -> int:
    """Bytes of "512KiB", "1.5MB", "98496".

    Raises:
        UsageError: Not a size, an unknown unit, or not a whole number of bytes.
    """
    number, unit = _split(text, "A size", '"512KiB", "1.5MB" or a number of bytes')
    if unit not in _BYTES:
        raise UsageError(f"Unknown unit {unit!r} in {text!r}: use B, kB, MB, GB, KiB, MiB or GiB.")
    size = number * _BYTES[unit]
    if size != int(size):
        raise UsageError(f"{text!r} is not a whole number of bytes.")
    return int(size)


def format_bytes(size_bytes: int) -> str:
    """`98496` -> "96.2 KiB", for people; machines get the plain number."""
    if abs(size_bytes) < 1024:
        return f"{size_bytes} B"
    for unit, factor in (("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30)):
        if abs(size_bytes) < 1000 * factor or unit == "GiB":
            return f"{size_bytes / factor:.1f} {unit}"
    raise AssertionError("unreachable")


def parse_ms(text: str) -> float:
    """Milliseconds of "20ms", "1.5s", "800us".

    Raises:
        UsageError: Not a time, no unit, or zero.
    """
    number, unit = _split(text, "A time", '"20ms", "1.5s" or "800us"')
    if unit not in _MILLISECONDS:
        raise UsageError(f"{text!r} needs a unit of time: us, ms or s.")
    if number == 0:
        raise UsageError(f"A time limit must be above zero, got {text!r}.")
    return number * _MILLISECONDS[unit]


def parse_mj(text: str) -> float:
    """Millijoules of "5mJ", "1.2J", "800uJ".

    Raises:
        UsageError: Not an energy, no unit, or zero.
    """
    number, unit = _split(text, "An energy", '"5mJ", "1.2J" or "800uJ"')
    if unit not in _MILLIJOULES:
        raise UsageError(f"{text!r} needs a unit of energy: uJ, mJ or J.")
    if number == 0:
        raise UsageError(f"An energy limit must be above zero, got {text!r}.")
    return number * _MILLIJOULES[unit]


def parse_seconds(text: str) -> float:
    """Seconds of "25m", "1.5h", "90s".

    Raises:
        UsageError: Not a duration, no unit, or zero.
    """
    number, unit = _split(text, "A duration", '"25m", "1.5h" or "90s"')
    if unit not in _SECONDS:
        raise UsageError(f"{text!r} needs a unit of time: s, m or h.")
    if number == 0:
        raise UsageError(f"A duration must be above zero, got {text!r}.")
    return number * _SECONDS[unit]


def parse_share(text: str) -> float:
    """The fraction that "2%" or "0.02" is.

    Raises:
        UsageError: Not a share, or not between 0 and 1.
    """
    number, unit = _split(text, "A share", '"2%" or "0.02"')
    if unit not in ("", "%"):
        raise UsageError(f"{text!r} is no share: write a percentage like 2% or a fraction like 0.02.")
    share = number / 100 if unit else number
    if share > 1:
        raise UsageError(f"A share must lie between 0 and 1, got {text!r}: write 2% or 0.02.")
    return share


@dataclass(frozen=True)
class Drop:
    """How far a metric may fall below the float model's.

    Attributes:
        amount: 0.01 is one percentage point of an accuracy, or one hundredth of the float value if relative.
        is_relative: True for "2%", measured against the float model's value; False for "1pp".
    """

    amount: float
    is_relative: bool = False

    def __str__(self) -> str:
        return f"{self.amount * 100:g}{'%' if self.is_relative else 'pp'}"


def parse_drop(text: str) -> Drop:
    """`Drop` of "1pp" (percentage points) or "2%" (of the float model's value).

    Raises:
        UsageError: Not a drop, no unit, or more than 100.
    """
    number, unit = _split(text, "A drop", '"1pp" (percentage points) or "2%" (of the float value)')
    if unit not in ("pp", "%"):
        raise UsageError(f"{text!r} needs a unit: pp (percentage points) or % (of the float model's value).")
    if not math.isfinite(number) or number > 100:
        raise UsageError(f"A drop must lie between 0 and 100, got {text!r}.")
    return Drop(number / 100, is_relative=unit == "%")


def format_seconds(seconds: float) -> str:
    """`42 s`, `3 min 10 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
