"""Bundles timed by a `benchmark_model` that is on the device: one session, processes in alternation, a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edgecomp.agent.on_device.conditions import pick_cores
from edgecomp.agent.on_device.stopping import is_settled
from edgecomp.agent.remote import Progress
from edgecomp.agent.reports import DelegateCoverage
from edgecomp.bench.measurement import BenchReport, FailedMeasurement, Measurement
from edgecomp.bench.native import NativeOptions, NativeSample, NativeSession, native_session
from edgecomp.bench.native_facts import RUNTIME, NativeDevice, read_device
from edgecomp.bench.native_output import NativeReport
from edgecomp.bench.runner import (
    ALL_BIG_CORES,
    THREADS,
    BenchmarkFiles,
    read_benchmark_files,
    refuse_microcontroller,
    threads_of,
)
from edgecomp.bench.settings import BenchSettings
from edgecomp.bench.statistics import timing_statistics
from edgecomp.bench.verdict import conditions_notes, judge, profile_mismatches
from edgecomp.errors import BenchmarkError, RuntimeRefusedError
from edgecomp.files import sha256_of
from edgecomp.profile import DeviceProfile
from edgecomp.transports import Transport

_LEAST_S = 0.001


@dataclass
class _Configuration:
    """A model with a number of threads, and its processes so far.

    Attributes:
        path: Of the model on the device.
        error: Why there are no more of them.
    """

    files: BenchmarkFiles
    profile: DeviceProfile
    options: NativeOptions
    path: str = ""
    samples: list[NativeSample] = field(default_factory=list)
    error: BenchmarkError | RuntimeRefusedError | None = None

    def is_enough(self, settings: BenchSettings) -> bool:
        """Whether no more processes are needed, or none can be had."""
        centers = [(sample.process.center_us,) for sample in self.samples]
        enough = len(centers) >= settings.min_processes and is_settled(centers, settings.precision_ratio)
        return enough or self.error is not None


def bench_native(
    bundles: Sequence[Path],
    transport: Transport,
    program: str,
    *,
    profile: DeviceProfile | None = None,
    threads: Sequence[int] = THREADS,
    settings: BenchSettings | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> BenchReport:
    """Time the models of bundles with a program on the device; outputs are not compared.

    Args:
        bundles: See `runner.bench_bundles`.
        transport: Reaches the device; stays open.
        program: See `native.find_benchmark_model`.
        profile: See `runner.bench_bundles`.
        threads: Likewise.
        settings: Likewise; passes and governor are left out of account.
        notes: For every measurement, before its own.
        progress: Called with (what, step, steps).

    Raises:
        UsageError, BundleError: See `runner.bench_bundles`.
        BenchmarkError: The program does not run, or does not print what it ought to; where there are several
            configurations, only if it hit all of them.
        DeviceBusyError: Another measurement did not end in time.
        RuntimeRefusedError: It runs none of the models.
        CommandTimeoutError, TransportError: It did not end in time, or the connection was lost.
    """
    settings = settings or BenchSettings()
    tell = progress or (lambda *_: None)
    device = read_device(transport, program)
    plan = _plan(bundles, profile, device, threads, settings)
    limit_s = settings.deadline_s(len(plan))
    with native_session(transport, program, wait_s=settings.lock_wait_s, limit_s=limit_s, tell=tell) as session:
        deadline = time.monotonic() + limit_s
        tell(f"copying to {transport.host}", 0, 0)
        for item in plan:
            item.path = session.put(item.files.model)
        _measure(session, plan, settings, deadline, tell)
        reports = [session.report(item.samples, item.options) if item.samples else None for item in plan]
    errors = [item.error for item in plan if item.error is not None]
    if len(errors) == len(plan):
        raise errors[0]
    measurements, failed = [], []
    for item, report in zip(plan, reports, strict=True):
        if item.error is None and report is not None:
            measurements.append(_measurement(item, device, report, transport.host, settings, notes))
        elif item.error is not None:
            failed.append(_failed(item, item.error, transport.host))
    return BenchReport(tuple(measurements), tuple(failed))


def _plan(
    bundles: Sequence[Path],
    profile: DeviceProfile | None,
    device: NativeDevice,
    threads: Sequence[int],
    settings: BenchSettings,
) -> list[_Configuration]:
    """Every bundle with every number of threads, each once."""
    plan: dict[tuple[str, int], _Configuration] = {}
    for bundle in bundles:
        files = read_benchmark_files(bundle)
        wanted = profile or files.profile
        refuse_microcontroller(files, wanted)
        cores = pick_cores(dict(device.speeds), wanted.cpu.big_cores)
        for count in threads_of(wanted, threads):
            options = NativeOptions(
                num_threads=(len(cores) or 1) if count == ALL_BIG_CORES else count,
                min_runs=settings.min_runs,
                min_seconds=settings.min_seconds,
                max_seconds=settings.process_seconds,
                cores=tuple(cores) if cores and device.can_bind else None,
            )
            plan.setdefault((str(bundle), options.num_threads), _Configuration(files, wanted, options))
    return list(plan.values())


def _measure(
    session: NativeSession,
    plan: Sequence[_Configuration],
    settings: BenchSettings,
    deadline: float,
    tell: Callable[[str, int, int], None],
) -> None:
    """The rounds, every other one backwards: what drifts hits all alike."""
    most = len(plan) * settings.max_processes
    for number in range(settings.max_processes):
        for item in plan if number % 2 == 0 else plan[::-1]:
            if item.is_enough(settings):
                continue
            tell("measuring", sum(len(one.samples) for one in plan), most)
            left_s = deadline - time.monotonic()
            try:
                item.samples.append(session.run(item.path, item.options, max(left_s, _LEAST_S)))
            except (BenchmarkError, RuntimeRefusedError) as error:  # It costs the others nothing.
                item.error = error


def _failed(item: _Configuration, error: BenchmarkError | RuntimeRefusedError, host: str) -> FailedMeasurement:
    where, threads = str(item.files.bundle), item.options.num_threads
    return FailedMeasurement(item.profile.name, where, host, error.message, error.hint, threads)


def _measurement(
    item: _Configuration,
    device: NativeDevice,
    report: NativeReport,
    host: str,
    settings: BenchSettings,
    notes: Sequence[str],
) -> Measurement:
    timing = timing_statistics(report.processes_us)
    facts = device.facts.model_copy(
        update={"runtime_version": _version(report), "kernel_family": _kernel_family(report)}
    )
    mismatches = profile_mismatches(item.profile, facts)
    verdict, reasons = judge(
        timing,
        facts,
        precision_ratio=settings.precision_ratio,
        mismatches=mismatches,
        processes=report.conditions,
        steady=report.steady,
        num_threads=report.num_threads,
    )
    return Measurement(
        device=item.profile.name,
        chosen=item.files.manifest.chosen,
        bundle=str(item.files.bundle),
        model_sha256=sha256_of(item.files.model),
        on=host,
        num_threads=report.num_threads,
        verdict=verdict,
        reasons=reasons,
        mismatches=mismatches,
        timing=timing,
        init_ms=report.init_ms,
        first_ms=report.first_ms,
        processes_us=report.processes_us,
        golden=None,
        delegate=_coverage(report),
        memory=None,
        profile=None,
        score=None,
        facts=facts,
        steady=report.steady,
        conditions=report.conditions,
        notes=(*notes, *report.notes, *_own_notes(report, device), *conditions_notes(report.conditions)),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        engine="benchmark_model",
    )


def _version(report: NativeReport) -> str | None:
    """It tells none, but builds differ: by almost four times on one model."""
    return None if report.program_sha256 is None else f"sha256:{report.program_sha256[:12]}"


def _kernel_family(report: NativeReport) -> str | None:
    xnnpack = report.processes[0].xnnpack
    return None if xnnpack is None else "LITERT_BUILTIN" if xnnpack == "none" else "LITERT_XNNPACK"


def _coverage(report: NativeReport) -> DelegateCoverage | None:
    first = report.processes[0]
    if first.delegated_nodes is None or first.total_nodes is None:
        return None
    return DelegateCoverage(delegated=first.delegated_nodes, total=first.total_nodes, partitions=first.partitions or 1)


def _own_notes(report: NativeReport, device: NativeDevice) -> list[str]:
    build = "" if report.program_sha256 is None else f", sha256 {report.program_sha256}"
    notes = [f"{RUNTIME} is {report.program} there{build}: {report.runs} inferences in all."]
    if report.cores is None:
        why = "cores that it may use are not known" if device.can_bind else "there is no taskset"
        notes.append(f"It ran on any core: {why}.")
    if len(report.conditions) < len(report.processes):
        notes.append("Clock, temperature and load could not be read: nothing speaks against this time, or for it.")
    else:
        notes.append("Clock, temperature and load were read before and after each process, not during it.")
    return notes
