"""Profiles as people read them. Plain text without rich, so that the list comes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edgecomp.profile_files import is_unverified, leaves
from edgecomp.units import format_bytes

if TYPE_CHECKING:
    from edgecomp.devices import Check, Summary
    from edgecomp.profile import DeviceProfile


def print_list(summaries: Sequence[Summary]) -> None:
    """One line a profile."""
    if not summaries:
        click.echo("No profile has all of that.")
        return
    rows = [("name", "kind", "processor", "RAM left", "flash left", "runtime", "unverified")]
    for item in summaries:
        flash = "no limit" if item.flash_bytes is None else format_bytes(item.flash_bytes)
        runtime = f"{item.runtime} {item.kernels}"
        processor = f"{item.cores}x {item.core}, {format_hz(item.clock_hz)}"
        ram = format_bytes(item.ram_bytes)
        rows.append((item.name, item.kind, processor, ram, flash, runtime, f"{item.unverified or ''}"))
    print_table(rows)


def print_device(profile: DeviceProfile) -> None:
    """Every value of a profile with its source, and what is unverified."""
    memory = profile.memory
    flash = memory.usable_flash_bytes
    storage = "storage is no limit" if flash is None else f"{format_bytes(flash)} of flash"
    click.echo(f"{profile.name}: {profile.description}")
    if profile.extends:
        click.echo(f"extends {', '.join(profile.extends)}")
    click.echo(f"left for a model: {format_bytes(memory.usable_ram_bytes)} of RAM ({memory.arena_region}), {storage}")
    count = len(profile.unverified)
    if count:
        click.echo(f"{count} {'value is' if count == 1 else 'values are'} unverified, marked with ?")
    click.echo()
    rows = [("key", "value", "source")]
    for key, value in leaves(profile.table):
        if key.startswith("cost.constants.") and key != "cost.constants.name":
            continue  # Some eighty, for machines: --toml prints them.
        source = profile.source_of(key) or ""
        rows.append((key, f"{'? ' if is_unverified(source) else ''}{format_value(key, value)}", source))
    print_table(rows)


def print_checks(checks: Sequence[Check]) -> None:
    """What `validate` found, file by file."""
    for check in checks:
        profile = check.profile
        if profile is None:
            problems = f"{len(check.problems)} problem{'s' if len(check.problems) > 1 else ''}"
            click.echo(f"{check.path}: {problems}")
            for problem in check.problems:
                click.echo(f"  {problem}")
            continue
        extends = f", extends {', '.join(profile.extends)}" if profile.extends else ""
        unverified = f"; unverified: {', '.join(profile.unverified)}" if profile.unverified else ""
        click.echo(f"{check.path}: ok: {profile.name} ({profile.kind}){extends}{unverified}")


def format_hz(hertz: int) -> str:
    """`1_500_000_000` -> "1.5 GHz"."""
    return f"{hertz / 1e9:g} GHz" if hertz >= 10**9 else f"{hertz / 1e6:g} MHz"


def format_value(key: str, value: object) -> str:
    """A value of a profile as people read it; what it is shows in its key."""
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, int) and key.endswith("bytes"):
        return format_bytes(value)
    if isinstance(value, int) and key.endswith("_hz"):
        return format_hz(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Rows of equal length, in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]).rstrip())
