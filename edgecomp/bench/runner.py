"""Bundles on one device: golden outputs, latency, memory, a verdict."""

from __future__ import annotations

import statistics as stdlib_statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from edgecomp.agent.on_device.machine import architecture_of
from edgecomp.agent.remote import Progress
from edgecomp.agent.reports import ConfigurationReport
from edgecomp.bench.measurement import BenchReport, FailedMeasurement, Measurement
from edgecomp.bench.scores import DeviceScore, Evaluation
from edgecomp.bench.session import Subject, measure
from edgecomp.bench.settings import BenchSettings
from edgecomp.bench.statistics import timing_statistics
from edgecomp.bench.verdict import conditions_notes, judge, profile_mismatches
from edgecomp.bundle.manifest import Manifest
from edgecomp.bundle.reader import Bundle, profile_of, read_bundle
from edgecomp.errors import BenchmarkError, BundleError, EdgecompError
from edgecomp.files import sha256_of
from edgecomp.profile import DeviceProfile
from edgecomp.transports import Transport

ALL_BIG_CORES = 0
"""As a number of threads: one for each of the profile's big cores."""

THREADS = (1, ALL_BIG_CORES)


@dataclass(frozen=True)
class BenchmarkFiles:
    """A bundle as a benchmark needs it, and the profile of the device that it was made for."""

    opened: Bundle
    profile: DeviceProfile

    @property
    def bundle(self) -> Path:
        """Where it lies."""
        return self.opened.path

    @property
    def manifest(self) -> Manifest:
        """What is known of it."""
        return self.opened.manifest

    @property
    def model(self) -> bytes:
        """The .tflite file."""
        return self.opened.files["model.tflite"]

    @property
    def golden(self) -> bytes:
        """The .npz of golden samples."""
        return self.opened.files["golden.npz"]


