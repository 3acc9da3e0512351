"""A fleet as people watch it, and what it found: a line a target, live on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from edgecomp.report.measurement import golden_text, print_checks, print_failed, verdict_text
from edgecomp.report.terminal import make_console

if TYPE_CHECKING:
    from edgecomp.bench.measurement import BenchReport, Measurement

_REFRESH_HZ = 4


@contextmanager
def fleet_on_stderr(targets: Sequence[str]) -> Iterator[Callable[[str, str, int, int], None]]:
    """What a fleet calls with (target, what, step, steps): a live table, or a line for everything that is new."""
    if not sys.stderr.isatty():
        started, said = time.monotonic(), dict.fromkeys(targets, "")

        def line(target: str, what: str, step: int, steps: int) -> None:  # noqa: ARG001
            if what != said.get(target):
                said[target] = what
                sys.stderr.write(f"[{time.monotonic() - started:6.1f} s] {target}: {what}\n")
                sys.stderr.flush()

        yield line
        return
    doing = dict.fromkeys(targets, "waiting to begin")
    with Live(console=Console(stderr=True), refresh_per_second=_REFRESH_HZ, transient=True) as live:

        def update(target: str, what: str, step: int, steps: int) -> None:  # noqa: ARG001
            doing[target] = what
            live.update(_table(doing.items()))

        live.update(_table(doing.items()))
        yield update


def _table(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for target, what in rows:
        table.add_row(escape(target), escape(what))
    return table


def print_fleet(report: BenchReport) -> None:
    """A line for each measurement, then what speaks against some of them, what failed, and the checks."""
    console = make_console()
    if report.measurements:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("target", "device", "candidate", "threads", "verdict", "p50", "interval", "p90", "outputs"):
            table.add_column(title, no_wrap=True)
        for measured in report.measurements:
            table.add_row(*_row(measured))
        console.print(table)
        console.print("[dim]Latencies are measured, in milliseconds, with 95 % intervals.[/]")
    for measured in report.measurements:
        for reason in measured.reasons:
            console.print(f"[red]-[/] {escape(str(measured.target))}, {_threads(measured)}: {escape(reason)}")
    print_failed(console, report)
    print_checks(console, report)


def _row(measured: Measurement) -> tuple[str, ...]:
    timing = measured.timing
    return (
        escape(str(measured.target)),
        escape(measured.device),
        escape(measured.chosen),
        str(measured.num_threads),
        verdict_text(measured.verdict),
        f"{timing.p50_ms:.4g}",
        f"[{timing.low_ms:.4g}, {timing.high_ms:.4g}]".replace("[", r"\["),
        f"{timing.p90_ms:.4g}" if measured.has_single_times else "-",
        escape("not compared" if measured.golden is None else golden_text(measured.golden)),
    )


def _threads(measured: Measurement) -> str:
    return "1 thread" if measured.num_threads == 1 else f"{measured.num_threads} threads"
