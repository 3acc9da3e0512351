"""What the agent's loop measures beside LiteRT's own `litert-benchmark`: the same file, machine and minute, in turns.

Each pair is a session of the agent with one fresh process and a fresh process of `litert-benchmark`, in an order that
turns about; what is compared is the median of either. The agent times `Interpreter.invoke`, the other tool
`CompiledModel.run_by_name`, both of ai-edge-litert with XNNPACK and one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.figures import Figure, Target, ratios, run, say
from edgecomp.bench import BenchSettings, time_models
from edgecomp.calibration.layers import Dtype, Layers
from edgecomp.transports import connect

# Its results are rounded to 0.01 ms, so a model has to take a few of them.
_SETTINGS = BenchSettings(
    min_runs=50, min_seconds=1.0, max_seconds=30.0, min_processes=1, max_processes=1, precision_ratio=0.99, passes=()
)
_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


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


def agent_ms(model: bytes) -> float:
    """Median of one process of the agent."""
    with connect("local") as transport:
        found = time_models(transport, {"model": model}, settings=_SETTINGS, python=sys.executable)["model"]
    return statistics.median(found.processes_us[0]) / 1000


def litert_benchmark_ms(path: Path, runs: int) -> float:
    """Median of one process of LiteRT's tool."""
    result = path.with_suffix(".json")
    command = [
        sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", "--model", str(path), "--num_runs",
        str(runs), "--warmup_runs", "5", "--num_threads", "1", "--result_json", str(result),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return float(json.loads(result.read_text())["latency"]["median_ms"])


def measure(options: argparse.Namespace) -> list[Figure]:
    """Ratios of the medians, pair by pair, and the medians behind them."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, make) in enumerate(MODELS.items()):
            path, model = Path(folder) / f"{number}.tflite", make()
            path.write_bytes(model)
            ours: list[float] = []
            theirs: list[float] = []
            runs = max(_SETTINGS.min_runs, round(1000 / litert_benchmark_ms(path, _SETTINGS.min_runs)))
            for pair in range(options.pairs):
                for is_ours in (True, False) if pair % 2 == 0 else (False, True):
                    if is_ours:
                        ours.append(agent_ms(model))
                    else:
                        theirs.append(litert_benchmark_ms(path, runs))
                say(f"{name}: {ours[-1]:.3f} ms by the agent, {theirs[-1]:.2f} ms by litert-benchmark")
            quotients = ratios(ours, theirs)
            figures += [
                Figure(f"{name}: agent / litert-benchmark", "times", quotients, Target("at most", 1.03)),
                Figure("  the same", "times", quotients, Target("at least", 0.97)),
                Figure("  by the agent", "ms", tuple(ours)),
                Figure("  by litert-benchmark", "ms", tuple(theirs)),
            ]
    return figures


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent_overhead", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="processes of either side (default: %(default)s)")
    return run("agent_overhead", measure, parser)


if __name__ == "__main__":
    sys.exit(main())
