"""Write benchmarks/reference_graphs.json: the operators of the models that published latencies are of.

    EDGECOMP_DATA=../shared/data python scripts/make_reference_graphs.py

ResNet8 and DS-CNN are read from EDGECOMP_DATA. The others are built here with random weights and converted, to INT8
with random calibration data as well: only shapes and types are kept. Needs TensorFlow and takes minutes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from edgecomp.cost import operator_work
from edgecomp.graph import read_graph

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EDGECOMP_DATA", ROOT.parent / "shared" / "data"))
TARGET = ROOT / "benchmarks" / "reference_graphs.json"
KEPT = ("code", "kind", "macs", "outputs", "channels", "elements", "bytes", "taps")

# Model, dtype -> file in EDGECOMP_DATA.
FILES = {
    ("ic", "float32"): "resnet8-cifar10/pretrainedResnet.tflite",
    ("ic", "int8"): "resnet8-cifar10/pretrainedResnet_quant.tflite",
    ("kws", "int8"): "dscnn-kws/kws_ref_model.tflite",
}


def normalized(x: Any) -> Any:
    """BatchNormalization and ReLU6, which the converter folds into what is before them."""
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def vww(channels: int = 3) -> tf_keras.Model:
    """MobileNetV1 0.25 at 96x96: MLPerf Tiny's visual wake words; with one channel, TFLM's person_detection."""
    x = inputs = tf_keras.Input((96, 96, channels))
    x = normalized(layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(x))
    blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    for filters, stride in blocks:
        x = normalized(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x))
        x = normalized(layers.Conv2D(filters, 1, padding="same", use_bias=False)(x))
    x = layers.Flatten()(layers.AveragePooling2D(x.shape[1:3])(x))
    return tf_keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def ad() -> tf_keras.Model:
    """MLPerf Tiny's anomaly detection: dense layers only."""
    x = inputs = tf_keras.Input((640,))
    for units in [128] * 4 + [8] + [128] * 4:
        x = normalized(layers.Dense(units)(x))
    return tf_keras.Model(inputs, layers.Dense(640)(x))


def efficientnet_lite(size: int, width: float, depth: float) -> tf_keras.Model:
    """EfficientNet-Lite: MBConv blocks without squeeze-and-excite; stem and head are not scaled."""

    def scaled(filters: int) -> int:
        rounded = max(8, int(filters * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * filters * width else rounded

    x = inputs = tf_keras.Input((size, size, 3))
    x = normalized(layers.Conv2D(32, 3, 2, padding="same", use_bias=False)(x))
    stages = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 3, 6, 80, 2), (5, 3, 6, 112, 1),
              (5, 4, 6, 192, 2), (3, 1, 6, 320, 1)]  # fmt: skip
    for number, (kernel, repeats, expand, filters, first_stride) in enumerate(stages):
        count = repeats if number in (0, len(stages) - 1) else int(np.ceil(repeats * depth))
        for repeat in range(count):
            before, stride = x, first_stride if repeat == 0 else 1
            if expand > 1:
                x = normalized(layers.Conv2D(expand * x.shape[-1], 1, use_bias=False)(x))
            x = normalized(layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False)(x))
            x = layers.BatchNormalization()(layers.Conv2D(scaled(filters), 1, use_bias=False)(x))
            if repeat:
                x = layers.Add()([x, before])
    x = normalized(layers.Conv2D(1280, 1, use_bias=False)(x))
    x = layers.Dense(1000, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return tf_keras.Model(inputs, x)


def mobilenet_v3(make: Callable[..., tf_keras.Model]) -> tf_keras.Model:
    """Without the rescaling that Keras puts in front."""
    return make(input_shape=(224, 224, 3), weights=None, include_preprocessing=False)


def converted(model: tf_keras.Model, dtype: str) -> bytes:
    """The .tflite file with batch size 1."""
    shape = (1, *model.input_shape[1:])
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec(shape))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    if dtype == "int8":
        random = np.random.default_rng(0)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([random.random(shape, dtype=np.float32)] for _ in range(2))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def main() -> None:
    """Build, convert, reduce, write."""
    both, applications = ("float32", "int8"), tf_keras.applications
    built: dict[str, tuple[Callable[[], tf_keras.Model], tuple[str, ...]]] = {
        "vww": (vww, both),
        "ad": (ad, both),
        "person-detection": (lambda: vww(channels=1), ("int8",)),
        "mobilenet-v1": (lambda: applications.MobileNet(weights=None), both),
        "mobilenet-v2": (lambda: applications.MobileNetV2(weights=None), both),
        "mobilenet-v3-large": (lambda: mobilenet_v3(applications.MobileNetV3Large), ("float32",)),
        "mobilenet-v3-small": (lambda: mobilenet_v3(applications.MobileNetV3Small), ("float32",)),
        "efficientnet-lite0": (lambda: efficientnet_lite(224, 1.0, 1.0), both),
        "efficientnet-lite4": (lambda: efficientnet_lite(300, 1.4, 1.8), both),
    }
    files = {key: (DATA / name).read_bytes() for key, name in FILES.items()}
    for name, (build, dtypes) in built.items():
        model = build()
        for dtype in dtypes:
            files[name, dtype] = converted(model, dtype)
            print(f"{name} {dtype} done", file=sys.stderr, flush=True)
    lines = []
    for (name, dtype), data in files.items():
        works = [asdict(work) for work in operator_work(read_graph(data, name))]
        if others := {work["dtype"] for work in works if work["macs"]} - {dtype}:
            raise SystemExit(f"{name}: {dtype} was wanted, but there is {', '.join(others)}")
        rows = ",\n".join("  " + json.dumps([work[key] for key in KEPT]) for work in works)
        lines.append(f'"{name} {dtype}": [\n{rows}\n]')
    TARGET.write_text(f'{{\n"columns": {json.dumps(KEPT)},\n' + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
