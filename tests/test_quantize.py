"""Post-training quantization against what its formulas say, on the small digits model."""

import numpy as np
import pytest

from edgecomp.errors import MissingDataError, QuantizationError
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, dequantize, load
from edgecomp.profile import Precision
from edgecomp.quantize import QuantizationOptions, Quantizer, effective_io, rank_by_sensitivity
from tests.conftest import ROOT, read_npz

# ai-edge-quantizer calibrates that way and LiteRT warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning")

MODELS = ROOT / "tests" / "models"


@pytest.fixture(scope="module")
def images():
    return read_npz(ROOT / "calibration_data" / "digits" / "digits.npz")["x_calib"][:60].astype(np.float32) / 16


@pytest.fixture(scope="module")
def float_model():
    data = (MODELS / "digits_float.tflite").read_bytes()
    graph = read_graph(data)
    if not graph.has_signature:
        from edgecomp.tflite_edit import pack_model, set_signature, unpack_model

        model = unpack_model(data)
        set_signature(model, [spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs])
        data = pack_model(model)
    return data


def samples(float_model, images):
    spec = read_graph(float_model).inputs[0]
    return [{spec.name: image.reshape([size or 1 for size in spec.shape])} for image in images]


@pytest.fixture(scope="module")
def quantizer(float_model, images):
    return Quantizer(float_model, samples(float_model, images))


def make(quantizer, precision, io="int8", **more):
    return quantizer.quantize(QuantizationOptions(Precision(precision), io, **more))


def test_ranges_are_the_true_minimum_and_maximum(quantizer, images):
    """int8 maps [min, max] of the calibration samples onto 255 steps: scale = (max - min) / 255."""
    spec = read_graph(make(quantizer, "INT8").data).inputs[0]
    assert spec.scale == pytest.approx((images.max() - min(images.min(), 0)) / 255, rel=1e-5)
    assert spec.zero_point == -128  # The minimum, 0, is the lowest integer.


def test_the_order_of_the_samples_does_not_matter(float_model, images, quantizer):
    """With the library's default, a moving average, it does."""
    backwards = Quantizer(float_model, samples(float_model, images[::-1]))
    assert make(backwards, "INT8").data == make(quantizer, "INT8").data


def test_the_same_input_gives_the_same_bytes(quantizer):
    for precision in ("INT8", "INT16X8", "DYNAMIC_RANGE", "FLOAT16"):
        assert make(quantizer, precision).data == make(quantizer, precision).data


@pytest.mark.parametrize(
    ("precision", "io", "dtype"),
    [
        ("INT8", "int8", "int8"), ("INT8", "uint8", "uint8"), ("INT8", "float32", "float32"),
        ("INT16X8", "int8", "int16"), ("INT16X8", "float32", "float32"),
        ("FLOAT16", "int8", "float32"), ("DYNAMIC_RANGE", "int8", "float32"), ("FLOAT32", "int8", "float32"),
    ],
)  # fmt: skip
def test_type_of_inputs_and_outputs(quantizer, precision, io, dtype):
    graph = read_graph(make(quantizer, precision, io).data)
    assert {spec.dtype for spec in graph.inputs + graph.outputs} == {dtype} == {effective_io(Precision(precision), io)}


def test_int8_is_integer_throughout(quantizer):
    made = make(quantizer, "INT8")
    assert made.float_operators == ()
    assert not [tensor.name for tensor in read_graph(made.data).main.tensors if tensor.type == "FLOAT32"]


def test_weights_take_the_bytes_of_their_type(quantizer):
    def weights(precision, **more):
        graph = read_graph(make(quantizer, precision, **more).data)
        kernels = [graph.main.input(operator, 1) for operator in graph.main.operators if operator.code == "CONV_2D"]
        return kernels[0]

    elements = weights("FLOAT32").elements
    assert weights("FLOAT32").data_bytes == 4 * elements
    assert weights("INT8").data_bytes == elements
    assert weights("INT16X8").data_bytes == elements
    assert weights("INT4_WEIGHTS", int4_operators=("CONV_2D",)).data_bytes == elements / 2


