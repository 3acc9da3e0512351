"""Pack files for the runtime that will run them, and prove that they compute the same.

packed = pack_for_tflm(data, inputs)                 # bytes of a .tflite file -> Packed(data, report)
size = estimate_packed_bytes(graph, planned_codes)   # of the file that this would make, without making it

Names are loaded when they are first used: the planner asks for sizes without the packer's libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecomp.pack.report import Packed, PackReport
    from edgecomp.pack.size import PlannedCode, estimate_packed_bytes, huffman_bits
    from edgecomp.pack.tflm import pack_for_tflm

_HOMES = {
    "PackReport": "report",
    "Packed": "report",
    "PlannedCode": "size",
    "estimate_packed_bytes": "size",
    "huffman_bits": "size",
    "pack_for_tflm": "tflm",
}

__all__ = ["PackReport", "Packed", "PlannedCode", "estimate_packed_bytes", "huffman_bits", "pack_for_tflm"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgecomp.pack' has no attribute {name!r}")
    return getattr(import_module(f"edgecomp.pack.{_HOMES[name]}"), name)
