"""Figures of a measurement: from the time of every inference, by fresh process, to milliseconds with an interval.

Nothing is left out of any figure: outliers are counted, not dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecomp.agent.on_device.stopping import median, median_interval, variance_log, within_process_interval
from edgecomp.errors import BenchmarkError

OUTLIER_SCORE = 3.5
"""A sample is an outlier from |0.6745 * (x - median) / MAD| = 3.5 on (Iglewicz and Hoaglin, 1993)."""

_MAD_TO_SIGMA = 0.6745
_CLOCK_US = 1.0
"""A clock that ticks more slowly is none for inferences."""


@dataclass(frozen=True)
class TimingStatistics:
    """What the times of inferences say.

    Attributes:
        p50_ms: Geometric mean of the medians of the processes, with its 95 % interval `low_ms` to `high_ms`, which
            knows the spread between processes; of one alone its median, with the interval within (see `stopping`).
        mean_ms, p90_ms, p99_ms, min_ms: Of all samples together.
        mad_ms: Median absolute deviation of the samples from the median of their process.
        half_width_ratio: Half of the interval relative to p50_ms: 0.01 is -+ 1 %.
        between_ratio: Standard deviation of the medians of processes, relative; None of one process alone.
        drift_ratio: How much slower the second half of a process is than the first, by their medians, on average: 0.01
            is 1 % slower, -0.01 faster. None where no process has two samples.
        num_samples: Inferences that were timed.
        num_outliers: How many of them are far from the median of their process; see `outliers`.
        num_processes: Fresh processes that they were timed in.
    """

    p50_ms: float
    low_ms: float
    high_ms: float
    mean_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    mad_ms: float
    half_width_ratio: float
    between_ratio: float | None
    drift_ratio: float | None
    num_samples: int
    num_outliers: int
    num_processes: int


def timing_statistics(processes_us: Sequence[Sequence[float]]) -> TimingStatistics:
    """The figures of one configuration (a model with a number of threads on a device).

    Args:
        processes_us: Microseconds of every inference, in order, by fresh process.

    Raises:
        BenchmarkError: There are no samples, a process has none, or a time is not a number above zero.
    """
    check_times(processes_us)
    low, center, high = median_interval(processes_us)
    together = np.concatenate([np.asarray(samples_us, dtype=float) for samples_us in processes_us])
    deviations = np.concatenate([np.abs(np.asarray(one, dtype=float) - median(one)) for one in processes_us])
    between = math.sqrt(variance_log([median(one) for one in processes_us])) if len(processes_us) > 1 else None
    return TimingStatistics(
        p50_ms=_ms(center),
        low_ms=_ms(low),
        high_ms=_ms(high),
        mean_ms=_ms(float(together.mean())),
        p90_ms=percentile_ms(together, 90),
        p99_ms=percentile_ms(together, 99),
        min_ms=_ms(float(together.min())),
        mad_ms=_ms(float(np.median(deviations))),
        half_width_ratio=(high - low) / 2 / center,
        between_ratio=between,
        drift_ratio=drift_ratio(processes_us),
        num_samples=len(together),
        num_outliers=sum(int(outliers(one).sum()) for one in processes_us),
        num_processes=len(processes_us),
    )


def check_times(processes_us: Sequence[Sequence[float]]) -> None:
    """Hold times of inferences to what every figure needs.

    Raises:
        BenchmarkError: There are none, a process has none, or one is not a number above zero.
    """
    if len(processes_us) == 0:
        raise BenchmarkError("Nothing was timed: there is no process with samples.")
    for number, samples_us in enumerate(processes_us, 1):
        if len(samples_us) == 0:
            raise BenchmarkError(f"Process {number} of {len(processes_us)} timed no inference.")
        wrong = next((time for time in samples_us if not 0 < time < math.inf), None)
        if wrong is not None:
            raise BenchmarkError(f"Process {number} of {len(processes_us)}: no inference takes {wrong:g} microseconds.")


def outliers(samples_us: Sequence[float]) -> np.ndarray:
    """Which samples of one process are far from its median, by the median absolute deviation.

    Where more than half of the samples are equal the deviation is zero. It is then taken as one tick of the clock (the
    smallest difference that occurs, at most a microsecond), so that a tick more or less is no outlier.

    Returns:
        bool, shape (samples,).
    """
    samples = np.asarray(samples_us, dtype=float)
    distances = np.abs(samples - np.median(samples))
    tick = float(np.diff(np.unique(samples)).min(initial=_CLOCK_US))
    deviation = max(float(np.median(distances)), tick)
    far: np.ndarray = _MAD_TO_SIGMA * distances > OUTLIER_SCORE * deviation
    return far


def drift_ratio(processes_us: Sequence[Sequence[float]]) -> float | None:
    """See `TimingStatistics.drift_ratio`."""
    long_enough = [samples_us for samples_us in processes_us if len(samples_us) > 1]
    if not long_enough:
        return None
    logs = [math.log(median(one[(len(one) + 1) // 2 :]) / median(one[: len(one) // 2])) for one in long_enough]
    return math.expm1(math.fsum(logs) / len(logs))


def percentile_ms(samples_us: Sequence[float] | np.ndarray, percent: float) -> float:
    """Percentile of microseconds, in milliseconds; linear between the two nearest samples."""
    return _ms(float(np.percentile(np.asarray(samples_us), percent)))


def median_interval_ms(samples_us: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median of one process by order statistics; see `stopping.within_process_interval`."""
    low, high = within_process_interval(samples_us)
    return _ms(low), _ms(high)


def _ms(microseconds: float) -> float:
    """To the nanosecond, which is all that the clock of the device tells."""
    return round(float(microseconds) / 1000, 6)
