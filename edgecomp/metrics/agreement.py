"""A candidate beside the float model, without labels; and a float model that has seen its validation samples."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from edgecomp.errors import DataError
from edgecomp.metrics.bootstrap import RESAMPLES, Estimate, mean_estimate
from edgecomp.metrics.classification import single_score
from edgecomp.metrics.metric import Arrays, require_numbers, row_chunks

_JUDGED_SAMPLES = 1000


def agreement(
    candidate: Arrays,
    reference: Arrays,
    seed: int,
    class_outputs: Collection[str] | None = None,
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """Share of samples that the candidate answers as the float model does, whether right or wrong.

    An answer is the largest class of (n, ..., classes), the first of equals, or, for one score, whether it is above 0.5
    (above 0 where the float model's scores are not probabilities). Several positions or outputs count by their mean.

    Args:
        candidate: Output name -> real values, shape (n, ...).
        reference: The float model's, for the same samples.
        seed: Of the interval.
        class_outputs: Outputs that give classes (`BoundDataset.class_outputs`). None: those count whose reference
            values are probabilities, from 0 to 1 and, for several classes, with the sum 1.
        resamples: At least 1.

    Returns:
        The share with its interval, or None where no output gives classes.

    Raises:
        DataError: Outputs that differ in name or shape, or hold NaN.
    """
    require_pairs(candidate, reference)
    names = answering_outputs(reference, class_outputs)
    shares = [_same_answers(candidate[name], reference[name]) for name in names]
    return mean_estimate(np.mean(shares, axis=0), seed, resamples) if shares else None


def output_snr_db(candidate: Arrays, reference: Arrays) -> float:
    """Signal-to-noise ratio of the worst output: 10 * log10(sum(reference^2) / sum((candidate - reference)^2)).

    Returns:
        Decibels; inf where the outputs are equal, -inf where the reference is 0 and the candidate is not.

    Raises:
        DataError: As `agreement` does.
    """
    require_pairs(candidate, reference)
    return min(_snr_db(candidate[name], reference[name]) for name in reference)


def looks_memorised(
    validation: Estimate, test: Estimate, *, higher_is_better: bool = True, is_ratio: bool = True
) -> str | None:
    """Whether the float model is so much better on validation than on test that it must have seen validation.

    The interval of the difference of two independent estimates is put together from theirs: its lower end is
    difference - sqrt((validation.value - validation.low)^2 + (test.high - test.value)^2). A note is due where that is
    above 0 and, for a ratio, the difference is at least one percentage point.

    Returns:
        One sentence to announce, or None.
    """
    if higher_is_better:
        better = validation.value - test.value
        margin = math.hypot(validation.value - validation.low, test.high - test.value)
    else:
        better = test.value - validation.value
        margin = math.hypot(validation.high - validation.value, test.value - test.low)
    if better <= margin or (is_ratio and better < 0.01):
        return None
    scores = [f"{100 * part.value:.1f} %" if is_ratio else f"{part.value:.4g}" for part in (validation, test)]
    return (
        f"The float model scores {scores[0]} on validation and {scores[1]} on test: it was probably trained on the "
        "validation samples, which makes candidates look alike there; give samples that it has not seen as x_val."
    )


def answering_outputs(reference: Arrays, class_outputs: Collection[str] | None) -> list[str]:
    """Outputs that give classes; see `agreement` for `class_outputs`."""
    if class_outputs is None:
        class_outputs = [name for name, values in reference.items() if _are_probabilities(values)]
    return [name for name in reference if name in class_outputs]


def answer_threshold(reference: np.ndarray) -> float | None:
    """Above which one score means class 1, by the float model's; None for outputs with one score per class."""
    if not single_score(reference.shape):
        return None
    return 0.5 if _are_probabilities(reference) else 0.0


def answers(outputs: np.ndarray, threshold: float | None) -> np.ndarray:
    """Class that each sample is given, shape (n, positions), of outputs of shape (n, ..., classes), or of one score."""
    chosen = outputs.argmax(axis=-1) if threshold is None else outputs > threshold
    return np.asarray(chosen, dtype=np.int64).reshape(len(outputs), -1)


def require_pairs(candidate: Arrays, reference: Arrays) -> None:
    """Raise DataError where outputs differ in name or shape, or hold NaN."""
    if candidate.keys() != reference.keys() or not reference:
        names = [", ".join(sorted(arrays)) or "none" for arrays in (candidate, reference)]
        raise DataError(f"The candidate's outputs are {names[0]}, the float model's {names[1]}.")
    for name, values in reference.items():
        if candidate[name].shape != values.shape or not len(values):
            raise DataError(
                f"The output {name!r} has the shape {candidate[name].shape} for the candidate and {values.shape} for "
                "the float model."
            )
        require_numbers(name, values)
        require_numbers(name, candidate[name])


def _are_probabilities(values: np.ndarray) -> bool:
    some = np.asarray(values[:_JUDGED_SAMPLES], dtype=np.float64)
    if some.min() < -1e-3 or some.max() > 1 + 1e-3:
        return False
    return single_score(some.shape) or bool((np.abs(some.sum(axis=-1) - 1) < 0.05).all())


def _same_answers(candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of the positions of each sample with the same answer, shape (n,)."""
    same = np.empty(len(reference))
    threshold = answer_threshold(reference)
    for rows in row_chunks(reference):
        same[rows] = (answers(candidate[rows], threshold) == answers(reference[rows], threshold)).mean(axis=1)
    return same


def _snr_db(candidate: np.ndarray, reference: np.ndarray) -> float:
    signal = noise = 0.0
    for rows in row_chunks(reference):
        exact = reference[rows].astype(np.float64)
        signal += float((exact**2).sum())
        noise += float(((candidate[rows] - exact) ** 2).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
