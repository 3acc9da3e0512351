"""Sixteen devices in one call beside one of them: how long it takes, and the memory of this machine's process.

Every device is a real sshd on loopback with a folder for temporary files of its own. Their runtime is a stand-in whose
inferences only wait, since sixteen boards have sixteen processors and this machine has not: what is left to share is
the start of the agents, which is in the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import ROOT, Figure, SkippedError, Target, ratios, run, say
from edgecomp.bench import BenchSettings
from edgecomp.fleet import read_fleet, run_fleet
from edgecomp.fleet.run import assign

# One input and one output of 4 int8 values, the output equal to the input.
_RUNTIME = """
import time
import numpy as np
class Interpreter:
    def __init__(self, model_path, num_threads):
        pass
    def allocate_tensors(self):
        self.value = np.zeros((1, 4), np.int8)
    def _details(self):
        scales = dict(scales=[1])
        return [dict(name="x", index=0, shape=np.array([1, 4]), dtype=np.int8, quantization_parameters=scales)]
    get_input_details = get_output_details = get_tensor_details = _details
    def set_tensor(self, index, value):
        self.value = value.copy()
    def get_tensor(self, index):
        return self.value
    def invoke(self):
        time.sleep(0.02)
"""
_PEAK_BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024


def visit(path: Path, bundle: Path, seconds: float) -> dict[str, float]:
    """Measure on every target of a fleet.toml, in this process.

    Returns:
        `seconds` of wall time, and `peak_mb` of this process in 1e6 bytes.

    Raises:
        RuntimeError: A target was not measured.
    """
    fleet = read_fleet(path)
    settings = BenchSettings(
        min_seconds=seconds, max_seconds=3 * seconds, min_processes=3, max_processes=3, precision_ratio=0.99, passes=()
    )
    started = time.monotonic()
    reports = run_fleet(fleet, assign(fleet, [bundle]), threads=(1,), settings=settings)
    taken = time.monotonic() - started
    for name, report in reports.items():
        if len(report.measurements) != 1 or report.failed:
            raise RuntimeError(f"{name} was not measured: {report.failed[0].error if report.failed else report}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_BYTES_PER_UNIT
    return {"seconds": taken, "peak_mb": peak / 1e6}


def _visited(path: Path, bundle: Path, seconds: float) -> dict[str, float]:
    """`visit` in a fresh process, whose peak is its own."""
    command = [sys.executable, "-m", "benchmarks.fleet", "--visit", str(path), str(bundle), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def measure(options: argparse.Namespace) -> list[Figure]:
    """One target and all of them, in turns."""
    try:
        from tests.digits_bundle import write_digits_bundle
        from tests.sshd import LOCALHOST, missing_tools, running_sshd
    except ImportError as error:
        raise SkippedError(f"it takes what the tests take ({error})") from error
    if missing_tools():
        raise SkippedError(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        package = folder / "modules" / "ai_edge_litert"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('__version__ = "0"\n')
        (package / "interpreter.py").write_text(_RUNTIME)
        samples = np.arange(8, dtype=np.int8).reshape(2, 4)
        bundle = write_digits_bundle(folder, arrays={"input_0": samples, "output_0": samples})
        tables = []
        for number in range(options.targets):
            environment = {"PYTHONPATH": str(folder / "modules")}
            server = stack.enter_context(running_sshd(folder / f"sshd-{number}", environment))
            tables.append(
                f'[targets.device-{number}]\nhost = "{server.user}@{LOCALHOST}:{server.port}"\nprofile = "rpi4"\n'
                f'python = "{sys.executable}"\nidentity = "{server.identity}"\nknown_hosts = "{server.known_hosts}"\n'
            )
        one, everyone = folder / "one.toml", folder / "all.toml"
        one.write_text(tables[0])
        everyone.write_text("".join(tables))
        alone: list[dict[str, float]] = []
        together: list[dict[str, float]] = []
        for number in range(options.pairs):
            for path, found in ((one, alone), (everyone, together))[:: 1 if number % 2 == 0 else -1]:
                found.append(_visited(path, bundle, options.seconds))
            say(f"one {alone[-1]['seconds']:.1f} s, {options.targets} together {together[-1]['seconds']:.1f} s")
    seconds = [tuple(item["seconds"] for item in found) for found in (alone, together)]
    peaks = [tuple(item["peak_mb"] for item in found) for found in (alone, together)]
    count = options.targets
    return [
        Figure(f"{count} devices / one of them, wall time", "times", ratios(*seconds[::-1]), Target("at most", 2.0)),
        Figure("  one device", "s", seconds[0]),
        Figure(f"  {count} devices", "s", seconds[1]),
        Figure(f"memory of this machine's process, {count} devices", "MB", peaks[1], Target("at most", 300, "max")),
        Figure("  one device", "MB", peaks[0]),
    ]


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--targets", type=int, default=16, help="devices (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="repetitions of either (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of 3 processes (default: %(default)s)")
    parser.add_argument("--visit", nargs=2, type=Path, metavar=("FLEET", "BUNDLE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.visit is not None:
        path, bundle = options.visit
        print(json.dumps(visit(path, bundle, options.seconds)))
        return 0
    return run("fleet", measure, parser)


if __name__ == "__main__":
    sys.exit(main())
