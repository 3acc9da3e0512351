"""A Keras 3 model rebuilt in tf_keras, layer by layer, with its weights. Imported by workers only.

TF-MOT, and with it every technique that trains, works on tf_keras only. The rebuilt model takes the inputs and gives
the outputs of the original in the same order, as flat lists. Models inside the model are dissolved into their layers:
TF-MOT does not look into nested ones.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from edgecomp.keras_layers import first_line, twin_of
from edgecomp.keras_operations import StopMask, run_operation
from edgecomp.model import CannotRebuildError


def rebuild(source: Any) -> Any:
    """The tf_keras twin of a Keras 3 model.

    Args:
        source: A built Sequential or Functional model.

    Returns:
        A functional tf_keras model with the weights of `source`. It takes its inputs as a flat list (one input: as a
        tensor) and gives its outputs likewise. `trainable` of every layer is kept.

    Raises:
        CannotRebuildError: With the name and class of the layer that has no twin.
    """
    return _Rebuild().model(source)


def graph_of(source: Any) -> Any:
    """The functional graph of a model: of a Sequential, its functional twin.

    Raises:
        CannotRebuildError: A model that only exists as code, or was never built.
    """
    graph = getattr(source, "_functional", source) if isinstance(source, keras.Sequential) else source
    if graph is None or not isinstance(graph, keras.Model) or not hasattr(graph, "_nodes_by_depth"):
        raise CannotRebuildError(f"model {source.name!r} ({type(source).__name__}) is not made of connected layers")
    return graph


class _Rebuild:
    """One rebuild: remembers which layers were made, so that a shared layer stays one layer."""

    def __init__(self) -> None:
        self._twins: dict[int, Any] = {}
        self._names: dict[int, str] = {}

    def model(self, source: Any) -> Any:
        graph = graph_of(source)
        for operation in graph.operations:
            self._name(operation, None)  # Before any nested model can take the name.
        # The batch is opened also where the source fixed it, for training; but a state between calls depends on it.
        keep_batch = any(getattr(layer, "stateful", False) for layer in graph.layers)
        inputs = [self._input(tensor, keep_batch=keep_batch) for tensor in graph.inputs]
        outputs = self._run(source, inputs, training=None)
        try:
            model = tf_keras.Model(_single(inputs), _single(outputs), name=valid_name(source.name))
        except ValueError as error:
            raise CannotRebuildError(f"model {source.name!r}: {first_line(error)}") from error
        return model

    def _input(self, tensor: Any, *, keep_batch: bool) -> Any:
        layer = tensor._keras_history.operation
        if getattr(layer, "optional", False) or getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
            raise CannotRebuildError(f"input {tensor.name!r} is optional, sparse or ragged")
        batch = tensor.shape[0] if keep_batch else None
        return tf_keras.Input(tensor.shape[1:], batch, dtype=tensor.dtype, name=self._name(layer, None))

    def _run(self, source: Any, inputs: list[Any], *, training: bool | None) -> list[Any]:
        """Connect the layers of a model to tf_keras tensors.

        Args:
            source: The model, at the top or nested.
            inputs: One tensor for each input, flat.
            training: The `training` argument that a nested model was called with, None if it was not given.
        """
        graph = graph_of(source)
        tensors = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if not node.is_input:
                    results = self._call(node, tensors, source.name, training)
                    tensors.update(zip(map(id, node.outputs), results, strict=True))
        return [tensors[id(tensor)] for tensor in graph.outputs]

    def _call(self, node: Any, tensors: dict[int, Any], scope: str, training: bool | None) -> list[Any]:
        operation = node.operation
        where = f"layer {operation.name!r} ({type(operation).__name__})"

        def replaced(leaf: Any) -> Any:
            return tensors[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

        args, kwargs = keras.tree.map_structure(replaced, (node.arguments.args, node.arguments.kwargs))
        if isinstance(operation, keras.Model):
            explicit = kwargs.get("training")
            return self._run(
                operation, _flat_inputs(operation, args, kwargs), training=training if explicit is None else explicit
            )
        try:
            if isinstance(operation, keras.Layer):
                twin = self._twin(operation, scope)
                args = _stop_mask(operation, args, kwargs)
                result = twin(*args, **_call_options(operation, twin, args, kwargs, training, where))
                if id(operation) not in self._twins:
                    self._twins[id(operation)] = twin
                    _carry_weights(operation, twin, where)
            else:
                arguments = (node.arguments.args, node.arguments.kwargs)
                result = run_operation(operation, self._name(operation, scope), args, kwargs, arguments)
        except (TypeError, ValueError, AttributeError, IndexError, tf.errors.OpError) as error:
            raise CannotRebuildError(f"{where} cannot be called in tf_keras: {first_line(error)}") from error
        flat = list(tf.nest.flatten(result))
        if len(flat) != len(node.outputs):
            raise CannotRebuildError(f"{where} gives {len(node.outputs)} outputs, its twin in tf_keras {len(flat)}")
        return flat

    def _twin(self, layer: Any, scope: str) -> Any:
        if id(layer) in self._twins:
            return self._twins[id(layer)]
        twin = twin_of(layer, self._name(layer, scope), lambda model: _Rebuild().model(model))
        twin.trainable = layer.trainable
        return twin

    def _name(self, operation: Any, scope: str | None) -> str:
        """The layer's own name; with that of its model in front where a nested model brings the name again."""
        if id(operation) not in self._names:
            taken = set(self._names.values())
            plain = valid_name(operation.name)
            candidates = [plain, *([f"{valid_name(scope)}_{plain}"] if scope else [])]
            candidates += [f"{candidates[-1]}_{number}" for number in range(1, len(taken) + 2)]
            self._names[id(operation)] = next(name for name in candidates if name not in taken)
        return self._names[id(operation)]


