"""What an average hides: answers that flipped, the class that lost most, and scores on corrupted inputs."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from edgecomp.metrics.agreement import (
    agreement,
    answer_threshold,
    answering_outputs,
    answers,
    output_snr_db,
    require_pairs,
)
from edgecomp.metrics.bootstrap import RESAMPLES, Estimate, mean_estimate, paired_drop
from edgecomp.metrics.classification import true_classes
from edgecomp.metrics.metric import Arrays, Metric, row_chunks

MIN_CLASS_SAMPLES = 20
"""Of a class that is compared: with fewer one answer is more than 5 percentage points."""
_SLOW_RESAMPLES = 200
_Z = 1.959964  # 97.5 percentile of the normal distribution.


@dataclass(frozen=True)
class Flips:
    """Answers that are not the float model's; shares of all samples.

    Attributes:
        share: Changed, whether for the better or not.
        worse, better: Right before and wrong now; wrong before and right now. None without labels. What remains of
            `share` was wrong and is wrong in another way.
    """

    samples: int
    share: Estimate
    worse: Estimate | None
    better: Estimate | None


@dataclass(frozen=True)
class WorstClass:
    """The class whose accuracy fell most.

    Attributes:
        output: It is a class of this output.
        index: Number of the class.
        samples: Labelled with it.
        score, float_score: Share of them that is right.
        drop: Float model minus candidate, paired; 0 or less where no class lost. It is the largest of `compared`
            classes, and its interval is that of one class by itself: chance alone makes the largest of many look bad.
        compared: Classes with enough samples.
    """

    output: str
    index: int
    samples: int
    score: float
    float_score: float
    drop: Estimate
    compared: int


@dataclass(frozen=True)
class Condition:
    """Candidate and float model on the same inputs under one condition.

    Attributes:
        score, float_score, drop: By the metric of the fit; None without labels.
        agreement: Share of samples with the same answer; None where no output gives classes.
        output_snr_db: Of the candidate's outputs against the float model's.
    """

    score: float | None
    float_score: float | None
    drop: Estimate | None
    agreement: Estimate | None
    output_snr_db: float


def flips(
    candidate: Arrays,
    reference: Arrays,
    seed: int,
    labels: Arrays | None = None,
    class_outputs: Collection[str] | None = None,
    resamples: int = RESAMPLES,
) -> Flips | None:
    """Share of samples that the candidate answers otherwise than the float model does.

    Answers are told as `agreement` tells them; several positions or outputs of a sample count by their mean. Changed
    answers hurt even where accuracy stays: Dutta et al., "Accuracy is Not All You Need" (2024, arXiv:2407.09141).

    Args:
        candidate: Output name -> real values, shape (n, ...).
        reference: The float model's, for the same samples.
        seed: Of the intervals, where a sample has several answers; else they are Wilson's.
        labels: Classes of the outputs that give some; of the others they are not looked at.
        class_outputs: See `agreement`.
        resamples: At least 1.

    Returns:
        None where no output gives classes.

    Raises:
        DataError: Outputs that differ in name or shape, or hold NaN; labels that are no classes.
    """
    require_pairs(candidate, reference)
    names = answering_outputs(reference, class_outputs)
    if not names:
        return None
    labelled = labels is not None and all(name in labels for name in names)
    parts = np.mean(
        [
            _flipped(name, candidate[name], reference[name], labels[name] if labels and labelled else None)
            for name in names
        ],
        axis=0,
    )
    share, worse, better = (_share(values, seed, resamples) for values in parts)
    return Flips(parts.shape[1], share, worse if labelled else None, better if labelled else None)


def _share(values: np.ndarray, seed: int, resamples: int) -> Estimate:
    """Mean of one share per sample; where all are 0 or 1, with Wilson's score interval (1927) at 95 %.

    Resampling would give 0 of 100 the interval [0, 0], although 3 of 100 are well possible.
    """
    if not np.isin(values, (0, 1)).all():
        return mean_estimate(values, seed, resamples)
    share, weight = float(values.mean()), _Z**2 / len(values)
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return Estimate(share, min(max(0.0, middle - half), share), max(min(1.0, middle + half), share))


def _flipped(name: str, candidate: np.ndarray, reference: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Shares of the positions of each sample: changed, worse, better; shape (3, n). Without labels the last are 0."""
    found = np.zeros((3, len(reference)))
    threshold = answer_threshold(reference)
    truth = None if labels is None else true_classes("flips", name, labels, reference.shape)
    for rows in row_chunks(reference):
        got, want = answers(candidate[rows], threshold), answers(reference[rows], threshold)
        found[0, rows] = (got != want).mean(axis=1)
        if truth is not None:
            right = truth[rows].reshape(got.shape)
            found[1, rows] = ((want == right) & (got != right)).mean(axis=1)
            found[2, rows] = ((want != right) & (got == right)).mean(axis=1)
    return found


