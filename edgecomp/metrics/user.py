"""`module:function`: a metric of the user's own.

It is called as function(labels, outputs): arrays with one entry per sample where the model has one output, else dicts
by output name. It returns one number. Attributes of the function change how it is used:

    higher_is_better = True     False: smaller is better
    per_sample = False          True: it returns one value per sample, shape (n,), and the score is their mean
    is_ratio = False            True: the score is a share of 1, differences are told in percentage points

A metric with `per_sample` is called once; any other some hundred times, on samples drawn with repetition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgecomp.data.user_code import describe, load_function
from edgecomp.errors import DataError
from edgecomp.metrics.metric import Arrays, Metric, Shape


class UserMetric(Metric):
    """A metric by a function of the user's. Raises UsageError where it cannot be imported."""

    def __init__(self, spec: str) -> None:
        self.name = spec
        self._function: Callable[..., Any] = load_function(spec, "--metric")
        self.higher_is_better = bool(getattr(self._function, "higher_is_better", True))
        self.is_ratio = bool(getattr(self._function, "is_ratio", False))
        self._is_per_sample = bool(getattr(self._function, "per_sample", False))

    def score(self, labels: Arrays, outputs: Arrays) -> float:
        """What the function returns, or the mean of it."""
        self.matched(labels, outputs)
        if self._is_per_sample:
            return self._finite(float(np.mean(self._values(labels, outputs))))
        return self._finite(self._call(labels, outputs))

    def scores(self, labels: Arrays, outputs: Arrays) -> dict[str, float]:
        """The one score of a model with one output; empty for several, which the function judges together."""
        return {name: self.score(labels, outputs) for name in outputs} if len(outputs) == 1 else {}

    def per_sample(self, labels: Arrays, outputs: Arrays) -> np.ndarray | None:
        """What a function with `per_sample` returns, else None."""
        self.matched(labels, outputs)
        return self._values(labels, outputs) if self._is_per_sample else None

    def resampler(self, labels: Arrays, outputs: Arrays) -> Callable[[np.ndarray], float]:
        """A draw that the function cannot judge gives NaN."""

        def score(indices: np.ndarray) -> float:
            try:
                return self._call(
                    {name: values[indices] for name, values in labels.items()},
                    {name: values[indices] for name, values in outputs.items()},
                )
            except DataError:
                return float("nan")

        return score

    def _call(self, labels: Arrays, outputs: Arrays) -> float:
        value = self._raw(labels, outputs)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"The metric {self.name} must return one number, got {type(value).__name__}.",
                hint="Set per_sample = True on the function where it returns one value per sample.",
            ) from error

    def _values(self, labels: Arrays, outputs: Arrays) -> np.ndarray:
        count = len(next(iter(outputs.values())))
        raw = self._raw(labels, outputs)
        try:
            values = np.asarray(raw, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"The metric {self.name} must return numbers, got {type(raw).__name__}.") from error
        if values.shape != (count,):
            raise DataError(f"The metric {self.name} must return {count:,} values, got the shape {values.shape}.")
        if not np.isfinite(values).all():
            raise DataError(
                f"The metric {self.name} gives NaN or inf for sample {np.flatnonzero(~np.isfinite(values))[0]}."
            )
        return values

    def _raw(self, labels: Arrays, outputs: Arrays) -> Any:
        try:
            if len(outputs) == 1:
                name = next(iter(outputs))
                return self._function(labels[name], outputs[name])
            return self._function(dict(labels), dict(outputs))
        except Exception as error:  # Code of the user's: any error, told as one.
            raise DataError(
                f"The metric {self.name} raised {describe(error)}.", hint="Correct it; run it alone."
            ) from error

    def _score(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> float:
        return self.score({name: labels}, {name: outputs})

    def _check(self, name: str, labels: np.ndarray, shape: Shape) -> None:
        """Only the function knows what it takes."""
