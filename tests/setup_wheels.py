"""Small wheels with the shape of the real ones, for tests of `edgecomp setup`: an interpreter of 20 lines."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import edgecomp.agent.on_device.private_runtime as private_runtime
from edgecomp.agent.on_device.machine import this_architecture

# What the trial asks for: y = W x + b of scripts/make_trial_model.py, without a kernel to compute it.
INTERPRETER = """
import numpy
class Interpreter:
    def __init__(self, model_content=None, num_threads=None):
        assert model_content[4:8] == b"TFL3"
    def allocate_tensors(self): pass
    def get_input_details(self): return [{"index": 0}]
    get_output_details = get_input_details
    def set_tensor(self, index, value):
        x = value[0]
        self.y = [x[0] + 2 * x[1] + 3 * x[2] + 4 * x[3] + 0.5, x[3] - x[0] - 2]
    def invoke(self): pass
    def get_tensor(self, index): return numpy.array([self.y], numpy.float32)
"""
NUMPY = """
__version__ = "{version}"
float32 = float
class array(list):
    def __init__(self, value, dtype): super().__init__(value)
    def tolist(self): return list(self)
"""


def write_wheel(
    folder: Path, name: str, version: str, files: dict[str, str | bytes], *, requires: str = "", tag: str | None = None
) -> Path:
    """A wheel for this Python on this machine, or with another tag."""
    abi = private_runtime.this_abi()
    tag = tag or f"{abi}-{abi}-linux_{this_architecture()}"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, content in files.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def write_numpy(folder: Path, version: str = "1.26.0") -> Path:
    """As much of numpy as that interpreter uses."""
    return write_wheel(folder, "numpy", version, {"numpy/__init__.py": NUMPY.format(version=version)})


def write_runtime(
    folder: Path, *, version: str = "2.99.0", interpreter: str = INTERPRETER, ballast_bytes: int = 0
) -> Path:
    """A tflite-runtime; ballast is what no compression makes smaller."""
    files: dict[str, str | bytes] = {"tflite_runtime/__init__.py": "", "tflite_runtime/interpreter.py": interpreter}
    if ballast_bytes:
        files["tflite_runtime/ballast.so"] = os.urandom(ballast_bytes)
    return write_wheel(folder, "tflite_runtime", version, files, requires="numpy>=1.23.2")
