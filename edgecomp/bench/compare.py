"""Whether a model became slower: the ratio of two medians with its interval, and the decision that a CI job acts on.

What repeats is the fresh process, not the inference: the inferences of one process share where its memory lies and
which core it got. So the medians of processes are compared, on the logarithm, where their difference is a ratio. That
is the advice of Georges, Buytaert and Eeckhout ("Statistically Rigorous Java Performance Evaluation", 2007) and of
Kalibera and Jones ("Quantifying Performance Changes with Effect Size Confidence Intervals", 2012): Student's t over
invocations, and the size of the change with its interval rather than whether there is one.

Why not a bootstrap of those medians: three values can be resampled in ten ways only, and its nominal 95 % interval then
covers 90 % (at five processes 96 %). Welch's t knows how few there are, covers at least 95 % with three to five, and
does not mind if one side is noisier than the other. tests/test_bench_compare.py holds both against a known truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecomp.agent.on_device.stopping import mean_log, median, t_quantile, variance_log
from edgecomp.bench.statistics import check_times
from edgecomp.errors import UsageError

COMPARISON_PROCESSES = 5
"""Fresh processes on either side that find a slowdown of 5 % nine times in ten where medians of processes vary by 1 %,
also when rounds are paired; where they vary by 0.5 %, as on a quiet board, three do."""

FAIL_IF_SLOWER = 0.05

_LEAST = 2
# A ratio of exactly 1.05 is not below 1.05 because of its last bit.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Comparison:
    """How long an inference takes now, relative to the baseline.

    Attributes:
        ratio: Now over baseline, by the geometric means of the medians of processes: 1.05 is 5 % slower.
        low, high: Its 95 % interval.
        is_paired: Round by round, where both were measured in alternation: what drifts then cancels.
        num_baseline, num_current: Processes on either side.
    """

    ratio: float
    low: float
    high: float
    is_paired: bool
    num_baseline: int
    num_current: int

    def is_slower(self, fail_if_slower: float = FAIL_IF_SLOWER) -> bool:
        """Whether to raise the alarm.

        Both must hold: that nothing changed is ruled out (the whole interval is above 1), and a slowdown of the given
        size is not (the interval reaches it). The first keeps noise from failing a job, in 39 of 40 cases at least; the
        second keeps a slowdown that is real but small from it.

        Args:
            fail_if_slower: A fraction: 0.05 is 5 %.
        """
        return self.low > 1 and not self.rules_out(fail_if_slower)

    def rules_out(self, slowdown: float) -> bool:
        """Whether the interval lies below a slowdown (0.05 is 5 %)."""
        return self.high < 1 + slowdown - _TOLERANCE


def compare(
    baseline_us: Sequence[Sequence[float]], current_us: Sequence[Sequence[float]], *, is_paired: bool = False
) -> Comparison:
    """Compare two measurements of the same device.

    Args:
        baseline_us: Microseconds of every inference by fresh process, in the order of the rounds.
        current_us: The same, of what is judged.
        is_paired: The processes took turns in the same rounds. A round that only one side has is not counted.

    Raises:
        BenchmarkError: Times that are none.
        UsageError: Fewer than two processes on a side: nothing is known then of how they vary.
    """
    check_times(baseline_us)
    check_times(current_us)
    before, now = [median(one) for one in baseline_us], [median(one) for one in current_us]
    if is_paired:
        rounds = min(len(before), len(now))
        before, now = before[:rounds], now[:rounds]
    if min(len(before), len(now)) < _LEAST:
        raise UsageError(
            f"A comparison needs {_LEAST} processes on either side at least, got {len(before)} and {len(now)}.",
            hint=f"Measure both with {COMPARISON_PROCESSES}.",
        )
    change, reach = _paired(before, now) if is_paired else _unpaired(before, now)
    return Comparison(
        ratio=math.exp(change),
        low=math.exp(change - reach),
        high=math.exp(change + reach),
        is_paired=is_paired,
        num_baseline=len(before),
        num_current=len(now),
    )


def _paired(before: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    """Logarithm of the ratio and half its interval, from the ratio of every round."""
    ratios = [after / earlier for earlier, after in zip(before, now, strict=True)]
    return mean_log(ratios), t_quantile(len(ratios) - 1) * math.sqrt(variance_log(ratios) / len(ratios))


def _unpaired(before: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    """Logarithm of the ratio and half its interval, by Welch's t (degrees of freedom after Satterthwaite)."""
    squares = [variance_log(medians) / len(medians) for medians in (before, now)]
    variance = sum(squares)
    change = mean_log(now) - mean_log(before)
    if variance == 0:
        return change, 0.0
    shares = [square / variance for square in squares]
    degrees = 1 / sum(share**2 / (len(medians) - 1) for share, medians in zip(shares, (before, now), strict=True))
    return change, t_quantile(degrees) * math.sqrt(variance)
