"""Quantization-aware training: its files in LiteRT, their integers counted; zeros and few values kept."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT

os.environ.update(ENVIRONMENT)
tf = pytest.importorskip("tensorflow")

import tf_keras  # noqa: E402

from edgecomp.compress import Context, technique  # noqa: E402
from edgecomp.compress._weights import kernels  # noqa: E402
from edgecomp.convert import to_tflite  # noqa: E402
from edgecomp.data import DataOptions, prepare_dataset  # noqa: E402
from edgecomp.errors import CompressionError  # noqa: E402
from edgecomp.graph import read_graph  # noqa: E402
from edgecomp.load import from_tf_keras, load_trainable  # noqa: E402
from edgecomp.profile import Precision, load_profile  # noqa: E402
from edgecomp.quantize import QuantizationOptions, Quantizer  # noqa: E402
from edgecomp.training.samples import Samples, TrainingData, training_data  # noqa: E402
from edgecomp.training.settings import TrainingSettings  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

DIGITS = ROOT / "calibration_data" / "digits"
QAT = technique("qat")
EIGHT, FOUR = QAT.Options(), QAT.Options(weight_bits=4)

pytestmark = [
    # numpy 2 and Python say this of code inside of keras, tf_keras and tensorflow.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning"),
]


@pytest.fixture(scope="module")
def model():
    return load_trainable(str(DIGITS / "digits_cnn.keras"), trust_code=False)


@pytest.fixture(scope="module")
def bound(model, tmp_path_factory):
    options = DataOptions(source=str(DIGITS / "digits.npz"), mean=(0.0,), std=(16.0,))
    loaded = from_tf_keras(model)
    return prepare_dataset(options, tmp_path_factory.mktemp("data")).bind(loaded.inputs, loaded.outputs)


@pytest.fixture(scope="module")
def data(bound):
    return training_data(bound)


def context(data, model, *, epochs=1, **changes):
    settings = TrainingSettings(epochs=epochs, batch_size=64, learning_rate=1e-3)
    return Context(data=data, settings=settings, teacher=model, **changes)


def interpreter_of(data):
    from ai_edge_litert.interpreter import Interpreter

    made = Interpreter(model_content=data, num_threads=1)
    made.allocate_tensors()
    return made


def outputs_in_litert(data, x):
    """Real outputs of an int8 file for real inputs, one by one."""
    made, graph = interpreter_of(data), read_graph(data)
    source, target = made.get_input_details()[0]["index"], made.get_output_details()[0]["index"]
    rows = []
    for sample in graph.inputs[0].quantize(x):
        made.set_tensor(source, sample[None])
        made.invoke()
        rows.append(made.get_tensor(target).copy())
    return graph.outputs[0].dequantize(np.concatenate(rows))


def weights_in_litert(data):
    """Every weight tensor as one row a channel: what the interpreter holds, not what was trained."""
    made = interpreter_of(data)
    found = {}
    for detail in made.get_tensor_details():
        parameters = detail["quantization_parameters"]
        if detail["dtype"] is np.int8 and len(parameters["scales"]) > 1:
            values = np.moveaxis(made.get_tensor(detail["index"]), parameters["quantized_dimension"], 0)
            found[detail["name"]] = values.reshape(len(values), -1)
    return found


@pytest.fixture(scope="module")
def trained(model, data):
    return QAT.apply(model, EIGHT, context(data, model))


def test_file_and_trained_model_agree(model, bound, trained):
    split = bound.split("validation")
    x, y = split.read()["image"], next(iter(split.labels.values()))
    graph = read_graph(trained.int8)
    assert graph.inputs[0].dtype == graph.outputs[0].dtype == "int8"
    accuracy = float(np.mean(outputs_in_litert(trained.int8, x).argmax(-1) == y))
    before = float(np.mean(model(x).numpy().argmax(-1) == y))
    assert before > 0.95
    assert accuracy >= before - 0.01
    # The plain model has the rounded weights and float activations.
    assert abs(accuracy - float(np.mean(trained.model(x).numpy().argmax(-1) == y))) <= 0.005
    assert trained.skipped == ()
    assert {change.layer for change in trained.changes} == {kernel.layer.name for kernel in kernels(model)}
    assert [tensor.shape for tensor in trained.model.outputs] == [tensor.shape for tensor in model.outputs]
    assert trained.model.output_names == model.output_names


def test_the_file_has_the_integers_that_were_trained(trained):
    """The plain model's weights are whole multiples of the largest of their channel over 127, and so are the file's."""
    stored = list(weights_in_litert(trained.int8).values())
    assert len(stored) == len(kernels(trained.model)) == 5
    for kernel in kernels(trained.model):
        rows = kernel.channels(kernel.variable.numpy()).astype(np.float64)
        multiples = 127 * rows / np.abs(rows).max(axis=1, keepdims=True)
        assert np.abs(multiples - np.rint(multiples)).max() < 1e-3
        # A normalization with a negative scale turns all signs of a channel; TFLite orders a channel's weights alike.
        wanted = np.sort(np.abs(np.rint(multiples)), axis=1)
        assert any(
            rows.shape == wanted.shape and np.array_equal(np.sort(np.abs(rows.astype(int)), axis=1), wanted)
            for rows in stored
        )


def test_ranges_come_from_data_before_anything_is_trained(model, bound):
    """TF-MOT begins with -6 to 6 for everything, and so at chance where values are larger."""
    from edgecomp.compress._qat_model import emulate
    from edgecomp.compress._qat_prepare import prepare

    big = tf_keras.Sequential([tf_keras.Input((8, 8, 1), name="image"), tf_keras.layers.Rescaling(1 / 50), model])
    split = bound.split("validation")
    x, y = split.read()["image"] * 50, next(iter(split.labels.values()))
    emulation = emulate(prepare(big).model, activations=True)
    emulation.calibrate([(x[:128],), (x[128:256],)])
    accuracy = float(np.mean(emulation.model(x, training=False).numpy().argmax(-1) == y))
    assert accuracy >= float(np.mean(big(x).numpy().argmax(-1) == y)) - 0.01


LARGE = 16  # Weights a channel: of three of the five kernels.


def changed(model, change):
    """A copy of a model whose large kernels are changed, as one row a channel."""
    made = tf_keras.models.clone_model(model)
    made.set_weights(model.get_weights())
    names = []
    for kernel in kernels(made):
        rows = kernel.channels(kernel.variable.numpy())
        if rows.shape[1] >= LARGE:
            kernel.variable.assign(kernel.restore(change(rows).astype(np.float32)))
            names.append(kernel.layer.name)
    assert len(names) == 3
    return made, names


def half_zeros(rows):
    return np.where(np.abs(rows) >= np.median(np.abs(rows), axis=1, keepdims=True), rows, 0)


def few_values(rows, count=8):
    """The means of `count` equal parts of every channel, by hand."""
    made = np.empty_like(rows)
    for row, result in zip(rows, made, strict=True):
        for part in np.array_split(np.argsort(row), count):
            result[part] = row[part].mean()
    return made


def few_values_and_zeros(rows):
    """Seven values and zero; none of the seven stands for weights of both signs, which would bring it near zero."""
    kept = half_zeros(rows)
    made = np.zeros_like(rows)
    for row, result in zip(kept, made, strict=True):
        for places, count in ((np.flatnonzero(row < 0), 3), (np.flatnonzero(row > 0), 4)):
            for part in np.array_split(places[np.argsort(row[places])], min(count, max(1, len(places)))):
                result[part] = row[part].mean() if len(part) else 0
    return made


@pytest.mark.parametrize(
    ("change", "zeros", "values"),
    [
        (half_zeros, 0.5, None),
        (few_values, None, 8),
        (few_values_and_zeros, 0.5, 8),
    ],
    ids=["pruned", "clustered", "both"],
)
@pytest.mark.slow
def test_what_was_made_of_the_weights_is_kept(model, data, change, zeros, values):
    from edgecomp.compress._qat_check import check_kernels

    start, names = changed(model, change)
    made = QAT.apply(start, EIGHT, context(data, model))
    large = [rows for rows in weights_in_litert(made.int8).values() if rows.shape[1] >= LARGE]
    assert len(large) == len(names)
    if zeros is not None:
        assert all(np.mean(rows == 0) >= zeros for rows in large)
        # Rounding makes a few more zeros, of weights below half a step.
        assert np.mean(np.concatenate([rows.reshape(-1) for rows in large]) == 0) <= zeros + 0.005
    if values is not None:
        assert max(len(set(row)) for rows in large for row in rows.tolist()) <= values
    for was, now in zip(kernels(start), kernels(made.model), strict=True):
        assert np.abs(now.variable.numpy() - was.variable.numpy()).max() > 0  # Trained, not merely kept.
    told = {change.layer: change.change for change in made.changes}
    assert all("kept" in told[name] for name in names)
    # One zero more than there is now, or one value less, and the file does not pass.
    found = kernels(made.model)
    before = {kernel.layer.name: kernel.variable.numpy().copy() for kernel in found}
    kernel = max(found, key=lambda item: item.variable.shape.num_elements())
    if values is None:
        flat = before[kernel.layer.name].reshape(-1)
        flat[np.flatnonzero(flat)[:100]] = 0
        with pytest.raises(CompressionError, match=r"zeros in the int8 file, it had"):
            check_kernels(made.int8, found, before)
    else:
        rows = few_values(kernel.channels(before[kernel.layer.name]), 4)
        before[kernel.layer.name] = kernel.restore(rows)
        with pytest.raises(CompressionError, match=r"values a channel in the int8 file, it had at most [34]"):
            check_kernels(made.int8, found, before)


def test_a_codebook_is_taken_up_as_it_is():
    """One for all channels stays one for all; k-means from scratch would find other values."""
    from edgecomp.compress._qat_keep import keeping

    rng = np.random.default_rng(0)
    layer = tf_keras.layers.Dense(5)
    layer.build((None, 40))
    codes = np.array([-1, -0.7, -0.1, 0.05, 0.4, 1], np.float32)
    common = codes[rng.integers(0, 6, size=(40, 5))] * rng.uniform(0.5, 2, size=5).astype(np.float32)
    own = np.stack([np.sort(rng.normal(size=6))[rng.integers(0, 6, size=40)] for _ in range(5)], axis=1)
    for values, is_shared in ((common, True), (own.astype(np.float32), False)):
        layer.kernel.assign(values)
        model = tf_keras.Sequential([tf_keras.Input((40,)), layer])
        (book,) = keeping(kernels(model)[0])
        assert book._shared is is_shared
        assert np.allclose(book(tf.constant(values)), values, atol=1e-6)


@pytest.fixture(scope="module")
def four(model, data):
    return QAT.apply(model, FOUR, context(data, model, epochs=2))


class TestFourBits:
    def test_the_quantizer_finds_the_very_same_integers(self, four, bound):
        from edgecomp.repair.layers import Network

        assert four.int8 is None
        samples = [{"image": sample[None]} for sample in bound.split("calibration").head(16).read()["image"]]
        chosen = QuantizationOptions(Precision.INT4_WEIGHTS, "int8", int4_operators=("CONV_2D", "FULLY_CONNECTED"))
        float_file = to_tflite(from_tf_keras(four.model), where="qat")
        network = Network(Quantizer(float_file, samples).quantize(chosen).data)
        found = []
        for layer in network.layers:
            tensor = network.graph.main.tensors[layer.weights]
            if tensor.type == "INT4":
                rows = np.moveaxis(network.constant(layer.weights), layer.channel_axis, 0).reshape(tensor.shape[0], -1)
                found.append(np.abs(np.rint(rows / np.array(tensor.scales)[:, None])))
        expected = []
        for kernel in kernels(four.model):
            if type(kernel.layer).__name__ in ("Conv2D", "Dense"):
                values = kernel.variable.numpy()
                steps = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0) / 7  # By hand: 7 is the largest.
                expected.append(np.moveaxis(values / steps, -1, 0).reshape(values.shape[-1], -1))
        assert len(found) == len(expected) == 4
        for wanted in expected:
            assert np.abs(wanted - np.rint(wanted)).max() < 1e-4
            assert (np.abs(np.rint(wanted)).max(axis=1) == 7).all()
            # A normalization with a negative scale turns all signs of a channel.
            assert any(np.array_equal(rows, np.abs(np.rint(wanted))) for rows in found)

    def test_training_beats_rounding(self, four, model, bound, data):
        split = bound.split("validation")
        x, y = split.read()["image"], next(iter(split.labels.values()))

        def loss(result):
            chosen = result.model(x).numpy()[np.arange(len(y)), y]
            return float(-np.log(np.maximum(chosen, 1e-9)).mean())

        assert loss(four) < 0.9 * loss(QAT.preview(model, FOUR, context(data, model)))
        assert four.history.epochs == 2

    def test_only_where_the_runtime_has_kernels(self, model, data):
        """TFLM's FULLY_CONNECTED refuses 4-bit weights, X-CUBE-AI has no 4-bit kernels at all."""
        profile = load_profile("stm32l4r5")
        made = QAT.preview(model, FOUR, context(data, model, profile=profile))
        dense = [kernel.layer.name for kernel in kernels(model) if type(kernel.layer).__name__ == "Dense"]
        skipped = {item.layer: item.reason for item in made.skipped}
        assert set(dense) <= set(skipped)
        assert all("FULLY_CONNECTED takes no 4-bit weights in tflm" in skipped[name] for name in dense)
        with pytest.raises(CompressionError, match=r"none of the 5 layers takes 4-bit weights"):
            QAT.preview(model, FOUR, context(data, model, profile=load_profile("stm32l4r5-x-cube-ai")))

    def test_the_estimate_halves_the_bytes_of_those_kernels(self, model):
        eight, four = QAT.estimate(model, EIGHT, None), QAT.estimate(model, FOUR, None)
        coarse = sum(
            int(np.prod(kernel.variable.shape))
            for kernel in kernels(model)
            if type(kernel.layer).__name__ in ("Conv2D", "Dense")
        )
        assert eight.parameters == four.parameters
        assert eight.weight_bytes - four.weight_bytes == pytest.approx(coarse / 2, abs=len(kernels(model)))


