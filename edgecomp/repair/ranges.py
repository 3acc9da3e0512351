"""Which range of a tensor its integers cover: all of it (min-max), or less of it with smaller steps.

For activations the candidates come from histograms of real calibration activations, for 4-bit weights from the weights:

- min-max: nothing is clipped;
- MSE: the clipping with the smallest squared error, found by search;
- OCTAV: the same by Newton's method on the model of Sakr et al., Optimal Clipping and Magnitude-aware Differentiation
  for Improved Quantization-aware Training, 2022, arXiv 2206.06501, equation 6: rounding errors s^2 * 4^-bits / 3 inside
  of [-s, s], a quarter of it where values have one sign;
- percentiles: 99.9 and 99.99 % of the values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecomp.quantize import Samples
from edgecomp.repair.activations import Tracer

PERCENTILES = (99.9, 99.99)
_BINS = 2048
_FRACTIONS = np.linspace(0.2, 1.0, 81)
_COARSE = 4  # Every fourth of them where both ends are searched.
_NEWTON_STEPS = 30
# Of the error with min-max: what is not clearly better is not tried.
_WORTH_TRYING = 0.8


@dataclass(frozen=True)
class Range:
    """One choice for one tensor.

    Attributes:
        method: "min-max", "MSE", "OCTAV", "99.9 %" or "99.99 %".
        low, high: Real values; arrays broadcast against weights, one value for an activation.
        error: Expected squared error of the tensor, summed over its elements.
    """

    method: str
    low: Any
    high: Any
    error: float

    def statistics(self) -> dict[str, np.ndarray]:
        """As ai-edge-quantizer takes it."""
        return {"min": np.asarray(self.low, np.float32), "max": np.asarray(self.high, np.float32)}


@dataclass
class Histogram:
    """Values of one activation tensor over all samples.

    Attributes:
        edges: (bins + 1,), from the smallest to the largest value, 0 inside.
        counts: (bins,), without the values that are exactly 0: they are stored exactly, whatever the scale.
        zeros: How many those are.
    """

    edges: np.ndarray
    counts: np.ndarray
    zeros: int = 0

    def add(self, values: np.ndarray) -> None:
        """Count values; any outside of the edges count at the border."""
        flat = values[values != 0].reshape(-1)
        self.zeros += values.size - flat.size
        clipped = np.clip(flat, self.edges[0], self.edges[-1])
        self.counts += np.histogram(clipped, bins=len(self.counts), range=(self.edges[0], self.edges[-1]))[0]

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum()) + self.zeros

    @property
    def centers(self) -> np.ndarray:
        """The middle of every bin."""
        return np.asarray((self.edges[1:] + self.edges[:-1]) / 2)

    def error(self, low: float, high: float, bits: int) -> float:
        """Expected squared error for the range [low, high]: step^2 / 12 inside, the distance to it outside."""
        step = (high - low) / (2**bits - 1)
        outside = np.maximum(self.centers - high, 0) + np.maximum(low - self.centers, 0)
        return float(np.sum(self.counts * np.where(outside > 0, outside**2, step**2 / 12)))

    def quantile(self, fraction: float) -> float:
        """The value that this share of all values does not exceed."""
        order = np.argsort(np.append(self.centers, 0.0), kind="stable")
        counts = np.append(self.counts, self.zeros)[order]
        values = np.append(self.edges[1:], 0.0)[order]
        return float(values[np.searchsorted(np.cumsum(counts), fraction * counts.sum())])


def collect_histograms(
    float_model: bytes, samples: Samples, ranges: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, Histogram]:
    """Histograms of the activation tensors, in one pass.

    Args:
        float_model: Bytes of a float .tflite.
        samples: Real inputs by name, each of shape (1, *sample_shape).
        ranges: {"min": ..., "max": ...} by the name of the tensor.
    """
    tracer = Tracer(float_model)
    found: dict[str, Histogram] = {}
    tensors = []
    for tensor in tracer.graph.main.tensors:
        entry = ranges.get(tensor.name)
        if entry is None or tensor.is_constant or tensor.type != "FLOAT32":
            continue
        low, high = min(float(np.min(entry["min"])), 0.0), max(float(np.max(entry["max"])), 0.0)
        if high > low:
            tensors.append(tensor)
            found[tensor.name] = Histogram(np.linspace(low, high, _BINS + 1), np.zeros(_BINS, dtype=np.int64))
    for _ in tracer.run(samples):
        for tensor in tensors:
            found[tensor.name].add(tracer.value(tensor))
    return found


def activation_ranges(histogram: Histogram, bits: int = 8) -> list[Range]:
    """Every method's range for one activation tensor; min-max first."""
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    reach = max(high, -low)

    def clipped(method: str, bound: float) -> Range:
        ends = max(low, -bound), min(high, bound)
        return Range(method, *ends, histogram.error(*ends, bits))

    ranges = [clipped("min-max", reach)]
    lows = low * _FRACTIONS[::_COARSE] if low < 0 else [0.0]
    highs = high * (_FRACTIONS[::_COARSE] if low < 0 else _FRACTIONS)
    trials = (Range("MSE", *ends, histogram.error(*ends, bits)) for ends in itertools.product(lows, highs) if any(ends))
    ranges.append(min(trials, key=lambda item: item.error))
    divisor = 3 if low < 0 else 12
    magnitudes, counts = np.abs(histogram.centers)[None], histogram.counts[None].astype(np.float64)
    ranges.append(clipped("OCTAV", float(_octav(magnitudes, counts, bits, divisor)[0])))
    for percent in PERCENTILES:
        beyond = (1 - percent / 100) / (2 if low < 0 else 1)
        ends = min(histogram.quantile(beyond), 0.0) if low < 0 else 0.0, max(histogram.quantile(1 - beyond), 0.0)
        if ends[1] > ends[0]:
            ranges.append(Range(f"{percent:g} %", *ends, histogram.error(*ends, bits)))
    return ranges


