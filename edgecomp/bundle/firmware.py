"""model_data.h: what a firmware needs of a model for TFLM, in one C++ header."""

from __future__ import annotations

from edgecomp.files import sha256_of
from edgecomp.graph import Graph

_BYTES_PER_LINE = 16

# TFLM's MicroMutableOpResolver names its methods after the operators, with these parts written otherwise.
_WORDS = {"2D": "2D", "3D": "3D", "ND": "Nd", "LSTM": "LSTM", "V2": "V2"}
_METHODS = {
    "SVDF": "AddSvdf", "PADV2": "AddPadV2", "BATCH_MATMUL": "AddBatchMatMul", "TOPK_V2": "AddTopKV2",
    "TFLM_DECODE": "AddDecode",
}  # fmt: skip


def resolver_method(operator: str) -> str:
    """`DEPTHWISE_CONV_2D` -> "AddDepthwiseConv2D", as MicroMutableOpResolver calls it."""
    if operator in _METHODS:
        return _METHODS[operator]
    return "Add" + "".join(_WORDS.get(word, word.capitalize()) for word in operator.split("_"))


def model_header(data: bytes, graph: Graph, *, arena_bytes: int, title: str) -> bytes:
    """The header: the model as an aligned array, the size of its arena, and exactly the operators that it uses.

    Args:
        data: The .tflite.
        graph: What `read_graph` made of it.
        arena_bytes: Tensor arena to reserve.
        title: First line of the comment.
    """
    # A packed file's DECODE is a custom operator by its code, but TFLM's own.
    operators = sorted({item.code for _, item in graph.operators() if not item.is_custom or item.code in _METHODS})
    lines = [
        f"// {title}",
        f"// sha256 of the model: {sha256_of(data)}",
        "//",
        f"//   tflite::MicroMutableOpResolver<{len(operators)}> resolver;",
        "//   edgecomp_model::AddOperators(resolver);",
        "//   alignas(16) static uint8_t arena[edgecomp_model::kArenaBytes];",
        "//   tflite::MicroInterpreter interpreter(tflite::GetModel(edgecomp_model::kModel), resolver, arena,",
        "//                                        edgecomp_model::kArenaBytes);",
        "#pragma once",
        "",
        "#include <cstddef>",
        "",
        "namespace edgecomp_model {",
        "",
        "// As tflite-micro allocates it on a 64-bit host with reference kernels; a 32-bit core needs less, a kernel",
        "// library with scratch buffers (CMSIS-NN) may need more: read interpreter.arena_used_bytes() on the target.",
        f"constexpr std::size_t kArenaBytes = {arena_bytes};",
        f"constexpr std::size_t kModelBytes = {len(data)};",
        "",
        "template <typename Resolver>",
        "void AddOperators(Resolver& resolver) {",
        *(f"  resolver.{resolver_method(operator)}();" for operator in operators),
        "}",
        "",
        "alignas(16) constexpr unsigned char kModel[kModelBytes] = {",
        *_rows(data),
        "};",
        "",
        "}  // namespace edgecomp_model",
        "",
    ]
    return "\n".join(lines).encode()


def _rows(data: bytes) -> list[str]:
    return [
        "    " + ", ".join(f"0x{byte:02x}" for byte in data[start : start + _BYTES_PER_LINE]) + ","
        for start in range(0, len(data), _BYTES_PER_LINE)
    ]
