"""Clock, temperature and load of a device without Python: what its shell can read, before and after each process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgecomp.agent.on_device.conditions import parse_available_bytes, parse_stat, parse_throttled
from edgecomp.agent.reports import Conditions, ProcessReport, Steady
from edgecomp.plain_text import one_line
from edgecomp.transports import Transport

_TIMEOUT_S = 30.0
_MOST_ZONES = 200
# One grep reads all of it: "PATH:LINE" for each line. A constant, for the device's shell to expand.
_SCRIPT = """
root=$EDGECOMP_SYSFS_ROOT
cpu=$root/sys/devices/system/cpu/cpu[0-9]*/cpufreq
zone=$root/sys/class/thermal/thermal_zone*
grep -sH . /proc/uptime /proc/loadavg /proc/stat /proc/meminfo \
    $cpu/scaling_cur_freq $cpu/scaling_governor $cpu/cpuinfo_max_freq \
    $zone/type $zone/temp $zone/trip_point_*_type $zone/trip_point_*_temp
echo "clock:$(date +%s)"
echo "firmware:$(vcgencmd get_throttled 2>/dev/null)"
"""
_CPU = re.compile(r"/cpu([0-9]{1,4})/cpufreq/([a-z_]+)$")
_ZONE = re.compile(r"/(thermal_zone[0-9]{1,4})/([a-z0-9_]+)$")


@dataclass(frozen=True)
class Snapshot:
    """A moment on the device, and what only grows.

    Attributes:
        stolen_s: Seconds that a hypervisor took from the measured cores since boot; None where it does not tell.
        throttled: Bits of `vcgencmd get_throttled`; None elsewhere than on a Raspberry Pi.
    """

    conditions: Conditions
    steady: Steady
    stolen_s: float | None
    throttled: int | None


def take_snapshot(transport: Transport, cores: Sequence[int] | None) -> Snapshot | None:
    """Read the conditions of a device; None where its shell cannot.

    Args:
        transport: Reaches the device.
        cores: Those that are measured on; None for all.

    Raises:
        CommandTimeoutError, TransportError: See `Transport.run`.
    """
    result = transport.run(["sh", "-c", _SCRIPT], timeout_s=_TIMEOUT_S)
    try:
        return parse_snapshot(result.stdout.decode(errors="replace"), cores)
    except (ValueError, IndexError):
        return None


def parse_snapshot(text: str, cores: Sequence[int] | None) -> Snapshot:
    """A snapshot of what the shell printed.

    Raises:
        ValueError, IndexError: It does not tell how long the device is up, or a figure is none.
    """
    files: dict[str, list[str]] = {}
    for line in text.splitlines():
        # Zones are named freely, paths are not: the first colon ends the path.
        path, separator, value = line.partition(":")
        if separator:
            files.setdefault(path, []).append(value)

    def whole(path: str) -> str:
        return "\n".join(files.get(path, ()))

    stat = parse_stat(whole("/proc/stat"))
    measured = sorted(stat if cores is None else cores)
    by_core, zones = _by_core(files, measured), _zones(files)
    loads = whole("/proc/loadavg").split()
    return Snapshot(
        conditions=Conditions(
            t_s=float(whole("/proc/uptime").split()[0]),
            clock_s=float(whole("clock")),
            khz={core: int(said["scaling_cur_freq"]) for core, said in by_core.items() if "scaling_cur_freq" in said},
            governors=tuple(
                sorted({said["scaling_governor"] for said in by_core.values() if "scaling_governor" in said})
            ),
            temperatures_c={
                _zone_name(name, said): int(said["temp"]) / 1000
                for name, said in zones.items()
                if said.get("temp", "").lstrip("-").isdigit()
            },
            load_1m=float(loads[0]) if loads else None,
            available_bytes=parse_available_bytes(whole("/proc/meminfo")),
        ),
        steady=Steady(
            cores=tuple(measured),
            max_khz={
                core: int(said["cpuinfo_max_freq"]) for core, said in by_core.items() if "cpuinfo_max_freq" in said
            },
            passive_trips_c=_passive_trips_c(zones),
        ),
        stolen_s=sum(stat[core][1] for core in measured if core in stat) if stat else None,
        throttled=parse_throttled(whole("firmware")),
    )


def process_report(before: Snapshot, after: Snapshot, runs: int) -> ProcessReport:
    """What happened around one process. Who else was computing cannot be told from outside, and stays None."""
    elapsed_s = after.conditions.t_s - before.conditions.t_s
    stolen_ratio = None
    if before.stolen_s is not None and after.stolen_s is not None:
        room_s = max(elapsed_s, 1e-9) * max(1, len(before.steady.cores))
        stolen_ratio = round(max(0.0, after.stolen_s - before.stolen_s) / room_s, 4)
    return ProcessReport(
        runs=runs,
        before=before.conditions,
        during=(),
        after=after.conditions,
        elapsed_s=round(elapsed_s, 3),
        others_ratio=None,
        stolen_ratio=stolen_ratio,
        quota_periods=None,
        throttled_before=before.throttled,
        throttled_after=after.throttled,
        # `date` counts whole seconds.
        clock_jump_s=round(after.conditions.clock_s - before.conditions.clock_s - elapsed_s),
        involuntary_switches=None,
    )


def _by_core(files: dict[str, list[str]], cores: Sequence[int]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path, lines in files.items():
        match = _CPU.search(path)
        if match and int(match.group(1)) in cores:
            found.setdefault(match.group(1), {})[match.group(2)] = one_line(lines[0], most_chars=40)
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _zones(files: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path, lines in files.items():
        match = _ZONE.search(path)
        if match and (match.group(1) in found or len(found) < _MOST_ZONES):
            found.setdefault(match.group(1), {})[match.group(2)] = one_line(lines[0], most_chars=40)
    return found


def _zone_name(name: str, said: dict[str, str]) -> str:
    return f"{name}:{said.get('type', '?')}"


def _passive_trips_c(zones: dict[str, dict[str, str]]) -> dict[str, float]:
    """By zone the lowest temperature at which the kernel begins to slow something down for it."""
    found: dict[str, float] = {}
    for zone, said in zones.items():
        trips = []
        for name, value in said.items():
            limit = said.get(name.replace("_type", "_temp"), "")
            if name.startswith("trip_point_") and name.endswith("_type") and value == "passive" and limit.isdigit():
                trips.append(int(limit) / 1000)
        lowest = min((limit for limit in trips if limit > 0), default=None)
        if lowest is not None:
            found[_zone_name(zone, said)] = lowest
    return found
