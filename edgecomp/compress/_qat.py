"""The work of `qat`. Imported by the TensorFlow worker only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from edgecomp.compress import _footprint
from edgecomp.compress._base import Compressed, Context, Footprint, LayerChange, Skipped
from edgecomp.compress._qat_check import check_kernels, float_layers
from edgecomp.compress._qat_grid import Grid
from edgecomp.compress._qat_keep import keeping, told
from edgecomp.compress._qat_model import Emulation, emulate
from edgecomp.compress._qat_prepare import Prepared, prepare
from edgecomp.compress._weights import Kernel, kernels
from edgecomp.convert import to_int8_tflite
from edgecomp.errors import CompressionError, QuantizationError
from edgecomp.keras_graph import flatten
from edgecomp.load import from_tf_keras
from edgecomp.profile import DeviceProfile
from edgecomp.training.loop import History
from edgecomp.training.projection import Projection
from edgecomp.training.seeds import epoch_order
from edgecomp.training.settings import TrainingSettings

_CALIBRATION_SAMPLES = 512
_OPERATORS = {
    "Conv1D": "CONV_2D", "Conv2D": "CONV_2D", "Conv3D": "CONV_3D", "Conv2DTranspose": "TRANSPOSE_CONV",
    "DepthwiseConv2D": "DEPTHWISE_CONV_2D", "Dense": "FULLY_CONNECTED",
}  # fmt: skip
# What takes 4-bit weights where no device is named: LiteRT's kernels.
_INT4_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")


def unchanged(model: Any) -> Compressed:
    """The preview at 8 bits."""
    note = "A preview of 8-bit training is the model as it is: its accuracy is that of INT8 after training."
    return Compressed(flatten(model), changes=(), notes=(note,))


def full_integer(model: Any, context: Context) -> Compressed:
    """Train with weights and activations rounded to 8 bits, and convert the result."""
    prepared = prepare(model)
    plain = prepared.model
    _require_kernels(plain)
    emulation = emulate(plain, activations=True)
    emulation.calibrate(_calibration(context))
    trained = kernels(emulation.model)
    grids: dict[int, Projection] = {id(kernel.variable): Grid(kernel, 8, keeping(kernel)) for kernel in trained}
    before = {kernel.layer.name: kernel.variable.numpy() for kernel in kernels(plain)}
    history = _train(emulation.model, replace(context, settings=_gentle(context.settings)), grids)
    changes = _changes(prepared, trained, before, "weights at 8 bits")
    made, notes, skipped = _with_weights_of(emulation, plain), [], []
    data: bytes | None = None
    try:
        data = to_int8_tflite(from_tf_keras(emulation.model), None, "int8", where="The trained model")
    except QuantizationError as error:
        notes.append(f"{error.message} Its file is made by quantization after training.")
    if data is not None:
        names = tuple(layer.name for layer in emulation.model.layers)
        stayed = dict.fromkeys(prepared.origin(name) for name in float_layers(data, names))
        skipped = [Skipped(name, "it has no int8 kernel and stays float") for name in stayed]
        notes += check_kernels(data, trained, before)
    notes.append(
        f"{len(emulation.ranges)} ranges of activations were learned and {len(trained)} kernels rounded, in "
        f"{history.epochs} epochs at a tenth of the learning rate."
    )
    return Compressed(made, changes, tuple(skipped), history, tuple(notes), data)


def low_bit(model: Any, context: Context, *, train: bool) -> Compressed:
    """Weights of 4 bits, one step a channel; everything else stays float."""
    prepared = prepare(model)
    plain = prepared.model
    _require_kernels(plain)
    emulation = emulate(plain, activations=False)
    found = kernels(emulation.model)
    coarse, skipped = _split_by_runtime(found, context.profile)
    before = {kernel.layer.name: kernel.variable.numpy() for kernel in coarse}
    grids = {id(kernel.variable): Grid(kernel, 4, keeping(kernel)) for kernel in coarse}
    history = None
    if train:
        others = {id(kernel.variable): keeping(kernel) for kernel in found if id(kernel.variable) not in grids}
        history = _train(emulation.model, context, {**grids, **{key: kept[0] for key, kept in others.items() if kept}})
    else:
        for kernel in coarse:
            grid = grids[id(kernel.variable)]
            grid.start_epoch(0, 1, kernel.variable)
            kernel.variable.assign(grid(kernel.variable))
    changes = _changes(prepared, coarse, before, "weights at 4 bits")
    note = f"{len(coarse)} kernels lie on a grid of 15 values a channel, which INT4_WEIGHTS finds again as they are."
    skipped = [replace(item, layer=prepared.origin(item.layer)) for item in skipped]
    return Compressed(_with_weights_of(emulation, plain), changes, tuple(skipped), history, (note,))


def _changes(
    prepared: Prepared, found: list[Kernel], before: Mapping[str, np.ndarray], what: str
) -> tuple[LayerChange, ...]:
    return tuple(
        LayerChange(prepared.origin(kernel.layer.name), what + told(kernel, before[kernel.layer.name]))
        for kernel in found
    )


def footprint_at(model: Any, bits: int, profile: DeviceProfile | None) -> Footprint:
    """See `qat.estimate`."""
    flat = flatten(model)
    facts = _footprint.facts_of(flat, profile)
    if bits == 4:
        for kernel in _split_by_runtime(kernels(flat), profile)[0]:
            name = kernel.layer.name
            facts[name] = replace(facts[name], bits=4)
    return _footprint.footprint_of(facts)


def _require_kernels(model: Any) -> None:
    if not kernels(model):
        raise CompressionError(
            "qat: no layer of the model has weights that it could round.",
            hint="Use post-training quantization: edgecomp fit does it by itself.",
        )


def _split_by_runtime(found: list[Kernel], profile: DeviceProfile | None) -> tuple[list[Kernel], list[Skipped]]:
    """Kernels whose operator takes 4-bit weights on the device, and the others."""
    allowed = _INT4_OPERATORS if profile is None else profile.runtime.int4_weight_operators
    where = "LiteRT" if profile is None else profile.runtime.name
    coarse, skipped = [], []
    for kernel in found:
        operator = _OPERATORS.get(type(kernel.layer).__name__, "a layer of your own")
        if operator in allowed:
            coarse.append(kernel)
        else:
            skipped.append(Skipped(kernel.layer.name, f"{operator} takes no 4-bit weights in {where}"))
    if not coarse:
        raise CompressionError(
            f"qat: none of the {len(found)} layers takes 4-bit weights in {where}.",
            hint="Use --weight-bits 8, or a device whose profile names operators under int4_weight_operators.",
        )
    return coarse, skipped


def _gentle(settings: TrainingSettings) -> TrainingSettings:
    """Rounding to 8 bits moves weights by less than a percent: a few small steps undo what it costs."""
    return replace(settings, learning_rate=settings.learning_rate / 10, epochs=math.ceil(settings.epochs / 4))


def _train(model: Any, context: Context, projections: dict[int, Projection]) -> History:
    return context.fine_tune(model, "qat", projections)


def _calibration(context: Context) -> Iterator[tuple[Any, ...]]:
    """Some training samples, in batches as they are trained on."""
    samples, settings = context.data.require_train("qat"), context.settings
    order = epoch_order(samples.count, settings.seed, 0)[:_CALIBRATION_SAMPLES]
    count = math.ceil(len(order) / settings.batch_size)
    for number, (inputs, _, _) in enumerate(islice(samples.batches(settings.batch_size, order), count)):
        context.report("qat: ranges", number + 1, count)
        yield inputs


def _with_weights_of(emulation: Emulation, plain: Any) -> Any:
    """The plain model with what was learned."""
    made = flatten(plain)
    for layer in made.layers:
        weights = emulation.model.get_layer(layer.name).get_weights()
        if weights:
            layer.set_weights([np.asarray(values) for values in weights])
    return made
