"""Post-training quantization: float .tflite -> .tflite, with ai-edge-quantizer.

The float file is calibrated once, with the true minimum and maximum of every tensor; after that a candidate costs
tens of milliseconds. Runs in a worker process: ai-edge-quantizer takes seconds to import and prints to stdout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgecomp.errors import MissingDataError, QuantizationError
from edgecomp.graph import Graph, Operator, Subgraph, read_graph
from edgecomp.profile import Precision

Io = Literal["float32", "int8", "uint8", "int16"]
Samples = Sequence[Mapping[str, np.ndarray]]
Ranges = Mapping[str, Mapping[str, np.ndarray]]
"""{"min": ..., "max": ...} by name of the tensor: one value, or for weights arrays that broadcast against them."""

CALIBRATED = frozenset({Precision.INT8, Precision.INT16X8, Precision.INT4_WEIGHTS, Precision.SELECTIVE})
REPAIRABLE = frozenset({Precision.INT8, Precision.INT4_WEIGHTS})
"""What `edgecomp.repair` works on."""


@dataclass(frozen=True)
class QuantizationOptions:
    """What one candidate is.

    Attributes:
        io: Type of the model's inputs and outputs; `effective_io` says what a precision makes of it.
        int4_operators: Operators that take 4-bit weights on the target (INT4_WEIGHTS).
        kept_operators: Names of layers that stay at higher precision (SELECTIVE).
        kept_precision: FLOAT32 or INT16X8 for those.
    """

    precision: Precision
    io: Io
    int4_operators: tuple[str, ...] = ()
    kept_operators: tuple[str, ...] = ()
    kept_precision: Precision = Precision.FLOAT32


@dataclass(frozen=True)
class QuantizedModel:
    """The bytes of a candidate and what in it did not become integer."""

    data: bytes
    float_operators: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def effective_io(precision: Precision, io: Io) -> Io:
    """The input and output type that a file of this precision gets.

    Without integer activations there is nothing to pass in as integers; 16-bit activations come in as int16.
    """
    if precision not in CALIBRATED or io == "float32":
        return "float32"
    return "int16" if precision is Precision.INT16X8 else io


class Quantizer:
    """One float model and its calibration.

    Args:
        float_model: Bytes of a float .tflite with a signature.
        calibration: Real samples by input name, each of shape (1, *sample_shape); empty if there are none.
    """

    def __init__(self, float_model: bytes, calibration: Samples) -> None:
        self.float_model = float_model
        self.graph = read_graph(float_model, "The float model")
        self._calibration = calibration
        self._ranges: Ranges | None = None

    @property
    def samples(self) -> Samples:
        """The calibration samples."""
        return self._calibration

    def quantize(
        self,
        options: QuantizationOptions,
        *,
        float_model: bytes | None = None,
        ranges: Ranges | None = None,
        weight_ranges: Ranges | None = None,
    ) -> QuantizedModel:
        """Make one candidate. The same input gives the same bytes.

        Args:
            options: What it is.
            float_model: Quantized instead of the own one: the same graph with other biases. None: the own one.
            ranges: Of activations whose range is not to be the observed one, by name of the tensor.
            weight_ranges: Of weights, by name of the tensor, each channel's own. None: 8-bit weights keep all of their
                range, 4-bit weights what OCTAV leaves.

        Raises:
            QuantizationError: ai-edge-quantizer refuses the graph or leaves it as it was.
            MissingDataError: The precision needs calibration samples and there are none.
        """
        if options.precision is Precision.FLOAT32:
            return QuantizedModel(self.float_model, float_operators=())
        from ai_edge_quantizer import quantizer

        from edgecomp.tflite_edit import inline_buffers

        try:
            worker = quantizer.Quantizer(self.float_model if float_model is None else float_model)
            _set_rules(worker, self.graph, options, has_weight_ranges=weight_ranges is not None)
            if options.precision is Precision.INT4_WEIGHTS and weight_ranges is None:
                _keep_grids(worker, self.float_model, options.int4_operators)
            statistics = None
            if options.precision in CALIBRATED:
                given = {**self.ranges(), **(ranges or {}), **(weight_ranges or {})}
                # The library writes into them what it derives.
                statistics = {name: dict(entry) for name, entry in given.items()}
            result = worker.quantize(statistics, enable_progress_report=False)
        except MissingDataError:
            raise
        except Exception as error:  # The library raises whatever its numpy code runs into.
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise QuantizationError(f"ai-edge-quantizer refuses {options.precision}: {reason}.") from error
        data = inline_buffers(bytes(result.quantized_model))
        return QuantizedModel(data, _float_operators(read_graph(data), options))

    def ranges(self) -> Ranges:
        """Minimum and maximum of every activation over all samples, computed once.

        The library's default is a moving average, which depends on the order of the samples and loses a point of
        accuracy; only its Calibrator class takes another rule. The recipe only tells it which tensors matter.
        """
        if self._ranges is not None:
            return self._ranges
        if not self._calibration:
            raise MissingDataError(
                "Integer precisions need calibration samples and the data has neither x_calib nor x_train.",
                hint="Add one of them, or ask for --precision FLOAT16 or DYNAMIC_RANGE.",
            )
        from ai_edge_quantizer import calibrator, qtyping, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils

        recipe = recipe_manager.RecipeManager()
        recipe.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8)
        tool = calibrator.Calibrator(self.float_model, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        key = tool.get_signature_list()
        tool.calibrate({next(iter(key)): [dict(sample) for sample in self._calibration]}, recipe)
        ranges: Ranges = tool.get_model_qsvs()
        self._ranges = ranges
        return ranges


def _set_rules(worker: Any, graph: Graph, options: QuantizationOptions, *, has_weight_ranges: bool) -> None:
    """Recipe rules; where several match an operator the last one wins."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    algorithm = algorithm_manager.AlgorithmName
    precision = options.precision
    if precision is Precision.DYNAMIC_RANGE:
        worker.add_dynamic_config(".*", everything, 8)
        return
    if precision is Precision.FLOAT16:
        worker.add_weight_only_config(".*", everything, 16, algorithm_key=algorithm.FLOAT_CASTING)
        return
    worker.add_static_config(".*", everything, 16 if precision is Precision.INT16X8 else 8, 8)
    if precision is Precision.INT4_WEIGHTS:
        # OCTAV clips outliers: with 16 levels that is worth more than covering the full range (with 256 it is not).
        key = algorithm.MIN_MAX_UNIFORM_QUANT if has_weight_ranges else algorithm.OCTAV
        for name in options.int4_operators:
            worker.add_static_config(".*", qtyping.TFLOperationName(name), 8, 4, algorithm_key=key)
    if precision is Precision.SELECTIVE:
        for layer in options.kept_operators:
            _keep(worker, graph, layer, options.kept_precision)
    _set_io(worker, effective_io(precision, options.io))


