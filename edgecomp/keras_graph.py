"""The layer graph of a tf_keras model: walk it, and build it anew with some layers replaced by others.

Every technique that changes layers works through `rewrite`. Nested models are spliced into the graph around them;
a layer that is shared stays shared. Imported by workers only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras

from edgecomp.errors import ModelError


@dataclass(frozen=True)
class LayerCall:
    """One use of one layer.

    Attributes:
        layer: The tf_keras layer.
        inputs: Symbolic tensors that it is called with, flat, in order.
        outputs: Symbolic tensors that it gives, flat.
        is_shared: The layer is called more than once.
    """

    layer: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    is_shared: bool


Replacement = Callable[[Any, tuple[Any, ...]], Any]
"""Called with a layer and its new inputs (flat); returns its new output, or None for a copy of the layer."""

Finish = Callable[[Any, Any], Any]
"""Called with a tensor and the new one in its place; returns what all that follows takes instead."""


def nodes_of(model: Any) -> list[Any]:
    """The nodes of a functional or built Sequential model in the order of computation, without its inputs.

    Raises:
        ModelError: The model has no graph of layers (a subclassed model, or one that was never built).
    """
    if not getattr(model, "_is_graph_network", False):
        raise ModelError(
            f"The model {model.name!r} has no graph of layers, because it is subclassed or was never built.",
            hint="Build it with the functional API, or use post-training techniques.",
        )
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def layer_calls(model: Any) -> list[LayerCall]:
    """Every use of every layer in the order of computation.

    Args:
        model: A flat model (see `flatten`): nested models count as one layer here.
    """
    nodes = nodes_of(model)
    uses = [id(node.layer) for node in nodes]
    return [
        LayerCall(
            layer=node.layer,
            inputs=tuple(node.keras_inputs),
            outputs=tuple(tf.nest.flatten(node.outputs)),
            is_shared=uses.count(id(node.layer)) > 1,
        )
        for node in nodes
    ]


def flatten(model: Any) -> Any:
    """A copy with nested models spliced in; layers and weights are copies too. Raises ModelError as `nodes_of`."""
    return rewrite(model, lambda layer, inputs: None)  # noqa: ARG005


def rewrite(model: Any, replace: Replacement, finish: Finish | None = None) -> Any:
    """A new model in which some layers are replaced; the others are copied with their weights.

    All of it can be trained, also what was frozen: a layer whose neighbours change must be able to follow.

    Args:
        model: A tf_keras functional or Sequential model. It is left as it is.
        replace: See `Replacement`. New layers that it calls must get names that are free.
        finish: See `Finish`; it gets the inputs too.

    Raises:
        ModelError: As `nodes_of`.
    """
    nodes_of(model)  # Before anything is asked of a model that has no graph.
    inputs = [
        tf_keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for tensor, name in zip(model.inputs, model.input_names, strict=True)
    ]
    copies: dict[int, Any] = {}
    names: set[str] = {tensor.node.layer.name for tensor in inputs}
    finish = finish or (lambda old, new: new)  # noqa: ARG005
    known = {id(old): finish(old, new) for old, new in zip(model.inputs, inputs, strict=True)}
    _splice(model, known, replace, finish, copies, names)
    outputs = tf.nest.map_structure(lambda tensor: known[id(tensor)], model._nested_outputs)
    structure = model._nested_inputs
    given = tf.nest.pack_sequence_as(structure, inputs) if isinstance(structure, dict) else inputs
    made = tf_keras.Model(given, outputs, name=model.name)
    made.trainable = True
    return made


def _splice(
    model: Any,
    known: dict[int, Any],
    replace: Replacement,
    finish: Finish,
    copies: dict[int, Any],
    names: set[str],
    training: bool | None = None,
) -> None:
    """Rebuild the nodes of a model; `known` maps old tensors to new ones and grows.

    `training` is what a nested model was called with: False freezes the batch normalizations in it.
    """

    def fresh_of(value: Any) -> Any:
        return known.get(id(value), value)

    for node in nodes_of(model):
        args, kwargs = tf.nest.map_structure(fresh_of, (node.call_args, node.call_kwargs))
        layer = node.layer
        if training is not None and kwargs.get("training") is None and getattr(layer, "_expects_training_arg", False):
            kwargs = {**kwargs, "training": training}
        if getattr(layer, "_is_graph_network", False):
            inner = dict(zip(map(id, layer.inputs), tf.nest.flatten(args[0]), strict=True))
            _splice(layer, inner, replace, finish, copies, names, kwargs.get("training"))
            outputs = zip(tf.nest.flatten(node.outputs), layer.outputs, strict=True)
            known |= {id(old): inner[id(tensor)] for old, tensor in outputs}
        else:
            fresh = tuple(known[id(tensor)] for tensor in node.keras_inputs)
            made = replace(layer, fresh)
            if made is None:
                if id(layer) not in copies:
                    copies[id(layer)] = copy_layer(layer, free_name(layer.name, names))
                    made = copies[id(layer)](*args, **kwargs)
                    copies[id(layer)].set_weights(layer.get_weights())
                    if isinstance(layer, tf_keras.layers.Normalization):
                        copies[id(layer)].finalize_state()  # It computes with what it makes of its weights here.
                else:
                    made = copies[id(layer)](*args, **kwargs)
            outputs = zip(tf.nest.flatten(node.outputs), tf.nest.flatten(made), strict=True)
            known |= {id(old): finish(old, new) for old, new in outputs}


def copy_layer(layer: Any, name: str | None = None) -> Any:
    """The same layer without its weights, under a name of its own."""
    config = layer.get_config()
    if name is not None:
        config["name"] = name
    return layer.__class__.from_config(config)


def free_name(wanted: str, names: set[str]) -> str:
    """`wanted`, or with the first number that makes it new; taken from then on."""
    name, number = wanted, 1
    while name in names:
        name, number = f"{wanted}_{number}", number + 1
    names.add(name)
    return name


def call_with_weights(layer: Any, inputs: Any, weights: list[Any]) -> Any:
    """Call a new layer on symbolic inputs and set its weights; returns the output."""
    outputs = layer(inputs)
    layer.set_weights(weights)
    return outputs