def test_weights_of_large_files_stay_where_tflm_finds_them(float_model, images):
    """ai-edge-quantizer puts more than 256 KiB behind the flatbuffer; TFLM then gives one answer to everything."""
    pytest.importorskip("tflite_micro", reason="wheels exist for Linux x86-64 only")
    from ai_edge_litert import schema_py_generated as schema

    from edgecomp.tflite_edit import pack_model, unpack_model

    outputs, rng = 4200, np.random.default_rng(0)  # times 64 inputs: 262.5 KiB of int8 weights instead of 640 bytes
    model = unpack_model(float_model, "The demo's model")
    tensors = model.subgraphs[0].tensors
    dense, softmax = model.subgraphs[0].operators[-2:]
    for index, shape in ((dense.inputs[1], [outputs, 64]), (dense.inputs[2], [outputs])):
        tensors[index].shape = shape
        values = rng.normal(size=shape).astype(np.float32)
        model.buffers[tensors[index].buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    for index in (dense.outputs[0], softmax.outputs[0]):
        tensors[index].shape, tensors[index].shapeSignature = [1, outputs], None
    large = pack_model(model)
    made = make(Quantizer(large, samples(large, images)), "INT8")
    root = schema.Model.GetRootAs(made.data, 0)
    assert len(made.data) > 256 * 1024
    assert not [index for index in range(root.BuffersLength()) if root.Buffers(index).Offset() > 1]
    inputs = {
        key: np.concatenate([sample[key] for sample in samples(large, images)]) for key in samples(large, images)[0]
    }
    micro, exact = (
        load(made.data, family).run(inputs)[0] for family in (KernelFamily.TFLM, KernelFamily.LITERT_REFERENCE)
    )
    assert np.abs(micro.astype(int) - exact.astype(int)).max() <= 3
    assert len({row.tobytes() for row in micro}) > 30


def test_a_kept_layer_stays_float_and_no_other_does(quantizer):
    graph = quantizer.graph
    layers = [graph.main.layer(operator) for operator in graph.main.operators if operator.code == "CONV_2D"]
    made = make(quantizer, "SELECTIVE", kept_operators=(layers[0],))
    assert made.float_operators == (f"CONV_2D {layers[0]}",)


def test_the_ranking_puts_the_layer_first_that_costs_most(quantizer, images):
    graph = quantizer.graph
    inputs = {graph.inputs[0].name: images[:20].reshape(20, *[size or 1 for size in graph.inputs[0].shape[1:]])}

    def outputs(data):
        model = load(data, KernelFamily.LITERT_XNNPACK)
        return dequantize(model.graph.outputs, model.run(inputs))[0]

    exact = outputs(quantizer.float_model)
    ranked = rank_by_sensitivity(
        quantizer,
        QuantizationOptions(Precision.SELECTIVE, "float32"),
        lambda data: float(np.mean((outputs(data) - exact) ** 2)),
        lambda done, total: None,
    )
    assert [error for _, error in ranked] == sorted(error for _, error in ranked)
    best = make(quantizer, "SELECTIVE", "float32", kept_operators=(ranked[0][0],))
    assert float(np.mean((outputs(best.data) - exact) ** 2)) == pytest.approx(ranked[0][1])


def test_without_calibration_samples_the_sentence_says_what_to_add(float_model):
    empty = Quantizer(float_model, [])
    with pytest.raises(MissingDataError, match="neither x_calib nor x_train"):
        make(empty, "INT8")
    assert len(make(empty, "FLOAT16").data) < len(float_model)


def test_samples_that_do_not_fit_are_one_failed_candidate(float_model):
    wrong = Quantizer(float_model, [{"nonsense": np.zeros((1, 3), np.float32)}])
    with pytest.raises(QuantizationError, match="ai-edge-quantizer refuses INT8"):
        make(wrong, "INT8")
