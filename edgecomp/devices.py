"""The commands on profiles: list them, check files, start a new one.

The list does not import pydantic: it is there at once.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecomp.errors import EdgecompError, ProfileError, UsageError, did_you_mean
from edgecomp.files import stage_file, write_atomic
from edgecomp.profile_files import (
    Layer,
    Resolved,
    Table,
    arena_region,
    find_profile,
    is_unverified,
    leaves,
    profile_names,
    read_file,
    resolve,
    source_of,
    toml_tables,
    toml_value,
)
from edgecomp.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from edgecomp.profile import DeviceProfile


@dataclass(frozen=True)
class Summary:
    """One line of the list.

    Attributes:
        ram_bytes, flash_bytes: Left for a model; no flash where storage is no limit.
        unverified: How many values say that nobody checked them.
    """

    name: str
    kind: str
    description: str
    extends: tuple[str, ...]
    architecture: str
    core: str
    cores: int
    clock_hz: int
    features: tuple[str, ...]
    ram_bytes: int
    flash_bytes: int | None
    runtime: str
    kernels: str
    unverified: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Filters:
    """What a listed profile must have; None and empty let everything through."""

    kind: str | None = None
    runtime: str | None = None
    kernels: str | None = None
    core: str | None = None
    features: tuple[str, ...] = ()
    min_ram_bytes: int | None = None
    min_flash_bytes: int | None = None

    def let_through(self, summary: Summary) -> bool:
        """Whether a profile has it all. Storage without a limit is enough for any model."""
        return (
            self.kind in (None, summary.kind)
            and self.runtime in (None, summary.runtime)
            and self.kernels in (None, summary.kernels)
            and (self.core is None or self.core.lower() in summary.core.lower())
            and set(self.features) <= set(summary.features)
            and (self.min_ram_bytes is None or summary.ram_bytes >= self.min_ram_bytes)
            and (self.min_flash_bytes is None or (summary.flash_bytes or math.inf) >= self.min_flash_bytes)
        )


def list_devices(filters: Filters) -> list[Summary]:
    """The shipped profiles that the filters let through, by name.

    Raises:
        UsageError: A feature that no profile has.
    """
    found = [_summary(resolve(read_file(find_profile(name)))) for name in profile_names()]
    known = {feature for summary in found for feature in summary.features}
    for feature in filters.features:
        if feature not in known:
            raise UsageError(f"No profile has the feature {feature!r}.", hint=did_you_mean(feature, known))
    return [summary for summary in found if filters.let_through(summary)]


def _summary(resolved: Resolved) -> Summary:
    # Shipped files are valid: tests validate every one, so the list need not.
    table = resolved.table
    cpu, runtime = table["cpu"], table["runtime"]
    arena, flash = arena_of(table), _regions(table, "flash")
    return Summary(
        name=table["name"],
        kind=table["kind"],
        description=table["description"],
        extends=resolved.extends,
        architecture=cpu["architecture"],
        core=cpu["core"],
        cores=cpu["cores"],
        clock_hz=cpu["clock_hz"],
        features=tuple(cpu.get("features", ())),
        ram_bytes=_usable(table["memory"]["regions"][arena]),
        flash_bytes=sum(_usable(region) for region in flash.values()) if flash else None,
        runtime=runtime["name"],
        kernels=runtime["kernels"],
        unverified=sum(is_unverified(source_of(table["sources"], key)) for key, _ in leaves(table)),
    )


def _regions(table: Table, kind: str) -> dict[str, Table]:
    return {name: region for name, region in table["memory"]["regions"].items() if region["kind"] == kind}


def arena_of(table: Table) -> str:
    """The RAM region of a profile's table that takes the tensor arena."""
    ram = {name: (_usable(r), bool(r.get("external", False))) for name, r in _regions(table, "ram").items()}
    return str(table["memory"].get("arena") or arena_region(ram))


def _usable(region: Table) -> int:
    return size_of(region["bytes"]) - size_of(region.get("reserved_bytes", 0))


def size_of(value: int | str) -> int:
    """Bytes of a size as a profile states it: a number, or text like "640KiB"."""
    return parse_bytes(value) if isinstance(value, str) else value


def _size_text(size_bytes: int) -> int | str:
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return size_bytes


@dataclass(frozen=True)
class Check:
    """What `validate` found in one file: a profile, or the problems."""

    path: Path
    profile: DeviceProfile | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "path": str(self.path),
            "ok": self.profile is not None,
            "name": None if self.profile is None else self.profile.name,
            "problems": list(self.problems),
            "unverified": [] if self.profile is None else list(self.profile.unverified),
        }


def check_file(path: Path) -> Check:
    """Read and validate a user's file; every problem in one go."""
    from edgecomp.profile import explain

    try:
        profile, problems = explain(resolve(read_file(path)))
    except ProfileError as error:
        return Check(path, None, (str(error).removeprefix(f"{path}: "),))
    return Check(path, profile, tuple(problems))


@dataclass(frozen=True)
class Wish:
    """What is known of a new device; None where nothing is."""

    kind: str | None = None
    core: str | None = None
    ram_bytes: int | None = None
    flash_bytes: int | None = None

    def distance(self, table: Table) -> float:
        """How far a profile is from it: a factor of two in memory weighs 1, another core as much as a factor of 16."""
        if self.kind not in (None, table["kind"]):
            return math.inf
        distance = 0.0
        if self.core is not None and self.core.lower() not in table["cpu"]["core"].lower():
            distance += 4
        if self.ram_bytes is not None:
            distance += abs(math.log2(self.ram_bytes / size_of(table["memory"]["regions"][arena_of(table)]["bytes"])))
        if self.flash_bytes is not None:
            flash = sum(size_of(region["bytes"]) for region in _regions(table, "flash").values())
            distance += abs(math.log2(self.flash_bytes / flash)) if flash else 4
        return distance


