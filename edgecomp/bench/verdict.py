"""Whether a timing can be trusted, and if not, why: from samples, conditions and facts alone.

Thresholds and where they come from are in docs/bench.md. Everything that is wrong is said; the verdict is the gravest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from edgecomp.agent.reports import Conditions, DeviceFacts, GoldenCheck, ProcessReport, Steady
from edgecomp.bench.statistics import TimingStatistics
from edgecomp.profile import DeviceProfile

Verdict = Literal["valid", "noisy", "contended", "throttled", "wrong_device", "wrong_output"]
"""From best to worst."""

OTHERS_RATIO = 0.05
STOLEN_RATIO = 0.02
FREQUENCY_DROP = 0.05
FULL_SPEED = 0.95
HOT_C = 80.0
WARMING_C = 10.0
TAIL_RATIO = 3.0
STALL_RATIO = 1.25
OUTLIER_RATIO = 0.1
DRIFT_RATIO = 0.05
CLOCK_JUMP_S = 1.0

# Documented bits of `vcgencmd get_throttled`: now, and at some time since the last boot.
_THROTTLED_BITS = {
    0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit",
}  # fmt: skip
_SINCE_BOOT = 16

Finding = tuple[Verdict, str]


def judge(
    statistics: TimingStatistics,
    facts: DeviceFacts,
    *,
    precision_ratio: float,
    golden: GoldenCheck | None = None,
    mismatches: Sequence[str] = (),
    processes: Sequence[ProcessReport] = (),
    steady: Steady | None = None,
    num_threads: int = 1,
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on one configuration, and one clause for everything that speaks against it.

    Args:
        statistics: Of its times.
        facts: The machine.
        precision_ratio: What half of the interval should be at most, relative to the median.
        golden: The comparison with the golden outputs; None where there were none.
        mismatches: In what the machine is not the profile's device; see `profile_mismatches`.
        processes: What was seen of the fresh processes; empty where nobody watches (a board without a system).
        steady: What does not change of the device; None likewise.
        num_threads: So many cores are kept busy; others may rest.
    """
    findings = [
        *_outputs(golden),
        *_device(facts, mismatches),
        *_throttled(processes, steady, num_threads),
        *_contended(processes),
        *_noisy(statistics, precision_ratio),
        *_changing(processes),
    ]
    order: tuple[Verdict, ...] = get_args(Verdict)
    findings.sort(key=lambda finding: -order.index(finding[0]))
    return (findings[0][0] if findings else "valid"), tuple(reason for _, reason in findings)


def profile_mismatches(profile: DeviceProfile, facts: DeviceFacts) -> tuple[str, ...]:
    """In what a machine is not the device of a profile; without part ids only the architecture is compared."""
    expected, found = profile.cpu.part_ids, facts.cpu_part_ids
    if facts.architecture != profile.cpu.architecture:
        return (f"{facts.architecture}, profile says {profile.cpu.architecture}",)
    if not expected or (found and set(found) <= set(expected)):
        return ()
    shown = f"CPU part {' '.join(found)}" if found else "unknown CPU part"
    return (f"{shown}, profile says {' '.join(expected)}",)


def _outputs(golden: GoldenCheck | None) -> Iterable[Finding]:
    if golden is not None and not golden.ok:
        yield "wrong_output", (golden.message or "The outputs are not the golden ones").rstrip(".")


def _device(facts: DeviceFacts, mismatches: Sequence[str]) -> Iterable[Finding]:
    if facts.emulator_signs:
        yield "wrong_device", f"an emulator, whose times are no latencies: {facts.emulator_signs[0]}"
    for mismatch in mismatches:
        yield "wrong_device", f"not the profile's device: {mismatch}"


def _throttled(processes: Sequence[ProcessReport], steady: Steady | None, num_threads: int) -> Iterable[Finding]:
    bits = _firmware_bits(processes)
    if bits:
        yield "throttled", f"the firmware says {', '.join(bits)}"
    periods = sum(process.quota_periods or 0 for process in processes)
    if periods:
        yield "throttled", f"the CPU quota of its control group was used up in {periods} periods"
    if steady is None:
        return
    yield from _frequencies(processes, steady.max_khz, num_threads)
    hottest = {zone: max(seen) for zone, seen in _temperatures(processes).items()}
    # Where the kernel says when it slows down for a zone that holds: for skin earlier than for a processor.
    over = {zone: value - steady.passive_trips_c.get(zone, HOT_C) for zone, value in hottest.items()}
    if over and max(over.values()) >= 0:
        zone = max(over, key=lambda name: over[name])
        limit = hottest[zone] - over[zone]
        yield "throttled", f"{zone} reached {hottest[zone]:.0f} °C, and it slows down from {limit:.0f} °C"


def _firmware_bits(processes: Sequence[ProcessReport]) -> list[str]:
    """Set at the end, or at some time in between: the bits that stay since boot tell that."""
    found: dict[str, None] = {}
    for process in processes:
        before, after = process.throttled_before, process.throttled_after
        if before is None or after is None:
            continue
        for bit, name in _THROTTLED_BITS.items():
            is_new = after & ~before & (1 << (bit + _SINCE_BOOT))
            if (before | after) & (1 << bit) or is_new:
                found[name] = None
    return list(found)


