"""Opening a model with the library it was written with. Imported by workers only: this is where TensorFlow comes in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from edgecomp.data.user_code import load_function, load_module
from edgecomp.errors import ModelError, UsageError
from edgecomp.files import sha256_of_path
from edgecomp.graph import read_graph
from edgecomp.keras_2d import to_2d
from edgecomp.keras_config import CUSTOM_HINT
from edgecomp.keras_layers import first_line
from edgecomp.keras_rebuild import graph_of, rebuild, valid_name
from edgecomp.keras_separable import split_separable
from edgecomp.model import CUSTOM_OBJECTS, CannotRebuildError, ModelInfo, ModelKind, identify
from edgecomp.tensors import TensorSpec
from edgecomp.tflite_edit import import_float, unique_names
from edgecomp.training.seeds import use_restartable_generators

use_restartable_generators()

# What Keras and TensorFlow raise on a model they cannot open, build or trace.
LIBRARY_ERRORS = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, NameError, OSError, ImportError, RuntimeError,
    ArithmeticError, EOFError, tf.errors.OpError,
)  # fmt: skip
_POST_TRAINING = (
    "Left out: pruning, clustering, low-rank factorization, distillation and quantization-aware training. "
    "Post-training quantization is complete."
)
_SAVED_MODEL_REASON = "a SavedModel holds operators and weights, but no layers that can be trained"
_TFLITE_REASON = "a .tflite file holds operators and weights, but no layers that can be trained"
_MIXED_TOLERANCE, _TOLERANCE = 2e-2, 1e-3


@dataclass(frozen=True)
class Loaded:
    """An opened model, as flat functions of TensorFlow tensors.

    Attributes:
        kind, sha256: As in `ModelInfo`.
        inputs, outputs: In order; None for every open axis.
        run: Flat inputs -> flat outputs in inference mode. This is what is converted. None for a .tflite source.
        original: The same for the model that `run` was rebuilt from (a Keras 3 model, or one with 1-D layers); None
            where nothing was rebuilt.
        trainable: The tf_keras model, or None.
        reason: Why there is none.
        notes: Sentences for the report.
        tolerance: Largest difference from the original, relative to the range of each output.
        tflite: Bytes of a .tflite source, made ready; else None.
        layer_names: Names of layers as they occur in names of nodes; empty where they are not known.
    """

    kind: ModelKind
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    run: Callable[..., list[Any]] | None = None
    original: Callable[..., list[Any]] | None = None
    trainable: Any = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    tolerance: float = _TOLERANCE
    tflite: bytes | None = None
    layer_names: tuple[str, ...] = ()

    def info(self) -> ModelInfo:
        """What the caller gets to know, before any comparison."""
        return ModelInfo(
            kind=self.kind,
            inputs=self.inputs,
            outputs=self.outputs,
            is_trainable=self.trainable is not None,
            training_unavailable_reason=self.reason,
            rebuild_max_difference=None,
            conversion_max_difference=None,
            notes=self.notes,
            layer_names=self.layer_names if self.trainable is not None else (),
            sha256=self.sha256,
        )


_cache: dict[tuple[str, str, bool], Loaded] = {}


def load(path: str, *, trust_code: bool) -> Loaded:
    """Open a model, or return the one that this process opened last if it is the same file.

    Raises:
        ModelError: As `identify`, or what Keras or TensorFlow says about the file.
    """
    source = Path(path)
    custom_objects = os.environ.get(CUSTOM_OBJECTS)
    kind = identify(source, trust_code=trust_code, custom_objects=custom_objects)
    key = (str(source.resolve()), sha256_of_path(source), trust_code)
    if key not in _cache:
        loaded = _open(source, kind, key[1], trust_code, _read_custom_objects(custom_objects))
        for spec in loaded.inputs:
            if spec.dtype == "string":
                raise ModelError(
                    f"{path}: input {spec.name!r} takes text; models on devices take numbers.",
                    hint="Cut the model after its text preprocessing, and preprocess the data instead.",
                )
        _cache.clear()  # One model at a time: they may be large.
        _cache[key] = loaded
    return _cache[key]


def _read_custom_objects(spec: str | None) -> dict[str, Any]:
    """Class name -> class, of a module or of a function that returns such a dict. Raises UsageError."""
    if spec is None:
        return {}
    if ":" not in spec:
        module = load_module(spec, "--custom-objects")
        return {name: item for name, item in vars(module).items() if callable(item) and not name.startswith("_")}
    found = load_function(spec, "--custom-objects")()
    if not isinstance(found, dict):
        raise UsageError(f"--custom-objects {spec}: expected a dict of classes by name, got {type(found).__name__}.")
    return found


def load_trainable(path: str, *, trust_code: bool) -> Any:
    """The tf_keras model of a file, for the techniques that train. Clone it before it is changed.

    Raises:
        ModelError: The model cannot be opened, or there is no trainable form of it.
    """
    loaded = load(path, trust_code=trust_code)
    if loaded.trainable is None:
        raise ModelError(f"{path}: cannot be trained: {loaded.reason}.", hint="Use post-training techniques.")
    return loaded.trainable


def reopen(path: Path, *, trust_code: bool) -> Any:
    """A tf_keras model that edgecomp itself has saved."""
    custom = _read_custom_objects(os.environ.get(CUSTOM_OBJECTS))
    return tf_keras.models.load_model(str(path), custom, compile=False, safe_mode=not trust_code)


def from_tf_keras(model: Any, *, kind: ModelKind = ModelKind.LEGACY_H5, sha256: str = "") -> Loaded:
    """A tf_keras model, opened from a file or changed by a technique, ready for conversion."""
    takes_list = len(model.inputs) > 1

    def run(*tensors: Any) -> list[Any]:
        result = model(_inputs_like(model, tensors) if takes_list else tensors[0], training=False)
        return list(tf.nest.flatten(result))

    return Loaded(
        kind=kind,
        sha256=sha256,
        inputs=_specs(model.inputs, model.input_names),
        outputs=_specs(model.outputs, model.output_names),
        run=run,
        trainable=model,
        layer_names=tuple(layer.name for layer in model.layers),
    )


def _inputs_like(model: Any, tensors: Sequence[Any]) -> Any:
    """Flat tensors in the structure that a tf_keras model was made with."""
    structure = getattr(model, "_nested_inputs", None)
    return tf.nest.pack_sequence_as(structure, tensors) if isinstance(structure, dict) else list(tensors)


def _open(path: Path, kind: ModelKind, sha256: str, trust_code: bool, custom: dict[str, Any]) -> Loaded:
    if kind is ModelKind.TFLITE:
        data = import_float(path.read_bytes(), str(path))
        graph = read_graph(data, str(path))
        note = f"Training is not possible: {_TFLITE_REASON}. {_POST_TRAINING}"
        return Loaded(kind, sha256, graph.inputs, graph.outputs, reason=_TFLITE_REASON, notes=(note,), tflite=data)
    try:
        if kind is ModelKind.SAVED_MODEL:
            return _saved_model(path, sha256)
        if kind is ModelKind.KERAS3:
            model = keras.models.load_model(str(path), custom, compile=False, safe_mode=not trust_code)
            return _keras3(model, path, sha256)
        model = tf_keras.models.load_model(str(path), custom, compile=False, safe_mode=not trust_code)
        if not getattr(model, "inputs", None):
            raise ModelError(f"{path}: the model was saved before it was built: its input shape is not known.")
        return _in_plain_layers(from_tf_keras(model, kind=kind, sha256=sha256))
    except LIBRARY_ERRORS as error:
        raise _explain(error, path, kind) from error


def _explain(error: Exception, path: Path, kind: ModelKind) -> ModelError:
    library = {ModelKind.SAVED_MODEL: "TensorFlow", ModelKind.KERAS3: "Keras 3"}.get(kind, "tf_keras")
    unknown = re.search(
        r"(?:Unknown \w+|Could not locate (?:class|function)|Could not deserialize class):? '([^']+)'", str(error)
    )
    if unknown:
        return ModelError(f"{path}: needs {unknown[1]!r}, which is not part of Keras.", hint=CUSTOM_HINT)
    return ModelError(
        f"{path}: {library} cannot open the model: {first_line(error)}", hint="Is the file whole? Save it again."
    )


def _keras3(model: Any, path: Path, sha256: str) -> Loaded:
    try:
        graph = graph_of(model)
    except CannotRebuildError as error:
        raise ModelError(
            f"{path}: {error.message}, so its inputs are not known.",
            hint="Call it on data before saving it, or export it with model.export('folder') and pass that folder.",
        ) from error
    inputs = _specs(model.inputs, [tensor.name for tensor in model.inputs])
    outputs = _specs(model.outputs, _output_names(graph))

    def run(*tensors: Any) -> list[Any]:
        structured = keras.tree.pack_sequence_as(graph._inputs_struct, tensors)
        return list(keras.tree.flatten(model(structured, training=False)))

    notes: tuple[str, ...] = ()
    tolerance = _TOLERANCE
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model._flatten_layers()):
        tolerance = _MIXED_TOLERANCE
        notes = ("The model computes in 16-bit floats; it is rebuilt and compared in 32 bits.",)
    try:
        twin = from_tf_keras(rebuild(model))
    except (CannotRebuildError, *LIBRARY_ERRORS) as error:
        reason = f"the Keras 3 model cannot be rebuilt in tf_keras: {first_line(error)}"
        notes += (f"Training is not possible: {reason}. {_POST_TRAINING}",)
        return Loaded(
            ModelKind.KERAS3, sha256, inputs, outputs, run=run, reason=reason, notes=notes, tolerance=tolerance,
            layer_names=_make_traceable(model, graph),
        )  # fmt: skip
    _make_traceable(model, graph)
    loaded = Loaded(
        ModelKind.KERAS3, sha256, inputs, outputs, run=twin.run, original=run, trainable=twin.trainable, notes=notes,
        tolerance=tolerance, layer_names=twin.layer_names,
    )  # fmt: skip
    return _in_plain_layers(loaded)


def _in_plain_layers(loaded: Loaded) -> Loaded:
    """The same model with layers that have one kernel each, over images; what it was is compared."""
    loaded = _in_2d(loaded)
    try:
        model = split_separable(loaded.trainable)
    except (ModelError, *LIBRARY_ERRORS) as error:
        note = f"Its separable convolutions stay as they are: {first_line(error)}"
        return replace(loaded, notes=(*loaded.notes, note))
    if model is None:
        return loaded
    # It is what TFLite makes of them anyway, so there is nothing to tell.
    twin = from_tf_keras(model)
    return replace(
        loaded, run=twin.run, original=loaded.original or loaded.run, trainable=twin.trainable,
        layer_names=twin.layer_names,
    )  # fmt: skip


def _in_2d(loaded: Loaded) -> Loaded:
    """The same model with its 1-D layers computed as 2-D ones, once for all that follows; what it was is compared."""
    try:
        found = to_2d(loaded.trainable)
    except (ModelError, *LIBRARY_ERRORS) as error:
        note = f"Its 1-D layers stay as they are: {first_line(error)}"
        return replace(loaded, notes=(*loaded.notes, note))
    if found is None:
        return loaded
    twin = from_tf_keras(found.model)
    note = (
        f"{len(found.changed)} layers over time are computed as layers over images of height 1, which takes fewer "
        "operators; the results are compared with the original's."
    )
    return replace(
        loaded, run=twin.run, original=loaded.original or loaded.run, trainable=twin.trainable,
        layer_names=twin.layer_names, notes=(*loaded.notes, note),
    )  # fmt: skip


def _make_traceable(model: Any, graph: Any) -> tuple[str, ...]:
    """Give layers names that TensorFlow takes as scopes; returns those of the layers."""
    layers = list(model._flatten_layers(include_self=False))
    for item in {id(item): item for item in [model, *layers, *graph.operations]}.values():
        item.name = valid_name(item.name)
    return tuple(layer.name for layer in layers)


def _output_names(graph: Any) -> list[str]:
    """Keys of a dict of outputs, else names of the layers that make them."""
    names = []
    for path, tensor in keras.tree.flatten_with_path(graph._outputs_struct):
        names.append(path[-1] if path and isinstance(path[-1], str) else tensor._keras_history.operation.name)
    return names


def _saved_model(path: Path, sha256: str) -> Loaded:
    model = tf.saved_model.load(str(path))
    signatures = {name: item for name, item in model.signatures.items() if not name.startswith("__")}
    if "serving_default" not in signatures and len(signatures) != 1:
        found = f"it has {', '.join(sorted(signatures))}" if signatures else "it has none"
        raise ModelError(
            f"{path}: the SavedModel needs a signature named serving_default, {found}.",
            hint="Export it with model.export('folder'), or tf.saved_model.save(..., signatures=...).",
        )
    key = "serving_default" if "serving_default" in signatures else next(iter(signatures))
    given = signatures[key].structured_input_signature[1]
    results = signatures[key].structured_outputs
    for name, spec in given.items():
        if spec.shape.rank in (None, 0):
            raise ModelError(
                f"{path}: input {name!r} has the shape {spec.shape}; its first axis must be the batch.",
                hint="Export the model with an input signature that has shapes.",
            )

    def run(*tensors: Any) -> list[Any]:
        # By way of the model: a signature alone does not keep the variables alive.
        made = model.signatures[key](**dict(zip(given, tensors, strict=True)))
        return [made[name] for name in results]

    return Loaded(
        kind=ModelKind.SAVED_MODEL,
        sha256=sha256,
        inputs=_specs(given.values(), given),
        outputs=_specs(results.values(), results),
        run=run,
        reason=_SAVED_MODEL_REASON,
        notes=(
            f"Training is not possible: {_SAVED_MODEL_REASON}. {_POST_TRAINING} "
            "Pass the model as .keras or .h5 to have everything.",
        ),
    )


def _specs(tensors: Any, names: Any) -> tuple[TensorSpec, ...]:
    tensors = list(tensors)
    unique = unique_names(list(names)[: len(tensors)])
    return tuple(
        TensorSpec(name, tuple(_sizes(tensor)), tf.as_dtype(tensor.dtype).name)
        for name, tensor in zip(unique, tensors, strict=True)
    )


def _sizes(tensor: Any) -> list[int | None]:
    shape = tf.TensorShape(tensor.shape)
    # The batch is what the caller makes it, whatever the model was saved with.
    return [None, *shape.as_list()[1:]] if shape.rank else [None]
