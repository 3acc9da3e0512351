"""From a model of any kind to a float .tflite: the references are Keras itself, LiteRT, and published accuracies."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest

from edgecomp import convert
from edgecomp.equivalence import largest_difference, read_samples
from edgecomp.errors import DataError, ModelError, QuantizationError
from edgecomp.executors.local import Worker
from edgecomp.graph import read_graph
from edgecomp.model import ModelKind
from edgecomp.tensors import TensorSpec
from tests.conftest import read_npz

os.environ.update(convert.ENVIRONMENT)

pytestmark = [
    # numpy 2 and Python say this of code inside of keras, tf_keras and tensorflow.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
    # TensorFlow says this of a conversion without calibration, and of one with it.
    pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning"),
]


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def tf_keras(tf):
    return pytest.importorskip("tf_keras")


@pytest.fixture(scope="module")
def keras(tf):
    return pytest.importorskip("keras")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def imported(path, tmp_path, samples=None, **options):
    """(information, bytes of the .tflite)."""
    samples_path = None
    if samples is not None:
        samples_path = str(tmp_path / "samples.npz")
        np.savez(samples_path, **samples)
    options = {"trust_code": False, **options}
    out = tmp_path / "float.tflite"
    info = convert.convert_to_float_tflite(str(path), out_path=str(out), samples_path=samples_path, **options)
    return info, out.read_bytes()


def interpret(data, *arrays):
    """Outputs in LiteRT for one batch-1 sample, called by position."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]).copy() for detail in interpreter.get_output_details()]


def accuracy(data, x, y):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    right = 0
    for index in range(len(x)):
        interpreter.set_tensor(source, x[index : index + 1])
        interpreter.invoke()
        right += int(interpreter.get_tensor(target).argmax() == y[index])
    return right / len(x)


def operators(data):
    return [operator.code for _, operator in read_graph(data).operators()]


def is_fixed(data):
    return not any(tensor.dynamic for part in read_graph(data).subgraphs for tensor in part.tensors)


def refusal(path, tmp_path, samples=None, **options):
    with pytest.raises(ModelError) as caught:
        imported(path, tmp_path, samples, **options)
    assert not (tmp_path / "float.tflite").exists()
    return str(caught.value)


# Preprocessing as in the README beside each model.
def mnist(folder):
    data = read_npz(folder / "mnist/mnist.npz")
    return data["x_test"][..., None].astype(np.float32) / 255, data["y_test"]


def fsdd(folder):
    data = read_npz(folder / "fsdd/fsdd_logmel.npz")
    return (data["x_test"].astype(np.float32) + 8) / 4, data["y_test"]


def har(folder):
    data = read_npz(folder / "har-spsw/har_spsw_w64.npz")
    mean = np.array([-5.1423, -1.8441, 0.4623, -0.0095, -0.0002, 0.0314], np.float32)
    std = np.array([5.0414, 6.4378, 4.2962, 1.3490, 1.2518, 1.0536], np.float32)
    return (data["x_test"].astype(np.float32) - mean) / std, data["y_test"]


def cifar10(folder):
    data = read_npz(folder / "resnet8-cifar10/cifar10_lossless_4k_1k.npz")
    return data["x_test"].astype(np.float32), data["y_test"]


