"""Results as people read them: tables on stdout, every number with its unit and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgecomp.units import format_bytes

if TYPE_CHECKING:
    from edgecomp.bundle.reader import Bundle
    from edgecomp.results import (
        Accuracy,
        CandidateResult,
        Condition,
        DeviceResult,
        FitResult,
        Interval,
        Robustness,
    )

_STYLES = {"chosen": "bold green", "beaten": "green", "rejected": "yellow", "failed": "red"}
_SPLITS = {"validation": "val", "test": "test"}
_STATUS = {
    "fits": "[bold green]fits[/]",
    "no_fit": "[bold red]nothing fits[/]",
    "failed": "[bold red]failed[/]",
    "planned": "[bold]planned[/]",
}


def make_console() -> Console:
    """The console of a report, on stdout."""
    # A pipe has no width: 80 columns would break tables that a log shows well.
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def print_fit(result: FitResult) -> None:
    """The model, then a table for each device, then notes."""
    console = make_console()
    model = result.float_model
    console.print(f"[bold]{escape(result.model.path)}[/] ({result.model.kind})")
    parts = [f"{format_bytes(model.model_bytes)} as float .tflite", f"{model.macs / 1e6:.3g} M MACs"]
    for score in (model.accuracy, model.validation_accuracy):
        if score is not None:
            parts.append(f"{result.metric} {_interval(score)} on {score.samples} {score.split} samples")
    console.print(f"float model: {', '.join(parts)}")
    for device in result.devices:
        _print_device(console, device, result.metric)
    _print_strengths(console, result)
    for note in (*result.model.notes, *result.notes):
        console.print(f"[dim]note:[/] {escape(note)}")
    intervals = "Brackets are 95 % intervals (bootstrap; for changed answers Wilson's)."
    console.print(f"[dim]{result.seconds:.1f} s, seed {result.seed}. {intervals}[/]")


def describe_device_limits(device: DeviceResult, metric: str) -> str:
    """The limits of a device in a line."""
    limits = device.limits
    known = [] if limits["max_accuracy_drop"] is None else [f"accuracy drop {limits['max_accuracy_drop']}"]
    if limits["min_accuracy"] is not None:
        known.append(f"{metric} {limits['min_accuracy']}")
    if limits["max_flips"] is not None:
        known.append(f"flips {100 * float(limits['max_flips']):.4g} %")
    for key, name in (("max_model_bytes", "model file"), ("max_ram_bytes", "RAM")):
        if limits[key] is not None:
            known.append(f"{name} {format_bytes(int(limits[key] or 0))}")
    if limits["max_latency_ms"] is not None:
        known.append(f"latency {limits['max_latency_ms']} ms")
    if limits["max_energy_mj"] is not None:
        known.append(f"energy {limits['max_energy_mj']} mJ")
    return ", ".join(known)


def _print_device(console: Console, device: DeviceResult, metric: str) -> None:
    console.print()
    console.print(
        f"[bold]{device.device}[/]: {_STATUS[device.status]}   limits: {describe_device_limits(device, metric)}"
    )
    if device.reason is not None:
        console.print(escape(device.reason))
    if any(item.status != "skipped" for item in device.candidates):
        console.print(_candidate_table(device, metric))
    for candidate in device.candidates:
        if candidate.status != "skipped":
            _print_details(console, candidate)
        if candidate.robustness is not None:
            _print_robustness(console, candidate.name, candidate.robustness, metric)
    skipped: dict[str, list[str]] = {}
    for candidate in device.candidates:
        if candidate.status == "skipped":
            skipped.setdefault(candidate.reason, []).append(candidate.name)
    for reason, names in skipped.items():
        console.print(f"[dim]not made: {', '.join(names)}: {escape(reason)}[/]")
    if device.bundle is not None:
        console.print(f"bundle: [bold]{escape(device.bundle)}[/]  sha256 {device.bundle_sha256}")
    if device.error is not None:
        console.print(f"[red]error:[/] {escape(device.error)}")
    for note in device.notes:
        console.print(f"[dim]note:[/] {escape(note)}")


def _candidate_table(device: DeviceResult, metric: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("candidate", "status", metric, "drop", "agrees", "file", "RAM", "latency"):
        table.add_column(title, no_wrap=True)
    for item in device.candidates:
        if item.status == "skipped":
            continue
        style = _STYLES[item.status]
        table.add_row(
            item.name,
            f"[{style}]{item.status}[/]",
            "" if item.accuracy is None else f"{_interval(item.accuracy)} {_SPLITS[item.accuracy.split]}",
            _drop(item),
            "" if item.agreement is None else f"{item.agreement.value:.1%}",
            "" if item.model_bytes is None else format_bytes(item.model_bytes),
            _memory(item),
            latency_text(item),
        )
    return table


def _print_details(console: Console, item: CandidateResult) -> None:
    console.print(f"{item.name} [{_STYLES[item.status]}]{item.status}[/]: {escape(item.reason)}")
    if item.tflm is not None and item.status == "chosen":
        same = "" if item.tflm.argmax_agreement is None else f", same answer {item.tflm.argmax_agreement:.1%}"
        console.print(
            f"{item.name} runs in tflite-micro: arena {item.arena_bytes:,} bytes (simulated: a 64-bit build of TFLM), "
            f"{item.tflm.max_difference_lsb:g} LSB from LiteRT's reference kernels on {item.tflm.samples} samples{same}"
        )
    if item.float_operators:
        shown = ", ".join(name.split(";")[0] for name in item.float_operators[:4])
        more = f" and {len(item.float_operators) - 4} more" if len(item.float_operators) > 4 else ""
        console.print(f"[dim]{item.name}: {len(item.float_operators)} operators stay float: {escape(shown)}{more}[/]")
    if item.latency_ms is not None:
        latency = item.latency_ms
        console.print(
            f"{item.name} latency: p50 {latency.value:.4g} ms [{latency.low:.4g}, {latency.high:.4g}], "
            f"p90 {latency.p90:.4g} ms ({latency.mode}, {latency.runs} runs, threads: {latency.num_threads}) "
            f"on {latency.on}: {latency.verdict.replace('_', ' ')}",
            markup=False,
        )
        for reason in latency.reasons:
            console.print(f"  [red]-[/] {escape(reason)}")


def _print_robustness(console: Console, name: str, found: Robustness, metric: str) -> None:
    """Changed answers and the worst class in a line each, then a table with a row for each condition."""
    if (flips := found.flips) is not None:
        text = f"{name} changes {flips.value:.1%} [{_ends(flips)}] of the float model's {flips.samples} answers"
        if flips.worse is not None and flips.better is not None and flips.value > 0:
            shares = (flips.worse.value, flips.better.value, flips.value - flips.worse.value - flips.better.value)
            kinds = zip(shares, ("right to wrong", "wrong to right", "wrong to another wrong"), strict=True)
            text += ": " + ", ".join(f"{max(share, 0):.1%} {kind}" for share, kind in kinds)
        console.print(text, markup=False)
    if (worst := found.worst_class) is not None:
        which = f"class {worst.index}" + (f" ({worst.name})" if worst.name not in (None, str(worst.index)) else "")
        text = f"no class of {worst.compared} loses accuracy"
        if worst.drop_pp.value > 0:
            text = (
                f"{which} loses most of {worst.compared} classes: {_drop_pp(worst.drop_pp, 1)}, from "
                f"{worst.float_accuracy:.3f} to {worst.accuracy:.3f} on {worst.samples} samples"
            )
        console.print(text, markup=False)
    if len(found.conditions) > 1:
        console.print(_condition_table(name, found, metric))


def _condition_table(name: str, found: Robustness, metric: str) -> Table:
    """A row for each condition: scores if there are labels, else the share of same answers, else the outputs' SNR."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    first = found.conditions[0]
    if first.score is not None:
        titles = [f"{name} {metric}", f"float {metric}", "drop"]
    else:
        titles = ["same answer" if first.agreement is not None else "output SNR"]
    for title in (f"{found.samples} samples", *titles):
        table.add_column(title, no_wrap=True)
    for condition in found.conditions:
        table.add_row(condition.name, *_condition(condition))
    return table


