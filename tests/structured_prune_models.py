"""Models for the tests of structured pruning, and the check that a cut changes nothing that was not cut."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras

from edgecomp.compress._channels.cut import cut
from edgecomp.compress._channels.groups import channel_graph
from edgecomp.keras_graph import flatten

layers = tf_keras.layers


def randomize(model, seed=0):
    """Random weights of a size that keeps signals alive; biases and statistics that are neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        for variable in layer.weights:
            name, shape = variable.name, variable.shape.as_list()
            if not variable.dtype.is_floating:
                continue
            if "variance" in name or "gamma" in name:
                values = rng.uniform(0.5, 1.5, shape)
            elif "kernel" in name:
                fan_in = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:-1])
                values = rng.normal(0, np.sqrt(2 / fan_in), shape)
            else:
                values = rng.normal(0, 0.3, shape)
            variable.assign(values.astype(np.float32))
    return model


def graph_of(model):
    return channel_graph(flatten(model))


def random_keep(graph, seed=0, share=0.6):
    """About that share of every group, at least one member."""
    rng = np.random.default_rng(seed)
    keep = {}
    for index, group in enumerate(graph.groups):
        keep[index] = rng.random(group.size) < share
        keep[index][rng.integers(group.size)] = True
    return keep


def zero_outgoing(graph, keep):
    """Set to zero, in the whole model, what the channels to be removed bring to layers that add up over channels."""
    kept = graph.kept(keep)
    for record in graph.layers:
        layer = record.layer
        if not record.adds_up or getattr(layer, "groups", 1) > 1:
            continue
        variable = layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel
        axis = -1 if "Transpose" in type(layer).__name__ else -2
        gone = ~kept[record.source]
        values = np.moveaxis(variable.numpy(), axis, 0)
        values[gone] = 0
        variable.assign(np.moveaxis(values, 0, axis))


def outputs_of(model, seed=1, count=2):
    """Flat outputs for the same random inputs every time."""
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=(count, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    made = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [item.numpy() for item in tf.nest.flatten(made)]


def cut_after_zeroing(model, keep=None, seed=0):
    """(the model with zeroed outgoing weights, the cut model, the graph, what was kept), weights random."""
    graph = graph_of(randomize(model, seed))
    keep = random_keep(graph, seed) if keep is None else keep(graph)
    zero_outgoing(graph, keep)
    return graph.model, cut(graph, keep), graph, keep


def largest_difference(left, right):
    """Relative to the range of each output of `left`."""
    pairs = zip(outputs_of(left), outputs_of(right), strict=True)
    return max(float(np.abs(a - b).max() / max(np.ptp(a), 1e-6)) for a, b in pairs)


def parameters(model):
    return sum(int(np.prod(variable.shape)) for variable in model.weights)


def unet():
    """Down by pooling, up by transposed convolution and by repetition, skips by Concatenate; one map of scores."""
    x = inputs = layers.Input((16, 16, 3))
    skips = []
    for width in (8, 12):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"down{width}")(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="bottom")(x)
    x = layers.Conv2DTranspose(12, 2, strides=2, name="up12")(x)
    x = layers.Concatenate()([x, skips.pop()])
    x = layers.SeparableConv2D(10, 3, padding="same", depth_multiplier=2, activation="relu", name="mix12")(x)
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = layers.Concatenate()([skips.pop(), x])
    x = layers.Conv2D(8, 3, padding="same", name="mix8")(x)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    return tf_keras.Model(inputs, layers.Conv2D(2, 1, activation="sigmoid", name="scores")(x), name="unet")


