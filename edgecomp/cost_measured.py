"""What an inference consists of, counted so that its time is a sum of costs that were measured on the very board.

    cycles = inference + runs of the delegate * partition
           + operators of the delegate * operator + operators that it leaves * left
           + MACs * cycles_per_mac + outputs * cycles_per_output           by dtype and kind: what multiplies
           + outputs * positions of the kernel * cycles_per_tap            convolutions besides
           + elements * cycles_per_element + outputs * cycles_per_result   by dtype and operator: what does not

It is linear in its constants, so they can be found by least squares with none below zero (edgecomp.calibration.fit).
Channels count rounded up to what the kernels compute at once, at each position of the kernel: an image of one channel
costs as much as one of eight where eight are added up at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgecomp.cost_families import Calls, CostFamily, Derived, Measured
from edgecomp.cost_work import MAC_KINDS, OperatorWork
from edgecomp.support._table import load_table

Key = tuple[str, ...]
INFERENCE: Key = ("inference",)
PARTITION: Key = ("partition",)
OPERATOR: Key = ("operator",)
LEFT: Key = ("left",)
CALLS = (INFERENCE, PARTITION, OPERATOR, LEFT)
"""Threads do not share these."""

OTHER = "other"
"""Operators without MACs that have no constants of their own."""
OWN_CODES = frozenset({"ADD", "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "QUANTIZE", "SOFTMAX"})
# LiteRT's own INT8 kernel starts anew for every window.
BY_RESULT = frozenset({"AVERAGE_POOL_2D"})
# Their loops go over the channels of one position at a time.
_BY_CHANNEL = frozenset({"AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN"})

# How the support table names the types of activations.
_TYPES = {"float32": "FLOAT32", "int8": "INT8", "int16x8": "INT16"}
_CONVERSIONS = {"QUANTIZE": "FLOAT32->INT8", "DEQUANTIZE": "INT8->FLOAT32"}
_FREE = ("free", "constant")


@dataclass(frozen=True)
class Groups:
    """What kernels compute at once: so many output channels, and products of so many input channels."""

    outputs: int = 1
    channels: int = 1


def counts(work: Sequence[OperatorWork], groups: Mapping[str, Groups], delegate: str | None) -> list[dict[Key, float]]:
    """What every operator counts for, by the key of its constant; what comes once is counted with the first operator.

    Args:
        work: The operators, in order.
        groups: By dtype, each that a kind with MACs has.
        delegate: The runtime's, "xnnpack"; None where it has none.
    """
    found: list[dict[Key, float]] = []
    is_first, was_taken = True, False
    for item in work:
        count: dict[Key, float] = {}
        if item.kind not in _FREE:
            taken = delegate is not None and is_taken(item, delegate)
            count = {OPERATOR if taken else LEFT: 1.0} | _work(item, groups)
            if is_first:
                count[INFERENCE] = 1.0
            if taken and not was_taken:
                count[PARTITION] = 1.0
            is_first, was_taken = False, taken
        found.append(count)
    return found


def _work(item: OperatorWork, groups: Mapping[str, Groups]) -> dict[Key, float]:
    dtype = table_of(item, tuple(groups))
    if item.kind in MAC_KINDS:
        macs, outputs = rounded_up(item, groups[dtype])
        count: dict[Key, float] = {(dtype, "mac", item.kind): macs, (dtype, "output", item.kind): outputs}
        if item.kind == "convolution":
            count[dtype, "tap"] = outputs * item.taps
        return count
    code = "QUANTIZE" if item.code in _CONVERSIONS else item.code
    code = code if code in OWN_CODES else OTHER
    share = _whole(item.channels, groups[dtype].outputs) / item.channels if code in _BY_CHANNEL else 1.0
    count = {(dtype, "element", code): item.elements * share}
    if code in BY_RESULT:
        count[dtype, "result", code] = item.outputs * share
    return count


def table_of(item: OperatorWork, dtypes: Sequence[str]) -> str:
    """Whose constants count for an operator: those of its dtype; of INT8 where values are converted from or to it.

    An operator without MACs whose dtype has none (indices, flags) takes the first one's: it is next to nothing.
    """
    wanted = "int8" if item.code in _CONVERSIONS else item.dtype
    return wanted if wanted in dtypes or item.kind in MAC_KINDS else dtypes[0]


def is_taken(item: OperatorWork, delegate: str) -> bool:
    """Whether the delegate takes an operator, by what it said of a file of it alone."""
    types = _CONVERSIONS.get(item.code, _TYPES.get(item.dtype, item.dtype))
    return load_table(delegate).takes(item.code, types)


def rounded_up(item: OperatorWork, groups: Groups) -> tuple[float, float]:
    """MACs and outputs that kernels compute."""
    outputs = item.outputs / item.channels * _whole(item.channels, groups.outputs)
    reduction = item.macs / item.outputs / item.taps
    if item.kind != "depthwise":  # There is nothing to add up over channels.
        reduction = _whole(reduction, groups.channels)
    return outputs * item.taps * reduction, outputs


def _whole(count: float, group: int) -> float:
    return -(-count // group) * group


@dataclass(frozen=True)
class MeasuredCost:
    """Cycles of one operator: those that threads share, those that they do not; `sd` of ln(cycles) as measured."""

    cycles: float
    overhead_cycles: float
    sd: float


def measured_costs(work: Sequence[OperatorWork], family: CostFamily, calls: Calls) -> list[MeasuredCost]:
    """The cycles of every operator, by the measured constants of a family.

    Args:
        work: The operators, each of a dtype that the family has constants for, measured or derived.
        family: With measured constants.
        calls: Its own.
    """
    once = dict(zip(CALLS, calls.in_order, strict=True))
    tables: dict[str, Measured] = {str(dtype): table for dtype, table in family.measured.items()}
    derived: dict[str, Derived] = {str(dtype): stated for dtype, stated in family.derived.items()}
    groups = {dtype: Groups(table.output_multiple, table.channel_multiple) for dtype, table in tables.items()}
    stood_in = [replace(item, dtype=derived[item.dtype].like) if item.dtype in derived else item for item in work]
    found = []
    for item, stand_in, count in zip(work, stood_in, counts(stood_in, groups, calls.delegate), strict=True):
        table = tables[table_of(stand_in, tuple(tables))]
        cycles = sum(number * table.constant(key[1:]) for key, number in count.items() if key not in once)
        overhead = sum(number * once[key] for key, number in count.items() if key in once)
        factor = derived[item.dtype].factor if item.dtype in derived else 1.0
        found.append(MeasuredCost(cycles * factor, overhead, table.sd))
    return found
