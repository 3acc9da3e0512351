"""Second moments of what the kernels of a model meet on real samples: what its factors are fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras

from edgecomp.keras_graph import LayerCall
from edgecomp.training.samples import TrainingData

_SAMPLES, _BATCH, _POSITIONS = 256, 32, 64
# The moments of more inputs than this take gigabytes and minutes.
_MOST_INPUTS = 4096


@dataclass(frozen=True)
class Window:
    """The patches of a layer's input that its kernel meets; sizes and places as (height, width)."""

    size: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: str


@dataclass(frozen=True)
class Moments:
    """Of patches with n values each, in the order (height, width, in).

    Attributes:
        mean: Shape (n,).
        outer: Mean of the outer products, shape (n, n).
    """

    mean: np.ndarray
    outer: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """Of the values about their mean, shape (n, n)."""
        return self.outer - np.outer(self.mean, self.mean)


def collect(
    model: Any, calls: Sequence[LayerCall], windows: Mapping[int, Window], data: TrainingData
) -> dict[int, Moments]:
    """Moments of some layers, from 256 samples at 64 places each.

    Args:
        model: A flat model.
        calls: Every call of the layers in question.
        windows: id of a layer -> its patches.
        data: Training samples are taken where there are any, else validation samples; labels are not looked at.

    Returns:
        id of a layer -> moments; layers with more than 4096 values in a patch are left out.
    """
    calls = [call for call in calls if _values(call, windows) <= _MOST_INPUTS]
    if not calls:
        return {}
    samples = data.train or data.validation
    rng = np.random.default_rng(0)
    order = rng.permutation(samples.count)[:_SAMPLES]
    probe = tf_keras.Model(model.inputs, [call.inputs[0] for call in calls])
    sums: dict[int, tuple[int, Any, Any]] = {}
    for inputs, _, _ in samples.batches(_BATCH, order):
        # A single output comes without its list.
        made = probe(list(inputs), training=False)
        for call, values in zip(calls, made if len(calls) > 1 else [made], strict=True):
            grid = values.numpy()
            if grid.ndim != 4:  # Sequences and vectors are columns of positions.
                grid = grid.reshape(len(grid), -1, 1, grid.shape[-1])
            patches = draw_patches(grid, windows[id(call.layer)], rng)
            count, total, outer = sums.get(id(call.layer), (0, 0.0, 0.0))
            sums[id(call.layer)] = (
                count + len(patches), total + patches.sum(0), outer + patches.T @ patches,
            )  # fmt: skip
    return {key: Moments(total / count, outer / count) for key, (count, total, outer) in sums.items()}


def _values(call: LayerCall, windows: Mapping[int, Window]) -> int:
    height, width = windows[id(call.layer)].size
    return height * width * int(call.inputs[0].shape[-1])


def draw_patches(values: np.ndarray, window: Window, rng: np.random.Generator) -> np.ndarray:
    """Patches at up to 64 places of each sample.

    Args:
        values: Inputs of a layer, shape (samples, height, width, in).
        window: What a patch is.
        rng: Draws the places, for each sample its own, with repetition.

    Returns:
        Shape (patches, height * width * in), float64.
    """
    (height, width), padding = window.size, window.padding
    rows, columns = (
        _axis(values.shape[axis + 1], window.size[axis], window.strides[axis], window.dilation[axis], padding)
        for axis in (0, 1)
    )
    padded = np.pad(values, ((0, 0), rows[:2], columns[:2], (0, 0)))
    places = min(rows[2] * columns[2], _POSITIONS)
    top = rng.integers(0, rows[2], (len(values), places)) * window.strides[0]
    left = rng.integers(0, columns[2], (len(values), places)) * window.strides[1]
    y = top[..., None, None] + window.dilation[0] * np.arange(height)[:, None]
    x = left[..., None, None] + window.dilation[1] * np.arange(width)[None]
    sample = np.arange(len(values))[:, None, None, None]
    patches: np.ndarray = padded[sample, y, x].reshape(len(values) * places, -1)
    return patches.astype(np.float64)


def _axis(size: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int, int]:
    """Zeros before and after an axis, and places on it, by TensorFlow's rules."""
    reach = (kernel - 1) * dilation + 1
    if padding == "causal":
        return reach - 1, 0, -(-size // stride)
    if padding == "valid":
        return 0, 0, (size - reach) // stride + 1
    places = -(-size // stride)
    missing = max((places - 1) * stride + reach - size, 0)
    return missing // 2, missing - missing // 2, places
