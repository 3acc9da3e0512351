"""LiteRT's built-in kernels: operators, types and versions, as ai-edge-litert itself answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecomp.support._by_table import by_table
from edgecomp.support._finding import Finding
from edgecomp.support._node import Node, nodes
from edgecomp.support._table import Table, load_table

if TYPE_CHECKING:
    from edgecomp.graph import Graph
    from edgecomp.profile import DeviceProfile, Precision


class _LiteRt:
    fallback: str | None = None

    def check(
        self,
        graph: Graph,
        profile: DeviceProfile,
        *,
        data: bytes | None = None,
        precision: Precision | None = None,
    ) -> list[Finding]:
        """What LiteRT does not run; see `Support.check`."""
        table = load_table("litert")
        found = nodes(graph, profile, data, precision)
        findings = by_table(found, table, lambda _: "error")
        return findings + [finding for node in found if (finding := _version(node, table)) is not None]

    def takes(self, code: str, types: str) -> bool:
        """See `Support.takes`."""
        return load_table("litert").takes(code, types)


def _version(node: Node, table: Table) -> Finding | None:
    """An operator of a later version than the runtime's means something that its kernel does not know."""
    known = table.versions(node.code)
    if known is None or known[0] <= node.operator.version <= known[1]:
        return None
    return node.finding(
        "error",
        f"it is version {node.operator.version} of the operator, {table.asked} knows {known[0]} to {known[1]}",
        "convert the model again with the TensorFlow that belongs to this runtime",
    )


SUPPORT = _LiteRt()