def _frequencies(processes: Sequence[ProcessReport], max_khz: Mapping[str, int], num_threads: int) -> Iterable[Finding]:
    """Cores that are slower while they are timed than at another time, or than they could be.

    With one thread on four cores of clocks of their own three of them rest: of each moment as many count as there are
    threads, the fastest.
    """
    busy: list[tuple[float, int, str]] = []  # Of its highest frequency, that frequency, core.
    for process in processes:
        for moment in process.during:
            shares = [
                (khz / max_khz[core], max_khz[core], core) for core, khz in moment.khz.items() if max_khz.get(core)
            ]
            busy += sorted(shares, key=lambda item: (-item[0], item[2]))[:num_threads]
    if not busy:
        return
    (low, highest, core), high = min(busy), max(busy)[0]
    if low < (1 - FREQUENCY_DROP) * high:
        yield (
            "throttled",
            f"core {core} ran at {low * highest / 1000:.0f} MHz, at another time at {high * highest / 1000:.0f}",
        )
    elif high < FULL_SPEED:
        governors = {name for process in processes for moment in process.during for name in moment.governors}
        why = f" (governor {', '.join(sorted(governors))})" if governors else ""
        yield "throttled", f"core {core} ran at {low * highest / 1000:.0f} of {highest / 1000:.0f} MHz{why}"


def _contended(processes: Sequence[ProcessReport]) -> Iterable[Finding]:
    for share, limit, who in (
        (_mean(process.others_ratio for process in processes), OTHERS_RATIO, "other processes"),
        (_mean(process.stolen_ratio for process in processes), STOLEN_RATIO, "the hypervisor's other guests"),
    ):
        if share is not None and share > limit:
            yield "contended", f"{who} used {share:.0%} of the measured cores (allowed: {limit:.0%})"


def _noisy(statistics: TimingStatistics, precision_ratio: float) -> Iterable[Finding]:
    half = statistics.half_width_ratio
    if half > precision_ratio:
        yield (
            "noisy",
            f"the median is known to ±{half:.1%} after {statistics.num_processes} processes (wanted: "
            f"±{precision_ratio:.1%})",
        )
    far = statistics.num_outliers / statistics.num_samples
    if statistics.p99_ms > TAIL_RATIO * statistics.p50_ms:
        yield "noisy", f"1 in 100 inferences takes {statistics.p99_ms / statistics.p50_ms:.1f} times the median or more"
    if statistics.mean_ms > STALL_RATIO * statistics.p50_ms:
        # A process that is stopped time and again, as by a quota: too few of many short inferences to be 1 in 100.
        yield "noisy", f"an inference takes {statistics.mean_ms / statistics.p50_ms:.1f} times the median on average"
    if far > OUTLIER_RATIO:
        yield "noisy", f"{far:.0%} of the inferences are far from the median"
    drift = statistics.drift_ratio
    if drift is not None and abs(drift) > DRIFT_RATIO:
        # A clock that sinks where nobody tells frequency or temperature, or a warm-up that was too short.
        yield (
            "noisy",
            f"inferences became {abs(drift):.0%} {'slower' if drift > 0 else 'faster'} within a process: measure "
            "--sustained",
        )


def _changing(processes: Sequence[ProcessReport]) -> Iterable[Finding]:
    """Conditions that were not the same throughout."""
    governors = {moment.governors for moment in _moments(processes) if moment.governors}
    if len(governors) > 1:
        names = sorted({name for group in governors for name in group})
        yield "noisy", f"the governor changed meanwhile ({', '.join(names)})"
    for zone, seen in _temperatures(processes).items():
        if max(seen) - seen[0] > WARMING_C:
            yield "noisy", f"{zone} went from {seen[0]:.0f} to {max(seen):.0f} °C: measure --sustained, or let it cool"
            return


def conditions_notes(processes: Sequence[ProcessReport]) -> tuple[str, ...]:
    """What is worth knowing and speaks against nothing."""
    jumps = [process.clock_jump_s for process in processes if abs(process.clock_jump_s) > CLOCK_JUMP_S]
    notes = [
        f"The wall clock was moved by {jump:+.0f} s meanwhile; times are of a clock that nobody moves."
        for jump in jumps
    ]
    every = max((process.every for process in processes), default=1)
    if every > 1:
        notes.append(f"Of the inferences of a process one in {every} was kept, by number, for there are so many.")
    return tuple(notes)


def _moments(processes: Sequence[ProcessReport]) -> list[Conditions]:
    return [moment for process in processes for moment in (process.before, *process.during, process.after)]


def _temperatures(processes: Sequence[ProcessReport]) -> dict[str, list[float]]:
    """By zone, in order; without that of the power chip, of which NVIDIA's boards say 100 °C at any time."""
    found: dict[str, list[float]] = {}
    for moment in _moments(processes):
        for zone, value in moment.temperatures_c.items():
            if "pmic" not in zone.lower():
                found.setdefault(zone, []).append(value)
    return dict(sorted(found.items()))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
