"""One INT8 candidate of edgecomp against one by TFLiteConverter: make it, then score it on 1,000 ResNet8 images.

Both start from the same open tf_keras model and the same 200 calibration images, in one process with everything
imported. edgecomp calibrates once for all candidates; what is timed here is every candidate but the first. Each
candidate is a new file (other types of inputs and outputs, then another layer kept in float), so nothing that was
kept from the one before could answer for it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import by_hand
from benchmarks.figures import Figure, Target, ratios, resnet8, run, say
from edgecomp.convert import ENVIRONMENT, convert_to_float_tflite
from edgecomp.files import sha256_of
from edgecomp.inference import KernelFamily, dequantize, load
from edgecomp.metrics import estimate, load_metric
from edgecomp.profile import Precision
from edgecomp.quantize import Io, QuantizationOptions, Quantizer

_IO_TYPES: tuple[Io, ...] = ("float32", "int8", "uint8")


@dataclass(frozen=True)
class Made:
    """One candidate: seconds to make it, seconds to score it, share of test images that it gets right, its digest."""

    make_s: float
    score_s: float
    accuracy: float
    sha256: str

    @property
    def seconds(self) -> float:
        """Of the whole candidate."""
        return self.make_s + self.score_s


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries print off file descriptors 1 and 2; shown only if the block fails."""
    saved = os.dup(1), os.dup(2)
    sys.stdout.flush()
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except BaseException:
            sink.seek(0)
            os.write(saved[1], sink.read())
            raise
        finally:
            sys.stdout.flush()
            for number, copy in enumerate(saved, 1):
                os.dup2(copy, number)
                os.close(copy)


def timed(make: Callable[[], bytes], score: Callable[[bytes], float]) -> Made:
    """Make and score one candidate."""
    with quiet():
        started = time.perf_counter()
        data = make()
        made = time.perf_counter()
        accuracy = score(data)
        scored = time.perf_counter()
    return Made(made - started, scored - made, accuracy, sha256_of(data))


class Edgecomp:
    """Candidates by the product's own functions."""

    def __init__(self, float_model: bytes, images: by_hand.Images) -> None:
        self._images = images
        self._metric = load_metric("accuracy")
        self._name = load(float_model, KernelFamily.LITERT_XNNPACK).graph.inputs[0].name
        self._quantizer = Quantizer(float_model, [{self._name: image[np.newaxis]} for image in images.calibration])

    def candidates(self) -> Iterator[QuantizationOptions]:
        """Different ones, as long as there are any: INT8, then INT8 with one convolution kept in float."""
        for io in _IO_TYPES:
            yield QuantizationOptions(Precision.INT8, io)
        operators = self._quantizer.graph.operators()
        layers = [subgraph.layer(operator) for subgraph, operator in operators if operator.code == "CONV_2D"]
        for shift in range(len(_IO_TYPES)):
            for number, layer in enumerate(layers):
                io = _IO_TYPES[(number + shift) % len(_IO_TYPES)]
                yield QuantizationOptions(Precision.SELECTIVE, io, kept_operators=(layer,))

    def make(self, options: QuantizationOptions) -> Made:
        """One candidate, scored with its interval as in a fit."""
        return timed(lambda: self._quantizer.quantize(options).data, self._score)

    def _score(self, data: bytes) -> float:
        model = load(data, KernelFamily.LITERT_XNNPACK)
        outputs = dequantize(model.graph.outputs, model.run({self._name: self._images.test}))
        return estimate(self._metric, {"output": self._images.labels}, {"output": outputs[0]}, seed=0).value


class Converter:
    """Candidates by TFLiteConverter and a plain Interpreter loop."""

    def __init__(self, source: Any, images: by_hand.Images, *, is_traced: bool) -> None:
        self._source, self._images, self._is_traced = source, images, is_traced

    def make(self, io: Io) -> Made:
        """One candidate."""
        return timed(
            lambda: by_hand.make_int8(self._source, self._images.calibration, io, is_traced=self._is_traced),
            lambda data: by_hand.accuracy_in_interpreter(data, self._images),
        )


