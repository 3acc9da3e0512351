"""/proc/cpuinfo of Arm, x86 and RISC-V."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgecomp.facts._fact import Fact, clean, number


@dataclass(frozen=True)
class Processor:
    """One logical processor.

    Attributes:
        implementer, part_id: "CPU implementer" and "CPU part" of an Arm core: "0x41", "0xd08".
        core_key: Package and core that it belongs to (x86): equal for the two threads of one core.
    """

    number: int
    implementer: str | None = None
    part_id: str | None = None
    core_key: tuple[int, int] | None = None


@dataclass(frozen=True)
class CpuInfo:
    """What /proc/cpuinfo says.

    Attributes:
        processors: Those that are switched on, by number.
        flags: Abilities that all of them have, in the words of the kernel.
        model_name: Of the processor.
        board: What the board calls itself ("Model" or "Hardware" at the end of the text).
        current_hz: Highest clock of this moment; x86 only.
        rated_hz: Clock in the name of the processor ("... @ 2.50GHz"), which is not its highest.
    """

    processors: tuple[Processor, ...]
    flags: tuple[str, ...]
    model_name: str | None
    board: str | None
    current_hz: int | None
    rated_hz: int | None


def parse_cpuinfo(text: str) -> CpuInfo | None:
    """The text of /proc/cpuinfo; None if it names no processor."""
    # Old Arm kernels print the part once, in a block of its own after those of the processors.
    blocks = [_pairs(block) for block in re.split(r"\n[ \t]*\n", text.replace("\r", ""))]
    common: dict[str, str] = {}
    for block in blocks:
        for key, value in block.items():
            if value:
                common.setdefault(key, value)
    owned = [block for block in blocks if number(block.get("processor", "")) is not None]
    if not owned:
        return None
    flags = [set(words.split()) for block in owned if (words := _flags(block))] or [set(_flags(common).split())]
    clocks = [hertz for block in owned if (hertz := _hertz(block.get("cpu MHz", ""), 1e6)) is not None]
    name = clean(common.get("model name") or common.get("Processor") or common.get("uarch") or "") or None
    rated = re.search(r"@ *([0-9]{1,2}(?:\.[0-9]{1,3})?) ?GHz", name or "")
    return CpuInfo(
        processors=tuple(sorted((_processor(block, common) for block in owned), key=lambda item: item.number)),
        flags=tuple(sorted(clean(flag, 40) for flag in set.intersection(*flags))),
        model_name=name,
        board=clean(common.get("Model") or common.get("Hardware") or "") or None,
        current_hz=max(clocks, default=None),
        rated_hz=_hertz(rated[1], 1e9) if rated else None,
    )


def _pairs(block: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in block.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            pairs[key.strip()] = value.strip()
    return pairs


def _flags(block: Mapping[str, str]) -> str:
    return block.get("Features") or block.get("flags") or block.get("isa") or ""


def _processor(block: Mapping[str, str], common: Mapping[str, str]) -> Processor:
    package, core = number(block.get("physical id", "")), number(block.get("core id", ""))
    return Processor(
        number=int(block["processor"]),
        implementer=_hexadecimal(block.get("CPU implementer") or common.get("CPU implementer", "")),
        part_id=_hexadecimal(block.get("CPU part") or common.get("CPU part", "")),
        core_key=None if package is None or core is None else (package, core),
    )


def _hexadecimal(text: str) -> str | None:
    return text.lower() if re.fullmatch(r"0[xX][0-9a-fA-F]{1,4}", text) else None


def _hertz(text: str, unit: float) -> int | None:
    return round(float(text) * unit) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) else None


CPUINFO = Fact("cpuinfo", ("cat", "/proc/cpuinfo"), parse_cpuinfo, "/proc/cpuinfo")
