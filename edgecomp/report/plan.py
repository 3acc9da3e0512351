"""A plan as people read it: what was found without training, what would be trained and for how long, what would not."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgecomp.report.terminal import describe_device_limits, latency_text, make_console
from edgecomp.results import CandidateResult, DeviceResult, FitResult
from edgecomp.units import format_bytes

_WOULD = "would be trained: "


def print_plan(result: FitResult) -> None:
    """One section a device."""
    console = make_console()
    console.print(f"[bold]{escape(result.model.path)}[/] ({result.model.kind}): a plan, nothing was trained")
    for device in result.devices:
        console.print()
        console.print(f"[bold]{device.device}[/]: limits: {describe_device_limits(device, result.metric)}")
        if device.reason is not None:
            console.print(escape(device.reason))
            continue
        console.print(f"to be as small as possible: {(device.objective or '').replace('_', ' ')}")
        console.print(_table(device))
        for item in device.candidates:
            if item.sha256 is None:
                console.print(f"[dim]{escape(item.name)}: {escape(item.reason)}[/]")
        for note in device.notes:
            console.print(f"[dim]note:[/] {escape(note)}")
    for note in (*result.model.notes, *result.notes):
        console.print(f"[dim]note:[/] {escape(note)}")
    console.print(
        f"[dim]{result.seconds:.1f} s. Files and arenas are those of previews, made without training; accuracy after "
        f"training is not known yet. Times are estimated from a few measured steps on this machine.[/]"
    )


def _table(device: DeviceResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for title in ("candidate", "file", "RAM", "latency", "drop now", "what"):
        table.add_column(title, no_wrap=title != "what")
    for item in device.candidates:
        if item.sha256 is None:
            continue
        table.add_row(
            escape(item.name),
            "" if item.model_bytes is None else format_bytes(item.model_bytes),
            "" if item.ram_bytes is None else format_bytes(item.ram_bytes),
            latency_text(item),
            "" if item.accuracy_drop_pp is None else f"{item.accuracy_drop_pp.value:.2f} pp",
            _what(item),
        )
    return table


def _what(item: CandidateResult) -> str:
    _, separator, seconds = item.reason.partition(_WOULD)
    if separator:
        return f"[bold]train[/]: about {escape(seconds)}"
    if item.recipe is None:
        return {"chosen": "[green]fits as it is[/]", "beaten": "[green]fits[/]"}.get(item.status, escape(item.reason))
    return escape(item.reason)