def bench_bundles(
    bundles: Sequence[Path],
    transport: Transport,
    *,
    profile: DeviceProfile | None = None,
    python: str = "python3",
    threads: Sequence[int] = THREADS,
    settings: BenchSettings | None = None,
    evaluation: Evaluation | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Run the models of bundles on a device: golden outputs first, then timing, all of them in alternation.

    Args:
        bundles: Folders or .zips, for a device with an operating system.
        transport: Reaches the device; stays open.
        profile: What the device ought to be; None for each bundle's own profile.
        python: Python on the device that has a TFLite runtime.
        threads: Numbers of threads to measure with; `ALL_BIG_CORES` for one a core. What comes to the same number
            on the device is measured once.
        settings: None for the usual ones.
        evaluation: Samples to score on the device; None for no score.
        progress: Called with (what, step, steps), maybe from another thread.

    Returns:
        A measurement for each bundle and number of threads; `failed` names those that could not be had, and scores.

    Raises:
        UsageError: A number that makes no sense.
        BundleError: A bundle is missing, damaged or changed.
        BenchmarkError: A bundle for a microcontroller, no Python or no runtime on the device, or it crashed.
        RuntimeRefusedError: The runtime of the device does not take the model.
        CommandTimeoutError: It did not end in time.
        TransportError: The connection was lost.
    """
    settings = settings or BenchSettings()
    opened = [read_benchmark_files(bundle) for bundle in bundles]
    plan: list[tuple[BenchmarkFiles, DeviceProfile, Subject]] = []
    for files in opened:
        device = profile or files.profile
        refuse_microcontroller(files, device)
        for number, count in enumerate(threads_of(device, threads)):
            samples = evaluation.inputs_for(files.manifest) if evaluation is not None and number == 0 else None
            plan.append((files, device, _subject(files, device, count, samples)))
    report = measure(transport, [item[2] for item in plan], settings, python=python, progress=progress)
    measurements: dict[tuple[str, int], Measurement] = {}
    failed: list[FailedMeasurement] = []
    for planned, found in zip(plan, report.configurations, strict=True):
        files, device, subject = planned
        if isinstance(found, ConfigurationReport):
            measured = _measurement(files, device, transport.host, found, settings)
            if evaluation is not None and subject.evaluate is not None:
                try:
                    measured = replace(measured, score=_score(files, found, evaluation))
                except EdgecompError as error:  # The latency is known all the same.
                    failed.append(_failed(planned, transport.host, f"There is no score. {error.message}", error.hint))
            measurements.setdefault((str(files.bundle), found.num_threads), measured)
        else:
            failed.append(_failed(planned, transport.host, found, None))
    return BenchReport(tuple(measurements.values()), tuple(failed))


def bench_bundle(
    bundle: Path,
    transport: Transport,
    *,
    profile: DeviceProfile | None = None,
    python: str = "python3",
    num_threads: int = 1,
    settings: BenchSettings | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """One bundle with one number of threads; see `bench_bundles`."""
    report = bench_bundles(
        [bundle], transport, profile=profile, python=python, threads=(num_threads,), settings=settings,
        progress=progress,
    )  # fmt: skip
    return report.measurements[0]


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
    return BenchmarkFiles(opened, profile)


def refuse_microcontroller(files: BenchmarkFiles, device: DeviceProfile) -> None:
    """Raises BenchmarkError for a bundle that no device with an operating system can time."""
    if files.profile.kind == "mcu" or device.kind == "mcu":
        raise BenchmarkError(
            f"{files.bundle} is for a microcontroller ({files.manifest.device}): it cannot be timed on a host.",
            hint='Name a target of kind "attached" in a fleet.toml (docs/fleet.md) that flashes and runs it.',
        )


def threads_of(device: DeviceProfile, threads: Sequence[int]) -> list[int]:
    """Each number once; all big cores of a device that has one are one thread."""
    return list(
        dict.fromkeys(1 if count == ALL_BIG_CORES and device.cpu.big_cores == 1 else count for count in threads)
    )


def _subject(files: BenchmarkFiles, device: DeviceProfile, num_threads: int, evaluate: bytes | None) -> Subject:
    made = files.manifest.golden
    made_with = {
        "kernel_family": made.kernel_family,
        "runtime": made.runtime,
        "runtime_version": made.runtime_version,
        # The manifest has the machine's name as its system writes it ("arm64" on macOS).
        "architecture": architecture_of(made.architecture, 64),
    }
    return Subject(files.model, files.golden, made_with, num_threads, device.cpu.big_cores, evaluate)


def _failed(
    entry: tuple[BenchmarkFiles, DeviceProfile, Subject], host: str, why: str, hint: str | None
) -> FailedMeasurement:
    files, device, subject = entry
    return FailedMeasurement(device.name, str(files.bundle), host, why, hint, subject.num_threads)


def _score(files: BenchmarkFiles, report: ConfigurationReport, evaluation: Evaluation) -> DeviceScore:
    if report.outputs_npz is None:
        raise BenchmarkError(
            f"The test samples were not answered: {report.failed_passes.get('outputs', 'it said nothing')}"
        )
    return evaluation.score(files.manifest, files.model, report.outputs_npz)


def _measurement(
    files: BenchmarkFiles,
    profile: DeviceProfile,
    host: str,
    report: ConfigurationReport,
    settings: BenchSettings,
) -> Measurement:
    timing = timing_statistics(report.processes_us)
    mismatches = profile_mismatches(profile, report.facts)
    verdict, reasons = judge(
        timing,
        report.facts,
        precision_ratio=settings.precision_ratio,
        golden=report.golden,
        mismatches=mismatches,
        processes=report.processes,
        steady=report.steady,
        num_threads=report.num_threads,
    )
    notes = [f"{name}: {why}" for name, why in report.failed_passes.items() if name != "outputs"]
    notes += conditions_notes(report.processes)
    return Measurement(
        device=profile.name,
        chosen=files.manifest.chosen,
        bundle=str(files.bundle),
        model_sha256=sha256_of(files.model),
        on=host,
        num_threads=report.num_threads,
        verdict=verdict,
        reasons=reasons,
        mismatches=mismatches,
        timing=timing,
        init_ms=stdlib_statistics.median(item.init_ms for item in report.loaded),
        first_ms=stdlib_statistics.median(item.first_ms for item in report.loaded),
        processes_us=report.processes_us,
        golden=report.golden,
        delegate=report.loaded[0].delegate,
        memory=report.memory,
        profile=report.profile,
        score=None,
        facts=report.facts,
        steady=report.steady,
        conditions=report.processes,
        notes=tuple(notes),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )
