"""The command line: parse, call one function, print. Heavy imports stay inside the commands that need them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgecomp.cli_bench import bench
from edgecomp.cli_fit import explain, fit, plan, refit
from edgecomp.cli_options import (
    SIZE,
    TIME,
    data_options,
    json_option,
    model_options,
    training_options,
)
from edgecomp.cli_probe import probe
from edgecomp.cli_runs import runs
from edgecomp.cli_setup import setup
from edgecomp.cli_simulate import simulate
from edgecomp.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NO_FIT,
    EXIT_OK,
    EXIT_USAGE,
    EdgecompError,
)

if TYPE_CHECKING:
    pass

KINDS = ("linux", "android", "ios", "mcu")
RUNTIMES = ("litert", "tflm", "edgetpu", "ethos-u")
KERNELS = ("xnnpack", "builtin", "reference", "cmsis-nn", "helium-cmsis-nn", "esp-nn", "vendor")


class Group(click.Group):
    """Turns every expected error into one sentence and its exit code, Ctrl-C into 130."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run and exit; see `click.Command.main`."""
        words = list(kwargs.get("args") or (args[0] if args and args[0] is not None else sys.argv[1:]))
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except EdgecompError as error:
            code = _fail(error.message, error.hint, error.exit_code, as_json="--json" in words)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = EXIT_USAGE
        except click.ClickException as error:
            text = error.format_message().rstrip()
            command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "edgecomp"
            code = _fail(text, f"See `{command} --help`.", error.exit_code, as_json="--json" in words)
        except (click.Abort, KeyboardInterrupt):
            click.echo("Interrupted.", err=True)
            code = EXIT_INTERRUPTED
            # CPython notes a Ctrl-C that ends `exec` of a string (dataclasses are made so); `python -m` would
            # then die of SIGINT in place of our exit code. The next `exec` clears the note (bpo-1054041).
            exec("")  # noqa: S102
        except BrokenPipeError:
            # Whoever read our output has enough of it; Python's own flush at exit must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_FAILED
        sys.exit(code if isinstance(code, int) else EXIT_OK)


def _fail(message: str, hint: str | None, code: int, *, as_json: bool) -> int:
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(hint, err=True)
    if as_json:
        body = {"schema": "edgecomp.error/1", "status": "error", "error": message, "hint": hint, "exit_code": code}
        click.echo(json.dumps(body))
    return code


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgecomp")
def main() -> None:
    """Fit a trained model to a phone, a Raspberry Pi or a microcontroller, with proof.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 finished, but nothing meets the limits; 4 a measurement was taken
    but cannot be trusted.
    """


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", "devices", multiple=True, required=True, help="Name or .toml of a profile; repeatable.")
@click.option("--max-model-size", type=SIZE, help="Limit for the model file in flash, below the device's own.")
@click.option("--max-ram", type=SIZE, help="Limit for tensors in RAM, below the device's own.")
@click.option("--max-latency", type=TIME, help="Limit for the estimated latency; broken if its whole interval is.")
@click.option("--layers", is_flag=True, help="Also print every layer: type, shape, MACs, bytes, estimated time.")
@model_options
@json_option
def check(model: Path, layers: bool, as_json: bool, trust_model_code: bool, **options: Any) -> int:
    """Say what stands between MODEL and each device, without training, data or a device.

    A .tflite is read as it is; a Keras model or SavedModel is converted to a float .tflite first.
    """
    from edgecomp.preflight import check_model
    from edgecomp.report.preflight import print_preflight
    from edgecomp.report.progress import progress_on_stderr

    with progress_on_stderr() as progress:
        result = check_model(model, trust_code=trust_model_code, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(result.to_json(layers=layers), indent=2))
    else:
        print_preflight(result, layers=layers)
    return EXIT_OK if result.status == "fits" else EXIT_NO_FIT


class RecipeCommand(click.Command):
    """Also takes the options of all techniques, which are looked up only when the command is used."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own parameters, then those of the techniques."""
        from edgecomp.technique_options import technique_options

        return [*super().get_params(ctx), *technique_options()]


