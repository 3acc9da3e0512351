"""What a layer costs, whole or in factors: multiply-accumulates, bytes at INT8, and estimated time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgecomp.compress._factorize import Method
from edgecomp.compress._footprint import packs_codebooks
from edgecomp.cost import estimate
from edgecomp.cost_families import family_of
from edgecomp.cost_work import OperatorWork, WorkKind
from edgecomp.profile import DeviceProfile, Precision

Size = tuple[int, int]

# Bytes of a further operator in an INT8 file beside its weights (output tensor, buffers, lists, names), and of each of
# its output channels (bias, scales, zero points), by (is a matrix product, has a bias of its own). Measured on files of
# ai-edge-quantizer 0.10, as they are and as edgecomp.pack slims them for TFLM; tests/test_low_rank.py checks the sums.
_AS_QUANTIZED = {(False, False): (424, 28), (False, True): (616, 28), (True, False): (296, 12), (True, True): (448, 28)}
_SLIMMED = {(False, False): (184, 8), (False, True): (184, 8), (True, False): (160, 4), (True, True): (200, 8)}
_BIAS_BYTES = 4


@dataclass(frozen=True)
class Geometry:
    """Where a layer is used.

    Attributes:
        kernel: Height, width, in, out.
        calls: Size (height, width) of its input and of its output, for every call.
        is_dense: A matrix product rather than a convolution.
        has_bias: Of its own.
    """

    kernel: tuple[int, int, int, int]
    calls: tuple[tuple[Size, Size], ...]
    is_dense: bool
    has_bias: bool


@dataclass(frozen=True)
class Operator:
    """One operator that a layer becomes. The channels may be arrays: then so is everything that follows from them.

    Attributes:
        height, width, inputs, outputs: Of its kernel.
        calls: As in `Geometry`.
        has_bias: Of its own; a convolution without one stores zeros, a matrix product nothing.
    """

    height: int
    width: int
    inputs: Any
    outputs: Any
    calls: tuple[tuple[Size, Size], ...]
    is_dense: bool
    has_bias: bool

    @property
    def weights(self) -> Any:
        """Entries of its kernel."""
        return self.height * self.width * self.inputs * self.outputs

    @property
    def macs(self) -> Any:
        """Over all calls."""
        return self.weights * sum(height * width for _, (height, width) in self.calls)

    def file_bytes(self, profile: DeviceProfile | None) -> Any:
        """What it adds to the INT8 file that the device gets; without a profile its weights and biases alone."""
        if profile is None:
            return self.weights + _BIAS_BYTES * self.outputs
        table = _SLIMMED if packs_codebooks(profile) else _AS_QUANTIZED
        once, a_channel = table[self.is_dense, self.has_bias]
        return self.weights + a_channel * self.outputs + once


def operators(geometry: Geometry, method: Method | None = None, ranks: Sequence[Any] = ()) -> list[Operator]:
    """The layer as it is (no method), or its factors in order; ranks may be arrays of one shape."""
    height, width, inputs, outputs = geometry.kernel
    before = tuple((source, source) for source, _ in geometry.calls)
    after = tuple((result, result) for _, result in geometry.calls)
    # The height is convolved first: its strides have been taken when the width is.
    between = tuple((result[0], source[1]) for source, result in geometry.calls)
    whole, dense, bias = geometry.calls, geometry.is_dense, geometry.has_bias
    if method is None:
        return [Operator(height, width, inputs, outputs, whole, dense, bias)]
    if method == "svd":
        return [
            Operator(height, width, inputs, ranks[0], whole, dense, False),
            Operator(1, 1, ranks[0], outputs, after, dense, bias),
        ]
    if method == "spatial":
        into = tuple((source, middle) for (source, _), middle in zip(whole, between, strict=True))
        out_of = tuple((middle, result) for (_, result), middle in zip(whole, between, strict=True))
        return [
            Operator(height, 1, inputs, ranks[0], into, dense, False),
            Operator(1, width, ranks[0], outputs, out_of, dense, bias),
        ]
    return [
        Operator(1, 1, inputs, ranks[0], before, dense, False),
        Operator(height, width, ranks[0], ranks[1], whole, dense, False),
        Operator(1, 1, ranks[1], outputs, after, dense, bias),
    ]


def latency_ms(parts: Sequence[Operator], profile: DeviceProfile | None) -> float | None:
    """Estimated time of operators on one core, None where the device has no cost model for them."""
    family = None if profile is None else family_of(profile)[0]
    if profile is None or family is None:
        return None
    core, _ = family.core(profile.cpu.core, profile.cpu.architecture)
    is_integer = Precision.INT8 in profile.precisions.supported
    work = [_work(part, call, is_integer) for part in parts for call in part.calls]
    result, _ = estimate(work, family, core, profile.cpu.clock_hz)
    return None if result is None else result.value_ms


def _work(part: Operator, call: tuple[Size, Size], is_integer: bool) -> OperatorWork:
    (in_height, in_width), (out_height, out_width) = call
    positions = out_height * out_width
    kind: WorkKind = "pointwise" if positions > 1 else "dense"
    if part.height * part.width > 1:
        kind = "convolution"
    read, written = in_height * in_width * part.inputs, positions * part.outputs
    return OperatorWork(
        layer="",
        code="FULLY_CONNECTED" if part.is_dense else "CONV_2D",
        kind=kind,
        dtype="int8" if is_integer else "float32",
        macs=part.weights * positions,
        outputs=written,
        channels=part.outputs,
        elements=max(read, written),
        bytes=(part.weights + read + written) * (1 if is_integer else 4) + part.outputs * _BIAS_BYTES,
        taps=part.height * part.width,
    )
