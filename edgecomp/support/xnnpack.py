"""XNNPACK beneath LiteRT: which operators it takes. What it leaves runs on LiteRT's built-in kernels, slower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecomp.graph import operator_macs
from edgecomp.support._by_table import by_table
from edgecomp.support._finding import Finding, Severity
from edgecomp.support._node import Node, nodes
from edgecomp.support._table import load_table

if TYPE_CHECKING:
    from edgecomp.graph import Graph
    from edgecomp.profile import DeviceProfile, Precision


class _Xnnpack:
    fallback: str | None = "litert"

    def check(
        self,
        graph: Graph,
        profile: DeviceProfile,
        *,
        data: bytes | None = None,
        precision: Precision | None = None,
    ) -> list[Finding]:
        """What XNNPACK leaves to the built-in kernels, and how much it takes; see `Support.check`."""
        table = load_table("xnnpack")
        found = nodes(graph, profile, data, precision)
        findings = by_table(found, table, _severity, precisions=("INT8",), application=False)
        left = {finding.position for finding in findings}
        for node in found:
            reason = None if node.position in left else _beyond_types(node)
            if reason is not None:
                findings.append(node.finding("info", f"XNNPACK leaves it to the built-in kernels: {reason}"))
        left = {finding.position for finding in findings}
        findings += _unpacking_for_others(found, left)
        left = {finding.position for finding in findings}
        text = f"XNNPACK takes {len(found) - len(left)} of {len(found)} operators, by what {table.asked} said of each"
        return [*findings, Finding("info", "MODEL", "", text)]

    def takes(self, code: str, types: str) -> bool:
        """See `Support.takes`."""
        return load_table("xnnpack").takes(code, types)


def _beyond_types(node: Node) -> str | None:
    """What no table of types says."""
    if node.code == "STRIDED_SLICE":
        strides = node.constant(3)
        if strides is not None and (strides != 1).any():
            return "a stride is not 1"
        # The masks of ellipsis, new axis and dropped axis.
        if any(node.option(field, "i") for field in (2, 3, 4)):
            return "it adds or drops an axis"
    return None


def _unpacking_for_others(found: list[Node], left: set[int]) -> list[Finding]:
    """XNNPACK unpacks weights for its own operators only."""
    needed = {
        (id(node.subgraph), index) for node in found if node.position not in left for index in node.operator.inputs
    }
    return [
        node.finding("info", "it unpacks weights for operators that XNNPACK leaves")
        for node in found
        if node.code == "DEQUANTIZE"
        and node.position not in left
        and (source := node.input()) is not None
        and source.is_constant
        and not any((id(node.subgraph), index) in needed for index in node.operator.outputs)
    ]


def _severity(node: Node) -> Severity:
    """Where the work is, a slow kernel costs: the rest is worth knowing, no more."""
    return "warning" if operator_macs(node.subgraph, node.operator) else "info"


SUPPORT = _Xnnpack()
