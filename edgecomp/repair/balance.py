"""How the channels between two layers are best scaled: the expected error of the second layer, and its minimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecomp.repair.activations import ChannelStatistics
from edgecomp.repair.layers import Layer

FLOOR = 1e-6
"""Of the largest range: a channel below that counts as always 0."""

_ACTIVATION_LEVELS = 255
_STEPS = 300
_FIRST_STEP = 0.05  # Of log s; shrinks to 0.
_DECAY = (0.9, 0.99)  # Of Adam's averages.


@dataclass(frozen=True)
class Balance:
    """The expected error of the second layer as a function of the scales s of the channels.

    Rounding to steps of width d gives an error of variance d^2 / 12. With x_k the features that the layer reads, w its
    weights and s_k the scale of the feature's channel, the sum over the outputs o, each relative to its range r_o, is

        sum_o ( R(s)^2 * sum_k (w_ok * s_k)^2 + M_o(s)^2 * sum_k E[x_k^2] / s_k^2 ) / (12 * r_o^2)

    where R(s) = (max_i high_i / s_i - min_i low_i / s_i) / 255 is the step of the activations and
    M_o(s) = max_k |w_ok * s_k| / weight_levels that of the weights of output o. Every part is a product of
    powers of s, or a sum or maximum of such: in log s it is convex, so there is one minimum.

    Attributes:
        squares: Sum over the kernel of w_ok^2, (out, features); 0 where o does not read k.
        peaks: Largest |w_ok| over the kernel, (out, features).
        power: Sum over the kernel of E[x_k^2], (out, features), 0 where o does not read k.
        weight: 1 / r_o^2, (out,); 0 for outputs that are always 0.
        channels: Channel of each feature.
        low, high: Range of each element of the rounded tensor, whose channels are `rounded`.
        weight_levels: Largest integer of a weight.
    """

    squares: np.ndarray
    peaks: np.ndarray
    power: np.ndarray
    weight: np.ndarray
    channels: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rounded: np.ndarray
    weight_levels: int

    def ranges(self, count: int) -> np.ndarray:
        """Largest magnitude of each channel, (channels,)."""
        ranges = np.zeros(count)
        np.maximum.at(ranges, self.rounded, np.maximum(self.high, -self.low))
        return ranges

    def error(self, scales: np.ndarray) -> float:
        """The sum above, without the 1 / 12."""
        return self._error_and_slope(np.log(scales))[0]

    def _error_and_slope(self, logs: np.ndarray) -> tuple[float, np.ndarray]:
        """The error, and its derivative by the logarithm of each scale (one of them where a maximum has a corner)."""
        features, rounded = np.exp(logs)[self.channels], np.exp(logs)[self.rounded]
        highs, lows = self.high / rounded, self.low / rounded
        top, bottom = int(highs.argmax()), int(lows.argmin())
        step = (highs[top] - lows[bottom]) / _ACTIVATION_LEVELS
        by_activations = step**2 * (self.weight @ (self.squares * features**2))
        reached = self.peaks * features
        steps = reached.max(axis=1) / self.weight_levels
        by_weights = (self.weight * steps**2)[:, None] * self.power * features**-2.0
        error = float(by_activations.sum() + by_weights.sum())

        slope = np.zeros(len(logs))
        np.add.at(slope, self.channels, 2 * (by_activations - by_weights.sum(axis=0)))
        np.add.at(slope, self.channels[reached.argmax(axis=1)], 2 * by_weights.sum(axis=1))
        if step > 0:
            share = 2 * by_activations.sum() / (step * _ACTIVATION_LEVELS)
            slope[self.rounded[top]] -= share * highs[top]
            slope[self.rounded[bottom]] += share * lows[bottom]
        return error, slope

    def minimize(self, count: int) -> np.ndarray:
        """The scales of least error, their geometric mean 1; 1 for channels that are always 0 or never read.

        Subgradient descent on log s with Adam's step sizes, from the channels' ranges; the best point met is kept.
        """
        ranges, readers = self.ranges(count), np.zeros(count)
        np.maximum.at(readers, self.channels, self.peaks.max(axis=0))
        live = (ranges > FLOOR * ranges.max()) & (readers > 0)
        logs = np.zeros(count)
        if not live.any():
            return np.ones(count)
        logs[live] = np.log(ranges[live]) - np.log(ranges[live]).mean()
        best, least = logs, np.inf
        mean, variance = np.zeros(count), np.zeros(count)
        for number in range(1, _STEPS + 1):
            error, slope = self._error_and_slope(logs)
            if error < least:
                best, least = logs, error
            if error == 0:
                break
            slope = np.where(live, slope / error, 0.0)
            mean = _DECAY[0] * mean + (1 - _DECAY[0]) * slope
            variance = _DECAY[1] * variance + (1 - _DECAY[1]) * slope**2
            direction = mean / (1 - _DECAY[0] ** number)
            size = np.sqrt(variance / (1 - _DECAY[1] ** number)) + 1e-12
            logs = logs - _FIRST_STEP * (1 - number / _STEPS) * direction / size
        return np.exp(np.where(live, best - best[live].mean(), 0.0))


def make_balance(
    second: Layer,
    weights: np.ndarray,
    channels: np.ndarray,
    *,
    inputs: ChannelStatistics,
    outputs: ChannelStatistics,
    rounded: ChannelStatistics,
    rounded_channels: np.ndarray,
    weight_bits: int,
) -> Balance:
    """The balance for a layer that reads scaled channels.

    Args:
        second: The layer.
        weights: Its real weights.
        channels: Channel of each of its input features.
        inputs: Of its input tensor.
        outputs: Of its output tensor.
        rounded: Of the tensor whose rounding it sees.
        rounded_channels: Channel of each element of the last axis of that tensor.
        weight_bits: 8, or 4.
    """
    features = len(channels)
    if second.is_depthwise:
        count = weights.shape[3]
        reads = np.zeros((count, features))
        reads[np.arange(count), np.arange(count) // (count // features)] = 1
        squares = reads * (weights**2).sum(axis=(0, 1, 2))[:, None]
        peaks = reads * np.abs(weights).max(axis=(0, 1, 2))[:, None]
        kernel = weights.shape[1] * weights.shape[2]
    else:
        flat = weights.reshape(weights.shape[0], -1, weights.shape[-1])
        groups = features // flat.shape[2]
        group_of = np.repeat(np.arange(groups), flat.shape[0] // groups)
        reads = np.repeat(group_of[:, None] == np.arange(groups), flat.shape[2], axis=1).astype(float)
        squares = reads * np.tile((flat**2).sum(axis=1), groups)
        peaks = reads * np.tile(np.abs(flat).max(axis=1), groups)
        kernel = flat.shape[1]
    reach = np.maximum(outputs.high, -outputs.low).astype(np.float64)
    is_live = reach > FLOOR * reach.max()
    return Balance(
        squares=squares,
        peaks=peaks,
        power=reads * kernel * np.resize(inputs.power, features),
        weight=np.where(is_live, np.where(is_live, reach, 1.0) ** -2.0, 0.0),
        channels=channels,
        low=rounded.low.astype(np.float64),
        high=rounded.high.astype(np.float64),
        rounded=rounded_channels,
        weight_levels=2 ** (weight_bits - 1) - 1,
    )
