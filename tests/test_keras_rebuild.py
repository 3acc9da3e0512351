"""Keras 3 models rebuilt in tf_keras: the reference is Keras 3 itself, on random inputs and random weights."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT
from edgecomp.model import CannotRebuildError

os.environ.update(ENVIRONMENT)

pytestmark = [
    # numpy 2 and Python say this of code inside of keras, tf_keras and tensorflow.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning"),
]


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def randomize(model, rng):
    """Weights that no initializer makes, so that a weight that was not carried over shows."""
    for weight in model.weights:
        values = rng.normal(size=weight.shape, scale=0.5)
        weight.assign(values**2 + 0.1 if "variance" in weight.path else values)


def through_file(model, tmp_path):
    """What users bring is a file, and loading one changes the recorded arguments of calls."""
    import keras

    path = tmp_path / "model.keras"
    model.save(path)
    return keras.models.load_model(path, compile=False)


def random_inputs(model, rng, count=3):
    return [
        rng.integers(0, 8, size=(count, *tensor.shape[1:])).astype(tensor.dtype)
        if "int" in tensor.dtype
        else rng.normal(size=(count, *tensor.shape[1:])).astype(tensor.dtype)
        for tensor in model.inputs
    ]


def original_outputs(model, inputs):
    import keras

    from edgecomp.keras_rebuild import graph_of

    structure = graph_of(model)._inputs_struct
    return keras.tree.flatten(model(keras.tree.pack_sequence_as(structure, inputs), training=False))


def twin_outputs(twin, inputs):
    import tensorflow as tf

    return tf.nest.flatten(twin(inputs if len(inputs) > 1 else inputs[0], training=False))


def difference(left, right):
    return max(
        float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max())
        for one, other in zip(left, right, strict=True)
    )


def check(model, rng, tmp_path, *, reload=True):
    """The twin equals the original, and so does its clone, which is what TF-MOT works on."""
    import tf_keras

    from edgecomp.keras_rebuild import rebuild

    randomize(model, rng)
    source = through_file(model, tmp_path) if reload else model
    twin = rebuild(source)
    inputs = random_inputs(source, rng)
    # 1e-5: float32 rounding where a fused kernel orders its sums in another way.
    assert difference(original_outputs(source, inputs), twin_outputs(twin, inputs)) <= 1e-5
    clone = tf_keras.models.clone_model(twin)
    clone.set_weights(twin.get_weights())
    assert difference(twin_outputs(twin, inputs), twin_outputs(clone, inputs)) == 0
    return twin


IMAGE, SEQUENCE, VECTOR = (8, 8, 3), (8, 3), (5,)

LAYERS = {
    "Conv2D": (lambda k: k.Conv2D(4, 3, strides=2, padding="same", activation="relu", kernel_regularizer="l2"), IMAGE),
    "Conv2D-dilated": (lambda k: k.Conv2D(4, 3, dilation_rate=2, kernel_constraint="max_norm", use_bias=False), IMAGE),
    "Conv1D": (lambda k: k.Conv1D(4, 3, padding="causal"), SEQUENCE),
    "Conv3D": (lambda k: k.Conv3D(2, 2), (4, 4, 4, 2)),
    "DepthwiseConv2D": (lambda k: k.DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
    "DepthwiseConv1D": (lambda k: k.DepthwiseConv1D(3), SEQUENCE),
    "SeparableConv2D": (lambda k: k.SeparableConv2D(4, 3), IMAGE),
    "SeparableConv1D": (lambda k: k.SeparableConv1D(4, 3), SEQUENCE),
    "Conv2DTranspose": (lambda k: k.Conv2DTranspose(4, 3, strides=2, padding="same"), IMAGE),
    "Conv1DTranspose": (lambda k: k.Conv1DTranspose(4, 3, strides=2), SEQUENCE),
    "Dense": (lambda k: k.Dense(4), SEQUENCE),
    "EinsumDense": (lambda k: k.EinsumDense("abc,cd->abd", output_shape=(None, 4), bias_axes="d"), SEQUENCE),
    "MaxPooling2D": (lambda k: k.MaxPooling2D(2, padding="same"), IMAGE),
    "AveragePooling2D": (lambda k: k.AveragePooling2D(3, 1, padding="same"), IMAGE),
    "MaxPooling1D": (lambda k: k.MaxPooling1D(2), SEQUENCE),
    "AveragePooling1D": (lambda k: k.AveragePooling1D(2), SEQUENCE),
    "GlobalAveragePooling1D": (lambda k: k.GlobalAveragePooling1D(), SEQUENCE),
    "GlobalAveragePooling2D": (lambda k: k.GlobalAveragePooling2D(keepdims=True), IMAGE),
    "GlobalMaxPooling2D": (lambda k: k.GlobalMaxPooling2D(), IMAGE),
    "Flatten": (lambda k: k.Flatten(), IMAGE),
    "Reshape": (lambda k: k.Reshape((-1, 6)), IMAGE),
    "Permute": (lambda k: k.Permute((2, 1, 3)), IMAGE),
    "RepeatVector": (lambda k: k.RepeatVector(3), VECTOR),
    "ZeroPadding2D": (lambda k: k.ZeroPadding2D(((1, 0), (2, 1))), IMAGE),
    "ZeroPadding1D": (lambda k: k.ZeroPadding1D(2), SEQUENCE),
    "Cropping2D": (lambda k: k.Cropping2D(1), IMAGE),
    "Cropping1D": (lambda k: k.Cropping1D((1, 2)), SEQUENCE),
    "UpSampling2D": (lambda k: k.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    "UpSampling1D": (lambda k: k.UpSampling1D(2), SEQUENCE),
    "BatchNormalization": (lambda k: k.BatchNormalization(), IMAGE),
    # A built tf_keras BatchNormalization has axis=[1]; a plain -1 would normalise the wrong axis.
    "BatchNormalization-axis1": (lambda k: k.BatchNormalization(axis=1), SEQUENCE),
    "LayerNormalization": (lambda k: k.LayerNormalization(axis=[1, 2]), SEQUENCE),
    "GroupNormalization": (lambda k: k.GroupNormalization(3), IMAGE),
    "UnitNormalization": (lambda k: k.UnitNormalization(), SEQUENCE),
    "Rescaling": (lambda k: k.Rescaling(1 / 255, offset=-0.5), IMAGE),
    "Rescaling-per-channel": (lambda k: k.Rescaling([1.0, 2.0, 3.0]), IMAGE),
    "Normalization-adapted": (lambda k: k.Normalization(), IMAGE),
    "Normalization-given": (lambda k: k.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0]), IMAGE),
    "Resizing": (lambda k: k.Resizing(5, 6), IMAGE),
    "CenterCrop": (lambda k: k.CenterCrop(5, 6), IMAGE),
    "Dropout": (lambda k: k.Dropout(0.5), SEQUENCE),
    "SpatialDropout2D": (lambda k: k.SpatialDropout2D(0.5), IMAGE),
    "GaussianNoise": (lambda k: k.GaussianNoise(0.1), SEQUENCE),
    "RandomFlip": (lambda k: k.RandomFlip(), IMAGE),
    "RandomRotation": (lambda k: k.RandomRotation(0.1), IMAGE),
    "RandomContrast": (lambda k: k.RandomContrast(0.1), IMAGE),
    "ReLU": (lambda k: k.ReLU(6.0, 0.1, 0.2), SEQUENCE),
    "LeakyReLU": (lambda k: k.LeakyReLU(0.2), SEQUENCE),
    "PReLU": (lambda k: k.PReLU(shared_axes=[1]), SEQUENCE),
    "ELU": (lambda k: k.ELU(0.5), SEQUENCE),
    "Softmax": (lambda k: k.Softmax(axis=1), SEQUENCE),
    "Identity": (lambda k: k.Identity(), SEQUENCE),
    "Masking": (lambda k: k.Masking(), SEQUENCE),
    "LSTM": (lambda k: k.LSTM(5), SEQUENCE),
    "LSTM-backwards": (lambda k: k.LSTM(5, return_sequences=True, go_backwards=True, dropout=0.3), SEQUENCE),
    "GRU": (lambda k: k.GRU(5), SEQUENCE),
    "GRU-reset-before": (lambda k: k.GRU(5, reset_after=False), SEQUENCE),
    "SimpleRNN": (lambda k: k.SimpleRNN(4), SEQUENCE),
    "RNN-of-cells": (lambda k: k.RNN([k.LSTMCell(4), k.GRUCell(3)]), SEQUENCE),
    "ConvLSTM2D": (lambda k: k.ConvLSTM2D(3, 2), (3, 6, 6, 2)),
    "Bidirectional": (lambda k: k.Bidirectional(k.LSTM(5)), SEQUENCE),
    "Bidirectional-two": (
        lambda k: k.Bidirectional(
            k.LSTM(5, return_sequences=True),
            merge_mode="sum",
            backward_layer=k.LSTM(5, go_backwards=True, return_sequences=True, activation="sigmoid"),
        ),
        SEQUENCE,
    ),
    "TimeDistributed": (lambda k: k.TimeDistributed(k.Dense(4, activation="hard_sigmoid")), SEQUENCE),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_has_an_equal_twin(name, keras, rng, tmp_path):
    make, shape = LAYERS[name]
    inputs = keras.Input(shape)
    check(keras.Model(inputs, make(keras.layers)(inputs)), rng, tmp_path)


@pytest.mark.parametrize(
    "activation",
    [
        "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "linear", "log_sigmoid",
        "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh",
        "tanh_shrink",
    ],
)  # fmt: skip
def test_activation_means_what_it_meant(activation, keras, rng, tmp_path):
    """hard_sigmoid is the trap: relu6(x + 3) / 6 in Keras 3, clip(0.2 x + 0.5) in tf_keras, 0.083 apart."""
    inputs = keras.Input(VECTOR)
    hidden = keras.layers.Dense(16, activation=activation)(inputs)
    check(keras.Model(inputs, keras.layers.Activation(activation)(hidden)), rng, tmp_path)


def refused(keras, layer, shape):
    from edgecomp.keras_rebuild import rebuild

    inputs = keras.Input(shape)
    with pytest.raises(CannotRebuildError) as caught:
        rebuild(keras.Model(inputs, layer(inputs)))
    return caught.value.message


def test_what_has_no_twin_is_named(keras):
    layers = keras.layers
    assert "layer 'rms' (RMSNormalization)" in refused(keras, layers.RMSNormalization(name="rms"), SEQUENCE)
    assert "layer 'gate' (Dense) uses the activation 'glu'" in refused(
        keras, layers.Dense(4, activation="glu", name="gate"), VECTOR
    )

    class Doubling(layers.Layer):
        def call(self, x):
            return x * 2

    assert "no twin of layer 'mine' (Doubling)" in refused(keras, Doubling(name="mine"), VECTOR)
    # Same name as a Keras class, other code: must not be taken for it.
    impostor = type("Dense", (layers.Layer,), {"call": lambda self, x: x * 3})
    assert "no twin of layer 'fake' (Dense)" in refused(keras, impostor(name="fake"), VECTOR)


def test_option_that_tf_keras_lacks_is_named(keras):
    layer = keras.layers.MultiHeadAttention(2, 2, name="attention", use_gate=True)
    inputs = keras.Input(SEQUENCE)
    from edgecomp.keras_rebuild import rebuild

    with pytest.raises(CannotRebuildError, match=r"layer 'attention' .* uses use_gate=True"):
        rebuild(keras.Model(inputs, layer(inputs, inputs)))


def test_model_that_was_never_built_is_refused(keras):
    from edgecomp.keras_rebuild import rebuild

    with pytest.raises(CannotRebuildError, match=r"'lazy' \(Sequential\) is not made of connected layers"):
        rebuild(keras.Sequential([keras.layers.Dense(2)], name="lazy"))


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method:UserWarning")
def test_quantized_keras_model_is_refused(keras):
    from edgecomp.keras_rebuild import rebuild

    model = keras.Sequential([keras.Input(VECTOR), keras.layers.Dense(4, name="dense")])
    model.quantize("int8")
    with pytest.raises(CannotRebuildError, match=r"layer 'dense' .* is stored quantized"):
        rebuild(model)


def test_shared_layer_stays_one_layer(keras, rng, tmp_path):
    layers = keras.layers
    left, right, shared = keras.Input((4,)), keras.Input((4,)), layers.Dense(4, name="shared")
    outputs = [shared(shared(left)), layers.Add()([shared(right), shared(left)])]
    twin = check(keras.Model([left, right], outputs), rng, tmp_path)
    assert sum(type(layer).__name__ == "Dense" for layer in twin.layers) == 1
    assert len(twin.get_weights()) == 2  # One kernel, one bias.


def test_nested_models_are_dissolved(keras, rng, tmp_path):
    layers = keras.layers
    base = keras.Sequential(
        [keras.Input(IMAGE), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(), layers.ReLU()], name="base"
    )
    inputs = keras.Input(IMAGE)
    joined = layers.Concatenate()([base(inputs, training=False), base(inputs * 2 - 1.0)])
    twin = check(keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(joined)), rng, tmp_path)
    names = [layer.name for layer in twin.layers if "conv" in layer.name and "concat" not in layer.name]
    assert names == ["base_conv", "conv"]  # The outer one keeps its name.
    assert not any(hasattr(layer, "layers") for layer in twin.layers)


def test_same_names_at_three_depths(keras, rng, tmp_path):
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d")], name="inner")
    middle = keras.Sequential([keras.Input((4,)), inner, layers.Dense(4, name="d")], name="middle")
    inputs = keras.Input((4,))
    twin = check(keras.Model(inputs, layers.Dense(3, name="d")(middle(inputs))), rng, tmp_path)
    assert len({layer.name for layer in twin.layers}) == 4


def test_nested_model_with_dicts(keras, rng, tmp_path):
    """Keras orders dicts by key, whatever order the caller wrote."""
    layers = keras.layers
    p, q = keras.Input((4,), name="p"), keras.Input((3,), name="q")
    inner = keras.Model({"q": q, "p": p}, {"t": layers.Dense(3)(q), "s": layers.Dense(2)(p)}, name="inner")
    left, right = keras.Input((4,)), keras.Input((3,))
    results = inner({"q": right, "p": left})
    check(keras.Model([left, right], [results["t"], results["s"]]), rng, tmp_path)


def test_several_inputs_and_outputs_keep_their_order(keras, rng, tmp_path):
    layers = keras.layers
    b, a = keras.Input((4,), name="b_in"), keras.Input((4,), name="a_in")
    model = keras.Model({"b_in": b, "a_in": a}, [layers.Dense(2, name="z")(b), layers.Dense(3, name="y")(a), b + a])
    twin = check(model, rng, tmp_path)
    assert twin.input_names == [tensor.name for tensor in model.inputs] == ["a_in", "b_in"]
    assert [tuple(tensor.shape) for tensor in twin.outputs] == [(None, 2), (None, 3), (None, 4)]


def test_merges_and_attention(keras, rng, tmp_path):
    layers = keras.layers
    q, k = keras.Input((6, 8)), keras.Input((5, 8))
    outputs = [
        layers.MultiHeadAttention(2, 4, value_dim=3)(query=q, value=k, key=k),
        layers.MultiHeadAttention(2, 4)(q, q, use_causal_mask=True),
        layers.Attention(use_scale=True)([q, k]),
        layers.AdditiveAttention()([q, k]),
        layers.Dot(2)([q, k]),
        layers.Average()([q, q * 2]),
        layers.Maximum()([q, -q]),
        layers.Subtract()([q, q * 3]),
    ]
    check(keras.Model([q, k], outputs), rng, tmp_path)


def test_masks_and_states_go_on(keras, rng, tmp_path):
    layers = keras.layers
    tokens = keras.Input((7,), dtype="int32")
    embedded = layers.Embedding(11, 4, mask_zero=True)(tokens)
    sequence, h, c = layers.LSTM(5, return_state=True, return_sequences=True)(embedded)
    last = layers.LSTM(5)(sequence, initial_state=[h, c])
    attended = layers.MultiHeadAttention(2, 2)(embedded, embedded)
    twin = check(keras.Model(tokens, [layers.GRU(3)(embedded), last, attended]), rng, tmp_path)
    # The mask that Keras 3 wrote down as an operation of its own is handed on by tf_keras itself.
    assert not any(type(layer).__name__ == "KerasOperation" for layer in twin.layers)


def test_operations_become_layers(keras, rng, tmp_path):
    ops = keras.ops
    inputs = keras.Input((8, 8, 4))
    y = ops.concatenate([inputs, ops.sigmoid(inputs)], axis=-1)
    y = ops.softmax(ops.transpose(ops.reshape(y, (-1, 64, 8)), (0, 2, 1)), axis=-1)
    y = 1 - ops.sqrt(ops.maximum(y, 0.01) ** 2) / 3
    y = ops.expand_dims(ops.squeeze(ops.sum(y, axis=1, keepdims=True), 1), -1)
    y = ops.clip(ops.matmul(y, ops.ones((1, 3))) + np.arange(3, dtype="float32"), -1, 5)
    y = ops.where(y > 2.0, y, -y)[..., :2]
    first, second = ops.split(ops.mean(inputs, axis=[1, 2]), 2, axis=1)
    twin = check(keras.Model(inputs, [y, ops.relu(first) + second, ops.relu(inputs)]), rng, tmp_path)
    kinds = [type(layer).__name__ for layer in twin.layers]
    # Those with an ordinary layer use it: TF-MOT knows what to do with it.
    assert {"Activation", "Concatenate", "Softmax", "Rescaling", "GlobalAveragePooling2D", "ReLU", "Add"} <= set(kinds)
    json.dumps([layer.get_config() for layer in twin.layers if type(layer).__name__ == "KerasOperation"])


def test_names_that_tensorflow_refuses(keras, rng, tmp_path):
    inputs = keras.Input((4,), name="my input")
    model = keras.Model(inputs, keras.layers.Dense(2, name="1 läyer (a)")(inputs), name="my model")
    check(model, rng, tmp_path)


def test_fixed_batch_is_opened(keras, rng, tmp_path):
    inputs = keras.Input(batch_shape=(1, 4))
    twin = check(keras.Model(inputs, keras.layers.Reshape((2, 2))(inputs)), rng, tmp_path)
    assert twin.input_shape == (None, 4)


def test_training_arguments_keep_their_meaning(keras, tmp_path):
    """A base model called with training=False stays frozen; dropout, where Keras 3 records a default, does not."""
    from edgecomp.keras_rebuild import rebuild

    layers = keras.layers
    base = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="frozen")], name="base")
    inputs = keras.Input((4,))
    outputs = [base(inputs, training=False), layers.BatchNormalization()(inputs), layers.Dropout(0.5)(inputs)]
    twin = rebuild(through_file(keras.Model(inputs, outputs), tmp_path))
    x = np.linspace(1, 9, 256, dtype=np.float32).reshape(64, 4)
    resting, training = twin(x, training=False), twin(x, training=True)
    changed = [
        bool(np.abs(rest.numpy() - train.numpy()).max() > 0) for rest, train in zip(resting, training, strict=True)
    ]
    assert changed == [False, True, True]


def test_frozen_layers_stay_frozen(keras, tmp_path):
    from edgecomp.keras_rebuild import rebuild

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.layers[0].trainable = False
    twin = rebuild(through_file(model, tmp_path))
    assert [layer.trainable for layer in twin.layers if layer.weights] == [False, True]


def test_tfmot_takes_the_twin(keras):
    """Quantization-aware training wraps the rebuilt model: the reason why models are rebuilt at all."""
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    from edgecomp.keras_rebuild import rebuild

    layers = keras.layers
    base = keras.Sequential([keras.Input(IMAGE), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])
    inputs = keras.Input(IMAGE)
    pooled = layers.GlobalAveragePooling2D()(base(inputs))
    twin = rebuild(keras.Model(inputs, layers.Dense(2, activation="softmax")(pooled)))
    wrapped = tfmot.quantization.keras.quantize_model(twin)
    assert sum("Quantize" in type(layer).__name__ for layer in wrapped.layers) >= 5
