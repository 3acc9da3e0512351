"""Do two forms of one model give the same outputs on the same real inputs? Runs in workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgecomp.errors import DataError, ModelError
from edgecomp.tensors import TensorSpec

Samples = Mapping[str, np.ndarray]
"""Input name -> array of n samples, in the dtype of the model."""

_BATCH = 16


def read_samples(path: str, inputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Samples from an .npz, one array for each input.

    Raises:
        DataError: Not readable, an input is missing, or dtype or shape do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            samples = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as .npz: {error}.") from error
    for spec in inputs:
        if spec.name not in samples:
            found = ", ".join(sorted(samples)) or "none"
            raise DataError(f"{path}: no samples for the input {spec.name!r}; there are {found}.")
        array = samples[spec.name]
        fits = array.ndim == len(spec.shape) and all(
            size in (None, given) for size, given in zip(spec.sample_shape, array.shape[1:], strict=True)
        )
        if not fits or str(array.dtype) != spec.dtype or not len(array):
            raise DataError(
                f"{path}: the input {spec.name!r} takes {spec.dtype} samples of the shape {spec.sample_shape}, got "
                f"{array.dtype} {array.shape}."
            )
    counts = sorted({len(samples[spec.name]) for spec in inputs})
    if len(counts) > 1:
        raise DataError(f"{path}: the inputs have different numbers of samples: {counts}.")
    return {spec.name: samples[spec.name] for spec in inputs}


def one_by_one(samples: Samples, inputs: Sequence[TensorSpec]) -> Iterator[list[np.ndarray]]:
    """Every sample with a batch axis of 1, inputs in order."""
    for index in range(len(samples[inputs[0].name])):
        yield [samples[spec.name][index : index + 1] for spec in inputs]


def outputs_of_function(
    run: Callable[..., list[Any]], inputs: Sequence[TensorSpec], samples: Samples, *, where: str
) -> list[np.ndarray]:
    """Outputs of a TensorFlow function over all samples, each with the sample axis first.

    Raises:
        ModelError: It does not run on the samples.
    """
    from edgecomp.converter import traceable
    from edgecomp.keras_layers import first_line
    from edgecomp.load import LIBRARY_ERRORS

    count = len(samples[inputs[0].name])
    try:
        try:
            function = traceable(run, inputs, batch=None)
            starts = range(0, count, _BATCH)
            batches = ([samples[spec.name][start : start + _BATCH] for spec in inputs] for start in starts)
            rows = [[np.asarray(output) for output in function(*batch)] for batch in batches]
            if any(output.ndim == 0 for output in rows[0]) or sum(len(row[0]) for row in rows) != count:
                raise ValueError("an output has no batch axis")
        except LIBRARY_ERRORS:
            # Some models take only the batch that they were saved with, which conversion sets to 1.
            function = traceable(run, inputs, batch=1)
            rows = [[np.asarray(output) for output in function(*sample)] for sample in one_by_one(samples, inputs)]
    except LIBRARY_ERRORS as error:
        raise ModelError(f"{where}: the model does not run on the data: {first_line(error)}") from error
    return _joined(rows)


def outputs_of_tflite(data: bytes, inputs: Sequence[TensorSpec], samples: Samples, *, where: str) -> list[np.ndarray]:
    """Outputs of a .tflite with batch 1 over all samples, each with the sample axis first.

    Args:
        data: The file; its inputs are in the order of `inputs`.
        inputs: Names and order of the samples.
        samples: The samples.
        where: What to call the model in messages.

    Raises:
        ModelError: The runtime does not load or run it.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        targets, sources = interpreter.get_input_details(), interpreter.get_output_details()
        rows = []
        for sample in one_by_one(samples, inputs):
            for target, array in zip(targets, sample, strict=True):
                interpreter.set_tensor(target["index"], array)
            interpreter.invoke()
            rows.append([interpreter.get_tensor(source["index"]) for source in sources])
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{where}: the converted .tflite does not run here: {reason}.") from error
    return _joined(rows)


def _joined(rows: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate([np.atleast_1d(row[index]) for row in rows]) for index in range(len(rows[0]))]


def largest_difference(
    reference: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    outputs: Sequence[TensorSpec],
    *,
    tolerance: float,
    what: str,
) -> float:
    """Largest absolute difference over all outputs.

    An output may differ by `tolerance` times its range: largest minus smallest reference value over all samples; of a
    constant output, its size.

    Args:
        reference: Outputs of the original, each of shape (n, ...).
        results: Outputs of the other form.
        outputs: Names, for messages.
        tolerance: Relative to the range.
        what: The other form, for messages.

    Raises:
        ModelError: Above the tolerance, another shape, or the original gives NaN or infinity.
    """
    largest = 0.0
    for spec, expected, actual in zip(outputs, reference, results, strict=True):
        if expected.shape != actual.shape:
            shapes = f"{actual.shape[1:]}, the original {expected.shape[1:]}"
            raise ModelError(f"{what} gives the output {spec.name!r} the shape {shapes}.")
        left, right = expected.astype(np.float64), actual.astype(np.float64)
        if not left.size:
            continue
        if not np.isfinite(left).all():
            raise ModelError(
                f"The model gives NaN or infinity at the output {spec.name!r} on the data.",
                hint="Is the data preprocessed as the model expects?",
            )
        size = float(np.ptp(left)) or float(np.abs(left).max()) or 1.0
        difference = float(np.abs(left - right).max())
        # Written so that NaN in the results is a difference.
        if not difference <= tolerance * size:
            raise ModelError(
                f"{what} differs from the original by {difference:.3g} at the output {spec.name!r}; allowed is "
                f"{tolerance * size:.3g} ({tolerance:g} of the range of that output).",
                hint="This is a fault of the import, not of the model: please report it. As a SavedModel "
                "(model.export) the model takes another road.",
            )
        largest = max(largest, difference)
    return largest
