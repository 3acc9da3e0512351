"""What holds for every technique: a new file in edgecomp/compress is tested here without editing a test."""

import os
import subprocess
import sys

import numpy as np
import pytest

from edgecomp.compress import ORDER, Footprint, TechniqueOptions, technique, technique_names
from edgecomp.convert import ENVIRONMENT
from edgecomp.errors import CompressionError, MissingDataError
from edgecomp.graph import read_graph
from edgecomp.profile import load_profile
from tests.conftest import ROOT

os.environ.update(ENVIRONMENT)
tf = pytest.importorskip("tensorflow")

import tf_keras  # noqa: E402

from edgecomp.compress import Context  # noqa: E402
from edgecomp.convert import to_tflite  # noqa: E402
from edgecomp.data import DataOptions, prepare_dataset  # noqa: E402
from edgecomp.load import from_tf_keras  # noqa: E402
from edgecomp.training.samples import TrainingData, training_data  # noqa: E402
from edgecomp.training.settings import TrainingSettings  # noqa: E402

NAMES = technique_names()
DIGITS = ROOT / "calibration_data" / "digits" / "digits.npz"


def residual_net():
    """Convolution, depthwise, shortcut, pooling, dense: something for every technique."""
    tf_keras.utils.set_random_seed(1)
    layers = tf_keras.layers
    x = inputs = layers.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(momentum=0.8, name="stem_norm")(x)
    x = skip = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(16, 3, padding="same", name="conv")(x)
    x = layers.BatchNormalization(momentum=0.8, name="conv_norm")(x)
    x = layers.Add(name="add")([x, skip])
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return tf_keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x))


@pytest.fixture(scope="module")
def model():
    return residual_net()


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    loaded = from_tf_keras(model)
    dataset = prepare_dataset(
        DataOptions(source=str(DIGITS), mean=(0.0,), std=(16.0,)), tmp_path_factory.mktemp("data")
    )
    return training_data(dataset.bind(loaded.inputs, loaded.outputs))


def context(data, model, **changes):
    settings = TrainingSettings(epochs=1, batch_size=128, learning_rate=1e-3)
    return Context(data=data, settings=settings, teacher=model, **changes)


def weights_of(model):
    return [values.copy() for values in model.get_weights()]


def test_names_are_in_the_order_in_which_techniques_compose():
    assert tuple(NAMES) == ORDER


def test_no_technique_imports_tensorflow_to_tell_its_options():
    """The command line asks for them; TensorFlow takes 5 to 10 s to import."""
    code = (
        "import sys; from edgecomp.technique_options import technique_options; technique_options(); "
        "heavy = {'tensorflow', 'tf_keras', 'keras', 'tensorflow_model_optimization', 'scipy'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_of_options_are_unique_and_described():
    seen = {}
    for name in NAMES:
        options = technique(name).Options
        assert issubclass(options, TechniqueOptions)
        for field, info in options.model_fields.items():
            assert field not in seen, f"{field} is an option of {seen[field]} and of {name}"
            seen[field] = name
            assert info.description, f"{name}.{field} has no description"


@pytest.mark.parametrize("name", NAMES)
def test_a_preview_is_a_new_model_with_the_same_inputs_and_outputs(name, model, data):
    before = weights_of(model)
    tool = technique(name)
    made = tool.preview(model, tool.Options(), context(data, model))
    assert made.history is None
    assert made.model is not model
    assert [tensor.shape for tensor in made.model.inputs] == [tensor.shape for tensor in model.inputs]
    assert [tensor.shape for tensor in made.model.outputs] == [tensor.shape for tensor in model.outputs]
    assert all(np.array_equal(*pair) for pair in zip(before, weights_of(model), strict=True)), "the model was changed"
    graph = read_graph(to_tflite(from_tf_keras(made.model), where=name))
    assert graph.inputs[0].shape == (1, 8, 8, 1)
    assert graph.outputs[0].shape == (1, 10)


@pytest.mark.parametrize("name", NAMES)
def test_applying_trains_and_gives_a_plain_model(name, model, data, tmp_path):
    before = weights_of(model)
    tool = technique(name)
    made = tool.apply(model, tool.Options(), context(data, model, folder=tmp_path))
    assert made.history is not None
    assert made.history.epochs == 1
    assert all(np.array_equal(*pair) for pair in zip(before, weights_of(model), strict=True)), "the model was changed"
    made.model.save(tmp_path / "made.keras")
    again = tf_keras.models.load_model(tmp_path / "made.keras", compile=False)
    x = np.random.default_rng(0).random((4, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(again(x), made.model(x), atol=1e-6)
    assert not list(tmp_path.glob("*.npz")), "a checkpoint was left"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", ["rpi4", "stm32l4r5"])
def test_an_estimate_is_what_the_preview_weighs(name, device, model, data):
    """Within 10 %: bits of codebooks are planned before they are found. Ranks are planned without samples: 30 %."""
    from edgecomp.compress._footprint import footprint
    from edgecomp.keras_graph import flatten

    profile, tool = load_profile(device), technique(name)
    try:
        made = tool.preview(model, tool.Options(), context(data, model, profile=profile))
    except CompressionError as error:
        pytest.skip(f"{name} finds nothing to do for {device}: {error.message}")
    estimate, found = tool.estimate(model, tool.Options(), profile), footprint(made.model, profile)
    assert isinstance(estimate, Footprint)
    tolerance = 0.3 if name == "low_rank" else 0.1
    for field in ("parameters", "macs", "weight_bytes"):
        assert getattr(estimate, field) == pytest.approx(getattr(found, field), rel=tolerance), field
    assert estimate.weight_bytes <= footprint(flatten(model), profile).weight_bytes


@pytest.mark.parametrize("name", NAMES)
def test_without_training_samples_the_sentence_says_so(name, model, data):
    tool = technique(name)
    with pytest.raises(MissingDataError, match="needs training samples") as caught:
        tool.apply(model, tool.Options(), context(TrainingData(None, data.validation), model))
    assert caught.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_nothing_to_compress_is_refused_in_one_sentence(name, data):
    inputs = tf_keras.layers.Input((8, 8, 1))
    bare = tf_keras.Model(inputs, tf_keras.layers.Softmax()(tf_keras.layers.Flatten()(inputs)))
    tool = technique(name)
    with pytest.raises(CompressionError) as caught:
        tool.apply(bare, tool.Options(), context(data, None))
    assert name in caught.value.message
