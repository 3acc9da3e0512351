"""Temperatures, and what a Raspberry Pi says of throttling."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecomp.facts._fact import Fact, clean, number


@dataclass(frozen=True)
class Zone:
    """A thermal zone: what it is, and its temperature; None while its sensor sleeps."""

    kind: str
    temperature_c: float | None


def parse_zones(text: str) -> tuple[Zone, ...] | None:
    """Lines of `grep -H` on /sys/class/thermal, in the order of their numbers; None if there are none."""
    found: dict[int, dict[str, str]] = {}
    for index, key, value in re.findall(
        r"^/sys/class/thermal/thermal_zone([0-9]{1,4})/(type|temp):(.*)$", text, re.MULTILINE
    ):
        found.setdefault(int(index), {})[key] = value.strip()
    zones = tuple(
        Zone(clean(found[index]["type"], 40), _celsius(found[index].get("temp", "")))
        for index in sorted(found)
        if "type" in found[index]
    )
    return zones or None


def _celsius(text: str) -> float | None:
    millidegrees = number(text)
    # Some drivers answer with whole degrees, and sensors that sleep with absolute zero or less.
    if millidegrees is None or not -60_000 < millidegrees < 200_000:
        return None
    return float(millidegrees) if -60 < millidegrees < 200 and millidegrees != 0 else millidegrees / 1000


_MEANINGS = {
    0: "under-voltage",
    1: "arm frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SINCE_BOOT = 16  # The same four meanings, so many bits further up.


@dataclass(frozen=True)
class Throttling:
    """`vcgencmd get_throttled`: what slows the board down now, and what has since it was switched on."""

    bits: int
    now: tuple[str, ...]
    since_boot: tuple[str, ...]

    def __str__(self) -> str:
        parts = (("now", self.now), ("since it was switched on", self.since_boot))
        told = "; ".join(f"{when}: {', '.join(what)}" for when, what in parts if what)
        return told or "none since it was switched on"


def parse_throttled(text: str) -> Throttling | None:
    """The answer "throttled=0x50005" -> its bits and what they mean; None for any other text."""
    match = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", text.strip())
    if match is None:
        return None
    bits = int(match[1], 16)
    now = tuple(text for bit, text in _MEANINGS.items() if bits >> bit & 1)
    return Throttling(bits, now, tuple(text for bit, text in _MEANINGS.items() if bits >> (bit + _SINCE_BOOT) & 1))


ZONES = Fact(
    "temperatures",
    ("sh", "-c", 'grep -H "" /sys/class/thermal/thermal_zone[0-9]*/type /sys/class/thermal/thermal_zone[0-9]*/temp'),
    parse_zones,
    "/sys/class/thermal",
)
THROTTLED = Fact("throttling", ("vcgencmd", "get_throttled"), parse_throttled, "vcgencmd")
