"""What a benchmark gives back: figures with their raw samples, their targets and the machine they were taken on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EDGECOMP_DATA", ROOT.parent / "shared" / "data"))


class SkippedError(Exception):
    """A benchmark has not what it needs; the message says what."""


@dataclass(frozen=True)
class Target:
    """A bound on one statistic of the samples; the bound itself is allowed."""

    bound: Literal["at least", "at most"]
    value: float
    statistic: Literal["median", "max"] = "median"

    def is_met(self, samples: Sequence[float]) -> bool:
        """Whether the samples keep to it."""
        reached = max(samples) if self.statistic == "max" else statistics.median(samples)
        return reached >= self.value if self.bound == "at least" else reached <= self.value


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        what: What was measured, on what.
        unit: Of the samples; "times" for a ratio.
        samples: One per repetition, in order.
        target: None where the figure only explains another one.
    """

    what: str
    unit: str
    samples: tuple[float, ...]
    target: Target | None = None


@dataclass(frozen=True)
class Report:
    """The figures of one benchmark.

    Attributes:
        machine: Where they were taken, with the load average before the first sample.
        problem: Why there are no figures: "skipped: ..." or "failed: ..."; else None.
    """

    name: str
    machine: str
    figures: tuple[Figure, ...] = ()
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`, raw samples included."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Report:
        """What `to_json` gave, read again."""
        figures = tuple(
            Figure(
                item["what"], item["unit"], tuple(item["samples"]), Target(**item["target"]) if item["target"] else None
            )
            for item in body["figures"]
        )
        return cls(body["name"], body["machine"], figures, body["problem"])


def machine() -> str:
    """CPU model, usable cores and the load average of the last minute."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu_model()}, {cores} cores, load {os.getloadavg()[0]:.2f} before"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def ratios(slower: Sequence[float], faster: Sequence[float]) -> tuple[float, ...]:
    """Pairwise quotients: each pair was taken back to back, so what else the machine does weighs on both."""
    return tuple(left / right for left, right in zip(slower, faster, strict=True))


def table(reports: Sequence[Report]) -> str:
    """One line a figure: what, median and range, unit, repetitions, target with its verdict, machine."""
    rows = [("measured", "median", "min .. max", "unit", "n", "target", "on")]
    for report in reports:
        if report.problem is not None:
            rows.append((report.name, "-", "-", "-", "0", report.problem, report.machine))
        rows += [_row(figure, report.machine) for figure in report.figures]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(f"{text:<{width}}" for text, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _row(figure: Figure, where: str) -> tuple[str, ...]:
    samples, target = figure.samples, figure.target
    verdict = "-"
    if target is not None:
        of = f" ({target.statistic})" if target.statistic != "median" else ""
        verdict = f"{target.bound} {target.value:g}{of}: {'met' if target.is_met(samples) else 'MISSED'}"
    spread = f"{min(samples):.3f} .. {max(samples):.3f}"
    return figure.what, f"{statistics.median(samples):.3f}", spread, figure.unit, str(len(samples)), verdict, where


def run(
    name: str,
    measure: Callable[[argparse.Namespace], Sequence[Figure]],
    parser: argparse.ArgumentParser,
) -> int:
    """The main of a benchmark: parse, measure, print.

    Returns:
        0, met or missed or skipped. What fails raises.
    """
    parser.add_argument("--json", action="store_true", help="print one JSON object with the raw samples")
    options = parser.parse_args()
    where = machine()
    try:
        report = Report(name, where, tuple(measure(options)))
    except SkippedError as reason:
        report = Report(name, where, problem=f"skipped: {reason}")
    print(json.dumps(report.to_json(), indent=2) if options.json else table([report]))
    return 0


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def resnet8() -> tuple[Path, Path]:
    """The ResNet8 model and its CIFAR-10 images.

    Raises:
        SkippedError: They are not there.
    """
    folder = DATA / "resnet8-cifar10"
    paths = folder / "pretrainedResnet.h5", folder / "cifar10_lossless_4k_1k.npz"
    for path in paths:
        if not path.is_file():
            raise SkippedError(f"there is no {path} (EDGECOMP_DATA names the folder of models and data)")
    return paths
