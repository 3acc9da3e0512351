"""Ten devices in one fit against the dearest of them alone: the activity model, standard effort, empty stores."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import DATA, Figure, SkippedError, Target, run, say

DEVICES = (
    "stm32l4r5", "stm32l4r5-cmsis-nn", "stm32h743", "nrf52840", "rp2040",
    "rpi3b-plus", "rpi4", "rpi5", "pixel8", "jetson-nano",
)  # fmt: skip
_MEAN = "-5.1423,-1.8441,0.4623,-0.0095,-0.0002,0.0314"
_STD = "5.0414,6.4378,4.2962,1.3490,1.2518,1.0536"


def seconds_of(devices: Sequence[str], epochs: int) -> float:
    """Wall time of one fit in a store of its own."""
    folder = DATA / "har-spsw"
    if not folder.exists():
        raise SkippedError(f"there is no {folder}")
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "edgecomp", "fit", str(folder / "har_cnn1d.keras"), "--data",
            str(folder / "har_spsw_w64.npz"), "--group-key", "subject", f"--mean={_MEAN}", f"--std={_STD}",
            "--effort", "standard", "--epochs", str(epochs), "--store", str(Path(place) / "store"), "--out",
            str(Path(place) / "bundles"), *(part for name in devices for part in ("--device", name)),
        ]  # fmt: skip
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if done.returncode not in (0, 3):
            raise RuntimeError(f"the fit for {', '.join(devices)} failed: {done.stderr[-500:]}")
    say(f"   {', '.join(devices)}: {seconds:.0f} s, exit code {done.returncode}")
    return seconds


def measure(options: argparse.Namespace) -> list[Figure]:
    """The ratio, and the times behind it."""
    together = seconds_of(DEVICES, options.epochs)
    alone = tuple(seconds_of([name], options.epochs) for name in options.alone or DEVICES)
    return [
        Figure("har: ten devices together / the most expensive alone", "times", (together / max(alone),),
               Target("at most", 2.0)),
        Figure("har: ten devices together", "s", (together,)),
        Figure("har: one device alone", "s", alone),
    ]  # fmt: skip


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices_together", description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--alone", action="append", choices=DEVICES, help="only these by themselves; repeatable")
    return run("devices_together", measure, parser)


if __name__ == "__main__":
    sys.exit(main())
