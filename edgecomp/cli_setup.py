"""`edgecomp setup`: a TFLite runtime for a device that has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecomp.cli_options import connection_options, json_option
from edgecomp.errors import UsageError

if TYPE_CHECKING:
    from edgecomp.device_setup import SetupReport


@click.command()
@click.argument("host")
@click.option("--python", default="python3", show_default=True, help="Interpreter on the host that is to have it.")
@click.option("--runtime", help="ai-edge-litert or tflite-runtime. Default: the best that has wheels for the host.")
@click.option("--wheels", type=click.Path(path_type=Path), help="Folder of .whl files: no index is asked.")
@click.option("--remove", is_flag=True, help="Remove what setup has put there.")
@connection_options
@json_option
def setup(
    host: str,
    python: str,
    runtime: str | None,
    wheels: Path | None,
    remove: bool,
    as_json: bool,
    **connection: Any,
) -> None:
    """Put a TFLite runtime onto HOST, chosen here for its Python, architecture and glibc.

    HOST is [user@]host[:port], adb://SERIAL, or "local". It needs no internet: wheels are got and unpacked on this
    machine. They go into a private folder of the user that logs in, and `edgecomp bench` finds them there.
    """
    from edgecomp.device_setup import remove_runtime, setup_device
    from edgecomp.report.progress import progress_on_stderr
    from edgecomp.transports import connect

    if remove and (runtime or wheels):
        raise UsageError("--remove removes every private runtime.", hint="Leave --runtime and --wheels out.")
    with connect(host, **connection) as transport, progress_on_stderr() as progress:
        if remove:
            report = remove_runtime(transport, python=python)
        else:
            report = setup_device(transport, python=python, runtime=runtime, wheels=wheels, progress=progress)
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else describe_setup(report))


def describe_setup(report: SetupReport) -> str:
    """What was done, for people."""
    from edgecomp.units import format_bytes

    if report.status == "absent":
        return f"{report.host}: there is no private runtime to remove."
    if report.status == "removed":
        return f"{report.host}: the private runtime was removed."
    name = f"{report.runtime} {report.version}"
    lines = []
    if report.status == "unchanged":
        lines.append(f"{report.host} has {name} already, and it works: nothing was done.")
    else:
        lines.append(f"{report.host} has {name} now, and it works ({report.why}).")
    numpy = f"numpy {report.numpy}" + (" of the system" if report.own_numpy else "")
    lines.append(f"for Python {report.python} on {report.architecture} with {report.libc}, {numpy}")
    lines.append(f"in {report.folder}")
    if report.sent_bytes is not None and report.tree_bytes is not None:
        lines.append(f"{format_bytes(report.sent_bytes)} sent, {format_bytes(report.tree_bytes)} on its disk")
    lines += [f"left out: {name} (ends the process on cores without LSE atomics)" for name in report.dropped]
    return "\n".join(lines)
