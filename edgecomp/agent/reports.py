"""What the agent says, as values: checked on arrival, for it comes from a device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from edgecomp.transports import one_line

__all__ = [
    "Conditions",
    "ConfigurationReport",
    "DelegateCoverage",
    "DeviceFacts",
    "GoldenCheck",
    "Loaded",
    "MemoryUse",
    "OperatorProfile",
    "OperatorTime",
    "ProcessReport",
    "SessionReport",
    "Steady",
    "TriedRuntime",
]

# What a device says of itself ends up in messages and on a terminal.
Said = Annotated[str, BeforeValidator(lambda value: one_line(value) if isinstance(value, str) else value)]
# No counter is longer, and sums stay finite: what computes with a figure must not fail by it.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Real = Annotated[float, Field(ge=-1e300, le=1e300)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class TriedRuntime(_Message):
    """A runtime that was passed over, and why."""

    name: Said
    error: Said


class DeviceFacts(_Message):
    """The machine and the software that a measurement was taken on.

    Attributes:
        machine: What the kernel says it is; `architecture` is what Python and the runtime run as.
        cpu_part_ids: "CPU part" of /proc/cpuinfo, empty on x86.
        cores: How many the measurement was allowed to use.
        kernel: Release of the operating system.
        python, numpy: None where the measurement took no Python.
        kernel_family: Kernels that computed the outputs, by the names of the manifest; None if not known.
        tried: Runtimes that come before this one and do not work there.
        private_runtime: The runtime that `edgecomp setup` installed: that it was used, or why not; None without one.
        emulator_signs: Why this must be an emulator, whose times are no latencies; empty for hardware.
        virtual_machine: The hypervisor, if the machine says that it has one.
    """

    machine: Said
    architecture: Said
    cpu_part_ids: tuple[Said, ...]
    cpu_model: Said | None
    cores: Whole | None
    system: Said
    kernel: Said
    python: Said | None
    numpy: Said | None
    runtime: Said
    runtime_version: Said | None
    kernel_family: Said | None
    tried: tuple[TriedRuntime, ...]
    private_runtime: Said | None = None
    emulator_signs: tuple[Said, ...] = ()
    virtual_machine: Said | None = None


class DelegateCoverage(_Message):
    """How many of the model's operators a delegate (XNNPACK) took over, in so many partitions."""

    delegated: Whole
    total: Whole
    partitions: Whole


class GoldenCheck(_Message):
    """The outputs on the device against the golden ones.

    Attributes:
        rule: "exact" where kernel family, runtime, version and architecture are those of the golden outputs.
        equal: Every output is equal bit by bit.
        max_difference_lsb: In units of an integer output, or 1/256 of a float output's range; None where there is
            none (an output of labels, or one that is not a number).
        tolerance_lsb: What was allowed: for every sample under "exact", for 95 % or all but one under "tolerance".
        argmax_agreement: Share of argmaxes (or labels) that agree; None where there is nothing to choose from.
        samples: How many golden samples were compared.
        message: What is wrong, one sentence; None where `ok`.
    """

    ok: bool
    rule: Literal["exact", "tolerance"]
    equal: bool
    max_difference_lsb: Real | None
    tolerance_lsb: Real | None
    argmax_agreement: Real | None
    samples: Whole = Field(gt=0)
    message: Said | None


class Loaded(_Message):
    """Loading the model and the first inference, before any warm-up."""

    init_ms: Real = Field(ge=0)
    first_ms: Real = Field(ge=0)
    delegate: DelegateCoverage | None


class MemoryUse(_Message):
    """Memory of a process that does nothing but run the model.

    Attributes:
        peak_rss_bytes: The most that was resident: Python, the runtime and the model.
        runtime_rss_bytes: Of that, before the model was loaded.
    """

    peak_rss_bytes: Whole | None
    runtime_rss_bytes: Whole | None

    @property
    def model_rss_bytes(self) -> int | None:
        """What the model added."""
        if self.peak_rss_bytes is None or self.runtime_rss_bytes is None:
            return None
        return max(0, self.peak_rss_bytes - self.runtime_rss_bytes)