@pytest.mark.data
class TestRealModels:
    @pytest.mark.parametrize(
        ("model", "load", "published", "operator_count"),
        [
            ("mnist/mnist_lenet.keras", mnist, 0.986, 8),
            ("fsdd/fsdd_dscnn.keras", fsdd, 0.9633, 10),
            ("har-spsw/har_cnn1d.keras", har, 0.9185, 10),
        ],
        ids=["mnist", "fsdd", "har"],
    )
    def test_keras3(self, keras, data_folder, tmp_path, model, load, published, operator_count):
        x, y = load(data_folder)
        name = convert.inspect(str(data_folder / model), trust_code=False).inputs[0].name
        info, data = imported(data_folder / model, tmp_path, {name: x[:64]})
        assert info.kind is ModelKind.KERAS3
        assert info.is_trainable
        assert info.training_unavailable_reason is None
        # 7.2e-7 was measured on fsdd (fused BatchNormalization), 0 on the others.
        assert info.rebuild_max_difference <= 1e-5
        assert info.conversion_max_difference <= 1e-5
        assert accuracy(data, x, y) == pytest.approx(published, abs=5e-5)  # The README gives four digits.
        assert info.inputs[0] == TensorSpec(name, (1, *x.shape[1:]), "float32")
        assert is_fixed(data)
        assert len(operators(data)) <= operator_count

    def test_resnet8_h5(self, tf_keras, data_folder, tmp_path):
        x, y = cifar10(data_folder)
        info, data = imported(data_folder / "resnet8-cifar10/pretrainedResnet.h5", tmp_path, {"input_1": x[:64]})
        assert (info.kind, info.is_trainable, info.rebuild_max_difference) == (ModelKind.LEGACY_H5, True, None)
        assert info.layer_names[:2] == ("input_1", "conv2d")
        assert accuracy(data, x, y) == 0.881

    def test_depthwise_h5_equals_its_saved_model(self, tf_keras, data_folder, tmp_path, rng):
        """Keras 3 does not open this .h5 (DepthwiseConv2D with `groups`)."""
        x = normal(rng, 16, 49, 10, 1)
        info_h5, h5 = imported(data_folder / "dscnn-kws/kws_ref_model.h5", tmp_path, {"input_1": x})
        info, saved = imported(data_folder / "dscnn-kws/kws_ref_model", tmp_path, {"input_1": x})
        assert info_h5.is_trainable
        assert not info.is_trainable
        assert "SavedModel" in info.training_unavailable_reason
        assert "pruning" in info.notes[0]
        assert [spec.name for spec in info.inputs + info.outputs] == ["input_1", "dense"]
        assert operators(h5) == operators(saved)
        for sample in x:
            left, right = interpret(h5, sample[None])[0], interpret(saved, sample[None])[0]
            assert np.abs(left - right).max() <= 1e-6
        # Names of tensors without what function calls add: 105,748 bytes with them.
        assert len(saved) < 1.01 * len(h5)

    def test_dynamic_range_file_is_refused_as_float(self, data_folder, tmp_path):
        text = refusal(data_folder / "dscnn-kws/kws_ref_model_float32.tflite", tmp_path)
        assert "5 of its weight tensors are INT8" in text
        assert "dynamic-range" in text
        assert "inputs or outputs are quantized" in refusal(data_folder / "dscnn-kws/kws_ref_model.tflite", tmp_path)

    def test_float_tflite(self, data_folder, tmp_path):
        path = data_folder / "resnet8-cifar10/pretrainedResnet.tflite"
        x, _ = cifar10(data_folder)
        info, data = imported(path, tmp_path)
        assert not info.is_trainable
        assert read_graph(data).has_signature
        for sample in x[:20]:
            assert np.array_equal(interpret(data, sample[None])[0], interpret(path.read_bytes(), sample[None])[0])

    @pytest.mark.parametrize("source", ["pretrainedResnet.h5", "pretrainedResnet.tflite"])
    def test_second_method(self, tf, data_folder, tmp_path, source):
        """TensorFlow's own int8; 0.873 on all 1,000 images was measured independently (FLOAT 0.881)."""
        x, y = cifar10(data_folder)
        train = read_npz(data_folder / "resnet8-cifar10/cifar10_lossless_4k_1k.npz")["x_train"][:200]
        np.savez(tmp_path / "calibration.npz", input_1=train.astype(np.float32))
        out = tmp_path / "int8.tflite"
        convert.quantize_with_converter(
            str(data_folder / "resnet8-cifar10" / source),
            trust_code=False,
            samples_path=str(tmp_path / "calibration.npz"),
            io="int8",
            out_path=str(out),
        )
        data = out.read_bytes()
        spec = read_graph(data).inputs[0]
        assert (spec.name, spec.dtype) == ("input_1", "int8")
        assert accuracy(data, spec.quantize(x[:300]), y[:300]) >= 0.84
        assert len(data) < 100_000


def two_by_two(keras):
    """Two inputs of different shape and range, three outputs, in an order that is not alphabetical."""
    layers = keras.layers
    wide, narrow = keras.Input((6,), name="wide"), keras.Input((4, 3), name="narrow")
    left = layers.Dense(5, name="left")(wide)
    right = layers.Conv1D(2, 2, name="right")(narrow)
    joined = layers.Concatenate(name="joined")([left, layers.Flatten()(right)])
    return keras.Model([wide, narrow], [right, left, layers.Dense(2, name="end")(joined)])


