"""How long `edgecomp --help` and `edgecomp devices list` take, beside a Python that only imports click."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, Target, ratios, run, say

_EXTRA_S = Target("at most", 0.25)


def edgecomp_command() -> str:
    """The edgecomp of the Python that runs this, else the first on PATH."""
    beside = Path(sys.executable).with_name("edgecomp")
    found = str(beside) if beside.is_file() else shutil.which("edgecomp")
    if found is None:
        raise FileNotFoundError("edgecomp is not installed: pip install --editable .")
    return found


def seconds_of(argv: Sequence[str]) -> float:
    """Wall time of a fresh process, from its start to its end. Raises CalledProcessError."""
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(options: argparse.Namespace) -> list[Figure]:
    """Differences and ratios, taken in rounds of all three commands."""
    edgecomp = edgecomp_command()
    commands = {
        "import click": [sys.executable, "-c", "import click"],
        "edgecomp --help": [edgecomp, "--help"],
        "edgecomp devices list": [edgecomp, "devices", "list"],
    }
    for argv in commands.values():
        seconds_of(argv)  # Files into the page cache, byte code onto the disk.
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(options.rounds):
        turns = list(commands) if number % 2 == 0 else list(reversed(commands))
        for name in turns:
            taken[name].append(seconds_of(commands[name]))
    say(f"{options.rounds} rounds done")
    plain = taken.pop("import click")
    figures = []
    for name, seconds in taken.items():
        extra = tuple(ours - theirs for ours, theirs in zip(seconds, plain, strict=True))
        figures += [
            Figure(f"{name}: more than `import click`", "s", extra, _EXTRA_S),
            Figure(f"  {name} / `import click`", "times", ratios(seconds, plain)),
            Figure(f"  {name}", "s", tuple(seconds)),
        ]
    return [*figures, Figure("  python -c 'import click'", "s", tuple(plain))]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=20, help="fresh processes a command (default: %(default)s)")
    sys.exit(run("start_up", measure, arguments))
