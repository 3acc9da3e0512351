"""The cost model calibrated to this machine, and held against five real models that the calibration does not see.

Every file (calibration models, and ResNet8, DS-CNN, fsdd, har and mnist in FLOAT32 and INT8) is timed in LiteRT with
one thread, each time in a fresh process, in rounds that take all files in turn, so that whatever else the machine does
weighs on all alike. The time of a file is the median of its fastest process, for the one as for the other: on a busy
machine it takes many processes until one has a core to itself. Neither the constants nor the shape of the formula nor
the choice of calibration models looks at the five models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.calibration_models import held_out_models
from benchmarks.figures import Figure, Target, run, say
from edgecomp.calibration.calibrate import CalibrationResult, calibrate
from edgecomp.calibration.fit import timing
from edgecomp.calibration.models import calibration_models
from edgecomp.cost import predict
from edgecomp.cost_work import operator_work
from edgecomp.graph import read_graph
from edgecomp.profile import load_profile

_TIMER = """
import json, sys, time
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
random = np.random.default_rng(0)
for detail in interpreter.get_input_details():
    low, high = (-100, 100) if detail["dtype"] == np.int8 else (-1, 1)
    interpreter.set_tensor(detail["index"], random.uniform(low, high, detail["shape"]).astype(detail["dtype"]))
for _ in range(5):
    interpreter.invoke()
taken, until = [], time.perf_counter() + float(sys.argv[2])
while len(taken) < 30 or time.perf_counter() < until:
    started = time.perf_counter_ns()
    interpreter.invoke()
    taken.append((time.perf_counter_ns() - started) / 1000)
print(json.dumps(taken))
"""


@dataclass(frozen=True)
class Prediction:
    """One real model: measured, and estimated with its 90 % interval, in ms."""

    name: str
    measured_ms: float
    value_ms: float
    low_ms: float
    high_ms: float

    @property
    def error(self) -> float:
        """Estimated over measured, less one."""
        return self.value_ms / self.measured_ms - 1

    @property
    def holds(self) -> bool:
        """Whether the interval holds the measurement."""
        return self.low_ms <= self.measured_ms <= self.high_ms


def time_files(files: Mapping[str, bytes], processes: int, seconds: float) -> dict[str, list[list[float]]]:
    """Microseconds of every inference, by fresh process; the files take turns, in an order that turns about."""
    taken: dict[str, list[list[float]]] = {name: [] for name in files}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{number}.tflite" for number, name in enumerate(files)}
        for name, path in paths.items():
            path.write_bytes(files[name])
        for number in range(processes):
            started = time.monotonic()
            for name, path in list(paths.items())[:: 1 if number % 2 == 0 else -1]:
                command = [sys.executable, "-c", _TIMER, str(path), str(seconds)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                taken[name].append(json.loads(done.stdout))
            say(f"round {number + 1} of {processes}: {len(files)} processes in {time.monotonic() - started:.0f} s")
    return taken


def evaluate(
    held: Mapping[str, bytes], taken: Mapping[str, list[list[float]]]
) -> tuple[CalibrationResult, list[Prediction]]:
    """Calibrate by the times of the calibration models alone, then predict the others.

    Args:
        held: The real models.
        taken: Times of these and of the calibration models.
    """
    profile = load_profile("linux-x86-64" if platform.machine() == "x86_64" else "linux-arm64")
    result = calibrate(lambda files: {name: taken[name] for name in files}, profile)
    profile = profile.with_constants(result.family)
    predictions = []
    for name, data in held.items():
        graph = read_graph(data, name)
        measured_ms = timing(name, operator_work(graph), taken[name]).time_us / 1000
        found, why = predict(graph, profile)
        if found is None:
            raise AssertionError(f"{name}: {why}")
        predictions.append(Prediction(name, measured_ms, found.value_ms, found.low_ms, found.high_ms))
    return result, predictions


def measure(options: argparse.Namespace) -> list[Figure]:
    """Errors on the five models, how many of their intervals hold, and what the calibration says of itself."""
    folder = options.folder or Path(tempfile.gettempdir()) / f"edgecomp-calibration-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = held_out_models(folder)
    started = time.monotonic()
    generated = calibration_models()
    made_s = time.monotonic() - started
    taken = time_files({**generated, **held}, options.processes, options.seconds)
    result, predictions = evaluate(held, taken)
    for note in result.notes:
        say(note)
    for item in predictions:
        say(
            f"{item.name:<16} measured {item.measured_ms * 1000:7.1f} us, estimated {item.value_ms * 1000:7.1f} us "
            f"[{item.low_ms * 1000:.1f}, {item.high_ms * 1000:.1f}], {item.error:+.1%}"
        )
    errors = tuple(abs(item.error) for item in predictions)
    figures = [Figure("error of the estimate, 5 models in FLOAT32 and INT8", "share", errors, Target("at most", 0.10))]
    for dtype in ("float32", "int8"):
        chosen = [item for item in predictions if item.name.endswith(dtype)]
        figures.append(Figure(f"  of these, {dtype}", "share", tuple(abs(item.error) for item in chosen)))
        holding = float(sum(item.holds for item in chosen))
        figures.append(Figure(f"  90 % intervals that hold, {dtype}", "of 5", (holding,), Target("at least", 4)))
        widths = tuple(item.high_ms / item.value_ms - 1 for item in chosen)
        figures.append(Figure(f"  half-width of the interval, {dtype}", "share", widths))
    left_out = tuple(abs(error) for error in result.errors.values())
    return [
        *figures,
        Figure("  cross-validated: networks left out", "share", left_out),
        Figure("  noise within the fastest process", "share", (result.noise_ratio,)),
        Figure("  making the calibration models", "s", (made_s,)),
        Figure("  inferences a file", "", tuple(float(sum(map(len, rows))) for rows in taken.values())),
    ]


def main() -> int:
    """Parse and run."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--processes", type=int, default=15, help="fresh processes a file (default: %(default)s)")
    arguments.add_argument("--seconds", type=float, default=0.1, help="of each, at least (default: %(default)s)")
    arguments.add_argument("--folder", type=Path, help="keeps the converted models (default: a temporary one)")
    return run("calibration", measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
