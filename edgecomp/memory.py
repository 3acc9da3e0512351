"""Tensor memory: who is alive when, where a planner puts it, and what a runtime needs beside it.

The planner is the greedy one of TFLite Micro and TFLite: largest first, lowest offset that fits (Pisarchyk and Lee,
"Efficient Memory Management for Deep Neural Net Inference", arXiv 2001.03288, section 5.2).
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

from edgecomp.errors import GraphError
from edgecomp.graph import Graph, Operator, Subgraph


@dataclass(frozen=True)
class PlannerRules:
    """How one runtime plans.

    Attributes:
        keep_inputs: Inputs of the model keep their memory to the end, so that it can be run again.
        share_in_place: Operators that only rename their input share its memory.
        unpack_int4: 4-bit weights are unpacked into the arena while their operator runs.
        im2col: Convolutions lay their patches out as a matrix first, except 1x1 with stride 1.
    """

    alignment_bytes: int
    keep_inputs: bool = False
    share_in_place: bool = False
    unpack_int4: bool = False
    im2col: bool = False


TFLM = PlannerRules(16, unpack_int4=True)
LITERT = PlannerRules(64, keep_inputs=True, share_in_place=True)
"""Reference kernels; XNNPACK plans its own workspace much like it."""
LITERT_BUILTIN = PlannerRules(64, keep_inputs=True, share_in_place=True, im2col=True)


@dataclass(frozen=True)
class Allocation:
    """One buffer: alive from operator `first` to operator `last`, both included; at `offset_bytes` in the arena.

    Attributes:
        tensor: Index of the activation, or None for a buffer that an operator asks for while it runs.
    """

    tensor: int | None
    size_bytes: int
    first: int
    last: int
    offset_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """Where every buffer lies.

    Attributes:
        head_bytes: Memory that the plan needs.
        lower_bound_bytes: The largest set that is alive at once; no plan can need less.
        live_bytes: Bytes alive at each operator.
        peak_layer: The layer at which most is alive.
    """

    allocations: tuple[Allocation, ...]
    head_bytes: int
    lower_bound_bytes: int
    live_bytes: tuple[int, ...]
    peak_layer: str


def plan_memory(graph: Graph, rules: PlannerRules) -> MemoryPlan:
    """Place every activation of the main subgraph, and the buffers that its operators ask for.

    Raises:
        GraphError: The model has more activations than any that runs on a device.
    """
    subgraph = graph.main

    def aligned(size_bytes: int) -> int:
        return -(-size_bytes // rules.alignment_bytes) * rules.alignment_bytes

    wanted: list[_Wanted] = [
        (aligned(subgraph.tensors[tensor].size_bytes), first, last, tensor)
        for tensor, (first, last) in _lifetimes(subgraph, rules).items()
    ]
    for step, operator in enumerate(subgraph.operators):
        size = _unpacked_int4_bytes(subgraph, operator) if rules.unpack_int4 else 0
        size += _im2col_bytes(subgraph, operator) if rules.im2col else 0
        if size:
            wanted.append((aligned(size), step, step, None))
    if len(wanted) > _MAX_BUFFERS:
        raise GraphError(
            f"The model has {len(wanted)} activations, more than the {_MAX_BUFFERS} that edgecomp plans memory for."
        )
    placed = _place(wanted)
    live = _live(placed, max(len(subgraph.operators), 1))
    peak = max(range(len(live)), key=live.__getitem__)
    return MemoryPlan(
        allocations=tuple(placed),
        head_bytes=max((item.offset_bytes + item.size_bytes for item in placed), default=0),
        lower_bound_bytes=max(live),
        live_bytes=live,
        peak_layer=subgraph.layer(subgraph.operators[peak]) if subgraph.operators else "",
    )


# Placing takes the square of their number: a hostile file must not make a check hang.
_MAX_BUFFERS = 4000

_Wanted = tuple[int, int, int, int | None]
"""Size in bytes, first and last operator, tensor."""


def _live(placed: list[Allocation], steps: int) -> tuple[int, ...]:
    """Bytes alive at each operator."""
    changes = [0] * (steps + 1)
    for item in placed:
        changes[item.first] += item.size_bytes
        changes[item.last + 1] -= item.size_bytes
    return tuple(itertools.accumulate(changes[:steps]))


def _place(wanted: list[_Wanted]) -> list[Allocation]:
    """Greedy by size; among equals the last tensor first, which is what TFLM's sort makes of them."""
    placed: list[Allocation] = []
    for size, first, last, tensor in sorted(wanted, key=lambda item: (-item[0], -(item[3] or 0))):
        offset = 0
        for other in placed:
            if other.last < first or last < other.first:
                continue
            if offset + size <= other.offset_bytes:
                break
            offset = max(offset, other.offset_bytes + other.size_bytes)
        bisect.insort(placed, Allocation(tensor, size, first, last, offset), key=lambda item: item.offset_bytes)
    return placed


