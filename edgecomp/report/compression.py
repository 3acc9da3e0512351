"""What `edgecomp compress` prints: the files before and after, then what each step did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgecomp.report.terminal import make_console
from edgecomp.units import format_bytes

if TYPE_CHECKING:
    from edgecomp.compression import CompressionResult, FileResult
    from edgecomp.diary import StepReport

_SHOWN_LAYERS = 12


def print_compression(result: CompressionResult) -> None:
    """Files, steps, packing, notes."""
    console = make_console()
    device = "" if result.device is None else f" for {result.device}"
    console.print(f"[bold]{escape(result.model)}[/]{device}: {escape(result.recipe)}")
    console.print(_files(result))
    for step in result.variant.steps:
        _print_step(console, step)
    _print_packing(console, result)
    for note in result.notes:
        console.print(f"[dim]note:[/] {escape(note)}")
    console.print(f"written: {escape(str(result.folder))}  [dim]{result.seconds:.1f} s[/]")
    console.print(
        "[dim]Scores are measured on this machine; brackets are 95 % intervals (bootstrap). Agreement: same answer as "
        "the float model.[/]"
    )


def _files(result: CompressionResult) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "file", "zlib", "MACs", "arena"):
        table.add_column(name, justify="left" if not name else "right")
    splits = list(result.before[0].scores) or list(result.before[0].agreement)
    for split in splits:
        table.add_column(f"{result.metric} ({split})", justify="right")
        table.add_column("agreement", justify="right")
    for when, files in (("before", result.before), ("after", result.after)):
        for item in files:
            table.add_row(f"{when} {item.name}", *_cells(item, splits))
    return table


def _cells(item: FileResult, splits: list[str]) -> list[str]:
    cells = [
        f"{item.model_bytes:,} B",
        f"{item.compressed_bytes:,} B",
        f"{item.macs / 1e6:.3g} M",
        "" if item.arena_bytes is None else f"{item.arena_bytes:,} B (tflite-micro)",
    ]
    for split in splits:
        score, same = item.scores.get(split), item.agreement.get(split)
        cells.append("no labels" if score is None else f"{score.value:.4f} [{score.low:.3f}, {score.high:.3f}]")
        cells.append("" if same is None else f"{100 * same.value:.1f} %")
    return cells


def _print_step(console: Console, step: StepReport) -> None:
    before, after = step.before, step.after
    console.print(
        f"\n[bold]{escape(step.step)}[/]: {before.parameters:,} -> {after.parameters:,} parameters, "
        f"{before.macs / 1e6:.3g} M -> {after.macs / 1e6:.3g} M MACs, weights {format_bytes(before.weight_bytes)} -> "
        f"{format_bytes(after.weight_bytes)} (estimated)"
    )
    if step.epochs is not None and step.train_seconds is not None:
        losses = step.validation_losses
        resumed = f"; {step.resumed_epochs} of them by an interrupted run" if step.resumed_epochs else ""
        best = f"best in epoch {step.best_epoch}" if step.best_epoch else "no epoch was better than the start"
        start = "" if step.start_loss is None else f"{step.start_loss:.4g} -> "
        console.print(
            f"  trained {step.epochs} epochs in {step.train_seconds:.0f} s; validation loss {start}"
            f"{min(losses):.4g}, {best}{resumed}"
        )
    for change in step.changes[:_SHOWN_LAYERS]:
        console.print(f"  {escape(change.layer)}: {escape(change.change)}")
    if len(step.changes) > _SHOWN_LAYERS:
        console.print(f"  [dim]and {len(step.changes) - _SHOWN_LAYERS} more layers: see report.json[/]")
    reasons: dict[str, list[str]] = {}
    for item in step.skipped:
        reasons.setdefault(item.reason, []).append(item.layer)
    for reason, layers in reasons.items():
        console.print(f"  [dim]left as they were: {escape(', '.join(layers))}: {escape(reason)}[/]")
    for note in step.notes:
        console.print(f"  [dim]{escape(note)}[/]")


def _print_packing(console: Console, result: CompressionResult) -> None:
    if result.packed is None:
        return
    report = result.packed.report
    coded = [item for item in report.tensors if item.kind is not None]
    console.print(
        f"\n[bold]packed for TFLM[/]: {report.before.file_bytes:,} B -> {report.after.file_bytes:,} B, {len(coded)} of "
        f"{len(report.tensors)} weight tensors coded; arena {report.before.arena_total_bytes:,} -> "
        f"{report.after.arena_total_bytes:,} B, {report.before.ms:.3g} -> {report.after.ms:.3g} ms an inference "
        f"(measured in {report.runtime} on this machine)"
    )
    console.print(f"  equal to the unpacked file, byte by byte, on {report.samples} real inputs")
    if report.reason is not None:
        console.print(f"  {escape(report.reason)}")
