"""Edge TPU: the operators that its compiler would map, by Coral's published list. Not verified with the compiler.

The compiler maps one run of operators from the start of the model. From the first that it does not take, everything
runs on the CPU, what it could have taken too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecomp.support._edgetpu_rules import broken_rule
from edgecomp.support._finding import Finding
from edgecomp.support._node import Node, nodes
from edgecomp.support._rewrites import Rewrite, nearest
from edgecomp.support._table import load_table

if TYPE_CHECKING:
    from edgecomp.graph import Graph
    from edgecomp.profile import DeviceProfile, Precision

_COMPILED = "edgetpu-custom-op"


class _EdgeTpu:
    fallback: str | None = "litert"

    def check(
        self,
        graph: Graph,
        profile: DeviceProfile,
        *,
        data: bytes | None = None,
        precision: Precision | None = None,
    ) -> list[Finding]:
        """The operators that would not be mapped, and where the mapped run ends; see `Support.check`."""
        found = nodes(graph, profile, data, precision)
        findings, mapped, first = [], 0, None
        for node in found:
            if node.operator.is_custom:
                continue
            broken = self._broken(node)
            if broken is None:
                mapped += first is None
                continue
            reason, rewrite = broken
            text = None if rewrite is None else rewrite.text
            if _is_border(node):
                findings.append(node.finding("info", reason, text))
                continue
            where = " (the first: everything after it runs on the CPU)" if first is None else ""
            first = node if first is None else first
            findings.append(node.finding("warning", reason + where, text))
        return findings if graph.main.operators and _is_compiled(graph) else [*findings, _summary(found, mapped, first)]

    def takes(self, code: str, types: str) -> bool:
        """See `Support.takes`."""
        return load_table("edgetpu").takes(code, types)

    def _broken(self, node: Node) -> tuple[str, Rewrite | None] | None:
        """Why an operator is not mapped, with the nearest change; None if it is."""
        table = load_table("edgetpu")
        if table.takes(node.code, node.types):
            broken = broken_rule(node)
            if broken is None:
                return None
            reason, rewrite = broken
            return f"not mapped to the Edge TPU: {reason}", rewrite or nearest(node, table.takes, ())
        rewrite = nearest(node, table.takes, ("INT8",))
        if node.code not in table.operators():
            return "not on the Edge TPU's list of operators", rewrite
        why = "the quantizer leaves this operator in float" if node.left_in_float else f"not {node.types}"
        return f"not mapped to the Edge TPU: it takes int8 or uint8 only, {why}", rewrite


def mapped_prefix(
    graph: Graph, profile: DeviceProfile, *, data: bytes | None = None, precision: Precision | None = None
) -> int:
    """How many operators, from the start of the model, the Edge TPU would run."""
    count = 0
    for node in nodes(graph, profile, data, precision):
        if SUPPORT._broken(node) is None:
            count += 1
        elif not _is_border(node):
            break
    return count


def _is_border(node: Node) -> bool:
    """Conversions between the application's floats and the model's integers: on the CPU, at no loss."""
    if node.code == "QUANTIZE":
        return bool(set(node.operator.inputs) & set(node.subgraph.inputs))
    if node.code == "DEQUANTIZE":
        return bool(set(node.operator.outputs) & set(node.subgraph.outputs))
    return False


def _is_compiled(graph: Graph) -> bool:
    return any(operator.code == _COMPILED for operator in graph.main.operators)


def _summary(found: list[Node], mapped: int, first: Node | None) -> Finding:
    stop = "" if first is None else f"; {first.code} is the first that it does not take"
    text = (
        f"the Edge TPU runs {mapped} of {len(found)} operators{stop} "
        "(by Coral's published list, not verified with its compiler)"
    )
    return Finding("info", "MODEL", "", text)


SUPPORT = _EdgeTpu()
