"""The work of `structured_prune`. Imported by the TensorFlow worker only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgecomp.compress._base import Compressed, Context, Footprint
from edgecomp.compress._channels.allocation import Curve, allocate
from edgecomp.compress._channels.compensation import InputMoments, compensated, input_moments
from edgecomp.compress._channels.cost import ChannelCost
from edgecomp.compress._channels.cut import changes, cut
from edgecomp.compress._channels.groups import ChannelGraph, channel_graph
from edgecomp.compress._channels.importance import bn_scale, magnitude, own_answers, taylor
from edgecomp.compress._channels.normalization import renew_statistics
from edgecomp.compress._channels.rounding import allowed_counts, channel_multiple
from edgecomp.compress._channels.sensitivity import (
    Damage,
    keep_best,
    measured_counts,
    measured_curves,
    weight_curves,
)
from edgecomp.compress._footprint import footprint
from edgecomp.compress._qat_keep import keeping
from edgecomp.compress._weights import is_clustered, is_pruned, kernels
from edgecomp.compress.structured_prune import Options
from edgecomp.errors import CompressionError
from edgecomp.keras_graph import flatten
from edgecomp.profile import DeviceProfile
from edgecomp.training.loop import History
from edgecomp.training.projection import Projection
from edgecomp.training.samples import Samples, TrainingData
from edgecomp.training.task import make_task

_NAME = "structured_prune"
_BATCH = 64
# For importance, moments and statistics; more changes little.
_LEARNED_SAMPLES = 1024
# Sensitivity: (groups at most, points of each curve); samples; and the multiply-accumulates that all of it should take
# (a minute on two cores), as far as the fewest samples allow.
_POINTS, _LEAST_POINTS = ((16, 7), (64, 4)), 3
_MOST_SAMPLES, _LEAST_SAMPLES = 512, 32
_MEASURED_MACS = 1e12


def pruned(model: Any, options: Options, context: Context, *, train: bool) -> Compressed:
    """See `structured_prune.preview` and `structured_prune.apply`."""
    if train:
        context.data.require_train(_NAME)
    known = _known(model, options, context, context.settings.feature_layers if train else ())
    graph, moments, scores, allowed = known.graph, known.moments, known.scores, known.allowed
    cost = ChannelCost(graph, options.cost)
    left = allocate(known.curves, allowed, cost, cost.whole * (1 - options.ratio))
    keep = keep_best(graph, scores, left)
    with compensated(graph, graph.kept(keep), moments):
        smaller = cut(graph, keep)
    renewed = 0 if context.data.train is None else renew_statistics(smaller, _inputs(context.data.train, context))
    history = _fine_tuned(smaller, context) if train else None
    notes = _notes(options, context, 1 - cost.of(left) / cost.whole, renewed)
    return Compressed(smaller, changes(graph, keep), graph.skipped(), history, notes)


@dataclass(frozen=True)
class _Known:
    """What is measured of a model on some data before anything is cut, whatever the ratio."""

    model: Any
    data: TrainingData
    graph: ChannelGraph
    moments: dict[int, InputMoments]
    scores: np.ndarray
    allowed: list[list[int]]
    curves: list[Curve]


_KEPT: dict[str, _Known] = {}


def _known(model: Any, options: Options, context: Context, keep_layers: tuple[str, ...]) -> _Known:
    """The last measurement is kept: whoever tries several ratios asks for the same again."""
    settings = context.settings
    about = (options.importance, options.min_channels, keep_layers, settings.seed, settings.temperature, settings.loss)
    digest = hashlib.sha256(repr((about, channel_multiple(context.profile), id(context.data), id(model))).encode())
    for variable in model.variables:
        digest.update(variable.numpy().tobytes())
    if (known := _KEPT.get(key := digest.hexdigest())) is None:
        graph = _graph(model, keep_layers)
        moments = _moments(graph, context)
        scores = _scores(graph, options, context, moments)
        allowed = _allowed(graph, options, context.profile)
        curves = _curves(graph, allowed, context, scores, moments)
        _KEPT.clear()
        known = _KEPT[key] = _Known(model, context.data, graph, moments, scores, allowed, curves)
    return known


def planned_footprint(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """See `structured_prune.estimate`."""
    graph = _graph(model, ())
    allowed = _allowed(graph, options, profile)
    cost = ChannelCost(graph, options.cost)
    sizes = magnitude(graph)
    left = allocate(weight_curves(graph, sizes, allowed), allowed, cost, cost.whole * (1 - options.ratio))
    return footprint(cut(graph, keep_best(graph, sizes, left)), profile)


def _graph(model: Any, keep_layers: tuple[str, ...]) -> ChannelGraph:
    graph = channel_graph(flatten(model), keep_layers)
    if not graph.groups:
        reasons = "; ".join(f"{item.layer}: {item.reason}" for item in graph.skipped()[:3]) or "it makes none"
        raise CompressionError(
            f"{_NAME}: no channel of the model can be removed ({reasons}).", hint="Leave the technique out."
        )
    return graph


def _allowed(graph: ChannelGraph, options: Options, profile: DeviceProfile | None) -> list[list[int]]:
    multiple, _ = channel_multiple(profile)
    return [allowed_counts(group.size, group.width, multiple, options.min_channels) for group in graph.groups]


def _inputs(samples: Samples, context: Context, count: int = _LEARNED_SAMPLES) -> list[tuple[Any, ...]]:
    """Inputs of some samples, the same ones each time."""
    return [inputs for inputs, _, _ in samples.batches(_BATCH, _drawn(samples.count, count, context))]


def _drawn(available: int, wanted: int, context: Context) -> np.ndarray:
    """Positions of samples, in whole batches where there are enough: another size would be traced anew."""
    order = np.random.default_rng(context.settings.seed).permutation(available)[:wanted]
    return np.sort(order[: max(len(order) // _BATCH * _BATCH, min(len(order), _BATCH))])


def _moments(graph: ChannelGraph, context: Context) -> dict[int, InputMoments]:
    """What is needed to share out the work of removed channels; nothing without training samples."""
    if context.data.train is None:
        return {}
    context.report(f"{_NAME}: moments of channels", 0, 1)
    found = input_moments(graph, _inputs(context.data.train, context))
    # Weights that must keep a form cannot take over those of others.
    for kernel in kernels(graph.model):
        values = kernel.variable.numpy()
        if is_pruned(values) or is_clustered(kernel.channels(values)):
            found.pop(id(kernel.layer), None)
    return found


def _scores(graph: ChannelGraph, options: Options, context: Context, moments: dict[int, InputMoments]) -> np.ndarray:
    """Importance of every member, shape (member_count,)."""
    train = context.data.train
    if options.importance == "bn_scale":
        return bn_scale(graph)
    if options.importance == "magnitude" or train is None:
        return magnitude(graph)
    context.report(f"{_NAME}: importance of channels", 0, 1)
    task = make_task(graph.model, train, context.settings)
    loss_of = task.supervised or own_answers(task.forms)
    means = {key: value.mean for key, value in moments.items()}
    return taylor(graph, _answered(train, context, needs_seed=task.supervised is None), loss_of, means)


def _answered(train: Samples, context: Context, *, needs_seed: bool) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Inputs with their labels, or with the seed that `own_answers` takes instead."""
    order = _drawn(train.labelled if train.labels else train.count, _LEARNED_SAMPLES, context)
    for number, (inputs, labels, _) in enumerate(train.batches(_BATCH, order)):
        yield inputs, tf.constant([context.settings.seed, number], tf.int32) if needs_seed else labels


