"""The work of `distill`: the student, and its training. Imported by the TensorFlow worker only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tf_keras

from edgecomp.compress._base import Compressed, Context, LayerChange, Skipped
from edgecomp.compress._channels.compensation import compensated, input_moments
from edgecomp.compress._channels.cut import changes, cut
from edgecomp.compress._channels.groups import ChannelGraph, Keep, channel_graph
from edgecomp.compress._channels.importance import magnitude
from edgecomp.compress._channels.normalization import renew_statistics
from edgecomp.compress._channels.rounding import allowed_counts, channel_multiple
from edgecomp.compress._student_blocks import blocks, choose_dropped, repeated, without
from edgecomp.compress.distill import Options
from edgecomp.errors import CompressionError, UsageError
from edgecomp.keras_graph import flatten
from edgecomp.profile import DeviceProfile
from edgecomp.training.samples import TrainingData

_SAMPLES, _BATCH = 256, 64


def taught(model: Any, options: Options, context: Context) -> Compressed:
    """See `distill.apply`."""
    context.data.require_train("distill")
    if context.settings.distill_weight == 0:
        raise UsageError(
            "distill learns from a teacher, whose weight in the loss is 0.", hint="Raise --distill-weight above 0."
        )
    made = student(model, options, context.profile, context)
    teacher = model if context.teacher is None else context.teacher
    with _quick_statistics(made.model, context):
        history = context.fine_tune(made.model, "distill", teacher=teacher)
    return Compressed(made.model, made.changes, made.skipped, history, made.notes)


@contextmanager
def _quick_statistics(model: Any, context: Context) -> Iterator[None]:
    """Within it the running statistics of batch normalization forget nine tenths in an epoch, or more.

    A student's activations move far. With few samples a momentum of 0.99 would hold on to those of the first epochs,
    and validation would not see what has been learned.
    """
    steps = -(-context.data.require_train("distill").count // context.settings.batch_size)
    norms = [layer for layer in model.layers if isinstance(layer, tf_keras.layers.BatchNormalization)]
    usual = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = min(layer.momentum, 0.1 ** (1 / steps))
    try:
        yield
    finally:
        for layer, momentum in zip(norms, usual, strict=True):
            layer.momentum = momentum


def student(model: Any, options: Options, profile: DeviceProfile | None, context: Context | None) -> Compressed:
    """See `distill.preview`; without a context the inherited weights are not adjusted to samples."""
    made = flatten(model)
    compared = () if context is None else context.settings.feature_layers
    inputs = [] if context is None else _inputs(context.data)
    changed: list[LayerChange] = []
    skipped: list[Skipped] = []
    if options.depth < 1:
        made, dropped, reasons = _shallower(made, options.depth, compared)
        changed, skipped = changed + dropped, skipped + reasons
    if options.width < 1:
        graph = channel_graph(made, compared)
        skipped += graph.skipped()
        if graph.groups:
            keep = largest(graph, options.width, profile)
            changed += changes(graph, keep)
            with compensated(graph, graph.kept(keep), input_moments(graph, inputs)):
                made = cut(graph, keep)
    if not changed:
        raise CompressionError(
            f"distill: with width {options.width:g} and depth {options.depth:g} the student would be the model itself.",
            hint=_hint(skipped),
        )
    if inputs:
        renew_statistics(made, inputs)
    return Compressed(made, tuple(changed), tuple(skipped))


def _shallower(model: Any, depth: float, compared: tuple[str, ...]) -> tuple[Any, list[LayerChange], list[Skipped]]:
    stages = repeated(blocks(model, compared))
    if not stages:
        return model, [], [Skipped(model.name, "it has no repeated blocks that could be dropped")]
    dropped = choose_dropped(stages, depth)
    changed = [
        LayerChange(" + ".join(block.kernels), f"block dropped, {' x '.join(map(str, block.shape_out))} in and out")
        for block in dropped
    ]
    return without(model, dropped), changed, []


def _inputs(data: TrainingData) -> list[tuple[Any, ...]]:
    """Batches of the samples that the inherited weights are adjusted to."""
    samples = data.train or data.validation
    order = np.random.default_rng(0).permutation(samples.count)[:_SAMPLES]
    batches = [inputs for inputs, _, _ in samples.batches(_BATCH, order)]
    # One sample has no variance.
    return [batch for batch in batches if len(batch[0]) > 1]


def _hint(skipped: list[Skipped]) -> str:
    if not skipped:
        return "Lower --width or --depth."
    return "; ".join(f"{item.layer}: {item.reason}" for item in skipped) + "."


def largest(graph: ChannelGraph, width: float, profile: DeviceProfile | None) -> Keep:
    """The channels with the largest weights, in every group the same part of them, rounded to what kernels like."""
    values = magnitude(graph)
    multiple, _ = channel_multiple(profile)
    keep = {}
    for index, (start, group) in enumerate(zip(graph.starts, graph.groups, strict=True)):
        counts = allowed_counts(group.size, group.width, multiple, least=1)
        count = min(counts, key=lambda count: abs(count - width * group.size))
        keep[index] = np.zeros(group.size, bool)
        keep[index][np.argsort(-values[start : start + group.size], kind="stable")[:count]] = True
    return keep
