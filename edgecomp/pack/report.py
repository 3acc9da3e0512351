"""What packing a file did, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from edgecomp.pack._codes import Kind


@dataclass(frozen=True)
class PackedTensor:
    """A weight tensor and what became of it.

    Attributes:
        tensor: Its name in the unpacked file.
        elements, channels: Number of weights, and of scales.
        values_per_channel: The most distinct values that a channel has.
        kind: How it is coded, or None where it stayed as it was.
        bits: Of a weight, without tables.
        tables: Lookup tables; 1 where all channels share one.
        before_bytes, after_bytes: The weights alone; after: stream, header and tables. A header that several tensors
            share counts for the first of them.
        reason: Why it stayed as it was, or None.
    """

    tensor: str
    elements: int
    channels: int
    values_per_channel: int
    kind: Kind | None
    bits: float
    tables: int
    before_bytes: int
    after_bytes: int
    reason: str | None = None


@dataclass(frozen=True)
class Footprint:
    """A file in the tflite-micro interpreter of this machine (64-bit structures, reference kernels).

    Attributes:
        file_bytes: In flash.
        arena_head_bytes: Activations, and weights while they are decoded; measured.
        arena_total_bytes: The whole arena, measured; `edgecomp.memory.shrink_to_32_bit` says what it is on a
            microcontroller.
        ms: Of one inference, measured on this machine: it says what decoding adds here, not how fast a device is.
    """

    file_bytes: int
    arena_head_bytes: int
    arena_total_bytes: int
    ms: float


@dataclass(frozen=True)
class FileParts:
    """Where the bytes of the packed file go.

    Attributes:
        streams: Coded weights.
        tables: Headers and lookup tables.
        plain: Weights that are not coded, and other constant data.
        biases: 32-bit biases.
        scales: Scales of weights and activations.
        structure: All else: tensors, operators, shapes, lists, padding.
    """

    streams: int
    tables: int
    plain: int
    biases: int
    scales: int
    structure: int


@dataclass(frozen=True)
class PackReport:
    """What packing changed.

    Attributes:
        before, slim, after: The file as it came; without what TFLM never reads; with coded weights too.
        samples: Real inputs on which all outputs of all three came out equal, byte by byte.
        runtime: Name and version of what ran them.
        reason: Why the file as a whole stayed as it was, or None.
    """

    before: Footprint
    slim: Footprint
    after: Footprint
    parts: FileParts
    tensors: tuple[PackedTensor, ...]
    samples: int
    runtime: str
    reason: str | None = None


@dataclass(frozen=True)
class Packed:
    """A packed file, proven equal to the file it came from."""

    data: bytes
    report: PackReport
