"""Fits of the embedded digits with trained candidates, in this process, and what their stores say of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from edgecomp.cli import main
from edgecomp.store import RunDetails, Store
from tests.conftest import ROOT

DIGITS = ROOT / "calibration_data" / "digits"
MODEL, DATA = str(DIGITS / "digits_cnn.keras"), str(DIGITS / "digits.npz")
SCALING = ("--mean", "0", "--std", "16")
# INT8 has 8,060 bytes: nothing fits that is not compressed.
LIMITS = ("--max-model-size", "5KiB", "--max-accuracy-drop", "3pp", "--min-accuracy", "0.85")
TRAINED = ("short", "full")


@dataclass(frozen=True)
class Done:
    """A command with --json."""

    code: int
    body: dict[str, Any]
    stderr: str

    @property
    def device(self) -> dict[str, Any]:
        return self.body["devices"][0]

    @property
    def chosen(self) -> dict[str, Any]:
        return next(item for item in self.device["candidates"] if item["status"] == "chosen")

    def candidate(self, name: str) -> dict[str, Any]:
        return next(item for item in self.device["candidates"] if item["name"] == name)


@dataclass(frozen=True)
class Planned:
    """A plan, then the fit in the same store."""

    folder: Path
    plan: Result
    plan_run: RunDetails
    fit: Done
    fit_run: RunDetails

    @property
    def bundle(self) -> Path:
        return self.folder / "bundles" / "digits_cnn-stm32l4r5"

    @property
    def store(self) -> Path:
        return self.folder / "store"


def command(folder: Path, name: str, *more: object, data: object = DATA, model: object = MODEL) -> list[str]:
    known = [name, model, "--data", data, *SCALING, "--store", folder / "store", "--out", folder / "bundles"]
    return [str(item) for item in (*known, *more)]


def called(*arguments: object) -> Result:
    done = CliRunner().invoke(main, [str(item) for item in arguments])
    assert "Traceback" not in done.output
    return done


def fitted(folder: Path, *more: object, **inputs: object) -> Done:
    """`edgecomp fit --effort standard --epochs 2 --json` of the digits."""
    done = called(*command(folder, "fit", "--effort", "standard", "--epochs", "2", "--json", *more, **inputs))
    assert done.stdout.startswith("{"), done.output
    return Done(done.exit_code, json.loads(done.stdout), done.stderr)


def last_run(store: Path) -> RunDetails:
    with Store.open(store) as opened:
        return opened.load_run(opened.runs()[0].name)


def events(run: RunDetails, kind: str) -> list[dict[str, Any]]:
    return [event.value for event in run.events if event.kind == kind]


def trained(run: RunDetails) -> list[str]:
    """Recipes that were trained, for a few epochs or in full, failed ones included."""
    return [event["candidate"]["name"] for event in events(run, "trial") if event["stage"] in TRAINED]


def plan_and_fit(folder: Path) -> Planned:
    asked = ("--device", "stm32l4r5", *LIMITS, "--epochs", "2")
    planned = called(*command(folder, "plan", *asked, "--jobs", "2"))
    plan_run = last_run(folder / "store")
    return Planned(folder, planned, plan_run, fitted(folder, *asked), last_run(folder / "store"))
