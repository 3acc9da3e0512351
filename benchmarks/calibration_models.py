"""The five models that no calibration sees, float and INT8: made once by the product's own conversion, then kept.

Run in a process of its own: TensorFlow is only needed to make them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import DATA, ROOT, SkippedError, say
from edgecomp.convert import ENVIRONMENT, convert_to_float_tflite
from edgecomp.files import write_atomic
from edgecomp.profile import Precision
from edgecomp.quantize import QuantizationOptions, Quantizer

_SAMPLES = 50


@dataclass(frozen=True)
class Subject:
    """A model under the folder of data, with an INT8 file of its own or the samples that INT8 is calibrated with.

    Attributes:
        int8: A file that was published with the model.
        samples: An .npz with x_train, and what the model wants made of it: (x - mean) / std.
    """

    model: str
    int8: str | None = None
    samples: str | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


SUBJECTS = {
    "ResNet8": Subject("resnet8-cifar10/pretrainedResnet.h5", "resnet8-cifar10/pretrainedResnet_quant.tflite"),
    "DS-CNN": Subject("dscnn-kws/kws_ref_model.h5", "dscnn-kws/kws_ref_model.tflite"),
    "fsdd": Subject("fsdd/fsdd_dscnn.keras", samples="fsdd/fsdd_logmel.npz", mean=(-8.0,), std=(4.0,)),
    "har": Subject(
        "har-spsw/har_cnn1d.keras",
        samples="har-spsw/har_spsw_w64.npz",
        mean=(-5.1423, -1.8441, 0.4623, -0.0095, -0.0002, 0.0314),
        std=(5.0414, 6.4378, 4.2962, 1.3490, 1.2518, 1.0536),
    ),
    "mnist": Subject("mnist/mnist_lenet.keras", samples="mnist/mnist.npz", std=(255.0,)),
}


def held_out_models(folder: Path) -> dict[str, bytes]:
    """`<name> float32` and `<name> int8` of the five, made in a fresh process where the folder does not hold them yet.

    Raises:
        SkippedError: The folder of models and data is not there.
    """
    for subject in SUBJECTS.values():
        if not (DATA / subject.model).exists():
            raise SkippedError(f"there is no {DATA / subject.model} (set EDGECOMP_DATA)")
    paths = {f"{name} {dtype}": folder / f"{name}-{dtype}.tflite" for name in SUBJECTS for dtype in ("float32", "int8")}
    if not all(path.is_file() for path in paths.values()):
        say("converting and quantizing the five models")
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "benchmarks.calibration_models", str(folder)]
        subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    return {name: path.read_bytes() for name, path in paths.items()}


def _make(name: str, subject: Subject, folder: Path) -> None:
    float_path = folder / f"{name}-float32.tflite"
    convert_to_float_tflite(str(DATA / subject.model), trust_code=False, out_path=str(float_path))
    target = folder / f"{name}-int8.tflite"
    if subject.int8 is not None:
        write_atomic(target, (DATA / subject.int8).read_bytes())
        return
    assert subject.samples is not None
    float_model = float_path.read_bytes()
    with np.load(DATA / subject.samples) as arrays:
        images = arrays["x_train"][:: len(arrays["x_train"]) // _SAMPLES][:_SAMPLES].astype(np.float32)
    values = ((images - np.float32(subject.mean)) / np.float32(subject.std)).astype(np.float32)
    quantizer = Quantizer(float_model, [])
    spec = quantizer.graph.inputs[0]
    shape = (1, *(size or 1 for size in spec.shape[1:]))
    quantizer = Quantizer(float_model, [{spec.name: value.reshape(shape)} for value in values])
    write_atomic(target, quantizer.quantize(QuantizationOptions(Precision.INT8, "float32")).data)


if __name__ == "__main__":
    for each, described in SUBJECTS.items():
        _make(each, described, Path(sys.argv[1]))