def worst_class(
    labels: Arrays,
    candidate: Arrays,
    reference: Arrays,
    seed: int,
    min_samples: int = MIN_CLASS_SAMPLES,
    resamples: int = RESAMPLES,
) -> WorstClass | None:
    """The class with the largest drop of its own accuracy, paired on the samples that are labelled with it.

    Where a sample has several positions, it counts for a class by the share of its positions of that class that is
    right. Of equal drops the class with more samples counts, then the first.

    Args:
        labels: Classes, by output; every output with labels is looked at.
        candidate: Output name -> real values, shape (n, ...).
        reference: The float model's, for the same samples.
        seed: Of the interval.
        min_samples: Classes with fewer samples are left out.
        resamples: At least 1.

    Returns:
        None where no class has `min_samples`.

    Raises:
        DataError: As `flips` does.
    """
    require_pairs(candidate, reference)
    best: tuple[tuple[float, int], str, int, np.ndarray] | None = None
    compared = 0
    for output, values in labels.items():
        classes, right = _right_by_class(output, values, candidate[output], reference[output])
        counts = np.bincount(classes)
        drops = np.bincount(classes, right[1] - right[0]) / np.maximum(counts, 1)
        for index in (int(number) for number in np.flatnonzero(counts >= min_samples)):
            compared += 1
            # Rounded: sums of fractions must not decide between equal drops.
            rank = (round(float(drops[index]), 12), int(counts[index]))
            if best is None or rank > best[0]:
                best = rank, output, index, right[:, classes == index]
    if best is None:
        return None
    _, output, index, right = best
    return WorstClass(
        output=output,
        index=index,
        samples=right.shape[1],
        score=float(right[0].mean()),
        float_score=float(right[1].mean()),
        drop=mean_estimate(right[1] - right[0], seed, resamples),
        compared=compared,
    )


def _right_by_class(
    name: str, labels: np.ndarray, candidate: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each of the k pairs of a sample and a class that it is labelled with, what the two have right of it.

    Returns:
        The class, shape (k,), and the shares that candidate and float model have right, shape (2, k).
    """
    truth = true_classes("worst class", name, labels, reference.shape)
    threshold = answer_threshold(reference)
    classes, shares = [], []
    for rows in row_chunks(reference):
        got, want = answers(candidate[rows], threshold), answers(reference[rows], threshold)
        own = truth[rows].reshape(got.shape)
        size = int(own.max()) + 1
        pairs, pair_of, counts = np.unique(
            own + size * np.arange(len(own))[:, np.newaxis], return_inverse=True, return_counts=True
        )
        classes.append(pairs % size)
        shares.append(
            [np.bincount(pair_of.reshape(-1), (answer == own).reshape(-1)) / counts for answer in (got, want)]
        )
    return np.concatenate(classes), np.concatenate(shares, axis=1)


def compare_condition(
    metric: Metric,
    labels: Arrays | None,
    candidate: Arrays,
    reference: Arrays,
    seed: int,
    class_outputs: Collection[str] | None = None,
) -> Condition:
    """Hold a candidate against the float model on the same, perhaps corrupted, inputs.

    Args:
        metric: Where it is no mean over samples, 200 resamples make the interval.
        labels: By labelled output, or None.
        candidate: Output name -> real values, shape (n, ...).
        reference: The float model's, for the same inputs.
        seed: Of the intervals.
        class_outputs: See `agreement`.

    Raises:
        DataError: As `flips` does, or the metric cannot be computed.
    """
    score = float_score = drop = None
    if labels is not None:
        score, float_score = metric.score(labels, candidate), metric.score(labels, reference)
        resamples = _SLOW_RESAMPLES if metric.per_sample(labels, candidate) is None else RESAMPLES
        drop = paired_drop(metric, labels, candidate, reference, seed, resamples)
    return Condition(
        score=score,
        float_score=float_score,
        drop=drop,
        agreement=agreement(candidate, reference, seed, class_outputs),
        output_snr_db=output_snr_db(candidate, reference),
    )
