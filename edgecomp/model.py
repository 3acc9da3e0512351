"""What a model file is, seen without TensorFlow: its kind, whether it is whole, whether it holds code.

The cheap half of the import. `load.py` and `convert.py` do the heavy half in a worker process.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgecomp.errors import ModelError
from edgecomp.graph import read_graph
from edgecomp.keras_config import check_config
from edgecomp.tensors import TensorSpec

_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TFLITE = b"TFL3"

CUSTOM_OBJECTS = "EDGECOMP_CUSTOM_OBJECTS"
"""Environment variable by which the TensorFlow worker learns what --custom-objects says; it outlives a restart."""

ALLOWED = "a .keras, .h5 or .tflite file, or the folder of a SavedModel"
_HINTS = {
    ".pb": "Pass the folder of the SavedModel, not the saved_model.pb in it.",
    ".onnx": "ONNX models are not read: convert the model to Keras or TensorFlow first.",
    ".pt": "PyTorch models are not read: convert the model to .tflite first, for example with litert-torch.",
    ".pth": "PyTorch models are not read: convert the model to .tflite first, for example with litert-torch.",
    ".npz": "This looks like data: pass it with --data.",
    ".ckpt": "A checkpoint holds weights only: save the whole model with model.save('model.keras').",
}
# SavedModels are programs. These operators reach outside the graph, so they count as code in the file.
_SAVED_MODEL_CODE = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "WriteFile", "ReadFile", "MatchingFiles")


class ModelKind(StrEnum):
    """How a model is opened, decided by what is in the file.

    KERAS3: written by Keras 3 (.keras, or .h5). LEGACY_H5 and LEGACY_KERAS: written by Keras 2 as .h5 or .keras, opened
    with tf_keras. SAVED_MODEL: a folder. TFLITE: a flatbuffer.
    """

    KERAS3 = "keras3"
    LEGACY_H5 = "legacy_h5"
    LEGACY_KERAS = "legacy_keras"
    SAVED_MODEL = "saved_model"
    TFLITE = "tflite"


class CannotRebuildError(ModelError):
    """A Keras 3 model has no twin in tf_keras; it still goes the post-training road."""


@dataclass(frozen=True)
class ModelInfo:
    """What came out of importing one model.

    Attributes:
        kind: How the source was opened.
        inputs, outputs: In the model's own order. The batch axis is 1 after conversion, None before where it is open.
        is_trainable: Whether a tf_keras model is at hand for the techniques that train.
        training_unavailable_reason: One clause that says why not; None exactly where `is_trainable`.
        rebuild_max_difference: Largest absolute difference between the outputs of the Keras 3 model and of its
            tf_keras twin on real inputs; None where nothing was rebuilt or no inputs were given.
        conversion_max_difference: The same between the source model and the float .tflite.
        notes: Sentences for the report: what was left out or changed, and what that costs.
        layer_names: Layers of the trainable model in order; empty where there is none.
        sha256: Digest of the source file or folder.
    """

    kind: ModelKind
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_trainable: bool
    training_unavailable_reason: str | None
    rebuild_max_difference: float | None
    conversion_max_difference: float | None
    notes: tuple[str, ...]
    layer_names: tuple[str, ...]
    sha256: str


def identify(path: Path, *, trust_code: bool = False, custom_objects: str | None = None) -> ModelKind:
    """The kind of a model file, after every check that needs no TensorFlow.

    Args:
        path: A .keras, .h5 or .tflite file, or the folder of a SavedModel.
        trust_code: Accept files that hold Python code (Lambda layers), which runs when they are opened.
        custom_objects: "module" or "module:function" with the classes that the file needs beside Keras's own.

    Raises:
        ModelError: Missing, damaged, not what its extension says, a custom class, or code without `trust_code`.
        GraphError: A .tflite file that is damaged.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder.", hint=f"Pass {ALLOWED}.")
    if path.is_dir():
        _check_saved_model(path, trust_code=trust_code)
        return ModelKind.SAVED_MODEL
    suffix = path.suffix.lower()
    if suffix not in (".keras", ".h5", ".hdf5", ".tflite"):
        raise ModelError(
            f"{path}: unknown kind of model file {suffix or path.name!r}; allowed is {ALLOWED}.",
            hint=_HINTS.get(suffix),
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}.") from error
    if not head:
        raise ModelError(f"{path}: the file is empty.", hint=f"Pass {ALLOWED}.")
    found = _content(head)
    expected = {".keras": (".keras", ".h5"), ".tflite": (".tflite",)}.get(suffix, (".h5",))
    if found not in expected:
        what = f"its content is that of a {found} file" if found else f"it begins with {head!r}"
        hint = f"Rename it to {path.stem}{found}." if found else "Was it cut, or saved under the wrong name?"
        raise ModelError(f"{path}: not a {suffix} file: {what}.", hint=hint)
    if found == ".tflite":
        read_graph(path.read_bytes(), str(path))
        return ModelKind.TFLITE
    version, config = _keras_archive(path) if found == ".keras" else _hdf5(path)
    is_keras3 = not version.startswith(("1.", "2."))
    check_config(config, str(path), is_keras3=is_keras3, trust_code=trust_code, custom_objects=custom_objects)
    if is_keras3:
        return ModelKind.KERAS3
    return ModelKind.LEGACY_KERAS if found == ".keras" else ModelKind.LEGACY_H5