class TestSeveralInputsAndOutputs:
    @pytest.mark.parametrize("library", ["keras", "tf_keras"])
    def test_names_and_order(self, request, library, tmp_path, rng):
        model = two_by_two(request.getfixturevalue(library))
        path = tmp_path / ("model.keras" if library == "keras" else "model.h5")
        model.save(path)
        samples = {"narrow": normal(rng, 5, 4, 3), "wide": normal(rng, 5, 6) * 100}
        info, data = imported(path, tmp_path, samples)
        assert [spec.name for spec in info.inputs] == ["wide", "narrow"]
        assert [spec.name for spec in info.outputs] == ["right", "left", "end"]
        assert info.conversion_max_difference < 1e-3
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_content=data).get_signature_runner()
        results = runner(wide=samples["wide"][:1], narrow=samples["narrow"][:1])
        expected = model([samples["wide"][:1], samples["narrow"][:1]])
        for name, value in zip(["right", "left", "end"], expected, strict=True):
            assert np.allclose(results[name], value, atol=1e-4)

    @pytest.mark.parametrize("library", ["keras", "tf_keras"])
    def test_calibration_goes_to_the_right_input(self, request, library, tmp_path, rng):
        """Ranges differ by 100: swapped calibration samples would saturate one input."""
        model = two_by_two(request.getfixturevalue(library))
        path = tmp_path / ("model.keras" if library == "keras" else "model.h5")
        model.save(path)
        samples = {"narrow": normal(rng, 64, 4, 3), "wide": normal(rng, 64, 6) * 100}
        np.savez(tmp_path / "samples.npz", **samples)
        out = tmp_path / "int8.tflite"
        convert.quantize_with_converter(
            str(path), trust_code=False, samples_path=str(tmp_path / "samples.npz"), io="int8", out_path=str(out)
        )
        graph = read_graph(out.read_bytes())
        assert [spec.name for spec in graph.inputs] == ["wide", "narrow"]
        stored = [spec.quantize(samples[spec.name][:1]) for spec in graph.inputs]
        results = interpret(out.read_bytes(), *stored)
        expected = model([samples["wide"][:1], samples["narrow"][:1]])
        for spec, result, value in zip(graph.outputs, results, expected, strict=True):
            assert np.abs(spec.dequantize(result) - value).max() <= 8 * spec.scale

    def test_outputs_in_a_dict_keep_their_keys(self, keras, tmp_path, rng):
        inputs = keras.Input((4,), name="x")
        outputs = {"second": keras.layers.Dense(2)(inputs), "first": keras.layers.Dense(3)(inputs)}
        keras.Model(inputs, outputs).save(tmp_path / "model.keras")
        info, _ = imported(tmp_path / "model.keras", tmp_path, {"x": normal(rng, 3, 4)})
        assert {spec.name: spec.shape for spec in info.outputs} == {"first": (1, 3), "second": (1, 2)}

    def test_one_tensor_as_two_outputs_is_refused(self, keras, tmp_path):
        inputs = keras.Input((4,), name="x")
        result = keras.layers.Dense(2, name="result")(inputs)
        keras.Model(inputs, [result, result]).save(tmp_path / "model.keras")
        assert "outputs 'result', 'result_1' are one and the same tensor" in refusal(tmp_path / "model.keras", tmp_path)

    def test_odd_names_stay_in_the_signature(self, keras, tmp_path, rng):
        inputs = keras.Input((4,), name="my input")
        keras.Model(inputs, keras.layers.Dense(2, name="my output")(inputs)).save(tmp_path / "model.keras")
        info, _ = imported(tmp_path / "model.keras", tmp_path, {"my input": normal(rng, 3, 4)})
        assert [spec.name for spec in info.inputs + info.outputs] == ["my input", "my output"]


