"""`edgecomp probe`: what a device is, and a profile for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgecomp.cli_options import connection_options, json_option


@click.command()
@click.argument("host")
@click.option("--name", help="Of the profile. Default: the file's name, else the host's.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write. Default: NAME.toml in this folder.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option("--python", default="python3", show_default=True, help="Interpreter on the host whose runtimes count.")
@connection_options
@json_option
def probe(
    host: str, name: str | None, out: Path | None, force: bool, python: str, as_json: bool, **connection: Any
) -> None:
    """Ask HOST what it is, and write a profile that extends the nearest one and states what differs.

    HOST is [user@]host[:port], adb://SERIAL, or "local". Nothing is written there, and nothing but a few commands that
    print facts is run.
    """
    from edgecomp.probe import check_target, name_of, probe
    from edgecomp.report.probe import print_probe
    from edgecomp.transports import connect

    name = name or (out.stem if out is not None else name_of(host))
    path = out if out is not None else Path(f"{name}.toml")
    # Nobody should wait for a device to hear of a wrong option.
    check_target(name, path, force=force)
    with connect(host, **connection) as transport:
        result = probe(transport, name=name, out=path, force=force, python=python)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_probe(result)
