"""Pairs of layers whose common channels can be scaled against each other without changing what the model computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgecomp.graph import Operator, Tensor
from edgecomp.repair.layers import Layer, Network

# f(s * x) = s * f(x) for s > 0, element by element.
_ELEMENTWISE = frozenset({"RELU", "LEAKY_RELU"})
_POOLING = frozenset({"MAX_POOL_2D", "AVERAGE_POOL_2D"})
_MOVING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_REDUCING = frozenset({"MEAN", "SUM"})
_PASSING = _ELEMENTWISE | _POOLING | _MOVING | _REDUCING | {"PAD"}
# These give their output the scale of their input, so nothing is rounded again.
_SAME_SCALE = _POOLING | _MOVING | {"PAD"}
_EQUIVARIANT = ("NONE", "RELU")


@dataclass(frozen=True)
class Link:
    """A layer, the next one, and how the outputs of the first arrive there.

    Attributes:
        channels: For each input feature of the second layer (last axis of its input; for a fully connected layer, an
            element of a row) the output channel of the first that it comes from.
        rounded: The tensor whose rounding the second layer sees.
        rounded_channels: The channel of the first layer for each element of the last axis of `rounded`.
    """

    first: Layer
    second: Layer
    channels: np.ndarray
    rounded: int
    rounded_channels: np.ndarray


@dataclass(frozen=True)
class Skipped:
    """A layer whose outputs stay as they are, and why."""

    layer: str
    reason: str


def find_links(network: Network) -> Iterator[Link | Skipped]:
    """Every layer's way to the next layer, or what stands in it."""
    for layer in network.layers:
        found = _follow(network, layer)
        yield Skipped(layer.name, found) if isinstance(found, str) else found


def _follow(network: Network, first: Layer) -> Link | str:
    """The way from one layer, through operators with f(s * x) = s * f(x), to the next."""
    main = network.graph.main
    if first.activation not in _EQUIVARIANT:
        return f"its {first.activation} is not the same function of scaled values"
    if network.is_shared(first.weights):
        return "another operator reads its weights"
    tensor = main.tensors[first.operator.outputs[0]]
    if not tensor.shape:
        return "its output has no channels"
    channels = np.broadcast_to(np.arange(tensor.shape[-1]), tensor.shape)
    rounded, rounded_channels = tensor, _row(channels)
    layers = {layer.operator.index: layer for layer in network.layers}
    while True:
        if tensor.index in main.outputs:
            return "its output is an output of the model"
        users = [operator for operator in main.operators if tensor.index in operator.inputs]
        if len(users) != 1:
            return f"{len(users)} operators read its output"
        user = users[0]
        if (second := layers.get(user.index)) is not None and user.inputs[0] == tensor.index:
            row = _arrive(network, second, channels)
            return row if isinstance(row, str) else Link(first, second, row, rounded.index, rounded_channels)
        tensor = main.tensors[user.outputs[0]]
        if user.code not in _PASSING:
            return f"{user.code} stands between it and the next layer"
        moved = _through(network, user, channels, tensor)
        if moved is None:
            return f"{user.code} mixes its channels, or has an activation of its own"
        channels = moved
        if user.code not in _SAME_SCALE:
            rounded, rounded_channels = tensor, _row(channels)
            if len(rounded_channels) == 0:
                return f"{user.code} is quantized with its channels not side by side"


def _through(network: Network, operator: Operator, channels: np.ndarray, result: Tensor) -> np.ndarray | None:
    """Which channel each element of the result of an operator belongs to; None where they mix."""
    if operator.code in _POOLING and network.activation(operator) not in _EQUIVARIANT:
        return None
    if operator.code in _MOVING:
        return channels.reshape(result.shape)
    if operator.code in _ELEMENTWISE:
        return channels
    # What is left works along the other axes: the last one must be the same at every position, and stay.
    row = _row(channels)
    if len(row) == 0 or result.shape[-1:] != row.shape:
        return None
    if operator.code in _REDUCING:
        axes = operator.inputs[1]
        if not network.graph.main.tensors[axes].is_constant:
            return None
        if np.isin(network.constant(axes), (-1, channels.ndim - 1)).any():
            return None
    return np.broadcast_to(row, result.shape)


def _row(channels: np.ndarray) -> np.ndarray:
    """The channels along the last axis if they are the same at every position, else nothing."""
    rows = channels.reshape(-1, channels.shape[-1])
    return rows[0] if (rows == rows[0]).all() else np.empty(0, dtype=int)


def _arrive(network: Network, second: Layer, channels: np.ndarray) -> np.ndarray | str:
    if network.is_shared(second.weights):
        return f"another operator reads the weights of the next layer, {second.name}"
    if second.code == "FULLY_CONNECTED":
        channels = channels.reshape(-1, network.graph.main.tensors[second.weights].shape[1])
    row = _row(channels)
    return row if len(row) else f"its channels do not arrive side by side at the next layer, {second.name}"
