"""An epoch of edgecomp's fine-tuning loop against one of Keras's own `fit` of the same model: ResNet8, 3,200 images.

Same optimizer, batch size, labels and data in memory, no teacher, no projections, validation after the epoch; both
in one process with everything traced, taking turns. What edgecomp's loop adds besides (a teacher, codebooks) has
lines of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Target, ratios, resnet8, run, say
from edgecomp.convert import ENVIRONMENT

_BATCH = 64


def measure(options: argparse.Namespace) -> list[Figure]:
    """Ratios of epochs, taken back to back."""
    model_path, data_path = resnet8()
    os.environ.update(ENVIRONMENT)  # Before anything imports TensorFlow.
    import numpy as np
    import tf_keras

    from edgecomp.compress._weights import kernels
    from edgecomp.data import DataOptions, prepare_dataset
    from edgecomp.keras_graph import flatten
    from edgecomp.load import from_tf_keras, load_trainable
    from edgecomp.training.codebook import Codebook
    from edgecomp.training.samples import training_data

    model = load_trainable(str(model_path), trust_code=False)
    loaded = from_tf_keras(model)
    with tempfile.TemporaryDirectory() as folder:
        bound = prepare_dataset(DataOptions(str(data_path)), Path(folder)).bind(loaded.inputs, loaded.outputs)
        data = training_data(bound)
        arrays = {
            split: (
                next(iter(bound.split(split).read().values())),
                next(iter((bound.split(split).labels or {}).values())),
            )
            for split in ("train", "validation")
        }
    keras_model = flatten(model)
    keras_model.compile(tf_keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")

    def by_keras() -> None:
        keras_model.fit(*arrays["train"], _BATCH, 1, verbose=0, validation_data=arrays["validation"])

    plain = _epochs(data, flatten(model), None, {})
    taught = _epochs(data, flatten(model), model, {})
    clustered = flatten(model)
    books = {
        id(kernel.variable): Codebook(np.asarray(kernel.variable), kernel.axes, 8) for kernel in kernels(clustered)
    }
    with_books = _epochs(data, clustered, model, books)
    sides = [by_keras, plain, taught, with_books]
    for side in sides:
        side()  # Tracing, and the teacher's answers, which are asked once for all epochs.
    times: list[list[float]] = [[] for _ in sides]
    for number in range(options.pairs):
        turns = list(zip(sides, times, strict=True))
        for side, sink in turns if number % 2 == 0 else reversed(turns):
            started = time.perf_counter()
            side()
            sink.append(time.perf_counter() - started)
        say(f"round {number + 1} of {options.pairs}: " + ", ".join(f"{sink[-1]:.2f} s" for sink in times))
    keras, ours, with_teacher, with_codebooks = times
    return [
        Figure("Fine-tuning, an epoch: edgecomp / Keras fit", "times", ratios(ours, keras), Target("at most", 1.1)),
        Figure("  the same with a teacher", "times", ratios(with_teacher, keras)),
        Figure("  the same with a teacher and codebooks of 8", "times", ratios(with_codebooks, keras)),
        Figure("  Keras fit: epoch of 3,200 images", "s", tuple(keras)),
        Figure("  edgecomp: epoch of 3,200 images", "s", tuple(ours)),
    ]


def _epochs(data: Any, model: Any, teacher: Any, projections: dict[int, Any]) -> Callable[[], None]:
    """One more epoch of a run at every call, as `FineTuning.run` does it."""
    from edgecomp.training.loop import FineTuning, Run
    from edgecomp.training.settings import TrainingSettings

    settings = TrainingSettings(
        epochs=1000, batch_size=_BATCH, learning_rate=1e-4, distill_weight=0.0 if teacher is None else 0.7
    )
    job = Run(FineTuning(data, settings, teacher), model, data.train, "benchmark", projections)
    epoch = iter(range(settings.epochs))

    def one() -> None:
        number = next(epoch)
        job.train_epoch(number)
        job.validate(number)

    return one


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--pairs", type=int, default=6, help="epochs of each side (default: %(default)s)")
    sys.exit(run("fine_tuning", measure, arguments))