class TestRoads:
    def test_keras3_without_twin_goes_post_training(self, keras, tmp_path, rng):
        inputs = keras.Input((6,), name="x")
        hidden = keras.layers.RMSNormalization(name="rms")(keras.layers.Dense(4)(inputs))
        model = keras.Model(inputs, hidden)
        model.save(tmp_path / "model.keras")
        x = normal(rng, 8, 6)
        info, data = imported(tmp_path / "model.keras", tmp_path, {"x": x})
        assert not info.is_trainable
        assert "layer 'rms' (RMSNormalization)" in info.training_unavailable_reason
        assert "Left out: pruning" in info.notes[0]
        assert info.rebuild_max_difference is None
        assert info.conversion_max_difference <= 1e-5
        assert np.allclose(interpret(data, x[:1])[0], model(x[:1]), atol=1e-5)
        assert not {"VAR_HANDLE", "READ_VARIABLE"} & set(operators(data))

    def test_keras3_h5(self, keras, tmp_path, rng):
        model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(2)])
        model.save(tmp_path / "model.h5")
        info, _ = imported(tmp_path / "model.h5", tmp_path, {"x": normal(rng, 3, 6)})
        assert info.kind is ModelKind.KERAS3
        assert info.rebuild_max_difference <= 1e-6

    def test_keras2_archive(self, tf_keras, tmp_path, rng):
        model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(6,), name="dense")])
        model.save(tmp_path / "model.keras")
        info, _ = imported(tmp_path / "model.keras", tmp_path, {"dense_input": normal(rng, 3, 6)})
        assert (info.kind, info.is_trainable) == (ModelKind.LEGACY_KERAS, True)

    def test_mixed_precision_is_rebuilt_in_float32(self, keras, tmp_path, rng):
        inputs = keras.Input((8, 8, 3), name="x")
        hidden = keras.layers.Conv2D(4, 3, dtype="mixed_float16")(inputs)
        outputs = keras.layers.Dense(2, dtype="float32")(keras.layers.Flatten()(hidden))
        keras.Model(inputs, outputs).save(tmp_path / "model.keras")
        info, data = imported(tmp_path / "model.keras", tmp_path, {"x": normal(rng, 8, 8, 8, 3)})
        assert "16-bit floats" in info.notes[0]
        assert 0 < info.rebuild_max_difference < 0.05
        assert {tensor.type for tensor in read_graph(data).main.tensors} <= {"FLOAT32", "INT32"}

    def test_saved_model_of_keras3(self, keras, tmp_path, rng):
        layers = keras.layers
        model = keras.Sequential(
            [keras.Input((16, 3), name="x"), layers.Conv1D(4, 3), layers.BatchNormalization(), layers.Flatten()]
        )
        model.export(tmp_path / "saved", verbose=False)
        x = normal(rng, 4, 16, 3)
        info, data = imported(tmp_path / "saved", tmp_path, {"x": x})
        assert info.kind is ModelKind.SAVED_MODEL
        assert info.conversion_max_difference <= 1e-5
        assert is_fixed(data)
        assert not {"SHAPE", "VAR_HANDLE"} & set(operators(data))

    def test_saved_model_of_tensorflow(self, tf, tmp_path, rng):
        module = tf.Module()
        module.w = tf.Variable(normal(rng, 3, 2))

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x"), tf.TensorSpec((None, 1), name="a")])
        def call(x, a):
            return {"z": x @ module.w + a, "b": tf.nn.relu(x)}

        module.call = call
        tf.saved_model.save(module, tmp_path / "saved", signatures=call)
        samples = {"x": normal(rng, 4, 3), "a": normal(rng, 4, 1)}
        info, _ = imported(tmp_path / "saved", tmp_path, samples)
        assert {spec.name: spec.shape for spec in info.inputs} == {"x": (1, 3), "a": (1, 1)}
        assert {spec.name: spec.shape for spec in info.outputs} == {"z": (1, 2), "b": (1, 3)}

    def test_saved_model_without_signature(self, tf, tmp_path):
        tf.saved_model.save(tf.Module(), tmp_path / "saved")
        assert "needs a signature named serving_default, it has none" in refusal(tmp_path / "saved", tmp_path)

    def test_saved_model_that_is_damaged(self, tf, tmp_path):
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "saved_model.pb").write_bytes(b"not a graph")
        assert "TensorFlow cannot open the model" in refusal(tmp_path / "saved", tmp_path)

    def test_worker_keeps_the_model_and_sees_a_new_one(self, keras, tmp_path):
        from edgecomp.load import load

        path = tmp_path / "model.keras"
        keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]).save(path)
        first = load(str(path), trust_code=False)
        assert load(str(path), trust_code=False) is first
        keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]).save(path)
        assert load(str(path), trust_code=False).outputs[0].shape == (None, 3)


