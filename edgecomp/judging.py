"""What limits are held against: figures of a candidate, measured or estimated, and what may not be known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from edgecomp.budget import Budget, Values, Violation
from edgecomp.calibration.correct import Timed, correction
from edgecomp.cost import LatencyEstimate, energy_mj, predict
from edgecomp.cost_families import Correction, family_of
from edgecomp.errors import ModelError
from edgecomp.graph import Graph
from edgecomp.profile import DeviceProfile
from edgecomp.results import CandidateResult, EstimatedEnergy, EstimatedLatency, Latency

# Of the normal distribution: a 90 % interval reaches so many standard deviations to either side.
_QUANTILE_90 = 1.645


def estimates_of(
    graph: Graph, profile: DeviceProfile, num_threads: int = 1
) -> tuple[EstimatedLatency | None, EstimatedEnergy | None, str | None]:
    """Latency by the cost model and energy from it; None where there are no constants, or no power.

    Args:
        graph: Of the very file that would be shipped.
        profile: The device.
        num_threads: Of the interpreter on it.

    Returns:
        Both, and one clause that says why there is no latency.
    """
    found, why = predict(graph, profile, num_threads)
    if found is None:
        return None, None, why
    latency = EstimatedLatency(value=found.value_ms, low=found.low_ms, high=found.high_ms, family=found.family)
    return latency, _energy(found, profile), None


def _energy(latency: LatencyEstimate, profile: DeviceProfile) -> EstimatedEnergy | None:
    ends = (latency.value_ms, latency.low_ms, latency.high_ms)
    value, low, high = (energy_mj(replace(latency, value_ms=end), profile) for end in ends)
    if value is None or low is None or high is None:
        return None
    return EstimatedEnergy(value=value, low=low, high=high)


def energy_of(latency: Latency, profile: DeviceProfile) -> EstimatedEnergy | None:
    """Energy from a measured latency; None where the power is not known."""
    as_estimate = LatencyEstimate(latency.value, latency.low, latency.high, (), "", latency.num_threads)
    return _energy(as_estimate, profile)


def corrected_by(
    timed: Sequence[CandidateResult], latency: EstimatedLatency
) -> tuple[EstimatedLatency, Correction | None]:
    """An estimate moved towards what candidates of the same arithmetic took on the device, and what moved it.

    Args:
        timed: Candidates with a valid timing and an estimate by the same constants; others say nothing.
        latency: The estimate of a candidate that was not timed.
    """
    observed = [
        Timed(item.latency_ms.value, estimate.value, estimate.low, estimate.high)
        for item in timed
        if (estimate := item.estimated_latency_ms) is not None and estimate.family == latency.family
        if item.latency_ms is not None and item.latency_ms.is_trusted
    ]
    if not observed:
        return latency, None
    found = correction(observed, _QUANTILE_90)
    value = latency.value * found.factor
    low, high = (value * (end / latency.value) ** found.width for end in (latency.low, latency.high))
    return latency.model_copy(update={"value": value, "low": low, "high": high}), found


def require_estimates(profile: DeviceProfile, budget: Budget, *, is_timed: bool) -> None:
    """Whether limits of latency and energy can be judged on a device.

    Args:
        profile: The device.
        budget: Its limits.
        is_timed: Candidates are timed on the device itself.

    Raises:
        ModelError: They cannot: which device, why, and what to do.
    """
    if budget.is_limited("energy") and profile.power is None:
        raise ModelError(
            f"{profile.name}: --max-energy cannot be judged: its profile states no power.",
            hint='Add active_mw in [power] to a profile of your own (extends = "..."), or leave the limit out.',
        )
    limited = [name for name in ("latency", "energy") if budget.is_limited(name)]
    if is_timed or not limited or (why := _why_no_estimate(profile)) is None:
        return
    options = " and ".join(f"--max-{name}" for name in limited)
    raise ModelError(
        f"{profile.name}: {options} cannot be judged: {why}, so there is no estimate.",
        hint="A microcontroller is not timed by edgecomp: leave the limit out, and time the bundle yourself."
        if profile.kind == "mcu"
        else f"Time it on the device: --host {profile.name}=user@host.",
    )


def _why_no_estimate(profile: DeviceProfile) -> str | None:
    return "its profile names no cost family" if profile.cost is None else family_of(profile)[1]


def values_of(
    result: CandidateResult, float_score: float | None, *, confident: bool, higher_is_better: bool = True
) -> Values:
    """What the limits are held against.

    Without labels the share of changed answers stands in for the drop: accuracy cannot fall by more than that.

    Args:
        result: The candidate; what it does not say is not known.
        float_score: The float model's, on the same split.
        confident: The unfavourable bound of each interval counts, not the point estimate.
        higher_is_better: Of the metric.
    """
    agreement, score = result.agreement, result.accuracy
    flips = None if agreement is None else 1 - (agreement.low if confident else agreement.value)
    worst = None if score is None else (score.low if higher_is_better else score.high)
    drop, reference = _drop_of(result, confident=confident), float_score
    if drop is None and (flips is not None or result.sha256 is None):
        drop, reference = flips, 1.0
    elif drop is None:
        # Neither labels nor classes: the noise-to-signal ratio of the outputs, 1 % being 20 dB. None: they are equal.
        snr_db = math.inf if result.output_snr_db is None else result.output_snr_db
        drop, reference = float(10 ** (-snr_db / 10)), 1.0
    measured = result.latency_ms if result.latency_ms is not None and result.latency_ms.is_trusted else None
    latency = measured or result.estimated_latency_ms
    return Values(
        drop=drop,
        float_score=reference,
        model_bytes=result.model_bytes,
        ram_bytes=result.ram_bytes,
        latency_ms=None if latency is None else latency.value,
        score=worst if confident or score is None else score.value,
        flips=flips,
        energy_mj=None if result.energy_mj is None else result.energy_mj.value,
        estimated=frozenset({"latency", "energy"} if measured is None else {"energy"}),
    )


def _drop_of(result: CandidateResult, *, confident: bool) -> float | None:
    for drop, scale in ((result.accuracy_drop_pp, 100), (result.score_drop, 1)):
        if drop is not None:
            return (drop.high if confident else drop.value) / scale
    return None


def broken_limits(
    result: CandidateResult,
    budget: Budget,
    float_score: float | None,
    *,
    confident: bool,
    is_timed: bool,
    why_no_latency: str | None = None,
) -> list[Violation]:
    """The limits that a candidate breaks.

    Args:
        result: Of the file that would be shipped.
        budget: The limits.
        float_score: The float model's, on the same split.
        confident: See `values_of`.
        is_timed: It is timed on the device later: of latency and energy nothing counts yet but an estimate whose whole
            interval is above its limit.
        why_no_latency: Why there is no estimate, in one clause.

    Raises:
        ModelError: Something that is limited is not known of it: that must not pass for good.
    """
    values = values_of(result, float_score, confident=confident, higher_is_better=budget.higher_is_better)
    reasons = {"flips": "its outputs are no classes", "accuracy": "it has no score"}
    if not is_timed:
        reasons |= dict.fromkeys(("latency", "energy"), f"there is no estimate: {why_no_latency}")
    for limit, why in reasons.items():
        if budget.is_limited(limit) and values.of(limit) is None:
            raise ModelError(f"The limit of {limit} cannot be judged: {why}.")
    lowest: dict[str, EstimatedLatency | EstimatedEnergy | None] = {}
    if is_timed:
        lowest = {"latency": result.estimated_latency_ms, "energy": result.energy_mj}
    return [
        item
        for item in budget.violations(values)
        if (estimate := lowest.get(item.limit)) is None or estimate.low > item.allowed
    ]
