"""What the Edge TPU asks of an operator beyond its name and types, by its published list.

Not verified with its compiler. Rules on options need the file at hand; without it they are left open.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edgecomp.graph import Tensor
from edgecomp.support._node import Node
from edgecomp.support._rewrites import Rewrite

Broken = tuple[str, Rewrite | None]
"""Why the operator is not mapped, and what would be."""

_MOST_SOFTMAX_ELEMENTS = 16_000


def broken_rule(node: Node) -> Broken | None:
    """The first rule that an operator of the list breaks, or None."""
    broken = _any_operator(node)
    rule = _RULES.get(node.code)
    return rule(node) if broken is None and rule is not None else broken


def _any_operator(node: Node) -> Broken | None:
    for tensor in node.tensors():
        if tensor.dynamic and tensor.dynamic != (0,):
            return "its shape is not fixed", Rewrite("convert with a fixed input shape", ())
        if not tensor.is_constant and len(tensor.shape) > 3 and math.prod(tensor.shape[:-3]) > 1:
            return "a tensor may have three dimensions above 1, the innermost", Rewrite("a batch of 1", ())
    return None


def _activation(node: Node, field: int) -> Broken | None:
    if not node.option(field, "b"):
        return None
    return "it has a fused activation function", Rewrite(
        "the activation as a layer of its own behind it", ((node.code, node.types), ("RELU", node.types))
    )


def _pool(node: Node) -> Broken | None:
    return _activation(node, 5)


def _concatenation(node: Node) -> Broken | None:
    if any(tensor.is_constant for tensor in node.tensors()):
        return "one of its inputs is a constant, which has to be zeros beside a single other input", None
    return _activation(node, 1)


def _dilation(x: int, y: int) -> Callable[[Node], Broken | None]:
    def rule(node: Node) -> Broken | None:
        if node.option(x, "i", 1) == node.option(y, "i", 1):
            return None
        return "its dilation differs in x and y", Rewrite("the same dilation both ways", ((node.code, node.types),))

    return rule


def _fully_connected(node: Node) -> Broken | None:
    output = node.output()
    if node.option(1, "b"):
        return "its weights are shuffled", Rewrite("convert again: weights in the default format", ())
    if output is not None and output.elements != last(output):
        return "its output has more than one dimension", Rewrite(
            "CONV_2D with a kernel of 1x1", (("CONV_2D", node.types),)
        )
    return None


def last(tensor: Tensor) -> int:
    """The innermost size; 1 for a single number."""
    return tensor.shape[-1] if tensor.shape else 1


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """The axes that a reduction goes over, from its constant or, where dimensions are kept, from its shapes."""
    source, target, axes = node.input(), node.output(), node.constant(1)
    if source is None or target is None:
        return None
    rank = len(source.shape)
    if axes is not None and rank:
        return tuple(sorted(int(axis) % rank for axis in axes.reshape(-1)))
    if rank == len(target.shape):
        return tuple(axis for axis in range(rank) if source.shape[axis] != target.shape[axis])
    return None


def _reduction(node: Node) -> Broken | None:
    source, axes = node.input(), reduced_axes(node)
    if source is None or axes is None:
        return None
    if 0 in axes and len(source.shape) > 1:
        return "it goes over the batch", None
    channels = last(source)
    if node.code == "MEAN" and len(source.shape) - 1 in axes and channels % 4:
        return f"it goes over {channels} channels, which is no multiple of 4", Rewrite(
            f"{channels + -channels % 4} channels before it", ((node.code, node.types),)
        )
    return None


def _pad(node: Node) -> Broken | None:
    sizes = node.constant(1)
    return ("it pads the batch", None) if sizes is not None and sizes.reshape(-1)[:2].any() else None


def _pack(node: Node) -> Broken | None:
    source, axis = node.input(), node.option(1, "i")
    if source is not None and axis is not None and axis % (len(source.shape) + 1) == 0:
        return "it goes along the batch", None
    return None


def _split(node: Node) -> Broken | None:
    source = node.input(1)
    if source is not None and node.axis(0, len(source.shape)) == 0:
        return "it goes along the batch", None
    return None


def _prelu(node: Node) -> Broken | None:
    slopes = node.input(1)
    if slopes is None or slopes.elements == last(slopes):
        return None
    return "it has a slope for each place", Rewrite(
        "one slope per channel: PReLU(shared_axes=[1, 2])", ((node.code, node.types),)
    )


def _softmax(node: Node) -> Broken | None:
    source = node.input()
    if source is None or (source.elements == last(source) and source.elements <= _MOST_SOFTMAX_ELEMENTS):
        return None
    return f"its input is not one-dimensional with at most {_MOST_SOFTMAX_ELEMENTS:,} elements", Rewrite(
        "leave it out and do it in the application, on the model's output", ()
    )


def _strided_slice(node: Node) -> Broken | None:
    strides = node.constant(3)
    if strides is not None and (strides != 1).any():
        return "a stride is not 1", Rewrite(
            "a pooling or a convolution with that stride", (("MAX_POOL_2D", node.types),)
        )
    if node.option(2, "i") or node.option(3, "i"):
        return "it has an ellipsis or a new axis", Rewrite("RESHAPE for the new axis", (("RESHAPE", node.types),))
    return None


_RULES: dict[str, Callable[[Node], Broken | None]] = {
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "CONCATENATION": _concatenation,
    "CONV_2D": _dilation(4, 5),
    "DEPTHWISE_CONV_2D": _dilation(5, 6),
    "FULLY_CONNECTED": _fully_connected,
    "MEAN": _reduction,
    "SUM": _reduction,
    "REDUCE_MAX": _reduction,
    "REDUCE_MIN": _reduction,
    "PAD": _pad,
    "PACK": _pack,
    "SPLIT": _split,
    "PRELU": _prelu,
    "SOFTMAX": _softmax,
    "STRIDED_SLICE": _strided_slice,
}
