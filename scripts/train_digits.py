"""Train the demo model and write calibration_data/digits/digits_cnn.keras (Keras 3).

    python scripts/train_digits.py

Deterministic under its seed on one machine; prints the accuracy that calibration_data/digits/README.md states.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "calibration_data" / "digits"


def build() -> keras.Model:
    """A small residual CNN: 8x8x1 in, softmax over 10 digits out."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(16, 1, use_bias=False)(y)
    x = layers.ReLU()(layers.Add()([x, layers.BatchNormalization()(y)]))
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="digit")(x), name="digits_cnn")


def main() -> None:
    """Train, evaluate once on test, save without the optimizer."""
    keras.utils.set_random_seed(0)
    data = dict(np.load(FOLDER / "digits.npz"))
    x = {name: data[f"x_{name}"].astype(np.float32) / 16 for name in ("train", "val", "test")}
    model = build()
    steps = 60 * (len(x["train"]) // 32 + 1)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        x["train"], data["y_train"], validation_data=(x["val"], data["y_val"]), epochs=60, batch_size=32, verbose=0
    )
    print("parameters", model.count_params())
    print("validation accuracy", model.evaluate(x["val"], data["y_val"], verbose=0)[1])
    print("test accuracy", model.evaluate(x["test"], data["y_test"], verbose=0)[1])
    keras.models.Model(model.inputs, model.outputs, name=model.name).save(FOLDER / "digits_cnn.keras")


if __name__ == "__main__":
    main()