def conv1d_net():
    """Conv1D with a residual sum, depthwise and separable ones, and Flatten in front of Dense."""
    x = inputs = layers.Input((32, 6))
    x = layers.Conv1D(12, 5, padding="same", name="stem")(x)
    x = skip = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2, activation="relu", name="depthwise")(x)
    x = layers.SeparableConv1D(12, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.Add()([x, skip])
    x = layers.LeakyReLU()(x)
    x = layers.MaxPooling1D(4)(x)
    x = layers.Conv1DTranspose(10, 3, padding="same", name="transposed")(x)
    x = layers.PReLU()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(20, activation="tanh", name="hidden")(x)
    return tf_keras.Model(inputs, layers.Dense(5, activation="softmax", name="scores")(x), name="conv1d")


def inverted_residuals():
    """Two blocks as in EfficientNet-B0, with swish and squeeze-excite; the second has a sum. Then hard swish."""
    x = inputs = layers.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization()(x)
    for name, strides in (("first", 2), ("second", 1)):
        skip = x
        x = layers.Conv2D(24, 1, use_bias=False, name=f"{name}_expand")(x)
        x = layers.Activation("swish")(layers.BatchNormalization()(x))
        x = layers.ZeroPadding2D(1)(x)
        x = layers.DepthwiseConv2D(3, strides=strides, use_bias=False, name=f"{name}_depthwise")(x)
        x = layers.Activation("swish")(layers.BatchNormalization()(x))
        s = layers.Reshape((1, 1, 24))(layers.GlobalAveragePooling2D()(x))
        s = layers.Conv2D(6, 1, activation="swish", name=f"{name}_squeeze")(s)
        s = layers.Conv2D(24, 1, activation="sigmoid", name=f"{name}_excite")(s)
        x = layers.Multiply()([x, s])
        x = layers.Conv2D(8, 1, use_bias=False, name=f"{name}_project")(x)
        x = layers.BatchNormalization()(x)
        if strides == 1:
            x = layers.Add()([layers.Dropout(0.2)(x), skip])
    x = layers.Conv2D(32, 1, name="head")(x)
    x = x * tf.nn.relu6(x + 3.0) / 6.0
    x = tf.reduce_mean(x, axis=[1, 2])
    return tf_keras.Model(inputs, layers.Dense(10, name="scores")(x), name="inverted_residuals")


def grouped_net():
    """A grouped convolution (4 groups of 3 -> 2 channels) between plain ones."""
    x = inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, padding="same", activation="relu", name="before")(x)
    x = layers.Conv2D(8, 3, groups=4, padding="same", activation="relu", name="grouped")(x)
    x = layers.Conv2D(6, 1, activation="relu", name="after")(x)
    x = layers.GlobalMaxPooling2D(keepdims=True)(x)
    return tf_keras.Model(inputs, layers.Dense(3, name="scores")(layers.Flatten()(x)), name="grouped")


def shared_and_nested():
    """Two inputs through one nested encoder, whose inner layer is shared too, then compared and concatenated."""
    x = inner = layers.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, padding="same", name="first")(x)
    again = layers.Conv2D(6, 3, padding="same", activation="relu", name="again")
    x = again(again(layers.BatchNormalization()(x)))
    encoder = tf_keras.Model(inner, layers.GlobalAveragePooling2D()(x), name="encoder")
    left, right = layers.Input((8, 8, 2), name="left"), layers.Input((8, 8, 2), name="right")
    one, other = encoder(left), encoder(right)
    x = layers.Concatenate()([layers.Subtract()([one, other]), layers.Maximum()([one, other])])
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    outputs = [layers.Dense(2, name="same")(x), layers.Dense(3, activation="softmax", name="kind")(x)]
    return tf_keras.Model([left, right], outputs, name="siamese")


def generator():
    """Dense units that become channels of a map by Reshape: four of them are one channel."""
    x = inputs = layers.Input((5,))
    x = layers.Dense(2 * 2 * 6, activation="relu", name="dense")(x)
    x = layers.Reshape((2, 2, 6))(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu", name="up")(x)
    x = layers.Reshape((16, -1))(x)
    return tf_keras.Model(inputs, layers.Conv1D(1, 1, name="pixels")(x), name="generator")


SMALL = [unet, conv1d_net, inverted_residuals, grouped_net, shared_and_nested, generator]