def _content(head: bytes) -> str | None:
    """The extension that fits the first eight bytes."""
    if head.startswith(_ZIP):
        return ".keras"
    if head == _HDF5:
        return ".h5"
    return ".tflite" if head[4:8] == _TFLITE else None


def _keras_archive(path: Path) -> tuple[str, Any]:
    """(version of Keras that wrote it, configuration) of a .keras file."""
    try:
        with zipfile.ZipFile(path) as archive:
            missing = {"config.json", "metadata.json", "model.weights.h5"} - set(archive.namelist())
            if missing:
                raise ModelError(
                    f"{path}: not a Keras model: {', '.join(sorted(missing))} is missing in the archive.",
                    hint="Save the model with model.save('model.keras').",
                )
            broken = archive.testzip()
            if broken is not None:
                raise ModelError(f"{path}: damaged: the checksum of {broken} is wrong.", hint="Copy or save it again.")
            metadata = json.loads(archive.read("metadata.json"))
            return str(metadata.get("keras_version", "3")), json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise ModelError(
            f"{path}: damaged: the archive cannot be read ({error}).", hint="Was the file cut? Copy or save it again."
        ) from error
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path}: damaged: its configuration is not JSON ({error}).", hint="Save it again.") from error


def _hdf5(path: Path) -> tuple[str, Any]:
    """(version of Keras that wrote it, configuration) of a .h5 file."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            version, config = file.attrs.get("keras_version", "2"), file.attrs.get("model_config")
            has_weights = "layer_names" in file.attrs or "layers" in file or "_layer_checkpoint_dependencies" in file
    except (OSError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{path}: damaged: the HDF5 file cannot be read ({reason}).",
            hint="Was the file cut? Copy or save it again.",
        ) from error
    if config is None:
        what = "holds weights but no architecture" if has_weights else "holds no Keras model"
        raise ModelError(
            f"{path}: the HDF5 file {what}.",
            hint="Save the whole model with model.save('model.keras'), not model.save_weights().",
        )
    version, config = (text.decode() if isinstance(text, bytes) else str(text) for text in (version, config))
    try:
        return version, json.loads(config)
    except ValueError as error:
        raise ModelError(f"{path}: damaged: its configuration is not JSON ({error}).", hint="Save it again.") from error


def _check_saved_model(path: Path, *, trust_code: bool) -> None:
    graph = path / "saved_model.pb"
    if not graph.is_file() and not (path / "saved_model.pbtxt").is_file():
        inner = next(iter(sorted(path.glob("*/saved_model.pb"))), None)
        names = sorted(item.name for item in path.iterdir())
        what = f"it holds {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else "it is empty"
        raise ModelError(
            f"{path}: not a SavedModel: the folder has no saved_model.pb, {what}.",
            hint=f"Did you mean {inner.parent}?" if inner else f"Pass {ALLOWED}.",
        )
    if graph.is_file() and graph.stat().st_size == 0:
        raise ModelError(f"{graph}: the file is empty.", hint="Export the model again.")
    data_files = list((path / "variables").glob("variables.data-*"))
    if data_files and not (path / "variables" / "variables.index").is_file():
        raise ModelError(f"{path}: damaged: variables/variables.index is missing.", hint="Copy or export it again.")
    if trust_code or not graph.is_file():
        return
    data = graph.read_bytes()
    for name in _SAVED_MODEL_CODE:
        # Field 2 of NodeDef is the operator: tag 0x12, length, name.
        if b"\x12" + bytes([len(name)]) + name.encode() in data:
            raise ModelError(
                f"{path}: the SavedModel uses the TensorFlow operator {name}, which reaches outside of the graph.",
                hint="If you trust where the model comes from, add --trust-model-code.",
            )
