"""What TFLM's DECODE operator unpacks: the three ways to code the values of one int8 tensor.

A coded tensor is a stream of bits and what its decoder needs beside it: a header of 16 bytes (DCM, "decode common
metadata": type, version, parameters) with tables behind it. Formats: tflite-micro, tensorflow/lite/micro/compression
(decode.py, lut.py) and kernels/decode_state*.h.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgecomp.pack._huffman import HuffmanCode

Kind = Literal["LUT", "HUFFMAN", "PRUNE"]

HEADER_BYTES = 16
MAX_LUT_BITS = 7
_TYPE = {"LUT": 0, "HUFFMAN": 1, "PRUNE": 2}
_ONE_TABLE = 15  # In place of the axis that has a table for each channel.


@dataclass(frozen=True)
class Code:
    """One coded tensor.

    Attributes:
        bits: Of an index (LUT); on average of a value, without tables (HUFFMAN, PRUNE).
        tables: Lookup tables of a LUT: 1, or one for each channel; 1 for the other kinds.
        encoded: The stream.
        ancillary: Header and tables.
    """

    kind: Kind
    bits: float
    tables: int
    encoded: bytes
    ancillary: bytes

    @property
    def size_bytes(self) -> int:
        """Stream, header and tables."""
        return len(self.encoded) + len(self.ancillary)


def lut_by_channel(values: np.ndarray, axis: int) -> Code | None:
    """Indices of 1 to 7 bits into one table for each channel; None where a channel has more than 128 values.

    Args:
        values: int8, any shape.
        axis: The channels: the first or the last axis, as the kernel asks.
    """
    channels = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    found = [np.unique(channel, return_inverse=True) for channel in channels]
    tables, indices = [table for table, _ in found], [index.reshape(-1) for _, index in found]
    stride = max(len(table) for table in tables)
    if stride > 1 << MAX_LUT_BITS:
        return None
    # The decoder never reads past the last table's last value.
    packed = b"".join(table.tobytes().ljust(stride, b"\0") for table in tables[:-1]) + tables[-1].tobytes()
    moved = np.stack(indices).reshape(np.moveaxis(values, axis, 0).shape)
    return _lut(np.moveaxis(moved, 0, axis), packed, len(tables), stride, axis)


def lut_shared(values: np.ndarray, channels: int) -> Code | None:
    """Indices of 1 to 7 bits into one table for all channels; None where there are more than 128 values.

    Args:
        values: int8, any shape.
        channels: Number of scales of the tensor. The decoder steps to the next table at each channel, so with more than
            one the step is 0.
    """
    table, indices = np.unique(values, return_inverse=True)
    if len(table) > 1 << MAX_LUT_BITS:
        return None
    return _lut(indices.reshape(values.shape), table.tobytes(), 1, 0 if channels > 1 else len(table), _ONE_TABLE)


def _lut(indices: np.ndarray, tables: bytes, count: int, stride: int, axis: int) -> Code:
    bits = max(int(indices.max()).bit_length(), 1)
    return Code("LUT", bits, count, pack_indices(indices, bits), _header("LUT", (axis << 4 | bits, stride)) + tables)


def pack_indices(indices: np.ndarray, bits: int) -> bytes:
    """Unsigned numbers of some bits each, one behind the other from the highest bit of the first byte on."""
    rows = np.unpackbits(indices.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]
    return np.packbits(rows.reshape(-1)).tobytes()


def prune(values: np.ndarray) -> Code:
    """A bit for each value that is not zero, and those values."""
    flat = values.reshape(-1)
    rest = flat[flat != 0]
    bits = 1 + 8 * len(rest) / max(len(flat), 1)
    return Code("PRUNE", bits, 1, np.packbits(flat != 0).tobytes(), _header("PRUNE", ()) + rest.tobytes())


def huffman(tensors: Sequence[np.ndarray]) -> list[Code]:
    """Huffman codes of several tensors with one common table."""
    code = HuffmanCode(sum((value_counts(values) for values in tensors), Counter()))
    ancillary = _header("HUFFMAN", (code.first_lookup_bits - 1 << 4,)) + code.tables()
    codes = []
    for values in tensors:
        encoded = code.encode(values)
        codes.append(Code("HUFFMAN", 8 * len(encoded) / values.size, 1, encoded, ancillary))
    return codes


def value_counts(values: np.ndarray) -> Counter[int]:
    """How often each value occurs."""
    found, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _header(kind: Kind, parameters: Sequence[int]) -> bytes:
    """Type, version of the header, two reserved bytes, version of the kind's own part, its parameters."""
    return bytes([_TYPE[kind], 1, 0, 0, 1, *parameters]).ljust(HEADER_BYTES, b"\0")
