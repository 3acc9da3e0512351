"""Accuracy, top-k and AUC."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgecomp.errors import DataError
from edgecomp.metrics.metric import Arrays, MeanMetric, Metric, Shape, row_chunks, same_shape, shown

_NOT_CLASSES = "Use mse or mae for quantities, or module:function."


class Accuracy(MeanMetric):
    """Share of right answers.

    Outputs (n, ..., classes): the largest, the first of equals. Outputs (n,) or (n, ..., 1): above 0.5 is class 1.
    Where a sample has several positions, it counts by the share of them that is right.
    """

    name = "accuracy"

    def _per_sample(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        truth = true_classes(self.name, name, labels, outputs.shape)
        is_single = single_score(outputs.shape)
        if is_single:
            outputs = outputs.reshape(truth.shape)
            low, high = float(outputs.min()), float(outputs.max())
            if low < -0.01 or high > 1.01:
                raise DataError(
                    f"The output {name!r} runs from {low:g} to {high:g}: accuracy needs a probability from 0 to 1.",
                    hint="End the model with a sigmoid, or use auc or module:function.",
                )
        right = np.empty(len(truth))
        for rows in row_chunks(outputs):
            answer = outputs[rows] > 0.5 if is_single else outputs[rows].argmax(axis=-1)
            right[rows] = (answer == truth[rows]).reshape(len(answer), -1).mean(axis=1)
        return right

    def _check(self, name: str, labels: np.ndarray, shape: Shape) -> None:
        true_classes(self.name, name, labels, shape)


class TopK(MeanMetric):
    """Share of samples whose class is among the k largest outputs; of equal outputs the first counts as larger."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.name = f"top{k}"

    def _per_sample(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        self._require_classes(name, outputs.shape)
        truth = true_classes(self.name, name, labels, outputs.shape)
        numbers = np.arange(outputs.shape[-1])
        right = np.empty(len(truth))
        for rows in row_chunks(outputs):
            scores, own = outputs[rows], truth[rows][..., np.newaxis]
            own_score = np.take_along_axis(scores, own, axis=-1)
            before = (scores > own_score) | ((scores == own_score) & (numbers < own))
            right[rows] = (before.sum(axis=-1) < self.k).reshape(len(scores), -1).mean(axis=1)
        return right

    def _check(self, name: str, labels: np.ndarray, shape: Shape) -> None:
        self._require_classes(name, shape)
        true_classes(self.name, name, labels, shape)

    def _require_classes(self, name: str, shape: Shape) -> None:
        num_classes = 1 if single_score(shape) else shape[-1]
        if num_classes is not None and self.k >= num_classes:
            raise DataError(
                f"The metric {self.name} needs an output of more than {self.k} classes, {name!r} has {num_classes}: it "
                "would always be 1.",
                hint="Use a smaller k, or accuracy.",
            )


class Auc(Metric):
    """Area under the ROC curve: how often a sample of a class scores above one of another class; equals count half.

    One score, or two classes (then the score of class 1): binary. More classes: each against the rest, unweighted mean
    over the classes that the labels contain.
    """

    name = "auc"

    def _score(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> float:
        return self._weighted(name, labels, outputs)(np.ones(len(labels)))

    def resampler(self, labels: Arrays, outputs: Arrays) -> Callable[[np.ndarray], float]:
        """Ranks are computed once; a draw only changes how often each sample counts."""
        parts = [self._weighted(name, *pair) for name, pair in self.matched(labels, outputs).items()]
        count = len(next(iter(labels.values())))

        def score(indices: np.ndarray) -> float:
            weights = np.bincount(indices, minlength=count).astype(np.float64)
            return float(np.mean([part(weights) for part in parts]))

        return score

    def _weighted(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> Callable[[np.ndarray], float]:
        """A function from sample weights, shape (n,), to the AUC; NaN where a class has no weight."""
        truth = true_classes(self.name, name, labels, outputs.shape).reshape(len(labels), -1)
        self._require_two(name, truth)
        scores = outputs.reshape(*truth.shape, -1)
        classes = [1] if scores.shape[-1] <= 2 else [int(number) for number in np.unique(truth)]
        curves = []
        for number in classes:
            _, rank = np.unique(scores[..., -1 if len(classes) == 1 else number], return_inverse=True)
            curves.append((rank.reshape(-1), (truth == number).reshape(-1)))
        positions = truth.shape[1]
        return lambda weights: float(np.mean([_area(*curve, np.repeat(weights, positions)) for curve in curves]))

    def _check(self, name: str, labels: np.ndarray, shape: Shape) -> None:
        self._require_two(name, true_classes(self.name, name, labels, shape))

    def _require_two(self, name: str, truth: np.ndarray) -> None:
        first = truth.flat[0]
        if (truth == first).all():
            raise DataError(
                f"The metric auc needs samples of at least two classes, all {truth.size:,} labels of {name!r} are "
                f"{first}.",
                hint="Use accuracy, or more samples.",
            )


def _area(rank: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> float:
    """Sum over pairs of (positive above negative) + half of (equal), by the weight of both, over all pairs."""
    size = int(rank.max()) + 1
    positive = np.bincount(rank[is_positive], weights[is_positive], size)
    negative = np.bincount(rank[~is_positive], weights[~is_positive], size)
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / pairs)


def single_score(shape: Shape) -> bool:
    """Whether an output of this shape (batch axis first) is one score per position: (n,) or (n, ..., 1)."""
    return len(shape) == 1 or shape[-1] == 1


def true_classes(metric: str, name: str, labels: np.ndarray, shape: Shape) -> np.ndarray:
    """Class of every position.

    Args:
        metric: For messages.
        name: Of the output.
        labels: Classes, with or without a last axis of size 1, or one-hot.
        shape: Of the output, batch axis first; its own batch size does not matter.

    Returns:
        int64, shape (n,) or (n, positions ...).

    Raises:
        DataError: Fractions, a class below 0 or beyond the output, or a shape that does not fit.
    """
    where = f"The metric {metric} needs class numbers for {name!r}"
    positions = shape[:1] if len(shape) == 1 else shape[:-1]
    wanted: Shape = (None, *positions[1:])
    num_classes = 2 if single_score(shape) else shape[-1]
    if labels.ndim == len(shape) and same_shape(labels.shape, (None, *shape[1:])) and not single_score(shape):
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=-1) == 1).all()):
            raise DataError(f"{where}, got values of the output's shape that are not one-hot.", hint=_NOT_CLASSES)
        return np.asarray(labels.argmax(axis=-1), dtype=np.int64)
    if labels.shape[-1:] == (1,) and same_shape(labels.shape[:-1], wanted):
        labels = labels[..., 0]
    if not same_shape(labels.shape, wanted):
        raise DataError(
            f"{where}: one per position, {shown(wanted)} a sample; got labels of {shown(labels.shape)}.",
            hint=_NOT_CLASSES,
        )
    ids = labels.astype(np.int64)
    if not (labels == ids).all():
        example = float(labels[labels != ids].flat[0])
        raise DataError(f"{where}, got {example:g}.", hint=_NOT_CLASSES)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        allowed = "from 0 on" if num_classes is None else f"0 to {num_classes - 1}"
        raise DataError(f"{where}, {allowed}; got {low if low < 0 else high}.", hint=_NOT_CLASSES)
    return ids
