"""The work of `prune`. Imported by the TensorFlow worker only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tf_keras

from edgecomp.compress import _footprint
from edgecomp.compress._base import Compressed, Context, Footprint, LayerChange, Skipped
from edgecomp.compress._prune_mask import (
    GradualMask,
    Pattern,
    input_channels,
    mask,
    outside_pattern,
    parse_pattern,
    shared_out,
)
from edgecomp.compress._prune_notes import deflated_bytes, notes
from edgecomp.compress._qat_keep import keeping
from edgecomp.compress._weights import Kernel, is_clustered, kernels, sparsity_of
from edgecomp.compress.prune import Options
from edgecomp.errors import CompressionError, UsageError
from edgecomp.keras_graph import flatten, layer_calls
from edgecomp.profile import DeviceProfile
from edgecomp.training.projection import Projection

_DEFAULT_SPARSITY = 0.5


@dataclass(frozen=True)
class _Target:
    """A kernel and the zeros that it is to have, those that are there already included."""

    kernel: Kernel
    zeros: int


def pruned(model: Any, options: Options, context: Context, *, train: bool) -> Compressed:
    """See `prune.preview` and `prune.apply`."""
    if train:
        context.data.require_train("prune")
    flat = flatten(model)
    targets, skipped = _targets(flat, options)
    pattern = parse_pattern(options.pattern)
    before = deflated_bytes(flat)
    history = None
    if train:
        held = {id(kernel.variable): item for kernel in kernels(flat) for item in keeping(kernel)}
        masks = {id(target.kernel.variable): GradualMask(target.kernel, target.zeros, pattern) for target in targets}
        projections: dict[int, Projection] = {**held, **masks}
        history = context.fine_tune(flat, "prune", projections)
    else:
        for target in targets:
            values = target.kernel.variable.numpy()
            kept = mask(target.kernel, values, target.zeros, pattern)
            target.kernel.variable.assign(np.where(kept, values, np.float32(0)))
    return Compressed(
        model=flat,
        changes=tuple(LayerChange(target.kernel.layer.name, _told(target.kernel, pattern)) for target in targets),
        skipped=tuple(skipped),
        history=history,
        notes=notes(flat, before, context.profile),
    )


def planned_footprint(model: Any, options: Options, profile: DeviceProfile | None) -> Footprint:
    """See `prune.estimate`."""
    flat = flatten(model)
    facts = _footprint.facts_of(flat, profile)
    for target in _targets(flat, options)[0]:
        name = target.kernel.layer.name
        facts[name] = replace(facts[name], nonzero=facts[name].weights - target.zeros)
    return _footprint.footprint_of(facts)


def _told(kernel: Kernel, pattern: Pattern | None) -> str:
    values = kernel.variable.numpy()
    form = "" if pattern is None else f" ({pattern})"
    return f"{values.size} weights: {sparsity_of(values):.1%} zeros{form}"


def _targets(model: Any, options: Options) -> tuple[list[_Target], list[Skipped]]:
    """What is to be pruned, and what is not, in the order of the model.

    Raises:
        UsageError, CompressionError: See `prune.preview`.
    """
    pattern = parse_pattern(options.pattern)
    sparsity = _sparsity(options, pattern)
    found = kernels(model)
    ends = _last_layers(model, {id(kernel.layer) for kernel in found})
    reasons = {kernel.layer.name: _reason(kernel, options, pattern, ends) for kernel in found}
    chosen = [kernel for kernel in found if reasons[kernel.layer.name] is None]
    if not chosen:
        raise CompressionError(
            f"prune: no layer can be pruned: {_first_of(reasons)}.",
            hint="Lower --min-weights, or leave pruning out.",
        )
    if pattern is None:
        counts = shared_out(chosen, sparsity, options.per_layer)
    else:
        counts = [_pattern_zeros(kernel, pattern) for kernel in chosen]
    targets = []
    for kernel, count in zip(chosen, counts, strict=True):
        # More zeros than its share stay: what is zero stays zero.
        zeros = max(count, int(np.sum(kernel.variable.numpy() == 0)))
        if zeros:
            targets.append(_Target(kernel, zeros))
        else:
            reasons[kernel.layer.name] = "all of its weights matter more than those of other layers"
    return targets, [Skipped(name, reason) for name, reason in reasons.items() if reason is not None]


def _sparsity(options: Options, pattern: Pattern | None) -> float:
    if pattern is None:
        return _DEFAULT_SPARSITY if options.sparsity is None else options.sparsity
    made = 1 - pattern.keep / pattern.of
    if options.sparsity is not None and abs(options.sparsity - made) > 1e-6:
        raise UsageError(
            f"The pattern {pattern} makes a sparsity of {made:g}, got --sparsity {options.sparsity:g}.",
            hint="Leave --sparsity out.",
        )
    return made


def _pattern_zeros(kernel: Kernel, pattern: Pattern) -> int:
    values = kernel.variable.numpy()
    return int(np.sum(outside_pattern(kernel, values, pattern) | (values == 0)))


def _reason(kernel: Kernel, options: Options, pattern: Pattern | None, ends: set[int]) -> str | None:
    """Why a kernel is left as it is."""
    values = kernel.variable.numpy()
    if isinstance(kernel.layer, tf_keras.layers.DepthwiseConv2D):
        return "depthwise: every channel has one small filter and no other"
    if values.size < options.min_weights:
        return f"{values.size} weights, fewer than {options.min_weights}"
    if options.keep_last and id(kernel.layer) in ends:
        return "it makes the output"
    if is_clustered(kernel.channels(values)):
        return "its values come from a codebook: prune before clustering"
    if pattern is not None and input_channels(kernel) < pattern.of:
        return f"{input_channels(kernel)} input channels make no group of {pattern.of}"
    return None


def _last_layers(model: Any, known: set[int]) -> set[int]:
    """Ids of the layers with a kernel that make the outputs; activations and reshaping behind them are passed over."""
    calls = layer_calls(model)
    producer = {id(tensor): call for call in calls for tensor in call.outputs}
    last = set()
    for tensor in model.outputs:
        call = producer.get(id(tensor))
        while call is not None and id(call.layer) not in known:
            call = producer.get(id(call.inputs[0])) if len(call.inputs) == 1 else None
        if call is not None:
            last.add(id(call.layer))
    return last


def _first_of(reasons: Mapping[str, str | None]) -> str:
    if not reasons:
        return "the model has no convolutions and no dense layers"
    return "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
