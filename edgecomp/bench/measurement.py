"""A latency that was measured, and everything that it depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgecomp.agent.reports import (
    DelegateCoverage,
    DeviceFacts,
    GoldenCheck,
    MemoryUse,
    OperatorProfile,
    ProcessReport,
    Steady,
)
from edgecomp.bench.baseline import SCHEMA
from edgecomp.bench.limits import LimitCheck
from edgecomp.bench.scores import DeviceScore
from edgecomp.bench.statistics import TimingStatistics
from edgecomp.bench.verdict import Verdict


@dataclass(frozen=True)
class Measurement:
    """One model with one number of threads on one device.

    A timing belongs to the machine that it was taken on. One that was taken on another machine than the profile's is
    `wrong_device`, and no budget of the profile's device is judged by it.

    Attributes:
        device: Profile that it was made for.
        chosen: Name of the candidate in the bundle; `model_sha256` of the very file that ran.
        bundle: Where that came from.
        on: The machine that it was measured on.
        verdict: `valid`, or the gravest of what speaks against it; `reasons` has all of that.
        mismatches: In what the machine is not the profile's device.
        timing: Figures of the times.
        init_ms: Loading the model and allocating its tensors: median of the processes.
        first_ms: The first inference, before any warm-up: likewise.
        processes_us: Time of every inference, in order, by fresh process, in microseconds.
        golden: The outputs on the device against the golden ones; None where there were none to compare.
        delegate: Operators that a delegate took over; None where the runtime does not tell.
        memory, profile, score: None where they were not asked for, or could not be had (`notes` say why).
        engine: What ran the model: "interpreter" of a Python runtime, "benchmark_model", or a board's "firmware".
        when: Date and time of the host, in UTC.
        target: Name in the fleet.toml; None without one.
    """

    device: str
    chosen: str
    bundle: str
    model_sha256: str
    on: str
    num_threads: int
    verdict: Verdict
    reasons: tuple[str, ...]
    mismatches: tuple[str, ...]
    timing: TimingStatistics
    init_ms: float | None
    first_ms: float | None
    processes_us: tuple[tuple[float, ...], ...]
    golden: GoldenCheck | None
    delegate: DelegateCoverage | None
    memory: MemoryUse | None
    profile: OperatorProfile | None
    score: DeviceScore | None
    facts: DeviceFacts
    steady: Steady | None
    conditions: tuple[ProcessReport, ...]
    notes: tuple[str, ...]
    when: str
    engine: Literal["interpreter", "benchmark_model", "firmware"] = "interpreter"
    target: str | None = None
    mode: Literal["measured"] = "measured"

    @property
    def is_valid(self) -> bool:
        """Whether the latency can be trusted, as one of the profile's device."""
        return self.verdict == "valid"

    @property
    def is_profile_device(self) -> bool:
        """Whether it was taken on the device of the profile, and on no emulator of it."""
        return not self.mismatches and not self.facts.emulator_signs

    @property
    def label(self) -> str:
        """The profile's name, or why this is another machine."""
        if self.facts.emulator_signs:
            return f"an emulator ({self.facts.emulator_signs[0]})"
        return f"not the profile's device: {'; '.join(self.mismatches)}" if self.mismatches else self.device

    @property
    def p50_ms(self) -> float:
        """Median."""
        return self.timing.p50_ms

    @property
    def low_ms(self) -> float:
        """Low end of its 95 % interval."""
        return self.timing.low_ms

    @property
    def high_ms(self) -> float:
        """High end of its 95 % interval."""
        return self.timing.high_ms

    @property
    def runs(self) -> int:
        """How many inferences were timed."""
        return self.timing.num_samples

    @property
    def has_single_times(self) -> bool:
        """Whether every inference was timed; else a process is one sample, and only the median means something."""
        return self.engine != "benchmark_model"

    @property
    def counted(self) -> str:
        """What the figures are of, in words."""
        if self.has_single_times:
            return f"{self.timing.num_samples} runs in {self.timing.num_processes} processes"
        return f"{self.timing.num_processes} processes, each a sample"

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
        models = ("golden", "delegate", "memory", "profile", "facts", "steady")
        plain = {
            name: value for name, value in vars(self).items() if name not in (*models, "conditions", "timing", "score")
        }
        return {
            **plain,
            "is_profile_device": self.is_profile_device,
            "label": self.label,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "kernel_family": self.kernel_family,
            "timing": asdict(self.timing),
            "score": None if self.score is None else self.score.to_json(),
            "conditions": [process.model_dump(mode="json") for process in self.conditions],
            **{
                name: None if getattr(self, name) is None else getattr(self, name).model_dump(mode="json")
                for name in models
            },
        }


@dataclass(frozen=True)
class FailedMeasurement:
    """A configuration that there is no measurement of, and why."""

    device: str
    bundle: str
    on: str
    error: str
    hint: str | None
    num_threads: int | None = None
    target: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return dict(vars(self))


@dataclass(frozen=True)
class BenchReport:
    """All that one call of `edgecomp bench` found out.

    Attributes:
        measurements: In the order of bundles and threads.
        failed: What could not be measured.
        checks: What was asked to be checked, and whether it holds.
    """

    measurements: tuple[Measurement, ...]
    failed: tuple[FailedMeasurement, ...] = ()
    checks: tuple[LimitCheck, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "schema": SCHEMA,
            "measurements": [item.to_json() for item in self.measurements],
            "failed": [item.to_json() for item in self.failed],
            "checks": [item.to_json() for item in self.checks],
        }
