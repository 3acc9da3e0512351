"""Cores of /sys/devices/system/cpu: which there are, how fast they go, and which are the big ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecomp.facts._fact import Fact, clean, number, number_list

_LINE = re.compile(r"/sys/devices/(?:system/)?(?:cpu/)?(?:cpu([0-9]{1,4})/)?(?:cpufreq/)?([a-z_]+(?:/cpus)?):(.*)")


@dataclass(frozen=True)
class Core:
    """One logical processor in sysfs; None where the kernel does not tell.

    Attributes:
        max_hz, min_hz: Range of its clock, by the driver that sets it.
        capacity: What the scheduler takes it to be worth; 1024 for the best one.
        governor: What chooses its clock.
    """

    number: int
    max_hz: int | None = None
    min_hz: int | None = None
    capacity: int | None = None
    governor: str | None = None
    driver: str | None = None


@dataclass(frozen=True)
class Cores:
    """All of them.

    Attributes:
        online, present: Numbers of those that are switched on, and of all; empty where the kernel does not tell.
        performance: Numbers of Intel's performance cores, on processors that have others beside them.
    """

    cores: tuple[Core, ...]
    online: tuple[int, ...] = ()
    present: tuple[int, ...] = ()
    performance: tuple[int, ...] = ()

    @property
    def governors(self) -> tuple[str, ...]:
        """Each governor once."""
        return tuple(dict.fromkeys(core.governor for core in self.cores if core.governor))


def parse_cores(text: str) -> Cores | None:
    """Lines of `grep -H`, path:value; None if none of them is known."""
    values: dict[int, dict[str, str]] = {}
    lists: dict[str, tuple[int, ...]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        if match[1] is None:
            lists[match[2]] = number_list(match[3])
        else:
            values.setdefault(int(match[1]), {})[match[2]] = match[3].strip()
    if not values and not lists.get("online") and not lists.get("present"):
        return None
    return Cores(
        cores=tuple(_core(index, values[index]) for index in sorted(values)),
        online=lists.get("online", ()),
        present=lists.get("present", ()),
        performance=lists.get("cpu_core/cpus", ()),
    )


def _core(index: int, values: dict[str, str]) -> Core:
    def hertz(key: str) -> int | None:
        kilohertz = number(values.get(key, ""))
        return kilohertz * 1000 if kilohertz is not None and kilohertz > 0 else None

    return Core(
        number=index,
        max_hz=hertz("cpuinfo_max_freq"),
        min_hz=hertz("cpuinfo_min_freq"),
        capacity=number(values.get("cpu_capacity", "")),
        governor=clean(values.get("scaling_governor", ""), 40) or None,
        driver=clean(values.get("scaling_driver", ""), 40) or None,
    )


_FILES = (
    "online", "present", "cpu[0-9]*/cpu_capacity", "cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "cpu[0-9]*/cpufreq/cpuinfo_min_freq", "cpu[0-9]*/cpufreq/scaling_governor", "cpu[0-9]*/cpufreq/scaling_driver",
)  # fmt: skip

CORES = Fact(
    "cores",
    (
        "sh",
        "-c",
        f'grep -H "" {" ".join(f"/sys/devices/system/cpu/{name}" for name in _FILES)} /sys/devices/cpu_core/cpus',
    ),
    parse_cores,
    "/sys/devices/system/cpu",
)
