"""Bundles of the small digits models, with golden outputs made by the LiteRT of this Python."""

from __future__ import annotations

import io
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgecomp.bundle.manifest import Golden, Manifest, Preprocessing, TensorEntry
from edgecomp.bundle.writer import file_entries, runner_script, write_bundle
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, load
from tests.conftest import read_npz

MODELS = Path(__file__).parent / "models"


def digit_images() -> np.ndarray:
    """32 real test images of shape (32, 8, 8, 1), as the models take them."""
    return read_npz(MODELS / "digits_samples.npz")["x"].astype(np.float32) / 16


def golden_arrays(model: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """input_0 and output_0 of golden.npz."""
    loaded = load(model, KernelFamily.LITERT_XNNPACK)
    spec = loaded.graph.inputs[0]
    return {"input_0": spec.quantize(images), "output_0": loaded.run({spec.name: images})[0]}


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def write_digits_bundle(
    folder: Path,
    *,
    model: bytes | None = None,
    arrays: dict[str, np.ndarray] | None = None,
    profile: str | None = None,
    **made_with: str,
) -> Path:
    """A bundle in `folder`; returns its folder, with the .zip beside it.

    Args:
        folder: Where to write.
        model: A .tflite file; the int8 digits model if None.
        arrays: Golden samples; right ones if None.
        profile: Text of profile.toml; that of rpi4 if None.
        made_with: Other values for the manifest's account of the golden samples.
    """
    model = model if model is not None else (MODELS / "digits_int8.tflite").read_bytes()
    arrays = arrays if arrays is not None else golden_arrays(model, digit_images())
    text = profile or (Path(__file__).parent.parent / "device_profiles" / "rpi4.toml").read_text()
    files = {
        "model.tflite": model,
        "golden.npz": npz(arrays),
        "profile.toml": text.encode(),
        "run_model.py": runner_script(),
    }
    graph = read_graph(model)
    made = {
        "kernel_family": "LITERT_XNNPACK",
        "runtime": "ai-edge-litert",
        "runtime_version": version("ai-edge-litert"),
        "architecture": platform.machine(),
    }
    manifest = Manifest(
        device="rpi4",
        chosen="INT8",
        source={},
        files=file_entries(files),
        inputs=tuple(TensorEntry.of(spec) for spec in graph.inputs),
        outputs=tuple(TensorEntry.of(spec) for spec in graph.outputs),
        preprocessing=Preprocessing(mean=None, std=None),
        class_names=None,
        metrics={},
        limits={},
        golden=Golden(**made | made_with, samples=len(arrays["input_0"])),
        plan=(),
        seed=0,
        versions={},
    )
    write_bundle(folder, "digits", manifest, files)
    return folder / "digits"
