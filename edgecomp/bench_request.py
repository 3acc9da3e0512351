"""From the options of `edgecomp bench` to one call, its files, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecomp.bench.baseline import Baseline, read_baseline
from edgecomp.bench.compare import COMPARISON_PROCESSES, FAIL_IF_SLOWER
from edgecomp.bench.engines import Engine, bench_with
from edgecomp.bench.junit import write_junit
from edgecomp.bench.limits import LimitCheck, check_latency, check_slowdowns, exit_code
from edgecomp.bench.measurement import BenchReport
from edgecomp.bench.settings import BenchSettings
from edgecomp.errors import EXIT_FAILED, EdgecompError, UsageError
from edgecomp.files import write_atomic
from edgecomp.fleet.file import read_fleet
from edgecomp.fleet.results import merged, read_finished, request_digests, write_fleet_results
from edgecomp.fleet.run import FleetProgress, assign, run_fleet
from edgecomp.transports import connect

Progress = Callable[[str, int, int], None]


def run_bench(options: Mapping[str, Any], progress: Progress) -> tuple[BenchReport, int]:
    """`edgecomp bench --host`: measure, check, write files.

    Returns:
        The report, and the exit code: 1 where something could not be measured, 3 where a limit is missed, 4 where a
        measurement cannot be trusted.

    Raises:
        UsageError: Options that contradict each other.
        BundleError, TransportError, BenchmarkError: One sentence each.
    """
    settings = bench_settings(options)
    engine = Engine(options["engine"], options["benchmark_model"])
    engine.check(settings, scores=options["accuracy"] is not None)
    baseline = None if options["compare"] is None else read_baseline(options["compare"])
    evaluation = None
    if options["accuracy"] is not None:
        from edgecomp.bench.evaluation import SampleEvaluation
        from edgecomp.data import parse_image_size

        evaluation = SampleEvaluation(
            options["data"],
            options["accuracy"],
            group_key=options["group_key"],
            image_size=None if options["image_size"] is None else parse_image_size(options["image_size"]),
            progress=lambda what, done, total: progress(what, done, total or 0),
        )
    with connect(options["host"], **connection(options)) as transport:
        report = bench_with(
            engine,
            options["bundles"],
            transport,
            python=options["python"],
            threads=options["threads"],
            settings=settings,
            evaluation=evaluation,
            progress=progress,
        )
    return _finished(report, options, baseline)


def run_fleet_bench(
    options: Mapping[str, Any], show_progress: Callable[[Sequence[str]], AbstractContextManager[FleetProgress]]
) -> tuple[BenchReport, int]:
    """`edgecomp bench --fleet`: measure on all targets, check, write files; `show_progress` is given their names.

    Raises:
        UsageError: Options that contradict each other, or a fleet.toml that is wrong.
        BundleError: A bundle is missing, damaged or changed.
    """
    settings = bench_settings(options)
    baseline = None if options["compare"] is None else read_baseline(options["compare"])
    fleet = read_fleet(options["fleet"]).tagged(options["tags"])
    assignments = assign(fleet, options["bundles"])
    digests = request_digests(assignments, settings, options["threads"])
    result: Path | None = options["result"]
    reports: dict[str, BenchReport] = {}
    if options["resume"]:
        if result is None:
            raise UsageError("--resume needs the file that an interrupted call has written.", hint="Add --result FILE.")
        reports = read_finished(result, digests)
    left = [item for item in assignments if item.name not in reports]

    def keep(name: str, report: BenchReport) -> None:
        reports[name] = report
        if result is not None:
            write_fleet_results(result, merged(reports), reports, digests)

    with show_progress([item.name for item in left]) as progress:
        run_fleet(
            fleet,
            left,
            threads=options["threads"],
            settings=settings,
            accept_new_host_key=options["accept_new_host_key"],
            connect_timeout_s=options["connect_timeout_s"],
            on_result=keep,
            progress=progress,
        )
    ordered = {item.name: reports[item.name] for item in assignments}
    report, code = _finished(merged(ordered), {**options, "result": None}, baseline)
    if result is not None:
        write_fleet_results(result, report, ordered, digests)
    return report, code


def _finished(report: BenchReport, options: Mapping[str, Any], baseline: Baseline | None) -> tuple[BenchReport, int]:
    """The report with its checks, written where that was asked for, and the exit code."""
    checks: list[LimitCheck] = []
    if options["max_latency"] is not None:
        checks += [check_latency(measured, options["max_latency"]) for measured in report.measurements]
    if baseline is not None:
        share = options["fail_if_slower"]
        checks += check_slowdowns(report.measurements, baseline, FAIL_IF_SLOWER if share is None else share)
    report = replace(report, checks=tuple(checks))
    write_results(report, options["result"], options["junit"])
    if report.failed:
        return report, EXIT_FAILED
    return report, exit_code((item.verdict for item in report.measurements), checks)


def bench_settings(options: Mapping[str, Any]) -> BenchSettings:
    """What the options say of how long and how often is measured.

    Raises:
        UsageError: Options that contradict each other, or make no sense.
    """
    if options["fail_if_slower"] is not None and options["compare"] is None:
        raise UsageError("--fail-if-slower needs something to compare with.", hint="Name a file with --compare.")
    if (options["host"] is None) == (options["fleet"] is None):
        raise UsageError("Name one --host, or a --fleet of several.")
    if options["fleet"] is None and (options["tags"] or options["resume"]):
        raise UsageError(f"--{'tag' if options['tags'] else 'resume'} goes with --fleet.")
    if options["fleet"] is not None and options["accuracy"] is not None:
        raise UsageError("--accuracy is for one --host.", hint="Bench the device alone for that.")
    if options["fleet"] is not None and (options["engine"] != "auto" or options["benchmark_model"] is not None):
        raise UsageError(
            "--engine and --benchmark-model are for one --host.",
            hint="In a fleet.toml each target has keys of its own: engine, benchmark_model.",
        )
    if (options["accuracy"] is None) != (options["data"] is None):
        raise UsageError("--accuracy N and --data go together: the samples come from the data.")
    for name in ("group_key", "image_size"):
        if options[name] is not None and options["data"] is None:
            raise UsageError(f"--{name.replace('_', '-')} says how --data is read: it goes with --accuracy and --data.")
    least = options["processes"]
    if options["compare"] is not None:
        least = max(least, COMPARISON_PROCESSES)
    settings = BenchSettings(
        min_runs=options["runs"],
        min_seconds=options["min_seconds"],
        max_seconds=options["max_seconds"],
        min_processes=least,
        max_processes=max(least, options["max_processes"]),
        precision_ratio=options["precision"],
        passes=("memory", "profile") if options["operators"] else ("memory",),
        governor=options["governor"],
        lock_wait_s=options["wait"],
        timeout_s=options["timeout"],
    )
    return settings.sustained() if options["sustained"] else settings


def connection(options: Mapping[str, Any]) -> dict[str, Any]:
    """What `connect` takes, from `connection_options`."""
    return {name: options[name] for name in ("identity", "known_hosts", "accept_new_host_key", "connect_timeout_s")}


def write_results(report: BenchReport, result: Path | None, junit: Path | None) -> None:
    """Write the files that were asked for, each whole or not at all.

    Raises:
        EdgecompError: One cannot be written.
    """
    if result is not None:
        try:
            write_atomic(result, (json.dumps(report.to_json(), indent=2) + "\n").encode())
        except OSError as error:
            raise EdgecompError(f"{result} cannot be written: {error.strerror}.") from error
    if junit is not None:
        write_junit(junit, report)
