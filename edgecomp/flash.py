"""What a model takes in flash or storage: its bytes, compressed for an update, and the code that runs it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from edgecomp.graph import Graph

_ALIGNMENT_BYTES = 16

# Code of TFLM on a Cortex-M with -O2, in bytes: interpreter, memory planner, flatbuffer reader; then every operator
# that is registered. Totals to hold them against: TFLM's core is given as 16 KB on a Cortex-M3 (TFLM documentation),
# and a firmware with CMSIS-NN, newlib and a small CNN links to 128 kB on a Cortex-M4.
_TFLM_CORE_BYTES = 24_000
_TFLM_OPERATOR_BYTES = {
    "CONV_2D": 14_000, "DEPTHWISE_CONV_2D": 14_000, "TRANSPOSE_CONV": 9_000, "FULLY_CONNECTED": 9_000,
    "ADD": 5_000, "MUL": 4_000, "SOFTMAX": 6_000, "AVERAGE_POOL_2D": 4_000, "MAX_POOL_2D": 4_000, "MEAN": 5_000,
    "RESHAPE": 500, "QUANTIZE": 3_000, "DEQUANTIZE": 1_500, "UNIDIRECTIONAL_SEQUENCE_LSTM": 20_000,
}  # fmt: skip
_TFLM_OTHER_OPERATOR_BYTES = 3_000

CODE_MARGIN_RATIO = 0.5
"""How far the estimate of code may be off: compilers, options and kernel libraries differ that much."""


@dataclass(frozen=True)
class FlashReport:
    """Bytes of a model on its way to a device.

    Attributes:
        raw_bytes: The file.
        compressed_bytes: Deflated, as for an over-the-air update; the device still stores the raw bytes.
        on_target_bytes: The file, aligned as a constant array must be.
        code_bytes: Estimated code of the runtime and of the model's operators; None where the runtime is a library
            of the system.
    """

    raw_bytes: int
    compressed_bytes: int
    on_target_bytes: int
    code_bytes: int | None


def flash_report(data: bytes, graph: Graph, *, runs_tflm: bool) -> FlashReport:
    """Measure a file and estimate the code that it needs."""
    code = None
    if runs_tflm:
        used = {operator.code for _, operator in graph.operators()}
        code = _TFLM_CORE_BYTES + sum(_TFLM_OPERATOR_BYTES.get(name, _TFLM_OTHER_OPERATOR_BYTES) for name in used)
    return FlashReport(
        raw_bytes=len(data),
        compressed_bytes=len(zlib.compress(data, 9)),
        on_target_bytes=-(-len(data) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES,
        code_bytes=code,
    )