@main.command(cls=RecipeCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--technique", "techniques", multiple=True, required=True, help="Repeatable; put into order by itself.")
@click.option("--data", required=True, help="An .npz file, a folder of images, or module:function.")
@click.option("--device", help="Name or .toml of a profile: what is left out, rounded and packed for it.")
@click.option("--preview", is_flag=True, help="Train nothing: what the recipe does at once.")
@click.option("--unlabelled", help="More inputs, as --data; the float model answers for them.")
@training_options
@click.option("--test", "on_test", is_flag=True, help="Score on test too. Do not choose by it.")
@data_options
@click.option(
    "--out", default="compressed", show_default=True, type=click.Path(path_type=Path), help="For the results."
)
@model_options
@json_option
def compress(as_json: bool, **options: Any) -> int:
    """Apply techniques to MODEL and write the Keras model, its .tflite files and a report.

    Techniques compose in one order, whatever order they are named in: distill, low_rank, structured_prune, prune,
    cluster, qat.
    """
    from edgecomp.report.compression import print_compression
    from edgecomp.report.progress import progress_on_stderr
    from edgecomp.request import run_compress

    with progress_on_stderr() as progress:
        result = run_compress(options, progress)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_compression(result)
    return EXIT_OK


@main.group()
def devices() -> None:
    """Device profiles: those that ship with edgecomp, and your own."""


@devices.command("list")
@click.option("--kind", type=click.Choice(KINDS), help="Only these.")
@click.option("--runtime", type=click.Choice(RUNTIMES), help="Only what this runs.")
@click.option("--kernels", type=click.Choice(KERNELS), help="Only what has these kernels.")
@click.option("--core", help='Only processors with this in their name: "m4", "a76".')
@click.option("--feature", "features", multiple=True, help='Only processors with it: "dotprod", "fpu"; repeatable.')
@click.option("--min-ram", type=SIZE, help='At least so much left for tensors: "256KiB".')
@click.option("--min-flash", type=SIZE, help='At least so much left for the model file: "512KiB".')
@json_option
def devices_list(
    as_json: bool, features: tuple[str, ...], min_ram: int | None, min_flash: int | None, **names: str | None
) -> None:
    """One line a device."""
    from edgecomp.devices import Filters, list_devices
    from edgecomp.report.devices import print_list

    found = list_devices(Filters(**names, features=features, min_ram_bytes=min_ram, min_flash_bytes=min_flash))
    if as_json:
        body = {"schema": "edgecomp.devices/1", "devices": [summary.to_json() for summary in found]}
        click.echo(json.dumps(body, indent=2))
    else:
        print_list(found)


@devices.command("show")
@click.argument("device")
@click.option("--toml", "as_toml", is_flag=True, help="Print TOML that stands alone, to start your own file from.")
@json_option
def devices_show(device: str, as_toml: bool, as_json: bool) -> None:
    """Everything that is known of DEVICE, with the source of each figure and with what is unverified."""
    from edgecomp.profile import load_profile
    from edgecomp.report.devices import print_device

    profile = load_profile(device)
    if as_json:
        click.echo(json.dumps(profile.to_json(), indent=2))
    elif as_toml:
        click.echo(profile.text.rstrip())
    else:
        print_device(profile)


@devices.command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def devices_validate(files: tuple[Path, ...], as_json: bool) -> int:
    """Check your own profiles, FILES, and list every problem. Exit code 2 if there is any."""
    from edgecomp.devices import check_file
    from edgecomp.report.devices import print_checks

    checks = [check_file(path) for path in files]
    if as_json:
        body = {"schema": "edgecomp.device_checks/1", "files": [check.to_json() for check in checks]}
        click.echo(json.dumps(body, indent=2))
    else:
        print_checks(checks)
    return EXIT_OK if all(check.profile is not None for check in checks) else EXIT_USAGE


@devices.command("schema")
@click.option("--json", is_flag=True, expose_value=False, help="Changes nothing: the schema is JSON.")
def devices_schema() -> None:
    """Print the JSON Schema of a profile, for editors that check TOML as you type."""
    from edgecomp.profile import DeviceProfile

    click.echo(json.dumps(DeviceProfile.model_json_schema(mode="serialization"), indent=2))


@devices.command("new")
@click.argument("name")
@click.option("--from", "start", metavar="DEVICE", help="Name or .toml of the profile to extend.")
@click.option("--kind", type=click.Choice(KINDS), help="Without --from: the nearest profile of this kind.")
@click.option("--core", help='Without --from: the nearest with this core, like "cortex-m33".')
@click.option("--ram", "ram_bytes", type=SIZE, help='RAM of yours, in one piece: "256KiB".')
@click.option("--flash", "flash_bytes", type=SIZE, help='Flash of yours: "1MiB".')
@json_option
def devices_new(name: str, start: str | None, as_json: bool, **known: Any) -> None:
    """Start your own profile: write NAME.toml, which extends the nearest one that ships with edgecomp."""
    from edgecomp.devices import Wish, new_profile

    path, extends = new_profile(name, start, Wish(**known))
    if as_json:
        click.echo(json.dumps({"schema": "edgecomp.device_file/1", "path": str(path), "extends": extends}))
    else:
        click.echo(f"Wrote {path}, which extends {extends}. Change what differs, then:")
        click.echo(f"edgecomp devices validate {path}")


@main.group()
def bundle() -> None:
    """Look into bundles."""


@bundle.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def bundle_verify(path: Path, as_json: bool) -> None:
    """Check every sha256 of the bundle at PATH, and run its golden samples on this machine."""
    from edgecomp.bundle.verify import verify_bundle

    report = verify_bundle(path)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        click.echo(str(report))


@bundle.command("show")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def bundle_show(path: Path, as_json: bool) -> None:
    """Print what the bundle at PATH is and how it was made."""
    from edgecomp.bundle.reader import read_bundle
    from edgecomp.report.terminal import print_bundle

    opened = read_bundle(path)
    if as_json:
        click.echo(json.dumps(opened.manifest.to_json(), indent=2))
    else:
        print_bundle(opened)


for command in (fit, plan, explain, refit, runs, bench, setup, probe, simulate):
    main.add_command(command)
