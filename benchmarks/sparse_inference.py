"""What zeros in the weights of 1x1 convolutions are worth: file and latency, stored sparse against dense.

A MobileNetV1 (padded as XNNPACK's sparse kernels want it) with random weights of which 80 % and 90 % are zero: its
accuracy does not matter here. Both files run in one process, in turn, in LiteRT with one thread; once on this machine,
and once on a processor without AVX that qemu-x86_64 emulates, since XNNPACK has no sparse kernels for those with AVX.
An emulator counts work more than it tells time: its ratio says that zeros are skipped, not how fast a device is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, Target, ratios, run, say
from edgecomp.convert import ENVIRONMENT, to_tflite
from edgecomp.sparse import encode_sparse

_SPARSITIES = (0.8, 0.9)
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
_TIMER = """
import json, sys, time
from ai_edge_litert.interpreter import Interpreter
pair = []
for path in sys.argv[2:]:
    pair.append(Interpreter(model_path=path, num_threads=1))
    pair[-1].allocate_tensors()
    pair[-1].invoke()
taken = []
for number in range(int(sys.argv[1])):
    row = [0.0, 0.0]
    for place in (0, 1) if number % 2 else (1, 0):
        started = time.perf_counter()
        pair[place].invoke()
        row[place] = (time.perf_counter() - started) * 1000
    taken.append(row)
print(json.dumps(taken))
"""


def mobilenet_v1(size: int) -> Any:
    """Howard et al., arXiv 1704.04861, at full width, with one row of zeros on every side before a stride of 2."""
    import tf_keras

    layers = tf_keras.layers

    def after(x: Any) -> Any:
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    tf_keras.utils.set_random_seed(0)
    inputs = layers.Input((size, size, 3))
    x = after(layers.Conv2D(32, 3, 2, use_bias=False)(layers.ZeroPadding2D(1)(inputs)))
    for channels, stride in _BLOCKS:
        x = after(layers.DepthwiseConv2D(3, stride, use_bias=False)(layers.ZeroPadding2D(1)(x)))
        x = after(layers.Conv2D(channels, 1, use_bias=False)(x))
    return tf_keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def pruned_file(size: int, sparsity: float) -> bytes:
    """The float .tflite with so many zeros in every 1x1 convolution."""
    import tf_keras

    from edgecomp.load import from_tf_keras

    model = mobilenet_v1(size)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if type(layer) is tf_keras.layers.Conv2D and layer.kernel_size == (1, 1):
            values = layer.kernel.numpy()
            values.reshape(-1)[random.permutation(values.size)[: round(sparsity * values.size)]] = 0
            layer.kernel.assign(values)
    return to_tflite(from_tf_keras(model), where="MobileNetV1")


def timed(files: tuple[Path, Path], rounds: int, emulator: tuple[str, ...] = ()) -> tuple[list[float], list[float]]:
    """Milliseconds of both files, pair by pair, in a fresh process."""
    command = [*emulator, sys.executable, "-c", _TIMER, str(rounds), *map(str, files)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    rows = json.loads(done.stdout)
    return [row[0] for row in rows], [row[1] for row in rows]


def measure(options: argparse.Namespace) -> list[Figure]:
    """Both sparsities, on both processors."""
    qemu = shutil.which("qemu-x86_64")
    figures = []
    with tempfile.TemporaryDirectory() as name:
        for sparsity in _SPARSITIES:
            what = f"MobileNetV1 {options.size}x{options.size} float, {sparsity:.0%} zeros"
            dense = pruned_file(options.size, sparsity)
            files = Path(name) / "dense.tflite", Path(name) / "sparse.tflite"
            files[0].write_bytes(dense)
            files[1].write_bytes(encode_sparse(dense))
            sizes = [float(path.stat().st_size) for path in files]
            figures.append(Figure(f"{what}: file, dense / sparse", "times", (sizes[0] / sizes[1],)))
            slow, fast = timed(files, options.rounds)
            figures.append(Figure("  latency dense, on this machine", "ms", tuple(slow)))
            figures.append(Figure("  dense / sparse, on this machine", "times", ratios(slow, fast)))
            say(f"{what}: done on this machine")
            if qemu is not None:
                slow, fast = timed(files, options.emulated_rounds, (qemu, "-cpu", "Nehalem"))
                target = Target("at least", 1.5)
                figures.append(Figure("  dense / sparse, emulated without AVX", "times", ratios(slow, fast), target))
                say(f"{what}: done in the emulator")
    return figures


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--size", type=int, default=96, help="height and width in pixels (default: %(default)s)")
    arguments.add_argument("--rounds", type=int, default=40, help="pairs on this machine (default: %(default)s)")
    arguments.add_argument(
        "--emulated-rounds", type=int, default=3, help="pairs in the emulator (default: %(default)s)"
    )
    sys.exit(run("sparse_inference", measure, arguments))
