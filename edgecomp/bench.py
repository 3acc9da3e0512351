"""Time the model of a bundle on a device, and hold its outputs there against the golden ones.

A timing belongs to the machine that it was taken on. One that was taken on another machine than the profile's is
labelled so, and no budget of the profile's device is judged by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgecomp.agent.agent import architecture_of
from edgecomp.agent.remote import AgentReport, DelegateCoverage, DeviceFacts, GoldenCheck, run_agent
from edgecomp.bundle.manifest import Manifest
from edgecomp.bundle.reader import profile_of, read_bundle
from edgecomp.errors import BenchmarkError, BundleError, UsageError
from edgecomp.files import sha256_of
from edgecomp.profile import DeviceProfile
from edgecomp.transports import Transport

__all__ = ["DelegateCoverage", "DeviceFacts", "GoldenCheck", "Measurement", "bench_bundle", "percentile_ms"]

TOLERANCE_LSB = 64.0
"""Allowed difference between kernel families, for all but a few samples; see `agent.compare_golden`."""

_Z_95 = 1.96


@dataclass(frozen=True)
class BenchmarkFiles:
    """What a benchmark needs of a bundle."""

    manifest: Manifest
    model: bytes
    golden: bytes
    profile: DeviceProfile


@dataclass(frozen=True)
class Measurement:
    """A latency that was measured, and everything that it depends on.

    Attributes:
        device: Profile that the bundle was made for.
        chosen: Name of the candidate in the bundle; `model_sha256` of the very file that ran.
        on: The machine that it was measured on.
        label: The profile's name, or in what the machine is not the profile's device.
        mismatches: Those differences; empty where `is_profile_device`.
        p50_ms: Median, with its 95 % interval `low_ms` to `high_ms` (order statistics, as if runs were independent).
        init_ms: Loading the model and allocating its tensors.
        first_ms: The first inference, before any warm-up.
        samples_us: Every inference that was timed, in order, in microseconds.
        golden: The outputs on the device against the golden ones.
        delegate: Operators that a delegate took over; None where the runtime does not tell.
    """

    device: str
    chosen: str
    model_sha256: str
    on: str
    is_profile_device: bool
    label: str
    mismatches: tuple[str, ...]
    p50_ms: float
    p90_ms: float
    low_ms: float
    high_ms: float
    init_ms: float
    first_ms: float
    num_threads: int
    samples_us: tuple[float, ...]
    golden: GoldenCheck
    delegate: DelegateCoverage | None
    facts: DeviceFacts
    mode: Literal["measured"] = "measured"

    @property
    def runs(self) -> int:
        """How many inferences were timed."""
        return len(self.samples_us)

    @property
    def runtime(self) -> str:
        """Name of the runtime on the device."""
        return self.facts.runtime

    @property
    def runtime_version(self) -> str | None:
        """Its version, None where it does not tell."""
        return self.facts.runtime_version

    @property
    def kernel_family(self) -> str | None:
        """Kernels that ran, by the names of the manifest; None where the runtime does not tell."""
        return self.facts.kernel_family

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        plain = {
            name: value
            for name, value in vars(self).items()
            if name not in ("golden", "delegate", "facts", "samples_us")
        }
        return {
            "schema": "edgecomp.measurement/1",
            **plain,
            "mismatches": list(self.mismatches),
            "runs": self.runs,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "kernel_family": self.kernel_family,
            "golden": self.golden.model_dump(mode="json"),
            "delegate": None if self.delegate is None else self.delegate.model_dump(mode="json"),
            "facts": self.facts.model_dump(mode="json"),
            "samples_us": list(self.samples_us),
        }


def bench_bundle(
    bundle: Path,
    transport: Transport,
    *,
    profile: DeviceProfile | None = None,
    python: str = "python3",
    num_threads: int = 1,
    num_runs: int = 50,
    min_seconds: float = 1.0,
    max_seconds: float = 60.0,
    timeout_s: float | None = None,
    tolerance_lsb: float = TOLERANCE_LSB,
    progress: Callable[[str, int, int], None] | None = None,
) -> Measurement:
    """Run a bundle's model on a device: golden outputs first, then timing after a warm-up.

    Args:
        bundle: Folder or .zip, for a Linux device.
        transport: Reaches the device; stays open.
        profile: What the device ought to be; None for the bundle's own profile.
        python: Python on the device that has a TFLite runtime.
        num_threads: Of the interpreter.
        num_runs: At least so many inferences, and at least `min_seconds`, but no longer than `max_seconds`.
        min_seconds: See `num_runs`.
        max_seconds: See `num_runs`; the golden comparison is held to it too.
        timeout_s: For everything on the device together; None for what follows from `max_seconds`.
        tolerance_lsb: Allowed difference from the golden outputs where the kernels are others.
        progress: Called with (what, step, steps), maybe from another thread.

    Returns:
        The measurement; `golden.ok` is False where the device computes something else.

    Raises:
        UsageError: A number that makes no sense.
        BundleError: The bundle is missing, damaged or changed.
        BenchmarkError: A bundle for a microcontroller, no Python or no runtime on the device, or it crashed.
        RuntimeRefusedError: The runtime of the device does not take the model.
        CommandTimeoutError: It did not end in time.
        TransportError: The connection was lost.
    """
    _check_numbers(num_threads, num_runs, min_seconds, max_seconds, timeout_s, python)
    files = read_benchmark_files(bundle)
    profile = profile or files.profile
    if files.profile.kind == "mcu" or profile.kind == "mcu":
        raise BenchmarkError(
            f"{bundle} is for a microcontroller ({files.manifest.device}): it cannot be timed on a host.",
            hint="Flash it, or bench a bundle for a Linux device.",
        )
    made = files.manifest.golden
    job = {
        "num_threads": num_threads,
        "num_runs": num_runs,
        "min_seconds": min_seconds,
        "max_seconds": max_seconds,
        "tolerance_lsb": tolerance_lsb,
        "made_with": {
            "kernel_family": made.kernel_family,
            "runtime": made.runtime,
            "runtime_version": made.runtime_version,
            # The manifest has the machine's name as its system writes it ("arm64" on macOS).
            "architecture": architecture_of(made.architecture, 64),
        },
    }
    if progress is not None:
        progress(f"copying to {transport.host}", 0, 0)
    report = run_agent(
        transport,
        {"model.tflite": files.model, "golden.npz": files.golden},
        job,
        python=python,
        # Loading, the golden samples, warm-up and timing, on a slow board.
        timeout_s=2 * max_seconds + 180 if timeout_s is None else timeout_s,
        progress=progress,
    )
    return _measurement(files, profile, transport.host, num_threads, report)


def read_benchmark_files(bundle: Path) -> BenchmarkFiles:
    """The files of a bundle that a benchmark needs, verified against the manifest.

    Raises:
        BundleError: The bundle is missing, damaged or changed, or lacks one of them.
    """
    opened = read_bundle(bundle)
    profile = profile_of(opened)
    missing = [name for name in ("model.tflite", "golden.npz") if name not in opened.files]
    if missing:
        raise BundleError(f"{bundle}: {missing[0]} is missing.")
    return BenchmarkFiles(opened.manifest, opened.files["model.tflite"], opened.files["golden.npz"], profile)


def profile_mismatches(profile: DeviceProfile, facts: DeviceFacts) -> tuple[str, ...]:
    """In what a machine is not the device of a profile; without part ids only the architecture is compared."""
    expected, found = profile.cpu.part_ids, facts.cpu_part_ids
    if facts.architecture != profile.cpu.architecture:
        return (f"{facts.architecture}, profile says {profile.cpu.architecture}",)
    if not expected or (found and set(found) <= set(expected)):
        return ()
    shown = f"CPU part {' '.join(found)}" if found else "unknown CPU part"
    return (f"{shown}, profile says {' '.join(expected)}",)


def percentile_ms(samples_us: Sequence[float], percent: float) -> float:
    """Percentile of microseconds, in milliseconds; linear between the two nearest samples."""
    return _ms(float(np.percentile(np.asarray(samples_us), percent)))


def median_interval_ms(samples_us: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median by order statistics; below six samples it is their range.

    The ranks are (n + 1) / 2 -+ 1.96 * sqrt(n) / 2, rounded outwards: 18 and 33 of 50.
    """
    ordered = sorted(samples_us)
    count = len(ordered)
    middle, half = (count + 1) / 2, _Z_95 * math.sqrt(count) / 2
    low, high = max(1, math.floor(middle - half)), min(count, math.ceil(middle + half))
    return _ms(ordered[low - 1]), _ms(ordered[high - 1])


