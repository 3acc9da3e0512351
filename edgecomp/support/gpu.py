"""TFLite's GPU delegate, by its published list of operators. It is not asked: it needs a phone's GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecomp.support._finding import Finding
from edgecomp.support._node import Node, nodes
from edgecomp.support._rewrites import nearest
from edgecomp.support._table import Table, load_table

if TYPE_CHECKING:
    from edgecomp.graph import Graph
    from edgecomp.profile import DeviceProfile, Precision


class _Gpu:
    fallback: str | None = "litert"

    def check(
        self,
        graph: Graph,
        profile: DeviceProfile,
        *,
        data: bytes | None = None,
        precision: Precision | None = None,
    ) -> list[Finding]:
        """What stays on the CPU; see `Support.check`. 8-bit models run on the GPU too, computed in float."""
        table = load_table("gpu")
        found = []
        for node in nodes(graph, profile, data, precision):
            reason = _reason(node, table)
            if reason is not None and not node.operator.is_custom:
                rewrite = nearest(node, table.takes, ("FLOAT32",))
                found.append(node.finding("warning", reason, None if rewrite is None else rewrite.text))
        return found

    def takes(self, code: str, types: str) -> bool:
        """See `Support.takes`."""
        return load_table("gpu").takes(code, types)


def _reason(node: Node, table: Table) -> str | None:
    if node.code in ("QUANTIZE", "DEQUANTIZE"):
        return None  # The delegate takes them in: it computes 8-bit models in float.
    if node.code not in table.operators():
        return "not on the GPU delegate's list of operators: it runs on the CPU, and values cross over and back"
    if not table.takes(node.code, node.types):
        return f"the GPU delegate computes in float, and takes 8-bit models only: not {node.types}"
    known = table.versions(node.code)
    if known is not None and node.kind == "FLOAT32" and node.operator.version > known[1]:
        return f"the GPU delegate's list has it up to version {known[1]}, this is version {node.operator.version}"
    return None


SUPPORT = _Gpu()
