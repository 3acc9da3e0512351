"""Packing of real models from Keras on: converted, quantized, clustered naively, packed, and compared in TFLM."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT
from edgecomp.executors.local import Worker
from edgecomp.graph import read_graph
from edgecomp.inference import TflmModel
from edgecomp.memory import estimate_arena
from edgecomp.pack import pack_for_tflm
from tests.conftest import missing, read_npz
from tests.pack_models import clustered

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    # ai-edge-quantizer calibrates that way and LiteRT warns about it.
    pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning"),
]

SAMPLES = 60


# Preprocessing as in the README beside each model.
def fsdd(folder, part):
    return (read_npz(folder / "fsdd/fsdd_logmel.npz")[f"x_{part}"][:200].astype(np.float32) + 8) / 4


def har(folder, part):
    mean = np.array([-5.1423, -1.8441, 0.4623, -0.0095, -0.0002, 0.0314], np.float32)
    std = np.array([5.0414, 6.4378, 4.2962, 1.3490, 1.2518, 1.0536], np.float32)
    return (read_npz(folder / "har-spsw/har_spsw_w64.npz")[f"x_{part}"][:200].astype(np.float32) - mean) / std


def mnist(folder, part):
    return read_npz(folder / "mnist/mnist.npz")[f"x_{part}"][:200, ..., None].astype(np.float32) / 255


def cifar10(folder, part):
    return read_npz(folder / "resnet8-cifar10/cifar10_lossless_4k_1k.npz")[f"x_{part}"][:200].astype(np.float32)


CLUSTERINGS = [(8, False), (16, False), (8, True), (16, True)]
# Bytes of weights; at most of the slimmed file; at most packed, for each clustering.
MODELS = {
    "resnet8": ("resnet8-cifar10/pretrainedResnet.h5", cifar10, 77_360, 83_200, (38_600, 50_500, 35_300, 45_500)),
    "fsdd": ("fsdd/fsdd_dscnn.keras", fsdd, 10_928, 16_350, (12_400, 15_000, 10_300, 11_800)),
    "har": ("har-spsw/har_cnn1d.keras", har, 32_000, 35_350, (17_100, 22_300, 15_700, 19_700)),
    "mnist": ("mnist/mnist_lenet.keras", mnist, 46_608, 49_250, (21_500, 28_200, 20_500, 26_300)),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, data_folder, tmp_path_factory):
    """(INT8 bytes, real inputs, what to expect)."""
    from edgecomp.profile import Precision
    from edgecomp.quantize import QuantizationOptions, Quantizer

    if importlib.util.find_spec("tflite_micro") is None:
        missing("tflite-micro has wheels for Linux x86-64 only")
    path, inputs, *expected = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with Worker("TensorFlow", folder / "log", environment=ENVIRONMENT) as worker:
        worker.call(
            "edgecomp.convert:convert_to_float_tflite",
            path=str(data_folder / path),
            trust_code=False,
            out_path=str(folder / "float.tflite"),
        )
    source = (folder / "float.tflite").read_bytes()
    (spec,) = read_graph(source).inputs
    quantizer = Quantizer(source, [{spec.name: sample[np.newaxis]} for sample in inputs(data_folder, "train")])
    made = quantizer.quantize(QuantizationOptions(Precision.INT8, "int8"))
    return made.data, inputs(data_folder, "test")[:SAMPLES], expected


@pytest.mark.parametrize(("values", "shared"), CLUSTERINGS)
def test_equal_and_small(model, values, shared):
    data, x, (weight_bytes, slim_bytes, sizes) = model
    data = clustered(data, values, shared=shared)
    graph = read_graph(data)
    assert sum(tensor.data_bytes for tensor in graph.main.tensors if tensor.type == "INT8") == weight_bytes
    packed = pack_for_tflm(data, {graph.inputs[0].name: x})
    report = packed.report
    assert report.reason is None
    assert report.samples == SAMPLES
    assert np.array_equal(TflmModel(packed.data).run({"x": x})[0], TflmModel(data).run({"x": x})[0])
    assert report.slim.file_bytes <= slim_bytes
    assert report.after.file_bytes == len(packed.data) <= sizes[CLUSTERINGS.index((values, shared))]
    estimate = estimate_arena(read_graph(packed.data), word_bytes=8)
    assert estimate.head_bytes == report.after.arena_head_bytes
    assert estimate.total_bytes == pytest.approx(report.after.arena_total_bytes, rel=0.02)