def nearest(wish: Wish) -> str:
    """The shipped profile that is nearest to a wish; of several, one that extends no other."""
    resolved = [resolve(read_file(find_profile(name))) for name in profile_names()]
    best = min(resolved, key=lambda item: (wish.distance(item.table), len(item.layers), item.table["name"]))
    return str(best.table["name"])


def new_profile(name: str, start: str | None, wish: Wish) -> tuple[Path, str]:
    """Write NAME.toml in this folder, a profile that extends another; returns its path and what it extends.

    Args:
        name: Of the device and its file.
        start: Profile or path to extend; the nearest shipped one if None.
        wish: What is known: it is written into the file as unverified.

    Raises:
        UsageError: The name is taken or no name, nothing is known, or what is known contradicts the other profile.
        ProfileError: The profile to extend is unknown or wrong.
        EdgecompError: The folder cannot be written to.
    """
    path = Path(f"{name}.toml")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UsageError(f"A name has lower-case letters, digits, - and _, and no .toml; got {name!r}.")
    if name in profile_names():
        raise UsageError(f"{name} ships with edgecomp: choose another name.")
    if start is None and wish == Wish():
        raise UsageError(
            "Nothing is known of the new device.", hint="Say what it is like: --from PROFILE, or --kind, --core, --ram."
        )
    extends = start or nearest(wish)
    text = template(name, resolve(read_file(find_profile(extends))).table, extends, wish)
    check = check_text(path, text)
    if check.profile is None:
        raise UsageError(
            f"{extends} with these figures is no profile: {'; '.join(check.problems)}.",
            hint="Leave the figure out and set it in the file.",
        )
    write_profile(path, text)
    return path, extends


def check_text(path: Path, text: str) -> Check:
    """The profile that a text would be at a path, or every problem; nothing is written."""
    from edgecomp.profile import explain

    profile, problems = explain(resolve(Layer(path, text, tomllib.loads(text))))
    return Check(path, profile, tuple(problems))


def write_profile(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a profile, whole or not at all.

    Raises:
        UsageError: The file is there, and is not to be overwritten.
        EdgecompError: It cannot be written.
    """
    try:
        if overwrite:
            write_atomic(path, text.encode())
            return
        staged = stage_file(path, text.encode())
        try:
            # A link fails where the name is taken; a rename would overwrite.
            os.link(staged, path)
        finally:
            with contextlib.suppress(OSError):
                staged.unlink()
    except FileExistsError:
        raise UsageError(f"{path} exists already.", hint="Choose another name, or remove the file.") from None
    except OSError as error:
        raise EdgecompError(f"{path} cannot be written: {error.strerror}.") from error


def template(name: str, parent: Table, extends: str, wish: Wish) -> str:
    """Text of a profile that extends `parent`: what is known is stated, everything else stands there as a comment."""
    known = _known(parent, wish)
    tables = {header: dict(values) for header, values in toml_tables(parent) if header not in ("", "sources")}
    for key, value in known.items():
        header, _, last = key.rpartition(".")
        if header:
            tables.setdefault(header, {})[last] = value
    lines = [
        f"# {name}: what differs from {extends}. Uncomment and change; every figure stated here needs a source here.",
        "schema_version = 1",
        f"name = {toml_value(name)}",
        f"extends = {toml_value(extends)}",
        '# without = ["cost"]          # what of it does not hold at all',
        f"description = {toml_value(f'{name}, started from {extends}')}",
    ]
    lines += [f"kind = {toml_value(known['kind'])}" if "kind" in known else f"# kind = {toml_value(parent['kind'])}"]
    for header, values in tables.items():
        stated = any(f"{header}.{key}" in known for key in values)
        lines += ["", f"[{header}]" if stated else f"# [{header}]"]
        for key, value in values.items():
            lines.append(f"{'' if f'{header}.{key}' in known else '# '}{key} = {toml_value(value)}")
    lines += ["", "[sources]"]
    lines += [f'"{key}" = "unverified"    # or where the figure comes from' for key in known if key.endswith("bytes")]
    lines += ['# "cpu.clock_hz" = "where the figure comes from, or unverified"']
    return "\n".join(lines) + "\n"


def _known(parent: Table, wish: Wish) -> dict[str, Any]:
    """Dotted keys of what is known and differs from the parent."""
    known: dict[str, Any] = {}
    if wish.kind not in (None, parent["kind"]):
        known["kind"] = wish.kind
    if wish.core is not None and wish.core.lower() not in parent["cpu"]["core"].lower():
        known["cpu.core"] = wish.core
    arena, flash = arena_of(parent), _regions(parent, "flash")
    if wish.ram_bytes is not None and wish.ram_bytes != size_of(parent["memory"]["regions"][arena]["bytes"]):
        known[f"memory.regions.{arena}.bytes"] = _size_text(wish.ram_bytes)
    if wish.flash_bytes is not None:
        if len(flash) > 1:
            raise UsageError(
                f"--flash {format_bytes(wish.flash_bytes)}: {parent['name']} has {len(flash)} regions of flash.",
                hint="Leave --flash out and set the regions in the file.",
            )
        region = next(iter(flash), "flash")
        if not flash:
            known[f"memory.regions.{region}.kind"] = "flash"
        if not flash or wish.flash_bytes != size_of(flash[region]["bytes"]):
            known[f"memory.regions.{region}.bytes"] = _size_text(wish.flash_bytes)
    return known
