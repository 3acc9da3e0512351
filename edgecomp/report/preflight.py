"""One screen a device: what stands in the way, flash and RAM against their limits, predicted latency, layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgecomp.flash import CODE_MARGIN_RATIO
from edgecomp.units import format_bytes

if TYPE_CHECKING:
    from edgecomp.preflight import CheckResult, PreflightReport

_BAR = 30
_STATUS = {"fits": ("fits", "green"), "no_fit": ("does not fit", "red"), "cannot_run": ("cannot run", "red")}
_SEVERITY = {"error": "red", "warning": "yellow", "info": None}
_MOST_FINDINGS = 12


def print_preflight(result: CheckResult, *, layers: bool) -> None:
    """A screen for each device. Plain text: it has to start fast."""
    for report in result.reports:
        _print_device(report, layers=layers)
    for note in result.notes:
        click.echo(f"note: {note}")


def _print_device(report: PreflightReport, *, layers: bool) -> None:
    text, colour = _STATUS[report.status]
    click.echo(f"{click.style(report.device, bold=True)}: {click.style(text, fg=colour, bold=True)}")
    for broken in report.breaks:
        click.echo(f"  breaks a limit: {broken}")
    _print_findings(report)
    flash, ram = report.flash, report.ram
    click.echo(
        f"  flash    {_bar(flash.on_target_bytes, report.flash_limit_bytes)}  on target, {flash.raw_bytes:,} B raw"
    )
    code = "" if flash.code_bytes is None else (
        f"; code of runtime and operators about {format_bytes(flash.code_bytes)} "
        f"(estimated, ±{CODE_MARGIN_RATIO:.0%}, in the profile's reserve)"
    )  # fmt: skip
    click.echo(f"           {format_bytes(flash.compressed_bytes)} compressed for an update{code}")
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in ram.parts.items())
    click.echo(f"  RAM      {_bar(ram.needed_bytes, ram.limit_bytes)}  estimated, ±{ram.margin_ratio:.0%}: {parts}")
    rss = "" if ram.peak_rss_bytes is None else f"; peak RSS of a Python process {format_bytes(ram.peak_rss_bytes)}"
    click.echo(f"           most is alive at {_short(ram.peak_layer)}{rss}")
    click.echo(f"  latency  {_latency(report)}")
    if layers:
        _print_layers(report)


def _print_findings(report: PreflightReport) -> None:
    grouped: dict[tuple[str, str, str, str | None], list[str]] = {}
    for finding in report.findings:
        key = (finding.severity, finding.operator, finding.reason, finding.rewrite)
        grouped.setdefault(key, []).append(finding.layer)
    for (severity, operator, reason, rewrite), names in list(grouped.items())[:_MOST_FINDINGS]:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        where = f"{operator} (layer {_short(names[0])}{more}): " if names[0] else ""
        click.echo(f"  {click.style(severity, fg=_SEVERITY[severity])}: {where}{reason}")
        if rewrite is not None:
            click.echo(f"    would pass: {rewrite}")
    if len(grouped) > _MOST_FINDINGS:
        click.echo(f"  and {len(grouped) - _MOST_FINDINGS} more kinds of findings (--json has them all)")


def _short(layer: str) -> str:
    """The first of the names that a converter joined."""
    return layer.split(";")[0][:60]


def _bar(value: int, limit: int | None) -> str:
    if limit is None:
        return f"{format_bytes(value)}, no limit"
    share = value / limit if limit else float("inf")
    filled = min(_BAR, round(share * _BAR))
    bar = click.style("#" * filled, fg="red" if share > 1 else "green") + "." * (_BAR - filled)
    return f"[{bar}] {format_bytes(value)} of {format_bytes(limit)} ({share:.0%})"


def _latency(report: PreflightReport) -> str:
    macs = f"{report.macs / 1e6:.3g} M MACs"
    if report.latency is None:
        return f"unknown: {report.latency_unknown} ({macs})"
    latency = report.latency
    energy = "" if report.energy_mj is None else f"; energy {report.energy_mj:.3g} mJ (estimated)"
    return (
        f"{latency.value_ms:.3g} ms [{latency.low_ms:.3g}, {latency.high_ms:.3g}] (estimated, 90 % interval, "
        f"{macs}, constants {latency.family}){energy}"
    )


def _print_layers(report: PreflightReport) -> None:
    click.echo("")
    header = (
        f"  {'operator':<20} {'dtype':<8} {'output':<18} {'MACs':>12} {'weights':>10} {'alive':>10} {'ms':>9}  layer"
    )
    click.echo(header)
    for row in report.layers:
        shape = "x".join(str(size) for size in row.output_shape)
        time = "" if row.latency_ms is None else f"{row.latency_ms:.4g}"
        click.echo(
            f"  {row.operator:<20.20} {row.dtype:<8} {shape:<18.18} {row.macs:>12,} {row.weight_bytes:>10,} "
            f"{row.live_bytes:>10,} {time:>9}  {_short(row.layer)}"
        )
