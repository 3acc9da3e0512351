"""kill -9 of a fit at random moments: it always ends, repeats nothing that was finished, and chooses the same file."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from edgecomp.store import Store
from tests.conftest import ROOT

KILLS = 20
DIGITS = ROOT / "calibration_data" / "digits"
COMMAND = [
    sys.executable, "-m", "edgecomp", "fit", str(DIGITS / "digits_cnn.keras"), "--data", str(DIGITS / "digits.npz"),
    "--mean", "0", "--std", "16", "--device", "stm32l4r5", "--max-model-size", "5KiB", "--max-accuracy-drop", "2pp",
    "--effort", "standard", "--epochs", "4", "--json",
]  # fmt: skip


def command(folder, *more):
    return [*COMMAND, "--store", str(folder / "store"), "--out", str(folder / "bundles"), *more]


def chosen(result):
    return next(item for item in result["devices"][0]["candidates"] if item["status"] == "chosen")


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    """Random moments of 1 to 12 seconds after the start: import, conversion, previews, trainings, packing, bundle."""
    started = time.monotonic()
    whole = subprocess.run(command(tmp_path / "whole"), capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    moments = random.Random(5)
    killed, resumable = 0, False
    folder = tmp_path / "killed"
    while killed < KILLS:
        running = subprocess.Popen(
            command(folder, *(["--resume"] if resumable else [])), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            running.wait(moments.uniform(1, max(12, seconds / 6)))
            assert running.returncode == 0, running.stderr.read().decode()
            # It ended before its time: begin anew, with an empty store.
            folder, resumable = tmp_path / f"killed-{killed}", False
            continue
        except subprocess.TimeoutExpired:
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
            killed += 1
        finally:
            running.stdout.close()
            running.stderr.close()
        store = Store.open_existing(folder / "store")
        resumable = False
        if store is not None:
            with store:
                resumable = any(run.status == "interrupted" for run in store.runs())
    last = subprocess.run(
        command(folder, *(["--resume"] if resumable else [])), capture_output=True, text=True, check=False
    )
    assert last.returncode == 0, last.stderr
    first, second = json.loads(whole.stdout), json.loads(last.stdout)
    assert chosen(first)["sha256"] == chosen(second)["sha256"]
    assert [item["name"] for item in first["devices"][0]["candidates"]] == [
        item["name"] for item in second["devices"][0]["candidates"]
    ]
    with Store.open(folder / "store") as store:
        runs = store.runs()
        assert [run.status for run in runs] == ["done"], "one run, taken up again and again"
        made = [event.value["key"] for event in store.load_run(runs[0].name).events if event.kind == "made"]
        assert len(made) == len(set(made)), "a finished candidate was made again"
        assert made
    assert sorted(path.name for path in (folder / "bundles").iterdir()) == [
        "digits_cnn-stm32l4r5", "digits_cnn-stm32l4r5.zip",
    ]  # fmt: skip


def test_nothing_to_resume(tmp_path):
    done = subprocess.run(command(tmp_path, "--resume"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has no interrupted run of this very command" in done.stderr