class TestShapes:
    def test_open_sizes_come_from_the_data(self, keras, tmp_path, rng):
        inputs = keras.Input((None, None, 3), name="x")
        outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
        keras.Model(inputs, outputs).save(tmp_path / "model.keras")
        assert convert.inspect(str(tmp_path / "model.keras"), trust_code=False).inputs[0].shape == (None, None, None, 3)
        assert "input 'x' leaves sizes open" in refusal(tmp_path / "model.keras", tmp_path)
        info, data = imported(tmp_path / "model.keras", tmp_path, {"x": normal(rng, 2, 12, 10, 3)})
        assert info.inputs[0].shape == (1, 12, 10, 3)
        assert is_fixed(data)
        assert "the result takes (12, 10, 3)" in info.notes[-1]

    def test_text_input_is_refused(self, keras, tmp_path):
        inputs = keras.Input((1,), dtype="string", name="words")
        keras.Model(inputs, keras.layers.StringLookup(vocabulary=["a", "b"])(inputs)).save(tmp_path / "model.keras")
        assert "input 'words' takes text" in refusal(tmp_path / "model.keras", tmp_path)

    def test_input_that_nothing_depends_on(self, keras, tmp_path):
        used, unused = keras.Input((4,), name="used"), keras.Input((4,), name="unused")
        outputs = keras.layers.Dense(2)(used)
        keras.Model([used, unused], outputs).save(tmp_path / "model.keras")
        info, data = imported(tmp_path / "model.keras", tmp_path)
        assert [spec.name for spec in read_graph(data).inputs] == [spec.name for spec in info.inputs]

    @pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built:UserWarning")
    def test_model_that_was_never_built(self, keras, tmp_path):
        keras.Sequential([keras.layers.Dense(2)], name="lazy").save(tmp_path / "model.keras")
        text = refusal(tmp_path / "model.keras", tmp_path)
        assert "inputs are not known" in text


class TestNamesOfLayers:
    def test_every_operator_says_its_layer(self, keras, tmp_path):
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3), name="x"),
                layers.Conv2D(4, 3, name="first"),
                layers.BatchNormalization(name="norm"),
                layers.ReLU(name="bend"),
                layers.MaxPooling2D(name="pool"),
                layers.Flatten(name="flat"),
                layers.Dense(2, name="last"),
            ]
        )
        model.save(tmp_path / "model.keras")
        _, data = imported(tmp_path / "model.keras", tmp_path)
        main = read_graph(data).main
        named = [main.layer(operator) for operator in main.operators]
        for name, layer in zip(named, ["bend", "pool", "flat", "last"], strict=True):
            assert layer in name
        names = [tensor.name for tensor in main.tensors]
        assert len(set(names)) == len(names)  # ai-edge-quantizer keeps statistics by name.


class TestRecurrent:
    @pytest.mark.parametrize("layer", ["LSTM", "GRU"])
    @pytest.mark.parametrize("library", ["keras", "tf_keras"])
    def test_becomes_a_loop_without_memory(self, request, tmp_path, rng, library, layer):
        """The converter's fused LSTM keeps its state from one call to the next: after the first sample it is wrong."""
        library = request.getfixturevalue(library)
        cell = getattr(library.layers, layer)(5, name="memory")
        model = library.Sequential([library.layers.Input((7, 3), name="x"), cell])
        path = tmp_path / ("model.keras" if library.__name__ == "keras" else "model.h5")
        model.save(path)
        info, data = imported(path, tmp_path, {"x": normal(rng, 4, 7, 3)})
        assert "WHILE" in operators(data)
        assert not any(tensor.is_variable for part in read_graph(data).subgraphs for tensor in part.tensors)
        assert info.conversion_max_difference <= 1e-5
        assert "runs as a loop" in info.notes[-1]

    def test_loop_is_not_given_to_a_quantizer_that_crashes_on_it(self, keras, tmp_path, rng):
        model = keras.Sequential([keras.Input((7, 3), name="x"), keras.layers.LSTM(5, name="memory")])
        model.save(tmp_path / "model.keras")
        _, data = imported(tmp_path / "model.keras", tmp_path)
        (tmp_path / "loop.tflite").write_bytes(data)
        np.savez(tmp_path / "calibration.npz", x=normal(rng, 4, 7, 3))
        options = {"trust_code": False, "samples_path": str(tmp_path / "calibration.npz"), "io": "int8"}
        for name, named in (("model.keras", "layer 'memory' runs as a loop"), ("loop.tflite", "holds a loop")):
            with pytest.raises(QuantizationError, match=named):
                convert.quantize_with_converter(str(tmp_path / name), out_path=str(tmp_path / "x"), **options)

    def test_unrolled_is_quantized(self, keras, tmp_path, rng):
        model = keras.Sequential([keras.Input((7, 3), name="x"), keras.layers.GRU(5, unroll=True)])
        model.save(tmp_path / "model.keras")
        x = normal(rng, 50, 7, 3)
        np.savez(tmp_path / "calibration.npz", x=x)
        out = tmp_path / "int8.tflite"
        convert.quantize_with_converter(
            str(tmp_path / "model.keras"),
            trust_code=False,
            samples_path=str(tmp_path / "calibration.npz"),
            io="float32",
            out_path=str(out),
        )
        assert np.abs(interpret(out.read_bytes(), x[:1])[0] - model(x[:1])).max() < 0.1

    def test_saved_model(self, keras, tmp_path, rng):
        inputs = keras.Input((7, 3), name="x")
        model = keras.Model(inputs, keras.layers.LSTM(5, name="memory")(inputs))
        model.export(tmp_path / "open", verbose=False)
        text = refusal(tmp_path / "open", tmp_path)
        assert "layer 'memory" in text
        assert "open batch" in text
        signature = [keras.InputSpec(shape=(1, 7, 3), dtype="float32", name="x")]
        model.export(tmp_path / "fixed", verbose=False, input_signature=signature)
        info, _ = imported(tmp_path / "fixed", tmp_path, {"x": normal(rng, 4, 7, 3)})
        assert info.conversion_max_difference <= 1e-5

    @pytest.mark.parametrize("library", ["keras", "tf_keras"])
    def test_state_between_calls(self, request, tmp_path, library):
        library = request.getfixturevalue(library)
        inputs = library.layers.Input(batch_shape=(1, 7, 3), name="x")
        model = library.Model(inputs, library.layers.LSTM(5, stateful=True, name="memory")(inputs))
        path = tmp_path / ("model.keras" if library.__name__ == "keras" else "model.h5")
        model.save(path)
        text = refusal(path, tmp_path)
        assert "layer 'memory' keeps state between calls" in text
        assert "VAR_HANDLE" in text
        _, data = imported(path, tmp_path, allow_resource_variables=True)
        assert "VAR_HANDLE" in operators(data)


