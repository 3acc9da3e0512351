"""The story of a run as people read it: what was tried, what each candidate broke, what else would be possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgecomp.errors import StoreError
from edgecomp.matrix_result import MatrixResult, name_of
from edgecomp.report.matrix import print_matrix
from edgecomp.report.terminal import describe_device_limits, latency_text, make_console
from edgecomp.results import CandidateResult, DeviceResult, FitResult
from edgecomp.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgecomp.store import RunDetails

_STAGE = {"preview": "not trained", "short": "a few epochs", "full": "in full"}
_UNITS = {"latency": "ms", "energy": "mJ", "size": "bytes", "ram": "bytes", "accuracy_drop": ""}


def print_story(details: RunDetails) -> None:
    """One section a device; a run that is not done tells what it has so far."""
    console = make_console()
    summary = details.summary
    asked = summary.request
    console.print(
        f"[bold]{summary.name}[/] ({summary.status}, {format_seconds(summary.elapsed_s)}): "
        f"{escape(str(asked['model']))} for {', '.join(asked['devices'])}, "
        f"effort {asked['effort']}, seed {asked['seed']}"
    )
    if details.result is None:
        _print_unfinished(console, details)
        return
    try:
        if "rows" in details.result:
            _print_models(console, MatrixResult.model_validate(details.result))
            return
        result = FitResult.model_validate(details.result)
    except ValidationError as error:
        raise StoreError(f"The result of {summary.name} was written by another version of edgecomp.") from error
    for device in result.devices:
        _print_device(console, result, device)
        for event in details.events:
            if event.kind == "sensitivity" and event.value["device"] == device.device:
                _print_layers(console, event.value["layers"])
    for note in result.notes:
        console.print(f"[dim]note:[/] {escape(note)}")


def _print_models(console: Console, result: MatrixResult) -> None:
    print_matrix(result)
    for row in result.rows:
        if row.run is not None:
            console.print(f"{escape(name_of(row.model))}: `edgecomp explain {row.run}`")


def _print_unfinished(console: Console, details: RunDetails) -> None:
    more = "" if details.summary.status == "failed" else ": the same command with --resume goes on"
    console.print(f"There is no result{more}. Finished so far:")
    for event in details.events:
        if event.kind in ("candidate", "trial"):
            candidate = CandidateResult.model_validate(event.value["candidate"])
            console.print(f"  {event.value['device']}: {escape(candidate.name)}: {escape(candidate.reason)}")
        elif event.kind == "model":
            told = event.value["reason"] or f"is finished: `edgecomp explain {event.value['run']}`"
            console.print(f"  {escape(event.value['model'])}: {escape(told)}")


def _print_device(console: Console, result: FitResult, device: DeviceResult) -> None:
    console.print()
    console.print(f"[bold]{device.device}[/]: {_verdict(device)}")
    console.print(f"limits: {describe_device_limits(device, result.metric)}")
    if device.reason is not None:
        console.print(escape(device.reason))
    plain = [item for item in device.candidates if item.recipe is None and item.sha256 is not None]
    recipes = [item for item in device.candidates if item.recipe is not None]
    told = {id(item) for item in (*plain, *recipes)}
    others = [item for item in device.candidates if id(item) not in told]
    if plain:
        console.print("[bold]Quantized after training[/]")
        console.print(_table(plain))
    if recipes:
        console.print("[bold]Compressed, then quantized[/]")
        console.print(_table(sorted(recipes, key=lambda item: -_progress(item))))
    if others:
        console.print("[bold]Not made[/]")
        for item in others:
            console.print(f"  {escape(item.name)}: {escape(item.reason)}")
    _print_undone(console, recipes)
    chosen = next((item for item in device.candidates if item.status == "chosen"), None)
    if chosen is not None and chosen.recipe is not None:
        console.print(f"[bold]What {escape(chosen.name)} did[/]")
        for step in chosen.recipe.steps:
            for change in step.changes:
                console.print(f"  {step.technique}: {escape(change)}")
    _print_what_if(console, device)


def _verdict(device: DeviceResult) -> str:
    if device.status != "fits":
        return {"no_fit": "nothing fits", "planned": "planned only"}.get(device.status, device.status)
    fitting = sum(item.status in ("chosen", "beaten") for item in device.candidates)
    chosen = f"{escape(device.chosen or '')} was chosen"
    if fitting == 1:
        return f"{chosen}: nothing else that was made meets every limit"
    what = (device.objective or "latency").replace("_", " ")
    return f"{chosen}: of {fitting} candidates that meet every limit it has the least {what}"


def _progress(item: CandidateResult) -> int:
    return 0 if item.recipe is None else ("preview", "short", "full").index(item.recipe.stage)


def _table(items: Sequence[CandidateResult]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    trained = any(item.recipe is not None for item in items)
    for title in ("candidate", *(("trained",) if trained else ()), "file", "RAM", "latency", "drop", "verdict"):
        table.add_column(title, no_wrap=title != "verdict")
    for item in items:
        table.add_row(
            escape(item.name),
            *((_trained(item),) if trained else ()),
            "" if item.model_bytes is None else format_bytes(item.model_bytes),
            "" if item.ram_bytes is None else format_bytes(item.ram_bytes),
            latency_text(item),
            "" if item.accuracy_drop_pp is None else f"{item.accuracy_drop_pp.value:.2f} pp",
            escape(f"{item.status}: {item.reason}"),
        )
    return table


def _trained(item: CandidateResult) -> str:
    if item.recipe is None:
        return ""
    epochs = f", {item.recipe.epochs} epochs" if item.recipe.epochs else ""
    return _STAGE[item.recipe.stage] + epochs


def _print_undone(console: Console, items: Sequence[CandidateResult]) -> None:
    """Trainings in full that were for nothing, and what may help."""
    undone = [
        (item.name, step.technique, item.recipe.settings["learning_rate"])
        for item in items
        if item.recipe is not None and item.recipe.stage == "full"
        for step in item.recipe.steps
        if step.best_epoch == 0
    ]
    if not undone:
        return
    console.print("[bold]Training undone[/] (no epoch had a lower validation loss than the weights before it)")
    for name, technique, _ in undone:
        console.print(f"  {escape(name)}: {technique}")
    lowest = min(rate for *_, rate in undone)
    console.print(f"  A --learning-rate below {lowest:g} or more training samples may win back more.")


def _print_layers(console: Console, layers: Sequence[tuple[str, float]]) -> None:
    if not layers:
        return
    console.print(
        "[bold]Layers that suffer most from rounding to INT8[/] (share of the output error gone if kept in float)"
    )
    for name, share in layers:
        console.print(f"  {share:6.1%}  {escape(name.split(';')[0])}")


def _print_what_if(console: Console, device: DeviceResult) -> None:
    if not device.what_if:
        return
    console.print("[bold]With one limit looser[/]")
    objective = device.objective or "latency"
    for row in device.what_if:
        value = ""
        if row.objective_value is not None:
            number = (
                format_bytes(int(row.objective_value))
                if _UNITS[objective] == "bytes"
                else (f"{row.objective_value:.4g} {_UNITS[objective]}".strip())
            )
            value = f" ({objective.replace('_', ' ')} {number})"
        console.print(f"  {escape(row.candidate)}{value} would fit: {escape(row.text)}")