def _keep(worker: Any, graph: Graph, layer: str, precision: Precision) -> None:
    from ai_edge_quantizer import algorithm_manager, qtyping

    operator = next(
        operator for subgraph, operator in graph.operators() if subgraph.layer(operator) == layer
    )  # Scopes are matched by search: an unescaped or unanchored name would match other layers too.
    scope = f"^{re.escape(layer)}"
    name = qtyping.TFLOperationName(_AEQ_NAMES.get(operator.code, operator.code))
    if precision is Precision.INT16X8:
        worker.add_static_config(scope, name, 16, 8)
    else:
        worker.update_quantization_recipe(scope, name, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)


def _keep_grids(worker: Any, float_model: bytes, operators: Sequence[str]) -> None:
    """Full range, unclipped, for weights that were trained on a grid of 15 values: their integers are found again."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    from edgecomp.repair.layers import Network

    network = Network(float_model)
    for layer in network.layers:
        if layer.code not in operators:
            continue
        weights = np.moveaxis(network.constant(layer.weights), layer.channel_axis, 0)
        rows = weights.reshape(len(weights), -1)
        steps = np.abs(rows).max(axis=1, keepdims=True) / 7
        multiples = rows / np.where(steps > 0, steps, 1)
        if np.abs(multiples - np.rint(multiples)).max() < _ON_GRID:
            name = qtyping.TFLOperationName(_AEQ_NAMES.get(layer.code, layer.code))
            key = algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT
            worker.add_static_config(f"^{re.escape(layer.name)}", name, 8, 4, algorithm_key=key)


# In steps: what is left of rounding to float32 once batch normalization is folded is about 1e-6.
_ON_GRID = 1e-3

# Where ai-edge-quantizer's name of an operator is not the schema's.
_AEQ_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}


def _set_io(worker: Any, io: Io) -> None:
    from ai_edge_quantizer import algorithm_manager, qtyping

    if io in ("int8", "int16"):  # What the base rule makes of them.
        return
    for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        if io == "float32":
            worker.update_quantization_recipe(".*", border, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
            continue
        unsigned = qtyping.OpQuantizationConfig(
            activation_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=8, symmetric=False, dtype=qtyping.TensorDataType.UINT
            ),
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
            ),
            compute_precision=qtyping.ComputePrecision.INTEGER,
            explicit_dequantize=False,
        )
        worker.update_quantization_recipe(".*", border, unsigned)


def _float_operators(graph: Graph, options: QuantizationOptions) -> tuple[str, ...]:
    """Layers that still compute in float although the precision promises integers."""
    if options.precision not in CALIBRATED:
        return ()
    return tuple(
        f"{operator.code} {subgraph.layer(operator)}"
        for subgraph, operator in graph.operators()
        if operator.code not in ("QUANTIZE", "DEQUANTIZE") and _computes_in_float(subgraph, operator)
    )


def _computes_in_float(subgraph: Subgraph, operator: Operator) -> bool:
    return any(subgraph.tensors[index].type == "FLOAT32" for index in operator.outputs)


def rank_by_sensitivity(
    quantizer: Quantizer,
    options: QuantizationOptions,
    output_error: Callable[[bytes], float],
    progress: Callable[[int, int], None],
) -> list[tuple[str, float]]:
    """Layers by how much the output error of the INT8 file falls when that layer alone stays at higher precision.

    Args:
        quantizer: The float model and its calibration.
        options: Its io and kept_precision hold for every trial.
        progress: Called with (layers tried, layers in all).
        output_error: Mean squared error of a candidate's outputs against the float model's, on calibration samples.

    Returns:
        (layer, output error with it kept), best first. Layers that cannot be kept are left out.
    """
    candidates = [
        subgraph.layer(operator)
        for subgraph, operator in quantizer.graph.operators()
        if any(subgraph.tensors[index].type == "FLOAT32" for index in operator.outputs)
    ]
    ranked = []
    for index, layer in enumerate(candidates):
        progress(index, len(candidates))
        kept = QuantizationOptions(
            Precision.SELECTIVE, options.io, kept_operators=(layer,), kept_precision=options.kept_precision
        )
        try:
            ranked.append((layer, output_error(quantizer.quantize(kept).data)))
        except (QuantizationError, ValueError):
            continue  # ai-edge-quantizer has no rule for this operator: it cannot be singled out.
    return sorted(ranked, key=lambda item: item[1])
