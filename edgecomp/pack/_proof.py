"""The proof behind a packed file: what tflite-micro computes from it on real inputs, and what it takes there."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgecomp.errors import MissingDataError, PackingError, RuntimeRefusedError
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, TflmModel, runtime_version
from edgecomp.pack.report import Footprint

_ROUNDS = 3
_TIMED_SAMPLES = 5


@dataclass(frozen=True)
class Witness:
    """What the file to be packed computes.

    Attributes:
        inputs: Real values in the order of the file's inputs, each of shape (n, *sample_shape).
        outputs: Stored values in the order of the file's outputs, each of shape (n, ...).
    """

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]

    @property
    def samples(self) -> int:
        """Number of inputs."""
        return len(self.inputs[0])

    def objection(self, data: bytes) -> str | None:
        """What speaks against a packed file: the runtime's refusal, or how many outputs are not equal; None if nothing.

        Equal means every output of every sample, byte by byte.
        """
        try:
            outputs = TflmModel(data).run(self._named(data))
        except RuntimeRefusedError as error:
            return error.message.rstrip(".")
        wrong = np.zeros(self.samples, bool)
        for mine, other in zip(self.outputs, outputs, strict=True):
            if mine.dtype != other.dtype or mine.shape != other.shape:
                return f"an output has type {other.dtype} and shape {other.shape}, not {mine.dtype} and {mine.shape}"
            # As bytes: a NaN equals itself, 0.0 is not -0.0.
            wrong |= (_rows(mine) != _rows(other)).any(axis=1)
        return f"{wrong.sum()} of {self.samples} outputs are not equal" if wrong.any() else None

    def _named(self, data: bytes) -> dict[str, np.ndarray]:
        """The inputs by the names that this file has for them."""
        return {spec.name: values for spec, values in zip(read_graph(data).inputs, self.inputs, strict=True)}

    def footprint(self, data: bytes) -> Footprint:
        """Arena and time of a file; the time is that of the processor, the best of several rounds, per inference."""
        model = TflmModel(data)
        few = {name: values[:_TIMED_SAMPLES] for name, values in self._named(data).items()}
        seconds = []
        for _ in range(_ROUNDS):
            started = time.process_time()
            model.run(few)
            seconds.append(time.process_time() - started)
        arena = model.arena_bytes()
        return Footprint(
            file_bytes=len(data),
            arena_head_bytes=arena["head"],
            arena_total_bytes=arena["total"],
            ms=1000 * min(seconds) / min(self.samples, _TIMED_SAMPLES),
        )


def witness(data: bytes, inputs: Mapping[str, np.ndarray]) -> Witness:
    """Run the file that is to be packed.

    Args:
        data: Bytes of a .tflite file.
        inputs: Real values by input name, each of shape (n, *sample_shape).

    Raises:
        PackingError: tflite-micro is not installed on this machine.
        MissingDataError: There is not a single sample.
        RuntimeRefusedError: TFLM does not run the file, packed or not.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        raise PackingError(
            "Packing for TFLM is proven in the tflite-micro interpreter, which is not installed here.",
            hint="Pack on Linux x86-64, where tflite-micro has wheels; the unpacked file runs as it is.",
        )
    specs = read_graph(data).inputs
    named = {spec.name for spec in specs} == set(inputs)
    values = [np.asarray(inputs[spec.name]) for spec in specs] if named else [np.asarray(v) for v in inputs.values()]
    if len(values) != len(specs):
        raise PackingError(f"The file has {len(specs)} inputs, {len(values)} were given.")
    if not values or min(len(value) for value in values) == 0:
        raise MissingDataError("Packing needs real inputs to prove that the packed file computes the same, got none.")
    outputs = TflmModel(data).run({spec.name: value for spec, value in zip(specs, values, strict=True)})
    return Witness(tuple(values), tuple(outputs))


def runtime_name() -> str:
    """Name and version of the interpreter that proves."""
    return " ".join(runtime_version(KernelFamily.TFLM))


def _rows(values: np.ndarray) -> np.ndarray:
    """Each sample as its bytes, shape (n, bytes)."""
    return np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
