"""The parts of post-training repair, each against LiteRT, a published optimum or a sum done by hand."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edgecomp import convert
from edgecomp.errors import QuantizationError
from edgecomp.graph import read_graph
from edgecomp.profile import Precision
from edgecomp.quantize import QuantizationOptions, Quantizer
from edgecomp.repair import equalize as equalization
from edgecomp.repair.bias_correction import correct_biases
from edgecomp.repair.equalize import equalize
from edgecomp.repair.layers import Network, preactivation
from edgecomp.repair.links import Link, find_links
from edgecomp.repair.ranges import Histogram, Range, activation_ranges, choose_greedily, weight_ranges
from edgecomp.tflite_edit import import_float, pack_model, unpack_model

os.environ.update(convert.ENVIRONMENT)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning"),
]


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow")
    module = pytest.importorskip("tf_keras")
    module.utils.set_random_seed(0)
    return module


def to_tflite(model):
    """The float .tflite of a tf_keras model, as the import makes it."""
    import tensorflow as tf

    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="x")
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    return import_float(converter.convert(), "The test's model")


def interpret(data, inputs, tensor=None):
    """Outputs in LiteRT, (n, ...), sample by sample; or those of one tensor inside."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    wanted = interpreter.get_output_details()[0]["index"] if tensor is None else tensor
    results = []
    for sample in inputs:
        interpreter.set_tensor(source, sample[np.newaxis])
        interpreter.invoke()
        results.append(interpreter.get_tensor(wanted)[0].copy())
    return np.array(results)


def samples_of(data, inputs):
    name = read_graph(data).inputs[0].name
    return [{name: sample[np.newaxis]} for sample in inputs]


def randomize(model, rng, octaves=0.0):
    """Random weights; the outputs of each channel of a kernel scaled by up to 2^octaves up or down."""
    for layer in model.layers:
        weights = layer.get_weights()
        if not weights:
            continue
        kernel = rng.normal(size=weights[0].shape) / np.sqrt(np.prod(weights[0].shape[:-1]))
        if octaves and kernel.ndim == 4 and kernel.shape[3] > 1:
            kernel *= 2.0 ** rng.uniform(-octaves, octaves, kernel.shape[3])
        layer.set_weights([kernel, *(rng.normal(size=part.shape) * 0.1 for part in weights[1:])])
    return model


