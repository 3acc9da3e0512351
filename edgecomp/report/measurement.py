"""What a benchmark found, as people read it: the verdict first, then the figures and what they were taken under."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgecomp.report.terminal import make_console
from edgecomp.units import format_bytes

if TYPE_CHECKING:
    from edgecomp.agent.reports import Conditions, GoldenCheck, OperatorProfile, ProcessReport
    from edgecomp.bench.limits import LimitCheck
    from edgecomp.bench.measurement import BenchReport, Measurement

_MOST_OPERATORS = 10
_LARGE_RATIO = 0.1


def print_bench(report: BenchReport) -> None:
    """Every measurement, what could not be measured, and the checks."""
    console = make_console()
    for index, measured in enumerate(report.measurements):
        if index:
            console.print()
        _print_measurement(console, measured)
    print_failed(console, report)
    print_checks(console, report)


def print_failed(console: Console, report: BenchReport) -> None:
    """What could not be measured, and why."""
    for failed in report.failed:
        on = failed.on if failed.target is None else f"{failed.target} ({failed.on})"
        console.print(f"[bold red]failed[/] {escape(failed.bundle)} on {escape(on)}: {escape(failed.error)}")
        if failed.hint:
            console.print(f"  {escape(failed.hint)}")


def print_checks(console: Console, report: BenchReport) -> None:
    """Whether what was asked for holds."""
    for check in report.checks:
        _print_check(console, check)


def verdict_text(verdict: str) -> str:
    """A verdict in colour."""
    return f"[bold {'green' if verdict == 'valid' else 'red'}]{verdict.replace('_', ' ')}[/]"


def _print_measurement(console: Console, measured: Measurement) -> None:
    threads = "1 thread" if measured.num_threads == 1 else f"{measured.num_threads} threads"
    console.print(
        f"[bold]{escape(measured.chosen)}[/] for {escape(measured.device)} on {escape(measured.on)}, {threads}: "
        f"{verdict_text(measured.verdict)}"
    )
    for reason in measured.reasons:
        console.print(f"  [red]-[/] {escape(reason)}")
    timing = measured.timing
    tail = f", p90 {timing.p90_ms:.4g}, p99 {timing.p99_ms:.4g}, MAD {timing.mad_ms:.2g} ms"
    lines = [
        f"p50 {timing.p50_ms:.4g} ms [{timing.low_ms:.4g}, {timing.high_ms:.4g}]"
        f"{tail if measured.has_single_times else ''} (measured, {measured.counted}{_outliers(timing.num_outliers)})",
        f"init {_ms(measured.init_ms)}, first inference {_ms(measured.first_ms)}, memory {_memory(measured)}",
        f"runtime {measured.runtime} {measured.runtime_version or ''}, kernels {measured.kernel_family or 'unknown'}"
        + _delegated(measured),
        f"machine {_machine(measured)}",
        f"outputs: {'not compared' if measured.golden is None else golden_text(measured.golden)}",
    ]
    if measured.score is not None:
        score = measured.score
        agreement = "" if score.agreement is None else f", same answer on {score.agreement:.1%}"
        of_all = (
            f"all {score.samples}"
            if score.samples == score.test_samples
            else f"{score.samples} of {score.test_samples}"
        )
        lines.append(
            f"{score.metric} {score.value:.4f} [{score.low:.4f}, {score.high:.4f}] (measured there on {of_all} test "
            f"samples; {score.host_value:.4f} on this machine{agreement})"
        )
    for line in lines:
        console.print(f"  {line}", markup=False)
    _print_profile(console, measured)
    _print_notes(console, measured.notes)


def _print_profile(console: Console, measured: Measurement) -> None:
    profile = measured.profile
    if profile is None:
        return
    console.print(
        f"  time by operator (measured by {profile.engine}, {profile.runs} runs with inputs of {profile.inputs}, apart "
        f"from the latency above):",
        markup=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for item in profile.operators[:_MOST_OPERATORS]:
        table.add_row("   ", f"{item.ratio:.1%}", f"{item.ms:.4g} ms", f"{item.nodes}x", escape(item.type))
    console.print(table)
    if len(profile.operators) > _MOST_OPERATORS:
        console.print(f"    ... and {len(profile.operators) - _MOST_OPERATORS} more types (--json has them)")
    if profile.containers:
        console.print(f"    left out, for they hold other operators: {', '.join(profile.containers)}", markup=False)
    weak = _weakness(profile)
    if weak:
        console.print(f"    a rough table: {' and '.join(weak)}", markup=False)


def _weakness(profile: OperatorProfile) -> list[str]:
    """What of an inference the table does not tell, where that is much."""
    found = []
    missing_ms, whole = profile.unaccounted_ms, f"the {profile.total_ms:.3g} ms of an inference"
    if missing_ms > _LARGE_RATIO * profile.total_ms:
        found.append(f"{missing_ms:.2g} ms of {whole} are in no operator")
    elif missing_ms < -_LARGE_RATIO * profile.total_ms:
        found.append(f"its operators come to {-missing_ms:.2g} ms more than {whole}")
    if profile.overhead_ms > _LARGE_RATIO * profile.total_ms:
        found.append(f"the profiler added {profile.overhead_ms:.2g} ms to {'each' if found else whole}")
    return found


def _print_check(console: Console, check: LimitCheck) -> None:
    shown = {True: "[bold green]ok[/]", False: "[bold red]FAILED[/]", None: "[bold yellow]not judged[/]"}[check.passed]
    threads = "1 thread" if check.num_threads == 1 else f"{check.num_threads} threads"
    console.print(
        f"{shown} --{check.name}, {escape(check.chosen)} on {escape(check.on)}, {threads}: {escape(check.sentence)}"
    )
    _print_notes(console, check.notes)


def _print_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"[dim]note:[/] {escape(note)}")


def _outliers(count: int) -> str:
    return "" if count == 0 else f", {count} outlier{'s' if count > 1 else ''} counted in"


def _ms(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g} ms"


def _memory(measured: Measurement) -> str:
    memory = measured.memory
    if memory is None or memory.peak_rss_bytes is None:
        return "not measured"
    model = memory.model_rss_bytes
    of_model = "" if model is None else f", {format_bytes(model)} of it since the model was loaded"
    return f"{format_bytes(memory.peak_rss_bytes)} at most{of_model}"


def _delegated(measured: Measurement) -> str:
    coverage = measured.delegate
    if coverage is None:
        return ""
    parts = "" if coverage.partitions < 2 else f" in {coverage.partitions} partitions"
    return f", {coverage.delegated} of {coverage.total} operators delegated{parts}"


def _machine(measured: Measurement) -> str:
    facts, steady = measured.facts, measured.steady
    parts = [facts.cpu_model or facts.machine, f"Linux {facts.kernel}" if facts.system == "Linux" else facts.system]
    if facts.cpu_part_ids:
        parts.append(f"CPU part {' '.join(facts.cpu_part_ids)}")
    if steady is not None and steady.cores:
        parts.append(f"core{'s' if len(steady.cores) > 1 else ''} {', '.join(map(str, steady.cores))}")
    moments = [moment for process in measured.conditions for moment in _moments(process)]
    speeds = [khz for moment in moments for khz in moment.khz.values()]
    if speeds:
        parts.append(f"{min(speeds) / 1e6:.2f} to {max(speeds) / 1e6:.2f} GHz")
    governors = sorted({name for moment in moments for name in moment.governors})
    if governors:
        parts.append(f"governor {', '.join(governors)}")
    temperatures = [value for moment in moments for value in moment.temperatures_c.values()]
    if temperatures:
        parts.append(f"{max(temperatures):.0f} °C at most")
    if facts.virtual_machine is not None:
        parts.append(f"a virtual machine ({facts.virtual_machine})")
    return ", ".join(parts)


def _moments(process: ProcessReport) -> tuple[Conditions, ...]:
    """While it was timed; else what is nearest to that."""
    return process.during or (process.before, process.after)


def golden_text(golden: GoldenCheck) -> str:
    """The comparison with the golden outputs in a line: the rule, the largest difference, the agreement."""
    if golden.message is not None:
        return f"WRONG: {golden.message}"
    if golden.equal:
        return f"equal to the {golden.samples} golden samples, bit by bit"
    parts = [f"{golden.samples} golden samples, rule {golden.rule}"]
    if golden.max_difference_lsb is not None:
        parts.append(f"largest difference {golden.max_difference_lsb:.3g} LSB ({golden.tolerance_lsb:g} allowed)")
    if golden.argmax_agreement is not None:
        parts.append(f"same answer {golden.argmax_agreement:.0%}")
    return ", ".join(parts)
