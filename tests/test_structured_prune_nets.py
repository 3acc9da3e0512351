"""Removing channels whose outgoing weights are zero changes nothing: the reference is the whole model in tf_keras."""

import functools
import os

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT, to_tflite
from edgecomp.graph import read_graph

os.environ.update(ENVIRONMENT)
tf = pytest.importorskip("tensorflow")

import tf_keras  # noqa: E402

from edgecomp.compress._channels.cost import ChannelCost  # noqa: E402
from edgecomp.compress._channels.cut import cut  # noqa: E402
from edgecomp.load import from_tf_keras  # noqa: E402
from tests import structured_prune_models as models  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning"),
]

# Float error only, relative to the range of an output: sums of up to some thousand products in another order.
TOLERANCE = 2e-5
APPLICATIONS = tf_keras.applications
OPTIONS = {"input_shape": (64, 64, 3), "weights": None, "classifier_activation": None, "classes": 10}
small_nets = pytest.mark.parametrize("make", models.SMALL, ids=lambda make: make.__name__)


@functools.cache
def zeroed(make):
    """`cut_after_zeroing` of a small net, once for all tests."""
    return models.cut_after_zeroing(make())


def members_left(graph, keep):
    return np.array([np.count_nonzero(keep[index]) for index in range(len(graph.groups))])


def macs_of_file(model):
    return read_graph(to_tflite(from_tf_keras(model), where=model.name)).macs


@small_nets
def test_a_small_net_keeps_its_outputs_and_its_names(make):
    whole, smaller, _, _ = zeroed(make)
    assert models.parameters(smaller) < 0.95 * models.parameters(whole)
    assert models.largest_difference(whole, smaller) < TOLERANCE
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in whole.layers]


@small_nets
def test_a_cut_without_zeroing_does_change_outputs(make):
    """So the check above can fail: the channels that it removes do matter."""
    graph = models.graph_of(models.randomize(make()))
    assert models.largest_difference(graph.model, cut(graph, models.random_keep(graph))) > 0.01


@small_nets
def test_a_smaller_net_comes_back_from_its_file(make, tmp_path):
    _, smaller, _, _ = zeroed(make)
    smaller.save(tmp_path / "smaller.keras")
    again = tf_keras.models.load_model(tmp_path / "smaller.keras", compile=False)
    pairs = zip(models.outputs_of(smaller), models.outputs_of(again), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("make", [models.unet, models.conv1d_net, models.generator], ids=lambda make: make.__name__)
def test_counted_macs_are_those_of_the_converted_file(make):
    """The file's operators are the independent count: transposed, depthwise, separable and plain convolutions."""
    _, smaller, graph, keep = zeroed(make)
    assert ChannelCost(graph, "macs").of(members_left(graph, keep)) == macs_of_file(smaller)


def test_the_cost_of_a_residual_block_worked_out_by_hand():
    layers = tf_keras.layers
    x = inputs = layers.Input((4, 4, 3))
    x = skip = layers.Conv2D(8, 1, name="a")(x)  # 16 positions * 3 * 8 = 384 MACs, 24 + 8 parameters
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="b")(x)  # 4 * 9 * 8 = 288; 72 + 8
    x = layers.Conv2D(8, 1, name="c")(x)  # 4 * 8 * 8 = 256; 64 + 8
    x = layers.Add()([x, layers.AveragePooling2D()(skip)])
    x = layers.BatchNormalization()(x)  # Folded: counts as nothing.
    outputs = layers.Dense(2, use_bias=False, name="d")(layers.Flatten()(x))  # 32 * 2 = 64; 64
    graph = models.graph_of(tf_keras.Model(inputs, outputs))
    macs, parameters = ChannelCost(graph, "macs"), ChannelCost(graph, "parameters")
    assert [group.producers for group in graph.groups] == [("a", "c")]
    assert (macs.whole, parameters.whole) == (384 + 288 + 256 + 64, 32 + 80 + 72 + 64)
    # Half of the channels: a, b and d halve, c is a quarter.
    assert macs.of(np.array([4])) == 192 + 144 + 64 + 32
    assert parameters.of(np.array([4])) == 16 + 40 + (16 + 4) + 32


