"""Any model -> a float .tflite with batch 1 and a signature; int8 with TensorFlow's own converter.

Called in a worker that was started with `ENVIRONMENT`. Importing this module costs nothing: TensorFlow is imported
when a function is called.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgecomp.equivalence import (
    Samples,
    largest_difference,
    one_by_one,
    outputs_of_function,
    outputs_of_tflite,
    read_samples,
)
from edgecomp.errors import ModelError
from edgecomp.files import write_atomic
from edgecomp.graph import read_graph
from edgecomp.model import ModelInfo
from edgecomp.tensors import TensorSpec

if TYPE_CHECKING:
    from edgecomp.load import Loaded

ENVIRONMENT = {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
"""Must be set before TensorFlow is imported: TF-MOT needs legacy Keras, and Keras 3 may be set to another backend."""

Io = Literal["float32", "int8", "uint8"]
_LOOP_NOTE = (
    "A recurrent layer runs as a loop (WHILE), whose ranges cannot be calibrated: full-integer precisions are not "
    "available. Saved with unroll=True it gives a larger file that has them."
)
_SELECT_TF_NOTE = (
    "The converted model needs Select TF operators, which no runtime on this machine has: it was not compared with the "
    "original, and only the device can run it."
)


def inspect(path: str, *, trust_code: bool) -> ModelInfo:
    """Open a model: its inputs and outputs, and whether it can be trained. The worker keeps it for the next call.

    Raises:
        ModelError: The model cannot be remarks.
    """
    from edgecomp.load import load

    return load(path, trust_code=trust_code).info()


def convert_to_float_tflite(
    path: str,
    *,
    trust_code: bool,
    out_path: str,
    samples_path: str | None = None,
    allow_select_tf: bool = False,
    allow_resource_variables: bool = False,
) -> ModelInfo:
    """Write the float .tflite of a model: batch 1, one signature with the model's own names.

    Args:
        path: The model.
        trust_code: Accept code in the file.
        out_path: Where the .tflite goes; written whole or not at all.
        samples_path: An .npz with real, preprocessed inputs: for every input, under its name, an array of n samples in
            the dtype of the model. The Keras 3 model, its tf_keras twin and the .tflite are compared on all of them,
            and sizes that the model leaves open are taken from them. None: nothing is compared.
        allow_select_tf: Whether the device runs Select TF operators.
        allow_resource_variables: Whether the device keeps variables between calls.

    Returns:
        The information of `inspect` with batch 1 and, given samples, the largest differences.

    Raises:
        ModelError: The model cannot be remarks or converted, or two forms of it differ by more than the tolerance.
        DataError: The samples do not fit the model.
    """
    from edgecomp.load import load

    loaded = load(path, trust_code=trust_code)
    samples = None if samples_path is None else read_samples(samples_path, loaded.inputs)
    inputs = _fixed(loaded, samples, path)
    reference = rebuild_difference = conversion_difference = None
    if samples is not None and loaded.run is not None:
        reference = outputs_of_function(loaded.original or loaded.run, inputs, samples, where=path)
        if loaded.original is not None:
            twin = outputs_of_function(loaded.run, inputs, samples, where=path)
            rebuild_difference = largest_difference(
                reference,
                twin,
                loaded.outputs,
                tolerance=loaded.tolerance,
                what=f"{path}: the model rebuilt in tf_keras",
            )
    data = loaded.tflite
    if data is None:
        data = to_tflite(
            loaded,
            where=path,
            inputs=inputs,
            allow_select_tf=allow_select_tf,
            allow_resource_variables=allow_resource_variables,
        )
    graph = read_graph(data, f"{path}: the converted model")
    codes = {operator.code for _, operator in graph.operators()}
    has_select_tf = any(code.startswith("Flex") for code in codes)
    if samples is not None and reference is not None and not has_select_tf:
        results = outputs_of_tflite(data, inputs, samples, where=path)
        conversion_difference = largest_difference(
            reference, results, loaded.outputs, tolerance=loaded.tolerance, what=f"{path}: the converted .tflite"
        )
    write_atomic(Path(out_path), data)
    remarks = tuple(
        f"Input {after.name!r} leaves sizes open ({before.sample_shape}); the result takes {after.sample_shape}."
        for before, after in zip(loaded.inputs, graph.inputs, strict=True)
        if None in before.sample_shape
    )
    remarks += ((_LOOP_NOTE,) if "WHILE" in codes else ()) + ((_SELECT_TF_NOTE,) if has_select_tf else ())
    return dataclasses.replace(
        loaded.info(),
        inputs=graph.inputs,
        outputs=graph.outputs,
        rebuild_max_difference=rebuild_difference,
        conversion_max_difference=conversion_difference,
        notes=loaded.notes + remarks,
    )


def quantize_with_converter(path: str, *, trust_code: bool, samples_path: str, io: Io, out_path: str) -> None:
    """Full-integer int8 by TensorFlow's converter: the second method, where ai-edge-quantizer refuses a graph.

    Args:
        path: The model, of any kind.
        trust_code: Accept code in the file.
        samples_path: An .npz with the calibration samples, as in `convert_to_float_tflite`. Every one is used.
        io: Type of inputs and outputs.
        out_path: Where the .tflite goes; written whole or not at all.

    Raises:
        QuantizationError: The converter refuses an operator.
        ModelError: As in `convert_to_float_tflite`.
        DataError: The samples do not fit the model.
    """
    from edgecomp.converter import quantize_flatbuffer
    from edgecomp.load import load

    loaded = load(path, trust_code=trust_code)
    samples = read_samples(samples_path, loaded.inputs)
    inputs = _fixed(loaded, samples, path)
    if loaded.tflite is not None:
        data = quantize_flatbuffer(loaded.tflite, lambda: one_by_one(samples, inputs), io, path)
    else:
        data = to_int8_tflite(loaded, samples, io, where=path, inputs=inputs)
    write_atomic(Path(out_path), data)


def to_tflite(
    loaded: Loaded,
    *,
    where: str,
    inputs: tuple[TensorSpec, ...] | None = None,
    allow_select_tf: bool = False,
    allow_resource_variables: bool = False,
) -> bytes:
    """Float .tflite of an remarks model; of a tf_keras model that a technique made: `load.from_tf_keras(model)`.

    Args:
        loaded: The model.
        where: What to call it in messages.
        inputs: Its inputs with every size fixed; needed only where the model leaves sizes other than the batch open.
        allow_select_tf: Whether the device runs Select TF operators.
        allow_resource_variables: Whether the device keeps variables between calls.

    Raises:
        ModelError: An operator has no TFLite form, with its name and layer; or the model keeps variables.
    """
    from edgecomp import converter

    return converter.convert(
        loaded,
        inputs or _fixed(loaded, None, where),
        where,
        allow_select_tf=allow_select_tf,
        allow_resource_variables=allow_resource_variables,
    )


def to_int8_tflite(
    loaded: Loaded, samples: Samples | None, io: Io, *, where: str, inputs: tuple[TensorSpec, ...] | None = None
) -> bytes:
    """Full-integer int8 .tflite of an remarks model.

    Args:
        loaded: The model.
        samples: Calibration samples by input name; None for a quantization-aware model, which holds its ranges.
        io: Type of inputs and outputs.
        where: What to call the model in messages.
        inputs: As in `to_tflite`.

    Raises:
        QuantizationError: The converter refuses an operator.
        ModelError: As in `to_tflite`.
    """
    from edgecomp import converter

    fixed = inputs or _fixed(loaded, samples, where)
    calibration = None if samples is None else lambda: one_by_one(samples, fixed)
    return converter.convert(loaded, fixed, where, io=io, calibration=calibration)


def _fixed(loaded: Loaded, samples: Samples | None, where: str) -> tuple[TensorSpec, ...]:
    """The inputs with batch 1, open sizes taken from the samples."""
    fixed = []
    for spec in loaded.inputs:
        shape = spec.sample_shape if samples is None else samples[spec.name].shape[1:]
        if None in shape:
            raise ModelError(
                f"{where}: input {spec.name!r} leaves sizes open ({spec.shape}); devices need them fixed.",
                hint="Pass data of the size that the device will see, or save the model with a fixed input shape.",
            )
        fixed.append(dataclasses.replace(spec, shape=(1, *shape)))
    return tuple(fixed)
