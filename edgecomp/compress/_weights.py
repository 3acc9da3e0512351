"""The kernels of a tf_keras model as techniques see them: their channels, their zeros, their distinct values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Fewer zeros than this are an accident of training, not pruning.
_LEAST_SPARSITY = 0.1
# More values than this in a channel are no codebook: indices of 7 bits save hardly anything.
_MOST_CLUSTERS = 64


@dataclass(frozen=True)
class Kernel:
    """The main weights of a layer.

    Attributes:
        layer: The tf_keras layer.
        variable: Its kernel.
        axes: Axes of the kernel that together number its output channels, as TFLite quantizes them.
    """

    layer: Any
    variable: Any
    axes: tuple[int, ...]

    def channels(self, values: np.ndarray) -> np.ndarray:
        """A kernel as one row a channel, shape (channels, weights of a channel)."""
        rest = [axis for axis in range(values.ndim) if axis not in self.axes]
        moved = values.transpose(*self.axes, *rest)
        rows: np.ndarray = moved.reshape(int(np.prod([values.shape[axis] for axis in self.axes])), -1)
        return rows

    def restore(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of `channels`."""
        shape = tuple(self.variable.shape)
        rest = [axis for axis in range(len(shape)) if axis not in self.axes]
        order = (*self.axes, *rest)
        moved = rows.reshape([shape[axis] for axis in order])
        return np.ascontiguousarray(moved.transpose(np.argsort(order)))


def kernels(model: Any) -> list[Kernel]:
    """Every layer with a kernel, once, in the order of the model; of quantization wrappers the layer inside."""
    import tf_keras

    layers = tf_keras.layers
    found = []
    for layer in model._flatten_layers(include_self=False, recursive=True):
        # Depthwise and transposed convolutions are convolutions in tf_keras's class tree: they must be asked for first.
        if isinstance(layer, layers.DepthwiseConv2D):
            found.append(Kernel(layer, layer.depthwise_kernel, (2, 3)))
        elif isinstance(layer, layers.Conv1DTranspose | layers.Conv2DTranspose | layers.Conv3DTranspose):
            found.append(Kernel(layer, layer.kernel, (len(layer.kernel.shape) - 2,)))
        elif isinstance(layer, layers.Conv2D | layers.Conv1D | layers.Conv3D | layers.Dense):
            found.append(Kernel(layer, layer.kernel, (len(layer.kernel.shape) - 1,)))
    return found


def sparsity_of(values: np.ndarray) -> float:
    """Fraction of exact zeros."""
    return float(np.mean(values == 0))


def is_pruned(values: np.ndarray) -> bool:
    """Whether a kernel has so many zeros that somebody put them there."""
    return sparsity_of(values) >= _LEAST_SPARSITY


def clusters_of(rows: np.ndarray) -> int:
    """Most distinct values that any channel has; rows as `Kernel.channels` gives them."""
    ordered = np.sort(rows, axis=1)
    return int((np.diff(ordered, axis=1) != 0).sum(axis=1).max(initial=0)) + 1


def is_clustered(rows: np.ndarray) -> bool:
    """Whether every channel has so few values that somebody made them few; the zeros of a pruned one do not count."""
    nonzero = np.sort(rows, axis=1)
    distinct = int(np.sum((np.diff(nonzero, axis=1, prepend=np.nan) != 0) & (nonzero != 0)))
    return clusters_of(rows) <= _MOST_CLUSTERS and 0 < distinct <= int(np.count_nonzero(rows)) // 2
