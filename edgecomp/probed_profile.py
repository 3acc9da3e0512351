"""The text of a probed profile: what a device's figures say that the profile they extend does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgecomp.devices import arena_of
from edgecomp.facts import Facts
from edgecomp.facts._fact import clean
from edgecomp.facts.figures import Figure, Figures
from edgecomp.nearest import Match
from edgecomp.profile_files import Table, dump_toml

# The family whose kernels a core's features choose; the families of other processors have no such twin.
_DOTPROD_FAMILY = {"arm-a-xnnpack": "arm-a-dotprod-xnnpack"}


@dataclass(frozen=True)
class Stated:
    """One line of the new profile: a dotted key, its value, and where that comes from."""

    key: str
    value: Any
    source: str


def state(facts: Facts, figures: Figures, match: Match) -> tuple[Stated, ...]:
    """What the device's figures say that the profile they extend does not. A pure function."""
    parent = match.table
    cpu = parent["cpu"]
    found: list[Stated] = []

    def add(key: str, figure: Figure[Any] | None, listed: Any) -> None:
        if figure is None:
            return
        value = list(figure.value) if isinstance(figure.value, tuple) else figure.value
        if value != listed:
            found.append(Stated(key, value, f"edgecomp probe of {facts.host}, {facts.date}: {figure.source}"))

    add("cpu.architecture", figures.architecture, cpu["architecture"])
    if not match.is_known:
        add("cpu.core", figures.core, cpu["core"])
    add("cpu.cores", figures.cores, cpu["cores"])
    add("cpu.big_cores", figures.big_cores, cpu.get("big_cores", figures.cores and figures.cores.value))
    add("cpu.clock_hz", figures.clock_hz, cpu["clock_hz"])
    add("cpu.part_ids", figures.part_ids, _same_set(figures.part_ids, cpu.get("part_ids", [])))
    add("cpu.features", figures.features, _same_set(figures.features, cpu.get("features", [])))
    region = arena_of(parent)
    add(f"memory.regions.{region}.bytes", figures.ram_bytes, None)
    if figures.ram_bytes is not None:
        add(f"memory.regions.{region}.reserved_bytes", figures.reserved_bytes, None)
    family = _DOTPROD_FAMILY.get(parent.get("cost", {}).get("family", ""))
    if family is not None and figures.features is not None and "dotprod" in figures.features.value:
        add("cost.family", Figure(family, "dotprod among the features"), None)
    return tuple(found)


def _same_set(figure: Figure[tuple[str, ...]] | None, listed: list[str]) -> list[str]:
    """The figure's own order where it differs from the listed one in nothing else."""
    return list(figure.value) if figure is not None and set(figure.value) == set(listed) else listed


def profile_text(name: str, facts: Facts, match: Match, stated: tuple[Stated, ...]) -> str:
    """The profile as TOML: a heading that says where it comes from, and what was found."""
    table: Table = {
        "schema_version": 1,
        "name": name,
        "extends": match.name,
        "description": _description(facts, match),
    }
    for item in stated:
        *outer, last = item.key.split(".")
        holder = table
        for part in outer:
            holder = holder.setdefault(part, {})
        holder[last] = item.value
    table["sources"] = {item.key: item.source for item in stated}
    heading = [
        f"# {name}: written by `edgecomp probe` of {facts.host} on {facts.date}. What is not stated here is what",
        f"# {match.name} says, chosen because {clean('; '.join(match.because), 400)}.",
    ]
    return "\n".join(heading) + "\n" + dump_toml(table)


def _description(facts: Facts, match: Match) -> str:
    phone = facts.phone.model if facts.phone is not None else None
    product = facts.dmi.product if facts.dmi is not None else None
    cpuinfo = facts.cpuinfo
    board = (cpuinfo.board or cpuinfo.model_name) if cpuinfo is not None else None
    what = facts.model or phone or product or board
    return f"{what or match.name}, as edgecomp probe found it" + ("" if what else f" (like {match.name})")
