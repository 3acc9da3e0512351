"""Whether a device multiplies less for a pruned file: XNNPACK's sparse kernels, and when it takes them.

XNNPACK alone, of the runtimes known here, has kernels that skip zeros: of 1x1 convolutions in float, over activations
with the channels first (Elsen et al., Fast Sparse ConvNets, arXiv 1911.09723). It changes a part of the graph over to
them when the file is loaded, if every operator of that part can go along and more than two thirds of the weights are
zero. These are its own rules (src/subgraph.c, xnn_subgraph_rewrite_for_nchw and xnn_check_nchw_compatibility; LiteRT's
XNNPACK delegate, README, "Sparse Inference"), read off the file without running it. docs/techniques/pruning.md has
what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.graph import read_graph
from edgecomp.profile import DeviceProfile
from edgecomp.sparse import constant, encode_sparse, operator_code
from edgecomp.tflite_edit import text_of, unpack_model
from edgecomp.tflite_schema import BUILTIN_OPERATORS

_Role = Literal["start", "inside", "end"]

_UNARY = frozenset({
    "ABS", "CEIL", "ELU", "FLOOR", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6", "RELU_N1_TO_1",
    "ROUND", "SQUARE",
})  # fmt: skip
_PADDED = ("CONV_2D", "DEPTHWISE_CONV_2D")


@dataclass(frozen=True)
class SparseInference:
    """What becomes of the zeros of a file on a device.

    Attributes:
        is_used: Sparse kernels run; `reasons` is empty then.
        reasons: Why not, one clause each.
        zeros, weights: Of the layers that would run sparse; 0 and 0 where no part of the graph can.
    """

    is_used: bool
    reasons: tuple[str, ...]
    zeros: int
    weights: int


def sparse_inference(data: bytes, profile: DeviceProfile) -> SparseInference:
    """Whether zeros in the weights of a .tflite file make it faster on a device.

    Args:
        data: The file; `sparse.encode_sparse` stores its weights as XNNPACK wants them.
        profile: The device.

    Raises:
        GraphError: Damaged, cut, or not a .tflite file.
    """
    without = no_sparse_kernels(profile)
    if without is not None:
        return SparseInference(False, (without,), 0, 0)
    read_graph(data)
    graph = _Graph(unpack_model(data, "The model"))
    zeros, weights, problem = graph.largest_part()
    if problem is not None:
        return SparseInference(False, (problem,), zeros, weights)
    reasons = []
    if 3 * zeros <= 2 * weights:
        share = f"{zeros / weights:.0%}"
        reasons.append(f"{share} of the weights of its 1x1 convolutions are zero, and XNNPACK asks for more than 67 %")
    if "DENSIFY" not in graph.codes:
        reasons.append("its weights are not stored sparse, which is what XNNPACK goes by")
    return SparseInference(not reasons, tuple(reasons), zeros, weights)


def with_sparse_kernels(data: bytes, profile: DeviceProfile) -> tuple[bytes, SparseInference]:
    """A file as a device should get it: with its weights stored sparse if XNNPACK then skips the zeros.

    It stays as it is otherwise. That is no matter of taste: in graphs of which only a part could change over, the
    XNNPACK of LiteRT 2.3.0 mixes up its layouts and gives wrong results, or LiteRT refuses the file.

    Raises:
        GraphError: As `sparse_inference`.
    """
    encoded = encode_sparse(data)
    found = sparse_inference(encoded, profile)
    return (encoded if found.is_used else data), found


def no_sparse_kernels(profile: DeviceProfile) -> str | None:
    """Why nothing runs faster for zeros on a device, whatever the model; None where XNNPACK may."""
    runtime, cpu = profile.runtime, profile.cpu
    if runtime.name == "tflm":
        return "TFLM has no kernels that skip zeros"
    if runtime.name == "ethos-u":
        return "the NPU multiplies zeros too (Vela stores them in fewer bits)"
    if runtime.name == "edgetpu":
        return "the Edge TPU multiplies zeros too"
    if runtime.delegate != "xnnpack":
        return "LiteRT's built-in kernels do not skip zeros, XNNPACK's do"
    if cpu.architecture == "x86_64":
        return "XNNPACK leaves its sparse kernels out on x86 processors with AVX"
    if cpu.architecture == "aarch64" or (cpu.architecture == "armv7l" and "neon" in cpu.features):
        return None
    return f"XNNPACK has no vector kernels that skip zeros on {cpu.architecture} without NEON"


class _Graph:
    """The main subgraph of an object tree, as XNNPACK meets it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._graph = model.subgraphs[0]
        operators = self._graph.operators
        self.codes = [BUILTIN_OPERATORS[operator_code(model, operator)] for operator in operators]
        self._producer = {int(index): place for place, item in enumerate(operators) for index in item.outputs}
        self._readers: dict[int, list[int]] = {}
        for place, item in enumerate(operators):
            for index in item.inputs:
                self._readers.setdefault(int(index), []).append(place)
        self._roles = [self._role(place) for place in range(len(operators))]

    def largest_part(self) -> tuple[int, int, str | None]:
        """Zeros and weights of the part with the most weights that can run sparse; or why there is none."""
        best: tuple[int, int] | None = None
        problem = "no part of the graph ends with MEAN over height and width, or DEPTH_TO_SPACE"
        for place, role in enumerate(self._roles):
            if role != "end":
                continue
            part, found = self._part(place)
            if found is None:
                found = self._beyond(part)
            if found is not None:
                problem = found
                continue
            zeros, weights = self._zeros(part)
            if weights and (best is None or weights > best[1]):
                best = zeros, weights
            elif not weights:
                problem = "it has no 1x1 convolutions"
        return (0, 0, problem) if best is None else (*best, None)

    def _part(self, end: int) -> tuple[set[int], str | None]:
        """All operators from the 3x3 convolution at the input to `end`, or the first one that cannot go along."""
        part, waiting = {end}, [end]
        while waiting:
            place = waiting.pop()
            for index in self._activations(place):
                producer = self._producer.get(index)
                if producer is None:
                    return part, "it does not start with a 3x3 convolution of stride 2, padding 1 and 3 input channels"
                role = self._roles[producer]
                if role is None:
                    return part, self._stops(producer)
                if producer not in part:
                    part.add(producer)
                    if role != "start":  # What is before that, its padding included, keeps the channels last.
                        waiting.append(producer)
        for place in part - {end}:
            for index in self._graph.operators[place].outputs:
                outside = [reader for reader in self._readers.get(int(index), []) if reader not in part]
                if outside or int(index) in [int(item) for item in self._graph.outputs]:
                    return part, f"the output of {self.codes[place]} is also needed with the channels last"
        for index in self._graph.operators[end].outputs:
            for reader in self._readers.get(int(index), []):
                if self._roles[reader] is not None:
                    # XNNPACK would turn its input around and not its output; LiteRT then fails to load the file.
                    return part, f"{self.codes[reader]} follows {self.codes[end]} and nothing turns its output around"
        return part, None

    def _beyond(self, part: set[int]) -> str | None:
        """A second part that starts like one and ends otherwise: XNNPACK mixes its layouts up."""
        others = [place for place, role in enumerate(self._roles) if role == "start" and place not in part]
        return "a second part starts and does not end as it must" if others else None

    def _zeros(self, part: set[int]) -> tuple[int, int]:
        zeros = weights = 0
        for place in part:
            if self.codes[place] == "CONV_2D" and self._roles[place] == "inside":
                values = self._weights(place)
                if values is not None:
                    zeros, weights = zeros + int((values == 0).sum()), weights + values.size
        return zeros, weights

    def _weights(self, place: int) -> np.ndarray | None:
        """The values of the weights of an operator; of sparse ones as many zeros as they stand for."""
        index = int(self._graph.operators[place].inputs[1])
        while (producer := self._producer.get(index)) is not None and self.codes[producer] in ("DENSIFY", "DEQUANTIZE"):
            index = int(self._graph.operators[producer].inputs[0])
        tensor = self._graph.tensors[index]
        if tensor.sparsity is None:
            return constant(self._model, tensor)
        stored = self._model.buffers[tensor.buffer].data
        size = {schema.TensorType.FLOAT32: 4, schema.TensorType.FLOAT16: 2}.get(tensor.type, 1)
        values = np.zeros(int(np.prod(tensor.shape)), np.int8)
        values[: len(stored) // size] = 1
        return values

    def _activations(self, place: int) -> Iterator[int]:
        """Inputs that are computed, not constant; DENSIFY and DEQUANTIZE of constants count as constant."""
        for raw in self._graph.operators[place].inputs:
            index = int(raw)
            producer = self._producer.get(index)
            if index < 0 or (producer is not None and self.codes[producer] in ("DENSIFY", "DEQUANTIZE")):
                continue
            if producer is not None or index in [int(item) for item in self._graph.inputs]:
                yield index

    def _stops(self, place: int) -> str:
        tensor = self._graph.tensors[int(self._graph.operators[place].outputs[0])]
        name = text_of(tensor.name).split(";")[0]
        return f"{self.codes[place]} ({name}) has no form with the channels first"

    def _role(self, place: int) -> _Role | None:
        operator, code = self._graph.operators[place], self.codes[place]
        result = self._graph.tensors[int(operator.outputs[0])]
        if result.type not in (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16):
            return None
        rank = 0 if result.shape is None else len(result.shape)
        if code == "CONV_2D":
            return self._convolution(place)
        if code == "DEPTHWISE_CONV_2D":
            return self._depthwise(place)
        if code == "PAD":
            return "inside" if self._is_merged(place) else None
        if code == "MEAN":
            axes = self._integers(int(operator.inputs[1]))
            return "end" if axes is not None and sorted(axis % 4 for axis in axes) == [1, 2] else None
        if code == "DEPTH_TO_SPACE":
            return "end"
        if code in ("ADD", "MUL"):
            shapes = [self._graph.tensors[int(index)].shape for index in operator.inputs]
            return "inside" if all(shape is not None and len(shape) == 4 for shape in shapes) else None
        if code == "RESIZE_BILINEAR":
            return "inside" if min(self._graph.tensors[int(operator.inputs[0])].shape[1:3]) > 1 else None
        return "inside" if code in _UNARY and rank == 4 else None

    def _convolution(self, place: int) -> _Role | None:
        operator = self._graph.operators[place]
        options, shape = operator.builtinOptions, self._graph.tensors[int(operator.inputs[1])].shape
        strides = (options.strideH, options.strideW)
        if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
            return None
        if tuple(shape[1:3]) == (1, 1) and strides == (1, 1):
            is_padded = self._padding(place) not in ((0, 0, 0, 0), None)
            return None if is_padded else "inside"
        if tuple(shape[1:]) == (3, 3, 3) and strides == (2, 2) and self._padding(place) == (1, 1, 1, 1):
            return "start"
        return None

    def _depthwise(self, place: int) -> _Role | None:
        operator = self._graph.operators[place]
        options, shape = operator.builtinOptions, self._graph.tensors[int(operator.inputs[1])].shape
        height, width = (int(size) for size in shape[1:3])
        if (options.dilationHFactor, options.dilationWFactor) != (1, 1) or options.depthMultiplier not in (0, 1):
            return None
        if height != width or height not in (3, 5) or options.strideH != options.strideW or options.strideH > 2:
            return None
        half = height // 2
        is_same = options.padding == schema.Padding.SAME and options.strideH == 1
        return "inside" if is_same or self._padding(place) == (half,) * 4 else None

    def _is_merged(self, place: int) -> bool:
        """Whether an operator is a PAD that XNNPACK makes part of the one convolution behind it."""
        readers = self._readers.get(int(self._graph.operators[place].outputs[0]), [])
        return self.codes[place] == "PAD" and len(readers) == 1 and self.codes[readers[0]] in _PADDED

    def _padding(self, place: int) -> tuple[int, int, int, int] | None:
        """Top, bottom, left, right as a PAD before the operator gives them; None for SAME with a stride.

        XNNPACK works out SAME for a stride of 1 when the graph is built, for others only with the input.
        """
        operator = self._graph.operators[place]
        if operator.builtinOptions.padding == schema.Padding.SAME:
            return None
        producer = self._producer.get(int(operator.inputs[0]))
        if producer is None or not self._is_merged(producer):
            return (0, 0, 0, 0)
        values = self._integers(int(self._graph.operators[producer].inputs[1]))
        if values is None or len(values) != 8 or any(values[:2]) or any(values[6:]):
            return None
        return values[2], values[3], values[4], values[5]

    def _integers(self, index: int) -> tuple[int, ...] | None:
        """The values of a constant tensor of 32-bit integers."""
        tensor = self._graph.tensors[index]
        stored = self._model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.INT32 or stored is None or len(stored) == 0:
            return None
        return tuple(int(value) for value in np.asarray(stored, np.uint8).view("<i4"))
