"""The `simulate` command: instructions of an inference on a core that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgecomp.cli_options import json_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--cpu", required=True, help="Core to run on: cortex-a53, cortex-a72, cortex-a76, ...")
@click.option(
    "--sysroot",
    required=True,
    envvar="EDGECOMP_AARCH64_SYSROOT",
    type=click.Path(path_type=Path),
    help="Root file system for aarch64, made by scripts/make_aarch64_sysroot.py. Default: EDGECOMP_AARCH64_SYSROOT.",
)
@click.option(
    "--runtime", default="ai-edge-litert", show_default=True, help="ai-edge-litert or tflite-runtime, of the sysroot."
)
@json_option
def simulate(model: Path, cpu: str, sysroot: Path, runtime: str, as_json: bool) -> None:
    """Count the aarch64 instructions of one inference of MODEL, a .tflite or a bundle, in an emulator.

    The count is repeatable and says which kernels ran. It is no time: caches and pipelines are not simulated.
    """
    from edgecomp.report.progress import progress_on_stderr
    from edgecomp.report.simulation import print_simulation
    from edgecomp.simulate.run import simulate as count

    with progress_on_stderr() as progress:
        result = count(model, cpu=cpu, sysroot=sysroot, runtime=runtime, progress=progress)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_simulation(result)
