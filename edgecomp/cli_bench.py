"""`edgecomp bench`: the options of a measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgecomp.cli_options import DURATION, SHARE, TIME, connection_options, json_option


def _threads(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    """Numbers, or "all" for one thread for each big core (0)."""
    found = []
    for value in values:
        if value != "all" and not (value.isdecimal() and 1 <= int(value) <= 64):
            raise click.BadParameter(f'a number from 1 to 64, or "all" for one a big core, got {value!r}.')
        found.append(0 if value == "all" else int(value))
    return tuple(found)


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@click.option("--host", help='[user@]host[:port], adb://SERIAL, or "local" for this machine.')
@click.option("--fleet", type=click.Path(path_type=Path, dir_okay=False), help="A fleet.toml of several, at once.")
@click.option("--tag", "tags", multiple=True, help="Only targets of the fleet that have it; repeatable.")
@click.option("--resume", is_flag=True, help="Leave out targets of the fleet that --result has already.")
@click.option(
    "--threads", multiple=True, default=("1", "all"), show_default="1 and all", callback=_threads,
    help='A number, or "all" for one a big core; repeatable.',
)  # fmt: skip
@click.option(
    "--runs", default=50, show_default=True, type=click.IntRange(1), help="Inferences in a process, at least."
)
@click.option("--min-seconds", default=1.0, show_default=True, help="And at least so long.")
@click.option("--max-seconds", default=60.0, show_default=True, help="At most, for all processes of a configuration.")
@click.option("--processes", default=3, show_default=True, type=click.IntRange(1, 100), help="Fresh ones, at least.")
@click.option(
    "--max-processes", default=5, show_default=True, type=click.IntRange(1, 100), help="Until --precision is met."
)
@click.option("--precision", default="2%", show_default=True, type=SHARE, help="Half the interval of the median.")
@click.option("--sustained", is_flag=True, help="At least 10 s in each process: what it does once it is warm.")
@click.option("--operators", is_flag=True, help="Also the time by operator, in a run of its own.")
@click.option("--accuracy", type=click.IntRange(1), metavar="N", help="Also score N test samples of --data there.")
@click.option("--data", help="For --accuracy: what the bundle was fitted to.")
@click.option("--group-key", help="For --accuracy: as for the fit.")
@click.option("--image-size", help="For --accuracy: as for the fit.")
@click.option("--max-latency", type=TIME, help="Fail (exit code 3) where the median is above it.")
@click.option(
    "--compare", type=click.Path(path_type=Path, dir_okay=False), help="Results of an earlier day to compare with."
)
@click.option(
    "--fail-if-slower", type=SHARE, help="For --compare: fail (exit code 3) from this slowdown on.  [default: 5%]"
)
@click.option("--result", type=click.Path(path_type=Path, dir_okay=False), help="Also write the results as JSON.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write them as JUnit XML.")
@click.option("--python", default="python3", show_default=True, help="Interpreter on the host that has the runtime.")
@click.option(
    "--engine", default="auto", show_default=True, type=click.Choice(["auto", "interpreter", "benchmark_model"]),
    help="What measures: the Python agent, where there is no Python benchmark_model.",
)  # fmt: skip
@click.option("--benchmark-model", metavar="PATH", help="Where that program is on the host, if it is not found.")
@click.option("--set-governor", "governor", help='Frequency governor while it measures: "performance". Put back after.')
@click.option("--wait", default="5m", show_default=True, type=DURATION, help="For another measurement on the device.")
@click.option("--timeout", type=DURATION, help="For everything on the device together.")
@connection_options
@json_option
def bench(as_json: bool, **options: Any) -> int:
    """Time BUNDLEs on a host, compare their outputs with the golden ones, and say whether the times can be trusted.

    Several bundles are measured in alternation, so that they can be compared. With --fleet each bundle goes to the
    targets whose profile it was made for.
    """
    from edgecomp.bench_request import run_bench, run_fleet_bench
    from edgecomp.report.fleet import fleet_on_stderr, print_fleet
    from edgecomp.report.measurement import print_bench
    from edgecomp.report.progress import progress_on_stderr

    if options["fleet"] is not None:
        report, code = run_fleet_bench(options, fleet_on_stderr)
    else:
        with progress_on_stderr() as progress:
            report, code = run_bench(options, progress)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    elif options["fleet"] is not None:
        print_fleet(report)
    else:
        print_bench(report)
    return code
