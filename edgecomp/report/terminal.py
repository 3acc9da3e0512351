"""Results as people read them: tables on stdout, every number with its unit and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgecomp.units import format_bytes

if TYPE_CHECKING:
    from edgecomp.bench import Measurement
    from edgecomp.bundle.reader import Bundle
    from edgecomp.results import Accuracy, CandidateResult, DeviceResult, FitResult, Interval

_STYLES = {"chosen": "bold green", "rejected": "yellow", "failed": "red"}
_SPLITS = {"validation": "val", "test": "test"}
_STATUS = {"fits": "[bold green]fits[/]", "no_fit": "[bold red]nothing fits[/]", "failed": "[bold red]failed[/]"}


def _console() -> Console:
    # A pipe has no width: 80 columns would break tables that a log shows well.
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def print_fit(result: FitResult) -> None:
    """The model, then a table for each device, then notes."""
    console = _console()
    model = result.float_model
    console.print(f"[bold]{escape(result.model.path)}[/] ({result.model.kind})")
    parts = [f"{format_bytes(model.model_bytes)} as float .tflite", f"{model.macs / 1e6:.3g} M MACs"]
    for score in (model.accuracy, model.validation_accuracy):
        if score is not None:
            parts.append(f"{result.metric} {_interval(score)} on {score.samples} {score.split} samples")
    console.print(f"float model: {', '.join(parts)}")
    for device in result.devices:
        _print_device(console, device, result.metric)
    for note in (*result.model.notes, *result.notes):
        console.print(f"[dim]note:[/] {escape(note)}")
    console.print(f"[dim]{result.seconds:.1f} s, seed {result.seed}. Brackets are 95 % intervals (bootstrap).[/]")


def _print_device(console: Console, device: DeviceResult, metric: str) -> None:
    limits = device.limits
    known = [f"accuracy drop {limits['max_accuracy_drop']}"]
    for key, name in (("max_model_bytes", "model file"), ("max_ram_bytes", "RAM")):
        if limits[key] is not None:
            known.append(f"{name} {format_bytes(int(limits[key] or 0))}")
    if limits["max_latency_ms"] is not None:
        known.append(f"latency {limits['max_latency_ms']} ms")
    console.print()
    console.print(f"[bold]{device.device}[/]: {_STATUS[device.status]}   limits: {', '.join(known)}")
    if device.reason is not None:
        console.print(escape(device.reason))
    if any(item.status != "skipped" for item in device.candidates):
        console.print(_candidate_table(device, metric))
    for candidate in device.candidates:
        if candidate.status != "skipped":
            _print_details(console, candidate)
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
            _latency(item),
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
            f"p90 {latency.p90:.4g} ms ({latency.mode}, {latency.runs} runs, {latency.num_threads} thread(s)) "
            f"on {escape(latency.on)}",
            markup=False,
        )


def _interval(score: Interval | Accuracy) -> str:
    return escape(f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")


def _drop(item: CandidateResult) -> str:
    if item.accuracy_drop_pp is not None:
        drop = item.accuracy_drop_pp
        return escape(f"{drop.value:.2f} pp [{drop.low:.2f}, {drop.high:.2f}]")
    if item.score_drop is not None:
        drop = item.score_drop
        return escape(f"{drop.value:.4g} [{drop.low:.4g}, {drop.high:.4g}]")
    return ""


def _memory(item: CandidateResult) -> str:
    return "" if item.ram_bytes is None else f"{format_bytes(item.ram_bytes)} {item.arena_mode}"


def _latency(item: CandidateResult) -> str:
    if item.latency_ms is None:
        return ""
    return f"{item.latency_ms.value:.4g} ms {item.latency_ms.mode}"


def print_measurement(measurement: Measurement) -> None:
    """What a benchmark found."""
    console = _console()
    coverage = measurement.delegate
    lines = [
        f"{measurement.chosen} for {measurement.device} on {measurement.on}",
        f"p50 {measurement.p50_ms:.4g} ms [{measurement.low_ms:.4g}, {measurement.high_ms:.4g}], "
        f"p90 {measurement.p90_ms:.4g} ms (measured, {measurement.runs} runs, {measurement.num_threads} thread(s))",
        f"init {measurement.init_ms:.3g} ms, first inference {measurement.first_ms:.4g} ms",
        f"runtime {measurement.runtime} {measurement.runtime_version or ''}, kernels "
        f"{measurement.kernel_family or 'unknown'}"
        + ("" if coverage is None else f", {coverage.delegated} of {coverage.total} operators delegated"),
        f"outputs: {_golden(measurement)}",
    ]
    if not measurement.is_profile_device:
        lines.append(f"note: {measurement.label}: this is no latency of {measurement.device}")
    for line in lines:
        console.print(line, markup=False)


def _golden(measurement: Measurement) -> str:
    golden = measurement.golden
    if golden.message is not None:
        return f"WRONG: {golden.message}"
    if golden.equal:
        return f"equal to the {golden.samples} golden samples, bit by bit"
    parts = [f"{golden.samples} golden samples"]
    if golden.max_difference_lsb is not None:
        parts.append(f"largest difference {golden.max_difference_lsb:.3g} LSB ({golden.tolerance_lsb:g} allowed)")
    if golden.argmax_agreement is not None:
        parts.append(f"same answer {golden.argmax_agreement:.0%}")
    return ", ".join(parts)


def print_bundle(bundle: Bundle) -> None:
    """What a bundle is."""
    console = _console()
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
    for step in manifest.plan:
        console.print(f"  {step.name}: {step.status}: {step.reason}", markup=False)
