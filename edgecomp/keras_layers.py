"""One Keras 3 layer -> the tf_keras layer that computes the same. Imported by workers only."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from edgecomp.model import CannotRebuildError

# Configuration keys that tf_keras lacks and that do not change what a trained layer computes.
_HARMLESS = {
    "seed", "dtype", "autocast", "use_cudnn", "flash_attention", "zero_output_for_mask", "quantization_config",
    "value_range", "bounding_box_format",
}  # fmt: skip
_BASE_KEYS = {"name", "trainable", "activity_regularizer"}
# tf_keras knows these under the same name, and they compute the same (hard_sigmoid is missing: it does not).
_SAME_ACTIVATIONS = {
    "elu", "exponential", "gelu", "leaky_relu", "linear", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid",
    "softmax", "softplus", "softsign", "tanh",
}  # fmt: skip


def _hard_sigmoid(x: Any) -> Any:
    """Keras 3's hard sigmoid, relu6(x + 3) / 6; the one of tf_keras is clip(0.2 x + 0.5)."""
    return tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


def _hard_silu(x: Any) -> Any:
    return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


def _hard_tanh(x: Any) -> Any:
    return tf.clip_by_value(x, -1.0, 1.0)


def _log_sigmoid(x: Any) -> Any:
    return -tf.nn.softplus(-x)


def _tanh_shrink(x: Any) -> Any:
    return x - tf.nn.tanh(x)


# Registered, so that a layer that uses one can be cloned from its configuration (TF-MOT clones).
_OWN_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    function.__name__[1:]: tf_keras.utils.register_keras_serializable("edgecomp", f"keras3_{function.__name__[1:]}")(
        function
    )
    for function in (_hard_sigmoid, _hard_silu, _hard_tanh, _log_sigmoid, _tanh_shrink)
}


def activation_of(function: Any, where: str) -> Any:
    """The tf_keras activation (name or function) that equals a Keras 3 activation.

    Raises:
        CannotRebuildError: There is none.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if function is not getattr(keras.activations, name, None):
        raise CannotRebuildError(f"{where} uses the activation {name!r}, which is not one of Keras")
    if name in _SAME_ACTIVATIONS:
        return name
    if name == "silu":
        return "swish"
    if name in _OWN_ACTIVATIONS:
        return _OWN_ACTIVATIONS[name]
    raise CannotRebuildError(f"{where} uses the activation {name!r}, which tf_keras does not have")


def twin_of(source: Any, name: str, rebuild_model: Callable[[Any], Any]) -> Any:
    """A tf_keras layer with the configuration of a Keras 3 layer; its weights are not set.

    Args:
        source: The Keras 3 layer.
        name: Name of the new layer.
        rebuild_model: Rebuilds a model that a wrapper (TimeDistributed) holds.

    Raises:
        CannotRebuildError: tf_keras has no such layer, or lacks an option that the layer uses.
    """
    class_name = type(source).__name__
    where = f"layer {source.name!r} ({class_name})"
    if isinstance(source, keras.layers.Lambda):
        return tf_keras.layers.Lambda(source.function, arguments=source.arguments, mask=source.mask, name=name)
    is_builtin = type(source).__module__.startswith("keras.src.layers.")
    target = getattr(tf_keras.layers, class_name, None) if is_builtin else None
    if target is None:
        raise CannotRebuildError(f"tf_keras has no twin of {where}")
    if not _is_float(source):
        raise CannotRebuildError(f"{where} is stored quantized ({source.dtype_policy.name})")
    config = _translate(source, target, where, rebuild_model)
    config["name"] = name
    try:
        return target(**config)
    except (TypeError, ValueError, KeyError) as error:
        raise CannotRebuildError(f"{where} cannot be made in tf_keras: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The line that matters of a library's error, which may be a page long with colours."""
    lines = (re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines())
    # TensorFlow puts the way that a call took before what is wrong.
    useless = ("Exception encountered when calling", "in user code:", "File ", "raise ", "return ")
    return next((line for line in lines if line and not line.startswith(useless)), type(error).__name__)[:300]


def _is_float(source: Any) -> bool:
    policy = source.dtype_policy
    return getattr(policy, "quantization_mode", None) is None and not policy.name.startswith(("int8_", "int4_"))


