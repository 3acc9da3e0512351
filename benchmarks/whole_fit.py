"""A whole `edgecomp fit` of ResNet8 for a Raspberry Pi 4: time and memory, beside the same job by hand."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile

from benchmarks.figures import ROOT, Figure, Target, ratios, resnet8, run, say
from benchmarks.process_tree import Run, run_measured
from benchmarks.start_up import edgecomp_command

_GB = 1e9


def fit_once() -> Run:
    """`edgecomp fit` in a fresh process with an empty output folder."""
    model, data = resnet8()
    command = [edgecomp_command(), "fit", str(model), "--data", str(data), "--device", "rpi4", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        return run_measured([*command, "--out", folder], folder=ROOT)


def by_hand_once() -> Run:
    """The short script in a fresh process."""
    model, data = resnet8()
    return run_measured([sys.executable, "-m", "benchmarks.by_hand", str(model), str(data)], folder=ROOT)


def measure(options: argparse.Namespace) -> list[Figure]:
    """Pairs of both, in an order that turns about."""
    resnet8()
    fits: list[Run] = []
    by_hand: list[Run] = []
    for number in range(options.pairs):
        turns = [(fits, fit_once), (by_hand, by_hand_once)]
        try:
            for runs, once in turns if number % 2 == 0 else reversed(turns):
                runs.append(once())
        except subprocess.CalledProcessError as error:
            say(error.stderr)
            raise
        say(f"pair {number + 1} of {options.pairs}: {fits[-1].seconds:.1f} s, {by_hand[-1].seconds:.1f} s by hand")
    return _figures(fits, by_hand)


def _figures(fits: list[Run], by_hand: list[Run]) -> list[Figure]:
    seconds, hand_seconds = tuple(run.seconds for run in fits), tuple(run.seconds for run in by_hand)
    cpu, hand_cpu = tuple(run.cpu_seconds for run in fits), tuple(run.cpu_seconds for run in by_hand)
    largest, hand_largest = _gb([run.largest_bytes for run in fits]), _gb([run.largest_bytes for run in by_hand])
    trees = [run.tree_bytes for run in fits if run.tree_bytes is not None]
    results = [json.loads(run.stdout) for run in fits]
    chosen = [
        next(item for item in result["devices"][0]["candidates"] if item["status"] == "chosen") for result in results
    ]
    told = [json.loads(run.stdout.splitlines()[-1]) for run in by_hand]
    figures = [
        Figure("whole fit, ResNet8 for rpi4", "s", seconds, Target("at most", 60)),
        Figure("  largest process", "GB", largest, Target("at most", 2.5, "max")),
        Figure("  by hand / fit, wall time", "times", ratios(hand_seconds, seconds)),
        Figure("  by hand / fit, CPU time", "times", ratios(hand_cpu, cpu)),
        Figure("  CPU time of all its processes", "s", cpu),
        Figure("  by hand", "s", hand_seconds),
        Figure("  by hand: CPU time", "s", hand_cpu),
        Figure("  by hand: largest process", "GB", hand_largest),
        Figure("  fit: accuracy, float", "share", tuple(item["float_model"]["accuracy"]["value"] for item in results)),
        Figure(f"  fit: accuracy, {chosen[0]['name']}", "share", tuple(item["accuracy"]["value"] for item in chosen)),
        Figure("  by hand: accuracy, float", "share", tuple(item["float"] for item in told)),
        Figure("  by hand: accuracy, INT8", "share", tuple(item["int8"] for item in told)),
    ]
    if trees:
        figures.insert(2, Figure("  all its processes together (shared pages counted each time)", "GB", _gb(trees)))
    return figures


def _gb(sizes: list[int]) -> tuple[float, ...]:
    return tuple(size / _GB for size in sizes)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=4, help="runs of each side (default: %(default)s)")
    sys.exit(run("whole_fit", measure, arguments))
