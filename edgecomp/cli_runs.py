"""The `runs` commands: what fits have left in a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecomp.cli_options import json_option
from edgecomp.errors import StoreError

if TYPE_CHECKING:
    from edgecomp.store import RunDetails

store_option = click.option(
    "--store",
    "store_folder",
    envvar="EDGECOMP_STORE",
    default=".edgecomp",
    show_default="EDGECOMP_STORE, else .edgecomp",
    type=click.Path(path_type=Path),
    help="Folder that holds what fits have made.",
)


def find_run(store_folder: Path, name: str) -> RunDetails:
    """A run of a store by its name, the beginning of it, or "last". Raises StoreError."""
    from edgecomp.store import Store

    store = Store.open_existing(store_folder)
    if store is None:
        raise StoreError(f"There is no store at {store_folder}.", hint="Name its folder with --store.")
    with store:
        return store.load_run(name)


@click.group()
def runs() -> None:
    """Runs of `edgecomp fit`: what was asked for, what came of it, and what their files weigh."""


@runs.command("list")
@store_option
@json_option
def runs_list(store_folder: Path, as_json: bool) -> None:
    """One line a run, newest first."""
    from edgecomp.report.runs import print_runs
    from edgecomp.store import Store

    store = Store.open_existing(store_folder)
    found = []
    if store is not None:
        with store:
            found = store.runs()
    if as_json:
        body = {"schema": "edgecomp.runs/1", "store": str(store_folder), "runs": [run.to_json() for run in found]}
        click.echo(json.dumps(body, indent=2))
    else:
        print_runs(found, store_folder)


@runs.command("show")
@click.argument("run")
@store_option
@json_option
def runs_show(run: str, store_folder: Path, as_json: bool) -> None:
    """What RUN was asked for, what happened, and what it found. The beginning of its name is enough."""
    from edgecomp.report.runs import print_run

    details = find_run(store_folder, run)
    if as_json:
        click.echo(json.dumps({"schema": "edgecomp.run/1", **details.to_json()}, indent=2))
    else:
        print_run(details)


@runs.command("gc")
@click.option("--keep", default=20, show_default=True, type=click.IntRange(0), help="So many of the newest runs stay.")
@click.option("--older-than", "days", type=click.FloatRange(0), help="Of the others, only those so many days old go.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@store_option
@json_option
def runs_gc(keep: int, days: float | None, dry_run: bool, store_folder: Path, as_json: bool) -> None:
    """Remove old runs, and the files that no other run uses. What a live run uses always stays."""
    from edgecomp.report.runs import print_collected
    from edgecomp.store import Collected, Store

    store = Store.open_existing(store_folder)
    collected = Collected(dry_run, 0, (), (), (), ())
    if store is not None:
        with store:
            collected = store.gc(keep, days, dry_run=dry_run)
    if as_json:
        body = {"schema": "edgecomp.runs_gc/1", "store": str(store_folder), **collected.to_json()}
        click.echo(json.dumps(body, indent=2))
    else:
        print_collected(collected, store_folder)
