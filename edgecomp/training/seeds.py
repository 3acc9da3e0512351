"""Runs that can be repeated bit by bit, also when they are interrupted between two epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras


def make_deterministic(seed: int) -> None:
    """Same samples, seed and machine: same weights. Costs nothing measurable on a CPU."""
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def use_restartable_generators() -> None:
    """Let the layers made from now on (dropout, noise) draw from generators whose state can be set.

    The default ones count inside TensorFlow's kernels: a run taken up after some epochs would draw other numbers.
    """
    tf_keras.backend.experimental.enable_tf_random_generator()


def start_epoch(model: Any, seed: int, epoch: int) -> None:
    """Set the generators of a model's layers to a state that depends on nothing but the arguments."""
    for number, layer in enumerate(model._flatten_layers(include_self=False)):
        source = getattr(layer, "_random_generator", None)
        if source is not None and source._rng_type == source.RNG_STATEFUL:
            source._maybe_init()
            source._generator.reset_from_seed(int(np.random.SeedSequence((seed, epoch, number)).generate_state(1)[0]))


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A shuffle of range(count) that depends on nothing but its arguments."""
    return np.random.default_rng((seed, epoch)).permutation(count)
