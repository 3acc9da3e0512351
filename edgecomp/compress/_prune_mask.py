"""Which weights become zero, and when: masks by magnitude, shares by layer, the gradual schedule.

Imported by the TensorFlow worker only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.compress._weights import Kernel
from edgecomp.errors import UsageError
from edgecomp.training.projection import Mask

_RAMP = 0.6  # Share of the epochs in which zeros are added; the others recover.


@dataclass(frozen=True)
class Pattern:
    """At most `keep` non-zeros in any `of` neighbours along the input channels.

    As TFLite stores a kernel (output, height, width, input) these are neighbours in memory. A row of channels that is
    no multiple of `of` ends with a shorter group. TF-MOT's sparsity_m_by_n counts the zeros instead: (of - keep, of).
    """

    keep: int
    of: int

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"


def parse_pattern(text: str) -> Pattern | None:
    """The text of --pattern: 2:4 is Pattern(2, 4), None is "unstructured".

    Raises:
        UsageError: Neither, or N is not from 1 to M - 1.
    """
    if text == "unstructured":
        return None
    parts = text.split(":")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
        keep, of = int(parts[0]), int(parts[1])
        if 1 <= keep < of:
            return Pattern(keep, of)
    raise UsageError(
        f'The pattern must be "unstructured", or N:M with N from 1 to M - 1, got {text!r}.',
        hint="2:4 keeps two weights of every four.",
    )


def input_channels(kernel: Kernel) -> int:
    """Length of the axis that an N:M pattern goes along."""
    shape = kernel.variable.shape
    return int(shape[max(axis for axis in range(len(shape)) if axis not in kernel.axes)])


def outside_pattern(kernel: Kernel, values: np.ndarray, pattern: Pattern) -> np.ndarray:
    """True where an N:M pattern has its zeros: all but the `keep` largest of every group, by TF-MOT's own function."""
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_utils

    rows = kernel.channels(values)
    groups = tf.constant(rows.reshape(-1, input_channels(kernel)))
    kept = pruning_utils.generate_m_by_n_mask(groups, (pattern.of - pattern.keep, pattern.of))
    outside: np.ndarray = kernel.restore(kept.numpy().reshape(rows.shape)) == 0
    return outside


def mask(kernel: Kernel, values: np.ndarray, zeros: int, pattern: Pattern | None) -> np.ndarray:
    """False for the `zeros` smallest magnitudes, of those outside the pattern if there is one; what is zero stays zero.

    Args:
        kernel: The layer, for its axes.
        values: In the shape of its kernel.
        zeros: How many; fewer than `values` has already change nothing.
        pattern: None: zeros may stand anywhere.
    """
    order = np.abs(values).astype(np.float64)
    if pattern is not None:
        # Zeros come first even where the pattern would have room for them.
        order[~(outside_pattern(kernel, values, pattern) | (values == 0))] = np.inf
    keep: np.ndarray = values != 0
    keep.reshape(-1)[np.argsort(order, axis=None, kind="stable")[:zeros]] = False
    return keep


def shared_out(kernels: Sequence[Kernel], sparsity: float, per_layer: str) -> list[int]:
    """Zeros of every kernel, in all exactly `sparsity` of their weights (to the nearest whole one).

    "uniform" gives every kernel the same share. "lamp" removes the weights that matter least to their own layer: the
    score of a weight is its square over the sum of the squares of all in its kernel that are as large or larger (Lee
    et al., Layer-adaptive sparsity for the magnitude-based pruning, arXiv 2010.07611). The largest weight of a kernel
    scores 1, so no kernel is emptied before all others are.
    """
    sizes = [int(np.prod(kernel.variable.shape)) for kernel in kernels]
    total = round(sparsity * sum(sizes))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    if per_layer == "uniform":
        scores = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
    else:
        scores = np.concatenate([_lamp(kernel.variable.numpy()) for kernel in kernels])
    chosen = owner[np.argsort(scores, kind="stable")[:total]]
    return [int(count) for count in np.bincount(chosen, minlength=len(sizes))]


def _lamp(values: np.ndarray) -> np.ndarray:
    squares = np.sort(np.square(values, dtype=np.float64), axis=None)
    following = np.cumsum(squares[::-1])[::-1]
    scores: np.ndarray = np.divide(squares, following, out=np.zeros_like(squares), where=following > 0)
    return scores


def scheduled(first: int, last: int, size: int, epoch: int, epochs: int) -> int:
    """Zeros in an epoch: many soon, few later, all once 60 % of the epochs are over.

    last + (first - last) * (1 - t)**3 with t = (epoch + 1) / ramp (Zhu and Gupta, To prune, or not to prune, arXiv
    1710.01878), by TF-MOT's own PolynomialDecay, which counts in shares of `size` weights.
    """
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_schedule import PolynomialDecay

    ramp = ramp_epochs(epochs)
    if epoch + 1 >= ramp or last <= first:
        return max(first, last)
    decay = PolynomialDecay(first / size, last / size, begin_step=0, end_step=ramp, power=3, frequency=1)
    return round(float(decay(epoch + 1)[1]) * size)


def ramp_epochs(epochs: int) -> int:
    """Epochs in which zeros are added, the one that has them all included."""
    return max(1, round(_RAMP * epochs))


class GradualMask(Mask):
    """A projection whose zeros grow in number; a weight that is zero stays zero.

    Args:
        kernel: What is pruned, with the zeros that it has.
        zeros: How many it has in the end.
        pattern: Where they may stand.
    """

    def __init__(self, kernel: Kernel, zeros: int, pattern: Pattern | None) -> None:
        keep = kernel.variable.numpy() != 0
        super().__init__(keep)
        self._kernel, self._last, self._pattern = kernel, zeros, pattern
        self._first = int(np.sum(~keep))

    def start_epoch(self, epoch: int, epochs: int, latent: Any) -> None:
        """Set the smallest weights of this epoch to zero."""
        if epoch >= ramp_epochs(epochs):
            return
        values = self(latent).numpy()
        zeros = scheduled(self._first, self._last, values.size, epoch, epochs)
        self.restore([mask(self._kernel, values, zeros, self._pattern).astype(np.float32)])

    def is_final(self, epoch: int, epochs: int) -> bool:
        """Once all zeros are there."""
        return epoch + 1 >= ramp_epochs(epochs)
