"""What TFLite's own `benchmark_model` prints, as values. It prints microseconds.

Versions differ: lines begin with "INFO: " or not, go to stdout or stderr, and percentiles came late. Recorded outputs
are in tests/recorded/benchmark_model, with their sources.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from edgecomp.agent.reports import ProcessReport, Steady
from edgecomp.units import format_bytes

MIB = 2**20

_NUMBER = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
_SUMMARY = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, "
    rf"Inference \(avg\): {_NUMBER}"
)
_COUNT = re.compile(r"(?:^|\s)count=([0-9]+) (.*)")
_FIGURE = re.compile(rf"([a-z]+[0-9]*)={_NUMBER}")
# "Peak memory footprint" until TensorFlow 2.4.
_MEMORY = re.compile(
    rf"(?:Memory footprint delta|Peak memory footprint)[a-z ]*\(MB\): init={_NUMBER} overall={_NUMBER}"
)
_COMPLETE = re.compile(r"applied XNNPACK delegate, and the model graph will be completely executed")
_PARTIAL = re.compile(
    r"applied XNNPACK delegate, and the model graph will be partially executed .* ([0-9]+) delegate k"
)
_NONE = re.compile(r"Though XNNPACK delegate is explicitly applied, the model graph will not be executed")
_NODES = re.compile(r"Replacing ([0-9]+) out of ([0-9]+) node\(s\) with delegate \([^)]*XNNP[^)]*\)")
_UNKNOWN = re.compile(r"Unconsumed cmdline flags: (.*)")


@dataclass(frozen=True)
class NativeProcess:
    """One process of `benchmark_model`; times in microseconds, None where this version does not print it.

    Attributes:
        runs: Inferences that were timed, after warm-up.
        mean_us: Of them, to six digits.
        init_us: Loading the model and allocating its tensors.
        first_us: The first inference, before any warm-up.
        memory_bytes: What the model added to the process's memory: approximate, as the program itself says.
        xnnpack: Whether XNNPACK ran all of the model, some, or nothing of it; None where it does not say.
        partitions: Number of pieces that XNNPACK ran.
        delegated_nodes, total_nodes: Of the model; few builds print them.
        unknown_flags: Options that this version does not know, and left out of account.
    """

    runs: int
    mean_us: float
    init_us: float
    first_us: float
    warmup_mean_us: float
    median_us: float | None = None
    p5_us: float | None = None
    p95_us: float | None = None
    min_us: float | None = None
    max_us: float | None = None
    std_us: float | None = None
    memory_bytes: int | None = None
    xnnpack: Literal["all", "some", "none"] | None = None
    partitions: int | None = None
    delegated_nodes: int | None = None
    total_nodes: int | None = None
    unknown_flags: tuple[str, ...] = ()

    @property
    def center_us(self) -> float:
        """The median, or the mean where there is none."""
        return self.mean_us if self.median_us is None else self.median_us


@dataclass(frozen=True)
class NativeReport:
    """All that `benchmark_model` told, and what the device did meanwhile.

    Attributes:
        program: On the device; `program_sha256` tells builds apart, None where the device cannot compute it.
        cores: That the processes were bound to; None for no binding.
        processes: In order.
        steady: What does not change on the device; None where its shell cannot read it.
        conditions: Before and after each process, never during it; empty where its shell cannot read them.
        notes: What has to be said beside the figures, one sentence each.
    """

    program: str
    program_sha256: str | None
    num_threads: int
    use_xnnpack: bool
    cores: tuple[int, ...] | None
    processes: tuple[NativeProcess, ...]
    steady: Steady | None
    conditions: tuple[ProcessReport, ...]
    notes: tuple[str, ...]

    @property
    def statistic(self) -> Literal["median", "mean"]:
        """What `processes_us` are: some versions print no median."""
        return "median" if all(process.median_us is not None for process in self.processes) else "mean"

    @property
    def processes_us(self) -> tuple[tuple[float, ...], ...]:
        """The median or mean of each process in microseconds, as its only sample."""
        is_median = self.statistic == "median"
        return tuple((process.center_us if is_median else process.mean_us,) for process in self.processes)

    @property
    def runs(self) -> int:
        """Inferences that were timed, in all processes."""
        return sum(process.runs for process in self.processes)

    @property
    def init_ms(self) -> float:
        """Loading the model: median of the processes."""
        return median(process.init_us for process in self.processes) / 1000

    @property
    def first_ms(self) -> float:
        """The first inference, before any warm-up: median of the processes."""
        return median(process.first_us for process in self.processes) / 1000

    @property
    def memory_bytes(self) -> int | None:
        """What the model added to a process, at most: approximate. None where this version does not print it."""
        known = [process.memory_bytes for process in self.processes if process.memory_bytes is not None]
        return max(known) if known else None


def parse_output(text: str) -> NativeProcess:
    """The figures of one process.

    Args:
        text: Its stdout and stderr.

    Raises:
        ValueError: They are not there, or make no sense; one clause.
    """
    summary = _SUMMARY.search(text)
    if summary is None:
        raise ValueError("there is no line of inference timings")
    # The profiler's tables, which come later, count too.
    counts = [match for match in map(_COUNT.search, text[: summary.start()].splitlines()) if match]
    if not counts:
        raise ValueError("there is no line that counts the runs")
    init_us, first_us, warmup_us, mean_us = (_number(word) for word in summary.groups())
    figures = {name: _number(word) for name, word in _FIGURE.findall(counts[-1].group(2))}
    runs = int(counts[-1].group(1)[:12])
    if runs == 0 or mean_us <= 0 or figures.get("median", 1.0) <= 0:
        raise ValueError(f"{runs} runs of {mean_us:g} us are no measurement")
    memory = _MEMORY.search(text)
    nodes = _NODES.search(text)
    xnnpack, partitions = _delegation(text)
    return NativeProcess(
        runs=runs,
        mean_us=mean_us,
        init_us=init_us,
        first_us=first_us,
        warmup_mean_us=warmup_us,
        median_us=figures.get("median"),
        p5_us=figures.get("p5"),
        p95_us=figures.get("p95"),
        # Where all are the same it only says which.
        min_us=figures.get("min", figures.get("curr")),
        max_us=figures.get("max", figures.get("curr")),
        std_us=figures.get("std"),
        memory_bytes=None if memory is None else round(_number(memory.group(2)) * MIB),
        xnnpack=xnnpack,
        partitions=partitions,
        delegated_nodes=None if nodes is None else int(nodes.group(1)[:9]),
        total_nodes=None if nodes is None else int(nodes.group(2)[:9]),
        unknown_flags=unknown_flags(text),
    )


def unknown_flags(text: str) -> tuple[str, ...]:
    """Options that the program does not know: it says so and goes on without them."""
    match = _UNKNOWN.search(text)
    return () if match is None else tuple(match.group(1).split()[:20])


def refusal(text: str) -> str | None:
    """Why it does not run the model, in its own words; None where it does not say that it gave up."""
    said: list[str] = []
    for line in (line.strip() for line in text.splitlines()):
        if line.removeprefix("ERROR: ") == "Benchmarking failed.":
            break
        if line and not line.startswith("INFO: "):
            said.append(line)
    else:
        return None
    # The first error has the cause, those after it what came of it.
    errors = [line for line in said if line.startswith("ERROR: ")] or said[-1:]
    return errors[0].removeprefix("ERROR: ").rstrip(".") if errors else "it says only that benchmarking failed"


def notes_on(processes: Sequence[NativeProcess], use_xnnpack: bool) -> tuple[str, ...]:
    """What has to be said beside the figures, one sentence each."""
    notes = [
        "Outputs were not compared: benchmark_model feeds random inputs and prints none. The verdict is on time alone.",
        "It prints no single times either: each process counts as one sample, so p90, p99 and MAD are of processes.",
    ]
    if any(process.median_us is None for process in processes):
        notes.append("Times are means: this version of benchmark_model prints no median.")
    if any(process.unknown_flags for process in processes):
        notes.append("This benchmark_model does not know --use_xnnpack: it was built without XNNPACK.")
    elif use_xnnpack and all(process.xnnpack is None for process in processes):
        notes.append("It does not say whether XNNPACK was used.")
    memory = [process.memory_bytes for process in processes if process.memory_bytes is not None]
    if memory:
        notes.append(
            f"The model added {format_bytes(max(memory))} of memory, by its own account, which is approximate."
        )
    return tuple(notes)


def _delegation(text: str) -> tuple[Literal["all", "some", "none"] | None, int | None]:
    if _COMPLETE.search(text):
        return "all", 1
    partial = _PARTIAL.search(text)
    if partial:
        return "some", int(partial.group(1)[:9])
    return ("none", 0) if _NONE.search(text) else (None, None)


def _number(word: str) -> float:
    """Raises ValueError for what is a number by its characters only."""
    value = float(word)
    if not value < 1e15:
        raise ValueError(f"{word[:40]} is no time")
    return value