def _ms(microseconds: float) -> float:
    """To the nanosecond, which is all that the clock of the device tells."""
    return round(microseconds / 1000, 6)


def _measurement(
    files: BenchmarkFiles, profile: DeviceProfile, host: str, num_threads: int, report: AgentReport
) -> Measurement:
    mismatches = profile_mismatches(profile, report.facts)
    low_ms, high_ms = median_interval_ms(report.samples_us)
    return Measurement(
        device=profile.name,
        chosen=files.manifest.chosen,
        model_sha256=sha256_of(files.model),
        on=host,
        is_profile_device=not mismatches,
        label=f"not the profile's device: {'; '.join(mismatches)}" if mismatches else profile.name,
        mismatches=mismatches,
        p50_ms=percentile_ms(report.samples_us, 50),
        p90_ms=percentile_ms(report.samples_us, 90),
        low_ms=low_ms,
        high_ms=high_ms,
        init_ms=report.loaded.init_ms,
        first_ms=report.loaded.first_ms,
        num_threads=num_threads,
        samples_us=report.samples_us,
        golden=report.golden,
        delegate=report.loaded.delegate,
        facts=report.facts,
    )


def _check_numbers(
    num_threads: int, num_runs: int, min_seconds: float, max_seconds: float, timeout_s: float | None, python: str
) -> None:
    if num_threads < 1 or num_runs < 1:
        raise UsageError(f"Threads and runs must be at least 1, got {num_threads} and {num_runs}.")
    if not (0 <= min_seconds <= max_seconds < math.inf and max_seconds > 0):
        raise UsageError(f"The seconds must be 0 <= min <= max, got {min_seconds:g} and {max_seconds:g}.")
    if timeout_s is not None and not 0 < timeout_s < math.inf:
        raise UsageError(f"A time limit must be above zero, got {timeout_s:g} s.")
    if not python or python.startswith("-"):
        raise UsageError(f"A Python on the device is a name or a path, got {python!r}.")
