"""What a metric is; its members are in classification.py, regression.py and user.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from edgecomp.errors import DataError, did_you_mean
from edgecomp.tensors import TensorSpec

Arrays = Mapping[str, np.ndarray]
"""Output name -> one entry per sample along the first axis. Of labels, only the labelled outputs are there."""
Shape = tuple[int | None, ...]

_CHUNK_VALUES = 4 * 2**20
_T = TypeVar("_T")


class Metric(ABC):
    """How good outputs are, given labels.

    A metric judges every labelled output by itself; the score is the unweighted mean over them.

    Attributes:
        name: As the user writes it.
        higher_is_better: False for errors such as mse.
        is_ratio: True for shares of 1 (accuracy, top-k, auc): differences are told in percentage points.
    """

    name: str
    higher_is_better: bool = True
    is_ratio: bool = True

    def score(self, labels: Arrays, outputs: Arrays) -> float:
        """Mean over the labelled outputs.

        Args:
            labels: As `Split.labels` gives them.
            outputs: Real values (not quantized), for at least the labelled outputs.

        Raises:
            DataError: Labels and outputs do not fit together or this metric, or the score would be NaN.
        """
        return float(np.mean(list(self.scores(labels, outputs).values())))

    def scores(self, labels: Arrays, outputs: Arrays) -> dict[str, float]:
        """The score of every labelled output by itself. Raises DataError as `score` does."""
        return {name: self._finite(self._score(name, *pair)) for name, pair in self.matched(labels, outputs).items()}

    def per_sample(self, labels: Arrays, outputs: Arrays) -> np.ndarray | None:
        """Values whose mean is the score, shape (n,), float64; None where the score is no mean over samples.

        Raises:
            DataError: As `score` does.
        """
        pairs = self.matched(labels, outputs)
        values = [self._per_sample(name, *pair) for name, pair in pairs.items()]
        parts = [value for value in values if value is not None]
        return np.mean(parts, axis=0) if len(parts) == len(values) else None

    def resampler(self, labels: Arrays, outputs: Arrays) -> Callable[[np.ndarray], float]:
        """A function from sample indices, shape (n,) with repetitions, to their score.

        It gives NaN where the score does not exist for such a draw, for instance an auc of one class.
        """
        return lambda indices: self.score(
            {name: values[indices] for name, values in labels.items()},
            {name: outputs[name][indices] for name in labels},
        )

    def check(self, labels: Arrays, outputs: Sequence[TensorSpec]) -> None:
        """Refuse labels that this metric cannot use, before any model runs.

        Raises:
            DataError: The first problem.
        """
        shapes = {spec.name: spec.shape for spec in outputs}
        for name, values in labels.items():
            self._check(name, values, _of(name, shapes))

    def matched(self, labels: Arrays, outputs: Arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Output name -> (labels, outputs) of equal length, without NaN. Raises DataError."""
        if not labels:
            raise DataError(
                f"The metric {self.name} needs labels, there are none.", hint="Add y_test, or drop --metric."
            )
        pairs = {}
        for name, values in labels.items():
            output = _of(name, outputs)
            if len(values) != len(output):
                raise DataError(f"There are {len(values):,} labels for {len(output):,} outputs of {name!r}.")
            if not len(values):
                raise DataError(f"The metric {self.name} needs at least one sample, got none.")
            require_numbers(name, output)
            pairs[name] = (values, output)
        return pairs

    @abstractmethod
    def _score(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> float:
        """Score of one output."""

    def _per_sample(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """Values of one output whose mean is its score, shape (n,); None where there are none."""
        return None

    @abstractmethod
    def _check(self, name: str, labels: np.ndarray, shape: Shape) -> None:
        """Raise DataError where these labels do not suit an output of this shape (batch axis first)."""

    def _finite(self, score: float) -> float:
        if not np.isfinite(score):
            raise DataError(
                f"The metric {self.name} gives {score} on these samples, which cannot be compared.",
                hint="Look for too few samples or classes, or outputs without bounds.",
            )
        return score


class MeanMetric(Metric):
    """A metric that is a mean over samples."""

    def _score(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> float:
        return float(np.mean(self._per_sample(name, labels, outputs)))

    @abstractmethod
    def _per_sample(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Values of one output whose mean is its score, shape (n,), float64."""


def row_chunks(array: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis that hold a few million values each, whatever the size of the array."""
    rows = max(1, _CHUNK_VALUES // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        yield slice(start, min(start + rows, len(array)))


def require_numbers(name: str, outputs: np.ndarray) -> None:
    """Raise DataError where an output holds NaN: it would count as class 0, or vanish in a comparison."""
    bad = sum(
        int(np.isnan(outputs[rows]).any(axis=tuple(range(1, outputs.ndim))).sum()) for rows in row_chunks(outputs)
    )
    if bad:
        raise DataError(
            f"The model's output {name!r} is NaN for {bad:,} of {len(outputs):,} samples.",
            hint="Look for overflow (float16) or a division by zero in the model.",
        )


def same_shape(shape: Shape, wanted: Shape) -> bool:
    """Whether two shapes are equal; None stands for any size."""
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )


def shown(shape: Shape) -> str:
    """A sample shape for people: without the batch axis, "any" for None."""
    return "(" + ", ".join("any" if size is None else str(size) for size in shape[1:]) + ")"


def _of(name: str, outputs: Mapping[str, _T]) -> _T:
    if name not in outputs:
        raise DataError(f"There are labels for {name!r}, which is no output.", hint=did_you_mean(name, outputs))
    return outputs[name]
