"""What the optimizer moves in place of a variable that must keep a form or has an unusual size."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from edgecomp.training.projection import Projection

# Root mean square; He initialization of a layer with 128 inputs has 0.125, one with 5,000 has 0.02.
_USUAL_WEIGHT = 0.02


class Latent:
    """What the optimizer moves in place of a variable: stored * factor, projected, is the variable.

    Adam moves every weight by about the learning rate, whatever its size. A kernel whose weights are far smaller than
    usual (one that takes pixels of 0 to 255, say, with its normalization folded in) would be wiped out in a few steps:
    stored as multiples of a small factor it moves in proportion.
    """

    def __init__(self, variable: Any, projection: Projection | None) -> None:
        self.variable, self.projection = variable, projection
        self._factor = step_factor(variable)
        self.stored = tf.Variable(variable / self._factor, name=variable.name.replace(":", "_"))

    def value(self) -> Any:
        """Before the projection."""
        return self.stored * self._factor

    def project(self) -> None:
        """Bring the variable up to date."""
        value = self.value()
        self.variable.assign(value if self.projection is None else self.projection(value))


def step_factor(variable: Any) -> float:
    """1 for weights of the usual size, less in proportion for smaller ones; 1 for biases and scales."""
    size = float(tf.sqrt(tf.reduce_mean(tf.square(variable)))) if variable.shape.rank > 1 else 0.0
    return min(1.0, size / _USUAL_WEIGHT) if size > 0 else 1.0
