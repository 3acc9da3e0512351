"""Which channels belong together, and what a cut leaves of each weight: worked out by hand."""

import os
import re

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT
from edgecomp.errors import ModelError

os.environ.update(ENVIRONMENT)
tf = pytest.importorskip("tensorflow")

import tf_keras  # noqa: E402

from edgecomp.compress._base import LayerChange  # noqa: E402
from edgecomp.compress._channels.cut import changes, cut  # noqa: E402
from edgecomp.compress._channels.gating import GatedModel  # noqa: E402
from edgecomp.compress._channels.groups import channel_graph  # noqa: E402
from edgecomp.keras_graph import flatten  # noqa: E402
from tests import structured_prune_models as models  # noqa: E402

layers = tf_keras.layers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*")


def built(inputs, outputs):
    return models.randomize(tf_keras.Model(inputs, outputs))


def groups_of(graph):
    """(producers, members) of every group."""
    return [(group.producers, group.size) for group in graph.groups]


def reasons_of(graph):
    return {item.layer: item.reason for item in graph.skipped()}


def keep_of(*places, size):
    kept = np.zeros(size, bool)
    kept[list(places)] = True
    return kept


def test_a_sum_ties_its_terms_and_ends_at_the_next_convolution():
    x = inputs = layers.Input((8, 8, 3))
    x = skip = layers.Conv2D(4, 3, padding="same", name="a")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(6, 3, padding="same", name="inner")(x)
    x = layers.Conv2D(4, 3, padding="same", name="b")(x)
    x = layers.Add()([x, skip])
    x = layers.Conv2D(5, 1, name="c")(x)
    graph = models.graph_of(built(inputs, layers.Dense(2, name="end")(layers.GlobalAveragePooling2D()(x))))
    assert groups_of(graph) == [(("a", "b"), 4), (("inner",), 6), (("c",), 5)]
    assert reasons_of(graph) == {"end": "its channels stay: they are an output of the model"}


def test_a_concatenation_puts_index_spaces_one_behind_the_other():
    x = inputs = layers.Input((8, 8, 3))
    left, right = layers.Conv2D(2, 1, name="left")(x), layers.Conv2D(3, 1, name="right")(x)
    x = layers.Concatenate()([left, right, left])
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(1, 1, name="end")(x)
    graph = models.graph_of(built(inputs, x))
    assert groups_of(graph) == [(("left",), 2), (("right",), 3)]
    smaller = cut(graph, {0: keep_of(1, size=2), 1: keep_of(0, 2, size=3)})
    norm, end = graph.model.get_layer("norm"), graph.model.get_layer("end")
    # Channels 0-1 are left's, 2-4 right's, 5-6 left's again.
    np.testing.assert_array_equal(smaller.get_layer("norm").gamma, norm.gamma.numpy()[[1, 2, 4, 6]])
    np.testing.assert_array_equal(smaller.get_layer("norm").moving_variance, norm.moving_variance.numpy()[[1, 2, 4, 6]])
    np.testing.assert_array_equal(smaller.get_layer("end").kernel, end.kernel.numpy()[:, :, [1, 2, 4, 6]])
    assert smaller.get_layer("left").filters == 1


def test_a_concatenation_along_time_ties_channels():
    x = inputs = layers.Input((8, 3))
    pieces = [layers.Conv1D(4, 3, name=name)(x) for name in ("a", "b")]
    x = layers.Conv1D(2, 1, name="end")(layers.Concatenate(axis=1)(pieces))
    assert groups_of(models.graph_of(built(inputs, x))) == [(("a", "b"), 4)]


def test_a_depthwise_multiplier_repeats_channels():
    x = inputs = layers.Input((8, 8, 1))
    x = layers.Conv2D(3, 1, name="a")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.Conv2D(1, 1, name="end")(x)
    graph = models.graph_of(built(inputs, x))
    smaller = cut(graph, {0: keep_of(0, 2, size=3)})
    before, after = graph.model.get_layer("depthwise"), smaller.get_layer("depthwise")
    np.testing.assert_array_equal(after.depthwise_kernel, before.depthwise_kernel.numpy()[:, :, [0, 2]])
    np.testing.assert_array_equal(after.bias, before.bias.numpy()[[0, 1, 4, 5]])
    assert changes(graph, {0: keep_of(0, 2, size=3)}) == (
        LayerChange("a", "3 -> 2 channels"),
        LayerChange("depthwise", "6 -> 4 channels"),
        LayerChange("end", "6 -> 4 input channels"),
    )


def test_a_flatten_turns_a_channel_into_rows_of_the_dense_layer():
    x = inputs = layers.Input((2, 2, 1))
    x = layers.Flatten()(layers.Conv2D(2, 1, name="a")(x))
    graph = models.graph_of(built(inputs, layers.Dense(3, name="end")(x)))
    smaller = cut(graph, {0: keep_of(1, size=2)})
    rows = graph.model.get_layer("end").kernel.numpy()[[1, 3, 5, 7]]  # Channels last: 4 places of 2 channels.
    np.testing.assert_array_equal(smaller.get_layer("end").kernel, rows)


