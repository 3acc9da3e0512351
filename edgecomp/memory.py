"""Tensor memory: who is alive when, and where a planner puts it.

The planner is the greedy one of TFLite Micro and TFLite (largest first, lowest offset that fits; Pisarchyk and Lee,
"Efficient Memory Management for Deep Neural Net Inference", arXiv 2001.03288, section 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgecomp.graph import Graph, Subgraph

ALIGNMENT_BYTES = 16


@dataclass(frozen=True)
class Allocation:
    """One activation: alive from operator `first` to operator `last`, both included; at `offset` in the arena."""

    tensor: int
    size_bytes: int
    first: int
    last: int
    offset: int


@dataclass(frozen=True)
class MemoryPlan:
    """Where every activation lies.

    Attributes:
        head_bytes: Memory that the plan needs.
        lower_bound_bytes: The largest set that is alive at once; no plan can need less.
        peak_layer: The operator at which most is alive.
    """

    allocations: tuple[Allocation, ...]
    head_bytes: int
    lower_bound_bytes: int
    peak_layer: str


def plan_memory(graph: Graph) -> MemoryPlan:
    """Place every activation of the main subgraph."""
    subgraph = graph.main
    alive = _lifetimes(subgraph)
    placed: list[Allocation] = []
    # TFLM's order: by size, and among equals the one that is needed first.
    for tensor, (first, last) in sorted(
        alive.items(), key=lambda item: (-subgraph.tensors[item[0]].size_bytes, item[1][0], item[0])
    ):
        size = _aligned(subgraph.tensors[tensor].size_bytes)
        offset = 0
        for other in sorted(placed, key=lambda item: item.offset):
            if other.last < first or last < other.first:
                continue
            if offset + size <= other.offset:
                break
            offset = max(offset, other.offset + other.size_bytes)
        placed.append(Allocation(tensor, size, first, last, offset))
    live = [
        sum(item.size_bytes for item in placed if item.first <= step <= item.last)
        for step in range(max(len(subgraph.operators), 1))
    ]
    peak = max(range(len(live)), key=live.__getitem__)
    return MemoryPlan(
        allocations=tuple(placed),
        head_bytes=max((item.offset + item.size_bytes for item in placed), default=0),
        lower_bound_bytes=max(live, default=0),
        peak_layer=subgraph.layer(subgraph.operators[peak]) if subgraph.operators else "",
    )


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _lifetimes(subgraph: Subgraph) -> dict[int, tuple[int, int]]:
    """First and last operator that touches each activation; inputs live from the start, outputs to the end."""
    end = max(len(subgraph.operators) - 1, 0)
    alive = dict.fromkeys(subgraph.inputs, (0, 0))
    for step, operator in enumerate(subgraph.operators):
        for index in operator.inputs + operator.outputs:
            if index < 0 or subgraph.tensors[index].is_constant or subgraph.tensors[index].is_variable:
                continue
            first, _ = alive.get(index, (step, step))
            alive[index] = (first, step)
    for index in subgraph.outputs:
        if index in alive:
            alive[index] = (alive[index][0], end)
    return alive


# Persistent structures of TFLM on a 32-bit core, fitted by hand to its recording allocator (bytes).
_TAIL_BYTES_FIXED = 1500
_TAIL_BYTES_PER_OPERATOR = 64
_TAIL_BYTES_PER_TENSOR = 24
_TAIL_BYTES_PER_CHANNEL = 8


def estimate_tflm_arena(graph: Graph) -> int:
    """Tensor arena of TFLM in bytes where tflite-micro itself cannot be asked: planned head + estimated tail.

    The tail holds node and tensor structures and, per channel of a quantized convolution, a multiplier and a shift.
    """
    subgraph = graph.main
    channels = sum(
        len(subgraph.tensors[operator.inputs[1]].scales)
        for operator in subgraph.operators
        if operator.code in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV") and len(operator.inputs) > 1
    )
    tail = (
        _TAIL_BYTES_FIXED
        + _TAIL_BYTES_PER_OPERATOR * len(subgraph.operators)
        + _TAIL_BYTES_PER_TENSOR * len(subgraph.tensors)
        + _TAIL_BYTES_PER_CHANNEL * channels
    )
    return plan_memory(graph).head_bytes + tail