class OperatorTime(_Message):
    """All nodes of one type."""

    type: Said
    nodes: Whole
    ms: Real
    ratio: Real


class OperatorProfile(_Message):
    """Time by type of operator, of a run of its own under a profiler.

    Attributes:
        total_ms: Mean of an inference without the profiler.
        overhead_ms: What the profiler adds to it.
        operators_ms: Sum of `operators`; `unaccounted_ms` is what `total_ms` is more than that. Noise may make it
            negative.
        containers: Types that are left out, because they hold other operators.
    """

    engine: Said
    runtime_version: Said | None
    runs: Whole
    total_ms: Real
    overhead_ms: Real
    operators_ms: Real
    unaccounted_ms: Real
    inputs: Said
    operators: tuple[OperatorTime, ...]
    containers: tuple[Said, ...]


class Conditions(_Message):
    """A moment on the device.

    Attributes:
        t_s: Monotonic clock of the device; `clock_s` is its wall clock.
        khz: Frequency of each core that is measured on; empty where the device does not tell.
        temperatures_c: By thermal zone.
    """

    t_s: Real
    clock_s: Real
    khz: dict[Said, Whole]
    governors: tuple[Said, ...]
    temperatures_c: dict[Said, Real]
    load_1m: Real | None
    available_bytes: Whole | None


class Steady(_Message):
    """What does not change during a measurement.

    Attributes:
        cores: Those that are measured on.
        max_khz: Their highest frequency.
        passive_trips_c: By thermal zone: where the device begins to slow itself down for it.
    """

    cores: tuple[Whole, ...]
    max_khz: dict[Said, Whole]
    passive_trips_c: dict[Said, Real]


class ProcessReport(_Message):
    """One fresh process: how it went, beside the times of its inferences. None is what this system does not tell.

    Attributes:
        others_ratio: Share of the measured cores' time that somebody else computed.
        stolen_ratio: Share that a hypervisor gave to others.
        quota_periods: Periods in which the CPU quota of its control group was used up.
        throttled_before, throttled_after: Bits of `vcgencmd get_throttled`.
        clock_jump_s: How far the wall clock was moved; the times are of a clock that nobody moves.
        involuntary_switches: How often the process was taken off its core.
        every: Of how many inferences one was kept; more than 1 where a model is so fast that there are too many.
    """

    runs: Whole
    before: Conditions
    during: tuple[Conditions, ...]
    after: Conditions
    elapsed_s: Real
    others_ratio: Real | None
    stolen_ratio: Real | None
    quota_periods: Whole | None
    throttled_before: Whole | None
    throttled_after: Whole | None
    clock_jump_s: Real
    involuntary_switches: Whole | None
    every: int = Field(default=1, ge=1)


class ConfigurationReport(_Message):
    """All that is known of one configuration.

    Attributes:
        processes_us: Time of every inference, by fresh process, in the order of the rounds.
        processes: The same processes, beside their times.
        golden: None where there were no golden samples.
        memory, profile, outputs_npz: None where the pass was not asked for, or failed (`failed_passes` says why).
    """

    num_threads: Whole
    steady: Steady
    facts: DeviceFacts
    loaded: tuple[Loaded, ...] = Field(min_length=1)
    golden: GoldenCheck | None
    processes_us: tuple[tuple[Real, ...], ...] = Field(min_length=1)
    processes: tuple[ProcessReport, ...] = Field(min_length=1)
    memory: MemoryUse | None
    profile: OperatorProfile | None
    outputs_npz: bytes | None
    failed_passes: dict[Said, Said]


class SessionReport(_Message):
    """What the agent found out; for a configuration that failed the reason stands in place of a report."""

    configurations: tuple[ConfigurationReport | str, ...]
