"""TensorFlow Lite Micro: operators and types, as the tflite-micro interpreter itself answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecomp.support._by_table import by_table
from edgecomp.support._finding import Finding
from edgecomp.support._node import nodes
from edgecomp.support._table import load_table

if TYPE_CHECKING:
    from edgecomp.graph import Graph
    from edgecomp.profile import DeviceProfile, Precision


class _Tflm:
    fallback: str | None = None

    def check(
        self,
        graph: Graph,
        profile: DeviceProfile,
        *,
        data: bytes | None = None,
        precision: Precision | None = None,
    ) -> list[Finding]:
        """What TFLM does not run; see `Support.check`."""
        findings = by_table(nodes(graph, profile, data, precision), load_table("tflm"), lambda _: "error")
        vendor = getattr(profile.runtime, "vendor_name", None)
        if vendor is not None:
            findings.append(Finding("info", "MODEL", "", f"{vendor} is closed: TFLM is asked in its place"))
        return findings

    def takes(self, code: str, types: str) -> bool:
        """See `Support.takes`."""
        return load_table("tflm").takes(code, types)


SUPPORT = _Tflm()
