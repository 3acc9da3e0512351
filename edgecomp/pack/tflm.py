"""Pack an INT8 .tflite file for TensorFlow Lite Micro: code the weights, drop what is never read, prove it equal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from edgecomp.graph import read_graph
from edgecomp.memory import TFLM, estimate_arena, plan_memory
from edgecomp.pack._codes import Code, Kind
from edgecomp.pack._decode import DECODE, Key, insert_decode, join_decodes
from edgecomp.pack._proof import Witness, runtime_name, witness
from edgecomp.pack.report import FileParts, Packed, PackedTensor, PackReport
from edgecomp.pack.tflm_lut import KINDS, Weights, find_weights, smallest_codes
from edgecomp.pack.tflm_slim import bias_input, slim, write
from edgecomp.tflite_edit import inline_buffers, text_of, unpack_model

# A coded tensor that saves less than this by count is written both ways: only the file says what surrounds it.
_NARROW_BYTES = 256
_NO_GAIN = "it would not get smaller"


def pack_for_tflm(
    data: bytes,
    inputs: Mapping[str, np.ndarray],
    *,
    kinds: Collection[Kind] = KINDS,
    arena_limit_bytes: int | None = None,
) -> Packed:
    """The smallest file that tflite-micro proves equal to `data`, output by output.

    Weights whose file is not equal, or not smaller, stay as they are, with the reason in the report; where even the
    file without coded weights is not equal, it comes back as it was. LiteRT does not run packed files.

    Args:
        data: Bytes of a .tflite file that TFLM runs. Weights behind its flatbuffer, where TFLM finds none, are brought
            in first.
        inputs: Real values by input name, each of shape (n, *sample_shape); the proof is for these n.
        kinds: Codes that may be used. Without any the file is only slimmed, which costs neither arena nor time.
        arena_limit_bytes: Of a microcontroller's arena, as `estimate_arena` has it. Weights whose decoding would take
            it above stay as they are; None: no limit.

    Raises:
        PackingError: tflite-micro is not installed, or the file is of a kind that cannot be packed.
        MissingDataError: No inputs.
        RuntimeRefusedError: TFLM does not run the file to begin with.
        GraphError: Damaged.
    """
    read_graph(data, "The file")
    data = inline_buffers(data)
    weights = find_weights(unpack_model(data, "The file"))
    slimmed = write_packed(data, {})
    proof = witness(data, inputs)
    before = proof.footprint(data)
    objection = proof.objection(slimmed)
    if objection is not None:
        reason = f"without what TFLM never reads, {objection}"
        rows = tuple(_row(item, None, "the file stays as it was") for item in weights)
        report = PackReport(before, before, before, _parts(data), rows, proof.samples, runtime_name(), reason)
        return Packed(data, report)
    codes = smallest_codes(weights, kinds)
    reasons = {item.key: item.reason or _NO_GAIN for item in weights if item.key not in codes}
    if arena_limit_bytes is not None:
        codes, left_out = _within_arena(data, weights, codes, arena_limit_bytes)
        reasons |= left_out
    codes, left_out = _proven(data, _worthwhile(data, weights, codes), proof)
    reasons |= left_out
    packed = write_packed(data, codes)
    slim_footprint = proof.footprint(slimmed)
    report = PackReport(
        before=before,
        slim=slim_footprint,
        after=proof.footprint(packed) if codes else slim_footprint,
        parts=_parts(packed),
        tensors=_rows(weights, codes, reasons),
        samples=proof.samples,
        runtime=runtime_name(),
    )
    return Packed(packed, report)


def write_packed(data: bytes, codes: Mapping[Key, Code]) -> bytes:
    """The slimmed file with these tensors coded; nothing is proven.

    Args:
        data: Bytes of a .tflite file.
        codes: By subgraph and tensor of that file.

    Raises:
        GraphError: Damaged.
        PackingError: The file is of a kind that cannot be packed.
    """
    model = unpack_model(data, "The file")
    insert_decode(model, codes)
    slim(model)
    if len(codes) > 1 and len(model.subgraphs) == 1:
        join_decodes(model, read_graph(write(model)))
    return write(model)


def _within_arena(
    data: bytes, weights: Sequence[Weights], codes: dict[Key, Code], limit_bytes: int
) -> tuple[dict[Key, Code], dict[Key, str]]:
    """Codes whose decoding the arena has room for, and why the others are left out."""

    def fits(some: Mapping[Key, Code]) -> bool:
        return estimate_arena(read_graph(write_packed(data, some))).total_bytes <= limit_bytes

    saved = {item.key: item.values.size - codes[item.key].size_bytes for item in weights if item.key in codes}
    kept, out = dict(codes), []
    for key in _by_need(data, weights):
        if key in kept and not fits(kept):
            out.append((key, kept.pop(key)))
    # What fills the arena most need not be what has to go.
    for key, code in sorted(out, key=lambda item: saved[item[0]], reverse=True):
        if fits(kept | {key: code}):
            kept[key] = code
    reason = f"decoding it would take the arena above {limit_bytes:,} bytes"
    return kept, {key: reason for key, _ in out if key not in kept}


def _by_need(data: bytes, weights: Sequence[Weights]) -> list[Key]:
    """Tensors by what the arena must hold while they are read decoded, most first."""
    graph = read_graph(data)
    live = plan_memory(graph, TFLM).live_bytes
    need: dict[Key, int] = {}
    for item in weights:
        number, index = item.key
        steps = [step for step, by in enumerate(graph.subgraphs[number].operators) if index in by.inputs]
        need[item.key] = item.values.size + max((live[step] for step in steps if number == 0), default=0)
    return sorted(need, key=need.__getitem__, reverse=True)


def _proven(data: bytes, codes: dict[Key, Code], proof: Witness) -> tuple[dict[Key, Code], dict[Key, str]]:
    """Codes that together are equal, and what speaks against the others."""
    if not codes or proof.objection(write_packed(data, codes)) is None:
        return codes, {}
    # One by one, so that the guilty stay out and the others do not suffer for it.
    proven: dict[Key, Code] = {}
    reasons = {}
    for key, code in codes.items():
        objection = proof.objection(write_packed(data, proven | {key: code}))
        if objection is None:
            proven[key] = code
        else:
            reasons[key] = f"coded as {code.kind}, {objection}"
    return proven, reasons


def _worthwhile(data: bytes, weights: Sequence[Weights], codes: dict[Key, Code]) -> dict[Key, Code]:
    """Without tensors whose code makes the written file no smaller."""
    for item in weights:
        code = codes.get(item.key)
        if code is None or item.values.size - code.size_bytes >= _NARROW_BYTES:
            continue
        without = {key: other for key, other in codes.items() if key != item.key}
        if len(write_packed(data, without)) <= len(write_packed(data, codes)):
            codes = without
    return codes


def _rows(
    weights: Sequence[Weights], codes: Mapping[Key, Code], reasons: Mapping[Key, str]
) -> tuple[PackedTensor, ...]:
    rows: list[PackedTensor] = []
    headers: set[bytes] = set()
    for item in weights:
        code = codes.get(item.key)
        rows.append(_row(item, code, None if code else reasons.get(item.key, _NO_GAIN), headers))
        if code is not None:
            headers.add(code.ancillary)
    return tuple(rows)


def _row(item: Weights, code: Code | None, reason: str | None, headers: Collection[bytes] = ()) -> PackedTensor:
    size = int(item.values.size)
    after = size
    if code is not None:
        after = len(code.encoded) + (0 if code.ancillary in headers else len(code.ancillary))
    return PackedTensor(
        tensor=item.name,
        elements=size,
        channels=item.channels,
        values_per_channel=item.values_per_channel,
        kind=None if code is None else code.kind,
        bits=8 if code is None else code.bits,
        tables=0 if code is None else code.tables,
        before_bytes=size,
        after_bytes=after,
        reason=reason,
    )


def _parts(data: bytes) -> FileParts:
    """Where the bytes of a file go."""
    model = unpack_model(data, "The file")
    role: dict[int, str] = {}
    scales: set[bytes] = set()
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            inputs = [] if operator.inputs is None else list(map(int, operator.inputs))
            if text_of(code.customCode) == DECODE:
                roles = dict(zip(inputs, ["streams", "tables"] * (len(inputs) // 2), strict=True))
            else:
                bias = bias_input(code, inputs)
                roles = {} if bias is None else {bias: "biases"}
            role |= {subgraph.tensors[index].buffer: name for index, name in roles.items()}
        quantized = [tensor.quantization for tensor in subgraph.tensors if tensor.quantization is not None]
        scales |= {np.asarray(item.scale).tobytes() for item in quantized if item.scale is not None}
    sizes = dict.fromkeys(("streams", "tables", "plain", "biases"), 0)
    for number, buffer in enumerate(model.buffers):
        sizes[role.get(number, "plain")] += 0 if buffer.data is None else len(buffer.data)
    scale_bytes = sum(map(len, scales))
    return FileParts(**sizes, scales=scale_bytes, structure=len(data) - sum(sizes.values()) - scale_bytes)
