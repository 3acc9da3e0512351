"""Operators that move, select, repeat or reduce values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from scripts.one_operator.build import OneOperator, Tensor
from scripts.one_operator.elementwise import Maker
from scripts.one_operator.tensors import (
    EVERY,
    FLOATS_AND_QUANTIZED,
    NUMBERS,
    SHAPE,
    constant,
    feature,
    result,
)

_N, _H, _W, _C = SHAPE


def _with(options: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(options, name, value)
    return options


def _to(code: str, kind: str, shape: tuple[int, ...], *parameters: Tensor, options: Any = None) -> OneOperator:
    """One input, constant parameters, one output of the same quantization."""
    return OneOperator(code, [feature(kind), *parameters], [result(kind, shape)], options)


def _reshape(kind: str) -> OneOperator:
    shape = [1, _H * _W * _C]
    return _to("RESHAPE", kind, tuple(shape), constant(shape), options=_with(schema.ReshapeOptionsT(), newShape=shape))


def _squeeze(kind: str) -> OneOperator:
    return _to("SQUEEZE", kind, SHAPE[1:], options=_with(schema.SqueezeOptionsT(), squeezeDims=[0]))


def _concatenation(kind: str) -> OneOperator:
    options = _with(schema.ConcatenationOptionsT(), axis=3)
    return OneOperator("CONCATENATION", [feature(kind), feature(kind)], [result(kind, (1, _H, _W, 2 * _C))], options)


def _pack(kind: str) -> OneOperator:
    options = _with(schema.PackOptionsT(), axis=1, valuesCount=2)
    parts = [feature(kind, (1, 4, 8)), feature(kind, (1, 4, 8))]
    return OneOperator("PACK", parts, [result(kind, (1, 2, 4, 8))], options)


def _unpack(kind: str) -> OneOperator:
    options = _with(schema.UnpackOptionsT(), axis=1, num=_H)
    return OneOperator("UNPACK", [feature(kind)], [result(kind, (1, _W, _C)) for _ in range(_H)], options)


def _split(kind: str) -> OneOperator:
    options = _with(schema.SplitOptionsT(), numSplits=2)
    halves = [result(kind, (1, _H, _W, _C // 2)) for _ in range(2)]
    return OneOperator("SPLIT", [constant(3), feature(kind)], halves, options)


def _split_v(kind: str) -> OneOperator:
    parts = [result(kind, (1, _H, _W, size)) for size in (3, 5)]
    options = _with(schema.SplitVOptionsT(), numSplits=2)
    return OneOperator("SPLIT_V", [feature(kind), constant([3, 5]), constant(3)], parts, options)


def _strided_slice(kind: str) -> OneOperator:
    parameters = [constant([0, 1, 1, 0]), constant([1, 3, 3, 8]), constant([1, 1, 1, 1])]
    return _to("STRIDED_SLICE", kind, (1, 2, 2, 8), *parameters, options=schema.StridedSliceOptionsT())


def _pads() -> Tensor:
    return constant([[0, 0], [1, 1], [1, 1], [0, 0]])


def _pad_v2(kind: str) -> OneOperator:
    source = feature(kind)
    value = constant(np.asarray([source.zero_point]), kind, like=source)
    return OneOperator("PADV2", [source, _pads(), value], [result(kind, (1, 6, 6, 8))], schema.PadV2OptionsT())


def _resize(code: str, options: type, kind: str) -> OneOperator:
    return _to(code, kind, (1, 8, 8, _C), constant([8, 8]), options=_with(options(), halfPixelCenters=True))


def _reducer(code: str, kind: str) -> OneOperator:
    options = _with(schema.ReducerOptionsT(), keepDims=True)
    made = _to(code, kind, (1, 1, 1, _C), constant([1, 2]), options=options)
    if code == "SUM" and made.inputs[0].scales:
        target = result(kind, (1, 1, 1, _C), scale=made.inputs[0].scales[0] * 16, zero_point=made.inputs[0].zero_point)
        return OneOperator(code, made.inputs, [target], options)
    return made


def _arg(code: str, kind: str) -> OneOperator:
    options = schema.ArgMaxOptionsT() if code == "ARG_MAX" else schema.ArgMinOptionsT()
    options.outputType = schema.TensorType.INT32
    return OneOperator(code, [feature(kind), constant(3)], [Tensor("INT32", (1, _H, _W))], options)


def _pool(code: str, kind: str) -> OneOperator:
    options = _with(
        schema.Pool2DOptionsT(), padding=1, strideW=2, strideH=2, filterWidth=2, filterHeight=2
    )  # padding 1 is VALID
    return _to(code, kind, (1, 2, 2, _C), options=options)


def _gather(kind: str) -> OneOperator:
    return _to("GATHER", kind, (1, 2, _W, _C), constant([0, 2]), options=_with(schema.GatherOptionsT(), axis=1))


def _gather_nd(kind: str) -> OneOperator:
    return OneOperator("GATHER_ND", [feature(kind), constant([[0, 1], [0, 3]])], [result(kind, (2, _W, _C))])


def _fill(kind: str) -> OneOperator:
    return OneOperator("FILL", [constant([2, 3]), feature(kind, ())], [result(kind, (2, 3))])


def _one_hot(kind: str) -> OneOperator:
    on, off = feature(kind, ()), feature(kind, ())
    options = _with(schema.OneHotOptionsT(), axis=-1)
    indices = Tensor("INT32", (4,), low=0, high=4)
    return OneOperator("ONE_HOT", [indices, constant(5), on, off], [result(kind, (4, 5))], options)


def _top_k(kind: str) -> OneOperator:
    outputs = [result(kind, (1, 3)), Tensor("INT32", (1, 3))]
    return OneOperator("TOPK_V2", [feature(kind, (1, 16)), constant(3)], outputs)


def _scatter_nd(kind: str) -> OneOperator:
    inputs = [constant([[1], [3]]), feature(kind, (2, 4)), constant([5, 4])]
    return OneOperator("SCATTER_ND", inputs, [result(kind, (5, 4))])


def _update_slice(kind: str) -> OneOperator:
    inputs = [feature(kind), feature(kind, (1, 2, 2, _C)), constant([0, 1, 1, 0])]
    return OneOperator("DYNAMIC_UPDATE_SLICE", inputs, [result(kind)], schema.DynamicUpdateSliceOptionsT())


def _reverse_sequence(kind: str) -> OneOperator:
    options = _with(schema.ReverseSequenceOptionsT(), seqDim=1, batchDim=0)
    return _to("REVERSE_SEQUENCE", kind, SHAPE, constant([3]), options=options)


def _segments(code: str, kind: str) -> OneOperator:
    parameters = [constant([0, 0, 1])] + ([constant(2)] if code.startswith("UNSORTED") else [])
    return OneOperator(code, [feature(kind, (3, 4)), *parameters], [result(kind, (2, 4))])


def _sparse_to_dense(kind: str) -> OneOperator:
    inputs = [constant([[0], [2]]), constant([4]), feature(kind, (2,)), feature(kind, ())]
    return OneOperator("SPARSE_TO_DENSE", inputs, [result(kind, (4,))], schema.SparseToDenseOptionsT())


def _shape(kind: str) -> OneOperator:
    options = _with(schema.ShapeOptionsT(), outType=schema.TensorType.INT32)
    return OneOperator("SHAPE", [feature(kind)], [Tensor("INT32", (4,))], options)


def _diagonal(kind: str) -> OneOperator:
    return OneOperator("MATRIX_DIAG", [feature(kind, (1, 4))], [result(kind, (1, 4, 4))])


def _set_diagonal(kind: str) -> OneOperator:
    return OneOperator("MATRIX_SET_DIAG", [feature(kind, (1, 4, 4)), feature(kind, (1, 4))], [result(kind, (1, 4, 4))])


def _range(kind: str) -> OneOperator:
    bounds = [constant(value, kind) for value in (0, 6, 2)]
    return OneOperator("RANGE", bounds, [result(kind, (3,))])


def _where(_: str) -> OneOperator:
    return OneOperator("WHERE", [Tensor("BOOL", (4,), low=1)], [Tensor("INT64", (4, 1))])


def _unique(kind: str) -> OneOperator:
    options = _with(schema.UniqueOptionsT(), idxOutType=schema.TensorType.INT32)
    return OneOperator("UNIQUE", [feature(kind, (4,))], [result(kind, (4,)), Tensor("INT32", (4,))], options)


def _bucketize(kind: str) -> OneOperator:
    options = _with(schema.BucketizeOptionsT(), boundaries=[0.0, 2.0, 4.0])
    return OneOperator("BUCKETIZE", [feature(kind)], [Tensor("INT32", SHAPE)], options)


def _blocks(code: str, kind: str) -> OneOperator:
    if code == "SPACE_TO_BATCH_ND":
        return _to(code, kind, (4, 2, 2, _C), constant([2, 2]), constant([[0, 0], [0, 0]]))
    inputs = [feature(kind, (4, 2, 2, _C)), constant([2, 2]), constant([[0, 0], [0, 0]])]
    return OneOperator(code, inputs, [result(kind)])


def _cumsum(kind: str) -> OneOperator:
    source = feature(kind)
    target = result(kind, scale=source.scales[0] * 8, zero_point=source.zero_point) if source.scales else result(kind)
    return OneOperator("CUMSUM", [source, constant(3)], [target], schema.CumsumOptionsT())


def _depth(code: str, kind: str) -> OneOperator:
    if code == "SPACE_TO_DEPTH":
        return _to(code, kind, (1, 2, 2, 32), options=_with(schema.SpaceToDepthOptionsT(), blockSize=2))
    return _to(code, kind, (1, 8, 8, 2), options=_with(schema.DepthToSpaceOptionsT(), blockSize=2))


def _broadcast_args(kind: str) -> OneOperator:
    return OneOperator("BROADCAST_ARGS", [constant([1, 4], kind), constant([3, 1], kind)], [Tensor(kind, (2,))])


def _broadcast_to(kind: str) -> OneOperator:
    shape = (2, *SHAPE[1:])
    # LiteRT has no version 1 of it.
    return OneOperator("BROADCAST_TO", [feature(kind), constant(list(shape))], [result(kind, shape)], version=2)


def _rank(kind: str) -> OneOperator:
    return OneOperator("RANK", [feature(kind)], [Tensor("INT32", ())])


_REDUCERS = ("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN")

OPERATORS: Mapping[str, tuple[tuple[str, ...], Maker]] = (
    {code: (NUMBERS, partial(_reducer, code)) for code in _REDUCERS}
    | {code: (("BOOL",), partial(_reducer, code)) for code in ("REDUCE_ANY", "REDUCE_ALL")}
    | {code: (NUMBERS, partial(_arg, code)) for code in ("ARG_MAX", "ARG_MIN")}
    | {code: (FLOATS_AND_QUANTIZED, partial(_pool, code)) for code in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")}
    | {code: (EVERY, partial(_blocks, code)) for code in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")}
    | {code: (EVERY, partial(_depth, code)) for code in ("SPACE_TO_DEPTH", "DEPTH_TO_SPACE")}
    | {
        code: (("FLOAT32", "INT32"), partial(_segments, code))
        for code in ("SEGMENT_SUM", *(f"UNSORTED_SEGMENT_{what}" for what in ("PROD", "MAX", "SUM", "MIN")))
    }
    | {
        "RESIZE_BILINEAR": (NUMBERS, partial(_resize, "RESIZE_BILINEAR", schema.ResizeBilinearOptionsT)),
        "RESIZE_NEAREST_NEIGHBOR": (
            NUMBERS,
            partial(_resize, "RESIZE_NEAREST_NEIGHBOR", schema.ResizeNearestNeighborOptionsT),
        ),
        "RESHAPE": (EVERY, _reshape),
        "SQUEEZE": (EVERY, _squeeze),
        "EXPAND_DIMS": (EVERY, lambda kind: _to("EXPAND_DIMS", kind, (1, 1, *SHAPE[1:]), constant(0))),
        "TRANSPOSE": (EVERY, lambda kind: _to("TRANSPOSE", kind, (1, _C, _H, _W), constant([0, 3, 1, 2]))),
        "CONCATENATION": (EVERY, _concatenation),
        "PACK": (EVERY, _pack),
        "UNPACK": (EVERY, _unpack),
        "SPLIT": (EVERY, _split),
        "SPLIT_V": (EVERY, _split_v),
        "SLICE": (
            EVERY,
            lambda kind: _to("SLICE", kind, (1, 2, 2, 8), constant([0, 1, 1, 0]), constant([1, 2, 2, 8])),
        ),
        "STRIDED_SLICE": (EVERY, _strided_slice),
        "PAD": (EVERY, lambda kind: _to("PAD", kind, (1, 6, 6, 8), _pads(), options=schema.PadOptionsT())),
        "PADV2": (EVERY, _pad_v2),
        "MIRROR_PAD": (
            EVERY,
            lambda kind: _to("MIRROR_PAD", kind, (1, 6, 6, 8), _pads(), options=schema.MirrorPadOptionsT()),
        ),
        "TILE": (EVERY, lambda kind: _to("TILE", kind, (1, 8, 4, 8), constant([1, 2, 1, 1]))),
        "BROADCAST_TO": (EVERY, _broadcast_to),
        "BROADCAST_ARGS": (("INT32", "INT64"), _broadcast_args),
        "REVERSE_V2": (EVERY, lambda kind: _to("REVERSE_V2", kind, SHAPE, constant([1]))),
        "REVERSE_SEQUENCE": (EVERY, _reverse_sequence),
        "GATHER": (EVERY, _gather),
        "GATHER_ND": (EVERY, _gather_nd),
        "SCATTER_ND": (EVERY, _scatter_nd),
        "DYNAMIC_UPDATE_SLICE": (EVERY, _update_slice),
        "FILL": (EVERY, _fill),
        "ONE_HOT": (EVERY, _one_hot),
        "TOPK_V2": (NUMBERS, _top_k),
        "SPARSE_TO_DENSE": (EVERY, _sparse_to_dense),
        "SHAPE": (EVERY, _shape),
        "RANK": (EVERY, _rank),
        "MATRIX_DIAG": (EVERY, _diagonal),
        "MATRIX_SET_DIAG": (EVERY, _set_diagonal),
        "RANGE": (("FLOAT32", "INT32", "INT64"), _range),
        "WHERE": (("BOOL",), _where),
        "UNIQUE": (("FLOAT32", "INT32", "INT64"), _unique),
        "BUCKETIZE": (("FLOAT32", "INT32", "INT64"), _bucketize),
        "CUMSUM": (NUMBERS, _cumsum),
    }
)
