"""Training and validation samples as tensors: cached, shuffled by seed and epoch, augmented on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.data import BoundDataset
from edgecomp.data.binding import Split
from edgecomp.data.labels import LabelKind
from edgecomp.errors import MissingDataError

# Below this the samples are kept in memory as the model takes them; above, every batch is read from disk again.
_CACHE_BYTES = 1 << 30
_AUTOTUNE_BATCHES = 2


@dataclass(frozen=True)
class Labels:
    """Labels of one output: array of shape (n, ...) and what they are."""

    values: np.ndarray
    kind: LabelKind


class Samples:
    """Samples of one split for one model, followed by unlabelled ones.

    Attributes:
        count: Labelled and unlabelled samples.
        labelled: How many of them, the first ones, have labels.
        labels: By output name; empty without labels.
    """

    def __init__(self, split: Split, kinds: dict[str, LabelKind], unlabelled: Split | None = None) -> None:
        self._parts = [split] if unlabelled is None else [split, unlabelled]
        labels = split.labels
        self.labels = {} if labels is None else {name: Labels(labels[name], kinds[name]) for name in labels}
        self.count = sum(part.count for part in self._parts)
        self.labelled = split.count if self.labels else 0
        self.input_names = list(split.head(1).read())
        first = split.head(1).read()
        self._dtypes = [first[name].dtype for name in self.input_names]
        self._shapes = [first[name].shape[1:] for name in self.input_names]
        self._cached: list[np.ndarray] | None = None
        if self.count * sum(values.nbytes for values in first.values()) <= _CACHE_BYTES:
            parts = [part.read() for part in self._parts]
            self._cached = [np.concatenate([part[name] for part in parts]) for name in self.input_names]
        # Labels of unlabelled samples are never looked at: they are there to make batches rectangular.
        extra = self.count - split.count
        self._label_arrays = [
            np.concatenate([item.values, np.zeros((extra, *item.values.shape[1:]), item.values.dtype)])
            for item in self.labels.values()
        ]

    def batches(self, batch_size: int, order: np.ndarray | None = None) -> Any:
        """tf.data of (inputs, labels, positions): two tuples of tensors, and int64 of shape (n,).

        Args:
            batch_size: Samples a batch; the last may be smaller.
            order: Positions to read; None for all, in order.
        """
        order = np.arange(self.count) if order is None else order
        positions = tf.data.Dataset.from_tensor_slices(order.astype(np.int64)).batch(batch_size)
        return positions.map(self._gather, num_parallel_calls=1, deterministic=True).prefetch(_AUTOTUNE_BATCHES)

    def _gather(self, positions: Any) -> Any:
        dtypes = [*self._dtypes, *(values.dtype for values in self._label_arrays)]
        shapes = [*self._shapes, *(values.shape[1:] for values in self._label_arrays)]
        read = tf.numpy_function(self._read, [positions], dtypes)
        for tensor, shape in zip(read, shapes, strict=True):
            tensor.set_shape((None, *shape))
        inputs = len(self._dtypes)
        return tuple(read[:inputs]), tuple(read[inputs:]), positions

    def _read(self, positions: np.ndarray) -> list[np.ndarray]:
        if self._cached is not None:
            inputs = [values[positions] for values in self._cached]
        else:
            inputs = self._from_disk(positions)
        return inputs + [values[positions] for values in self._label_arrays]

    def _from_disk(self, positions: np.ndarray) -> list[np.ndarray]:
        arrays = [np.empty((len(positions), *s), d) for s, d in zip(self._shapes, self._dtypes, strict=True)]
        start = 0
        for part in self._parts:
            places = np.flatnonzero((positions >= start) & (positions < start + part.count))
            if len(places):
                rows = part.take(positions[places] - start).read()
                for array, name in zip(arrays, self.input_names, strict=True):
                    array[places] = rows[name]
            start += part.count
        return arrays


@dataclass(frozen=True)
class TrainingData:
    """What a technique may learn from.

    Attributes:
        train: With the unlabelled samples behind the labelled ones; None where the user gave no training data.
        validation: Taken from the training data (never the test split).
    """

    train: Samples | None
    validation: Samples

    def require_train(self, technique: str) -> Samples:
        """The training samples.

        Raises:
            MissingDataError: There are none.
        """
        if self.train is None:
            raise MissingDataError(
                f"{technique} needs training samples and the data has none.",
                hint="Add x_train and y_train to the data, or use --preview, which trains nothing.",
            )
        return self.train


def training_data(bound: BoundDataset, unlabelled: BoundDataset | None = None) -> TrainingData:
    """The train and validation splits of a bound data set.

    Args:
        bound: The user's data.
        unlabelled: More inputs for the teacher to label; its train split is used.

    Raises:
        MissingDataError: The validation split is missing.
    """
    kinds = bound.label_kinds
    extra = None if unlabelled is None else unlabelled.split("train")
    train = Samples(bound.split("train"), kinds, extra) if bound.has("train") else None
    return TrainingData(train, Samples(bound.split("validation"), kinds))


def augment(inputs: tuple[Any, ...], names: tuple[str, ...], seed: Any) -> tuple[Any, ...]:
    """Random changes of a batch; inputs without the axes that a change needs pass through.

    Args:
        inputs: Tensors of shape (n, ...).
        names: As in `TrainingSettings.augment`.
        seed: Shape (2,), int32; the same seed gives the same changes.
    """
    for number, name in enumerate(names):
        own = tf.random.experimental.stateless_fold_in(seed, number)
        inputs = tuple(_CHANGES[name](values, own) for values in inputs)
    return inputs


def _flip(values: Any, seed: Any) -> Any:
    if values.shape.rank != 4:
        return values
    mirrored = tf.random.stateless_uniform([tf.shape(values)[0], 1, 1, 1], seed) < 0.5
    return tf.where(mirrored, tf.reverse(values, [2]), values)


def _shift(values: Any, seed: Any) -> Any:
    """Move each sample by up to an eighth along its axes between batch and channels, mirroring at the border."""
    if values.shape.rank not in (3, 4):
        return values
    for axis in range(1, values.shape.rank - 1):
        size = values.shape[axis]
        reach = size // 8
        if reach == 0:
            continue
        pads = [[0, 0] if number != axis else [reach, reach] for number in range(values.shape.rank)]
        padded = tf.pad(values, pads, mode="REFLECT")
        own = tf.random.experimental.stateless_fold_in(seed, axis)
        starts = tf.random.stateless_uniform([tf.shape(values)[0], 1], own, 0, 2 * reach + 1, tf.int32)
        values = tf.gather(padded, starts + tf.range(size)[tf.newaxis], axis=axis, batch_dims=1)
    return values


def _noise(values: Any, seed: Any) -> Any:
    if not values.dtype.is_floating:
        return values
    deviation = tf.math.reduce_std(values)
    return values + 0.05 * deviation * tf.random.stateless_normal(tf.shape(values), seed, dtype=values.dtype)


_CHANGES = {"flip": _flip, "shift": _shift, "noise": _noise}
