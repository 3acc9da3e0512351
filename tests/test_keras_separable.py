"""Separable convolutions as two layers: the reference is the model itself."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT

os.environ.update(ENVIRONMENT)
tf_keras = pytest.importorskip("tf_keras")


def separable_model():
    """Stride, dilation, multiplier, an activation, and a layer that is called twice."""
    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    x = inputs = layers.Input((16, 16, 3))
    x = layers.SeparableConv2D(8, 3, strides=2, padding="same", depth_multiplier=2, activation="relu", name="first")(x)
    twice = layers.SeparableConv2D(8, 3, padding="same", dilation_rate=2, use_bias=False, name="twice")
    x = layers.BatchNormalization(name="norm")(twice(twice(x)))
    return tf_keras.Model(inputs, layers.GlobalAveragePooling2D(name="out")(x))


def test_outputs_are_equal_and_every_kernel_is_seen():
    from edgecomp.compress._footprint import footprint
    from edgecomp.compress._weights import kernels
    from edgecomp.keras_separable import split_separable

    model = separable_model()
    made = split_separable(model)
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(made(x), model(x), atol=1e-5)
    names = [kernel.layer.name for kernel in kernels(made)]
    assert names == ["first_depthwise", "first", "twice_depthwise", "twice"]
    # By hand. Weights: 3*3*3*2 and 6*8, then 3*3*8 and 8*8, each used at 64 places, the second pair twice.
    weights = (54 + 48, 72 + 64)
    assert footprint(made, None).macs == 64 * weights[0] + 2 * 64 * weights[1]


def test_a_model_without_any_is_left_alone():
    from edgecomp.keras_separable import split_separable

    inputs = tf_keras.layers.Input((4,))
    assert split_separable(tf_keras.Model(inputs, tf_keras.layers.Dense(2)(inputs))) is None


def test_an_imported_model_has_its_kernels_clustered(tmp_path):
    """Before it was split, a separable layer was invisible to every technique that works on kernels."""
    from edgecomp.compress._weights import clusters_of, kernels
    from edgecomp.load import load_trainable

    path = tmp_path / "separable.h5"
    with pytest.warns(UserWarning, match="HDF5"):
        separable_model().save(path, include_optimizer=False)
    found = kernels(load_trainable(str(path), trust_code=False))
    assert [kernel.layer.name for kernel in found] == ["first_depthwise", "first", "twice_depthwise", "twice"]
    assert all(clusters_of(kernel.channels(kernel.variable.numpy())) > 4 for kernel in found)


@pytest.mark.parametrize(
    ("kind", "shape", "channels"), [("Conv1DTranspose", (8, 3), 5), ("Conv2DTranspose", (8, 8, 3), 5)]
)
def test_channels_of_a_transposed_convolution_are_its_outputs(kind, shape, channels):
    """Its kernel has the shape (..., out, in): 5 rows of 3 taps (or 9) times 3 inputs."""
    from edgecomp.compress._weights import kernels

    inputs = tf_keras.layers.Input(shape)
    model = tf_keras.Model(inputs, getattr(tf_keras.layers, kind)(channels, 3)(inputs))
    (kernel,) = kernels(model)
    values = kernel.variable.numpy()
    rows = kernel.channels(values)
    assert rows.shape == (channels, 3 ** (len(shape) - 1) * 3)
    assert np.array_equal(kernel.restore(rows), values)
    assert np.array_equal(np.sort(rows[2]), np.sort(values[..., 2, :].ravel()))