def _translate(source: Any, target: Any, where: str, rebuild_model: Callable[[Any], Any]) -> dict[str, Any]:
    """The configuration of a layer in the words of tf_keras."""
    ours, theirs = _signature(type(source)), _signature(target)
    config = source.get_config()
    for special in (_leaky_relu, _normalization, _bidirectional):
        config = special(source, config)
    translated: dict[str, Any] = {}
    for key, value in config.items():
        if key not in theirs and key not in _BASE_KEYS:
            is_default = key not in ours or _plain(value) == _plain(ours[key]) or value in (None, "channels_last")
            if not is_default and key not in _HARMLESS:
                raise CannotRebuildError(f"{where} uses {key}={value!r}, which tf_keras does not have")
            continue
        if key == "dtype":
            continue  # Rebuilt in float32, whatever precision the training mixed in.
        if key.endswith("activation"):
            translated[key] = activation_of(getattr(source, key, None) or keras.activations.get(value), where)
        elif key in ("layer", "backward_layer", "cell"):
            is_forward = key == "layer" and isinstance(source, keras.layers.Bidirectional)
            translated[key] = _inner(getattr(source, "forward_layer" if is_forward else key), rebuild_model)
        elif key == "cells":
            translated[key] = [_inner(cell, rebuild_model) for cell in source.cells]
        elif isinstance(value, dict) and "class_name" in value:
            replacement = _object(key, value, where)
            if replacement is not None:
                translated[key] = replacement
        else:
            translated[key] = value
    return translated


def _inner(source: Any, rebuild_model: Callable[[Any], Any]) -> Any:
    if isinstance(source, keras.Model):
        return rebuild_model(source)
    # tf_keras' Bidirectional adds the prefix itself.
    return twin_of(source, source.name.removeprefix("forward_").removeprefix("backward_"), rebuild_model)


def _object(key: str, value: dict[str, Any], where: str) -> dict[str, Any] | None:
    """A serialized initializer, regularizer or constraint; None where the default will do."""
    family = next((name for name in ("initializer", "regularizer", "constraint") if key.endswith(name)), None)
    if family is None:
        raise CannotRebuildError(f"{where} holds a {value['class_name']} as {key}, which cannot be carried over")
    target = getattr(getattr(tf_keras, f"{family}s"), value["class_name"], None)
    if target is None:
        if family == "initializer":
            return None  # The trained weights replace whatever it would make.
        raise CannotRebuildError(f"{where} uses the {family} {value['class_name']}, which tf_keras does not have")
    known = _signature(target)
    return {
        "class_name": value["class_name"],
        "config": {name: item for name, item in value["config"].items() if name in known},
    }


def _leaky_relu(source: Any, config: dict[str, Any]) -> dict[str, Any]:
    if isinstance(source, keras.layers.LeakyReLU):
        config["alpha"] = config.pop("negative_slope")
    return config


def _normalization(source: Any, config: dict[str, Any]) -> dict[str, Any]:
    # tf_keras counts the samples it has seen as a third weight; fixed statistics need none.
    if isinstance(source, keras.layers.Normalization) and source.input_mean is None:
        config["mean"] = np.asarray(source.adapt_mean.numpy())
        config["variance"] = np.asarray(source.adapt_variance.numpy())
    return config


def _bidirectional(source: Any, config: dict[str, Any]) -> dict[str, Any]:
    if isinstance(source, keras.layers.Bidirectional):
        forward, backward = dict(config["layer"]["config"]), dict(config["backward_layer"]["config"])
        for options in (forward, backward):
            options.pop("name"), options.pop("go_backwards")
        # Keras 3 always writes it; tf_keras makes the usual one itself, and names it well.
        if _plain(forward) == _plain(backward):
            config.pop("backward_layer")
    return config


def _signature(target: Any) -> dict[str, Any]:
    """Option -> default, over all constructors of a class."""
    options: dict[str, Any] = {}
    for base in inspect.getmro(target):
        if "__init__" in vars(base):
            for option in inspect.signature(vars(base)["__init__"]).parameters.values():
                if option.kind not in (option.VAR_POSITIONAL, option.VAR_KEYWORD) and option.name != "self":
                    options.setdefault(option.name, option.default)
    return options


def _plain(value: Any) -> Any:
    """Lists as tuples, and no shared object numbers, to compare options that went through a file."""
    if isinstance(value, list | tuple):
        return tuple(_plain(member) for member in value)
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items() if key != "shared_object_id"}
    return value
