#!/usr/bin/env python3
"""Run the model beside this file with whichever TFLite runtime is installed.

    python3 run_model.py                  check the golden samples of the bundle
    python3 run_model.py picture.png      an image (needs Pillow)
    python3 run_model.py sample.npy       one raw sample, as it was before preprocessing

Needs numpy and one of: ai-edge-litert, tflite-runtime (with numpy below 2), tensorflow. Python 3.7 or later.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def load_interpreter() -> tuple[Any, str]:
    """The first runtime that works, and its name."""
    # Where model.tflite is packed for a microcontroller, this computes the same.
    unpacked = os.path.join(HERE, "unpacked.tflite")
    path = unpacked if os.path.exists(unpacked) else os.path.join(HERE, "model.tflite")
    reasons = []
    for module in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite"):
        try:
            interpreter = __import__(module, fromlist=["Interpreter"]).Interpreter
            return interpreter(model_path=path), module
        except ImportError as error:
            reasons.append("{}: {}".format(module, error))
    sys.exit("No TFLite runtime works here. Install one: pip install ai-edge-litert\n" + "\n".join(reasons))


def quantize(real: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """Real values -> what the file stores."""
    dtype = np.dtype(entry["dtype"])
    if entry["scale"] is None:
        return real.astype(dtype)
    limits = np.iinfo(dtype)
    stored: np.ndarray = np.clip(np.round(real / entry["scale"]) + entry["zero_point"], limits.min, limits.max)
    return stored.astype(dtype)


def dequantize(stored: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """What the file stores -> real values."""
    if entry["scale"] is None:
        return stored
    real: np.ndarray = np.float32(entry["scale"]) * (stored.astype(np.float32) - entry["zero_point"])
    return real


def preprocess(raw: np.ndarray, manifest: dict[str, Any], entry: dict[str, Any]) -> np.ndarray:
    """A raw sample -> what the file stores, with the batch axis."""
    real: np.ndarray = raw.astype(np.float32)
    mean, std = manifest["preprocessing"]["mean"], manifest["preprocessing"]["std"]
    if mean is not None:
        real = real - np.asarray(mean, np.float32)
    if std is not None:
        real = real / np.asarray(std, np.float32)
    shape = [size or 1 for size in entry["shape"]]
    if real.size != np.prod(shape):
        sys.exit("The model takes {} values {}, got shape {}".format(np.prod(shape), shape[1:], raw.shape))
    return quantize(real.reshape(shape), entry)


def read_raw(path: str, entry: dict[str, Any]) -> np.ndarray:
    """A .npy file, or an image resized to the model's input."""
    if path.endswith(".npy"):
        raw: np.ndarray = np.load(path, allow_pickle=False)
        return raw
    from PIL import Image

    height, width, channels = entry["shape"][1:]
    image = Image.open(path).convert("L" if channels == 1 else "RGB").resize((width, height))
    return np.asarray(image).reshape(height, width, channels)


def invoke(interpreter: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Run once on stored inputs; returns the stored outputs, each with its batch axis."""
    for detail, value in zip(interpreter.get_input_details(), inputs):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def check_golden(interpreter: Any, manifest: dict[str, Any]) -> None:
    """Run the golden samples; print the largest difference in each output."""
    golden = np.load(os.path.join(HERE, "golden.npz"))
    count = len(golden["input_0"])
    inputs = [golden["input_{}".format(i)] for i in range(len(manifest["inputs"]))]
    for index, entry in enumerate(manifest["outputs"]):
        want = golden["output_{}".format(index)]
        got = np.stack([invoke(interpreter, [x[i : i + 1] for x in inputs])[index][0] for i in range(count)])
        difference = np.max(np.abs(got.astype(np.float64) - want.astype(np.float64)))
        unit = "LSB" if entry["scale"] is not None else "absolute"
        same = np.mean(got.reshape(count, -1).argmax(1) == want.reshape(count, -1).argmax(1))
        print(
            "{}: {} golden samples, same answer {:.0%}, largest difference {:g} {} (golden: {})".format(
                entry["name"], count, same, difference, unit, manifest["golden"]["kernel_family"]
            )
        )


def main() -> None:
    """See the top of the file."""
    with open(os.path.join(HERE, "manifest.json")) as stream:
        manifest = json.load(stream)
    interpreter, runtime = load_interpreter()
    for detail, entry in zip(interpreter.get_input_details(), manifest["inputs"]):
        if None in entry["shape"]:
            interpreter.resize_tensor_input(detail["index"], [size or 1 for size in entry["shape"]])
    interpreter.allocate_tensors()
    print("runtime: {}".format(runtime))
    paths = sys.argv[1:]
    if not paths:
        check_golden(interpreter, manifest)
        return
    if len(paths) != len(manifest["inputs"]):
        sys.exit("The model has {} inputs, got {} files".format(len(manifest["inputs"]), len(paths)))
    entries = manifest["inputs"]
    outputs = invoke(interpreter, [preprocess(read_raw(p, e), manifest, e) for p, e in zip(paths, entries)])
    for stored, entry in zip(outputs, manifest["outputs"]):
        real = dequantize(stored, entry)[0]
        print("{}: {}".format(entry["name"], np.array2string(np.asarray(real), precision=4, threshold=32)))
        if real.ndim == 1 and real.size > 1:
            best = int(real.argmax())
            names = manifest["class_names"]
            print("answer: {}".format(names[best] if names else "class {}".format(best)))


if __name__ == "__main__":
    main()
