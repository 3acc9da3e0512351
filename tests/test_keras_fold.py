"""Batch normalization folded: the reference is the model with it, on random statistics of both signs."""

from __future__ import annotations

import os

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT

os.environ.update(ENVIRONMENT)
tf_keras = pytest.importorskip("tf_keras")

pytestmark = [
    # numpy 2 and Python say this of code inside of tf_keras and tensorflow.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning"),
]

k = tf_keras.layers
CASES = {
    "conv": (lambda: k.Conv2D(5, 3, use_bias=False), True),
    "conv-strided": (lambda: k.Conv2D(5, 3, strides=2, padding="same"), True),
    "depthwise": (lambda: k.DepthwiseConv2D(3, depth_multiplier=2), True),
    "transposed": (lambda: k.Conv2DTranspose(5, 3, strides=2), True),
    "separable": (lambda: k.SeparableConv2D(5, 3), True),
    "dense": (lambda: k.Dense(5), True),
    "activation-between": (lambda: k.Conv2D(5, 3, activation="relu"), False),
    "pooling": (lambda: k.MaxPooling2D(), False),
}


@pytest.mark.parametrize("case", CASES)
def test_folding_changes_no_output(case):
    from edgecomp.keras_fold import fold_batch_norm

    make, is_folded = CASES[case]
    inputs = k.Input((8, 8, 3))
    model = tf_keras.Model(inputs, k.ReLU()(k.BatchNormalization()(make()(inputs))))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        values = rng.normal(size=weight.shape)
        weight.assign(values**2 + 0.1 if "variance" in weight.name else values)
    folded = fold_batch_norm(model)
    x = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    assert np.abs(model(x) - folded(x)).max() <= 1e-5 * np.abs(model(x)).max()
    norms = [layer for layer in folded.layers if isinstance(layer, k.BatchNormalization)]
    assert bool(norms) is not is_folded