class TestGrid:
    def kernel(self, values):
        layer = tf_keras.layers.Dense(values.shape[1])
        model = tf_keras.Sequential([tf_keras.Input((values.shape[0],)), layer])
        layer.kernel.assign(values)
        return kernels(model)[0]

    def test_by_hand(self):
        from edgecomp.compress._qat_grid import Grid, integers

        values = np.array([[0.7, 0.0], [-0.26, 0.0], [0.04, 0.0]], np.float32)
        kernel = self.kernel(values)
        grid = Grid(kernel, 4)
        # Step 0.1; 2.6 and 0.4 steps; a channel of zeros has no step and stays.
        assert np.allclose(grid(kernel.variable), [[0.7, 0], [-0.3, 0], [0, 0]], atol=1e-6)
        kernel.variable.assign(grid(kernel.variable))
        assert integers(kernel, 4).tolist() == [[7, 0], [-3, 0], [0, 0]]

    def test_clipping_is_the_best_of_all_and_the_last_multiple_is_always_used(self):
        from edgecomp.compress._qat_grid import Grid, best_ratio, integers

        rng = np.random.default_rng(0)
        values = rng.laplace(size=(200, 6)).astype(np.float32)  # Long tails: clipping pays.
        kernel = self.kernel(values)
        ratio = best_ratio(values.T, 4)
        assert (ratio < 0.9).all()
        for row, own in zip(values.T, ratio, strict=True):
            errors = {}
            for other in (own - 0.1, own, own + 0.1):
                step = other * np.abs(row).max() / 7
                errors[other] = np.sum((row - np.clip(np.rint(row / step), -7, 7) * step) ** 2)
            assert min(errors, key=errors.get) == own
        grid = Grid(kernel, 4)
        grid.start_epoch(0, 2, kernel.variable)
        again = Grid(kernel, 4)
        again.restore(grid.state())
        assert np.array_equal(grid(kernel.variable), again(kernel.variable))
        kernel.variable.assign(grid(kernel.variable))
        assert (np.abs(integers(kernel, 4)).max(axis=0) == 7).all()
        grid.start_epoch(1, 2, kernel.variable)  # In the second half the clipping stays.
        assert np.array_equal(grid.state()[0], again.state()[0])

    def test_zeros_and_few_values_pass(self):
        from edgecomp.compress._qat_grid import Grid
        from edgecomp.compress._qat_keep import keeping

        rng = np.random.default_rng(0)
        values = np.array([-1, 0, 0.3, 0.9], np.float32)[rng.integers(0, 4, size=(60, 5))]
        kernel = self.kernel(values)
        grid = Grid(kernel, 8, keeping(kernel))
        moved = grid(tf.constant(values + rng.normal(scale=0.02, size=values.shape).astype(np.float32))).numpy()
        assert (moved[values == 0] == 0).all()
        assert max(len(set(row)) for row in moved.T.tolist()) <= 4