def test_a_reshape_of_dense_units_makes_one_channel_of_several_units():
    graph = models.graph_of(models.generator())
    assert groups_of(graph) == [(("dense",), 6), (("up",), 4)]
    assert [group.width for group in graph.groups] == [4, 1]
    smaller = cut(graph, {0: keep_of(0, 5, size=6)})
    assert smaller.get_layer("dense").units == 8
    assert smaller.get_layer("up").input_shape == (None, 2, 2, 2)


def test_a_grouped_convolution_goes_in_whole_groups():
    graph = models.graph_of(models.randomize(models.grouped_net()))
    assert groups_of(graph) == [(("before", "grouped"), 4), (("after",), 6)]
    assert graph.groups[0].width == 3  # Three channels of `before` feed one group.
    smaller = cut(graph, {0: keep_of(0, 3, size=4)})
    grouped = smaller.get_layer("grouped")
    assert (grouped.groups, grouped.filters) == (2, 4)
    assert smaller.get_layer("before").filters == 6
    np.testing.assert_array_equal(grouped.kernel, graph.model.get_layer("grouped").kernel.numpy()[..., [0, 1, 6, 7]])


def test_a_flatten_that_is_used_with_several_shapes_freezes_what_it_reads():
    x = inputs = layers.Input((4, 4, 3))
    flat = layers.Flatten(name="flat")
    small = flat(layers.AveragePooling2D(4)(layers.Conv2D(5, 1, name="small")(x)))
    large = flat(layers.Conv2D(2, 1, name="large")(x))
    x = layers.Dense(6, name="hidden")(layers.Concatenate()([small, large]))
    graph = models.graph_of(built(inputs, layers.Dense(2, name="end")(x)))
    assert groups_of(graph) == [(("hidden",), 6)]
    assert reasons_of(graph)["small"] == "its channels stay: flat is used with several shapes"


def test_squeeze_excite_belongs_to_the_map_that_it_weighs():
    graph = models.graph_of(models.inverted_residuals())
    found = groups_of(graph)
    assert (("first_expand", "first_excite"), 24) in found
    assert (("first_squeeze",), 6) in found
    assert (("first_project", "second_project"), 8) in found
    assert (("stem",), 8) in found
    assert (("head",), 32) in found  # Through x * relu6(x + 3) / 6 and a mean, both TensorFlow functions.
    assert len(found) == 7


def test_a_shared_layer_ties_what_its_uses_read_and_is_cut_once():
    graph = models.graph_of(models.randomize(models.shared_and_nested()))
    # `again` reads what `first` and what itself makes; Subtract and Maximum put it twice before `hidden`.
    assert groups_of(graph) == [(("first", "again"), 6), (("hidden",), 8)]
    keep = {0: keep_of(0, 1, 5, size=6), 1: keep_of(2, size=8)}
    smaller = cut(graph, keep)
    assert smaller.get_layer("again").kernel.shape == (3, 3, 3, 3)
    assert len(smaller.get_layer("again").inbound_nodes) == 4  # Twice in each of two uses of the encoder.
    assert smaller.get_layer("hidden").kernel.shape == (6, 1)


class Reverse(layers.Layer):
    def call(self, inputs):
        return tf.reverse(inputs, [-1])


FREEZING = {
    "own": (lambda: Reverse(name="own"), r"own \(Reverse\), which reads them, is of a kind that cannot be cut"),
    "layer_norm": (lambda: layers.LayerNormalization(name="norm"), r"norm \(LayerNormalization\)"),
    "other_axis": (lambda: layers.BatchNormalization(axis=1), "does not normalize along the last axis"),
    "recurrent": (lambda: layers.LSTM(4, return_sequences=True, name="cells"), r"cells \(LSTM\)"),
    "softmax": (lambda: layers.Softmax(name="share"), r"share \(Softmax\)"),
    "activation": (lambda: layers.Activation("softmax"), "the activation softmax may look at all of them"),
    "slice": (lambda: lambda x: x[:, :, ::-1], r"\(SlicingOpLambda\)"),
    "constant": (lambda: lambda x: x * np.arange(4, dtype=np.float32), r"\(TFOpLambda\)"),
    "sum": (lambda: lambda x: tf.reduce_sum(x, axis=-1, keepdims=True) + x, r"\(TFOpLambda\)"),
    "rescaling": (lambda: layers.Rescaling([1.0, 2.0, 3.0, 4.0]), "scales each channel by a number of its own"),
    "permute": (lambda: lambda x: layers.Permute((2, 1))(layers.Reshape((8, 4))(x)), "moves the channels to another"),
    "reshape": (lambda: layers.Reshape((10, 3)), "mixes channels with other axes"),
}


