"""Weights on the grid of a few bits, one step a channel, as a projection for the fine-tuning loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.compress._weights import Kernel
from edgecomp.training.projection import Projection

_RATIOS = np.linspace(1.0, 0.3, 71)


def top_of(bits: int) -> int:
    """Largest integer of a signed type, used symmetrically: 127 of 8 bits, 7 of 4."""
    return int(2 ** (bits - 1) - 1)


class Grid:
    """Whole multiples of a step, at most `top_of(bits)` of them, with one step for each output channel.

    The largest weight of a channel always lands on the last multiple. So whoever quantizes the weights again by their
    largest value (TFLite's converter at 8 bits, ai-edge-quantizer with min/max at 4) finds the very same integers.
    With less than 8 bits the step may be smaller than the largest weight asks for: outliers are clipped where that
    makes the squared error of the channel smallest. How much is clipped is settled anew before every epoch of the first
    half; after that a jump of the steps would cost more than it gains.

    Args:
        kernel: Whose weights.
        bits: 4 or 8.
        first: Projections that come before it (zeros, few values); it keeps what they make: zero is on the grid, and
            equal weights stay equal.
    """

    def __init__(self, kernel: Kernel, bits: int, first: Sequence[Projection] = ()) -> None:
        self._kernel = kernel
        self._bits = bits
        self._first = tuple(first)
        shape = tuple(kernel.variable.shape)
        self._rest = [axis for axis in range(len(shape)) if axis not in kernel.axes]
        self._ratio = tf.Variable(tf.ones([1 if axis in self._rest else size for axis, size in enumerate(shape)]))

    def __call__(self, latent: Any) -> Any:
        """See `Projection`."""
        values = self._before(latent)
        step = self._ratio * tf.reduce_max(tf.abs(values), axis=self._rest, keepdims=True) / top_of(self._bits)
        step = tf.where(step > 0, step, tf.ones_like(step))  # A channel of zeros stays one.
        top = float(top_of(self._bits))
        return tf.clip_by_value(tf.round(values / step), -top, top) * step

    def _before(self, latent: Any) -> Any:
        values = tf.convert_to_tensor(latent)
        for item in self._first:
            values = item(values)
        return values

    def start_epoch(self, epoch: int, epochs: int, latent: Any) -> None:
        """See `Projection`."""
        for item in self._first:
            item.start_epoch(epoch, epochs, latent)
        if self._bits < 8 and epoch < max(1, epochs / 2):
            rows = self._kernel.channels(self._before(latent).numpy())
            self._ratio.assign(best_ratio(rows, self._bits).reshape(self._ratio.shape))

    def is_final(self, epoch: int, epochs: int) -> bool:
        """Always, as far as the projections before it are."""
        return all(item.is_final(epoch, epochs) for item in self._first)

    def state(self) -> list[np.ndarray]:
        """The clipping, then what the projections before it keep."""
        return [self._ratio.numpy(), *(array for item in self._first for array in item.state())]

    def restore(self, state: list[np.ndarray]) -> None:
        """See `Projection`."""
        self._ratio.assign(state[0])
        rest = state[1:]
        for item in self._first:
            count = len(item.state())
            item.restore(rest[:count])
            rest = rest[count:]


def best_ratio(rows: np.ndarray, bits: int) -> np.ndarray:
    """Where to clip each channel so that rounding it costs the least squared error.

    Args:
        rows: Weights as `Kernel.channels` gives them, shape (channels, n).
        bits: Of the grid.

    Returns:
        Shape (channels,): the largest weight on the grid over the largest weight, from 0.3 to 1.
    """
    peaks = np.abs(rows).max(axis=1, keepdims=True)
    top = top_of(bits)
    errors = []
    for ratio in _RATIOS:
        steps = np.where(peaks > 0, ratio * peaks / top, 1.0)
        rounded = np.clip(np.rint(rows / steps), -top, top) * steps
        errors.append(((rows - rounded) ** 2).sum(axis=1))
    best: np.ndarray = _RATIOS[np.argmin(errors, axis=0)].astype(np.float32)
    return best


def integers(kernel: Kernel, bits: int) -> np.ndarray:
    """The integers that a kernel on the grid stands for, in its own shape."""
    values = kernel.variable.numpy().astype(np.float64)
    rest = tuple(axis for axis in range(values.ndim) if axis not in kernel.axes)
    step = np.abs(values).max(axis=rest, keepdims=True) / top_of(bits)
    rounded: np.ndarray = np.rint(values / np.where(step > 0, step, 1.0)).astype(np.int8)
    return rounded
