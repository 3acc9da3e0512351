"""TensorFlow's converter, and what its errors mean. Imported by workers only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from edgecomp.errors import ModelError, QuantizationError
from edgecomp.keras_layers import first_line
from edgecomp.load import LIBRARY_ERRORS, Loaded
from edgecomp.tensors import TensorSpec
from edgecomp.tflite_edit import (
    pack_model,
    plain_name,
    set_signature,
    text_of,
    tidy_names,
    unique_names,
    unpack_model,
)

Calibration = Callable[[], Iterator[list[np.ndarray]]]

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
    writers = _variable_writers(function.graph)
    if writers and not allow_resource_variables:
        raise ModelError(
            f"{where}: {', '.join(writers)} keeps state between calls (TFLite: VAR_HANDLE), which the device cannot "
            "take.",
            hint="Save the model with stateful=False, or choose a device whose profile has resource_variables.",
        )
    owner = loaded.owner
    if writers and owner is None:
        # Variables that are written cannot be frozen; the converter must see who owns them.
        owner = tf.Module()
        owner.variables_kept = list(function.graph.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if allow_select_tf:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    if io is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
        if calibration is not None:
            names = [spec.name for spec in function.structured_input_signature[0]]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            # With an owner the file has a signature, and samples go by name; without, by position.
            converter.representative_dataset = (
                calibration
                if owner is None
                else lambda: (dict(zip(names, sample, strict=True)) for sample in calibration())
            )
    try:
        data = converter.convert()
    except LIBRARY_ERRORS as error:
        raise _explain(error, loaded, where, is_quantizing=io is not None) from error
    except Exception as error:
        if type(error).__name__ != "ConverterError":
            raise
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
    asked = [spec.name for spec in function.structured_input_signature[0]]
    by_name = {plain_name(text_of(graph.tensors[index].name)): int(index) for index in graph.inputs}
    found = [int(index) for index in graph.outputs]
    entry = next(iter(model.signatureDefs or []), None)
    if entry is not None:
        by_name = {text_of(mapping.name): int(mapping.tensorIndex) for mapping in entry.inputs}
        outputs = {text_of(mapping.name): int(mapping.tensorIndex) for mapping in entry.outputs}
        found = [outputs[f"output_{number}"] for number in range(len(outputs))]
    lost = [spec.name for spec, name in zip(inputs, asked, strict=True) if name not in by_name]
    if lost or len(found) != len(loaded.outputs):
        raise ModelError(
            f"{where}: {', '.join(map(repr, lost)) or 'an output'} is lost in conversion: nothing depends on it.",
            hint="Save the model without the inputs and outputs that have no use.",
        )
    graph.inputs, graph.outputs = [by_name[name] for name in asked], found
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

    try:
        calibrated = calibrator.Calibrator(data).calibrate(calibration)
        border = getattr(tf, io)
        result: bytes = lite_convert.mlir_quantize(
            calibrated, input_data_type=border, output_data_type=border, fully_quantize=True
        )
    except LIBRARY_ERRORS as error:
        raise QuantizationError(f"{where}: TensorFlow cannot quantize it: {first_line(error)}") from error
    return result


def _variable_writers(graph: Any) -> list[str]:
    """Layers that write variables, in the graph and in the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    names = [node.name for node in nodes if _VARIABLE_WRITERS.fullmatch(node.op)]
    return [f"layer {name!r}" for name in dict.fromkeys(layer_of(name) for name in names)]


def layer_of(node: str, layers: tuple[str, ...] = ()) -> str:
    """The layer that made a node: `model/lstm/while/MatMul` -> `lstm`.

    Args:
        node: Name of a node or tensor of the graph.
        layers: Names of the known layers; without a match the scope below the model counts.
    """
    parts = [part for part in node.split("@", maxsplit=1)[0].split("/") if part != "StatefulPartitionedCall"]
    for part in parts:
        if part in layers:
            return part
    scopes = parts[:-1]
    return scopes[1] if len(scopes) > 1 else (scopes or parts or [node])[0]


def _explain(error: Exception, loaded: Loaded, where: str, *, is_quantizing: bool) -> ModelError | QuantizationError:
    """What a converter error says, in one sentence with operators and layers."""
    text = str(error)
    layers = tuple(layer.name for layer in loaded.trainable.layers) if loaded.trainable is not None else ()
    found: dict[str, str | None] = {}
    for item in getattr(error, "errors", []):
        name = item.operator.name.removeprefix("tf.")
        calls = [call.name for call in item.location.call if call.name]
        if name and not name.startswith(("func.", "builtin.")):
            found.setdefault(name, layer_of(calls[0], layers) if calls and "/" in calls[0] else None)
    for listed in re.findall(r"(?:TF Select|Custom) ops: (.+)", text):
        for name in listed.split(","):
            found.setdefault(name.strip(), None)
    if "ERROR_NEEDS_FLEX_OPS" in text or "ERROR_NEEDS_CUSTOM_OPS" in text or "TF Select ops" in text:
        what = ", ".join(f"{name} (layer {layer!r})" if layer else name for name, layer in found.items())
        return ModelError(
            f"{where}: the TensorFlow operators {what or 'of this model'} have no TFLite form that the device runs.",
            hint=_SELECT_TF_HINT,
        )
    reason = next((line for line in text.splitlines() if "error:" in line), first_line(error))
    reason = re.sub(r"loc\(.*\): ", "", reason).removeprefix("<unknown>:0: error: ")[:300]
    if is_quantizing:
        return QuantizationError(f"{where}: TensorFlow's converter cannot quantize it: {reason}")
    where_in = next((f" at layer {layer!r}" for layer in found.values() if layer), "")
    return ModelError(f"{where}: TensorFlow's converter cannot convert it{where_in}: {reason}")