def _lifetimes(subgraph: Subgraph, rules: PlannerRules) -> dict[int, tuple[int, int]]:
    """First and last operator that touches each activation; inputs live from the start, outputs to the end."""
    end = max(len(subgraph.operators) - 1, 0)
    alive = dict.fromkeys((index for index in subgraph.inputs if index >= 0), (0, 0))
    for step, operator in enumerate(subgraph.operators):
        for index in operator.inputs + operator.outputs:
            if index < 0 or subgraph.tensors[index].is_constant or subgraph.tensors[index].is_variable:
                continue
            first, _ = alive.get(index, (step, step))
            alive[index] = (first, step)
    for index in subgraph.outputs + (subgraph.inputs if rules.keep_inputs else ()):
        if index in alive:
            alive[index] = (alive[index][0], end)
    return _merged(subgraph, alive) if rules.share_in_place else alive


_RENAMING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "BITCAST"})


def _merged(subgraph: Subgraph, alive: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Lifetimes where the output of a renaming operator is its input's memory; borders of the model keep their own."""
    borders = set(subgraph.inputs) | set(subgraph.outputs)
    owner: dict[int, int] = {}
    for operator in subgraph.operators:
        if operator.code in _RENAMING and operator.inputs and operator.outputs:
            source, result = operator.inputs[0], operator.outputs[0]  # -1 is not in `alive`.
            if source not in alive or result not in alive or {source, result} & borders:
                continue
            # A file can say anything: what changes its size is not renamed.
            if subgraph.tensors[source].size_bytes == subgraph.tensors[result].size_bytes:
                owner[result] = owner.get(source, source)
    merged = {index: span for index, span in alive.items() if index not in owner}
    for result, source in owner.items():
        merged[source] = (merged[source][0], max(merged[source][1], alive[result][1]))
    return merged


def _unpacked_int4_bytes(subgraph: Subgraph, operator: Operator) -> int:
    weights = subgraph.input(operator, 1)
    if operator.code not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") or weights is None:
        return 0
    return weights.elements if weights.type == "INT4" else 0


def _im2col_bytes(subgraph: Subgraph, operator: Operator) -> int:
    """Patches of a convolution as a matrix: (output positions, kernel height * width * input channels)."""
    source, weights, result = subgraph.input(operator), subgraph.input(operator, 1), subgraph.output(operator)
    if operator.code != "CONV_2D" or source is None or weights is None or result is None:
        return 0
    if len(weights.shape) != 4 or len(result.shape) != 4 or 0 in (weights.shape[0], result.shape[3], source.elements):
        return 0
    if weights.shape[1:3] == (1, 1) and source.shape[1:3] == result.shape[1:3]:
        return 0
    patches = result.elements // result.shape[3] * weights.elements // weights.shape[0]
    return patches * source.size_bytes // source.elements


# What an operator keeps in TFLM's 64-bit build (bytes): its parsed options and its own data. Solved from the recording
# allocator of tflite-micro on nine models. _POINTER_BYTES of it are pointers, which a 32-bit core halves.
_OPERATOR_DATA_BYTES = {
    "CONV_2D": 110, "DEPTHWISE_CONV_2D": 110, "TRANSPOSE_CONV": 110, "FULLY_CONNECTED": 130, "ADD": 72, "MUL": 72,
    "MEAN": 78, "SOFTMAX": 92, "AVERAGE_POOL_2D": 72, "MAX_POOL_2D": 72, "QUANTIZE": 32, "DEQUANTIZE": 32,
    "RESHAPE": 32,
}  # fmt: skip
_OTHER_OPERATOR_DATA_BYTES = 80
_POINTER_BYTES = {"CONV_2D": 16, "DEPTHWISE_CONV_2D": 16, "TRANSPOSE_CONV": 16, "FULLY_CONNECTED": 16}
_CHANNEL_OPERATORS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"})
_INT16_SOFTMAX_TABLES_BYTES = 2080
_ALLOCATOR_BYTES = 484
_WORD_BYTES_OF_WHEEL = 8

ARENA_MARGIN_RATIO = 0.05
"""How far the estimate of a whole arena may be off, as a ratio; docs/memory.md has the figures behind it."""


@dataclass(frozen=True)
class ArenaEstimate:
    """TFLM's tensor arena: the plan of the activations, and persistent data behind it.

    Attributes:
        head_bytes: Activations and buffers of running operators.
        tail_bytes: Node and tensor structures, multipliers of every channel, data of every operator.
    """

    head_bytes: int
    tail_bytes: int
    peak_layer: str

    @property
    def total_bytes(self) -> int:
        """What the arena must hold."""
        return self.head_bytes + self.tail_bytes


def estimate_arena(graph: Graph, *, word_bytes: int = 4) -> ArenaEstimate:
    """Estimate TFLM's arena without running it.

    Args:
        graph: The model.
        word_bytes: 4 for a microcontroller, 8 for the build of TFLM that runs on a 64-bit host.
    """
    subgraph = graph.main
    plan = plan_memory(graph, TFLM)
    # TfLiteEvalTensor is two pointers and a type; NodeAndRegistration and TfLiteTensor are eight words.
    tail = 3 * word_bytes * len(subgraph.tensors) + 8 * word_bytes * len(subgraph.operators)
    borders = [subgraph.tensors[index] for index in subgraph.inputs + subgraph.outputs if index >= 0]
    tail += sum(8 * word_bytes + (4 * word_bytes if tensor.scales else 0) for tensor in borders)
    tail += sum(_operator_data_bytes(subgraph, operator, word_bytes) for operator in subgraph.operators)
    tail += _ALLOCATOR_BYTES * (word_bytes + 4) // (_WORD_BYTES_OF_WHEEL + 4)
    return ArenaEstimate(plan.head_bytes, -(-tail // TFLM.alignment_bytes) * TFLM.alignment_bytes, plan.peak_layer)


def _decode_bytes(results: int, word_bytes: int) -> int:
    """TFLM_DECODE: an object for each result, and a pointer to each; both in steps of the arena's alignment."""
    # DecodeStateLut has eight words and three bytes; the objects of other codes are up to 16 bytes smaller.
    objects = results * _aligned(8 * word_bytes + 3)
    return objects + _aligned(results * word_bytes)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // TFLM.alignment_bytes) * TFLM.alignment_bytes


def _operator_data_bytes(subgraph: Subgraph, operator: Operator, word_bytes: int) -> int:
    if operator.code == "TFLM_DECODE":
        return _decode_bytes(len(operator.outputs), word_bytes)
    size = _OPERATOR_DATA_BYTES.get(operator.code, _OTHER_OPERATOR_DATA_BYTES)
    size -= _POINTER_BYTES.get(operator.code, 0) * (_WORD_BYTES_OF_WHEEL - word_bytes) // _WORD_BYTES_OF_WHEEL
    source, weights, result = subgraph.input(operator), subgraph.input(operator, 1), subgraph.output(operator)
    if operator.code in _CHANNEL_OPERATORS and result is not None and result.shape:
        # A multiplier and a shift for every output channel, quantized or not.
        size += 8 * result.shape[-1]
    if operator.code == "FULLY_CONNECTED" and weights is not None and len(weights.scales) > 1:
        size += 8 * len(weights.scales) + 16
    if operator.code == "SOFTMAX" and source is not None and source.type == "INT16":
        size += _INT16_SOFTMAX_TABLES_BYTES
    return size


def shrink_to_32_bit(measured_bytes: int, graph: Graph) -> int:
    """What tflite-micro's 64-bit arena becomes on a 32-bit core: structures made of pointers get smaller.

    Args:
        measured_bytes: Total of the recording allocator.
        graph: The same model.
    """
    return measured_bytes - (
        estimate_arena(graph, word_bytes=8).tail_bytes - estimate_arena(graph, word_bytes=4).tail_bytes
    )


# A Python process with numpy and LiteRT, measured with ai-edge-litert 2.3 on x86-64: 34 MB, and 4 MB once it runs.
_LINUX_PROCESS_BYTES = 38_000_000

LINUX_MARGIN_RATIO = 0.15
"""How far the peak of a process may be off: other Pythons, other allocators."""


@dataclass(frozen=True)
class LinuxMemory:
    """What a model takes in a process that runs it with LiteRT and XNNPACK, in bytes.

    Attributes:
        arena_bytes: Activations.
        file_bytes: The file, mapped into memory.
        packed_bytes: XNNPACK's own copy of the weights, laid out for its kernels.
    """

    arena_bytes: int
    file_bytes: int
    packed_bytes: int

    @property
    def model_bytes(self) -> int:
        """What the model adds to a process."""
        return self.arena_bytes + self.file_bytes + self.packed_bytes

    @property
    def peak_rss_bytes(self) -> int:
        """Peak resident set of a Python process that does nothing else."""
        return self.model_bytes + _LINUX_PROCESS_BYTES


def estimate_linux_memory(graph: Graph) -> LinuxMemory:
    """Estimate the memory of a model on Linux or a phone, from its plan and its weights."""
    return LinuxMemory(plan_memory(graph, LITERT).head_bytes, graph.file_bytes, graph.weight_bytes)