def own_activation(name):
    import keras

    from edgecomp.keras_layers import activation_of

    return activation_of(getattr(keras.activations, name), "test")


def unet(k, x):
    down = k.ReLU()(k.BatchNormalization()(k.Conv2D(8, 3, padding="same")(k.MaxPooling2D()(x))))
    up = k.ReLU()(k.BatchNormalization()(k.Conv2DTranspose(6, 2, strides=2)(down)))
    wide = k.UpSampling2D(2, interpolation="bilinear")(down)
    return k.Activation("relu")(k.Conv2D(6, 3, padding="same")(k.Concatenate()([x, up, wide])))


def hard_swish_in_pieces(k, x):
    return k.Multiply()([x, k.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)])


def squeeze_and_excite(k, x):
    gate = k.Conv2D(6, 1)(k.GlobalAveragePooling2D(keepdims=True)(x))
    return k.Multiply()([x, k.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0)])


def nested(k, x):
    inner = tf_keras.Sequential([k.Input(x.shape[1:]), k.Conv2D(6, 1), k.BatchNormalization(), k.ReLU()], name="base")
    return inner(inner(x))


CASES = {
    "rescaling": lambda k, x: k.Rescaling(0.5, offset=-0.3)(x),
    "operations": lambda k, x: tf.nn.relu(1.0 - (x * 2.0 - 0.5)) + x / 4.0,
    "sigmoid-operation": lambda k, x: tf.sigmoid(x) * x,
    "hard-swish": hard_swish_in_pieces,
    "hard-silu": lambda k, x: k.Activation(own_activation("hard_silu"))(k.Conv2D(4, 1)(x)),
    "hard-sigmoid": lambda k, x: k.Conv2D(4, 1, activation=own_activation("hard_sigmoid"))(x),
    "squeeze-and-excite": squeeze_and_excite,
    "separable": lambda k, x: k.SeparableConv2D(5, 3, activation="swish")(x),
    "depthwise": lambda k, x: k.ReLU(6.0)(k.BatchNormalization()(k.DepthwiseConv2D(3, depth_multiplier=2)(x))),
    "activations": lambda k, x: k.LeakyReLU(0.1)(k.Conv2D(4, 1, activation="tanh")(x)),
    "prelu-gelu": lambda k, x: k.PReLU(shared_axes=[1, 2])(k.Conv2D(4, 1, activation="gelu")(x)),
    "loose-normalization": lambda k, x: k.BatchNormalization()(k.AveragePooling2D()(x)),
    "flat-normalization": lambda k, x: k.BatchNormalization()(k.GlobalMaxPooling2D()(x)),
    "average": lambda k, x: k.Average()([x, k.Conv2D(6, 1)(x), k.Subtract()([x, x * 0.5])]),
    "merges": lambda k, x: k.Maximum()([k.Add()([x, x * 0.5, k.ReLU()(x)]), x, k.Multiply()([x, x, x])]),
    "padding": lambda k, x: k.Cropping2D(1)(k.ZeroPadding2D(2)(k.Permute((2, 1, 3))(x))),
    "reshape": lambda k, x: k.Dense(5, activation="relu")(k.Flatten()(k.Dropout(0.5)(x))),
    "unet": unet,
    "nested-shared": nested,
}