@pytest.mark.parametrize("name", FREEZING)
def test_what_is_not_understood_freezes_what_it_reads_with_a_reason(name):
    make, reason = FREEZING[name]
    x = inputs = layers.Input((10, 3) if name == "reshape" else (8, 4))
    x = layers.Conv1D(4, 3, padding="same", name="before")(x)
    x = layers.ZeroPadding1D((2, 3))(layers.Conv1D(2, 1, name="two")(x)) if name == "reshape" else x
    x = make()(x)
    x = layers.Conv1D(4, 3, padding="same", name="behind")(x)
    graph = models.graph_of(built(inputs, layers.Conv1D(2, 1, name="end")(x)))
    frozen = "two" if name == "reshape" else "before"
    names = {producer for group in graph.groups for producer in group.producers}
    assert frozen not in names
    assert "behind" in names  # What comes after is not touched by it.
    assert re.search(rf"^its channels stay: .*{reason}", reasons_of(graph)[frozen])
    keep = models.random_keep(graph)
    models.zero_outgoing(graph, keep)
    assert models.largest_difference(graph.model, cut(graph, keep)) < 2e-5


def test_only_the_channels_concerned_are_frozen():
    x = inputs = layers.Input((8, 3))
    read, free = layers.Conv1D(3, 1, name="read")(x), layers.Conv1D(4, 1, name="free")(x)
    both = layers.ReLU()(layers.Concatenate()([free, read]))
    x = layers.Add()([layers.Conv1D(3, 1, name="behind")(both), layers.LayerNormalization(name="norm")(read)])
    graph = models.graph_of(built(inputs, layers.Conv1D(2, 1, name="end")(x)))
    assert groups_of(graph) == [(("free",), 4)]
    assert set(reasons_of(graph)) == {"read", "behind", "end"}


def test_a_map_of_one_channel_that_weighs_all_others_stays():
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="a")(x)
    weight = layers.Conv2D(1, 1, activation="sigmoid", name="weight")(x)
    x = layers.Multiply(name="product")([x, weight])
    graph = models.graph_of(built(inputs, layers.Conv2D(2, 1, name="end")(x)))
    assert groups_of(graph) == [(("a",), 4)]
    assert reasons_of(graph)["weight"] == "its channels stay: product combines it with several channels"


def test_rows_of_channels_that_a_reshape_lays_over_each_other_are_tied():
    x = inputs = layers.Input((8, 3))
    x = layers.Conv1D(4, 1, name="a")(x)
    x = layers.Reshape((4, 8))(layers.Reshape((16, 2))(x))
    graph = models.graph_of(built(inputs, layers.Conv1D(2, 1, name="end")(x)))
    # (8, 4) as (16, 2): channels 0 and 2 become one, 1 and 3 the other; as (4, 8) each occurs four times.
    assert [(group.size, group.width) for group in graph.groups] == [(2, 2)]
    smaller = cut(graph, {0: keep_of(1, size=2)})
    np.testing.assert_array_equal(smaller.get_layer("a").bias, graph.model.get_layer("a").bias.numpy()[[1, 3]])
    assert smaller.get_layer("end").kernel.shape == (1, 4, 2)


def test_layers_that_a_teacher_is_compared_with_keep_their_channels():
    model = models.unet()
    graph = channel_graph(flatten(model), ("bottom",))
    assert ("bottom",) not in [group.producers for group in graph.groups]
    assert reasons_of(graph)["bottom"] == "its channels stay: they are compared with the teacher's"


def test_a_model_without_a_graph_is_refused():
    class Own(tf_keras.Model):
        def call(self, inputs):
            return inputs

    for work in (channel_graph, flatten):
        with pytest.raises(ModelError, match="has no graph of layers"):
            work(Own(name="own"))


def test_a_frozen_normalization_is_called_as_before():
    x = inputs = layers.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 1, name="a")(x), training=False)
    graph = models.graph_of(built(inputs, layers.Conv2D(2, 1, name="end")(x)))
    smaller = cut(graph, {0: keep_of(0, 1, 2, size=4)})
    assert smaller.get_layer("norm").inbound_nodes[0].call_kwargs["training"] is False


@pytest.mark.parametrize("make", models.SMALL, ids=lambda make: make.__name__)
def test_factors_of_zero_give_the_outputs_of_the_model_that_was_cut(make):
    """Outgoing weights are not zero here: what is gone is missed, and missed alike."""
    graph = models.graph_of(models.randomize(make()))
    keep = models.random_keep(graph, seed=3)
    rng = np.random.default_rng(1)
    inputs = tuple(tf.constant(rng.normal(size=(2, *t.shape[1:])), tf.float32) for t in graph.model.inputs)
    turned = GatedModel(graph).outputs(inputs, tf.constant(graph.mask(keep)[np.newaxis], tf.float32))
    for one, other in zip(turned, models.outputs_of(cut(graph, keep)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(np.ptp(other), 1.0))
