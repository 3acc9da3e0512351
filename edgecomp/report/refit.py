"""A refit as people read it: whether the old recipe holds, and what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from edgecomp.report.terminal import make_console, print_fit

if TYPE_CHECKING:
    from edgecomp.refit import Change, RefitResult


def print_refit(result: RefitResult) -> None:
    """The fit, then the changes against the old bundle."""
    print_fit(result.fit)
    console = make_console()
    console.print()
    name = escape(result.recipe)
    if result.was_replayed:
        console.print(f"[bold green]replayed[/]: {name} meets every limit again")
    else:
        console.print(f"[bold yellow]searched[/]: {name} could not be replayed within the limits; the notes say why")
    if not result.changes:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "old bundle", "new bundle", "change"):
        table.add_column(title, no_wrap=True)
    for change in result.changes:
        table.add_row(
            change.what, _shown(change.before, change.unit), _shown(change.after, change.unit), _delta(change)
        )
    console.print(table)


def _shown(value: float | str | None, unit: str) -> str:
    if value is None:
        return "not known"
    if isinstance(value, str):
        return escape(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f"{text} {unit}".strip()


def _delta(change: Change) -> str:
    before, after = change.before, change.after
    if isinstance(before, str) or isinstance(after, str) or before is None or after is None:
        return "" if before == after else "other"
    if before == after:
        return "="
    text = f"{after - before:+,}" if isinstance(before, int) and isinstance(after, int) else f"{after - before:+.4g}"
    return f"{text} {change.unit}".strip()
