"""Make the small models in tests/models: a CNN of 0.9 kB of weights on the UCI handwritten digits (scikit-learn).

    python scripts/make_test_models.py

Writes digits_float.tflite, digits_int8.tflite (int8 in and out) and digits_samples.npz: real test images `x`, uint8 of
shape (32, 8, 8, 1) with values 0 to 16, and their labels `y`. The models take the image divided by 16.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tf_keras as keras
from sklearn.datasets import load_digits

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "models"
TEST_SAMPLES = 32


def main() -> None:
    """Train for some seconds, convert twice, save."""
    keras.utils.set_random_seed(1)
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8)[..., None], digits.target.astype(np.int64)
    test, train = slice(0, TEST_SAMPLES), slice(TEST_SAMPLES, None)
    x_train = images[train].astype(np.float32) / 16
    model = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", input_shape=(8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, labels[train], epochs=30, verbose=0)
    print("test accuracy", model.evaluate(images[test].astype(np.float32) / 16, labels[test], verbose=0)[1])

    function = tf.function(model).get_concrete_function(tf.TensorSpec((1, 8, 8, 1), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "digits_float.tflite").write_bytes(converter.convert())

    def calibration() -> Iterator[list[np.ndarray]]:
        for image in x_train[:200]:
            yield [image[None]]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (FOLDER / "digits_int8.tflite").write_bytes(converter.convert())
    np.savez_compressed(FOLDER / "digits_samples.npz", x=images[test], y=labels[test])


if __name__ == "__main__":
    main()
