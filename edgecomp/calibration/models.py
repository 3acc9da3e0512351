"""The models that a board is calibrated with: chains of one kind of operator, and small networks of several.

Their weights come from a seeded generator. They classify nothing and hold no one's data: only shapes and types count.
A chain takes long enough for the clock and repeats its operator often enough that what it costs stands apart from the
fixed cost of an inference. The networks are of the usual families (separable, residual, dense, one-dimensional), so
that an operator is also met between others, where its input is warm in the cache and its kernels are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from ai_edge_litert import schema_py_generated as schema

from edgecomp.calibration.layers import Dtype, Layers

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
Build = Callable[[Dtype], Layers]


def calibration_models(dtypes: Sequence[Dtype] = DTYPES) -> dict[str, bytes]:
    """Every model as a .tflite file, by a name that ends in its dtype: "depthwise 25x5x64, int8"."""
    builds = {**CHAINS, **NETWORKS}
    return {model_name(name, dtype): build(dtype).build() for dtype in dtypes for name, build in builds.items()}


def model_name(name: str, dtype: str) -> str:
    """The name of a model at a dtype."""
    return f"{name}, {dtype}"


def _chain(shape: tuple[int, ...], count: int, step: Callable[[Layers], Layers]) -> Build:
    def build(dtype: Dtype) -> Layers:
        made = Layers(dtype, shape)
        for _ in range(count):
            step(made)
        return made

    return build


def _widths(shape: tuple[int, int, int], kernel: int, widths: Sequence[int]) -> Build:
    def build(dtype: Dtype) -> Layers:
        made = Layers(dtype, shape)
        for width in widths:
            made.conv(width, kernel)
        return made

    return build


def _dense(units: Sequence[int]) -> Build:
    def build(dtype: Dtype) -> Layers:
        made = Layers(dtype, (units[0],))
        for width in units[1:]:
            made.dense(width)
        return made

    return build


def _many_adds(dtype: Dtype) -> Layers:
    made = Layers(dtype, (32, 32, 16))
    first = made.x
    for _ in range(12):
        made.add(first)
    return made


def _mixed_elementwise(dtype: Dtype) -> Layers:
    made = Layers(dtype, (16, 16, 24))
    for _ in range(2):
        made.unary("LOGISTIC").binary("MUL", schema.MulOptionsT()).unary("HARD_SWISH")
        made.binary("SUB", schema.SubOptionsT()).unary("TANH")
    return made


def _pools(code: str, shape: tuple[int, int, int], count: int) -> Build:
    return _chain(shape, count, lambda made: made.pool(code, (2, 2)))


def _global_pools(dtype: Dtype) -> Layers:
    """Windows as large as what they average, next to convolutions: at int8 they interrupt the delegate."""
    made = Layers(dtype, (24, 10, 48))
    for size in ((4, 5), (6, 2)):
        made.pool("AVERAGE_POOL_2D", size).conv(48)
    return made


def _inverted(dtype: Dtype) -> Layers:
    made = Layers(dtype, (40, 40, 3)).conv(16, 3, 2)
    for _ in range(2):
        source = made.x
        made.conv(64).depthwise().conv(16).add(source)
    made.conv(64).depthwise(3, 2).conv(24)
    for _ in range(2):
        source = made.x
        made.conv(96).depthwise().conv(24).add(source)
    return made.conv(128).mean().dense(30).softmax()


def _autoencoder(dtype: Dtype) -> Layers:
    made = Layers(dtype, (320,))
    for width in (96, 96, 16, 96, 96, 320):
        made.dense(width)
    return made


def _separable(dtype: Dtype) -> Layers:
    made = Layers(dtype, (48, 48, 3), float_io=True).conv(12, 3, 2)
    for width, stride in ((24, 2), (24, 1), (48, 2), (48, 1), (80, 1)):
        made.depthwise(3, stride).conv(width)
    return made.mean().dense(20).softmax()


def _spectrogram(dtype: Dtype) -> Layers:
    made = Layers(dtype, (40, 12, 1)).conv(40, (8, 4), 2)
    for _ in range(3):
        made.depthwise().conv(40)
    return made.pool("AVERAGE_POOL_2D", (20, 6)).flatten().dense(8).softmax()


def _residual(dtype: Dtype) -> Layers:
    made = Layers(dtype, (24, 24, 3)).conv(24, 3)
    for width, stride in ((24, 1), (40, 2)):
        source = made.x
        body = made.conv(width, 3, stride).conv(width, 3).x
        if stride > 1:
            made.x = source
            made.conv(width, 1, stride)
        else:
            made.x = source
        made.add(body)
    return made.pool("AVERAGE_POOL_2D", (12, 12)).flatten().dense(12).softmax()


def _digits(dtype: Dtype) -> Layers:
    made = Layers(dtype, (20, 20, 1), float_io=True).conv(6, 5).pool("MAX_POOL_2D", (2, 2))
    made.conv(20, 5).pool("MAX_POOL_2D", (2, 2))
    return made.flatten().dense(60).dense(26).softmax()


def _series(dtype: Dtype) -> Layers:
    made = Layers(dtype, (1, 96, 4), float_io=True)
    for width in (24, 40, 56):
        made.conv(width, (1, 5)).pool("MAX_POOL_2D", (1, 2))
    return made.mean().dense(7).softmax()


NETWORKS: Mapping[str, Build] = {
    "separable network": _separable,
    "inverted residual network": _inverted,
    "autoencoder network": _autoencoder,
    "spectrogram network": _spectrogram,
    "residual network": _residual,
    "digits network": _digits,
    "series network": _series,
}
"""Each is also left out of the fit once, to see how well the others predict it."""

CHAINS: Mapping[str, Build] = {
    "pointwise 14x14, 64 and 112": _widths((14, 14, 64), 1, (112, 64, 112)),
    "pointwise 7x7x256": _widths((7, 7, 256), 1, (256, 256)),
    "pointwise 28x28, 16 and 24": _widths((28, 28, 16), 1, (24, 16, 24, 16)),
    "pointwise 4x4x32": _widths((4, 4, 32), 1, (32,) * 24),
    "convolution 3x3 on 32x32x16": _widths((32, 32, 16), 3, (16, 16)),
    "convolution 3x3 on 8x8x64": _widths((8, 8, 64), 3, (64, 64)),
    "convolution 3x3 on 4x4x16": _widths((4, 4, 16), 3, (16,) * 12),
    "convolution 5x5 on 40x40x1": _widths((40, 40, 1), 5, (16,)),
    "depthwise 3x3 on 24x6x64": _chain((24, 6, 64), 6, Layers.depthwise),
    "depthwise 3x3 on 48x48x16": _chain((48, 48, 16), 2, Layers.depthwise),
    "depthwise 5x5 on 7x7x192": _chain((7, 7, 192), 4, lambda made: made.depthwise(5)),
    "depthwise 3x3 on 4x4x24": _chain((4, 4, 24), 24, Layers.depthwise),
    "dense 32": _dense((32,) * 25),
    "dense 784 to 256": _dense((784, 256, 784)),
    "add 32x32x16": _many_adds,
    "elementwise 16x16x24": _mixed_elementwise,
    "max pool 64x64x16": _pools("MAX_POOL_2D", (64, 64, 16), 4),
    "average pool 32x32x24": _pools("AVERAGE_POOL_2D", (32, 32, 24), 3),
    "average pool, wide": _global_pools,
    "mean 40x40x32": lambda dtype: Layers(dtype, (40, 40, 32)).mean(),
    "softmax 40": _chain((40,), 16, Layers.softmax),
}
