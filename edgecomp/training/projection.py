"""Weights that must keep a form while they are trained: zeros, few values, a coarse grid.

The optimizer moves latent weights; the model computes with what a projection makes of them, and gradients pass
straight through it (Bengio et al., arXiv 1308.3432). So any layer can be pruned or clustered without being wrapped,
and a quantization-aware layer can be too, which is all that PQAT, CQAT and PCQAT are.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import tensorflow as tf


class Projection(Protocol):
    """What the model's weights are, given the latent ones."""

    def __call__(self, latent: Any) -> Any:
        """Weights of the same shape. Part of the training graph: what changes over time must be a tf.Variable."""
        ...

    def start_epoch(self, epoch: int, epochs: int, latent: Any) -> None:
        """Renew what is renewed between epochs; `latent` is a tensor, epochs count from 0."""
        ...

    def is_final(self, epoch: int, epochs: int) -> bool:
        """Whether the weights have their final form in this epoch: only then can it be the best one."""
        ...

    def state(self) -> list[np.ndarray]:
        """What a resumed run needs."""
        ...

    def restore(self, state: list[np.ndarray]) -> None:
        """Take up a state."""
        ...


class Mask:
    """Zeros that stay zeros.

    Args:
        keep: Shape of the weights; False where they are zero.
    """

    def __init__(self, keep: np.ndarray) -> None:
        self._keep = tf.Variable(keep.astype(np.float32), trainable=False)

    def __call__(self, latent: Any) -> Any:
        """See `Projection`."""
        # A product would make zeros of both signs, and a file with those deflates worse.
        return tf.where(self._keep > 0, latent, 0.0)

    def start_epoch(self, epoch: int, epochs: int, latent: Any) -> None:
        """Nothing changes."""

    def is_final(self, epoch: int, epochs: int) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def state(self) -> list[np.ndarray]:
        """The mask."""
        return [self._keep.numpy()]

    def restore(self, state: list[np.ndarray]) -> None:
        """See `Projection`."""
        self._keep.assign(state[0])
