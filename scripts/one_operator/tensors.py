"""Tensors with the quantization that a converter would give them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scripts.one_operator.build import NUMPY, Tensor


def words(text: str) -> tuple[str, ...]:
    """A list of names, written as a line."""
    return tuple(text.split())


SHAPE = (1, 4, 4, 8)
NUMBERS = ("FLOAT32", "INT8", "INT16", "UINT8", "INT32", "INT64")
EVERY = (*NUMBERS, "BOOL")
FLOATS_AND_QUANTIZED = ("FLOAT32", "INT8", "INT16", "UINT8")

# (scale, zero point, lowest and highest stored value that is fed): real values from about -1 to 1.
_PLAIN = {"INT8": (0.01, -5, -105, 95), "UINT8": (0.01, 120, 20, 220), "INT16": (1 / 16384, 0, -16384, 16384)}
# For functions of positive numbers: every stored value is a real value of 0 or more.
_POSITIVE = {"INT8": (0.01, -128, -100, 100), "UINT8": (0.01, 0, 28, 228), "INT16": (1 / 16384, 0, 1000, 32000)}


def feature(kind: str, shape: tuple[int, ...] = SHAPE, *, positive: bool = False) -> Tensor:
    """An activation that is fed."""
    if kind in _PLAIN:
        scale, zero_point, low, high = (_POSITIVE if positive else _PLAIN)[kind]
        return Tensor(kind, shape, scales=(scale,), zero_point=zero_point, low=low, high=high)
    if kind in ("FLOAT32", "FLOAT16", "COMPLEX64"):
        return Tensor(kind, shape, low=0.1 if positive else -1.0, high=1.0)
    return Tensor(kind, shape, low=0 if kind == "BOOL" else 1, high=1 if kind == "BOOL" else 5)


def result(kind: str, shape: tuple[int, ...] = SHAPE, *, scale: float = 0.0, zero_point: int = 0) -> Tensor:
    """An output; `scale` and `zero_point` where they are not those of `feature`."""
    made = feature(kind, shape)
    if made.scales and scale:
        return Tensor(kind, shape, scales=(scale,), zero_point=zero_point)
    return made


def constant(values: Sequence[object] | np.ndarray, kind: str = "INT32", like: Tensor | None = None) -> Tensor:
    """Data in the file; quantized as `like` is."""
    array = np.asarray(values)
    scales, zero_point = (like.scales, like.zero_point) if like is not None else ((), 0)
    return Tensor(kind, array.shape, array, scales, zero_point)


def values(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Stored values of a constant of a numeric type, always the same."""
    source = feature(kind if kind in NUMPY else "INT8", shape)
    drawn = source.low + np.random.default_rng(3).random(shape) * (source.high - source.low)
    return drawn if kind in ("FLOAT32", "FLOAT16") else np.rint(drawn).astype(np.int64)
