"""Small edits of a .tflite flatbuffer: signature, batch axis, tensor names, where weights lie. No TensorFlow.

`graph.py` reads files and checks every offset; what is edited here has been read by it before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.errors import ModelError
from edgecomp.graph import Graph, Tensor, read_graph

SIGNATURE_KEY = "serving_default"
_FLOAT_HINT = "Pass the float original: .keras, .h5, a SavedModel, or a .tflite converted without optimizations."
# What function calls leave in names of nodes.
_CALLS = ("StatefulPartitionedCall/", "PartitionedCall/")


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Aligns byte vectors to 16 as the schema asks; the plain Python builder forgets, and some kernels need it."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)


def unpack_model(data: bytes, where: str) -> Any:
    """The object tree (`ModelT`) of a .tflite file, to be edited. Data that lies behind the flatbuffer is brought in.

    Raises:
        GraphError: Damaged, cut, or not a .tflite file.
    """
    read_graph(data, where)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, dtype=np.uint8, count=buffer.size, offset=buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def inline_buffers(data: bytes) -> bytes:
    """The same file with all weights inside of the flatbuffer; files of 2 GiB, which cannot be, stay as they are.

    ai-edge-quantizer 0.10 puts them behind it from 256 KiB on. LiteRT finds them there; TFLM takes them for missing,
    runs without a complaint and answers the same whatever it is given.

    Raises:
        GraphError: Damaged, cut, or not a .tflite file.
    """
    root = schema.Model.GetRootAs(data, 0)
    if len(data) >= 1 << 31 or not any(root.Buffers(index).Offset() > 1 for index in range(root.BuffersLength())):
        return data
    return pack_model(unpack_model(data, "The model"))


def pack_model(model: Any) -> bytes:
    """The bytes of an object tree."""
    builder = _Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def set_signature(model: Any, inputs: Sequence[str], outputs: Sequence[str], *, subgraph: int = 0) -> None:
    """Give a model one signature; names in the order of the inputs and outputs of the subgraph."""
    graph = model.subgraphs[subgraph]
    entry = schema.SignatureDefT()
    entry.signatureKey, entry.subgraphIndex = SIGNATURE_KEY, subgraph
    entry.inputs = [_mapping(name, index) for name, index in zip(inputs, graph.inputs, strict=True)]
    entry.outputs = [_mapping(name, index) for name, index in zip(outputs, graph.outputs, strict=True)]
    model.signatureDefs = [entry]


def tidy_names(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Let tensor names say which layer made them.

    The tensors at the border get the names of the model's inputs and outputs (the converter calls them Identity or
    StatefulPartitionedCall). In all others what function calls and fusing add goes: prefixes, repetitions, bare
    numbers, about 6 % of the file of a SavedModel. Names stay unique: ai-edge-quantizer keeps statistics by name.
    """
    for number, graph in enumerate(model.subgraphs):
        wanted: dict[int, str] = {}
        if number == 0:
            for name, index in [*zip(inputs, graph.inputs, strict=True), *zip(outputs, graph.outputs, strict=True)]:
                wanted.setdefault(int(index), name)
        names = [wanted.get(index) or _tidy(text_of(tensor.name)) for index, tensor in enumerate(graph.tensors)]
        # The border comes first, so that it is others that get a number.
        order = sorted(range(len(names)), key=lambda index: index not in wanted)
        for index, name in zip(order, unique_names(names[index] for index in order), strict=True):
            graph.tensors[index].name = name


def _tidy(name: str) -> str:
    parts = []
    for part in name.split(";"):
        for call in _CALLS:
            part = part.replace(call, "")
        if part and not part.isdecimal():
            parts.append(part)
    return ";".join(dict.fromkeys(parts)) or name


def import_float(data: bytes, where: str) -> bytes:
    """A user's float .tflite as the pivot: checked to be float, batch 1, with a signature.

    Raises:
        ModelError: Quantized or float16, a batch that is not 1, or an input without a fixed size.
        GraphError: Damaged.
    """
    graph = read_graph(data, where)
    require_float(graph, where)
    for spec in graph.inputs:
        name = plain_name(spec.name)
        if not spec.shape:
            raise ModelError(f"{where}: input {name!r} is a single number; its first axis must be the batch.")
        if spec.shape[0] not in (1, None):
            raise ModelError(
                f"{where}: input {name!r} has a fixed batch of {spec.shape[0]}; it must be 1 or open.",
                hint="Convert the model again with batch 1.",
            )
        if None in spec.sample_shape:
            raise ModelError(
                f"{where}: input {name!r} has open sizes {spec.shape}; only the batch may be open.",
                hint="Convert the model again with a fixed input shape.",
            )
    model = unpack_model(data, where)
    for part in model.subgraphs:
        for tensor in part.tensors:
            signature = tensor.shapeSignature
            if signature is None or len(signature) == 0:
                continue
            if signature[0] == -1 and tensor.shape[0] == 1:
                signature = [1, *signature[1:]]
            # A signature that equals the shape says nothing; without it the tensor counts as fixed.
            tensor.shapeSignature = signature if -1 in signature else None
    inputs, outputs = [spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs]
    subgraph = model.signatureDefs[0].subgraphIndex if graph.has_signature else 0
    if not graph.has_signature:
        inputs, outputs = [plain_name(name) for name in inputs], [plain_name(name) for name in outputs]
    set_signature(model, unique_names(inputs), unique_names(outputs), subgraph=subgraph)
    return pack_model(model)


def require_float(graph: Graph, where: str) -> None:
    """Stop at a model whose weights or activations are not float32.

    Raises:
        ModelError: What is quantized, and how.
    """
    tensors = [tensor for part in graph.subgraphs for tensor in part.tensors]
    weights = [tensor for tensor in tensors if tensor.is_constant]
    integer = [tensor for tensor in weights if tensor.scales]
    half = [tensor for tensor in weights if tensor.type == "FLOAT16"]
    if any(spec.scale is not None for spec in graph.inputs + graph.outputs):
        what = "its inputs or outputs are quantized"
    elif any(tensor.scales and not tensor.is_constant for tensor in tensors):
        what = f"{len(integer)} of its weight tensors and its activations are quantized"
    elif integer:
        what = (
            f"{len(integer)} of its weight tensors are {integer[0].type} (for example {_example(integer[0])}) while "
            "activations are float, which is dynamic-range quantization"
        )
    elif half:
        what = f"{len(half)} of its weight tensors are FLOAT16 (for example {_example(half[0])})"
    else:
        return
    raise ModelError(f"{where}: not a float model: {what}.", hint=_FLOAT_HINT)


def _example(tensor: Tensor) -> str:
    return repr(tensor.name.split(";")[0])


def plain_name(name: str) -> str:
    """`serving_default_x:0` -> `x`."""
    return name.removeprefix("serving_default_").split(":", maxsplit=1)[0]


def unique_names(names: Iterable[str]) -> list[str]:
    """Names with _1, _2, ... after repeated ones."""
    taken: set[str] = set()
    unique = []
    for name in names:
        candidate, number = name, 0
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        unique.append(candidate)
    return unique


def text_of(name: bytes | str | None) -> str:
    """The text of a name in the object tree, which is bytes once it was unpacked."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else (name or "")


def _mapping(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry
