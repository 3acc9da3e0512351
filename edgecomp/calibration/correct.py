"""Estimates corrected by measurements: what real models took on a device, against what had been estimated for them.

An estimate misses for two reasons: what all models of a dtype on this device share (its speed), and what is this
model's own. Each is taken to make up half of the variance that the interval states. Measured models tell the shared
half, the better the more they are; the other half stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecomp.cost import LatencyEstimate, main_dtype
from edgecomp.cost_families import Correction, CostFamily, Dtype
from edgecomp.cost_work import operator_work
from edgecomp.errors import UsageError
from edgecomp.graph import Graph

# Of the variance of an estimate, what all models of a dtype on one device have in common.
_SHARED = 0.5


@dataclass(frozen=True)
class Timed:
    """What was estimated of a model, and what it then took on the device.

    Attributes:
        measured_ms: Of one inference; a valid measurement.
        value_ms, low_ms, high_ms: The estimate that is to be corrected, and its 90 % interval.
    """

    measured_ms: float
    value_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Observation(Timed):
    """`Timed`, of a model that spends most of its time in `dtype`: "int8"."""

    dtype: Dtype


def observe(graph: Graph, estimate: LatencyEstimate, measured_ms: float) -> Observation:
    """A model's estimate beside what it took on the device."""
    dtype = main_dtype(operator_work(graph), [ms for _, _, ms in estimate.per_operator])
    return Observation(measured_ms, estimate.value_ms, estimate.low_ms, estimate.high_ms, dtype)


def corrected(family: CostFamily, observations: Sequence[Observation]) -> CostFamily:
    """The family with estimates of each observed dtype moved towards what was measured, and narrower for it.

    With n models of a dtype and intervals alike, estimates are multiplied by
    exp(n * s / (n * s + 1 - s) * mean of ln(measured / estimated)), where s is the shared half. If the measured models
    disagree by more than their intervals said, the next interval is not narrower: it is as wide as they lie apart.

    Args:
        family: Whose estimates they were; it may have been corrected before.
        observations: All of one device. None of a dtype leaves the dtype as it is.

    Raises:
        UsageError: A time that is none, or an estimate outside of its interval.
    """
    corrections = dict(family.corrections)
    for dtype in dict.fromkeys(item.dtype for item in observations):
        chosen = [item for item in observations if item.dtype == dtype]
        corrections[dtype] = correction(chosen, family.interval.quantile, corrections.get(dtype))
    # Validated as a whole: model_copy would take anything.
    table = family.model_dump(exclude_unset=True) | {"corrections": corrections}
    return CostFamily.model_validate(table)


def correction(observations: Sequence[Timed], quantile: float, before: Correction | None = None) -> Correction:
    """What observations of one dtype say of its estimates; see `corrected`.

    Args:
        observations: At least one.
        quantile: Standard deviations from the middle of an estimate to either end of its interval.
        before: What the estimates had been corrected by.

    Raises:
        UsageError: See `corrected`.
    """
    for item in observations:
        if not (0 < item.measured_ms < math.inf and 0 < item.low_ms <= item.value_ms <= item.high_ms < math.inf):
            raise UsageError(
                f"A measurement of {item.measured_ms:g} ms does not correct an estimate of {item.value_ms:g} ms, "
                f"{item.low_ms:g} to {item.high_ms:g} ms: times are above zero, and an estimate in its interval."
            )
    count = len(observations)
    misses = [math.log(item.measured_ms / item.value_ms) for item in observations]
    variances = [max((math.log(item.high_ms / item.low_ms) / 2 / quantile) ** 2, 1e-12) for item in observations]
    mean_variance = sum(variances) / count
    # Normal prior of the shared part, normal errors of the models' own: precisions add up.
    precision = 1 / (_SHARED * mean_variance) + sum(1 / ((1 - _SHARED) * variance) for variance in variances)
    shared = (
        sum(miss / ((1 - _SHARED) * variance) for miss, variance in zip(misses, variances, strict=True)) / precision
    )
    own = sum((miss - shared) ** 2 for miss in misses) / count
    left = max(1 - _SHARED, own / mean_variance) + 1 / precision / mean_variance
    factor, width = (1.0, 1.0) if before is None else (before.factor, before.width)
    number = count + (0 if before is None else before.num_models)
    return Correction(factor=factor * math.exp(shared), width=width * math.sqrt(left), num_models=number)