def _single(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items


def valid_name(name: str) -> str:
    """A name that TensorFlow accepts as a scope; Keras 3 takes almost anything."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"layer{name}"


def _flat_inputs(model: Any, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    """The tensors a nested model is called with, in the order of its inputs."""
    given = args[0] if args else kwargs.get("inputs")
    expected = graph_of(model)._inputs_struct
    if isinstance(given, dict):
        by_name = expected if isinstance(expected, dict) else {tensor.name: None for tensor in model.inputs}
        names = sorted(by_name) if isinstance(expected, dict) else list(by_name)
        return [given[name] for name in names]
    return list(keras.tree.flatten(given))


def _call_options(
    layer: Any, twin: Any, args: Any, kwargs: dict[str, Any], training: bool | None, where: str
) -> dict[str, Any]:
    """The keyword arguments of one call, as far as they were meant."""
    ours, theirs = inspect.signature(layer.call).parameters, inspect.signature(twin.call).parameters
    options = {name: value for name, value in kwargs.items() if value is not None}
    # Keras 3 records the default of `training` as if it had been given: only where the default is None does a value
    # mean something (a BatchNormalization that stays frozen).
    if "training" in options and ours["training"].default is not None:
        del options["training"]
    if training is not None and "training" in theirs:
        options["training"] = training
    # tf_keras hands masks on by itself; the explicit one would add an operation for nothing.
    tensors = {**dict(zip(ours, args, strict=False)), **kwargs}
    first = next(iter(tensors.values()), None)
    for name in [name for name in options if name == "mask" or name.endswith("_mask")]:
        if (
            getattr(first if name == "mask" else tensors.get(name.removesuffix("_mask")), "_keras_mask", None)
            is not None
        ):
            del options[name]
    unknown = sorted(set(options) - set(theirs))
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in theirs.values())
    if unknown and not takes_any:
        raise CannotRebuildError(f"{where} is called with {', '.join(unknown)}, which tf_keras does not take")
    return options


def _stop_mask(layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The arguments without a mask where Keras 3 recorded none: a layer called on several tensors gets no mask."""
    takes_mask = "mask" in inspect.signature(layer.call).parameters
    if takes_mask and kwargs.get("mask") is None and args and getattr(args[0], "_keras_mask", None) is not None:
        return (StopMask()(args[0]), *args[1:])
    return args


def _carry_weights(layer: Any, twin: Any, where: str) -> None:
    if isinstance(layer, keras.layers.Normalization):
        return  # Its statistics are options of the twin.
    if isinstance(getattr(layer, "layer", None), keras.Model):
        return  # A wrapper around a model, which was rebuilt with its weights.
    weights = layer.get_weights()
    blank = twin.get_weights()
    ours, theirs = [weight.shape for weight in weights], [weight.shape for weight in blank]
    if ours != theirs:
        raise CannotRebuildError(f"{where} has weights of the shapes {ours}, its twin in tf_keras {theirs}")
    twin.set_weights([weight.astype(like.dtype) for weight, like in zip(weights, blank, strict=True)])
