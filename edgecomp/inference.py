"""Run a .tflite file on this machine, sample by sample, with a named family of kernels.

Results are exact within one kernel family only, so every result says which family made it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgecomp.errors import RuntimeRefusedError
from edgecomp.graph import Graph, read_graph
from edgecomp.memory import estimate_arena
from edgecomp.tensors import TensorSpec


class KernelFamily(StrEnum):
    """Which implementation of the operators computed a result."""

    LITERT_XNNPACK = "LITERT_XNNPACK"
    LITERT_BUILTIN = "LITERT_BUILTIN"
    LITERT_REFERENCE = "LITERT_REFERENCE"
    TFLM = "TFLM"


class Model(Protocol):
    """A loaded .tflite file."""

    graph: Graph
    kernels: KernelFamily

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run every sample of a batch.

        Args:
            inputs: Real values by input name, each of shape (n, *sample_shape).

        Returns:
            The stored (not dequantized) outputs in the order of the file, each of shape (n, ...).
        """
        ...


def load(data: bytes, kernels: KernelFamily, *, num_threads: int = 1) -> Model:
    """Load a file.

    Raises:
        RuntimeRefusedError: The runtime does not load, allocate or know an operator of it.
    """
    return TflmModel(data) if kernels is KernelFamily.TFLM else LiteRtModel(data, kernels, num_threads=num_threads)


def runtime_version(kernels: KernelFamily) -> tuple[str, str]:
    """Name and version of the runtime behind a kernel family on this machine."""
    name = "tflite-micro" if kernels is KernelFamily.TFLM else "ai-edge-litert"
    return name, version(name)


def stored_inputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Real values by name -> what the file stores, in the order of its inputs.

    Candidates of one model differ in tensor names (a converter may rename), never in order: where a name is not
    found the inputs are taken by position.
    """
    names = [spec.name for spec in graph.inputs]
    values = [inputs[name] for name in names] if set(names) == set(inputs) else list(inputs.values())
    if len(values) != len(graph.inputs):
        raise RuntimeRefusedError(f"The file has {len(graph.inputs)} inputs, {len(values)} were given.")
    return [spec.quantize(value) for spec, value in zip(graph.inputs, values, strict=True)]


def dequantize(specs: tuple[TensorSpec, ...], stored: list[np.ndarray]) -> list[np.ndarray]:
    """Stored outputs -> real values, float32."""
    return [spec.dequantize(value) for spec, value in zip(specs, stored, strict=True)]


class LiteRtModel:
    """A file in LiteRT's Interpreter."""

    def __init__(self, data: bytes, kernels: KernelFamily, *, num_threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolvers = {
            KernelFamily.LITERT_XNNPACK: OpResolverType.AUTO,
            KernelFamily.LITERT_BUILTIN: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            KernelFamily.LITERT_REFERENCE: OpResolverType.BUILTIN_REF,
        }
        self.graph = read_graph(data)
        self.kernels = kernels
        if self.graph.is_for_tflm_only:
            raise RuntimeRefusedError(
                "The file is packed for TensorFlow Lite Micro; LiteRT does not run it.",
                hint="Run it with the tflite-micro interpreter, or take the unpacked file, which computes the same.",
            )
        messages = Captured()
        try:
            with captured_stderr() as messages:
                self._interpreter = Interpreter(
                    model_content=data,
                    experimental_op_resolver_type=resolvers[kernels],
                    num_threads=num_threads,
                )
                for detail, spec in zip(self._interpreter.get_input_details(), self.graph.inputs, strict=True):
                    if None in spec.shape:
                        self._interpreter.resize_tensor_input(detail["index"], [size or 1 for size in spec.shape])
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise _refusal("LiteRT refuses", messages, error) from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See `Model.run`."""
        stored = stored_inputs(self.graph, inputs)
        details: list[Any] = self._interpreter.get_input_details()
        sources = [detail["index"] for detail in self._interpreter.get_output_details()]
        collected: list[list[np.ndarray]] = [[] for _ in sources]
        for index in range(len(stored[0])):
            for detail, values in zip(details, stored, strict=True):
                self._interpreter.set_tensor(detail["index"], values[index : index + 1])
            self._interpreter.invoke()
            for values_out, source in zip(collected, sources, strict=True):
                values_out.append(self._interpreter.get_tensor(source)[0])
        return [np.stack(values) for values in collected]


class TflmModel:
    """A file in TensorFlow Lite Micro itself (the tflite-micro wheel): reference kernels, 64-bit structures."""

    kernels = KernelFamily.TFLM

    def __init__(self, data: bytes) -> None:
        from tflite_micro import runtime

        self.graph = read_graph(data)
        # Generous: what it really takes is read afterwards.
        room_bytes = 4 * estimate_arena(self.graph, word_bytes=8).total_bytes + (4 << 20)
        messages = Captured()
        try:
            with captured_stderr() as messages:
                self._interpreter = runtime.Interpreter.from_bytes(data, arena_size=room_bytes)
        except (RuntimeError, ValueError) as error:
            raise _refusal("TFLM refuses", messages, error) from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """See `Model.run`."""
        stored = stored_inputs(self.graph, inputs)
        collected: list[list[np.ndarray]] = [[] for _ in self.graph.outputs]
        messages = Captured()
        try:
            with captured_stderr() as messages:
                for index in range(len(stored[0])):
                    for position, values in enumerate(stored):
                        self._interpreter.set_input(values[index : index + 1], position)
                    self._interpreter.invoke()
                    for position, values_out in enumerate(collected):
                        values_out.append(np.array(self._interpreter.get_output(position)[0]))
        except (RuntimeError, ValueError) as error:
            raise _refusal("TFLM stops in", messages, error) from error
        return [np.stack(values) for values in collected]

    def arena_bytes(self) -> dict[str, int]:
        """What the recording allocator counted after a run: {"total": ..., "head": ..., "tail": ...} in bytes."""
        with captured_stderr() as messages:
            self._interpreter.print_allocations()
        return parse_allocations(messages.text)


def parse_allocations(text: str) -> dict[str, int]:
    """`[RecordingMicroAllocator] Arena allocation head 49152 bytes` and its like -> bytes by part.

    Raises:
        RuntimeRefusedError: A part is missing: the format has changed.
    """
    found: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if "Arena" in words and "allocation" in words and words[-1] == "bytes":
            found[words[-3]] = int(words[-2])
    if not {"total", "head", "tail"} <= found.keys():
        raise RuntimeRefusedError(f"tflite-micro reported its arena in an unknown form: {text[:200]!r}.")
    return found


class Captured:
    """What native code wrote to file descriptor 2; complete when the block has ended."""

    text = ""


@contextlib.contextmanager
def captured_stderr() -> Iterator[Captured]:
    """Collect what native code writes to file descriptor 2 inside the block."""
    captured = Captured()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            captured.text = sink.read().decode(errors="replace")


def _refusal(who: str, captured: Captured, error: Exception) -> RuntimeRefusedError:
    """The runtime's own reason: the first line that it printed about the failure, else the exception's text."""
    lines = [line.strip() for line in captured.text.splitlines()]
    wanted = [line for line in lines if line and not line.startswith(("INFO:", "WARNING:", "W0000", "I0000"))]
    reason = (wanted or str(error).splitlines() or [type(error).__name__])[0]
    return RuntimeRefusedError(f"{who} the file: {reason.removeprefix('ERROR: ').rstrip('.')}.")


def load_file(path: Path, kernels: KernelFamily) -> Model:
    """`load` for a file on disk."""
    return load(path.read_bytes(), kernels)
