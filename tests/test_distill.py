"""Students: which blocks go, which channels stay, what they inherit and what they learn; against values by hand."""

import os

import numpy as np
import pytest
from pydantic import ValidationError

from edgecomp.compress import Context, technique
from edgecomp.convert import ENVIRONMENT, to_tflite
from edgecomp.data import DataOptions, prepare_dataset
from edgecomp.errors import CompressionError, TrainingError, UsageError
from edgecomp.graph import read_graph
from edgecomp.profile import load_profile
from tests.conftest import ROOT

os.environ.update(ENVIRONMENT)
tf = pytest.importorskip("tensorflow")

import tf_keras  # noqa: E402

from edgecomp.compress._footprint import footprint  # noqa: E402
from edgecomp.compress._student import student  # noqa: E402
from edgecomp.compress._student_blocks import blocks, choose_dropped, repeated  # noqa: E402
from edgecomp.keras_graph import flatten  # noqa: E402
from edgecomp.load import from_tf_keras, load_trainable  # noqa: E402
from edgecomp.training.loop import FineTuning  # noqa: E402
from edgecomp.training.samples import training_data  # noqa: E402
from edgecomp.training.settings import TrainingSettings  # noqa: E402

layers = tf_keras.layers
distill = technique("distill")
Options = distill.Options
DIGITS = ROOT / "calibration_data" / "digits" / "digits.npz"


def conv(x, channels, name, strides=1):
    x = layers.Conv2D(channels, 3, strides=strides, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_norm")(x)


def residual(x, channels, name, strides=1):
    """A block of ResNet v1; with strides its shortcut is a convolution."""
    skip = conv(x, channels, f"{name}_skip", strides) if strides > 1 else x
    y = layers.ReLU(name=f"{name}_relu")(conv(x, channels, f"{name}_a", strides))
    y = layers.Add(name=f"{name}_add")([conv(y, channels, f"{name}_b"), skip])
    return layers.ReLU(name=f"{name}_out")(y)


def resnet():
    """A stem, stages of three and of four blocks, of which the first strides, and a head."""
    inputs = layers.Input((8, 8, 1), name="image")
    x = layers.ReLU(name="stem_relu")(conv(inputs, 8, "stem"))
    for index in range(3):
        x = residual(x, 8, f"one{index}")
    for index in range(4):
        x = residual(x, 16, f"two{index}", strides=2 if index == 0 else 1)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return tf_keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x), name="resnet")


def plain():
    """As VGG: convolutions with normalization and activation, pooling between stages; then dense layers."""
    x = inputs = layers.Input((16, 16, 3))
    for stage, count in enumerate((3, 2)):
        for index in range(count):
            x = layers.Activation("relu")(conv(x, 8 * (stage + 1), f"c{stage}{index}"))
        x = layers.MaxPooling2D(name=f"pool{stage}")(x)
    x = layers.Flatten()(x)
    for index in range(3):
        x = layers.Dropout(0.1)(layers.Dense(24, activation="relu", name=f"d{index}")(x))
    return tf_keras.Model(inputs, layers.Dense(24, name="scores")(x))


def dropped(model, depth):
    """Names of the kernels of all blocks that go."""
    return [block.kernels for block in choose_dropped(repeated(blocks(flatten(model))), depth)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def randomize(model, rng):
    """Normalization that does something, so that what is left out shows."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            count = layer.gamma.shape[0]
            layer.set_weights(
                [rng.uniform(0.5, 1.5, count), *rng.normal(size=(2, count)), rng.uniform(0.5, 1.5, count)]
            )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(a trained teacher, bound data, context) for 8 x 8 digits."""
    tf_keras.utils.set_random_seed(2)
    inputs = layers.Input((8, 8, 1), name="image")
    x = layers.ReLU()(conv(inputs, 16, "stem"))
    for index in range(2):
        x = residual(x, 16, f"block{index}")
    x = layers.GlobalAveragePooling2D()(x)
    model = tf_keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x))
    loaded = from_tf_keras(model)
    folder = tmp_path_factory.mktemp("digits")
    bound = prepare_dataset(DataOptions(source=str(DIGITS), mean=(0.0,), std=(16.0,)), folder).bind(
        loaded.inputs, loaded.outputs
    )
    data = training_data(bound)
    set_momentum(model, 0.8)
    FineTuning(data, TrainingSettings(epochs=6, batch_size=64, learning_rate=3e-3)).run(model, "the teacher")
    assert accuracy(model, bound) > 0.9
    set_momentum(model, 0.99)  # Which is what users' models have.
    return model, bound, Context(data, TrainingSettings(epochs=5, batch_size=64, learning_rate=3e-3), teacher=model)


