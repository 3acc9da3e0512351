"""The work of `cluster`: codebooks for every layer that gains from one. Imported by the TensorFlow worker only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgecomp.compress import _footprint
from edgecomp.compress._base import Compressed, Context, Footprint, LayerChange, Skipped
from edgecomp.compress._weights import Kernel, clusters_of, is_pruned, kernels
from edgecomp.compress.cluster import Options
from edgecomp.errors import CompressionError
from edgecomp.keras_graph import flatten
from edgecomp.profile import DeviceProfile
from edgecomp.training.codebook import Codebook
from edgecomp.training.projection import Projection
from edgecomp.training.samples import TrainingData
from edgecomp.training.task import make_task

_MEASURED_SAMPLES = 256
_MOST_BITS = 6
_KEPT: dict[str, tuple[TrainingData, dict[str, list[_Choice]]]] = {}


def clustered(model: Any, options: Options, context: Context, *, train: bool) -> Compressed:
    """See `cluster.preview` and `cluster.apply`."""
    if train:
        context.data.require_train("cluster")
    # Batch normalization stays while it trains: folding multiplies whole channels, so their values stay as few.
    made = flatten(model)
    if options.mean_bits is None:
        counts = {kernel.layer.name: options.num_clusters for kernel in kernels(made)}
    else:
        counts = {name: 2**bits for name, bits in allocate(made, options, options.mean_bits, context).items()}
    books, skipped = _codebooks(made, counts, options)
    if not books:
        raise CompressionError(
            f"cluster: no layer gets smaller with {options.num_clusters} values.",
            hint="Ask for fewer with --num-clusters.",
        )
    for kernel, book in books:
        kernel.variable.assign(book(kernel.variable))
    history = None
    if train:
        projections: dict[int, Projection] = {id(kernel.variable): book for kernel, book in books}
        history = context.fine_tune(made, "cluster", projections)
    return Compressed(
        model=made,
        changes=tuple(
            LayerChange(kernel.layer.name, _told(kernel, counts[kernel.layer.name], options)) for kernel, _ in books
        ),
        skipped=tuple(skipped),
        history=history,
    )


def _told(kernel: Kernel, count: int, options: Options) -> str:
    values = kernel.variable.numpy()
    rows = kernel.channels(values)
    return (
        f"{values.size} weights: at most {clusters_of(rows)} values a channel ({math.ceil(math.log2(count))} bits, "
        f"one table a {options.codebook})"
    )


def _codebooks(
    model: Any, counts: Mapping[str, int], options: Options
) -> tuple[list[tuple[Kernel, Codebook]], list[Skipped]]:
    """A codebook for every kernel that it makes smaller; the others with the reason."""
    found, skipped = [], []
    for kernel in kernels(model):
        name = kernel.layer.name
        if name not in counts:
            skipped.append(Skipped(name, "a byte saved here costs more than elsewhere: 8 bits"))
            continue
        facts = _planned(kernel, counts[name], options)
        if facts.weight_bytes >= facts.weights:
            skipped.append(
                Skipped(
                    name, f"indices and tables would take {facts.table_and_index_bytes} bytes, weights {facts.weights}"
                )
            )
            continue
        found.append((kernel, make_codebook(kernel, counts[name], options)))
    return found, skipped


def make_codebook(kernel: Kernel, count: int, options: Options) -> Codebook:
    """The codebook of one kernel, fitted to its weights; a pruned kernel keeps its zeros."""
    values = kernel.variable.numpy()
    return Codebook(
        values,
        kernel.axes,
        max(count, 3) if is_pruned(values) else count,
        shared=options.codebook == "tensor",
        keep_zeros=is_pruned(values),
    )


def _planned(kernel: Kernel, count: int, options: Options) -> _footprint.KernelFacts:
    return _footprint.planned(kernel, math.ceil(math.log2(count)), shared=options.codebook == "tensor")


def planned_footprint(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """See `cluster.estimate`."""
    made = flatten(model)
    facts = _footprint.facts_of(made, profile)
    if _footprint.packs_codebooks(profile):
        bits = options.mean_bits or math.ceil(math.log2(options.num_clusters))
        for kernel in kernels(made):
            facts[kernel.layer.name] = _footprint.planned(kernel, bits, shared=options.codebook == "tensor")
    return _footprint.footprint_of(facts)


@dataclass(frozen=True)
class _Choice:
    """One layer with so many bits: bytes in flash, and how far the outputs move when it alone is clustered."""

    bits: int | None
    size: int
    distance: float


def allocate(model: Any, options: Options, mean_bits: float, context: Context) -> dict[str, int]:
    """Bits of an index for every layer that gets a codebook.

    Every layer is clustered alone with 6 to 1 bits, and the outputs for validation samples are compared with the
    model's own (no labels). Then bits are taken away where a byte costs least, until all weights, with their tables,
    take `mean_bits` a weight.

    Raises:
        CompressionError: They never do.
    """
    found = kernels(model)
    curves = _curves(model, options, context)
    limit = mean_bits / 8 * sum(int(np.prod(kernel.variable.shape)) for kernel in found)
    chosen = dict.fromkeys(curves, 0)
    while sum(curves[name][place].size for name, place in chosen.items()) > limit:
        steps = [
            (_price(curves[name][place], curves[name][below]), name, below)
            for name, place in chosen.items()
            for below in range(place + 1, len(curves[name]))
        ]
        if not steps:
            raise CompressionError(
                f"cluster: {mean_bits:g} bits a weight are less than 1-bit indices and their tables take.",
                hint="Ask for more with --mean-bits, or for one table a layer with --codebook tensor.",
            )
        _, name, below = min(steps)
        chosen[name] = below
    places = {name: curves[name][place].bits for name, place in chosen.items()}
    return {name: bits for name, bits in places.items() if bits is not None}


def _price(now: _Choice, below: _Choice) -> float:
    """Distance that a saved byte costs."""
    return (below.distance - now.distance) / (now.size - below.size)


def _curves(model: Any, options: Options, context: Context) -> dict[str, list[_Choice]]:
    """Of every layer. The last ones are kept: whoever tries several numbers of bits asks for the same again."""
    about = (options.codebook, context.settings.temperature, id(context.data), _shape_of(model))
    digest = hashlib.sha256(repr(about).encode())
    for variable in model.variables:
        digest.update(variable.numpy().tobytes())
    key = digest.hexdigest()
    if key not in _KEPT:
        _KEPT.clear()
        found = {kernel.layer.name: _curve(model, kernel, options, context) for kernel in kernels(model)}
        _KEPT[key] = (context.data, found)
    return _KEPT[key][1]


def _shape_of(model: Any) -> list[tuple[str, str, str]]:
    return [(layer.name, type(layer).__name__, str(layer.output)) for layer in model.layers]


def _curve(model: Any, kernel: Kernel, options: Options, context: Context) -> list[_Choice]:
    """Plain weights first, then ever fewer bytes; distances are made to rise, since measured ones are noisy."""
    settings = replace(context.settings, loss="auto")
    task = make_task(model, context.data.validation, settings)
    inputs = next(iter(context.data.validation.batches(_MEASURED_SAMPLES)))[0]
    outputs = _outputs(model, inputs)
    exact = kernel.variable.numpy()
    context.report(f"cluster: measuring {kernel.layer.name}", 0, 0)
    choices = [_Choice(None, exact.size, 0.0)]
    for bits in range(_MOST_BITS, 0, -1):
        size = _planned(kernel, 2**bits, options).table_and_index_bytes
        if size >= choices[-1].size:
            continue
        kernel.variable.assign(exact)
        kernel.variable.assign(make_codebook(kernel, 2**bits, options)(kernel.variable))
        moved = task.distillation(_outputs(model, inputs), outputs, settings.temperature)
        choices.append(_Choice(bits, size, max(float(np.mean(moved.numpy())), choices[-1].distance)))
    kernel.variable.assign(exact)
    return choices


def _outputs(model: Any, inputs: Any) -> list[Any]:
    import tensorflow as tf

    return list(tf.nest.flatten(model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)))
