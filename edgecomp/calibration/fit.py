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
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import nnls

from edgecomp.cost_measured import Groups, Key, counts
from edgecomp.cost_work import OperatorWork
from edgecomp.errors import BenchmarkError

Delegate = Literal["xnnpack"] | None

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
    delegate: Delegate = None

    def predicted_us(self, work: Sequence[OperatorWork]) -> float:
        """Time of one inference."""
        return sum(
            number * self.constants_us.get(key, 0.0) for key, number in _total(work, self.groups, self.delegate).items()
        )


def fit(timings: Sequence[Timing], dtypes: Sequence[str], delegate: Delegate) -> Fit:
    """Find the constants; the groups of channels are those, of a few that kernels have, that explain the times best.

    Args:
        timings: Of models that between them hold every kind of operator, several times.
        dtypes: Of all the arithmetic in them.
        delegate: The runtime's, "xnnpack", or None.

    Raises:
        BenchmarkError: There are too few models.
    """
    return _Problem(timings, dtypes, delegate).fit(range(len(timings)))


class _Problem:
    """Models to fit, with what they count for kept by groups: fits without one model or another ask for the same."""

    def __init__(self, timings: Sequence[Timing], dtypes: Sequence[str], delegate: Delegate) -> None:
        self._work = [item.work for item in timings]
        self._times_us = np.array([item.time_us for item in timings])
        self._weights = 1 / (self._times_us * [math.hypot(_FORMULA_SD, item.noise) for item in timings])
        self._dtypes, self._delegate = tuple(dtypes), delegate
        self._kept: dict[tuple[Groups, ...], tuple[list[Key], np.ndarray]] = {}

    def fit(self, rows: Sequence[int]) -> Fit:
        """To some of the models, by their places."""
        if len(rows) < 2:
            raise BenchmarkError(f"{len(rows)} models are too few for a fit.")
        pairs = [Groups(*pair) for pair in itertools.product(_OUTPUTS, _CHANNELS)]
        chosen = (Groups(),) * len(self._dtypes)
        # The dtypes hardly depend on each other: one after the other, twice, instead of all combinations.
        for place in [*range(len(chosen))] * 2:
            options = [(*chosen[:place], pair, *chosen[place + 1 :]) for pair in pairs]
            chosen = min(options, key=lambda option: self._solved(option, rows)[1])
        return Fit(self._by_dtype(chosen), self._solved(chosen, rows)[0], self._delegate)

    def _solved(self, groups: tuple[Groups, ...], rows: Sequence[int]) -> tuple[dict[Key, float], float]:
        """The constants, and the sum of squares that is left."""
        keys, numbers = self._counts(groups)
        matrix = numbers[rows] * self._weights[rows, np.newaxis]
        # Columns of one size: counts range from a single call to millions of MACs.
        size = np.maximum(matrix.max(axis=0), np.finfo(float).tiny)
        found, rest = nnls(matrix / size, self._times_us[rows] * self._weights[rows])
        return dict(zip(keys, (found / size).tolist(), strict=True)), float(rest)

    def _counts(self, groups: tuple[Groups, ...]) -> tuple[list[Key], np.ndarray]:
        """Keys, and what every model counts for, shape (models, keys)."""
        if groups not in self._kept:
            totals = [_total(work, self._by_dtype(groups), self._delegate) for work in self._work]
            keys = sorted({key for total in totals for key in total})
            self._kept[groups] = keys, np.array([[total.get(key, 0.0) for key in keys] for total in totals])
        return self._kept[groups]

    def _by_dtype(self, groups: tuple[Groups, ...]) -> dict[str, Groups]:
        return dict(zip(self._dtypes, groups, strict=True))


def _total(work: Sequence[OperatorWork], groups: Mapping[str, Groups], delegate: Delegate) -> dict[Key, float]:
    total: dict[Key, float] = {}
    for count in counts(work, groups, delegate):
        for key, number in count.items():
            total[key] = total.get(key, 0.0) + number
    return total


def left_out_errors(
    timings: Sequence[Timing], left_out: Collection[str], dtypes: Sequence[str], delegate: Delegate
) -> dict[str, float]:
    """ln(predicted / timed) of some models, each by a fit of all the others: its groups, too, are chosen without it.

    Args:
        timings: Of all models.
        left_out: Names of those to leave out in their turn.
        dtypes: As for `fit`.
        delegate: As for `fit`.
    """
    problem = _Problem(timings, dtypes, delegate)
    errors = {}
    for place, item in enumerate(timings):
        if item.name in left_out:
            others = [other for other in range(len(timings)) if other != place]
            found = problem.fit(others).predicted_us(item.work)
            # Nothing in the others says that it takes any time: wrong by more than anything that is kept.
            errors[item.name] = math.log(found / item.time_us) if found > 0 else -math.inf
    return errors
