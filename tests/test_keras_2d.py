"""1-D networks rewritten as 2-D ones: the reference is the model itself, on random inputs and random weights."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT

os.environ.update(ENVIRONMENT)

pytestmark = [
    # numpy 2 and Python say this of code inside of tf_keras and tensorflow.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
]


@pytest.fixture(scope="module")
def tf_keras():
    return pytest.importorskip("tf_keras")


@pytest.fixture(scope="module")
def layers(tf_keras):
    return tf_keras.layers


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def randomize(model, rng):
    """Weights that no initializer makes, so that a weight that was not carried over shows."""
    for weight in model.weights:
        values = rng.normal(size=weight.shape, scale=0.5)
        weight.assign(values**2 + 0.1 if "variance" in weight.name else values)


def difference(model, made, rng, *, count=3, shapes=None):
    inputs = [rng.normal(size=(count, *(shapes or t.shape[1:]))).astype(np.float32) for t in model.inputs]
    given = inputs if len(inputs) > 1 else inputs[0]
    expected, actual = (one(given, training=False) for one in (model, made))
    pairs = zip(expected, actual, strict=True) if isinstance(expected, list) else [(expected, actual)]
    return max(float(np.abs(left - right).max()) for left, right in pairs)


def rewritten(model, rng):
    """The 2-D form, checked to give the same outputs under the same names."""
    from edgecomp.keras_2d import to_2d

    randomize(model, rng)
    found = to_2d(model)
    assert found is not None
    # 1e-5: float32 rounding, where a fused batch normalization orders its sums in another way.
    assert difference(model, found.model, rng) <= 1e-5
    assert found.model.input_names == model.input_names
    assert found.model.output_names == model.output_names
    return found


def sequence_layers(model):
    """Layers that work on (n, steps, channels); reshapes do not count."""
    return [
        layer.name
        for layer in model.layers
        if type(layer).__name__ not in ("Reshape", "InputLayer") and layer.output.shape.rank == 3
    ]


# Every layer alone between an input and a convolution, which begins and ends the stretch of images.
LAYERS = {
    "Conv1D": lambda k: k.Conv1D(4, 3, activation="relu"),
    "Conv1D-strided": lambda k: k.Conv1D(4, 3, strides=2, padding="same", use_bias=False),
    "Conv1D-causal": lambda k: k.Conv1D(4, 3, dilation_rate=2, padding="causal", kernel_regularizer="l2"),
    "Conv1D-dilated": lambda k: k.Conv1D(4, 3, dilation_rate=3, padding="same"),
    "Conv1D-groups": lambda k: k.Conv1D(6, 3, groups=2),
    "DepthwiseConv1D": lambda k: k.DepthwiseConv1D(3, strides=2, depth_multiplier=2, activation="relu"),
    "DepthwiseConv1D-dilated": lambda k: k.DepthwiseConv1D(3, dilation_rate=2, padding="same"),
    "SeparableConv1D": lambda k: k.SeparableConv1D(5, 3, strides=2, depth_multiplier=2, activation="relu"),
    "SeparableConv1D-causal": lambda k: k.SeparableConv1D(5, 3, padding="causal", dilation_rate=2, use_bias=False),
    "Conv1DTranspose": lambda k: k.Conv1DTranspose(4, 3, strides=2, output_padding=1),
    "Conv1DTranspose-same": lambda k: k.Conv1DTranspose(4, 4, strides=2, padding="same", activation="relu"),
    "MaxPooling1D": lambda k: k.MaxPooling1D(3, strides=2, padding="same"),
    "AveragePooling1D": lambda k: k.AveragePooling1D(2),
    "ZeroPadding1D": lambda k: k.ZeroPadding1D((2, 1)),
    "Cropping1D": lambda k: k.Cropping1D((1, 2)),
    "UpSampling1D": lambda k: k.UpSampling1D(3),
    "BatchNormalization": lambda k: k.BatchNormalization(),
    "LayerNormalization": lambda k: k.LayerNormalization(),
    "Dense": lambda k: k.Dense(5, activation="tanh"),
    "PReLU": lambda k: k.PReLU(),
    "PReLU-shared": lambda k: k.PReLU(shared_axes=[1]),
    "Softmax": lambda k: k.Softmax(),
    "Softmax-over-time": lambda k: k.Softmax(1),
    "Activation": lambda k: k.Activation("sigmoid"),
    "ReLU": lambda k: k.ReLU(6.0, 0.1, 0.2),
    "LeakyReLU": lambda k: k.LeakyReLU(0.2),
    "ELU": lambda k: k.ELU(0.5),
    "Rescaling": lambda k: k.Rescaling([0.5, 2.0, 1.5, 1.0, 3.0, 0.1], offset=-0.5),
    "Dropout": lambda k: k.Dropout(0.5),
    "SpatialDropout1D": lambda k: k.SpatialDropout1D(0.5),
    "GaussianNoise": lambda k: k.GaussianNoise(0.1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_has_an_equal_form(name, tf_keras, layers, rng):
    inputs = layers.Input((12, 3))
    hidden = layers.Conv1D(6, 1, name="first")(inputs)
    hidden = LAYERS[name](layers)(hidden)
    model = tf_keras.Model(inputs, layers.Conv1D(2, 1, name="last")(hidden))
    found = rewritten(model, rng)
    assert {"first", "last"} <= set(found.changed)
    assert sequence_layers(found.model) == []
    # One reshape at the start and one at the end: none between the layers.
    assert sum(type(layer).__name__ == "Reshape" for layer in found.model.layers) == 2


@pytest.mark.parametrize(
    "ending",
    [
        lambda k: k.GlobalAveragePooling1D(),
        lambda k: k.GlobalAveragePooling1D(keepdims=True),
        lambda k: k.GlobalMaxPooling1D(),
        lambda k: k.Flatten(),
        lambda k: k.Reshape((6, 6)),
        lambda k: k.Reshape((-1,)),
        lambda k: k.LSTM(3),
        lambda k: k.Permute((2, 1)),
    ],
    ids=["mean", "mean-keepdims", "max", "flatten", "reshape", "reshape-flat", "lstm", "permute"],
)
def test_what_follows_the_stretch(ending, tf_keras, layers, rng):
    inputs = layers.Input((12, 3))
    hidden = layers.MaxPooling1D(2)(layers.Conv1D(6, 1)(inputs))
    rewritten(tf_keras.Model(inputs, layers.Dense(2)(ending(layers)(hidden))), rng)


def test_batch_normalization_gets_the_last_axis(tf_keras, layers, rng):
    """Built on three axes its configuration says axis=[2], which on four would be the steps."""
    inputs = layers.Input((12, 12))  # Both axes of one size: the wrong one would pass unnoticed.
    model = tf_keras.Model(inputs, layers.BatchNormalization(name="norm")(layers.Conv1D(12, 1)(inputs)))
    found = rewritten(model, rng)
    norm = next(layer for layer in found.model.layers if type(layer).__name__ == "BatchNormalization")
    assert list(norm.axis) == [3]


def test_residual_network_keeps_its_sums_and_its_skip(tf_keras, layers, rng):
    inputs = layers.Input((16, 4))
    skip = layers.Conv1D(6, 1)(inputs)
    body = layers.BatchNormalization()(layers.Conv1D(6, 3, padding="causal")(inputs))
    body = layers.Activation("relu")(body)
    hidden = layers.Add()([body, skip])
    hidden = layers.Concatenate()([hidden, inputs])  # A sequence that has no image yet joins in.
    hidden = layers.Concatenate(axis=1)([hidden, hidden])
    gate = layers.Dense(10, activation="sigmoid")(layers.GlobalAveragePooling1D()(hidden))
    hidden = layers.Multiply()([hidden, layers.Reshape((1, 10))(gate)])
    found = rewritten(tf_keras.Model(inputs, layers.Flatten()(hidden)), rng)
    assert sequence_layers(found.model) == []


def test_shared_and_nested_layers(tf_keras, layers, rng):
    shared = layers.Conv1D(3, 3, padding="same", name="shared")
    base = tf_keras.Sequential([layers.Input((8, 3)), layers.Conv1D(3, 1), layers.ReLU()], name="base")
    left, right = layers.Input((8, 3), name="left"), layers.Input((8, 3), name="right")
    outputs = [shared(shared(left)), layers.Flatten(name="end")(base(shared(right)))]
    found = rewritten(tf_keras.Model([left, right], outputs), rng)
    convolutions = [layer for layer in found.model.layers if type(layer).__name__ == "Conv2D"]
    assert len(convolutions) == 2  # The shared one is still one.
    assert sum(weight.shape.num_elements() for weight in found.model.weights) == 3 * 3 * 3 + 3 + 3 * 3 + 3


def test_frozen_normalization_in_a_nested_model_stays_frozen(tf_keras, layers, rng):
    """base(x, training=False): while the rest is trained it must go on using its own statistics."""
    base = tf_keras.Sequential([layers.Input((8, 3)), layers.Conv1D(3, 1), layers.BatchNormalization()], name="base")
    inputs = layers.Input((8, 3))
    model = tf_keras.Model(inputs, layers.Conv1D(2, 1)(base(inputs, training=False)))
    found = rewritten(model, rng)
    x = rng.normal(size=(4, 8, 3)).astype(np.float32)
    assert np.abs(model(x, training=True) - found.model(x, training=True)).max() <= 1e-5


def test_open_length(tf_keras, layers, rng):
    inputs = layers.Input((None, 3))
    hidden = layers.MaxPooling1D(2)(layers.Conv1D(4, 3, padding="causal")(inputs))
    model = tf_keras.Model(inputs, [hidden, layers.GlobalMaxPooling1D()(hidden)])
    from edgecomp.keras_2d import to_2d

    found = to_2d(model)
    for steps in (6, 15):
        assert difference(model, found.model, rng, shapes=(steps, 3)) <= 1e-5


def test_masks_are_not_lost(tf_keras, layers, rng):
    """A mean over the steps that a mask leaves: as an image it would count the padding."""
    from edgecomp.keras_2d import to_2d

    tokens = layers.Input((6,), dtype="int32")
    embedded = layers.Embedding(5, 4, mask_zero=True)(tokens)
    outputs = [layers.GlobalAveragePooling1D()(embedded), layers.Flatten()(layers.Conv1D(2, 3)(embedded))]
    model = tf_keras.Model(tokens, outputs)
    randomize(model, rng)
    x = np.array([[1, 2, 0, 0, 0, 0], [3, 4, 1, 2, 0, 0]], np.int32)
    made = to_2d(model)
    assert len(made.changed) == 1  # The convolution, which has no use for a mask.
    for left, right in zip(model(x), made.model(x), strict=True):
        assert np.abs(left - right).max() <= 1e-6


def test_models_without_a_stretch_are_left_alone(tf_keras, layers):
    from edgecomp.keras_2d import to_2d

    image = layers.Input((8, 8, 3))
    assert to_2d(tf_keras.Model(image, layers.Conv2D(2, 3)(image))) is None
    sequence = layers.Input((8, 3))
    recurrent = layers.BatchNormalization()(layers.LSTM(4, return_sequences=True)(sequence))
    assert to_2d(tf_keras.Model(sequence, layers.GlobalAveragePooling1D()(recurrent))) is None


def test_what_has_no_image_form_stays(tf_keras, layers, rng):
    class Doubled(layers.Conv1D):
        def call(self, inputs):
            return 2 * super().call(inputs)

    inputs = layers.Input((8, 3))
    hidden = layers.BatchNormalization(axis=1, name="over_time")(layers.Conv1D(4, 3, name="plain")(inputs))
    hidden = layers.Dropout(0.5, noise_shape=(None, 1, 4))(Doubled(2, 3, name="mine")(hidden))
    found = rewritten(tf_keras.Model(inputs, hidden), rng)
    assert found.changed == ("plain",)
    assert {"over_time", "mine"} <= set(sequence_layers(found.model))


class TestImport:
    def test_legacy_file_is_compared_with_what_it_was(self, tf_keras, layers, rng, tmp_path):
        from edgecomp import convert
        from edgecomp.graph import read_graph

        inputs = layers.Input((16, 3), name="x")
        hidden = layers.MaxPooling1D(2)(layers.Conv1D(4, 3, padding="causal", activation="relu")(inputs))
        hidden = layers.AveragePooling1D(2)(layers.Conv1D(4, 3, name="second")(hidden))
        model = tf_keras.Model(inputs, layers.Conv1D(2, 1, name="end")(hidden))
        model.save(tmp_path / "model.h5")
        x = rng.normal(size=(5, 16, 3)).astype(np.float32)
        np.savez(tmp_path / "samples.npz", x=x)
        out = tmp_path / "float.tflite"
        info = convert.convert_to_float_tflite(
            str(tmp_path / "model.h5"), trust_code=False, out_path=str(out), samples_path=str(tmp_path / "samples.npz")
        )
        assert 0 <= info.rebuild_max_difference <= 1e-6
        assert info.conversion_max_difference <= 1e-5
        assert "5 layers over time are computed as layers over images" in info.notes[-1]
        assert [spec.name for spec in info.outputs] == ["end"]
        assert info.outputs[0].shape == (1, 3, 2)
        codes = [operator.code for _, operator in read_graph(out.read_bytes()).operators()]
        assert codes.count("RESHAPE") == 2  # There and back.

    @pytest.mark.data
    def test_har_has_six_operators_less_and_xnnpack_takes_it_whole(self, data_folder):
        from ai_edge_litert.interpreter import Interpreter

        from edgecomp import convert
        from edgecomp.load import from_tf_keras, load

        loaded = load(str(data_folder / "har-spsw/har_cnn1d.keras"), trust_code=False)
        interpreter = Interpreter(model_content=convert.to_tflite(from_tf_keras(loaded.trainable), where="har"))
        interpreter.allocate_tensors()
        names = [detail["op_name"] for detail in interpreter._get_ops_details()]
        # Of the 16 that the layers over time give, six reshapes are left out.
        assert (len(names) - names.count("DELEGATE"), names.count("DELEGATE")) == (10, 1)


def test_adapted_statistics_come_along(tf_keras, layers, rng):
    """A Normalization computes with what it made of its weights, which are not set by setting them."""
    adapted = layers.Normalization()
    adapted.adapt(rng.normal(3, 4, size=(50, 8, 3)).astype(np.float32))
    inputs = layers.Input((8, 3))
    model = tf_keras.Model(inputs, layers.Conv1D(2, 3)(adapted(inputs)))
    from edgecomp.keras_2d import to_2d

    assert difference(model, to_2d(model).model, rng) <= 1e-5
