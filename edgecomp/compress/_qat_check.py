"""The finished int8 file against what was trained: its integers, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgecomp.compress._qat_grid import integers
from edgecomp.compress._weights import Kernel, clusters_of, is_clustered, is_pruned, sparsity_of
from edgecomp.converter import layer_of
from edgecomp.errors import CompressionError
from edgecomp.graph import read_graph
from edgecomp.tflite_edit import unpack_model

# The same step found twice may round a tie to the other side.
_LEAST_AGREEMENT = 0.99


def float_layers(data: bytes, names: tuple[str, ...]) -> list[str]:
    """Layers that still compute in float, once each.

    Args:
        data: The int8 file.
        names: Of the layers of the model that it was made from.
    """
    main = read_graph(data).main
    found: dict[str, None] = {}
    for operator in main.operators:
        if operator.code in ("QUANTIZE", "DEQUANTIZE"):
            continue
        if any(main.tensors[index].type == "FLOAT32" for index in operator.outputs):
            made = [layer_of(part, names) for part in main.layer(operator).split(";")]
            found[next((name for name in made if name in names), made[0])] = None
    return list(found)


def stored_weights(data: bytes) -> list[np.ndarray]:
    """All constant int8 tensors of a file, in their shapes."""
    graph = read_graph(data).main
    model = unpack_model(data, "The int8 file")
    part = model.subgraphs[0]
    return [
        np.asarray(model.buffers[part.tensors[tensor.index].buffer].data, np.uint8).view(np.int8).reshape(tensor.shape)
        for tensor in graph.tensors
        if tensor.type == "INT8" and tensor.is_constant and tensor.data_bytes == tensor.elements
    ]


def check_kernels(data: bytes, found: Sequence[Kernel], before: Mapping[str, np.ndarray]) -> list[str]:
    """Hold every pruned or clustered kernel against the file.

    Args:
        data: The int8 file.
        found: Kernels as they were trained, on the 8-bit grid.
        before: Layer name -> values before the training.

    Returns:
        Notes: of kernels that the file does not have as integers.

    Raises:
        CompressionError: Zeros were lost, or a channel has more values than before.
    """
    stored = stored_weights(data)
    notes = []
    for kernel in found:
        name = kernel.layer.name
        values = before[name]
        few = clusters_of(kernel.channels(values)) if is_clustered(kernel.channels(values)) else None
        if few is None and not is_pruned(values):
            continue
        own = integers(kernel, 8)
        weights = _like(_as_stored(own, kernel), stored)
        if weights is None:
            notes.append(f"The weights of {name!r} are not in the file as they were trained: they were not counted.")
            continue
        zeros = sparsity_of(values) if is_pruned(values) else 0.0
        if sparsity_of(weights) < zeros:
            raise CompressionError(
                f"qat: layer {name!r} has {100 * sparsity_of(weights):.1f} % zeros in the int8 file, it had "
                f"{100 * zeros:.1f} %."
            )
        most = clusters_of(_rows(weights, kernel))
        if few is not None and most > few:
            raise CompressionError(
                f"qat: layer {name!r} has {most} values a channel in the int8 file, it had at most {few}."
            )
    return notes


def _as_stored(values: np.ndarray, kernel: Kernel) -> np.ndarray:
    """A kernel in TFLite's order: output channels first, of a depthwise one last."""
    if kernel.axes == (2, 3):
        height, width, *_ = values.shape
        return values.reshape(1, height, width, -1)
    axis = kernel.axes[0]
    rest = [place for place in range(values.ndim) if place != axis]
    return values.transpose(axis, *rest)


def _rows(stored: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Weights of TFLite as one row a channel."""
    if kernel.axes == (2, 3):
        return stored.reshape(-1, stored.shape[-1]).T
    return stored.reshape(len(stored), -1)


def _like(values: np.ndarray, stored: Sequence[np.ndarray]) -> np.ndarray | None:
    """The stored tensor that agrees best, if it is the same but for signs: folding may turn those of a channel."""

    def agreement(item: np.ndarray) -> float:
        return float(np.mean(np.abs(item.astype(np.int16)) == np.abs(values.astype(np.int16))))

    best = max((item for item in stored if item.shape == values.shape), key=agreement, default=None)
    return best if best is not None and agreement(best) >= _LEAST_AGREEMENT else None
