"""How near a quantized file is to the float model: signal-to-noise ratios on real inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecomp.graph import Graph, Tensor
from edgecomp.metrics import output_snr_db
from edgecomp.quantize import Samples
from edgecomp.repair.activations import Tracer

_LAST = frozenset({"SOFTMAX", "LOGISTIC", "LOG_SOFTMAX"})


@dataclass(frozen=True)
class Trial:
    """One candidate, on the samples that judge.

    Attributes:
        steps: What was done to it; empty for plain quantization.
        snr_db: Signal-to-noise ratio against the float model, before a final softmax or logistic function.
        output_snr_db: That of the outputs themselves.
    """

    steps: tuple[str, ...]
    snr_db: float
    output_snr_db: float

    @property
    def name(self) -> str:
        """`equalized, biases corrected`."""
        return ", ".join(self.steps) or "plain"


class Yardstick:
    """The float model's outputs for some samples, to hold candidates against.

    Args:
        float_model: Bytes of a float .tflite.
        samples: Real inputs by name, each of shape (1, *sample_shape); at least one.
    """

    def __init__(self, float_model: bytes, samples: Samples) -> None:
        self.samples = samples
        self._exact = self._run(float_model)

    def _run(self, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        tracer = Tracer(data)
        tensors = (
            _before_last(tracer.graph),
            [tracer.graph.main.tensors[index] for index in tracer.graph.main.outputs],
        )
        rows: tuple[list[list[np.ndarray]], ...] = tuple([[] for _ in part] for part in tensors)
        for _ in tracer.run(self.samples):
            for part, collected in zip(tensors, rows, strict=True):
                for tensor, row in zip(part, collected, strict=True):
                    row.append(tracer.value(tensor))
        inner, outer = ({str(i): np.stack(row) for i, row in enumerate(part)} for part in rows)
        return inner, outer

    def measure(self, steps: tuple[str, ...], data: bytes) -> Trial:
        """A candidate against the float model."""
        inner, outer = self._run(data)
        return Trial(steps, output_snr_db(inner, self._exact[0]), output_snr_db(outer, self._exact[1]))


def _before_last(graph: Graph) -> list[Tensor]:
    """For each output what goes into its softmax or logistic function, if it has one.

    Those saturate: what they give is decided by the few samples that the model doubts, and calibration samples are few.
    """
    makers = {index: operator for operator in graph.main.operators for index in operator.outputs}
    tensors = []
    for index in graph.main.outputs:
        last = index
        while (maker := makers.get(last)) is not None and maker.code in ("QUANTIZE", "DEQUANTIZE"):
            last = maker.inputs[0]
        if maker is not None and maker.code in _LAST:
            index = maker.inputs[0]
        tensors.append(graph.main.tensors[index])
    return tensors
