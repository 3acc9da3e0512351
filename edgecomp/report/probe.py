"""What a probe found, as people read it: every fact with its source, then the profile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from edgecomp.report.devices import format_hz, format_value, print_table
from edgecomp.units import format_bytes

if TYPE_CHECKING:
    from edgecomp.facts import Facts
    from edgecomp.facts.cores import Core
    from edgecomp.facts.memory import Disk
    from edgecomp.probe import ProbeResult

_MOST_ZONES = 8


def print_probe(result: ProbeResult) -> None:
    """The facts, what the profile extends and why, what it states, and what to know about it."""
    facts = result.facts
    click.echo(f"{facts.host}, asked on {facts.date}")
    print_table([("fact", "value", "source"), *_rows(facts)])
    if facts.missing:
        click.echo(f"not told: {'; '.join(f'{name} ({why})' for name, why in facts.missing.items())}")
    click.echo()
    click.echo(f"{result.path} extends {result.match.name}: {'; '.join(result.match.because)}.")
    if result.stated:
        click.echo("It states what differs:")
        print_table([(item.key, format_value(item.key, item.value), item.source) for item in result.stated])
    for note in result.notes:
        click.echo(f"note: {note}")


def _rows(facts: Facts) -> Iterator[tuple[str, str, str]]:
    yield from _system_rows(facts)
    yield from _processor_rows(facts)
    if facts.memory is not None:
        free = "" if facts.memory.available_bytes is None else f", {format_bytes(facts.memory.available_bytes)} free"
        yield "RAM", f"{format_bytes(facts.memory.total_bytes)}{free}", "/proc/meminfo"
    for where, disk in (("home folder", facts.home_disk), ("temporary folder", facts.temporary_disk)):
        if disk is not None:
            yield where, _room(disk), "df"
    yield from _state_rows(facts)
    yield from _software_rows(facts)


def _system_rows(facts: Facts) -> Iterator[tuple[str, str, str]]:
    if facts.model is not None:
        yield "model", facts.model, "device tree"
    if facts.phone is not None:
        words = (facts.phone.manufacturer, facts.phone.model, facts.phone.soc, f"Android {facts.phone.release}")
        yield "phone", ", ".join(word for word in words if word), "getprop"
    if facts.dmi is not None:
        yield "product", ", ".join(word for word in (facts.dmi.vendor, facts.dmi.product) if word), "DMI"
    if facts.virtualization is not None:
        yield "virtualization", facts.virtualization, "systemd-detect-virt"
    if facts.system is not None:
        yield "kernel", f"{facts.system.name} {facts.system.release}, {facts.system.machine}", "uname"
    if facts.distribution is not None:
        yield "system", facts.distribution, "/etc/os-release"
    if facts.userland_bits is not None:
        yield "programs", f"{facts.userland_bits} bits", "getconf"
    if facts.libc is not None:
        yield "C library", f"{facts.libc.name} {facts.libc.version}", "ldd"


def _processor_rows(facts: Facts) -> Iterator[tuple[str, str, str]]:
    if facts.cpuinfo is not None:
        parts = list(dict.fromkeys(item.part_id for item in facts.cpuinfo.processors if item.part_id))
        kinds = f", CPU part {', '.join(parts)}" if parts else ""
        name = f", {facts.cpuinfo.model_name}" if facts.cpuinfo.model_name else ""
        yield "processors", f"{len(facts.cpuinfo.processors)}{kinds}{name}", "/proc/cpuinfo"
    if facts.cores is not None:
        for value in _clusters(facts.cores.cores):
            yield "cores", value, "cpufreq"


def _clusters(cores: tuple[Core, ...]) -> Iterator[str]:
    """One line for cores that are alike; none where nothing is known of their clock."""
    alike: dict[tuple[int | None, int | None, str | None], list[int]] = {}
    for core in cores:
        alike.setdefault((core.min_hz, core.max_hz, core.governor), []).append(core.number)
    for (low, high, governor), numbers in alike.items():
        if high is not None:
            least = "" if low is None else f"{format_hz(low)} to "
            told = "" if governor is None else f", governor {governor}"
            yield f"{len(numbers)} from number {numbers[0]}: {least}{format_hz(high)}{told}"


def _room(disk: Disk) -> str:
    return f"{format_bytes(disk.free_bytes)} free on {disk.mounted_on}"


def _state_rows(facts: Facts) -> Iterator[tuple[str, str, str]]:
    zones = facts.temperatures or ()
    told = [f"{zone.kind} {zone.temperature_c:.1f} C" for zone in zones if zone.temperature_c is not None]
    if told:
        more = f" and {len(told) - _MOST_ZONES} more" if len(told) > _MOST_ZONES else ""
        yield "temperatures", ", ".join(told[:_MOST_ZONES]) + more, "/sys/class/thermal"
    if facts.throttling is not None:
        yield "throttling", str(facts.throttling), "vcgencmd"


def _software_rows(facts: Facts) -> Iterator[tuple[str, str, str]]:
    if facts.pythons is not None:
        yield "Pythons", ", ".join(f"{name} ({version})" for name, version in facts.pythons.items()), "--version"
    if facts.python is not None:
        found = [f"{name} {version or '(version unknown)'}" for name, version in facts.python.packages.items()]
        yield "runtimes", ", ".join(found) or "none", f"Python {facts.python.version}"
        if facts.python.private is not None:
            yield "private runtime", " ".join(facts.python.private), "edgecomp setup"
    if facts.benchmark_model is not None:
        yield "benchmark_model", facts.benchmark_model, "search path"
