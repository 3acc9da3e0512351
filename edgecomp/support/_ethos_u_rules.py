"""Conditions of shape that Vela states for Ethos-U, for where Vela itself is not installed.

Each quotes the sentence of `vela --supported-ops-report` that it holds; a test looks it up there. The others of that
report are not held here: only Vela knows for sure.
"""

from __future__ import annotations

from collections.abc import Callable

from edgecomp.support._edgetpu_rules import last, reduced_axes
from edgecomp.support._node import Node

_VALID = 1  # Padding in the schema; 0 is SAME.
_U55_ONLY_STRIDE = "Kernel stride must be in the range (1,3)."
_LONG_STRIDE = "Stride>3 is only supported IF (dilation = 1 AND padding = VALID)"
_BATCH = "Batch must be 1."
_DEPTH = "Operation must be performed along the depth axis."
_DEPTH_SIZE = "IFM depth must be less than or equal to 127."
_SOFTMAX = "The product of IFM width and height must be less than 65536"
_UPSCALE = "  Scale-factor must be one of: 2x/4x/8x"
_UPSCALE_HALF = "    Scale-factor needs to be 2x"
_UPSCALE_PLAIN = "    Scale-factor needs to be one of: 2x/4x/8x"
_KERNEL_SAME = "    Kernel width and height must be less than or equal to 8"
_KERNEL_VALID = "    Kernel height must be less than or equal to 256."


def broken_sentence(node: Node, sentences: list[str]) -> str | None:
    """The first sentence of `sentences` that an operator does not fulfil, of those that are held here."""
    rule = _RULES.get(node.code)
    broken = () if rule is None else rule(node)
    return next((sentence.strip() for sentence in broken if sentence in sentences), None)


def _stride(x: int, y: int) -> Callable[[Node], tuple[str, ...]]:
    def rule(node: Node) -> tuple[str, ...]:
        longest = max(node.option(x, "i") or 1, node.option(y, "i") or 1)
        if longest <= 3:
            return ()
        return (_U55_ONLY_STRIDE,) if node.option(0, "b") == _VALID else (_U55_ONLY_STRIDE, _LONG_STRIDE)

    return rule


def _average_pool(node: Node) -> tuple[str, ...]:
    width, height = node.option(3, "i") or 1, node.option(4, "i") or 1
    if node.option(0, "b") == _VALID:
        return (_KERNEL_VALID,) if height > 256 else ()
    return (_KERNEL_SAME, *_stride(1, 2)(node)) if max(width, height) > 8 else _stride(1, 2)(node)


def _mean(node: Node) -> tuple[str, ...]:
    source, axes = node.input(), reduced_axes(node)
    return (_BATCH,) if source is not None and axes is not None and len(source.shape) > 1 and 0 in axes else ()


def _arg_max(node: Node) -> tuple[str, ...]:
    source = node.input()
    if source is None:
        return ()
    depth = (_DEPTH_SIZE,) if last(source) > 127 else ()
    return depth if node.axis(1, len(source.shape)) in (None, len(source.shape) - 1) else (_DEPTH, *depth)


def _softmax(node: Node) -> tuple[str, ...]:
    source = node.input()
    return (_SOFTMAX,) if source is not None and source.elements // max(last(source), 1) >= 65536 else ()


def _resize(corners: int, half: int) -> Callable[[Node], tuple[str, ...]]:
    def rule(node: Node) -> tuple[str, ...]:
        source, target = node.input(), node.output()
        if source is None or target is None or len(source.shape) != 4 or len(target.shape) != 4:
            return ()
        if source.shape == target.shape or source.shape[1:3] == (1, 1):
            return ()
        less = 1 if node.option(corners, "b") else 0
        factors = {
            (out - less) / (size - less) if size > less else 0.0
            for size, out in zip(source.shape[1:3], target.shape[1:3], strict=True)
        }
        broken = () if factors <= {2.0} else (_UPSCALE_HALF,) if node.option(half, "b") else ()
        return broken if len(factors) == 1 and factors <= {2.0, 4.0, 8.0} else (*broken, _UPSCALE, _UPSCALE_PLAIN)

    return rule


_RULES: dict[str, Callable[[Node], tuple[str, ...]]] = {
    "CONV_2D": _stride(1, 2),
    "DEPTHWISE_CONV_2D": _stride(1, 2),
    "MAX_POOL_2D": _stride(1, 2),
    "AVERAGE_POOL_2D": _average_pool,
    "MEAN": _mean,
    "ARG_MAX": _arg_max,
    "SOFTMAX": _softmax,
    "RESIZE_BILINEAR": _resize(2, 3),
    "RESIZE_NEAREST_NEIGHBOR": _resize(0, 1),
}
