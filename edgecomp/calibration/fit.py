"""From the times of calibration models to the constants of a cost family: least squares with none below zero.

What is minimized is the sum of ((predicted - timed) / (timed * sd))^2, over all models of all dtypes at once: a dtype
has constants of its own, the calls of the runtime cost the same for all. `sd` is what the formula is expected to miss
put together with how far the model's processes lay apart, so a model that could not be timed well counts for less.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from edgecomp.cost_measured import Groups, Key, counts
from edgecomp.cost_work import OperatorWork
from edgecomp.errors import BenchmarkError

# What kernels compute at once, by the sources of XNNPACK: 4 to 32 output channels; 1 to 16 products at a time.
_OUTPUTS, _CHANNELS = (4, 8, 16, 32), (1, 2, 4, 8, 16)
# How closely the formula is expected to follow a model that was timed without any noise.
_FORMULA_SD = 0.05


@dataclass(frozen=True)
class Timing:
    """A model and how long an inference of it took.

    Attributes:
        name: For messages.
        work: Its operators.
        time_us: Of one inference.
        noise: Standard deviation of ln(time_us).
    """

    name: str
    work: tuple[OperatorWork, ...]
    time_us: float
    noise: float = 0.0


def timing(name: str, work: Sequence[OperatorWork], processes_us: Sequence[Sequence[float]]) -> Timing:
    """What the processes of one model say together: the median of the fastest, since others only ever take time away.

    How far that process's own tenth percentile lies below its median is the noise: undisturbed, inferences are alike,
    and it is about 0.01.

    Args:
        name: Of the model.
        work: Its operators.
        processes_us: Microseconds of every inference, by fresh process.

    Raises:
        BenchmarkError: No process, one without an inference, or a time that is none.
    """
    if not processes_us or not all(len(process) for process in processes_us):
        raise BenchmarkError(f"{name} was not timed: every process needs at least one inference.")
    if odd := [value for process in processes_us for value in process if not (math.isfinite(value) and value > 0)]:
        raise BenchmarkError(f"{name} has a time that is none: {odd[0]:g} us.")
    fastest = min(processes_us, key=statistics.median)
    time_us = statistics.median(fastest)
    return Timing(name, tuple(work), time_us, math.log(time_us / float(np.quantile(fastest, 0.1))))


@dataclass(frozen=True)
class Fit:
    """Constants, and how they count.

    Attributes:
        groups: By dtype.
        constants_us: Microseconds by key; a key that is missing costs nothing.
        delegate: The runtime's.
    """

    groups: Mapping[str, Groups]
    constants_us: Mapping[Key, float]
    delegate: str | None = None

    def predicted_us(self, work: Sequence[OperatorWork]) -> float:
        """Time of one inference."""
        return sum(
            number * self.constants_us.get(key, 0.0) for key, number in _total(work, self.groups, self.delegate).items()
        )


def fit(timings: Sequence[Timing], dtypes: Sequence[str], delegate: str | None) -> Fit:
    """Find the constants; the groups of channels are those, of a few that kernels have, that explain the times best.

    Args:
        timings: Of models that between them hold every kind of operator, several times.
        dtypes: Of all the arithmetic in them.
        delegate: The runtime's, "xnnpack", or None.

    Raises:
        BenchmarkError: There are too few models.
    """
    if len(timings) < 2:
        raise BenchmarkError(f"{len(timings)} models are too few for a fit.")
    problem = _Problem(timings, delegate)
    chosen = dict.fromkeys(dtypes, Groups())
    # The dtypes hardly depend on each other: one after the other, twice, instead of all combinations.
    for dtype in [*dtypes, *dtypes]:
        options = [{**chosen, dtype: Groups(*pair)} for pair in itertools.product(_OUTPUTS, _CHANNELS)]
        chosen = min(options, key=lambda option: problem.solved(option)[1])
    return Fit(chosen, problem.solved(chosen)[0], delegate)


@dataclass
class _Problem:
    """Models to fit; their counts are kept by group."""

    timings: Sequence[Timing]
    delegate: str | None
    _kept: dict[tuple[int, tuple[tuple[str, Groups], ...]], dict[Key, float]] = field(default_factory=dict)

    def solved(self, groups: Mapping[str, Groups]) -> tuple[dict[Key, float], float]:
        """The constants, and the sum of squares that is left."""
        rows = [self._counts(number, groups) for number in range(len(self.timings))]
        keys = sorted({key for row in rows for key in row})
        scale = np.array([1 / (item.time_us * math.hypot(_FORMULA_SD, item.noise)) for item in self.timings])
        matrix = np.array([[row.get(key, 0.0) for key in keys] for row in rows]) * scale[:, np.newaxis]
        # Columns of one size: counts range from a single call to millions of MACs.
        size = np.maximum(np.abs(matrix).max(axis=0), np.finfo(float).tiny)
        found, rest = nnls(matrix / size, scale * [item.time_us for item in self.timings])
        return dict(zip(keys, (found / size).tolist(), strict=True)), float(rest)

    def _counts(self, number: int, groups: Mapping[str, Groups]) -> dict[Key, float]:
        work = self.timings[number].work
        # Only the dtypes of a model matter to it; another dtype's groups do not make it new.
        met = {item.dtype for item in work}
        kept = (number, tuple(pair for pair in groups.items() if pair[0] in met or pair[0] == "int8"))
        if kept not in self._kept:
            self._kept[kept] = _total(work, groups, self.delegate)
        return self._kept[kept]


def _total(work: Sequence[OperatorWork], groups: Mapping[str, Groups], delegate: str | None) -> dict[Key, float]:
    total: dict[Key, float] = {}
    for count in counts(work, groups, delegate):
        for key, number in count.items():
            total[key] = total.get(key, 0.0) + number
    return total


def left_out_errors(
    timings: Sequence[Timing], left_out: Collection[str], dtypes: Sequence[str], delegate: str | None
) -> dict[str, float]:
    """ln(predicted / timed) of some models, each by a fit of all the others: its groups, too, are chosen without it.

    Args:
        timings: Of all models.
        left_out: Names of those to leave out in their turn.
        dtypes: As for `fit`.
        delegate: As for `fit`.
    """
    errors = {}
    for item in timings:
        if item.name in left_out:
            others = [other for other in timings if other.name != item.name]
            found = fit(others, dtypes, delegate).predicted_us(item.work)
            # Nothing in the others says that it takes any time: wrong by more than anything that is kept.
            errors[item.name] = math.log(found / item.time_us) if found > 0 else -math.inf
    return errors
