"""What the agent's loop measures beside LiteRT's own `litert-benchmark`: the same file, on the same machine, in turns.

A pair is the agent with one fresh process, and a fresh process of `litert-benchmark`. Both are there at once, and each
is stopped while the other one runs, in turns of a tenth of a second: what else the machine does weighs on both. An
inference that is stopped in its middle is an outlier, which a median does not mind. The medians are compared; on a busy
machine the 5th percentiles, of inferences that nobody disturbed, say more.

The agent times `Interpreter.invoke`, the other tool `CompiledModel.run_by_name`, both of ai-edge-litert, with XNNPACK
and one thread. Inference by inference in one process the two are compared as well, to tell them from the loop around.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Figure, Target, ratios, run, say
from edgecomp.agent.on_device.protocol import MARK
from edgecomp.agent.packing import agent_file
from edgecomp.calibration.layers import Dtype, Layers

TURN_S = 0.1
# Of the clock: each of the two is stopped for half of it.
SECONDS = 6.0
_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
_CONFIGURATION = {
    "model": "model.tflite", "golden": None, "made_with": None, "num_threads": 1, "big_cores": None, "evaluate": None,
}  # fmt: skip
_JOB = {
    "configurations": [_CONFIGURATION], "min_runs": 50, "min_seconds": SECONDS, "process_seconds": 60.0,
    "min_processes": 1, "max_processes": 1, "precision_ratio": 0.99, "golden_seconds": 1.0, "tolerance_lsb": 1.0,
    "passes": [],
}  # fmt: skip
# Argument: the file. One inference of the one, one of the other, in an order that turns about.
_ALTERNATE = """
import json, sys, time
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.environment import Environment
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.options import CpuOptions, Options
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=1))
compiled = CompiledModel.from_file(sys.argv[1], environment=Environment.create(), options=options)
name = next(iter(compiled.get_signature_list()))
inputs = {key: compiled.create_input_buffer_by_name(name, key) for key in compiled.get_input_tensor_details(name)}
outputs = {key: compiled.create_output_buffer_by_name(name, key) for key in compiled.get_output_tensor_details(name)}
calls = [interpreter.invoke, lambda: compiled.run_by_name(name, inputs, outputs)]
taken = [[], []]
for number in range(450):
    for index in (0, 1) if number % 2 == 0 else (1, 0):
        started = time.perf_counter()
        calls[index]()
        taken[index].append(time.perf_counter() - started)
print(json.dumps([one / other for one, other in zip(taken[0][50:], taken[1][50:])]))
"""


def mobilenet(dtype: Dtype, size: int, width: float) -> bytes:
    """A file with the shapes of MobileNetV1, weights from a seeded generator."""
    made = Layers(dtype, (size, size, 3)).conv(int(32 * width), 3, 2)
    for filters, stride in _STAGES:
        made.depthwise(3, stride).conv(int(filters * width))
    return made.mean().dense(1000).softmax().build()


def residual(dtype: Dtype) -> bytes:
    """Convolutions of 3x3 with additions, as in ResNet8, on larger images."""
    made = Layers(dtype, (64, 64, 3)).conv(32, 3)
    for width in (32, 64, 64):
        source = made.conv(width, 3, 2).x
        made.conv(width, 3).conv(width, 3).add(source)
    return made.mean().dense(10).softmax().build()


MODELS: Mapping[str, Callable[[], bytes]] = {
    "MobileNetV1 0.5 at 160, float32": lambda: mobilenet("float32", 160, 0.5),
    "MobileNetV1 0.5 at 160, int8": lambda: mobilenet("int8", 160, 0.5),
    "residual network at 64, float32": lambda: residual("float32"),
}


def pair_ms(folder: Path, runs: int, *, is_agent_first: bool) -> tuple[float, float, float, float]:
    """Median and 5th percentile of the agent, then of `litert-benchmark`, which take turns.

    Args:
        folder: Has `model.tflite`, the agent and its `job.json`.
        runs: Of `litert-benchmark`.
        is_agent_first: Who begins.
    """
    result = folder / "result.json"
    agent = [sys.executable, str(folder / agent_file()[0]), "session", str(folder / "job.json")]
    other = [
        sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", "--model", str(folder / "model.tflite"),
        "--num_runs", str(runs), "--warmup_runs", "5", "--num_threads", "1", "--result_json", str(result),
    ]  # fmt: skip
    said = folder / "said"
    with (
        said.open("wb") as out,
        _started(agent, folder, out.fileno()) as one,
        _started(other, folder, subprocess.DEVNULL) as two,
    ):
        _take_turns((one, two) if is_agent_first else (two, one))
    samples: list[float] = []
    for line in said.read_bytes().splitlines():
        if line.startswith(MARK):
            samples += json.loads(line).get("values", [])
    theirs = json.loads(result.read_text())["latency"]
    low_us = statistics.quantiles(samples, n=20, method="inclusive")[0]
    return statistics.median(samples) / 1000, low_us / 1000, float(theirs["median_ms"]), float(theirs["p5_ms"])


@contextlib.contextmanager
def _started(command: Sequence[str], folder: Path, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own, stopped; it ends with the block."""
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL, start_new_session=True
    )
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _take_turns(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until both have ended, which must go well."""
    while any(process.poll() is None for process in processes):
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGCONT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(TURN_S)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGSTOP)
    for process in processes:
        if process.returncode:
            raise RuntimeError(f"{process.args!r} failed: exit code {process.returncode}")


def alternating_ratios(path: Path) -> tuple[float, ...]:
    """Interpreter over CompiledModel, inference by inference in one process."""
    command = [sys.executable, "-c", _ALTERNATE, str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return tuple(json.loads(done.stdout))


def measure(options: argparse.Namespace) -> list[Figure]:
    """Ratios of the medians, pair by pair, and the medians behind them."""
    figures: list[Figure] = []
    for name, make in MODELS.items():
        with tempfile.TemporaryDirectory() as place:
            folder, (agent_name, agent) = Path(place), agent_file()
            for file, data in ((agent_name, agent), ("job.json", json.dumps(_JOB).encode()), ("model.tflite", make())):
                (folder / file).write_bytes(data)
            # Two seconds of its own, to begin with; then as long as the agent takes.
            runs, pairs = 500, []
            for number in range(options.pairs):
                started = time.monotonic()
                pairs.append(pair_ms(folder, runs, is_agent_first=number % 2 == 0))
                runs = max(50, round(SECONDS / 2 * 1000 / pairs[-1][2]))
                say(f"{name}: {pairs[-1][0]:.3f} and {pairs[-1][2]:.2f} ms, {time.monotonic() - started:.0f} s")
            alternating = alternating_ratios(folder / "model.tflite")
        ours, our_low, theirs, their_low = zip(*pairs, strict=True)
        quotients = ratios(ours, theirs)
        figures += [
            Figure(f"{name}: agent / litert-benchmark", "times", quotients, Target("at most", 1.03)),
            Figure("  the same", "times", quotients, Target("at least", 0.97)),
            Figure("  the same, by the 5th percentiles", "times", ratios(our_low, their_low)),
            Figure("  by the agent", "ms", ours),
            Figure("  by litert-benchmark", "ms", theirs),
            Figure("  Interpreter / CompiledModel, inference by inference", "times", alternating),
        ]
    return figures


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent_overhead", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="processes of either side (default: %(default)s)")
    return run("agent_overhead", measure, parser)


if __name__ == "__main__":
    sys.exit(main())