def weight_ranges(weights: np.ndarray, power: np.ndarray, axis: int, bits: int) -> list[Range]:
    """Every method's ranges for one weight tensor, a range for each output channel; min-max first.

    Args:
        weights: Real values.
        power: Mean square of the input feature that each weight meets, broadcast against `weights`: an error of a
            weight counts as much as it changes what the layer computes.
        axis: Of the output channels.
        bits: Of an integer.
    """
    flat = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    heavy = np.moveaxis(np.broadcast_to(power, weights.shape), axis, 0).reshape(flat.shape)
    magnitudes = np.abs(flat)
    reach = np.maximum(magnitudes.max(axis=1), np.finfo(np.float32).tiny)

    def error(bound: np.ndarray) -> np.ndarray:
        scale = bound[:, None] / (2 ** (bits - 1) - 1)
        stored = np.clip(np.round(flat / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return np.asarray(((stored * scale - flat) ** 2 * heavy).sum(axis=1))

    bounds = {"min-max": reach}
    trials = np.stack([reach * part for part in _FRACTIONS])
    errors = np.stack([error(bound) for bound in trials])
    bounds["MSE"] = trials[errors.argmin(axis=0), np.arange(len(reach))]
    bounds["OCTAV"] = np.minimum(_octav(magnitudes, np.ones_like(magnitudes), bits, 3), reach)
    for percent in PERCENTILES:
        bounds[f"{percent:g} %"] = np.quantile(magnitudes, percent / 100, axis=1)
    shape = [1] * weights.ndim
    shape[axis] = -1
    return [
        Range(method, -bound.reshape(shape), bound.reshape(shape), float(error(np.maximum(bound, 1e-30)).sum()))
        for method, bound in bounds.items()
    ]


def _octav(magnitudes: np.ndarray, counts: np.ndarray, bits: int, divisor: int) -> np.ndarray:
    """Iterate s = sum(|x| where |x| > s) / (4^-bits / divisor * count(|x| <= s) + count(|x| > s)), row by row."""
    bound: np.ndarray = (magnitudes * counts).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
    for _ in range(_NEWTON_STEPS):
        beyond = np.where(magnitudes > bound[:, None], counts, 0)
        inside = counts.sum(axis=1) - beyond.sum(axis=1)
        bound = (magnitudes * beyond).sum(axis=1) / np.maximum(
            4.0**-bits / divisor * inside + beyond.sum(axis=1), np.finfo(np.float64).tiny
        )
    return bound


def choose_greedily(
    tensors: Mapping[str, Sequence[Range]],
    snr_db: Callable[[Mapping[str, Range]], float | None],
    *,
    margin_db: float,
    max_trials: int,
) -> dict[str, Range]:
    """Tensors that are better off with another range than min-max.

    Those whose own error falls most are tried first, each with its best range; a change stays if the outputs of the
    whole network become better by the margin.

    Args:
        tensors: Ranges by name of the tensor, min-max first.
        snr_db: SNR of the network's outputs with these ranges, min-max for all others; None if they change nothing.
        margin_db: What a change must gain.
        max_trials: Calls of `snr_db` at most, the first one without any change not counted.

    Returns:
        The changes by name.
    """
    best = {name: min(ranges, key=lambda item: item.error) for name, ranges in tensors.items()}
    shares = {name: best[name].error / ranges[0].error for name, ranges in tensors.items() if ranges[0].error > 0}
    order = sorted((name for name, share in shares.items() if share < _WORTH_TRYING), key=lambda name: shares[name])
    chosen: dict[str, Range] = {}
    reached = snr_db(chosen)
    for name in order[:max_trials]:
        trial = snr_db(chosen | {name: best[name]})
        if trial is not None and reached is not None and trial >= reached + margin_db:
            chosen[name], reached = best[name], trial
    return chosen
