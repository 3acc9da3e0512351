"""The same job without edgecomp, as a short script would do it: what the benchmarks hold the product against.

`python -m benchmarks.by_hand MODEL.h5 DATA.npz` opens the model with tf_keras, converts it to float and to full INT8
with 200 training images, and scores both on 1,000 test images.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CALIBRATION_IMAGES, TEST_IMAGES = 200, 1000


class Images(NamedTuple):
    """Calibration images (200, 32, 32, 3), test images (1000, 32, 32, 3), both float32, and labels (1000,)."""

    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray


def read_images(path: Path) -> Images:
    """The same images on every call. Takes x_train, x_test and y_test of an .npz."""
    with np.load(path) as data:
        chosen = np.random.default_rng(0).permutation(len(data["x_train"]))[:CALIBRATION_IMAGES]
        calibration = data["x_train"][chosen].astype(np.float32)
        test = data["x_test"][:TEST_IMAGES].astype(np.float32)
        return Images(calibration, test, data["y_test"][:TEST_IMAGES].astype(np.int64))


def open_model(path: Path) -> Any:
    """A legacy .h5 with tf_keras. Sets the environment that TensorFlow needs for it."""
    os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="2", CUDA_VISIBLE_DEVICES="-1")
    import tf_keras

    return tf_keras.models.load_model(str(path), compile=False)


def trace(model: Any) -> Any:
    """The concrete function of a model with batch 1."""
    import tensorflow as tf

    spec = tf.TensorSpec((1, *model.inputs[0].shape[1:]), model.inputs[0].dtype)
    return tf.function(lambda image: model(image, training=False)).get_concrete_function(spec)


def make_int8(source: Any, calibration: np.ndarray, io: str, *, is_traced: bool = False) -> bytes:
    """Full INT8 by TFLiteConverter.

    Args:
        source: A tf_keras model, or what `trace` made of it.
        calibration: Shape (n, *sample_shape), float32.
        io: "float32", "int8" or "uint8".
        is_traced: Whether the source comes from `trace`.
    """
    import tensorflow as tf

    make = tf.lite.TFLiteConverter
    converter = make.from_concrete_functions([source]) if is_traced else make.from_keras_model(source)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
    return bytes(converter.convert())


def make_float(model: Any) -> bytes:
    """Float .tflite by TFLiteConverter."""
    import tensorflow as tf

    return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def accuracy_in_interpreter(data: bytes, images: Images) -> float:
    """Share of the test images that a plain Interpreter with one thread gets right."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    stored = _as_stored(images.test, source)
    right = 0
    for index, label in enumerate(images.labels):
        interpreter.set_tensor(source["index"], stored[index : index + 1])
        interpreter.invoke()
        right += int(np.argmax(interpreter.get_tensor(sink["index"])[0]) == label)
    return right / len(images.labels)


def _as_stored(real: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if not scale:
        return real.astype(detail["dtype"], copy=False)
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(real / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])


def main() -> None:
    """Do the job and print both accuracies as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    images = read_images(options.data)
    model = open_model(options.model)
    makers: dict[str, Callable[[], bytes]] = {
        "float": lambda: make_float(model),
        "int8": lambda: make_int8(model, images.calibration, "float32"),
    }
    print(json.dumps({name: accuracy_in_interpreter(make(), images) for name, make in makers.items()}))


if __name__ == "__main__":
    main()
