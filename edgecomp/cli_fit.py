"""The commands that fit: `fit`, `plan`, `refit`, and `explain` for what they did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecomp.cli_options import (
    Command,
    config_option,
    data_options,
    json_option,
    limit_options,
    model_options,
    search_options,
    together,
    training_options,
    typed_names,
)
from edgecomp.cli_runs import find_run, store_option
from edgecomp.errors import EXIT_FAILED, EXIT_NO_FIT, EXIT_OK, EXIT_UNTRUSTED

if TYPE_CHECKING:
    from edgecomp.matrix_result import MatrixResult
    from edgecomp.results import FitResult

PRECISIONS = ("FLOAT32", "FLOAT16", "DYNAMIC_RANGE", "INT8", "INT16X8", "INT4_WEIGHTS", "SELECTIVE")


def _fit_options(effort: str) -> Callable[[Command], Command]:
    return together(
        [
            click.argument("models", nargs=-1, metavar="[MODEL]...", type=click.Path(path_type=Path)),
            click.option("--data", help="An .npz file, a folder of images, or module:function. Default: the demo's."),
            click.option("--device", "devices", multiple=True, help="Name or .toml of a profile; repeatable."),
            config_option,
            data_options,
            limit_options,
            click.option(
                "--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="Try only these."
            ),
            click.option("--io", type=click.Choice(("float32", "int8", "uint8")), help="Type of inputs and outputs."),
            search_options(effort),
            training_options,
            model_options,
            store_option,
            click.option(
                "--out", default="bundles", show_default=True, type=click.Path(path_type=Path), help="For bundles."
            ),
            click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 64), help="On the device."),
            json_option,
        ]
    )


@click.command()
@_fit_options("quick")
@click.option("--host", "hosts", multiple=True, help="[DEVICE=][user@]host[:port] to time the bundle on; repeatable.")
@click.option("--python", default="python3", show_default=True, help="Interpreter on the host, for --host.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run of this very command.")
def fit(as_json: bool, **options: Any) -> int:
    """Make a bundle for each device from MODEL (.keras, .h5, SavedModel, .tflite).

    Without MODEL the embedded demo is fitted: a small CNN on the UCI handwritten digits. An edgecomp.toml next to
    MODEL can hold options, limits and devices; the command line wins.

    Several models share data, limits and options. They are fitted in the order given, each to all devices; of
    --time-limit each may use an equal part of what those before it have left. The last table is models x devices.
    """
    from edgecomp.report.matrix import print_results
    from edgecomp.report.progress import progress_on_stderr
    from edgecomp.report.terminal import print_fit
    from edgecomp.request import run_fit

    with progress_on_stderr() as progress:
        result = run_fit(options, progress, typed=typed_names())
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_results(result, print_fit)
    return _exit_code(result)


@click.command()
@_fit_options("standard")
def plan(as_json: bool, **options: Any) -> int:
    """Say what `fit` would try for MODEL with these options, and why, without training anything.

    Candidates that need no training are made and measured; of the others memory,
    time and energy are known from untrained previews, the time to train them from a few steps.
    """
    from edgecomp.report.matrix import print_results
    from edgecomp.report.plan import print_plan
    from edgecomp.report.progress import progress_on_stderr
    from edgecomp.request import run_fit

    options |= {"hosts": (), "python": "python3", "resume": False, "plan_only": True}
    with progress_on_stderr() as progress:
        result = run_fit(options, progress, typed=typed_names())
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_results(result, print_plan)
    return _exit_code(result)


@click.command()
@click.argument("run")
@store_option
@json_option
def explain(run: str, store_folder: Path, as_json: bool) -> int:
    """Tell why RUN chose what it chose: each candidate, the limit that it broke, what a looser limit would allow.

    RUN is a name of `edgecomp runs list`, or its beginning, or "last".
    """
    from edgecomp.report.story import print_story

    details = find_run(store_folder, run)
    if as_json:
        click.echo(json.dumps({"schema": "edgecomp.run/1", **details.to_json()}, indent=2))
    else:
        print_story(details)
    return EXIT_OK


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="An .npz file, a folder of images, or module:function.")
@data_options
@search_options("standard")
@model_options
@store_option
@click.option("--resume", is_flag=True, help="Go on with the interrupted run of this very command.")
@click.option("--out", default="bundles", show_default=True, type=click.Path(path_type=Path), help="For the bundle.")
@json_option
def refit(as_json: bool, **options: Any) -> int:
    """Replay what BUNDLE was made by on MODEL, which was trained again, under the same limits.

    Where the limits no longer hold there is a search. Device, limits,
    recipe, seed and preprocessing are the bundle's.
    """
    from edgecomp.report.progress import progress_on_stderr
    from edgecomp.report.refit import print_refit
    from edgecomp.request import run_refit

    with progress_on_stderr() as progress:
        result = run_refit(options, progress, typed=typed_names())
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_refit(result)
    return _exit_code(result.fit)


def _exit_code(result: FitResult | MatrixResult) -> int:
    from edgecomp.results import FitResult

    if not isinstance(result, FitResult):
        codes = {EXIT_FAILED for row in result.rows if row.status == "failed"} | {*map(_exit_code, result.fits)}
        return next((code for code in (EXIT_FAILED, EXIT_NO_FIT, EXIT_UNTRUSTED) if code in codes), EXIT_OK)
    if any(device.status == "failed" or device.error is not None for device in result.devices):
        return EXIT_FAILED
    if result.status == "no_fit":
        return EXIT_NO_FIT
    timed = [item.latency_ms for device in result.devices for item in device.candidates if item.status == "chosen"]
    judged_by_time = ("max_latency_ms", "max_energy_mj")
    limited = any(device.limits[name] is not None for device in result.devices for name in judged_by_time)
    wrong = any(latency is not None and not latency.golden_ok for latency in timed)
    unjudged = limited and any(latency is not None and not latency.is_trusted for latency in timed)
    return EXIT_UNTRUSTED if wrong or unjudged else EXIT_OK
