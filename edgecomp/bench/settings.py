"""How long and how often is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from edgecomp.errors import UsageError

SUSTAINED_SECONDS = 10.0

Pass = Literal["memory", "profile"]


@dataclass(frozen=True)
class BenchSettings:
    """What a valid measurement takes, by the rules of docs/bench.md.

    Attributes:
        min_runs: At least so many inferences in each process, and at least `min_seconds`.
        min_seconds: See `min_runs`.
        max_seconds: No longer than this for one configuration, all its processes together; warm-up not counted.
        min_processes: At least so many fresh processes, and up to `max_processes` until `precision_ratio` is met.
        max_processes: See `min_processes`.
        precision_ratio: Half the 95 % interval of the median, relative to it: 0.02 is -+ 2 %.
        tolerance_lsb: Allowed difference from golden outputs of other kernels, for all but a few samples.
        passes: What is looked at beside the latency, each in a process of its own.
        governor: Frequency governor to set while it measures; None leaves the device as it is.
        lock_wait_s: How long to wait for another measurement on the device.
        timeout_s: For everything on the device together; None for what follows from the others.
    """

    min_runs: int = 50
    min_seconds: float = 1.0
    max_seconds: float = 60.0
    min_processes: int = 3
    max_processes: int = 5
    precision_ratio: float = 0.02
    tolerance_lsb: float = 64.0
    passes: tuple[Pass, ...] = ("memory",)
    governor: str | None = None
    lock_wait_s: float = 300.0
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.min_runs < 1:
            raise UsageError(f"There must be at least 1 run, got {self.min_runs}.")
        if not (0 <= self.min_seconds <= self.max_seconds < math.inf and self.max_seconds > 0):
            raise UsageError(f"The seconds must be 0 <= min <= max, got {self.min_seconds:g} and {self.max_seconds:g}.")
        if not 1 <= self.min_processes <= self.max_processes <= 100:
            raise UsageError(
                f"The processes must be 1 <= least <= most <= 100, got {self.min_processes} and {self.max_processes}."
            )
        if not 0 < self.precision_ratio < 1:
            raise UsageError(f"The precision is a share between 0 and 1, got {self.precision_ratio:g}.")
        if self.timeout_s is not None and not 0 < self.timeout_s < math.inf:
            raise UsageError(f"A time limit must be above zero, got {self.timeout_s:g} s.")
        if not 0 <= self.lock_wait_s < math.inf:
            raise UsageError(f"A time to wait must be at least zero, got {self.lock_wait_s:g} s.")
        if self.governor is not None and not self.governor.isidentifier():
            raise UsageError(f"A governor is a word like performance, got {self.governor!r}.")

    def sustained(self) -> BenchSettings:
        """At least 10 s in each process: what a device does once it is warm."""
        return replace(
            self,
            min_seconds=max(self.min_seconds, SUSTAINED_SECONDS),
            max_seconds=max(self.max_seconds, 2 * SUSTAINED_SECONDS * self.max_processes),
        )

    @property
    def process_seconds(self) -> float:
        """The longest that one process is timed."""
        return max(self.min_seconds, self.max_seconds / self.max_processes)

    def deadline_s(self, configurations: int) -> float:
        """When the device gives up: loading, golden samples, warm-up and timing of every process, on a slow board."""
        if self.timeout_s is not None:
            return self.timeout_s
        others = len(self.passes) + 1
        return 60 + configurations * (self.max_processes * (self.process_seconds + 30) + self.max_seconds + others * 60)
