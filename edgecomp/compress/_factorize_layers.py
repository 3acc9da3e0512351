"""The work of `low_rank` on a model: find layers, factorize them, build the model anew. Imported by workers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tf_keras

from edgecomp.compress._base import Compressed, Context, LayerChange, Skipped
from edgecomp.compress._factorize import Method, composed, factorize
from edgecomp.compress._factorize_allocation import by_energy, by_ratio
from edgecomp.compress._factorize_choice import Candidates, Choice, Cost, candidates
from edgecomp.compress._factorize_cost import Geometry, Size
from edgecomp.compress._factorize_moments import Moments, Window, collect
from edgecomp.compress._footprint import facts_of, footprint_of
from edgecomp.compress._weights import is_clustered, is_pruned, sparsity_of
from edgecomp.compress.low_rank import Options
from edgecomp.errors import CompressionError
from edgecomp.executors.local import silent
from edgecomp.keras_fold import fold_batch_norm
from edgecomp.keras_graph import LayerCall, free_name, layer_calls, rewrite
from edgecomp.profile import DeviceProfile

_layers = tf_keras.layers
# Layers with a kernel that are left alone, and why.
_OTHERS = {
    _layers.DepthwiseConv2D: "depthwise: every channel has a kernel of its own, with nothing to share",
    _layers.DepthwiseConv1D: "depthwise: every channel has a kernel of its own, with nothing to share",
    _layers.SeparableConv2D: "separable: it is factorized already",
    _layers.SeparableConv1D: "separable: it is factorized already",
    _layers.Conv2DTranspose: "transposed convolutions are not factorized",
    _layers.Conv1DTranspose: "transposed convolutions are not factorized",
    _layers.Conv3D: "convolutions in three dimensions are not factorized",
    _layers.Conv3DTranspose: "transposed convolutions are not factorized",
}


def fine_tuned(model: Any, options: Options, context: Context) -> Compressed:
    """See `low_rank.apply`."""
    context.data.require_train("low_rank")
    made = factorized(model, options, context.profile, context)
    history = context.fine_tune(made.model, "low_rank")
    return Compressed(made.model, made.changes, made.skipped, history, made.notes)


def factorized(model: Any, options: Options, profile: DeviceProfile | None, context: Context | None) -> Compressed:
    """See `low_rank.preview`; without a context the factors are fitted to the weights alone."""
    folded = fold_batch_norm(model)
    calls = layer_calls(folded)
    order = list({id(call.layer): call.layer for call in calls}.values())
    reasons = {id(layer): reason for layer in order if (reason := _unsuited(layer)) is not None}
    suited = [layer for layer in order if type(layer) in _KINDS and id(layer) not in reasons]
    moments = {} if context is None else _moments(folded, suited, calls, context)
    report = silent if context is None else context.report
    layers = {}
    for index, layer in enumerate(suited):
        report("low_rank: choosing ranks", index, len(suited))
        outer = _outer_of(layer, moments.get(id(layer)))
        layers[id(layer)] = candidates(kernel_of(layer), geometry_of(layer, calls), options, profile, outer)
    chosen, whole = _choose(folded, layers, options, profile)
    reasons |= whole
    skipped = tuple(Skipped(layer.name, reasons[id(layer)]) for layer in order if id(layer) in reasons)
    if not chosen:
        listed = "; ".join(f"{item.layer}: {item.reason}" for item in skipped) or "it has neither kind"
        raise CompressionError(
            f"low_rank: no dense layer or convolution gets smaller ({listed}).",
            hint="Ask for less with --low-rank-energy or --low-rank-ratio, or leave the technique out.",
        )
    changes = tuple(LayerChange(layer.name, str(chosen[id(layer)])) for layer in order if id(layer) in chosen)
    builder = _Builder(folded, chosen, moments)
    notes = _folding_note(model) + _data_note(chosen, moments, context)
    return Compressed(rewrite(folded, builder.replace), changes, skipped, notes=notes)


def _choose(
    model: Any, layers: Mapping[int, Candidates], options: Options, profile: DeviceProfile | None
) -> tuple[dict[int, Choice], dict[int, str]]:
    if options.low_rank_energy is not None:
        return by_energy(layers, options.low_rank_energy)
    if not layers:
        return {}, {}
    return by_ratio(layers, _others(model, layers, profile), options.low_rank_ratio)


def _others(model: Any, layers: Mapping[int, Candidates], profile: DeviceProfile | None) -> Cost:
    """What the layers cost that cannot be factorized: their weights and biases."""
    names = {layer.name for layer in model.layers if id(layer) in layers}
    rest = footprint_of({name: facts for name, facts in facts_of(model, profile).items() if name not in names})
    return Cost(rest.macs, rest.weight_bytes)


def _folding_note(model: Any) -> tuple[str, ...]:
    normalized = any(isinstance(layer, _layers.BatchNormalization) for layer in model._flatten_layers())
    return ("Batch normalization is folded into the layers before it.",) if normalized else ()


def _data_note(
    chosen: Mapping[int, Choice], moments: Mapping[int, Moments], context: Context | None
) -> tuple[str, ...]:
    blind = sum(key not in moments for key in chosen)
    if context is None or not blind:
        return ()
    return (f"{blind} of {len(chosen)} factorized layers have so many inputs that they are fitted to their weights.",)


_KINDS = (_layers.Dense, _layers.Conv1D, _layers.Conv2D)


def _unsuited(layer: Any) -> str | None:
    """Why a layer with a kernel is left alone; None for those that may be factorized, and for those without one."""
    if type(layer) in _OTHERS:
        return _OTHERS[type(layer)]
    # What a subclass does with its kernel is its own affair.
    if type(layer) not in _KINDS:
        return None
    if getattr(layer, "groups", 1) > 1:
        return f"its channels are in {layer.groups} groups, which are factors already"
    if getattr(layer, "data_format", None) == "channels_first":
        return "its channels come first, which no device takes"
    values = layer.kernel.numpy()
    if not np.any(values):
        return "its weights are all zero"
    if is_pruned(values):
        return f"{100 * sparsity_of(values):.0f} % of its weights are zero, and its factors would have none"
    if is_clustered(values.reshape(-1, values.shape[-1]).T):
        return "its weights have few values, and its factors would have many"
    return None


def kernel_of(layer: Any) -> np.ndarray:
    """The kernel of a Dense, Conv1D or Conv2D layer, shape (height, width, in, out), float64."""
    values = layer.kernel.numpy().astype(np.float64)
    if values.ndim == 2:
        return np.asarray(values[None, None])
    return np.asarray(values[:, None] if values.ndim == 3 else values)


def geometry_of(layer: Any, calls: list[LayerCall]) -> Geometry:
    """Where a layer is used; open sizes count as 1."""
    height, width, inputs, outputs = kernel_of(layer).shape
    return Geometry(
        kernel=(height, width, inputs, outputs),
        calls=tuple((_size(call.inputs[0]), _size(call.outputs[0])) for call in calls if call.layer is layer),
        is_dense=isinstance(layer, _layers.Dense),
        has_bias=layer.use_bias,
    )


def _size(tensor: Any) -> Size:
    sizes = [size or 1 for size in tensor.shape[1:-1]]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (int(np.prod(sizes)), 1)


def _moments(model: Any, layers: list[Any], calls: list[LayerCall], context: Context) -> dict[int, Moments]:
    windows = {id(layer): _window(layer) for layer in layers}
    return collect(model, [call for call in calls if id(call.layer) in windows], windows, context.data)


def _outer_of(layer: Any, moments: Moments | None) -> np.ndarray | None:
    """What the factors are fitted to: a bias takes care of the mean."""
    if moments is None:
        return None
    return moments.covariance if layer.use_bias else moments.outer


def _window(layer: Any) -> Window:
    if isinstance(layer, _layers.Dense):
        return Window((1, 1), (1, 1), (1, 1), "valid")
    size, strides, dilation = ((*item, 1)[:2] for item in (layer.kernel_size, layer.strides, layer.dilation_rate))
    return Window(size, strides, dilation, layer.padding)


# Which factor has the height and the width of the layer's kernel, with strides and dilation there.
_OWNERS: dict[Method, tuple[int, int]] = {"svd": (0, 0), "spatial": (0, 1), "tucker2": (1, 1)}


class _Builder:
    """Puts the factors into the graph; a shared layer becomes shared factors."""

    def __init__(self, model: Any, chosen: dict[int, Choice], moments: dict[int, Moments]) -> None:
        self._chosen, self._moments = chosen, moments
        self._names = {layer.name for layer in model.layers}
        self._made: dict[int, list[Any]] = {}

    def replace(self, layer: Any, inputs: tuple[Any, ...]) -> Any:
        """See `keras_graph.Replacement`."""
        if id(layer) not in self._chosen:
            return None
        weights: list[list[np.ndarray]] = []
        if id(layer) not in self._made:
            weights = self._weights(layer)
            self._made[id(layer)] = self._layers(layer, [item[0] for item in weights])
        outputs = inputs[0]
        for factor in self._made[id(layer)]:
            outputs = factor(outputs)
        for factor, values in zip(self._made[id(layer)], weights, strict=False):
            factor.set_weights(values)
        return outputs

    def _weights(self, layer: Any) -> list[list[np.ndarray]]:
        """Of every factor: its kernel, and of the last one the bias."""
        choice, moments = self._chosen[id(layer)], self._moments.get(id(layer))
        kernel = kernel_of(layer)
        factors = factorize(kernel, choice.method, choice.ranks, _outer_of(layer, moments))
        spare = {2: (0, 1), 3: (1,), 4: ()}[layer.kernel.shape.rank]
        weights = [[item.squeeze(spare)] for item in factors]
        if layer.use_bias:
            bias = layer.bias.numpy().astype(np.float64)
            if moments is not None:
                # The factors follow the outputs about their mean; the mean itself is the bias's.
                bias += moments.mean @ (kernel - composed(factors, choice.method)).reshape(-1, len(bias))
            weights[-1].append(bias)
        return weights

    def _layers(self, layer: Any, kernels: list[np.ndarray]) -> list[Any]:
        """New layers of the same class; the last one has the layer's name, bias and activation."""
        made = []
        for index, kernel in enumerate(kernels):
            is_last = index == len(kernels) - 1
            config = layer.get_config()
            # What binds the weights of the whole kernel does not hold for its factors.
            config |= dict.fromkeys(("kernel_regularizer", "kernel_constraint"))
            config |= {"kernel_initializer": "zeros"}
            config.pop("batch_input_shape", None)
            if not is_last:
                name = free_name(f"{layer.name}_factor", self._names)
                config |= {"name": name, "use_bias": False, "activation": "linear", "activity_regularizer": None}
            if isinstance(layer, _layers.Dense):
                config |= {"units": kernel.shape[-1]}
            else:
                owners = _OWNERS[self._chosen[id(layer)].method][: len(layer.kernel_size)]
                config |= {"filters": kernel.shape[-1], "kernel_size": kernel.shape[:-2]}
                for key in ("strides", "dilation_rate"):
                    config[key] = [
                        value if owner == index else 1 for value, owner in zip(config[key], owners, strict=True)
                    ]
            made.append(type(layer).from_config(config))
        return made
