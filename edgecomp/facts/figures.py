"""What the facts come to in the words of a profile: each figure with where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgecomp.facts.collect import Facts
from edgecomp.facts.cores import Core
from edgecomp.facts.cpuinfo import CpuInfo, Processor
from edgecomp.facts.processor import core_name, features_of, x86_level

T = TypeVar("T")

_ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l", "armv8b": "armv7l", "armv7": "armv7l"}
_IN_32_BITS = {"aarch64": "armv7l", "x86_64": "i686"}

# A core that is clocked lower than this share of the fastest one is a small one, even where it is the same part.
_BIG_CLOCK_RATIO = 0.75

# What a profile can hold (edgecomp.hardware).
_CORES = (1, 256)
_CLOCK_HZ = (10**6, 10**10)
_BYTES = (1, 10**12 - 1)


@dataclass(frozen=True)
class Figure(Generic[T]):
    """A value, and where on the device it comes from."""

    value: T
    source: str


@dataclass(frozen=True)
class Figures:
    """A device in the words of a profile; None where its facts do not tell.

    Attributes:
        kind: "linux" or "android"; None for another operating system.
        names: What the device calls itself: of the device tree, of the board, of the phone or of the firmware.
        machine: Architecture of the kernel; `architecture` is that of the programs.
        cores: Those that are switched on; a core with two threads counts once.
        big_cores: As many of them as are like the fastest.
        clock_hz: Highest clock of the fastest core.
        part_ids: "CPU part" of every kind of core, the fastest first.
        reserved_bytes: RAM that system and programs had taken when it was asked.
        notes: What makes a figure weaker than it looks, one sentence each.
    """

    kind: str | None
    names: tuple[Figure[str], ...]
    machine: str | None
    architecture: Figure[str] | None
    core: Figure[str] | None
    cores: Figure[int] | None
    big_cores: Figure[int] | None
    clock_hz: Figure[int] | None
    part_ids: Figure[tuple[str, ...]] | None
    features: Figure[tuple[str, ...]] | None
    ram_bytes: Figure[int] | None
    reserved_bytes: Figure[int] | None
    notes: tuple[str, ...]


def figures_of(facts: Facts) -> Figures:
    """Draw the figures from the facts. A pure function."""
    notes: list[str] = []
    machine = None if facts.system is None else _architecture(facts.system.machine)
    # An emulator shows the host's /proc/cpuinfo under another architecture: nothing in it is this device's.
    cpuinfo = facts.cpuinfo
    if cpuinfo is not None and machine is not None and not _is_of(cpuinfo, machine):
        notes.append(f"/proc/cpuinfo is not that of a processor with the architecture {machine}: an emulator's host?")
        cpuinfo = None
    fast_first = _fastest_first(cpuinfo, facts)
    big = _big_ones(fast_first, facts)
    ram, reserved = _memory(facts, notes)
    return Figures(
        kind=_kind(facts),
        names=_names(facts),
        machine=machine,
        architecture=_programs_architecture(facts, machine),
        core=_core(cpuinfo, fast_first, machine),
        cores=_count(fast_first, facts, notes),
        big_cores=_within(Figure(_physical(big), "cpufreq, CPU part"), _CORES, "big cores", notes) if big else None,
        clock_hz=_clock(cpuinfo, facts, notes),
        part_ids=_parts(fast_first),
        features=_features(cpuinfo),
        ram_bytes=ram,
        reserved_bytes=reserved,
        notes=tuple(notes),
    )


def _architecture(machine: str) -> str:
    return _ARCHITECTURES.get(machine.lower(), machine.lower())


def _is_of(cpuinfo: CpuInfo, machine: str) -> bool:
    is_arm = any(item.part_id for item in cpuinfo.processors)
    is_x86 = {"fpu", "tsc"} <= set(cpuinfo.flags)
    return not is_x86 if machine.startswith(("arm", "aarch")) else not (is_arm and machine == "x86_64")


def _kind(facts: Facts) -> str | None:
    if facts.phone is not None:
        return "android"
    return "linux" if facts.system is not None and facts.system.name == "Linux" else None


def _names(facts: Facts) -> tuple[Figure[str], ...]:
    board = facts.cpuinfo.board if facts.cpuinfo else None
    phone = facts.phone.model if facts.phone else None
    product = facts.dmi.product if facts.dmi else None
    candidates = ((facts.model, "device tree"), (phone, "getprop"), (board, "/proc/cpuinfo"), (product, "DMI"))
    found = {text: Figure(text, source) for text, source in reversed(candidates) if text}
    return tuple(reversed(found.values()))


def _programs_architecture(facts: Facts, machine: str | None) -> Figure[str] | None:
    if machine is None:
        return None
    bits, source = facts.userland_bits, "getconf LONG_BIT"
    if facts.python is not None:
        # It is Python that loads the runtime.
        bits, source = facts.python.bits, "python"
    if bits == 32 and machine in _IN_32_BITS:
        return Figure(_IN_32_BITS[machine], f"uname ({machine}), {source} (32 bits)")
    return Figure(machine, "uname")


def _fastest_first(cpuinfo: CpuInfo | None, facts: Facts) -> list[tuple[Processor, Core]]:
    """Every processor that is switched on, with what sysfs says of it."""
    if cpuinfo is not None:
        processors = {item.number: item for item in cpuinfo.processors}
    else:
        online = facts.cores.online if facts.cores is not None else ()
        processors = {index: Processor(index) for index in online}
    known = {core.number: core for core in facts.cores.cores} if facts.cores is not None else {}
    pairs = [(item, known.get(index, Core(index))) for index, item in processors.items()]
    return sorted(pairs, key=lambda pair: (-(pair[1].capacity or 0), -(pair[1].max_hz or 0), pair[0].number))


def _big_ones(fast_first: Sequence[tuple[Processor, Core]], facts: Facts) -> list[Processor]:
    if not fast_first:
        return []
    performance = facts.cores.performance if facts.cores is not None else ()
    if performance:
        return [item for item, _ in fast_first if item.number in performance] or [item for item, _ in fast_first]
    best, fastest = fast_first[0]
    least_hz = (fastest.max_hz or 0) * _BIG_CLOCK_RATIO
    return [item for item, core in fast_first if item.part_id == best.part_id and (core.max_hz or 0) >= least_hz]


def _physical(processors: Sequence[Processor]) -> int:
    """How many cores: two threads of one core share what computes."""
    return len({item.core_key or (-1, item.number) for item in processors})


def _count(fast_first: Sequence[tuple[Processor, Core]], facts: Facts, notes: list[str]) -> Figure[int] | None:
    if not fast_first:
        return None
    cores = _physical([item for item, _ in fast_first])
    if cores < len(fast_first):
        notes.append(f"{len(fast_first)} threads run on {cores} cores; the profile counts cores.")
    present = len(facts.cores.present) if facts.cores is not None else 0
    if present > len(fast_first):
        off = present - len(fast_first)
        notes.append(f"{off} of {present} processors are switched off; the profile counts the rest.")
    return _within(Figure(cores, "/proc/cpuinfo" if facts.cpuinfo else "online processors"), _CORES, "cores", notes)


def _clock(cpuinfo: CpuInfo | None, facts: Facts, notes: list[str]) -> Figure[int] | None:
    fastest = max((core.max_hz or 0 for core in facts.cores.cores), default=0) if facts.cores is not None else 0
    if fastest:
        return _within(Figure(fastest, "cpufreq, cpuinfo_max_freq"), _CLOCK_HZ, "clock", notes)
    if cpuinfo is not None and (hertz := max(cpuinfo.rated_hz or 0, cpuinfo.current_hz or 0)):
        notes.append("The kernel tells no highest clock (no cpufreq): the one in /proc/cpuinfo stands for it.")
        return _within(Figure(hertz, "/proc/cpuinfo, no cpufreq"), _CLOCK_HZ, "clock", notes)
    return None


def _parts(fast_first: Sequence[tuple[Processor, Core]]) -> Figure[tuple[str, ...]] | None:
    parts = tuple(dict.fromkeys(item.part_id for item, _ in fast_first if item.part_id))
    return Figure(parts, "/proc/cpuinfo, CPU part") if parts else None


def _core(
    cpuinfo: CpuInfo | None, fast_first: Sequence[tuple[Processor, Core]], machine: str | None
) -> Figure[str] | None:
    if cpuinfo is None or not fast_first:
        return None
    if machine == "x86_64":
        return Figure(x86_level(cpuinfo.flags), "/proc/cpuinfo, flags")
    best = fast_first[0][0]
    name = core_name(best.implementer, best.part_id)
    return None if name is None else Figure(name, f"/proc/cpuinfo, CPU part {best.part_id}")


def _features(cpuinfo: CpuInfo | None) -> Figure[tuple[str, ...]] | None:
    found = features_of(cpuinfo.flags) if cpuinfo is not None else ()
    return Figure(found, "/proc/cpuinfo") if found else None


def _memory(facts: Facts, notes: list[str]) -> tuple[Figure[int] | None, Figure[int] | None]:
    memory = facts.memory
    if memory is None:
        return None, None
    total = _within(Figure(memory.total_bytes, "/proc/meminfo, MemTotal"), _BYTES, "RAM", notes)
    if total is None or not memory.available_bytes:
        return total, None
    source = "(MemFree + Buffers + Cached)" if memory.is_estimate else "MemAvailable"
    return total, Figure(memory.total_bytes - memory.available_bytes, f"/proc/meminfo, MemTotal - {source}")


def _within(figure: Figure[int], allowed: tuple[int, int], what: str, notes: list[str]) -> Figure[int] | None:
    if allowed[0] <= figure.value <= allowed[1]:
        return figure
    notes.append(f"{what} of {figure.value} is outside what a profile holds ({allowed[0]} to {allowed[1]}): left out.")
    return None