class TestSelectTf:
    @pytest.fixture
    def inverting(self, tf, tf_keras, tmp_path):
        class Inverter(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec((None, 4, 4), name="x")])
            def __call__(self, x):
                with tf.name_scope("net"), tf.name_scope("inverter"):
                    return {"y": tf.linalg.inv(x)}

        module = Inverter()
        tf.saved_model.save(module, tmp_path / "saved", signatures=module.__call__)
        return tmp_path / "saved"

    def test_operator_and_layer_are_named(self, inverting, tmp_path):
        text = refusal(inverting, tmp_path)
        assert "MatrixInverse" in text
        assert "layer 'inverter'" in text
        assert "custom_operators" in text

    def test_allowed_where_the_device_runs_them(self, inverting, tmp_path, rng):
        x = normal(rng, 3, 4, 4) + 4 * np.eye(4, dtype=np.float32)
        info, data = imported(inverting, tmp_path, {"x": x}, allow_select_tf=True)
        assert operators(data) == ["FlexMatrixInverse"]
        assert info.conversion_max_difference is None
        assert "was not compared" in info.notes[-1]

    def test_layer_of_a_keras_model(self, tf, tf_keras, tmp_path):
        inputs = tf_keras.Input((4, 4), name="x")
        outputs = tf_keras.layers.Dense(2)(tf.linalg.inv(inputs))
        tf_keras.Model(inputs, outputs).save(tmp_path / "model.h5")
        text = refusal(tmp_path / "model.h5", tmp_path)
        assert "MatrixInverse (layer 'tf.linalg.inv')" in text