def _float_model(path: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder, quiet():
        out = Path(folder) / "float.tflite"
        convert_to_float_tflite(str(path), trust_code=False, out_path=str(out))
        return out.read_bytes()


def _take_turns(ours: Edgecomp, rivals: Sequence[Converter], pairs: int) -> tuple[list[Made], list[list[Made]]]:
    """Rounds of one candidate each, in an order that turns about; our first one is ahead of them and calibrates.

    Returns:
        Ours, one more than there are rounds, and those of each rival.
    """
    candidates = ours.candidates()
    made, others = [ours.make(next(candidates))], [[] for _ in rivals]
    chosen = list(itertools.islice(candidates, pairs))
    if len(chosen) < pairs:
        raise SystemExit(f"--pairs is at most {len(chosen)}: this model has no more different candidates.")
    for number, options in enumerate(chosen):
        turns: list[tuple[list[Made], Callable[[], Made]]] = [(made, functools.partial(ours.make, options))]
        turns += [(to, functools.partial(rival.make, options.io)) for to, rival in zip(others, rivals, strict=True)]
        for to, make in turns if number % 2 == 0 else reversed(turns):
            to.append(make())
        seconds = ", ".join(f"{to[-1].seconds:.2f} s" for to, _ in turns)
        say(f"round {number + 1} of {pairs}, {options.precision} {options.io}: {seconds}")
    return made, others


def measure(options: argparse.Namespace) -> list[Figure]:
    """Ratios of whole candidates, and what they are made of."""
    model_path, data_path = resnet8()
    os.environ.update(ENVIRONMENT)  # Before anything imports TensorFlow.
    images = by_hand.read_images(data_path)
    say("opening and converting the model")
    with quiet():
        model = by_hand.open_model(model_path)
        traced = by_hand.trace(model)
    ours = Edgecomp(_float_model(model_path), images)
    rivals = Converter(model, images, is_traced=False), Converter(traced, images, is_traced=True)
    with quiet():  # Imports and first-use costs of both sides are no part of a candidate.
        for rival in rivals:
            rival.make("float32")
        import ai_edge_quantizer  # noqa: F401
    (first, *made), (converted, retraced) = _take_turns(ours, rivals, options.pairs)
    if len({item.sha256 for item in (first, *made)}) <= len(made):
        raise AssertionError("Two candidates are the same file: this would not show what a cache does.")
    return _figures(first, made, converted, retraced)


def _figures(first: Made, made: list[Made], converted: list[Made], retraced: list[Made]) -> list[Figure]:
    def seconds(items: Sequence[Made]) -> tuple[float, ...]:
        return tuple(item.seconds for item in items)

    def figure(what: str, part: str, items: Sequence[Made], unit: str = "s") -> Figure:
        return Figure(what, unit, tuple(getattr(item, part) for item in items))

    three_times = Target("at least", 3)
    with_calibration = statistics.median(seconds(converted)) / first.seconds
    return [
        Figure(
            "INT8 candidate: TFLiteConverter / edgecomp",
            "times",
            ratios(seconds(converted), seconds(made)),
            three_times,
        ),
        Figure("  the same, converter given a function traced once", "times", ratios(seconds(retraced), seconds(made))),
        Figure("  the first candidate, calibration included", "times", (with_calibration,)),
        figure("  edgecomp: candidate", "seconds", made),
        figure("  edgecomp: of that, to quantize", "make_s", made),
        figure("  TFLiteConverter: candidate", "seconds", converted),
        figure("  TFLiteConverter: of that, to convert", "make_s", converted),
        figure("  edgecomp: accuracy, 1,000 images", "accuracy", made, "share"),
        figure("  TFLiteConverter: accuracy, the same images", "accuracy", converted, "share"),
    ]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--pairs", type=int, default=8, help="candidates of each side (default: %(default)s)")
    sys.exit(run("int8_candidate", measure, arguments))