def set_momentum(model, value):
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = value


def accuracy(model, bound):
    split = bound.split("test")
    (inputs,), (labels,) = split.read().values(), split.labels.values()
    return float(np.mean(model.predict(inputs, verbose=0, batch_size=256).argmax(1) == labels))


# Depth


def test_the_first_of_each_stage_stays():
    """Five may go: two behind the first of stage one, three behind the striding one of stage two."""
    assert dropped(resnet(), 0) == [
        ["one1_a", "one1_b"], ["one2_a", "one2_b"], ["two1_a", "two1_b"], ["two2_a", "two2_b"], ["two3_a", "two3_b"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("depth", "names"),
    [(0.8, ["two3"]), (0.6, ["two2", "two3"]), (0.5, ["two2", "two3"]), (0.3, ["one2", "two2", "two3"])],
)
def test_the_longest_stage_goes_first(depth, names):
    """Of 5 blocks the part that stays is rounded up: 0.5 keeps 3. Of two equal stages the later one is shortened."""
    assert [kernels[0].removesuffix("_a") for kernels in dropped(resnet(), depth)] == names


def test_plain_nets_lose_convolution_normalization_and_activation():
    """Behind the stem one more stays; a dense layer that makes the output is none to drop."""
    assert dropped(plain(), 0) == [["c02"], ["c11"], ["d1"], ["d2"]]
    found = next(block for block in blocks(plain()) if block.kernels == ["c02"])
    assert [type(call.layer).__name__ for call in found.calls] == ["Conv2D", "BatchNormalization", "Activation"]


def test_depthwise_and_pointwise_are_one_block(data_folder):
    """MLPerf Tiny's DS-CNN: a stem and four pairs of 64 channels, of which the first stays."""
    model = load_trainable(str(data_folder / "dscnn-kws" / "kws_ref_model.h5"), trust_code=False)
    assert dropped(model, 0) == [[f"depthwise_conv2d_{index}", f"conv2d_{index + 1}"] for index in (1, 2, 3)]
    made = student(model, Options(width=1, depth=0.3), None, None)  # 0.3 of 3 is 0.9: one of them stays.
    graphs = [read_graph(to_tflite(from_tf_keras(item), where="it")) for item in (model, made.model)]
    # A pair is 125 positions times 64 channels times 9 and 64.
    assert graphs[0].macs - graphs[1].macs == 2 * 125 * 64 * (9 + 64)
    assert [item.change for item in made.changes] == ["block dropped, 25 x 5 x 64 in and out"] * 2


def test_without_a_block_that_does_nothing_outputs_are_equal(rng):
    """Branches whose last normalization is zero leave their input alone: ReLU of ReLU is ReLU."""
    model = resnet()
    randomize(model, rng)
    for name in ("one1_b_norm", "one2_b_norm", "two1_b_norm", "two2_b_norm", "two3_b_norm"):
        layer = model.get_layer(name)
        layer.gamma.assign(tf.zeros_like(layer.gamma))
        layer.beta.assign(tf.zeros_like(layer.beta))
    made = student(model, Options(width=1, depth=0), None, None)
    x = rng.normal(size=(4, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(made.model(x), model(x), atol=1e-6)
    assert len(model.layers) - len(made.model.layers) == 5 * 7
    assert made.changes[0].layer == "one1_a + one1_b"


def test_blocks_that_others_need_are_kept():
    """Shared layers, outputs on the way, and layers whose outputs are compared with the teacher's."""
    inputs = layers.Input((8,))
    shared = layers.Dense(8, name="shared")
    x = layers.Dense(8, name="stem")(inputs)
    x = layers.Dense(8, name="first")(x)
    x = shared(layers.Dense(8, name="second")(shared(x)))
    x = layers.Dense(8, name="third")(x)
    model = tf_keras.Model(inputs, layers.Dense(2, name="last")(x))
    assert dropped(model, 0) == [["second"], ["third"]]
    assert [block.kernels for stage in repeated(blocks(model, ("third",))) for block in stage] == [["second"]]
    seen = tf_keras.Model(model.inputs, [model.get_layer("second").output, model.outputs[0]])
    assert repeated(blocks(seen)) == []


def test_several_inputs_and_nested_models():
    """What lies before the inputs meet is no block; a nested model is looked into."""
    tower = tf_keras.Sequential(
        [layers.Input((8,)), *(layers.Dense(8, activation="relu", name=f"t{index}") for index in range(3))],
        name="tower",
    )
    left, right = layers.Input((8,)), layers.Input((8,))
    x = layers.Concatenate()([layers.Dense(4, name="left")(left), layers.Dense(4, name="right")(right)])
    model = tf_keras.Model([left, right], layers.Dense(3, name="scores")(tower(x)))
    # t0 is the stem of what is left, t1 the first behind it.
    assert dropped(model, 0) == [["t2"]]
    made = student(model, Options(width=1, depth=0), None, None).model
    assert made([tf.ones((2, 8)), tf.ones((2, 8))]).shape == (2, 3)


# Width


def test_every_layer_keeps_the_same_part():
    """By hand: stem 9 * 4, three blocks of 2 * 9 * 4 * 4, ..., and ties between all layers of a stage."""
    made = student(resnet(), Options(width=0.5), None, None).model
    weights = (
        9 * 4 + 3 * 2 * 9 * 16  # Stem and stage one, 4 channels.
        + 2 * 9 * 4 * 8 + 9 * 64 + 3 * 2 * 9 * 64  # Stage two, 8 channels: block and shortcut stride.
        + 8 * 10
    )  # fmt: skip
    biases = 4 + 3 * 2 * 4 + 3 * 8 + 3 * 2 * 8 + 10  # Of the normalizations, folded.
    assert footprint(made, None).parameters == weights + biases
    assert made.get_layer("one0_add").output.shape[-1] == 4
    assert made.output_shape == (None, 10)


def test_the_largest_channels_are_inherited(rng):
    """Channels without weights are the smallest: without them nothing changes."""
    inputs = layers.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    model = tf_keras.Model(inputs, layers.Dense(2, name="scores")(layers.GlobalAveragePooling2D()(x)))
    layer = model.get_layer("conv")
    gone = [0, 3, 5, 6]
    kernel = layer.kernel.numpy()
    kernel[..., gone] = 0
    layer.set_weights([kernel, np.where(np.isin(np.arange(8), gone), 0, 0.1)])
    made = student(model, Options(width=0.5), None, None)
    assert [(item.layer, item.change) for item in made.changes] == [
        ("conv", "8 -> 4 channels"), ("scores", "8 -> 4 input channels"),
    ]  # fmt: skip
    np.testing.assert_array_equal(made.model.get_layer("conv").kernel, kernel[..., [1, 2, 4, 7]])
    x = rng.normal(size=(4, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(made.model(x), model(x), atol=1e-6)
    assert [item.layer for item in made.skipped] == ["scores"]


@pytest.mark.parametrize(("device", "channels"), [(None, 12), ("rpi4", 16), ("stm32f746", 12)])
def test_channels_are_what_kernels_like(device, channels):
    """0.4 of 32 is 12.8: multiples of 4 without a device and for CMSIS-NN, of 8 for XNNPACK."""
    inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(32, 3, name="conv")(inputs)
    model = tf_keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    profile = None if device is None else load_profile(device)
    made = student(model, Options(width=0.4), profile, None)
    assert made.model.get_layer("conv").filters == channels
    assert distill.estimate(model, Options(width=0.4), profile) == footprint(made.model, profile)


# Training


@pytest.mark.slow
def test_samples_adjust_what_is_inherited(digits):
    """Half of the channels at once: with the statistics and weights renewed much more of the teacher is left."""
    model, bound, context = digits
    adjusted = accuracy(distill.preview(model, Options(width=0.5), context).model, bound)
    inherited = accuracy(student(model, Options(width=0.5), None, None).model, bound)
    assert adjusted > inherited + 0.1


@pytest.mark.slow
def test_a_student_learns(digits, tmp_path):
    model, bound, context = digits
    options = Options(width=0.5, depth=0)
    before = [values.copy() for values in model.get_weights()]
    start = distill.preview(model, options, context)
    assert start.history is None
    made = distill.apply(model, options, Context(context.data, context.settings, model, folder=tmp_path))
    assert made.history.epochs == 5
    assert accuracy(made.model, bound) > max(0.6, accuracy(start.model, bound) + 0.1)
    # One block of 8 channels is left: 9 * 8 + 2 * 9 * 64 + 80 weights, 24 + 10 biases.
    assert footprint(made.model, None).parameters == 72 + 1152 + 80 + 34
    # 23 steps an epoch with a momentum of 0.99 would keep four fifths of the statistics of the epoch before.
    assert {layer.momentum for layer in made.model.layers if hasattr(layer, "momentum")} == {0.99}
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_teacher_is_enough(digits, tmp_path):
    """No labels at all, and unlabelled samples behind labelled ones."""
    model, bound, context = digits
    x = bound.split("train").read()["image"]
    np.savez(tmp_path / "bare.npz", x_train=x, x_test=x[:50])
    loaded = from_tf_keras(model)
    bare = prepare_dataset(DataOptions(source=str(tmp_path / "bare.npz")), tmp_path / "run").bind(
        loaded.inputs, loaded.outputs
    )
    options = Options(width=0.5)
    start = accuracy(distill.preview(model, options, context).model, bound)
    made = distill.apply(model, options, Context(training_data(bare), context.settings, teacher=model))
    assert accuracy(made.model, bound) > start + 0.05
    both = training_data(bound, bare)
    assert both.train.count > both.train.labelled == bound.split("train").count
    history = distill.apply(small(), Options(), Context(both, TrainingSettings(epochs=1, batch_size=128))).history
    assert history.epochs == 1


def small():
    """Untrained, for what does not depend on weights."""
    inputs = layers.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, name="first")(inputs)
    x = layers.Conv2D(8, 3, name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return tf_keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x))


def test_the_model_itself_is_the_teacher_where_there_is_no_other(digits):
    model, data = small(), digits[2].data
    settings = TrainingSettings(epochs=1, batch_size=128, distill_weight=1.0)
    found = [
        distill.apply(model, Options(width=0.5), Context(data, settings, teacher=teacher)).history.losses
        for teacher in (None, model, small())
    ]
    assert found[0] == pytest.approx(found[1])
    assert found[0] != pytest.approx(found[2])


def test_features_can_be_compared(digits):
    """The named layer keeps its channels, so that it can be held against the teacher's."""
    model = small()
    settings = TrainingSettings(epochs=1, batch_size=128, feature_layers=("second",))
    made = distill.apply(model, Options(width=0.5), Context(digits[2].data, settings, teacher=model))
    assert [made.model.get_layer(name).filters for name in ("first", "second")] == [4, 8]


# What cannot be done


@pytest.mark.parametrize(
    "options", [{"width": 0.0}, {"width": 1.5}, {"depth": -0.1}, {"depth": 2}, {"widht": 0.5}], ids=str
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValidationError):
        Options(**options)


def test_a_student_that_is_the_model_is_refused():
    with pytest.raises(CompressionError, match="with width 1 and depth 1 the student would be the model itself"):
        student(resnet(), Options(width=1), None, None)
    inputs = layers.Input((8,))
    model = tf_keras.Model(inputs, layers.Dense(2)(inputs), name="short")
    with pytest.raises(CompressionError, match="short: it has no repeated blocks that could be dropped"):
        student(model, Options(width=1, depth=0.5), None, None)


def test_a_teacher_without_weight_is_refused(digits):
    model, _, context = digits
    settings = TrainingSettings(epochs=1, distill_weight=0.0)
    with pytest.raises(UsageError, match="whose weight in the loss is 0"):
        distill.apply(model, Options(), Context(context.data, settings, teacher=model))


def test_a_teacher_of_another_shape_is_refused(digits):
    model, _, context = digits
    other = tf_keras.Model(model.inputs, layers.Dense(3)(model.layers[-2].output))
    with pytest.raises(TrainingError, match="teacher's outputs have the shapes"):
        distill.apply(model, Options(), Context(context.data, context.settings, teacher=other))


@pytest.mark.slow
def test_half_of_the_har_model(data_folder, tmp_path):
    """2,514 windows of other people: 0.9185 by the teacher, 0.9189 by a student of 8,645 parameters after 10 epochs."""
    model = load_trainable(str(data_folder / "har-spsw" / "har_cnn1d.keras"), trust_code=False)
    loaded = from_tf_keras(model)
    options = DataOptions(
        source=str(data_folder / "har-spsw" / "har_spsw_w64.npz"),
        mean=(-5.1423, -1.8441, 0.4623, -0.0095, -0.0002, 0.0314),
        std=(5.0414, 6.4378, 4.2962, 1.3490, 1.2518, 1.0536),
    )
    bound = prepare_dataset(options, tmp_path).bind(loaded.inputs, loaded.outputs)
    settings = TrainingSettings(epochs=10, learning_rate=1e-3)
    made = distill.apply(model, Options(width=0.5), Context(training_data(bound), settings, teacher=model))
    assert accuracy(made.model, bound) > 0.905
    assert made.model.count_params() == 8_645
