"""TensorFlow's converter, and what its errors mean. Imported by workers only."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.python.convert_phase import ConverterError

from edgecomp.errors import ModelError, QuantizationError
from edgecomp.graph import read_graph
from edgecomp.keras_layers import first_line
from edgecomp.load import LIBRARY_ERRORS, Loaded
from edgecomp.tensors import TensorSpec
from edgecomp.tflite_edit import (
    pack_model,
    set_signature,
    text_of,
    tidy_names,
    unique_names,
    unpack_model,
)

Calibration = Callable[[], Iterator[list[np.ndarray]]]

_CALL = re.compile(r"(Stateful)?PartitionedCall(_\d+)?")
_LOOPS = re.compile(r"(Stateless)?While")
_VARIABLE_WRITERS = re.compile(r"Assign.*VariableOp|ResourceScatter.*|ResourceApply.*")
_SELECT_TF_HINT = (
    "Replace the layer, or choose a device whose runtime runs Select TF operators "
    "(runtime.custom_operators in its profile)."
)


def traceable(run: Callable[..., list[Any]], inputs: Sequence[TensorSpec], *, batch: int | None) -> Any:
    """A tf.function over flat inputs of fixed sizes; `batch` None leaves the batch open."""
    names = unique_names(re.sub(r"[^A-Za-z0-9_.-]", "_", spec.name) for spec in inputs)
    signature = [
        tf.TensorSpec((batch, *spec.sample_shape), spec.dtype, name=name)
        for spec, name in zip(inputs, names, strict=True)
    ]
    return tf.function(run, input_signature=signature, autograph=False)


def convert(
    loaded: Loaded,
    inputs: tuple[TensorSpec, ...],
    where: str,
    *,
    allow_select_tf: bool = False,
    allow_resource_variables: bool = False,
    io: str | None = None,
    calibration: Calibration | None = None,
) -> bytes:
    """The .tflite of an opened model with batch 1, a signature and tidy tensor names.

    Args:
        loaded: The model; its `run` must be there.
        inputs: Its inputs with all sizes fixed.
        where: What to call it in messages.
        allow_select_tf: Whether the device runs Select TF operators.
        allow_resource_variables: Whether the device keeps variables between calls.
        io: None for float; "float32", "int8" or "uint8" for full-integer int8 with that border.
        calibration: Makes the calibration samples; None where the graph holds its ranges (quantization-aware).

    Raises:
        ModelError: What the converter cannot do, with operator and layer.
        QuantizationError: The converter refuses to quantize an operator.
    """
    if loaded.run is None:
        raise ModelError(f"{where}: a .tflite file is not converted again.")
    try:
        function = traceable(loaded.run, inputs, batch=1).get_concrete_function()
    except LIBRARY_ERRORS as error:
        raise ModelError(f"{where}: the model cannot be run with batch 1: {first_line(error)}") from error
    writers = _layers_with(_VARIABLE_WRITERS, function.graph, loaded)
    if writers and not allow_resource_variables:
        raise ModelError(
            f"{where}: {', '.join(writers)} keeps state between calls (TFLite: VAR_HANDLE), which the device cannot "
            "take.",
            hint="Save the model with stateful=False, or choose a device whose profile has resource_variables.",
        )
    if calibration is not None and (loops := _layers_with(_LOOPS, function.graph, loaded)):
        raise QuantizationError(
            f"{where}: {', '.join(loops)} runs as a loop (WHILE), which TensorFlow's quantizer cannot calibrate.",
            hint="Save the model with unroll=True in its recurrent layers.",
        )
    owner = None
    if writers:
        # Variables that are written cannot be frozen; the converter must see who owns them. Only then: seen through
        # its owner an LSTM becomes UNIDIRECTIONAL_SEQUENCE_LSTM, which keeps its state from one call to the next.
        owner = tf.Module()
        owner.kept = list(function.graph.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if allow_select_tf:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    if io is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
        if calibration is not None:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = calibration
    try:
        with warnings.catch_warnings():
            # A quantization-aware model brings its statistics along.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected", UserWarning)
            data = converter.convert()
    except (*LIBRARY_ERRORS, ConverterError) as error:
        raise _explain(error, loaded, where, is_quantizing=io is not None) from error
    return _finish(data, loaded, inputs, function, where, allow_resource_variables=allow_resource_variables)


def _finish(
    data: bytes,
    loaded: Loaded,
    inputs: tuple[TensorSpec, ...],
    function: Any,
    where: str,
    *,
    allow_resource_variables: bool,
) -> bytes:
    """Put inputs and outputs into the model's order and give them its names."""
    model = unpack_model(data, where)
    graph = model.subgraphs[0]
    handles = [text_of(tensor.name) for tensor in graph.tensors if tensor.type == schema.TensorType.RESOURCE]
    if handles and not allow_resource_variables:
        raise ModelError(
            f"{where}: the converted model keeps {len(handles)} variables (VAR_HANDLE), for example {handles[0]!r}, "
            "which the device cannot take."
        )
    given, found = [int(index) for index in graph.inputs], [int(index) for index in graph.outputs]
    entry = next(iter(model.signatureDefs or []), None)
    if entry is not None:
        sources = {text_of(mapping.name): int(mapping.tensorIndex) for mapping in entry.inputs}
        outputs = {text_of(mapping.name): int(mapping.tensorIndex) for mapping in entry.outputs}
        given = [sources[spec.name] for spec in function.structured_input_signature[0] if spec.name in sources]
        found = [outputs[f"output_{number}"] for number in range(len(outputs))]
    if len(given) != len(inputs) or len(found) != len(loaded.outputs):
        raise ModelError(
            f"{where}: the converted model has {len(given)} inputs and {len(found)} outputs, the original "
            f"{len(inputs)} and {len(loaded.outputs)}: nothing depends on the others.",
            hint="Save the model without the inputs and outputs that have no use.",
        )
    if len(set(found)) != len(found):
        same = [spec.name for spec, index in zip(loaded.outputs, found, strict=True) if found.count(index) > 1]
        raise ModelError(
            f"{where}: the outputs {', '.join(map(repr, same))} are one and the same tensor.",
            hint="Save the model with that output once.",
        )
    graph.inputs, graph.outputs = given, found
    names = [spec.name for spec in inputs], [spec.name for spec in loaded.outputs]
    set_signature(model, *names)
    tidy_names(model, *names)
    return pack_model(model)


