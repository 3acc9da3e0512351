"""Models x devices as people read them: each model's fit, then a row a model and a column a device."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgecomp.matrix_result import Cell, MatrixResult, name_of
from edgecomp.report.terminal import make_console
from edgecomp.results import FitResult
from edgecomp.units import format_bytes, format_seconds

_REASON_WIDTH, _REASON_LENGTH = 36, 180
_GAP = 3
_STYLES = {"fits": "bold green", "planned": "bold green", "no_fit": "bold red", "failed": "red"}


def print_results(result: FitResult | MatrixResult, print_one: Callable[[FitResult], None]) -> None:
    """Of one model what `print_one` prints; of several that of each, and the matrix at the end."""
    if isinstance(result, FitResult):
        print_one(result)
        return
    console = make_console()
    for fit in result.fits:
        print_one(fit)
        console.print()
    print_matrix(result)
    ways = "" if result.run is None else f" `edgecomp explain {result.run}` leads to the story of each model."
    console.print(f"[dim]{format_seconds(result.seconds)} in all, seed {result.seed}.{ways}[/]")


def print_matrix(result: MatrixResult) -> None:
    """The matrix, why models failed, and which one is best for each device."""
    console = make_console()
    console.print(f"[bold]{len(result.rows)} models x {len(result.devices)} devices[/]: {escape(_legend(result))}")
    for devices in _side_by_side(result, console.width):
        console.print()
        console.print(_table(result, devices))
    console.print()
    for row in result.rows:
        if row.reason is not None:
            # Most sentences begin with the path.
            name = "" if row.reason.startswith(row.model) else f"{name_of(row.model)}: "
            console.print(f"[red]failed:[/] {escape(name + row.reason)}")
    for best in result.best:
        console.print(f"[bold]best for {best.device}[/]: {escape(best.text)}")
    for note in result.notes:
        console.print(f"[dim]note:[/] {escape(note)}")


def _legend(result: MatrixResult) -> str:
    """What stands in a cell, line by line."""
    parts = ["what fits without training" if result.status == "planned" else "chosen candidate"]
    cells = [cell for row in result.rows for cell in row.cells if cell.candidate is not None]
    samples = {(cell.score.samples, cell.score.split) for cell in cells if cell.score is not None}
    if samples:
        on = " and ".join(f"{count} {split}" for count, split in sorted(samples))
        parts.append(f"{result.metric} on {on} samples")
    if cells:
        parts.append("model file, latency")
    return "; ".join(parts)


def _side_by_side(result: MatrixResult, width: int) -> list[tuple[str, ...]]:
    """Devices in groups that a line has room for; one at least."""
    names = max(len(name_of(row.model)) for row in result.rows)
    groups: list[tuple[str, ...]] = []
    left = 0
    for device in result.devices:
        needs = _GAP + max(len(line) for line in (device, *_lines_of(result, device)))
        if not groups or needs > left:
            groups.append(())
            left = width - names
        groups[-1] += (device,)
        left -= needs
    return groups


def _lines_of(result: MatrixResult, device: str) -> list[str]:
    return [line for row in result.rows for cell in row.cells if cell.device == device for line in _lines(cell)]


def _table(result: MatrixResult, devices: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for title in ("model", *devices):
        table.add_column(Text(title), no_wrap=True)
    for index, row in enumerate(result.rows):
        if index:
            table.add_row()
        cells = {cell.device: _text(cell) for cell in row.cells}
        failed = Text("failed", style=_STYLES["failed"])
        table.add_row(Text(name_of(row.model)), *(cells.get(device, failed) for device in devices))
    return table


def _text(cell: Cell) -> Text:
    first, *others = _lines(cell)
    return Text("\n").join(
        [Text(first, style=_STYLES[cell.status if cell.candidate else "no_fit"]), *map(Text, others)]
    )


def _lines(cell: Cell) -> list[str]:
    """A candidate with its score, size and latency; or why there is none."""
    if cell.candidate is None:
        first = "failed" if cell.status == "failed" else "nothing fits"
        reason = textwrap.shorten(cell.reason or "", _REASON_LENGTH, placeholder=" ...")
        return [first, *textwrap.wrap(reason, _REASON_WIDTH, break_on_hyphens=False)]
    figures = [] if cell.model_bytes is None else [format_bytes(cell.model_bytes)]
    figures.append("latency not known" if cell.latency_ms is None else f"{cell.latency_ms:.4g} ms {cell.latency_mode}")
    lines = [cell.candidate, *_score(cell), ", ".join(figures)]
    return lines if cell.error is None else [*lines, "with an error: see above"]


def _score(cell: Cell) -> list[str]:
    if cell.score is not None:
        return [f"{cell.score.value:.3f} [{cell.score.low:.3f}, {cell.score.high:.3f}]"]
    return [] if cell.agreement is None else [f"{cell.agreement.value:.1%} as the float model"]
