"""Runs as people read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from edgecomp.report.terminal import make_console
from edgecomp.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgecomp.store import Collected, Event, RunDetails, RunSummary

_STYLES = {"running": "cyan", "done": "green", "failed": "red", "interrupted": "yellow"}
_DEVICE_STYLES = {"fits": "green", "no_fit": "red", "failed": "red"}
_SHOWN_EVENTS = 20
_EVENT_LENGTH = 120


def print_runs(runs: Sequence[RunSummary], store: Path) -> None:
    """One line a run."""
    console = make_console()
    if not runs:
        console.print(f"No runs in {escape(str(store))}.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "model", "devices", "status", "when", "duration"):
        table.add_column(name, no_wrap=name != "devices")
    for run in runs:
        table.add_row(
            run.name,
            escape(_model(run)),
            escape(_devices(run)),
            _styled(run.status, _STYLES),
            _when(run.started_at),
            format_seconds(run.elapsed_s),
        )
    console.print(table)


def print_run(details: RunDetails) -> None:
    """The request, the last events, and what was found for each device."""
    console = make_console()
    run = details.summary
    console.print(f"[bold]{run.name}[/]: {_styled(run.status, _STYLES)}")
    console.print(
        f"started {_when(run.started_at)}, last active {_when(run.updated_at)}, worked {format_seconds(run.elapsed_s)}"
    )
    for key, value in run.request.items():
        if value is not None:
            console.print(f"  {escape(key)}: {escape(_short(value))}")
    left_out = len(details.events) - _SHOWN_EVENTS
    console.print(f"events: {len(details.events)}{f', the last {_SHOWN_EVENTS}:' if left_out > 0 else ''}")
    for event in details.events[-_SHOWN_EVENTS:]:
        console.print(f"  {_event(event)}")
    if details.result is not None:
        _print_devices(details.result)


def print_collected(collected: Collected, store: Path) -> None:
    """What went, and how much room that gives."""
    parts = [
        f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"
        for names, noun in (
            (collected.runs, "run"),
            (collected.results, "result"),
            (collected.artifacts, "artifact"),
            (collected.steps, "training step"),
        )
    ]
    verb = "Would remove" if collected.is_dry_run else "Removed"
    console = make_console()
    console.print(f"{verb} {', '.join(parts)}: {format_bytes(collected.freed_bytes)} in {escape(str(store))}.")
    for name in collected.runs:
        console.print(f"  {name}")


def _print_devices(result: dict[str, Any]) -> None:
    """A row a device, of several models a row a model and device."""
    rows = result.get("devices") if "rows" not in result else _cells(result["rows"])
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    titles = ("model",) * ("rows" in result) + ("device", "status", "chosen", "bundle")
    for name in titles:
        table.add_column(name)
    for row in rows:
        table.add_row(*(_cell(row, name) for name in titles))
    make_console().print(table)


def _cells(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a matrix, in the words of a fit; a model that failed as a whole is one of them."""
    return [
        cell | {"model": row["model"], "chosen": cell.get("candidate")}
        for row in rows
        for cell in row["cells"] or [{"status": row["status"]}]
    ]


def _cell(row: dict[str, Any], name: str) -> str:
    text = str(row.get(name) or "-")
    return _styled(text, _DEVICE_STYLES) if name == "status" else escape(text)


def _event(event: Event) -> str:
    at = datetime.fromtimestamp(event.at, UTC)
    said = ", ".join(f"{key} {_short(value)}" for key, value in event.value.items() if value is not None)
    text = said if len(said) <= _EVENT_LENGTH else f"{said[: _EVENT_LENGTH - 3]}..."
    return f"[dim]{at:%H:%M:%S}[/] {escape(event.kind)}  {escape(text)}".rstrip()


def _short(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return json.dumps(value)


def _model(run: RunSummary) -> str:
    model = run.request.get("model")
    return run.label if model is None else str(model)


def _devices(run: RunSummary) -> str:
    return ", ".join(str(device) for device in run.request.get("devices") or ()) or "-"


def _styled(status: str, styles: dict[str, str]) -> str:
    style = styles.get(status)
    return escape(status) if style is None else f"[{style}]{status}[/]"


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