class TestLayers:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("Conv2D", {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2}),
            ("Conv2D", {"filters": 6, "kernel_size": (2, 5), "padding": "valid"}),
            ("Conv2D", {"filters": 6, "kernel_size": 3, "padding": "same", "dilation_rate": 2}),
            ("Conv2D", {"filters": 6, "kernel_size": 3, "padding": "same", "groups": 2}),
            ("DepthwiseConv2D", {"kernel_size": 3, "padding": "same", "strides": 2}),
            ("DepthwiseConv2D", {"kernel_size": 3, "padding": "valid", "depth_multiplier": 2}),
            ("Dense", {"units": 6}),
        ],
        ids=["stride", "valid", "dilation", "groups", "depthwise", "multiplier", "dense"],
    )
    def test_preactivation_is_what_litert_computes(self, keras, kind, options):
        rng = np.random.default_rng(1)
        layer = getattr(keras.layers, kind)(**options)
        data = to_tflite(randomize(keras.Sequential([keras.layers.Input((9, 10, 4)), layer]), rng))
        inputs = rng.normal(size=(3, 9, 10, 4)).astype(np.float32)
        network = Network(data)
        # Groups may be converted to something else; what is left as a layer is checked.
        assert [item.code for item in network.layers] or options.get("groups")
        for item in network.layers:
            source, result = item.operator.inputs[0], item.operator.outputs[0]
            for sample in inputs:
                x = interpret(data, [sample], source)
                want = interpret(data, [sample], result).reshape(-1, network.bias(item).size)
                got = preactivation(item, network.constant(item.weights), x) + network.bias(item)
                assert got == pytest.approx(want, abs=1e-4)

    def test_weights_of_a_quantized_file_are_what_it_stores(self, keras):
        """INT8 and INT4: scale * integer, within half a step of the float weights."""
        rng = np.random.default_rng(2)
        model = keras.Sequential([keras.layers.Input((6, 6, 3)), keras.layers.Conv2D(5, 3), keras.layers.Flatten()])
        data = to_tflite(randomize(model, rng))
        quantizer = Quantizer(data, samples_of(data, rng.normal(size=(4, 6, 6, 3)).astype(np.float32)))
        network = Network(data)
        exact = network.constant(network.layers[0].weights)
        for precision, levels in (("INT8", 127), ("INT4_WEIGHTS", 7)):
            options = QuantizationOptions(Precision(precision), "float32", int4_operators=("CONV_2D",))
            peaks = np.abs(exact).max(axis=(1, 2, 3), keepdims=True)
            name = network.graph.main.tensors[network.layers[0].weights].name
            made = quantizer.quantize(options, weight_ranges={name: {"min": -peaks, "max": peaks}})
            quantized = Network(made.data)
            stored = quantized.constant(quantized.layers[0].weights)
            assert np.all(np.abs(stored - exact) <= peaks / levels * 0.5001)
            assert len(np.unique(np.round(stored[0] / (peaks[0] / levels)))) > 5

    def test_a_bias_that_two_layers_share_is_changed_for_one(self, keras):
        rng = np.random.default_rng(3)
        inputs = keras.layers.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dense(4)(inputs)))
        model.layers[2].set_weights([model.layers[2].get_weights()[0], np.ones(4)])
        model = unpack_model(to_tflite(model), "The test's model")
        # The converter gives the first layer no bias here, since it is 0.
        first, second = model.subgraphs[0].operators
        first.inputs = [*first.inputs[:2], second.inputs[2]]
        data = pack_model(model)
        x = rng.normal(size=(3, 4)).astype(np.float32)
        network = Network(data)
        before = interpret(data, x)
        layer = network.layers[1]
        network.set_bias(layer, network.bias(layer) + np.array([1.0, 2.0, 3.0, 4.0]))
        assert interpret(network.pack(), x) - before == pytest.approx(np.tile([1, 2, 3, 4], (3, 1)), abs=1e-5)

    def test_a_layer_without_a_bias_gets_one(self, keras):
        rng = np.random.default_rng(4)
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, use_bias=False)])
        data = to_tflite(randomize(model, rng))
        x = rng.normal(size=(2, 4)).astype(np.float32)
        network = Network(data)
        network.set_bias(network.layers[0], np.array([1.0, -2.0, 3.0]))
        assert interpret(network.pack(), x) - interpret(data, x) == pytest.approx(np.tile([1, -2, 3], (2, 1)), abs=1e-5)