def quantize_flatbuffer(data: bytes, calibration: Calibration, io: str, where: str) -> bytes:
    """Full-integer int8 of a float .tflite, by the quantizer in TensorFlow's converter.

    Raises:
        QuantizationError: It refuses an operator.
    """
    from tensorflow.lite.python import convert as lite_convert
    from tensorflow.lite.python.optimize import calibrator

    if any(operator.code == "WHILE" for _, operator in read_graph(data, where).operators()):
        raise QuantizationError(f"{where}: holds a loop (WHILE), which TensorFlow's quantizer cannot calibrate.")
    try:
        calibrated = calibrator.Calibrator(data).calibrate(calibration)
        border = getattr(tf, io)
        result: bytes = lite_convert.mlir_quantize(
            calibrated, input_data_type=border, output_data_type=border, fully_quantize=True
        )
    except LIBRARY_ERRORS as error:
        raise QuantizationError(f"{where}: TensorFlow cannot quantize it: {first_line(error)}") from error
    return result


def _layers_with(operators: re.Pattern[str], graph: Any, loaded: Loaded) -> list[str]:
    """Layers that use some operators, in the graph or in the functions that it calls."""
    definition = graph.as_graph_def()
    bodies = {function.signature.name: function.node_def for function in definition.library.function}

    def found(nodes: Any, path: str) -> Iterator[str]:
        for node in nodes:
            if operators.fullmatch(node.op):
                yield path + node.name
            elif path.count("//") < 8:  # Function calls nest; recursion cannot be converted anyway.
                called = [attribute.func.name for attribute in node.attr.values() if attribute.func.name in bodies]
                for name in called:
                    yield from found(bodies[name], f"{path}{node.name}//")

    layers = dict.fromkeys(layer_of(name, loaded.layer_names) for name in found(definition.node, ""))
    return [f"layer {name!r}" for name in layers]


def layer_of(node: str, layers: tuple[str, ...] = ()) -> str:
    """The layer that made a node: `model/lstm/while/MatMul` -> `lstm`.

    Args:
        node: Name of a node or tensor of the graph.
        layers: Names of the known layers, of which the innermost counts; without one, the scope below the model.
    """
    parts = [part for part in node.split("@", maxsplit=1)[0].split("/") if part and not _CALL.fullmatch(part)]
    # A Keras 3 model that was called before adds a number to every scope.
    plain = [re.sub(r"_\d+$", "", part) for part in parts]
    for name in [name for pair in zip(reversed(parts), reversed(plain), strict=True) for name in pair]:
        if name in layers:
            return name
    scopes = parts[:-1]
    return scopes[1] if len(scopes) > 1 else (scopes or parts or [node])[0]


def _explain(error: Exception, loaded: Loaded, where: str, *, is_quantizing: bool) -> ModelError | QuantizationError:
    """What a converter error says, in one sentence with operators and layers."""
    text = str(error)
    found: dict[str, str | None] = {}
    for item in getattr(error, "errors", []):
        name = item.operator.name.removeprefix("tf.")
        calls = [call.name for call in item.location.call if call.name]
        if name and not name.startswith(("func.", "builtin.")):
            found.setdefault(name, layer_of(calls[0], loaded.layer_names) if calls and "/" in calls[0] else None)
    for listed in re.findall(r"(?:TF Select|Custom) ops: (.+)", text):
        for name in listed.split(","):
            found.setdefault(name.strip(), None)
    if "ERROR_NEEDS_FLEX_OPS" in text or "ERROR_NEEDS_CUSTOM_OPS" in text or "TF Select ops" in text:
        what = ", ".join(f"{name} (layer {layer!r})" if layer else name for name, layer in found.items())
        return ModelError(
            f"{where}: the TensorFlow operators {what or 'of this model'} have no TFLite form that the device runs.",
            hint=_SELECT_TF_HINT,
        )
    if "TensorListReserve" in text and "static" in text:
        layer = re.search(r'"[^"]*?([^/"]+)/(?:PartitionedCall/)?TensorArrayV2', text)
        return ModelError(
            f"{where}: layer {layer[1] if layer else 'unknown'!r} is a loop whose sizes depend on the open batch of "
            "the SavedModel.",
            hint="Export the model with batch 1, or pass it as .keras or .h5.",
        )
    reason = next((line for line in text.splitlines() if "error:" in line), first_line(error))
    reason = re.sub(r"loc\(.*\): ", "", reason.split("error: ", maxsplit=1)[-1])[:300]
    if is_quantizing:
        return QuantizationError(f"{where}: TensorFlow's converter cannot quantize it: {reason}")
    where_in = next((f" at layer {layer!r}" for layer in found.values() if layer), "")
    return ModelError(f"{where}: TensorFlow's converter cannot convert it{where_in}: {reason}")