@pytest.fixture(scope="module")
def branches():
    """All cases in one model, each with an output of its own: one conversion."""
    from edgecomp.compress._qat_model import emulate
    from edgecomp.compress._qat_prepare import prepare
    from edgecomp.convert import to_int8_tflite

    tf_keras.utils.set_random_seed(0)
    k = tf_keras.layers
    inputs = k.Input((12, 12, 3), name="x")
    stem = k.Conv2D(6, 3, padding="same", name="stem")(inputs)
    outputs = []
    for case, make in CASES.items():
        x = make(k, stem)
        x = k.GlobalAveragePooling2D()(x) if x.shape.rank == 4 else x
        outputs.append(k.Dense(4, name=f"end_{case}")(x))
    model = tf_keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "batch_norm" in weight.name:
            values = rng.uniform(0.5, 1.5, size=weight.shape)
            weight.assign(values if "variance" in weight.name or "gamma" in weight.name else values - 1)
    x = rng.normal(size=(16, 12, 12, 3)).astype(np.float32)
    plain = prepare(model).model
    emulation = emulate(plain, activations=True)
    emulation.calibrate([(x,)])
    data = to_int8_tflite(from_tf_keras(emulation.model), None, "int8", where="all cases")
    made, graph = interpreter_of(data), read_graph(data)
    details = made.get_output_details()
    rows = []
    for sample in graph.inputs[0].quantize(x):
        made.set_tensor(made.get_input_details()[0]["index"], sample[None])
        made.invoke()
        rows.append([made.get_tensor(detail["index"]).copy() for detail in details])
    by_output = zip(graph.outputs, zip(*rows, strict=True), strict=True)
    in_litert = [spec.dequantize(np.concatenate(part)) for spec, part in by_output]
    emulated = [part.numpy() for part in emulation.model(x, training=False)]
    results = {
        case: (model_out.numpy(), plain_out.numpy(), *rest)
        for case, model_out, plain_out, *rest in zip(
            CASES, model(x), plain(x), emulated, in_litert, [spec.scale for spec in graph.outputs], strict=True
        )
    }
    assert emulation.model.output_names == [f"end_{case}" for case in CASES]
    return results, data, tuple(layer.name for layer in emulation.model.layers)


