"""Scores with 95 % intervals, by the percentile bootstrap over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgecomp.errors import DataError
from edgecomp.metrics.metric import Arrays, Metric

RESAMPLES = 2000
SLOW_RESAMPLES = 500
"""Where every resample has to be scored anew; the ends of the interval then vary by about 3 % of its width."""
_FEW_LEVELS = 64
_CHUNK_DRAWS = 4 * 2**20


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval.

    Attributes:
        value: On the samples themselves.
        low, high: 2.5 and 97.5 percentile over resamples; both equal the value where all samples agree.
    """

    value: float
    low: float
    high: float


def estimate(metric: Metric, labels: Arrays, outputs: Arrays, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Score with its interval: n samples are drawn with repetition, `resamples` times.

    Args:
        metric: Where it is no mean over samples, at most SLOW_RESAMPLES are drawn.
        labels: By labelled output.
        outputs: By output, real values.
        seed: The same seed gives the same interval.
        resamples: At least 1.

    Raises:
        DataError: The metric cannot be computed, or hardly for any resample.
    """
    values = metric.per_sample(labels, outputs)
    if values is not None:
        return mean_estimate(values, seed, resamples)
    count = len(next(iter(labels.values())))
    score = metric.score(labels, outputs)
    scores = _resampled_scores(metric, [metric.resampler(labels, outputs)], count, seed, resamples)
    return _estimate(score, scores[:, 0])


def paired_drop(
    metric: Metric, labels: Arrays, candidate: Arrays, reference: Arrays, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """How much worse a candidate is than the float model, with the interval of that difference.

    Both are scored on the same resamples, so what makes a sample hard for both drops out: the interval is narrower
    than one from two separate intervals.

    Args:
        metric: Decides which direction is worse.
        labels: By labelled output.
        candidate: Outputs of the candidate, real values.
        reference: Outputs of the float model for the same samples.
        seed: The same seed gives the same interval.
        resamples: At least 1.

    Returns:
        In the metric's unit (0.01 is one percentage point of an accuracy); positive where the candidate is worse.

    Raises:
        DataError: As `estimate` does.
    """
    worse = 1.0 if metric.higher_is_better else -1.0
    ours, theirs = metric.per_sample(labels, candidate), metric.per_sample(labels, reference)
    if ours is not None and theirs is not None:
        return mean_estimate(worse * (theirs - ours), seed, resamples)
    count = len(next(iter(labels.values())))
    difference = metric.score(labels, reference) - metric.score(labels, candidate)
    resamplers = [metric.resampler(labels, outputs) for outputs in (candidate, reference)]
    scores = _resampled_scores(metric, resamplers, count, seed, resamples)
    return _estimate(worse * difference, worse * (scores[:, 1] - scores[:, 0]))


def mean_estimate(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Mean of one value per sample, shape (n,), n >= 1, with its interval."""
    return _estimate(float(values.mean()), _resampled_means(values, np.random.default_rng(seed), resamples))


def _estimate(value: float, scores: np.ndarray) -> Estimate:
    low, high = (float(end) for end in np.percentile(scores, [2.5, 97.5]))
    return Estimate(value, min(low, value), max(high, value))


def _resampled_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Means of `resamples` draws of len(values) values with repetition, shape (resamples,)."""
    count = len(values)
    levels, sizes = np.unique(values, return_counts=True)
    if len(levels) <= _FEW_LEVELS:
        # The mean depends only on how often each level is drawn, and that is multinomial: no need to draw samples.
        return np.asarray(rng.multinomial(count, sizes / count, size=resamples) @ levels / count)
    means = np.empty(resamples)
    step = max(1, _CHUNK_DRAWS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        means[start : start + size] = values[rng.integers(count, size=(size, count), dtype=np.int32)].mean(axis=1)
    return means


def _resampled_scores(
    metric: Metric, resamplers: Sequence[Callable[[np.ndarray], float]], count: int, seed: int, resamples: int
) -> np.ndarray:
    """Scores of each resampler on the same draws, shape (resamples, resamplers); draws without a score are repeated."""
    rng = np.random.default_rng(seed)
    wanted = min(resamples, SLOW_RESAMPLES)
    scores: list[list[float]] = []
    for _ in range(10 * wanted):
        indices = rng.integers(count, size=count)
        row = [resampler(indices) for resampler in resamplers]
        if np.isfinite(row).all():
            scores.append(row)
            if len(scores) == wanted:
                return np.array(scores)
    raise DataError(
        f"The metric {metric.name} has no interval: only {len(scores)} of {10 * wanted:,} resamples of the {count:,} "
        "samples have a score.",
        hint="Use more samples of every class, or another metric.",
    )
