"""Latency of a model on a device that nobody has run it on: an estimate with a 90 % interval, never a measurement.

For every operator

    time = overhead / clock + max(work * cycles_per_mac / (clock * speed-up of threads), bytes / bandwidth)
    work = relative cost of the kind * (MACs + outputs * macs_per_output)      convolutions and matrix products
         = elements * macs_per_element                                         ADD, pooling, softmax, ...

summed over the graph; MACs and outputs are those of channels rounded up to what the kernels compute at once. The
constants are those of a family of kernels (edgecomp.cost_families); docs/cost-model.md says how they were fitted and
how far off they are for models that the fit had not seen. A board that was calibrated has constants of its own, which
edgecomp.cost_measured puts together in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from edgecomp.cost_families import Core, CostFamily, Dtype, Kind, family_of, load_family
from edgecomp.cost_measured import MeasuredCost, measured_costs
from edgecomp.cost_work import MAC_KINDS, Decoder, OperatorWork, operator_work, rounded_up
from edgecomp.graph import Graph
from edgecomp.profile import DeviceProfile

# Cycles of an in-order 32-bit core for one value that TFLM's DECODE unpacks, counted in the loops of tflite-micro's
# kernels/decode_state_*.cc; docs/cost-model.md says how. Nobody has published a measurement.
_DECODE_CYCLES: dict[Decoder, float] = {"LUT": 6, "LUT by bits": 25, "HUFFMAN": 45, "PRUNE": 14}
_DECODE_SD = 0.5  # A factor of 2.3 either way.
_DECODE_NOTE = "DECODE: counted from TFLM's source, not fitted."

# Counted like a convolution or a matrix product, but in none of the models of the published rows.
_NOT_IN_ROWS = frozenset({"TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL"})


@dataclass(frozen=True)
class LatencyEstimate:
    """Estimated latency of one inference.

    Attributes:
        low_ms, high_ms: 90 % interval.
        per_operator: Layer, operator and milliseconds, in the order of the main subgraph; they add up to value_ms.
        family: Whose constants.
        notes: What makes this estimate weaker than others, one sentence each.
    """

    value_ms: float
    low_ms: float
    high_ms: float
    per_operator: tuple[tuple[str, str, float], ...]
    family: str
    num_threads: int
    notes: tuple[str, ...] = ()


def predict(
    graph: Graph, profile: DeviceProfile, num_threads: int = 1, *, family: str | None = None
) -> tuple[LatencyEstimate | None, str | None]:
    """Estimate the latency of a model on a device.

    Args:
        graph: Of the very file that would be shipped.
        profile: The device; its processor counts, and the name of its cost family.
        num_threads: More than the device has big cores are not counted.
        family: A cost family in place of the profile's own.

    Returns:
        The estimate and None; or None and one clause that says why there is none.

    Raises:
        ProfileError: `family` is not the name of one.
    """
    constants, why = (load_family(family), None) if family else family_of(profile)
    if constants is None:
        return None, why
    core, is_listed = constants.core(profile.cpu.core, profile.cpu.architecture)
    threads = 1 if constants.parallel_loss is None else max(1, min(num_threads, profile.cpu.big_cores))
    notes, extra = [], [_thread_sd(constants, core, threads)]
    if not is_listed:
        extra.append(constants.interval.other_core_sd)
        notes.append(f"{profile.cpu.core} has no constants of its own; those of {constants.default_core} stand in.")
    if constants.interval.external_flash_sd and _weights_behind_a_bus(profile):
        extra.append(constants.interval.external_flash_sd)
        notes.append("Weights are read from external flash: it can be several times slower, unless they are in RAM.")
    if threads < num_threads:
        notes.append(f"{num_threads} threads were asked for; {threads} can be used.")
    return estimate(
        operator_work(graph), constants, core, profile.cpu.clock_hz, threads, extra_sd=math.hypot(*extra), notes=notes
    )


def _thread_sd(family: CostFamily, core: Core, num_threads: int) -> float:
    return family.interval.thread_sd * min(abs(math.log2(num_threads / threads)) for threads in core.threads)


def _weights_behind_a_bus(profile: DeviceProfile) -> bool:
    flash = [region for region in profile.memory.regions.values() if region.kind == "flash"]
    return any(region.external for region in flash)


def energy_mj(latency: LatencyEstimate, profile: DeviceProfile) -> float | None:
    """Millijoules of one inference, estimated: active power times latency. None where the power is not known."""
    return None if profile.power is None else latency.value_ms * profile.power.active_mw / 1000


def estimate(
    work: Sequence[OperatorWork], family: CostFamily, core: Core, clock_hz: float, num_threads: int = 1, *,
    extra_sd: float = 0.0, notes: Iterable[str] = (),
) -> tuple[LatencyEstimate | None, str | None]:  # fmt: skip
    """Estimate the latency of a list of operators.

    Args:
        work: The operators, in order.
        family: The kernels.
        core: The processor's entry in the family.
        clock_hz: Its clock.
        num_threads: How many of its cores share the work.
        extra_sd: Widens the interval: a further standard deviation of ln(latency).
        notes: What the caller has to say of the estimate.

    Returns:
        As `predict`.
    """
    costs = []
    for item in work:
        cost, reason = _operator_cost(item, family, core)
        if cost is None:
            return None, f"{reason} ({item.code}, layer {item.layer})"
        costs.append(cost)
    if family.calls is not None:
        costs = [_as_measured(*pair) for pair in zip(costs, measured_costs(work, family, family.calls), strict=True)]
    speed = clock_hz if family.parallel_loss is None else clock_hz * _speed_up(num_threads, family.parallel_loss)
    bandwidth = core.bytes_per_second or math.inf
    times_ms = [
        1000 * (cost.overhead_cycles / clock_hz + max(cost.cycles / speed, cost.bytes / bandwidth)) for cost in costs
    ]
    deviation = _deviation(work, costs, times_ms, family) if sum(times_ms) else 0.0
    factor, width, correction = _correction(work, times_ms, family)
    times_ms = [factor * ms for ms in times_ms]
    value_ms = sum(times_ms)
    spread = math.exp(family.interval.quantile * math.hypot(deviation, extra_sd) * width)
    says = [*notes, *dict.fromkeys(cost.note for cost in costs if cost.note), *filter(None, [correction])]
    if family.basis in _BASIS:
        says.append(f"The constants of {family.name} rest on {_BASIS[family.basis]}.")
    if unseen := sorted({item.code for item in work} & _NOT_IN_ROWS):
        says.append(f"{', '.join(unseen)}: in none of the models that the constants were fitted to.")
    per_operator = tuple((item.layer, item.code, ms) for item, ms in zip(work, times_ms, strict=True))
    return LatencyEstimate(
        value_ms, value_ms / spread, value_ms * spread, per_operator, family.name, num_threads, tuple(says)
    ), None


_BASIS = {"vendor rows": "figures of a vendor's runtime", "analogy": "an analogy, not on figures of this runtime"}


@dataclass(frozen=True)
class _Cost:
    """Cycles that threads share, cycles that they do not, bytes; `sd` of ln(cycles) where they were not fitted."""

    cycles: float
    overhead_cycles: float
    bytes: float
    sd: float = 0.0
    note: str | None = None


_NOTHING = _Cost(0.0, 0.0, 0.0)


def _as_measured(cost: _Cost, measured: MeasuredCost) -> _Cost:
    # The time that memory takes is in what was measured.
    sd = math.hypot(cost.sd, measured.sd)
    return _Cost(measured.cycles, measured.overhead_cycles, 0.0, sd, cost.note)


def _operator_cost(item: OperatorWork, family: CostFamily, core: Core) -> tuple[_Cost | None, str | None]:
    if item.kind == "free" or (item.kind == "constant" and family.folds_constants):
        return _NOTHING, None
    if item.kind == "unknown":
        return None, "the work of an operator is not known"
    if item.kind == "decode":
        if family.folds_constants:
            return None, "only TensorFlow Lite Micro decodes packed weights"
        cycles = sum(values * _DECODE_CYCLES[decoder] for decoder, values in item.decoded)
        return _Cost(cycles, family.overhead_cycles, item.bytes, _DECODE_SD, _DECODE_NOTE), None
    if item.kind not in MAC_KINDS:
        # Next to nothing in every model but in their number; where the dtype has no constants, any will do.
        rate = core.cycles_per_mac.get(cast(Dtype, item.dtype), max(core.cycles_per_mac.values()))
        return _Cost(item.elements * family.macs_per_element * rate, family.overhead_cycles, item.bytes), None
    kind, dtype = cast(Kind, item.kind), cast(Dtype, item.dtype)
    derived = family.derived.get(dtype)
    like = dtype if derived is None else derived.like
    if like not in core.cycles_per_mac:
        return None, family.missing.get(dtype, f"{family.name} has no constants for {item.dtype}")
    rate = core.cycles_per_mac[like] * (1.0 if derived is None else derived.factor)
    macs, outputs = rounded_up(item, family.output_multiple, family.reduction_multiple)
    work = family.relative.of(kind) * (macs + outputs * family.macs_per_output.of(kind))
    sd = math.hypot(core.sd.get(like, 0.0), 0.0 if derived is None else derived.sd)
    note = None
    if derived is not None:
        note = f"{item.dtype}: {derived.because}."
    elif like in core.sd and family.basis == "rows":
        note = f"{item.dtype}: taken from another core."
    return _Cost(work * rate, family.overhead_cycles, item.bytes, sd, note), None


def main_dtype(work: Sequence[OperatorWork], times_ms: Sequence[float]) -> Dtype:
    """In which a model spends most of its time; none at all is none in FLOAT32."""
    by_dtype: dict[str, float] = {}
    for item, ms in zip(work, times_ms, strict=True):
        by_dtype[item.dtype] = by_dtype.get(item.dtype, 0.0) + ms
    return cast(Dtype, max(by_dtype, key=lambda dtype: by_dtype[dtype], default="float32"))


def _correction(
    work: Sequence[OperatorWork], times_ms: Sequence[float], family: CostFamily
) -> tuple[float, float, str]:
    """What measurements of other models of its dtype say: factor, width of the interval, and a sentence."""
    dtype = main_dtype(work, times_ms)
    found = family.corrections.get(dtype)
    if found is None:
        return 1.0, 1.0, ""
    models = f"{found.num_models} measured model{'s' if found.num_models > 1 else ''}"
    return found.factor, found.width, f"{dtype}: times {found.factor:.2f}, by {models}."


def _speed_up(num_threads: int, loss: float) -> float:
    return num_threads / (1 + loss * (num_threads - 1))


def _deviation(
    work: Sequence[OperatorWork], costs: Sequence[_Cost], times_ms: Sequence[float], family: CostFamily
) -> float:
    """Standard deviation of ln(latency): what hits all models alike, and what hits this one for what it is made of."""
    total = sum(times_ms)
    shares = dict.fromkeys(sorted(MAC_KINDS), 0.0)
    for item, ms in zip(work, times_ms, strict=True):
        if item.kind in shares:
            shares[item.kind] += ms / total
    interval = family.interval
    parts = [interval.residual_sd, interval.board_sd]
    parts += [share * interval.kind_sd.of(cast(Kind, kind)) for kind, share in shares.items()]
    # A whole dtype is off together.
    parts.append(sum(cost.sd * ms / total for cost, ms in zip(costs, times_ms, strict=True)))
    return math.hypot(*parts)
