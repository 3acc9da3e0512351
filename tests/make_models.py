"""Small models of every awkward kind, made by Keras 3 in a process of its own: `python make_models.py FOLDER`."""

import sys
from pathlib import Path

import keras
import numpy as np

layers = keras.layers


def two_in_two_out():
    """Image and numbers in; a class and a value out."""
    image, numbers = keras.Input((8, 8, 1), name="image"), keras.Input((4,), name="numbers")
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(image))
    x = layers.Concatenate()([x, layers.Dense(8, activation="relu")(numbers)])
    return keras.Model(
        [image, numbers],
        [layers.Dense(10, activation="softmax", name="digit")(x), layers.Dense(1, name="ink")(x)],
    )


def regression():
    """How much ink an image has."""
    return keras.Sequential([keras.Input((8, 8, 1), name="image"), layers.Flatten(), layers.Dense(1, name="ink")])


def with_lambda():
    """Python code in the file."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Lambda(lambda value: value * 2.0, output_shape=(8, 8, 1))(inputs)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Flatten()(x)))


def with_lstm():
    """A recurrent layer: state between steps."""
    inputs = keras.Input((8, 8), name="rows")
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.LSTM(8)(inputs)))


def with_select_tf():
    """An operator that TFLite has not: the determinant of a matrix."""
    inputs = keras.Input((8, 8), name="matrix")
    x = keras.ops.expand_dims(keras.ops.det(inputs), -1)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def main(folder):
    keras.utils.set_random_seed(0)
    for build in (two_in_two_out, regression, with_lambda, with_lstm, with_select_tf):
        model = build()
        if build is regression:  # The sum of all pixels, over 64: exact, so that errors are known.
            model.layers[-1].set_weights([np.full((64, 1), 1 / 64, np.float32), np.zeros(1, np.float32)])
        model.save(folder / f"{build.__name__}.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
