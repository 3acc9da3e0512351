"""Mean squared and mean absolute error."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from edgecomp.errors import DataError
from edgecomp.metrics.metric import MeanMetric, Shape, row_chunks, same_shape, shown


class _MeanDeviation(MeanMetric):
    """A mean over all values of a sample, then over samples."""

    higher_is_better = False
    is_ratio = False

    def _per_sample(self, name: str, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        self._check(name, labels, outputs.shape)
        targets = labels.reshape(outputs.shape)
        errors = np.empty(len(outputs))
        for rows in row_chunks(outputs):
            difference = outputs[rows].astype(np.float64) - targets[rows]
            errors[rows] = self._of(difference).reshape(len(difference), -1).mean(axis=1)
        return errors

    def _check(self, name: str, labels: np.ndarray, shape: Shape) -> None:
        wanted: Shape = (None, *shape[1:])
        fits = same_shape(labels.shape, wanted)
        fits |= wanted[-1] == 1 and same_shape(labels.shape, wanted[:-1])
        fits |= labels.shape[-1] == 1 and same_shape(labels.shape[:-1], wanted)
        if not fits:
            raise DataError(
                f"The metric {self.name} needs targets of the shape of the output {name!r}, {shown(shape)} a sample; "
                f"got labels of {shown(labels.shape)}.",
                hint="Use accuracy for class numbers, or module:function.",
            )

    @abstractmethod
    def _of(self, difference: np.ndarray) -> np.ndarray:
        """The error of each difference."""


class Mse(_MeanDeviation):
    """Mean of (output - label) ** 2."""

    name = "mse"

    def _of(self, difference: np.ndarray) -> np.ndarray:
        squares: np.ndarray = np.square(difference)
        return squares


class Mae(_MeanDeviation):
    """Mean of |output - label|."""

    name = "mae"

    def _of(self, difference: np.ndarray) -> np.ndarray:
        sizes: np.ndarray = np.abs(difference)
        return sizes
