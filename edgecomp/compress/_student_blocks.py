"""Repeated blocks of a model: parts with one way in and one way out, of one shape. Imported by workers only."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import tf_keras

from edgecomp.keras_graph import LayerCall, layer_calls, rewrite

_layers = tf_keras.layers
# They belong to the block before them: normalization, activation and regularization of what it made.
_FOLLOWERS = (
    _layers.Normalization, _layers.BatchNormalization, _layers.LayerNormalization, _layers.Activation, _layers.ReLU,
    _layers.LeakyReLU, _layers.PReLU, _layers.ELU, _layers.Dropout, _layers.SpatialDropout1D, _layers.SpatialDropout2D,
)  # fmt: skip
_DEPTHWISE = (_layers.DepthwiseConv1D, _layers.DepthwiseConv2D)


@dataclass(frozen=True)
class Block:
    """Layers between two tensors, each of which alone connects what is before it with what is behind.

    Attributes:
        calls: In the order of computation.
        shape_in, shape_out: Without the batch.
        removable: Nothing but its size stands against taking it out: it is neither shared nor an output.
    """

    calls: tuple[LayerCall, ...]
    shape_in: tuple[int | None, ...]
    shape_out: tuple[int | None, ...]
    removable: bool

    @property
    def kernels(self) -> list[str]:
        """Names of its layers with weights to train beside normalization."""
        return [call.layer.name for call in self.calls if _has_kernel(call)]


def blocks(model: Any, keep_layers: Collection[str] = ()) -> list[Block]:
    """The blocks of a flat model in order, each with what normalizes and activates its result.

    A depthwise convolution and the convolution behind it are one block. Layers without weights, such as pooling, are
    blocks of their own. What lies before inputs have met, or behind the point where outputs part, is left out.

    Args:
        model: A flat tf_keras model.
        keep_layers: Names of layers that must not go.
    """
    found: list[list[LayerCall]] = []
    for segment in _segments(model):
        first = segment[0].layer
        begun = [call for call in found[-1] if _has_kernel(call)] if found else []
        follows = len(segment) == 1 and isinstance(first, _FOLLOWERS) and begun
        completes = begun and all(isinstance(call.layer, _DEPTHWISE) for call in begun) and _has_kernel(segment[0])
        if follows or completes:
            found[-1].extend(segment)
        else:
            found.append(list(segment))
    return [_block(model, calls, keep_layers) for calls in found]


def _segments(model: Any) -> list[list[LayerCall]]:
    """Calls between neighbouring tensors through which everything passes."""
    calls = layer_calls(model)
    readers: dict[int, int] = {}
    for call in calls:
        for tensor in call.inputs:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    for tensor in model.outputs:
        readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    alive = {id(tensor) for tensor in model.inputs}
    found: list[list[LayerCall]] = []
    current: list[LayerCall] = []
    is_closed = len(alive) == 1
    for call in calls:
        current.append(call)
        for tensor in call.inputs:
            readers[id(tensor)] -= 1
            if not readers[id(tensor)]:
                alive.discard(id(tensor))
        alive |= {id(tensor) for tensor in call.outputs if readers.get(id(tensor))}
        if len(alive) == 1 and id(call.outputs[0]) in alive:
            if is_closed:
                found.append(current)
            current, is_closed = [], True
    return found


def _block(model: Any, calls: list[LayerCall], keep_layers: Collection[str]) -> Block:
    ends = {id(tensor) for tensor in model.outputs}
    shape_in, shape_out = (tuple(tensor.shape[1:]) for tensor in (calls[0].inputs[0], calls[-1].outputs[0]))
    return Block(
        calls=tuple(calls),
        shape_in=shape_in,
        shape_out=shape_out,
        removable=not any(
            call.is_shared or call.layer.name in keep_layers or len(call.outputs) > 1 or id(call.outputs[0]) in ends
            for call in calls
        ),
    )


def _has_kernel(call: LayerCall) -> bool:
    return bool(call.layer.weights) and not isinstance(call.layer, _FOLLOWERS)


def repeated(found: list[Block]) -> list[list[Block]]:
    """Blocks that may be dropped, by stage.

    A stage is a run of blocks that give the same shape. Its first block stays, and so does the stem of the model, the
    first block of all, which is no stage's first: behind it one more stays.
    """
    stages: list[list[Block]] = []
    before: tuple[int | None, ...] | None = None
    has_stem = False
    for block in found:
        if not block.kernels:
            before = None
        elif not has_stem:
            has_stem = True
        else:
            if block.shape_out != before:
                stages.append([])
            stages[-1].append(block)
            before = block.shape_out
    droppable = [
        [block for block in stage[1:] if block.removable and block.shape_in == block.shape_out] for stage in stages
    ]
    return [stage for stage in droppable if stage]


def choose_dropped(stages: list[list[Block]], depth: float) -> list[Block]:
    """Blocks to drop so that a part of them stays (rounded up): the last ones of the longest stages, in their order."""
    left = [list(stage) for stage in stages]
    count = sum(map(len, stages))
    dropped = []
    for _ in range(count - math.ceil(depth * count - 1e-9)):
        # Of stages of one length the later one: its kernels are larger.
        longest = max(range(len(left)), key=lambda index: (len(left[index]), index))
        dropped.append(left[longest].pop())
    return [block for stage in stages for block in stage if any(block is item for item in dropped)]


def without(model: Any, dropped: list[Block]) -> Any:
    """A copy of a flat model in which what goes into these blocks comes out of them."""
    gone = {id(call.layer) for block in dropped for call in block.calls}

    def replace(layer: Any, inputs: tuple[Any, ...]) -> Any:
        # All that a block computes goes back to the one tensor that it reads: handed on from call to call.
        return inputs[0] if id(layer) in gone else None

    return rewrite(model, replace)
