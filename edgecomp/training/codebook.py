"""Weights with few values: a codebook that is learned together with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.errors import CompressionError

_FIRST_ROUNDS = 40


class Codebook:
    """Every weight is the nearest of a few values, which are the means of what they stand for.

    In every step weights are assigned anew, values move to the means of their weights (one round of Lloyd's k-means),
    and gradients pass straight through to the latent weights (Han et al., arXiv 1510.00149; Bengio et al., arXiv
    1308.3432). In the last part of the training assignments stay, so that the values can settle.

    With `shared` all channels have one codebook, times a scale of their own: (value, channel) -> scale * value. The
    largest value is 1, the smallest -1, and every channel uses one of the two; so 8-bit quantization per channel finds
    the same integers in all of them, and one small table serves the tensor.

    Args:
        values: Initial weights.
        axes: Axes that number the channels.
        num_clusters: Values a channel, 2 or more; 3 or more where zeros are kept.
        shared: One codebook for the tensor, or (False) one a channel.
        keep_zeros: Zeros stay zeros; zero then is one of the values.
        settle: Part of the epochs in which assignments stay.

    Raises:
        CompressionError: Too few clusters.
    """

    def __init__(
        self,
        values: np.ndarray,
        axes: tuple[int, ...],
        num_clusters: int,
        *,
        shared: bool = True,
        keep_zeros: bool = False,
        settle: float = 0.25,
    ) -> None:
        least = 3 if keep_zeros else 2
        if num_clusters < least:
            raise CompressionError(f"A codebook needs at least {least} clusters, got {num_clusters}.")
        self._free = num_clusters - 1 if keep_zeros else num_clusters
        self._shared, self._settle = shared, settle
        self._order = [*axes, *(axis for axis in range(values.ndim) if axis not in axes)]
        self._shape = [values.shape[axis] for axis in self._order]
        self._channels = int(np.prod([values.shape[axis] for axis in axes]))
        rows = np.asarray(values.transpose(self._order).reshape(self._channels, -1), np.float32)
        self._mask = (rows != 0).astype(np.float32) if keep_zeros else np.ones_like(rows)
        code, scale = _start(rows, self._mask, self._free, shared=shared)
        self._code = tf.Variable(code, trainable=False)
        self._scale = tf.Variable(scale, trainable=False)
        self._kept = tf.Variable(np.zeros(rows.shape, np.int32), trainable=False)
        self._frozen = tf.Variable(initial_value=False, trainable=False)
        latent = tf.constant(values)
        for _ in range(_FIRST_ROUNDS):
            self(latent)

    def __call__(self, latent: Any) -> Any:
        """See `Projection`. Moves the values by one round."""
        rows = self._rows(latent)
        index = tf.cond(self._frozen, lambda: tf.identity(self._kept), lambda: self._nearest(rows))
        member = tf.one_hot(index, self._free) * self._mask[:, :, tf.newaxis]
        code, scale = self._code, self._scale
        weighted, power = tf.einsum("cn,cnf->cf", rows * scale, member), tf.reduce_sum(member, axis=1) * scale**2
        if self._shared:
            weighted = tf.reduce_sum(weighted, axis=0, keepdims=True)
            power = tf.reduce_sum(power, axis=0, keepdims=True)
        code = tf.where(power > 0, weighted / tf.maximum(power, 1e-20), code)
        if self._shared:
            code, scale = self._rescale(rows, member, code, scale)
        self._code.assign(code)
        self._scale.assign(scale)
        values = tf.einsum("cnf,cf->cn", member, tf.broadcast_to(code, [self._channels, self._free])) * scale
        back = [int(place) for place in np.argsort(self._order)]
        return tf.transpose(tf.reshape(values, self._shape), back)

    def start_epoch(self, epoch: int, epochs: int, latent: Any) -> None:
        """Fix the assignments where the last part begins."""
        if not bool(self._frozen) and epoch >= epochs - math.ceil(self._settle * epochs):
            self._kept.assign(self._nearest(self._rows(latent)))
            self._frozen.assign(value=True)

    def is_final(self, epoch: int, epochs: int) -> bool:  # noqa: ARG002
        """Always: there are never more values than allowed."""
        return True

    def state(self) -> list[np.ndarray]:
        """Values, scales and assignments."""
        return [item.numpy() for item in self._variables()]

    def restore(self, state: list[np.ndarray]) -> None:
        """See `Projection`."""
        for variable, values in zip(self._variables(), state, strict=True):
            variable.assign(values)

    def _variables(self) -> tuple[Any, ...]:
        return self._code, self._scale, self._kept, self._frozen

    def _rows(self, latent: Any) -> Any:
        return tf.reshape(tf.transpose(latent, self._order), [self._channels, -1])

    def _nearest(self, rows: Any) -> Any:
        """Number of the nearest value, shape of rows; with one codebook every channel gets one of its ends."""
        relative = rows / self._scale
        borders = (self._code[:, 1:] + self._code[:, :-1]) / 2
        index = tf.reduce_sum(tf.cast(relative[:, :, tf.newaxis] > borders[:, tf.newaxis, :], tf.int32), axis=2)
        if not self._shared:
            return index
        size = tf.abs(relative) * self._mask
        is_end = tf.logical_or(tf.equal(index, 0), tf.equal(index, self._free - 1))
        has_end = tf.reduce_any(tf.logical_and(is_end, self._mask > 0), axis=1, keepdims=True)
        largest = tf.one_hot(tf.argmax(size, axis=1), rows.shape[1], on_value=True, off_value=False, dtype=tf.bool)
        ends = tf.where(relative > 0, self._free - 1, 0)
        return tf.where(tf.logical_and(largest, tf.logical_not(has_end)), ends, index)

    def _rescale(self, rows: Any, member: Any, code: Any, scale: Any) -> tuple[Any, Any]:
        """Values from -1 to 1, and the scale of every channel that fits them best (least squares)."""
        reach = tf.maximum((code[:, -1:] - code[:, :1]) / 2, 1e-20)
        inner = tf.clip_by_value(code[:, 1:-1] / reach, -1.0, 1.0)
        code = tf.concat([-tf.ones_like(reach), inner, tf.ones_like(reach)], axis=1)
        values = tf.einsum("cnf,f->cn", member, code[0])
        power = tf.reduce_sum(values**2, axis=1, keepdims=True)
        fitted = tf.reduce_sum(rows * values, axis=1, keepdims=True) / tf.maximum(power, 1e-20)
        # A channel of zeros, or one whose best scale would turn its signs, keeps the scale that it had.
        return code, tf.where(fitted > 0, fitted, scale * reach)


def _start(rows: np.ndarray, mask: np.ndarray, count: int, *, shared: bool) -> tuple[np.ndarray, np.ndarray]:
    """Values spread evenly over twice the deviation of the weights; scales of the channels."""
    kept = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    mean = (rows * mask).sum(axis=1, keepdims=True) / kept
    deviation = np.sqrt((((rows - mean) * mask) ** 2).sum(axis=1, keepdims=True) / kept)
    reach = np.maximum(2 * deviation, np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 4, 1e-8))
    spread = np.linspace(-1, 1, count, dtype=np.float32)[np.newaxis]
    if shared:
        return spread, reach.astype(np.float32)
    return (mean + reach * spread).astype(np.float32), np.ones_like(mean, np.float32)
