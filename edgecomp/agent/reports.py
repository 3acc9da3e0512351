"""What the agent says, as values: checked on arrival, for it comes from a device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

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
Said = Annotated[str, StringConstraints(max_length=400)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_control_characters(cls, value: object) -> object:
        return one_line(value) if isinstance(value, str) else value


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
        kernel_family: Kernels that computed the outputs, by the names of the manifest; None if not known.
        tried: Runtimes that come before this one and do not work there.
        private_runtime: Folder of the runtime that `edgecomp setup` installed, where it was used.
        emulator_signs: Why this must be an emulator, whose times are no latencies; empty for hardware.
        virtual_machine: The hypervisor, if the machine says that it has one.
    """

    machine: Said
    architecture: Said
    cpu_part_ids: tuple[Said, ...]
    cpu_model: Said | None
    cores: int | None
    system: Said
    kernel: Said
    python: Said
    numpy: Said
    runtime: Said
    runtime_version: Said | None
    kernel_family: Said | None
    tried: tuple[TriedRuntime, ...]
    private_runtime: Said | None = None
    emulator_signs: tuple[Said, ...] = ()
    virtual_machine: Said | None = None


class DelegateCoverage(_Message):
    """How many of the model's operators a delegate (XNNPACK) took over, in so many partitions."""

    delegated: int
    total: int
    partitions: int


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
    max_difference_lsb: float | None
    tolerance_lsb: float | None
    argmax_agreement: float | None
    samples: int = Field(gt=0)
    message: Said | None


class Loaded(_Message):
    """Loading the model and the first inference, before any warm-up."""

    init_ms: float = Field(ge=0)
    first_ms: float = Field(ge=0)
    delegate: DelegateCoverage | None


class MemoryUse(_Message):
    """Memory of a process that does nothing but run the model.

    Attributes:
        peak_rss_bytes: The most that was resident: Python, the runtime and the model.
        runtime_rss_bytes: Of that, before the model was loaded.
    """

    peak_rss_bytes: int | None
    runtime_rss_bytes: int | None

    @property
    def model_rss_bytes(self) -> int | None:
        """What the model added."""
        if self.peak_rss_bytes is None or self.runtime_rss_bytes is None:
            return None
        return max(0, self.peak_rss_bytes - self.runtime_rss_bytes)


class OperatorTime(_Message):
    """All nodes of one type."""

    type: Said
    nodes: int
    ms: float
    ratio: float


class OperatorProfile(_Message):
    """Time by type of operator, of a run of its own under a profiler."""

    engine: Said
    runtime_version: Said | None
    runs: int
    total_ms: float
    inputs: Said
    operators: tuple[OperatorTime, ...]


class Conditions(_Message):
    """A moment on the device.

    Attributes:
        t_s: Monotonic clock of the device; `clock_s` is its wall clock.
        khz: Frequency of each core that is measured on; empty where the device does not tell.
        temperatures_c: By thermal zone.
    """

    t_s: float
    clock_s: float
    khz: dict[Said, int]
    governors: tuple[Said, ...]
    temperatures_c: dict[Said, float]
    load_1m: float | None
    available_bytes: int | None


class Steady(_Message):
    """What does not change during a measurement.

    Attributes:
        cores: Those that are measured on.
        max_khz: Their highest frequency.
        passive_trip_c: Where the device begins to slow itself down.
    """

    cores: tuple[int, ...]
    max_khz: dict[Said, int]
    passive_trip_c: float | None


class ProcessReport(_Message):
    """One fresh process: how it went, beside the times of its inferences. None is what this system does not tell.

    Attributes:
        others_ratio: Share of the measured cores' time that somebody else computed.
        stolen_ratio: Share that a hypervisor gave to others.
        quota_periods: Periods in which the CPU quota of its control group was used up.
        throttled_before, throttled_after: Bits of `vcgencmd get_throttled`.
        clock_jump_s: How far the wall clock was moved; the times are of a clock that nobody moves.
        involuntary_switches: How often the process was taken off its core.
    """

    runs: int
    before: Conditions
    during: tuple[Conditions, ...]
    after: Conditions
    elapsed_s: float
    others_ratio: float | None
    stolen_ratio: float | None
    quota_periods: int | None
    throttled_before: int | None
    throttled_after: int | None
    clock_jump_s: float
    involuntary_switches: int | None


class ConfigurationReport(_Message):
    """All that is known of one configuration.

    Attributes:
        processes_us: Time of every inference, by fresh process, in the order of the rounds.
        processes: The same processes, beside their times.
        golden: None where there were no golden samples.
        memory, profile, outputs_npz: None where the pass was not asked for, or failed (`failed_passes` says why).
    """

    num_threads: int
    steady: Steady
    facts: DeviceFacts
    loaded: tuple[Loaded, ...] = Field(min_length=1)
    golden: GoldenCheck | None
    processes_us: tuple[tuple[float, ...], ...] = Field(min_length=1)
    processes: tuple[ProcessReport, ...] = Field(min_length=1)
    memory: MemoryUse | None
    profile: OperatorProfile | None
    outputs_npz: bytes | None
    failed_passes: dict[str, str]


class SessionReport(_Message):
    """What the agent found out; for a configuration that failed the reason stands in place of a report."""

    configurations: tuple[ConfigurationReport | str, ...]