def _curves(
    graph: ChannelGraph,
    allowed: Sequence[Sequence[int]],
    context: Context,
    scores: np.ndarray,
    moments: dict[int, InputMoments],
) -> list[Curve]:
    """Sensitivity on validation samples: how far the outputs move from the model's own, which needs no labels."""
    points = next((points for most, points in _POINTS if len(graph.groups) <= most), _LEAST_POINTS)
    counts = [measured_counts(item, points) for item in allowed]
    samples = _measured_samples(graph, sum(map(len, counts)))
    task = make_task(graph.model, context.data.validation, context.settings)
    damage = Damage(
        graph,
        _inputs(context.data.validation, context, samples),
        lambda outputs, wanted: task.distillation(outputs, wanted, context.settings.temperature),
        moments,
        renews=context.data.train is not None,
    )
    return measured_curves(
        graph, scores, counts, damage, lambda done, total: context.report(f"{_NAME}: sensitivity", done, total)
    )


def _measured_samples(graph: ChannelGraph, runs: int) -> int:
    try:
        macs = ChannelCost(graph, "macs").whole
    except CompressionError:
        return _LEAST_SAMPLES
    return int(np.clip(_MEASURED_MACS / (runs * max(macs, 1.0)), _LEAST_SAMPLES, _MOST_SAMPLES))


def _fine_tuned(smaller: Any, context: Context) -> History:
    held: dict[int, Projection] = {id(kernel.variable): item for kernel in kernels(smaller) for item in keeping(kernel)}
    return context.fine_tune(smaller, _NAME, held)


def _notes(options: Options, context: Context, gone: float, renewed: int) -> tuple[str, ...]:
    what = "multiply-accumulates" if options.cost == "macs" else "parameters"
    multiple, why = channel_multiple(context.profile)
    notes = [f"{gone:.1%} of the {what} are gone (asked for: {options.ratio:.1%})."]
    if multiple > 1:
        notes.append(
            f"Layers with 16 channels or more keep a multiple of {multiple}, narrow ones of half or a quarter: {why}."
        )
    if context.data.train is None:
        notes.append(
            "Without training samples importance is that of weights, and nothing makes up for the channels that went."
        )
        return tuple(notes)
    notes.append("What removed channels did was shared out among those that stay, by least squares on training inputs.")
    if renewed:
        notes.append(f"Mean and variance of {renewed} batch normalizations were taken anew from training inputs.")
    return tuple(notes)