def test_resnet8_keeps_its_outputs(data_folder):
    model = tf_keras.models.load_model(data_folder / "resnet8-cifar10" / "pretrainedResnet.h5", compile=False)
    whole, smaller, graph, keep = models.cut_after_zeroing(model)
    assert models.largest_difference(whole, smaller) < TOLERANCE
    # Three stages: in each the channels of the sum, made by two layers, and those inside of the block.
    assert [len(group.producers) for group in graph.groups] == [2, 1, 1, 2, 1, 2]
    cost = ChannelCost(graph, "macs")
    assert cost.whole == 12_501_632  # As published for MLPerf Tiny: 12.5 million.
    assert cost.of(members_left(graph, keep)) == macs_of_file(smaller) < 0.5 * cost.whole


def test_dscnn_keeps_its_outputs(data_folder):
    model = tf_keras.models.load_model(data_folder / "dscnn-kws" / "kws_ref_model.h5", compile=False)
    whole, smaller, graph, _ = models.cut_after_zeroing(model)
    assert models.largest_difference(whole, smaller) < TOLERANCE
    assert [group.size for group in graph.groups] == [64] * 5


@pytest.mark.parametrize("name", ["fsdd/fsdd_dscnn.keras", "har-spsw/har_cnn1d.keras"])
def test_rebuilt_keras_3_models_keep_their_outputs(name, data_folder):
    from edgecomp.load import load_trainable

    whole, smaller, _, _ = models.cut_after_zeroing(load_trainable(str(data_folder / name), trust_code=False))
    assert models.parameters(smaller) < 0.7 * models.parameters(whole)
    assert models.largest_difference(whole, smaller) < TOLERANCE


def test_mobilenet_v1_keeps_its_outputs():
    whole, smaller, graph, _ = models.cut_after_zeroing(APPLICATIONS.MobileNet(alpha=0.25, **OPTIONS))
    assert len(graph.groups) == 14  # The stem and 13 pointwise convolutions; depthwise ones follow what they read.
    assert models.largest_difference(whole, smaller) < TOLERANCE


@pytest.mark.slow
def test_mobilenet_v2_keeps_its_outputs():
    whole, smaller, graph, _ = models.cut_after_zeroing(APPLICATIONS.MobileNetV2(alpha=0.35, **OPTIONS))
    # 16 blocks widen, and their 17 projections, the stem's included, meet in 7 sums and stages; stem and head.
    assert len(graph.groups) == 16 + 7 + 2
    assert models.largest_difference(whole, smaller) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0", "DenseNet121", "ResNet50V2"])
def test_large_nets_keep_their_outputs(name):
    """Squeeze-excite and hard swish; 58 concatenations; sums before normalization."""
    whole, smaller, _, _ = models.cut_after_zeroing(getattr(APPLICATIONS, name)(**OPTIONS))
    assert models.parameters(smaller) < 0.6 * models.parameters(whole)
    # Deeper than the others: rounding errors of up to 100 layers add up.
    assert models.largest_difference(whole, smaller) < 10 * TOLERANCE


@pytest.mark.slow
def test_a_pruned_mobilenet_v3_is_a_smaller_tflite_file(tmp_path):
    whole, smaller, graph, keep = models.cut_after_zeroing(APPLICATIONS.MobileNetV3Small(**OPTIONS))
    smaller.save(tmp_path / "smaller.keras")
    again = tf_keras.models.load_model(tmp_path / "smaller.keras", compile=False)
    before, after = macs_of_file(whole), macs_of_file(again)
    assert after < 0.6 * before
    assert ChannelCost(graph, "macs").of(members_left(graph, keep)) == after
