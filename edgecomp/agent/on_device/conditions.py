"""What a latency depends on beside the model: clock, temperature, and who else is computing. Files in, figures out.

Everything is read from /sys and /proc, or below the folder that EDGECOMP_SYSFS_ROOT names (a device whose files are
stand-ins); what that lacks of /proc and of control groups comes from the system itself. What a system does not tell is
None, or absent.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from typing import Any

from .machine import read_text

ROOT = os.environ.get("EDGECOMP_SYSFS_ROOT", "")
_CPUS = "/sys/devices/system/cpu"
_THERMAL = "/sys/class/thermal"
# USER_HZ; /proc/stat counts in it whatever the kernel's own clock is.
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def parse_stat(text: str) -> dict[int, tuple[float, float]]:
    """By core of /proc/stat: seconds that it was busy, and seconds stolen by a hypervisor, since boot."""
    found: dict[int, tuple[float, float]] = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0][:3] == "cpu" and words[0][3:].isdigit():
            ticks = [int(word) for word in words[1:]] + [0] * 8
            user, nice, system, _, _, irq, softirq, steal = ticks[:8]
            busy = user + nice + system + irq + softirq
            found[int(words[0][3:])] = (busy / _TICKS_PER_S, steal / _TICKS_PER_S)
    return found


def parse_throttled(text: str) -> int | None:
    """Bits of `vcgencmd get_throttled` ("throttled=0x50005")."""
    name, _, value = text.strip().partition("=")
    try:
        return int(value, 16) if name == "throttled" else None
    except ValueError:
        return None


def parse_available_bytes(text: str) -> int | None:
    """MemAvailable of /proc/meminfo."""
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def parse_quota_periods(text: str) -> int | None:
    """`nr_throttled` of a control group's cpu.stat: periods in which its quota was used up."""
    for line in text.splitlines():
        if line.startswith("nr_throttled "):
            return int(line.split()[1])
    return None


def cpu_stat_paths(cgroup: str) -> list[str]:
    """Where cpu.stat may lie of the control groups that a process is in, from the text of /proc/self/cgroup.

    Its own and those around it: a quota is counted where it was set, not in the groups below. Inside a container the
    outermost may be the only one that can be seen. Version 1 has a tree for the processor alone, version 2 one for all.
    """
    found = []
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator or (controllers and "cpu" not in controllers.split(",")):
            continue
        folders = [folder for folder in path.split("/") if folder]
        while True:
            found.append("/".join(["/sys/fs/cgroup", *([controllers] if controllers else []), *folders, "cpu.stat"]))
            if not folders:
                break
            folders.pop()
    return found


def _read(path: str) -> str:
    """A file of /proc or of a control group."""
    return read_text(ROOT + path) or (read_text(path) if ROOT else "")


def _number(path: str) -> int | None:
    text = read_text(ROOT + path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _word(path: str) -> str | None:
    return read_text(ROOT + path).strip()[:40] or None


def _names(folder: str, prefix: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(ROOT + folder) if name.startswith(prefix))
    except OSError:
        return []


def core_speeds(cores: Iterable[int]) -> dict[int, tuple[int, int]]:
    """What tells big cores from small ones: capacity (of 1024) and highest frequency in kHz; 0 where not told."""
    found = {}
    for core in cores:
        capacity = _number("%s/cpu%d/cpu_capacity" % (_CPUS, core))
        highest = _number("%s/cpu%d/cpufreq/cpuinfo_max_freq" % (_CPUS, core))
        found[core] = (capacity or 0, highest or 0)
    return found


def pick_cores(speeds: dict[int, tuple[int, int]], big_cores: int | None) -> list[int]:
    """The cores to measure on: as many of the fastest as the profile says, or all that are as fast as the fastest.

    Args:
        speeds: Of the cores that may be used; see `core_speeds`.
        big_cores: How many the profile counts; None where nobody says.
    """
    ranked = sorted(speeds, key=lambda core: ((-speeds[core][0], -speeds[core][1]), core))
    if big_cores is None:
        return sorted(core for core in ranked if speeds[core] == speeds[ranked[0]])
    return sorted(ranked[:big_cores])


def passive_trips_c() -> dict[str, float]:
    """By thermal zone the lowest temperature at which the kernel begins to slow something down for it."""
    found = {}
    for zone, folder in thermal_zones().items():
        trips = []
        for name in _names(folder, "trip_point_"):
            if name.endswith("_type") and _word(f"{folder}/{name}") == "passive":
                value = _number(f"{folder}/{name[:-5]}_temp")
                if value is not None and value > 0:
                    trips.append(value / 1000)
        if trips:
            found[zone] = min(trips)
    return found


def thermal_zones() -> dict[str, str]:
    """Folders of the thermal zones, by number and name of the zone."""
    return {
        "{}:{}".format(zone, _word(f"{_THERMAL}/{zone}/type") or "?"): f"{_THERMAL}/{zone}"
        for zone in _names(_THERMAL, "thermal_zone")
    }


class Conditions:
    """Reads the same figures again and again.

    Args:
        cores: Those that are measured on.
    """

    def __init__(self, cores: Iterable[int]) -> None:
        self.cores = sorted(cores)
        self._zones = thermal_zones()
        self._cpu_stats = [path for path in cpu_stat_paths(_read("/proc/self/cgroup")) if _read(path)]

    def limits(self) -> dict[str, Any]:
        """What does not change: `cores`, `max_khz` by core, `passive_trips_c` by zone."""
        highest = {str(core): _number("%s/cpu%d/cpufreq/cpuinfo_max_freq" % (_CPUS, core)) for core in self.cores}
        return {
            "cores": self.cores,
            "max_khz": {core: khz for core, khz in highest.items() if khz is not None},
            "passive_trips_c": passive_trips_c(),
        }

    def sample(self) -> dict[str, Any]:
        """Figures of this moment; cheap, for it is taken while somebody else is being timed."""
        khz = {core: _number("%s/cpu%d/cpufreq/scaling_cur_freq" % (_CPUS, core)) for core in self.cores}
        governors = {core: _word("%s/cpu%d/cpufreq/scaling_governor" % (_CPUS, core)) for core in self.cores}
        temperatures = {name: _number(folder + "/temp") for name, folder in self._zones.items()}
        return {
            "t_s": round(time.monotonic(), 3),
            "clock_s": round(time.time(), 3),
            "khz": {str(core): value for core, value in khz.items() if value is not None},
            "governors": sorted({value for value in governors.values() if value is not None}),
            "temperatures_c": {name: value / 1000 for name, value in temperatures.items() if value is not None},
            "load_1m": _load(),
            "available_bytes": parse_available_bytes(_read("/proc/meminfo")),
        }

    def counters(self) -> dict[str, Any]:
        """What only grows: busy and stolen seconds of all the measured cores, periods without quota, throttled bits."""
        stat = parse_stat(_read("/proc/stat"))
        mine = [stat[core] for core in self.cores if core in stat]
        periods = [parse_quota_periods(_read(path)) for path in self._cpu_stats]
        known = [count for count in periods if count is not None]
        return {
            "t_s": time.monotonic(),
            "clock_s": time.time(),
            "busy_s": sum(busy for busy, _ in mine) if mine else None,
            "stolen_s": sum(stolen for _, stolen in mine) if mine else None,
            "quota_periods": sum(known) if known else None,
            "throttled": get_throttled(),
        }


def get_throttled() -> int | None:
    """A Raspberry Pi's firmware on voltage, clock and heat; None elsewhere."""
    try:
        done = subprocess.run(
            ["vcgencmd", "get_throttled"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_throttled(done.stdout.decode("ascii", "replace"))


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None
