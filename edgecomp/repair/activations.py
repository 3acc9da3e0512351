"""What flows through a .tflite file on real inputs: every tensor's values, sample by sample."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgecomp.errors import RuntimeRefusedError
from edgecomp.graph import Graph, Tensor, read_graph
from edgecomp.inference import captured_stderr, stored_inputs
from edgecomp.quantize import Samples


class Tracer:
    """A file in LiteRT that keeps every intermediate tensor.

    Raises:
        RuntimeRefusedError: LiteRT does not load or allocate it.
    """

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.graph: Graph = read_graph(data)
        if self.graph.main is not self.graph.subgraphs[0]:
            raise RuntimeRefusedError(
                "Only the tensors of a file's first subgraph can be read, and its signature has another."
            )
        try:
            with captured_stderr(), warnings.catch_warnings():
                # It warns of the memory that this takes.
                warnings.simplefilter("ignore", UserWarning)
                self._interpreter = Interpreter(
                    model_content=data, num_threads=1, experimental_preserve_all_tensors=True
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise RuntimeRefusedError(f"LiteRT refuses the file: {str(error).splitlines()[0]}") from error

    def run(self, samples: Samples) -> Iterator[Tracer]:
        """Yields itself after each sample; `value` then reads what that sample gave."""
        details = self._interpreter.get_input_details()
        for sample in samples:
            for detail, values in zip(details, stored_inputs(self.graph, sample), strict=True):
                self._interpreter.set_tensor(detail["index"], values)
            self._interpreter.invoke()
            yield self

    def value(self, tensor: Tensor) -> np.ndarray:
        """Real values of a tensor of the main subgraph for the last sample, float32.

        Raises:
            RuntimeRefusedError: LiteRT has no values of it.
        """
        try:
            values = np.asarray(self._interpreter.get_tensor(tensor.index))
        except ValueError as error:
            raise RuntimeRefusedError(f"LiteRT gives no values of the tensor {tensor.name!r}: {error}") from error
        if not tensor.scales:
            return values.astype(np.float32)
        zero_point = tensor.zero_points[0] if tensor.zero_points else 0
        return (values.astype(np.float32) - zero_point) * np.float32(tensor.scales[0])

    def outputs(self) -> list[np.ndarray]:
        """Real values of the outputs for the last sample."""
        return [self.value(self.graph.main.tensors[index]) for index in self.graph.main.outputs]


@dataclass
class ChannelStatistics:
    """Of one tensor over all samples, by its last axis; each of shape (channels,).

    Attributes:
        low, high: Smallest and largest value, 0 included: padding needs it in the range.
        power: Mean of the squares.
    """

    low: np.ndarray
    high: np.ndarray
    power: np.ndarray


def channel_statistics(float_model: bytes, samples: Samples, tensors: Sequence[int]) -> dict[int, ChannelStatistics]:
    """Range and power of the channels of some tensors, in one pass."""
    tracer = Tracer(float_model)
    found: dict[int, ChannelStatistics] = {}
    for _ in tracer.run(samples):
        for index in tensors:
            values = tracer.value(tracer.graph.main.tensors[index])
            values = values.reshape(-1, values.shape[-1])
            low, high = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 0)
            power = np.mean(values.astype(np.float64) ** 2, axis=0) / len(samples)
            if index not in found:
                found[index] = ChannelStatistics(low, high, power)
                continue
            item = found[index]
            found[index] = ChannelStatistics(np.minimum(item.low, low), np.maximum(item.high, high), item.power + power)
    return found


def mean_values(data: bytes, samples: Samples, tensors: Sequence[int]) -> dict[int, np.ndarray]:
    """Mean over the samples of every element of some tensors, float64, in their shape."""
    tracer = Tracer(data)
    sums = dict.fromkeys(tensors, np.zeros(()))
    for _ in tracer.run(samples):
        for index in sums:
            sums[index] = sums[index] + tracer.value(tracer.graph.main.tensors[index])
    return {index: values / len(samples) for index, values in sums.items()}
