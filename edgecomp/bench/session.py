"""From models to one job for the agent, and back: what is measured together is measured in alternation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecomp.agent.remote import Progress, run_session
from edgecomp.agent.reports import ConfigurationReport, DeviceFacts, SessionReport
from edgecomp.bench.settings import BenchSettings
from edgecomp.bench.statistics import timing_statistics
from edgecomp.bench.verdict import Verdict, judge
from edgecomp.errors import BenchmarkError, UsageError
from edgecomp.transports import Transport

GOLDEN_SECONDS = 60.0
"""How long the comparison with the golden outputs may take on a slow board; what it got through by then counts."""


@dataclass(frozen=True)
class Subject:
    """One configuration: a model, a number of threads, what it is fed and compared with.

    Attributes:
        golden: An .npz of golden samples, or None: then its inputs are zeros and nothing is compared.
        made_with: What made those; see `bundle.manifest.Golden`.
        num_threads: 0 for one for each core that is measured on.
        big_cores: How many cores are measured on; None for those that are fastest.
        evaluate: An .npz of inputs that are to be answered, or None.
    """

    model: bytes
    golden: bytes | None = None
    made_with: Mapping[str, Any] | None = None
    num_threads: int = 1
    big_cores: int | None = None
    evaluate: bytes | None = None


def measure(
    transport: Transport,
    subjects: Sequence[Subject],
    settings: BenchSettings,
    *,
    python: str = "python3",
    progress: Progress | None = None,
) -> SessionReport:
    """Measure configurations on one device, in alternation.

    Raises:
        UsageError: A number of threads that makes no sense.
        EdgecompError: See `agent.remote.run_session`.
    """
    for subject in subjects:
        if not 0 <= subject.num_threads <= 64:
            raise UsageError(f"Threads must be from 1 to 64, or 0 for one a core, got {subject.num_threads}.")
    files: dict[str, bytes] = {}
    configurations = [_configuration(subject, files) for subject in subjects]
    job = {
        "configurations": configurations,
        "min_runs": settings.min_runs,
        "min_seconds": settings.min_seconds,
        "process_seconds": settings.process_seconds,
        "min_processes": settings.min_processes,
        "max_processes": settings.max_processes,
        "precision_ratio": settings.precision_ratio,
        "golden_seconds": GOLDEN_SECONDS,
        "tolerance_lsb": settings.tolerance_lsb,
        "passes": list(settings.passes),
    }
    if progress is not None:
        progress(f"copying to {transport.host}", 0, 0)
    return run_session(
        transport,
        files,
        job,
        python=python,
        timeout_s=settings.deadline_s(len(subjects)),
        lock_wait_s=settings.lock_wait_s,
        governor=settings.governor,
        progress=progress,
    )


def _configuration(subject: Subject, files: dict[str, bytes]) -> dict[str, Any]:
    """The job's words for a subject; a file that several share is sent once."""

    def sent(data: bytes | None, suffix: str) -> str | None:
        if data is None:
            return None
        known = next((name for name, other in files.items() if other == data), None)
        name = known or f"file-{len(files)}{suffix}"
        files[name] = data
        return name

    return {
        "model": sent(subject.model, ".tflite"),
        "golden": sent(subject.golden, ".npz"),
        "made_with": None if subject.made_with is None else dict(subject.made_with),
        "num_threads": subject.num_threads,
        "big_cores": subject.big_cores,
        "evaluate": sent(subject.evaluate, ".npz"),
    }


@dataclass(frozen=True)
class ModelTiming:
    """The latency of a model that there are no golden samples of.

    Attributes:
        processes_us: Microseconds of every inference, by fresh process.
        p50_ms: With its 95 % interval `low_ms` to `high_ms`; see `statistics.TimingStatistics`.
        verdict: Of the conditions alone; any machine is right.
    """

    processes_us: tuple[tuple[float, ...], ...]
    p50_ms: float
    low_ms: float
    high_ms: float
    facts: DeviceFacts
    verdict: Verdict
    reasons: tuple[str, ...]


def time_models(
    transport: Transport,
    models: Mapping[str, bytes],
    *,
    settings: BenchSettings | None = None,
    python: str = "python3",
    num_threads: int = 1,
    big_cores: int | None = None,
    progress: Progress | None = None,
) -> dict[str, ModelTiming]:
    """Time models on inputs of zeros, as for fitting the cost model; outputs are not compared.

    Args:
        transport: Reaches the device; stays open.
        models: .tflite files by name.
        settings: None for the usual ones, without any pass but the latency.
        python: Python on the device.
        num_threads: Of the interpreter.
        big_cores: See `Subject`.
        progress: See `measure`.

    Raises:
        BenchmarkError: A model could not be timed: which, and why.
        EdgecompError: See `measure`.
    """
    settings = settings or BenchSettings(passes=())
    subjects = [Subject(model, num_threads=num_threads, big_cores=big_cores) for model in models.values()]
    report = measure(transport, subjects, settings, python=python, progress=progress)
    found: dict[str, ModelTiming] = {}
    for name, item in zip(models, report.configurations, strict=True):
        if not isinstance(item, ConfigurationReport):
            raise BenchmarkError(f"{name} could not be timed: {item}")
        timing = timing_statistics(item.processes_us)
        verdict, reasons = judge(
            timing,
            item.facts,
            precision_ratio=settings.precision_ratio,
            processes=item.processes,
            steady=item.steady,
            num_threads=item.num_threads,
        )
        found[name] = ModelTiming(
            item.processes_us, timing.p50_ms, timing.low_ms, timing.high_ms, item.facts, verdict, reasons
        )
    return found