class TestLayers:
    @pytest.mark.parametrize("case", CASES)
    def test_outputs(self, case, branches):
        expected, plain, emulated, in_litert, step = branches[0][case]
        assert np.abs(plain - expected).max() <= 1e-5 * np.ptp(expected)  # Splitting changes nothing,
        assert np.abs(emulated - expected).max() <= 0.15 * np.ptp(expected)  # rounding little,
        # and the file rounds as the emulation does; weights are not on a grid yet, so it rounds them once more.
        assert np.abs(in_litert - emulated).mean() <= 2.5 * step

    def test_no_operator_is_float(self, branches):
        from edgecomp.compress._qat_check import float_layers

        assert float_layers(*branches[1:]) == []
        codes = [operator.code for _, operator in read_graph(branches[1]).operators()]
        assert codes.count("HARD_SWISH") == 2  # Written in pieces, and as an activation.


@tf_keras.utils.register_keras_serializable("test_qat")
class Logarithm(tf_keras.layers.Layer):
    def call(self, inputs):
        return tf.math.log1p(tf.abs(inputs))


@pytest.mark.slow
def test_layers_without_integers_stay_float_and_are_listed(model, bound, data):
    """A layer of one's own, some that TFLite's quantizer leaves out, and a loop (WHILE): no crash, they are named."""
    k = tf_keras.layers
    inputs = k.Input((8, 8, 1), name="image")
    x = k.Conv2D(8, 3, name="conv")(inputs)
    x = k.LayerNormalization(name="layer_norm")(k.ELU(name="elu")(Logarithm(name="mine")(x)))
    x = k.GRU(6, name="memory")(k.Reshape((6, 48))(x))
    small = tf_keras.Model(inputs, k.Dense(10, activation="softmax", name=model.output_names[0])(x))
    made = QAT.apply(small, EIGHT, context(data, None))
    assert {item.layer for item in made.skipped} == {"mine", "elu", "layer_norm", "memory"}
    x = bound.split("validation").head(50).read()["image"]
    assert np.abs(outputs_in_litert(made.int8, x) - made.model(x)).max() < 0.1


