"""`edgecomp probe`: what a device is, and a profile for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgecomp.cli_options import DURATION, connection_options, json_option


@click.command()
@click.argument("host")
@click.option("--name", help="Of the profile. Default: the file's name, else the host's.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write. Default: NAME.toml in this folder.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option("--python", default="python3", show_default=True, help="Interpreter on the host whose runtimes count.")
@click.option("--no-calibration", is_flag=True, help="Only facts: some seconds instead of some minutes.")
@click.option("--wait", default="5m", show_default=True, type=DURATION, help="For a measurement that runs there.")
@connection_options
@json_option
def probe(
    host: str, name: str | None, out: Path | None, force: bool, python: str, no_calibration: bool, wait: float,
    as_json: bool, **connection: Any,
) -> None:  # fmt: skip
    """Ask HOST what it is, and write a profile that extends the nearest one and states what differs.

    HOST is [user@]host[:port], adb://SERIAL, or "local". Then generated models are timed there, for some minutes, and
    the constants of the latency estimate are fitted to the device. Nothing is left there.
    """
    from edgecomp.probe import check_target, name_of, probe
    from edgecomp.probe_calibration import calibration, cost_file
    from edgecomp.report.probe import print_probe
    from edgecomp.report.progress import progress_on_stderr
    from edgecomp.transports import connect

    name = name or (out.stem if out is not None else name_of(host))
    path = out if out is not None else Path(f"{name}.toml")
    # Nobody should wait for a device to hear of a wrong option.
    check_target(name, path, force=force, beside=() if no_calibration else (cost_file(path),))
    with connect(host, **connection) as transport, progress_on_stderr() as progress:
        calibrate = None if no_calibration else calibration(path, python, wait, progress)
        result = probe(transport, name=name, out=path, force=force, python=python, calibrate=calibrate)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_probe(result)