def _condition(condition: Condition) -> list[str]:
    if condition.score is not None:
        digits = ".4g" if condition.accuracy_drop_pp is None else ".3f"
        return [f"{condition.score:{digits}}", f"{condition.float_score:{digits}}", _drop(condition, 1)]
    if condition.agreement is not None:
        return [escape(f"{condition.agreement.value:.1%} [{_ends(condition.agreement)}]")]
    return ["equal" if condition.output_snr_db is None else f"{condition.output_snr_db:.1f} dB"]


def _print_strengths(console: Console, result: FitResult) -> None:
    """What the corruptions are, once: they are those of the data, the same for every device."""
    for candidate in (item for device in result.devices for item in device.candidates):
        if candidate.robustness is not None:
            texts = [f"{item.name}: {item.strength}" for item in candidate.robustness.conditions if item.strength]
            if texts:
                console.print(f"[dim]corrupted test samples: {escape('; '.join(texts))}[/]")
            return


def _ends(share: Interval) -> str:
    return f"{100 * share.low:.1f}, {100 * share.high:.1f}"


def _interval(score: Interval | Accuracy) -> str:
    return escape(f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")


def _drop(item: CandidateResult | Condition, digits: int = 2) -> str:
    if item.accuracy_drop_pp is not None:
        return escape(_drop_pp(item.accuracy_drop_pp, digits))
    if item.score_drop is not None:
        drop = item.score_drop
        return escape(f"{drop.value:.4g} [{drop.low:.4g}, {drop.high:.4g}]")
    return ""


def _drop_pp(drop: Interval, digits: int) -> str:
    return f"{drop.value:.{digits}f} pp [{drop.low:.{digits}f}, {drop.high:.{digits}f}]"


def _memory(item: CandidateResult) -> str:
    return "" if item.ram_bytes is None else f"{format_bytes(item.ram_bytes)} {item.arena_mode}"


def latency_text(item: CandidateResult) -> str:
    """Measured or estimated, and which; empty if it is not known."""
    if item.latency_ms is not None:
        trust = "" if item.latency_ms.is_trusted else f", {item.latency_ms.verdict.replace('_', ' ')}"
        return f"{item.latency_ms.value:.4g} ms {item.latency_ms.mode}{trust}"
    estimate = item.estimated_latency_ms
    return "" if estimate is None else f"{estimate.value:.4g} ms {estimate.mode}"


def print_bundle(bundle: Bundle) -> None:
    """What a bundle is."""
    console = make_console()
    manifest = bundle.manifest
    console.print(f"[bold]{escape(str(bundle.path))}[/]: {manifest.chosen} for {manifest.device}, digests ok")
    console.print(f"source: {escape(manifest.source['name'])} ({manifest.source['kind']}, {manifest.source['sha256']})")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("file", "size", "sha256"):
        table.add_column(title)
    for name, entry in manifest.files.items():
        table.add_row(name, format_bytes(entry.bytes), entry.sha256)
    console.print(table)
    for role, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            scale = "" if tensor.scale is None else f", real = {tensor.scale:g} * (stored - {tensor.zero_point})"
            console.print(f"{role} {tensor.name}: {tensor.dtype} {list(tensor.shape)}{scale}", markup=False)
    mean, std = manifest.preprocessing.mean, manifest.preprocessing.std
    console.print(f"preprocessing: (x - mean) / std with mean {mean or 0}, std {std or 1}", markup=False)
    accuracy = manifest.metrics.get("accuracy")
    if accuracy is not None:
        console.print(
            f"score {accuracy['value']:.4f} [{accuracy['low']:.4f}, {accuracy['high']:.4f}] on {accuracy['samples']} "
            f"{accuracy['split']} samples ({accuracy['mode']}, kernels {accuracy['kernels']})",
            markup=False,
        )
    flips = (manifest.metrics.get("robustness") or {}).get("flips")
    if flips is not None:
        console.print(f"changes {flips['value']:.1%} of the float model's {flips['samples']} answers", markup=False)
    for step in manifest.plan:
        console.print(f"  {step.name}: {step.status}: {step.reason}", markup=False)