@pytest.mark.data
@pytest.mark.slow
def test_har_which_was_one_dimensional(data_folder, tmp_path):
    folder = data_folder / "har-spsw"
    model = load_trainable(str(folder / "har_cnn1d.keras"), trust_code=False)
    options = DataOptions(
        source=str(folder / "har_spsw_w64.npz"),
        mean=(-5.1423, -1.8441, 0.4623, -0.0095, -0.0002, 0.0314),
        std=(5.0414, 6.4378, 4.2962, 1.3490, 1.2518, 1.0536),
        group_key="subject",
    )
    loaded = from_tf_keras(model)
    bound = prepare_dataset(options, tmp_path).bind(loaded.inputs, loaded.outputs)
    few = TrainingData(
        Samples(bound.split("train").head(600), bound.label_kinds),
        Samples(bound.split("validation").head(300), bound.label_kinds),
    )
    made = QAT.apply(model, EIGHT, context(few, model))
    assert made.skipped == ()
    split = bound.split("test").take(np.arange(0, 2514, 5))
    x, y = next(iter(split.read().values())), next(iter(split.labels.values()))
    accuracy = np.mean(outputs_in_litert(made.int8, x).argmax(-1) == y)
    assert accuracy >= np.mean(model.predict(x, verbose=0).argmax(-1) == y) - 0.015