def chain(keras):
    """Every kind of layer and operator that scales pass through."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((12, 12, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            layers.ReLU(),
            layers.ZeroPadding2D(1),
            layers.Conv2D(16, 3),
            layers.LeakyReLU(0.1),
            layers.AveragePooling2D(),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.Conv2D(6, 1, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="relu"),
            layers.Dense(4),
        ]
    )


@pytest.fixture(scope="module")
def badly_scaled(keras):
    """The chain with channels up to 2^10 apart, and 60 inputs."""
    rng = np.random.default_rng(5)
    return to_tflite(randomize(chain(keras), rng, octaves=5)), rng.normal(size=(60, 12, 12, 3)).astype(np.float32)


class TestEqualization:
    def test_outputs_are_the_same_through_every_kind_of_layer(self, badly_scaled):
        """On inputs that it has not seen; the differences are those of float32 sums."""
        data, inputs = badly_scaled
        result = equalize(data, samples_of(data, inputs[:20]))
        assert len(result.links) == 6, result.skipped
        want, got = interpret(data, inputs[20:]), interpret(result.data, inputs[20:])
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
        assert result.max_relative_difference <= 1e-4
        # The ranges of channels that only depthwise layers read, each with a scale of its own, become equal.
        assert max(link.spread_before for link in result.links) > 100
        assert min(link.spread_after for link in result.links) == pytest.approx(1.0, abs=0.01)
        assert all(link.spread_after < link.spread_before for link in result.links)

    def test_doing_it_twice_changes_nothing_more(self, badly_scaled):
        """What is done between two layers changes nothing for the next pair: one sweep converges."""
        data, inputs = badly_scaled
        samples = samples_of(data, inputs[:20])
        again = equalize(equalize(data, samples).data, samples)
        assert again.links == ()
        assert sum("balanced as they are" in item.reason for item in again.skipped) == 6

    def test_the_ranges_of_an_int8_file_shrink_where_channels_differ(self, badly_scaled):
        """SNR of the INT8 outputs in LiteRT: the reason for all of it."""
        data, inputs = badly_scaled
        exact = interpret(data, inputs[30:])

        def snr_db(float_model):
            samples = samples_of(float_model, inputs[:30])
            made = Quantizer(float_model, samples).quantize(QuantizationOptions(Precision.INT8, "float32"))
            return 10 * np.log10((exact**2).sum() / ((interpret(made.data, inputs[30:]) - exact) ** 2).sum())

        gain = snr_db(equalize(data, samples_of(data, inputs[:30])).data) - snr_db(data)
        assert gain > 3

    def test_what_stands_in_the_way_is_said(self, keras):
        layers = keras.layers
        inputs = layers.Input((8, 8, 3))
        six = layers.Conv2D(4, 3, padding="same", activation=lambda x: keras.activations.relu(x, max_value=6.0))(inputs)
        read_twice = layers.Conv2D(4, 3, padding="same", activation="relu")(six)
        behind_an_add = layers.Conv2D(4, 3, padding="same", activation="relu")(read_twice)
        summed = layers.Add()([read_twice, behind_an_add])
        twice = layers.Dense(4)
        outputs = layers.Softmax()(twice(twice(layers.GlobalAveragePooling2D()(summed))))
        data = to_tflite(randomize(keras.Model(inputs, outputs), np.random.default_rng(6)))
        found = [
            "linked" if isinstance(item, Link) else item.reason.split("'")[0] for item in find_links(Network(data))
        ]
        assert found[0] == "its RELU6 is not the same function of scaled values"
        assert found[1] == "2 operators read its output"
        assert found[2] == "ADD stands between it and the next layer"
        assert found[3:] == ["another operator reads its weights"] * 2

    def test_a_result_that_computes_something_else_is_refused(self, badly_scaled, monkeypatch):
        data, inputs = badly_scaled
        monkeypatch.setattr(equalization, "_TOLERANCE", 0.0)
        with pytest.raises(QuantizationError, match="Not equalized: the outputs of the rescaled float model differ"):
            equalize(data, samples_of(data, inputs[:4]))

    def test_a_channel_that_was_hardly_active_is_not_blown_up(self, keras):
        """Its bias keeps it at 0 but for a rare input: what it reaches then must still fit into the range."""
        rng = np.random.default_rng(7)
        layers = keras.layers
        model = keras.Sequential(
            [layers.Input((6, 6, 4)), layers.DepthwiseConv2D(3, activation="relu"), layers.DepthwiseConv2D(3)]
        )
        kernel = np.abs(rng.normal(size=(3, 3, 4, 1))) + 0.5
        inputs = rng.uniform(0, 1, size=(50, 6, 6, 4)).astype(np.float32)
        bias = np.zeros(4)
        probe = to_tflite(model_with(model, kernel, bias, rng))
        largest = interpret(probe, inputs, Network(probe).layers[0].operator.outputs[0]).max(axis=(0, 1, 2))
        bias[0] = -0.999 * largest[0]  # Only the very largest value of channel 0 is above 0.
        data = to_tflite(model_with(model, kernel, bias, rng))
        result = equalize(data, samples_of(data, inputs))
        before, after = (
            Network(item).constant(Network(item).layers[0].weights)[0, :, :, 0].sum() for item in (data, result.data)
        )
        others = [
            Network(item).constant(Network(item).layers[0].weights)[0, :, :, 1:].sum() for item in (data, result.data)
        ]
        # By its observed range alone it would grow a thousandfold against the others.
        assert after / before / (others[1] / others[0]) < 20


def model_with(model, kernel, bias, rng):
    model.layers[0].set_weights([kernel, bias])
    model.layers[1].set_weights([rng.normal(size=(3, 3, 4, 1)), np.zeros(4)])
    return model


class TestBiasCorrection:
    def test_by_hand(self, keras):
        """Weights (7, 2.4, -3.3) have a 4-bit scale of 1 and become (7, 2, -3); for x = (1, 1, 1) 0.1 is missing."""
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
        model.layers[0].set_weights([np.array([[7.0], [2.4], [-3.3]]), np.array([0.5])])
        data = to_tflite(model)
        samples = samples_of(data, np.ones((4, 3), np.float32))
        quantizer = Quantizer(data, samples)
        options = QuantizationOptions(Precision.INT4_WEIGHTS, "float32", int4_operators=("FULLY_CONNECTED",))
        name = Network(data).graph.main.tensors[Network(data).layers[0].weights].name
        ranges = {name: {"min": np.array([[-7.0]]), "max": np.array([[7.0]])}}

        def quantize(float_model):
            return quantizer.quantize(options, float_model=float_model, weight_ranges=ranges).data

        corrected = Network(correct_biases(data, quantize, samples))
        assert corrected.bias(corrected.layers[0]) == pytest.approx([0.6], abs=1e-3)

    def test_means_of_every_layer_come_back(self, keras):
        """On inputs that it has not seen, in LiteRT: mean error of the channels of the last layer."""
        rng = np.random.default_rng(8)
        data = to_tflite(randomize(chain(keras), rng))
        inputs = rng.uniform(0, 1, size=(200, 12, 12, 3)).astype(np.float32)
        quantizer = Quantizer(data, samples_of(data, inputs[:100]))
        options = QuantizationOptions(Precision.INT4_WEIGHTS, "float32", int4_operators=("CONV_2D", "FULLY_CONNECTED"))

        def quantize(float_model):
            return quantizer.quantize(options, float_model=float_model).data

        exact = interpret(data, inputs[100:]).mean(axis=0)
        corrected = correct_biases(data, quantize, quantizer.samples)
        before, after = (
            np.abs(interpret(quantize(item), inputs[100:]).mean(axis=0) - exact).max() for item in (data, corrected)
        )
        assert after < before / 5

    def test_a_file_with_other_layers_is_an_error(self, keras):
        layers = keras.layers
        dense = to_tflite(keras.Sequential([layers.Input((4,)), layers.Dense(4)]))
        other = to_tflite(keras.Sequential([layers.Input((4,)), layers.Softmax()]))
        with pytest.raises(QuantizationError, match="has no layer that is the float model's"):
            correct_biases(dense, lambda data: other, samples_of(dense, np.ones((2, 4), np.float32)))


def histogram_of(values):
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    histogram = Histogram(np.linspace(low, high, 2049), np.zeros(2048, dtype=np.int64))
    for part in np.split(values, 10):
        histogram.add(part)
    return histogram


def quantization_error(values, low, high, bits=8):
    """Squared error of TFLite's asymmetric integers, computed value by value."""
    scale = (high - low) / (2**bits - 1)
    zero_point = np.round(-(2 ** (bits - 1)) - low / scale)
    stored = np.clip(np.round(values / scale) + zero_point, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return float((((stored - zero_point) * scale - values) ** 2).sum())


class TestRanges:
    @pytest.mark.parametrize(("bits", "gain"), [(8, 1.05), (6, 2)])
    @pytest.mark.parametrize("kind", ["relu", "signed"])
    def test_mse_is_the_best_of_all_clippings(self, kind, bits, gain):
        """Beside a search over the values themselves: within 3 %, and that much below min-max."""
        values = np.random.default_rng(9).laplace(size=100_000)
        values = np.maximum(values, 0) if kind == "relu" else values
        values[0] = 20.0
        chosen = {item.method: item for item in activation_ranges(histogram_of(values), bits)}
        errors = {name: quantization_error(values, item.low, item.high, bits) for name, item in chosen.items()}
        low = min(values.min(), 0.0)
        best = min(quantization_error(values, max(low, -bound), bound, bits) for bound in np.linspace(2, 20, 200))
        assert errors["MSE"] <= 1.03 * best
        assert errors["MSE"] < errors["min-max"] / gain
        for name in ("MSE", "min-max", "OCTAV"):  # The estimate from the histogram is that of the values.
            assert chosen[name].error == pytest.approx(errors[name], rel=0.05)

    def test_values_that_are_exactly_0_cost_nothing(self):
        values = np.zeros(10_000)
        values[:10] = 1.0
        ranges = activation_ranges(histogram_of(values))
        assert ranges[0].method == "min-max"
        assert ranges[0].error < 1e-3

    @pytest.mark.parametrize(("draw", "optimum"), [("normal", 2.55), ("laplace", 5.03)])
    def test_octav_finds_the_published_optimum(self, draw, optimum):
        """Banner et al. 2019, arXiv 1810.05723: at 4 bits 2.55 sigma for a normal distribution, 5.03 b for Laplace."""
        weights = getattr(np.random.default_rng(10), draw)(size=(2, 400_000))
        found = {item.method: item for item in weight_ranges(weights, np.ones((1, 1)), 0, 4)}
        assert found["OCTAV"].high.ravel() == pytest.approx([optimum] * 2, rel=0.03)

    def test_percentiles_are_those_of_the_values(self):
        values = np.arange(1.0, 100_001.0)
        found = {item.method: item for item in activation_ranges(histogram_of(values))}
        assert found["99.9 %"].high == pytest.approx(99_900, abs=60)
        assert found["99.99 %"].high == pytest.approx(99_990, abs=60)
        assert found["99.9 %"].low == 0

    def test_a_weight_counts_by_the_power_of_its_input(self):
        """The outlier of the first channel meets an input that is always 0: clipping it is free."""
        weights = np.random.default_rng(11).uniform(-1, 1, size=(2, 100))
        weights[:, 0] = 10.0
        silent = np.ones((1, 100))
        silent[0, 0] = 0.0
        free = {item.method: item for item in weight_ranges(weights, silent, 0, 4)}
        counted = {item.method: item for item in weight_ranges(weights, np.ones((1, 100)), 0, 4)}
        assert free["MSE"].high.max() < 3 < counted["MSE"].high.min()
        assert free["MSE"].error == min(item.error for item in free.values())

    def test_greedy_choice_keeps_what_gains_by_the_margin(self):
        tensors = {
            name: [Range("min-max", 0, 9, 10.0), Range("MSE", 0, 5, error), Range("OCTAV", 0, 4, error + 1)]
            for name, error in {"big": 1.0, "small": 2.0, "same": 3.0, "harmful": 4.0, "not worth it": 9.0}.items()
        }
        gains = {"big": 3.0, "small": 0.05, "harmful": -1.0}
        tried = []

        def snr_db(ranges):
            tried.append(tuple(ranges))
            return None if "same" in ranges else 20 + sum(gains[name] for name in ranges)

        chosen = choose_greedily(tensors, snr_db, margin_db=0.1, max_trials=10)
        assert {name: item.method for name, item in chosen.items()} == {"big": "MSE"}
        assert tried == [(), ("big",), ("big", "small"), ("big", "same"), ("big", "harmful")]
        tried.clear()
        choose_greedily(tensors, snr_db, margin_db=0.1, max_trials=1)
        assert tried == [(), ("big",)]
