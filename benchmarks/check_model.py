"""`edgecomp check` of a .tflite on three devices: time and memory of a fresh process, beside `import click`."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.figures import DATA, ROOT, Figure, SkippedError, Target, ratios, run, say
from benchmarks.process_tree import Run, run_measured
from benchmarks.start_up import edgecomp_command, seconds_of

_MODEL = DATA / "resnet8-cifar10" / "pretrainedResnet_quant.tflite"
_DEVICES = ("stm32l4r5", "rp2040", "rpi4")


def measure(options: argparse.Namespace) -> list[Figure]:
    """Pairs of both, in turn."""
    if not _MODEL.is_file():
        raise SkippedError(f"there is no {_MODEL} (set EDGECOMP_DATA)")
    command = [edgecomp_command(), "check", str(_MODEL), "--json"]
    for device in _DEVICES:
        command += ["--device", device]
    plain = [sys.executable, "-c", "import click"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # Into the page cache.
    checks: list[Run] = []
    click_seconds = []
    for _ in range(options.rounds):
        click_seconds.append(seconds_of(plain))
        checks.append(run_measured(command, folder=ROOT))
    say(f"{options.rounds} rounds done")
    seconds = tuple(item.seconds for item in checks)
    megabytes = tuple(item.largest_bytes / 1e6 for item in checks)
    return [
        Figure(f"check of ResNet8 INT8 on {', '.join(_DEVICES)}", "s", seconds, Target("at most", 1.5)),
        Figure("  its memory", "MB", megabytes, Target("at most", 300, "max")),
        Figure("  check / `import click`", "times", ratios(seconds, click_seconds)),
    ]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=10, help="fresh processes (default: %(default)s)")
    sys.exit(run("check_model", measure, arguments))