@pytest.mark.slow
def test_mobilenet_v3_is_integer_throughout():
    """119 ranges; hard-swish as one operator each, though Keras writes it in four."""
    from edgecomp.compress._qat_check import float_layers
    from edgecomp.compress._qat_model import emulate
    from edgecomp.compress._qat_prepare import prepare
    from edgecomp.convert import to_int8_tflite

    tf_keras.utils.set_random_seed(0)
    model = tf_keras.applications.MobileNetV3Small(input_shape=(64, 64, 3), weights=None, classes=10)
    x = np.random.default_rng(0).uniform(0, 255, size=(4, 64, 64, 3)).astype(np.float32)
    emulation = emulate(prepare(model).model, activations=True)
    emulation.calibrate([(x,)])
    data = to_int8_tflite(from_tf_keras(emulation.model), None, "int8", where="MobileNetV3")
    assert float_layers(data, ()) == []
    assert [operator.code for _, operator in read_graph(data).operators()].count("HARD_SWISH") == 19


@pytest.mark.slow
@pytest.mark.data
def test_resnet8_at_four_bits(data_folder, tmp_path):
    """OCTAV without training gives 0.68 on test, full-range rounding less; 5 epochs gave 0.866."""
    folder = data_folder / "resnet8-cifar10"
    model = load_trainable(str(folder / "pretrainedResnet.h5"), trust_code=False)
    loaded = from_tf_keras(model)
    options = DataOptions(source=str(folder / "cifar10_lossless_4k_1k.npz"))
    bound = prepare_dataset(options, tmp_path).bind(loaded.inputs, loaded.outputs)
    settings = TrainingSettings(epochs=5)
    made = QAT.apply(model, FOUR, Context(training_data(bound), settings, teacher=model))
    samples = [{"input_1": sample[None]} for sample in bound.split("calibration").read()["input_1"]]
    chosen = QuantizationOptions(Precision.INT4_WEIGHTS, "int8", int4_operators=("CONV_2D", "FULLY_CONNECTED"))
    data = Quantizer(to_tflite(from_tf_keras(made.model), where="qat"), samples).quantize(chosen).data
    split = bound.split("test")
    answers = outputs_in_litert(data, split.read()["input_1"]).argmax(-1)
    assert np.mean(answers == next(iter(split.labels.values())).reshape(-1)) >= 0.84
