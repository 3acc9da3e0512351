"""Which shipped profile a device is, or is nearest to, and why.

In this order: a profile that lists the name the device gives itself; one with the very same CPU parts; the one that
stands for any device of the architecture. What the first two say of the processor holds for the device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgecomp.devices import size_of
from edgecomp.errors import ProbeError
from edgecomp.facts.figures import Figures
from edgecomp.profile_files import Resolved, Table, find_profile, profile_names, read_file, resolve

# Programs of all three may run on one 64-bit Arm core: which of them do is no matter of the board.
_ARM = frozenset({"aarch64", "armv7l", "armv6l"})


@dataclass(frozen=True)
class Match:
    """The profile to start from.

    Attributes:
        table: All that it states, with what it extends.
        is_known: It is this board's or this processor's; otherwise it only stands in for want of one.
        because: What speaks for it, one clause each.
    """

    name: str
    table: Table
    is_known: bool
    because: tuple[str, ...]


def nearest_profile(figures: Figures) -> Match:
    """Choose among the profiles that ship with edgecomp. A pure function of them.

    Raises:
        ProbeError: None is for such an operating system and architecture.
    """
    candidates = [resolve(read_file(find_profile(name))) for name in profile_names()]
    return (
        _by_name(figures, candidates)
        or _by_parts(figures, [item for item in candidates if "npu" not in item.table])
        or _stand_in(figures, [item for item in candidates if "npu" not in item.table])
    )


def _by_name(figures: Figures, candidates: Iterable[Resolved]) -> Match | None:
    found: list[tuple[int, int, str, Resolved, str]] = []
    for item in candidates:
        for figure in figures.names:
            for model in item.table.get("models", ()):
                if _begins(figure.value, model) and not _contradicts(figures, item.table):
                    clause = f"it calls itself {figure.value!r} ({figure.source})"
                    found.append((-len(model), len(item.layers), str(item.table["name"]), item, clause))
    if not found:
        return None
    *_, best, clause = min(found, key=lambda entry: entry[:3])
    return Match(str(best.table["name"]), best.table, True, (clause, *_alike(figures, best.table)))


def _begins(name: str, model: str) -> bool:
    """Whether a name begins with a model's as whole words: "Raspberry Pi 4" is not in "Raspberry Pi 400"."""
    return re.match(rf"{re.escape(model)}(?![0-9a-z])", name, re.IGNORECASE) is not None


def _contradicts(figures: Figures, table: Table) -> bool:
    """Whether the processor is another one, whatever the board calls itself."""
    listed = set(table["cpu"].get("part_ids", ()))
    return bool(listed) and figures.part_ids is not None and listed.isdisjoint(figures.part_ids.value)


def _by_parts(figures: Figures, candidates: Iterable[Resolved]) -> Match | None:
    if figures.part_ids is None:
        return None
    parts = set(figures.part_ids.value)
    same = [
        item
        for item in candidates
        if item.table["kind"] == figures.kind and parts == set(item.table["cpu"].get("part_ids", ()))
    ]
    if not same:
        return None
    best = min(same, key=lambda item: (_distance(figures, item.table), len(item.layers), item.table["name"]))
    others = [str(item.table["name"]) for item in same if item is not best and len(item.layers) == len(best.layers)]
    closest = (f"nearer than {' and '.join(others)} in cores, clock and RAM",) if others else ()
    return Match(str(best.table["name"]), best.table, True, (*_alike(figures, best.table), *closest))


def _alike(figures: Figures, table: Table) -> tuple[str, ...]:
    """What of the processor is like the profile's: "CPU part 0xd08 and 4 cores like rpi4"."""
    cpu = table["cpu"]
    alike = []
    if figures.part_ids is not None and set(figures.part_ids.value) == set(cpu.get("part_ids", ())):
        alike.append(f"CPU part {', '.join(figures.part_ids.value)}")
    if figures.cores is not None and figures.cores.value == cpu["cores"]:
        alike.append(f"{cpu['cores']} core{'s' if cpu['cores'] > 1 else ''}")
    return (f"{' and '.join(alike)} like {table['name']}",) if alike else ()


def _stand_in(figures: Figures, candidates: Iterable[Resolved]) -> Match:
    machine = figures.machine or ""
    family = _ARM if machine in _ARM else {machine}
    fitting = [
        item
        for item in candidates
        if item.table["kind"] == figures.kind and item.table["cpu"]["architecture"] in family
    ]
    # An ARMv6 board is nearer to another one than to any with NEON.
    fitting = [item for item in fitting if item.table["cpu"]["architecture"] == machine] or fitting
    if not fitting:
        system = figures.kind or "that operating system"
        raise ProbeError(
            f"No profile that ships is for {system} on {machine or 'that architecture'}.",
            hint="`edgecomp devices list` shows all; `edgecomp devices new NAME` starts one of your own.",
        )
    generic = [item for item in fitting if not item.table["cpu"].get("part_ids") and not item.table.get("models")]
    best = min(generic or fitting, key=lambda item: (_distance(figures, item.table), item.table["name"]))
    name = str(best.table["name"])
    what = f"it stands for any {figures.kind} device with {best.table['cpu']['architecture']}" if generic else ""
    unknown = _unknown(figures)
    because = (*unknown, what or f"of those for {figures.kind} on {machine} it is nearest in cores, clock and RAM")
    return Match(name, best.table, False, because)


def _unknown(figures: Figures) -> tuple[str, ...]:
    """What no profile has."""
    clauses: list[str] = []
    if figures.names:
        clauses.append(f"no profile is of {figures.names[0].value!r}")
    if figures.part_ids is not None:
        clauses.append(f"none has CPU part {', '.join(figures.part_ids.value)}")
    return tuple(clauses)


def _distance(figures: Figures, table: Table) -> float:
    """How far a profile is from the figures: a factor of two in cores, clock or RAM weighs 1, as does a feature."""
    cpu = table["cpu"]
    ram = max(size_of(region["bytes"]) for region in table["memory"]["regions"].values() if region["kind"] == "ram")
    pairs = ((figures.cores, cpu["cores"]), (figures.clock_hz, cpu["clock_hz"]), (figures.ram_bytes, ram))
    distance = sum(abs(math.log2(figure.value / listed)) for figure, listed in pairs if figure is not None)
    if figures.features is not None:
        distance += len(set(figures.features.value) ^ set(cpu.get("features", ())))
    if figures.part_ids is not None:
        distance += len(set(figures.part_ids.value) - set(cpu.get("part_ids", ())))
    return distance
