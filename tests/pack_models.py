"""INT8 files and real inputs for the tests of packing, and a naive clustering of their weights."""

from __future__ import annotations

import numpy as np

from edgecomp.pack.tflm_lut import find_weights
from edgecomp.tflite_edit import pack_model, unpack_model
from tests.conftest import ROOT, read_npz


def resnet8(folder):
    """MLPerf Tiny's INT8 file, converted by TensorFlow: 77,360 weights, one scale for the last layer."""
    images = read_npz(folder / "resnet8-cifar10" / "cifar10_lossless_4k_1k.npz")["x_test"]
    return (folder / "resnet8-cifar10" / "pretrainedResnet_quant.tflite").read_bytes(), images.astype(np.float32)


def kws(folder):
    """MLPerf Tiny's DS-CNN (depthwise), fed every fourth band of spoken digits: not its task, but real sounds."""
    sounds = read_npz(folder / "fsdd" / "fsdd_logmel.npz")["x_test"][:, :, ::4]
    return (folder / "dscnn-kws" / "kws_ref_model.tflite").read_bytes(), sounds.astype(np.float32)


def digits():
    """The small model that belongs to the repository."""
    images = read_npz(ROOT / "calibration_data" / "digits" / "digits.npz")["x_calib"]
    return (ROOT / "tests" / "models" / "digits_int8.tflite").read_bytes(), images.astype(np.float32) / 16


def clustered(data: bytes, values: int, *, shared: bool) -> bytes:
    """The file with at most so many values in each channel of a weight tensor, or in the whole tensor."""
    model = unpack_model(data, "test")
    for item in find_weights(model):
        channels = np.moveaxis(item.values, item.axis, 0)
        if shared or item.channels == 1:
            made = k_means(item.values.reshape(-1), values).reshape(item.values.shape)
        else:
            rows = [k_means(channel.reshape(-1), values).reshape(channel.shape) for channel in channels]
            made = np.moveaxis(np.stack(rows), 0, item.axis)
        set_values(model, item.key[1], made)
    return pack_model(model)


def k_means(values: np.ndarray, count: int) -> np.ndarray:
    """Lloyd's algorithm in one dimension, rounded to int8."""
    if len(np.unique(values)) <= count:
        return values
    points = values.astype(np.float64)
    centres = np.quantile(points, (np.arange(count) + 0.5) / count)
    for _ in range(10):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, points)
        sums, sizes = np.bincount(nearest, points, count), np.bincount(nearest, minlength=count)
        centres = np.sort(np.where(sizes > 0, sums / np.maximum(sizes, 1), centres))
    return np.round(centres)[np.searchsorted((centres[1:] + centres[:-1]) / 2, points)].astype(np.int8)


def set_values(model, tensor: int, values: np.ndarray) -> None:
    """Put other weights into an object tree."""
    data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers[model.subgraphs[0].tensors[tensor].buffer].data = data