class TestCodeAndCustomClasses:
    @pytest.mark.parametrize("library", ["keras", "tf_keras"])
    @pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`:UserWarning")
    def test_lambda(self, request, tmp_path, rng, library):
        library = request.getfixturevalue(library)
        inputs = library.layers.Input((4,), name="x")
        outputs = library.layers.Dense(2)(library.layers.Lambda(lambda x: x * 3, name="triple")(inputs))
        path = tmp_path / ("model.keras" if library.__name__ == "keras" else "model.h5")
        model = library.Model(inputs, outputs)
        model.save(path)
        text = refusal(path, tmp_path)
        assert "layer 'triple' holds Python code (Lambda)" in text
        assert "--trust-model-code" in text
        x = normal(rng, 3, 4)
        info, data = imported(path, tmp_path, {"x": x}, trust_code=True)
        assert info.is_trainable
        assert np.allclose(interpret(data, x[:1])[0], model(x[:1]), atol=1e-5)

    @pytest.mark.parametrize("library", ["keras", "tf_keras"])
    def test_class_that_only_the_author_has(self, request, tmp_path, library):
        library = request.getfixturevalue(library)
        layer = type("Tripler", (library.layers.Layer,), {"call": lambda self, x: x * 3})
        inputs = library.layers.Input((4,))
        library.Model(inputs, layer(name="mine")(inputs)).save(tmp_path / "model.h5")
        text = refusal(tmp_path / "model.h5", tmp_path)
        assert "'Tripler'" in text
        assert "not part of Keras" in text

    def test_weights_that_do_not_fit(self, keras, tmp_path):
        keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]).save(tmp_path / "whole.keras")
        with zipfile.ZipFile(tmp_path / "whole.keras") as whole, zipfile.ZipFile(tmp_path / "cut.keras", "w") as cut:
            for name in whole.namelist():
                data = whole.read(name)
                cut.writestr(name, data[: len(data) // 2] if name.endswith(".h5") else data)
        assert "Keras 3 cannot open the model" in refusal(tmp_path / "cut.keras", tmp_path)


class TestTfliteSources:
    def converted(self, tf_keras, tf, batch, path, shape=(6,), **options):
        model = tf_keras.Sequential([tf_keras.layers.Dense(4, input_shape=shape, batch_size=batch, name="dense")])
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        for name, value in options.items():
            setattr(converter, name, value)
        path.write_bytes(converter.convert())
        return model

    def test_open_batch_is_closed(self, tf, tf_keras, tmp_path, rng):
        model = self.converted(tf_keras, tf, None, tmp_path / "model.tflite")
        assert not is_fixed((tmp_path / "model.tflite").read_bytes())
        x = normal(rng, 1, 6)
        info, data = imported(tmp_path / "model.tflite", tmp_path)
        assert is_fixed(data)
        assert (info.inputs[0].name, info.inputs[0].shape) == ("dense_input", (1, 6))
        assert np.allclose(interpret(data, x)[0], model(x), atol=1e-6)

    def test_other_batch_is_refused(self, tf, tf_keras, tmp_path):
        self.converted(tf_keras, tf, 8, tmp_path / "model.tflite")
        assert "has a fixed batch of 8; it must be 1 or open" in refusal(tmp_path / "model.tflite", tmp_path)

    def test_open_size_is_refused(self, tf, tf_keras, tmp_path):
        self.converted(tf_keras, tf, None, tmp_path / "model.tflite", (None, 3))
        assert "has open sizes (None, None, 3)" in refusal(tmp_path / "model.tflite", tmp_path)

    def test_float16_is_refused(self, tf, tf_keras, tmp_path):
        model = tf_keras.Sequential([tf_keras.layers.Dense(64, input_shape=(64,), name="dense")])
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        (tmp_path / "model.tflite").write_bytes(converter.convert())
        assert "1 of its weight tensors are FLOAT16" in refusal(tmp_path / "model.tflite", tmp_path)


class TestSamples:
    SPECS = (TensorSpec("x", (None, 4), "float32"), TensorSpec("y", (None, None), "int32"))

    @pytest.mark.parametrize(
        ("samples", "problem"),
        [
            ({"x": np.ones((3, 4), np.float32)}, "no samples for the input 'y'; there are x"),
            ({"x": np.ones((3, 4)), "y": np.ones((3, 2), np.int32)}, "got float64 (3, 4)"),
            ({"x": np.ones((3, 5), np.float32), "y": np.ones((3, 2), np.int32)}, "got float32 (3, 5)"),
            ({"x": np.ones(4, np.float32), "y": np.ones((3, 2), np.int32)}, "got float32 (4,)"),
            (
                {"x": np.ones((3, 4), np.float32), "y": np.ones((2, 2), np.int32)},
                "different numbers of samples: [2, 3]",
            ),
            ({"x": np.ones((0, 4), np.float32), "y": np.ones((0, 2), np.int32)}, "got float32 (0, 4)"),
        ],
        ids=["missing", "dtype", "shape", "rank", "count", "none"],
    )
    def test_misfits(self, tmp_path, samples, problem):
        np.savez(tmp_path / "samples.npz", **samples)
        with pytest.raises(DataError) as caught:
            read_samples(str(tmp_path / "samples.npz"), self.SPECS)
        assert problem in str(caught.value)

    def test_not_an_npz(self, tmp_path):
        (tmp_path / "samples.npz").write_text("text")
        with pytest.raises(DataError, match="cannot be read as"):
            read_samples(str(tmp_path / "samples.npz"), self.SPECS)


class TestComparison:
    OUTPUTS = (TensorSpec("y", (1, 2), "float32"),)

    def compare(self, reference, result, tolerance=1e-3):
        arrays = [np.array(reference, np.float32)], [np.array(result, np.float32)]
        return largest_difference(*arrays, self.OUTPUTS, tolerance=tolerance, what="the other")

    def test_is_relative_to_the_range(self):
        # Range 4, so 0.004 is allowed.
        assert self.compare([[-2, 2]], [[-2, 2.0039]]) == pytest.approx(0.0039, abs=1e-6)
        with pytest.raises(
            ModelError, match=r"differs from the original by 0\.0041 at the output 'y'; allowed is 0\.004 "
        ):
            self.compare([[-2, 2]], [[-2, 2.0041]])

    def test_constant_output(self):
        assert self.compare([[5, 5]], [[5, 5.004]]) == pytest.approx(0.004, abs=1e-6)
        assert self.compare([[0, 0]], [[0, 0]]) == 0
        with pytest.raises(ModelError, match=r"allowed is 0\.005"):
            self.compare([[5, 5]], [[5, 5.006]])

    def test_nan(self):
        with pytest.raises(ModelError, match="NaN or infinity at the output 'y'"):
            self.compare([[np.nan, 0]], [[0, 0]])
        with pytest.raises(ModelError, match="differs from the original by nan"):
            self.compare([[1, 0]], [[np.nan, 0]])

    def test_shape(self):
        with pytest.raises(ModelError, match=r"the shape \(3,\), the original \(2,\)"):
            self.compare([[1, 0]], [[1, 0, 0]])

    def test_a_wrong_twin_is_an_error(self, keras, tmp_path, rng, monkeypatch):
        """The comparison is what stands between a wrong rebuild and the user."""
        from edgecomp import keras_layers

        monkeypatch.setitem(keras_layers._OWN_ACTIVATIONS, "hard_sigmoid", lambda x: x * 0.2 + 0.5)
        inputs = keras.Input((4,), name="x")
        keras.Model(inputs, keras.layers.Activation("hard_sigmoid")(inputs)).save(tmp_path / "model.keras")
        text = refusal(tmp_path / "model.keras", tmp_path, {"x": normal(rng, 64, 4) * 3})
        assert "the model rebuilt in tf_keras differs from the original" in text


class TestChangedModels:
    """tf_keras models that a technique made, converted without a file."""

    def test_quantization_aware(self, tf_keras):
        tfmot = pytest.importorskip("tensorflow_model_optimization")
        from edgecomp.load import from_tf_keras

        model = tf_keras.Sequential([tf_keras.layers.Dense(4, input_shape=(6,), activation="relu")])
        aware = tfmot.quantization.keras.quantize_model(model)
        data = convert.to_int8_tflite(from_tf_keras(aware), None, "int8", where="the model")
        assert {spec.dtype for spec in read_graph(data).inputs + read_graph(data).outputs} == {"int8"}
        assert "FULLY_CONNECTED" in operators(data)

    def test_float(self, tf_keras, rng):
        from edgecomp.load import from_tf_keras

        model = tf_keras.Sequential([tf_keras.layers.Dense(4, input_shape=(6,), name="dense")])
        x = normal(rng, 1, 6)
        data = convert.to_tflite(from_tf_keras(model), where="the model")
        assert np.allclose(interpret(data, x)[0], model(x), atol=1e-6)

    def test_refusal_of_the_quantizer_is_a_failed_candidate(self, tf, tf_keras, rng, monkeypatch):
        from edgecomp.load import from_tf_keras

        def refuse(self):
            raise RuntimeError("Quantization not yet supported for op: 'CUSTOM'.\\n")

        monkeypatch.setattr(tf.lite.TFLiteConverter.from_concrete_functions.__self__, "convert", refuse)
        model = tf_keras.Sequential([tf_keras.layers.Dense(4, input_shape=(6,), name="dense")])
        with pytest.raises(
            QuantizationError, match="cannot quantize it: Quantization not yet supported for op: 'CUSTOM'"
        ):
            convert.to_int8_tflite(from_tf_keras(model), {"dense_input": normal(rng, 4, 6)}, "int8", where="the model")


def test_in_a_worker(tmp_path, keras):
    """As the product runs it: another process, results and errors over a pipe, chatter in the log."""
    model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "samples.npz", x=np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6))
    (tmp_path / "text.keras").write_text("text")
    with Worker("TensorFlow", tmp_path / "log", environment=convert.ENVIRONMENT) as worker:
        with pytest.raises(ModelError, match=r"not a \.keras file"):
            worker.call("edgecomp.convert:inspect", path=str(tmp_path / "text.keras"), trust_code=False)
        info = worker.call(
            "edgecomp.convert:convert_to_float_tflite",
            path=str(tmp_path / "model.keras"),
            trust_code=False,
            out_path=str(tmp_path / "float.tflite"),
            samples_path=str(tmp_path / "samples.npz"),
        )
    assert info.rebuild_max_difference <= 1e-6
    assert operators((tmp_path / "float.tflite").read_bytes()) == ["FULLY_CONNECTED"]
