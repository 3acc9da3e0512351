"""Arm Ethos-U: which operators run on the NPU, by Vela itself where it is installed.

Without it: by a table of what Vela said to each operator and types, and by the conditions that it publishes. What the
NPU does not take runs on the CPU in TFLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecomp.errors import RuntimeRefusedError
from edgecomp.support._by_table import said
from edgecomp.support._ethos_u_rules import broken_sentence
from edgecomp.support._finding import Finding
from edgecomp.support._node import Node, nodes
from edgecomp.support._rewrites import nearest
from edgecomp.support._table import Table, load_table
from edgecomp.support._vela import EthosUReport, NpuConfig, VelaRun, npu_config, run_vela, vela_version

if TYPE_CHECKING:
    from edgecomp.graph import Graph
    from edgecomp.profile import DeviceProfile, Precision

__all__ = ["SUPPORT", "EthosUReport", "NpuConfig", "VelaRun", "compile_for_npu", "npu_config"]

_COMPILED = "ethos-u"
_SPLIT_OFF = "_act"
# The NPU's operators are the same for U55 and U65; the table holds them once.
_TABLE_OF = {"ethos-u65": "ethos-u55"}


def compile_for_npu(data: bytes, profile: DeviceProfile) -> VelaRun:
    """Compile a quantized .tflite for the NPU of a profile: the file to ship, and Vela's estimate of it.

    Raises:
        RuntimeRefusedError: Vela is not installed, or does not compile the file.
    """
    return run_vela(data, npu_config(profile))


class _EthosU:
    fallback: str | None = "tflm"

    def check(
        self,
        graph: Graph,
        profile: DeviceProfile,
        *,
        data: bytes | None = None,
        precision: Precision | None = None,
    ) -> list[Finding]:
        """What the NPU leaves to the CPU; see `Support.check`. Vela is asked where it gets the file as it is."""
        found = [node for node in nodes(graph, profile, data, precision) if node.code != _COMPILED]
        config = npu_config(profile)
        if data is None or precision is not None or vela_version() is None or _is_compiled(graph):
            return self._by_table(found, config)
        try:
            return self._by_vela(found, run_vela(data, config), config)
        except RuntimeRefusedError as error:
            return [*self._by_table(found, config), Finding("error", "MODEL", "", error.message.rstrip("."))]

    def takes(self, code: str, types: str) -> bool:
        """See `Support.takes`; for Ethos-U55 and U65, which take less than U85."""
        return _table("ethos-u55").takes(code, types)

    def _by_table(self, found: list[Node], config: NpuConfig) -> list[Finding]:
        table = _table(config.family)
        findings = []
        for node in found:
            reason = None if node.operator.is_custom else _reason(node, table)
            if reason is not None:
                rewrite = nearest(node, table.takes, ("INT8",))
                findings.append(node.finding("warning", reason, None if rewrite is None else rewrite.text))
        text = f"judged by what {table.asked} said of each operator alone: where Vela is installed, it gets the file"
        return [*findings, Finding("info", "MODEL", "", text)]

    def _by_vela(self, found: list[Node], run: VelaRun, config: NpuConfig) -> list[Finding]:
        """Vela names an operator by its output, and the fused activation that it splits off by "..._act"."""
        table = _table(config.family)
        by_name = {node.subgraph.layer(node.operator): node for node in found}
        tensors = {tensor.name for node in found for tensor in node.tensors()}
        chosen: dict[int, tuple[Node, str]] = {}
        findings = []
        for operator, name, reason in run.left:
            node = by_name.get(name) or by_name.get(name.removesuffix(_SPLIT_OFF))
            text = f"{run.report.estimated_by} leaves it to the CPU: {_without_names(reason, tensors)}"
            if node is None:
                findings.append(Finding("warning", operator, name, text, tensor=name))
            elif node.position not in chosen or operator == node.code:
                chosen[node.position] = (node, text)
        for node, text in chosen.values():
            rewrite = nearest(node, table.takes, ("INT8",))
            findings.append(node.finding("warning", text, None if rewrite is None else rewrite.text))
        report = run.report
        text = (
            f"{len(found) - len(chosen)} of {len(found)} operators on the NPU, in {report.inference_ms:.3g} ms, "
            f"{report.sram_bytes:,} bytes of SRAM, {report.flash_bytes:,} of flash (estimated by {report.estimated_by})"
        )
        return [*sorted(findings, key=lambda item: item.position), Finding("info", "MODEL", "", text)]


def _table(family: str) -> Table:
    return load_table("ethos_u", _TABLE_OF.get(family, family))


def _reason(node: Node, table: Table) -> str | None:
    if node.left_in_float:
        return "falls to the CPU: the quantizer leaves this operator in float"
    verdict = table.verdict(node.code, node.types)
    if verdict.status == "runs":
        sentence = broken_sentence(node, table.constraints.get(node.code, []))
        return None if sentence is None else f"falls to the CPU: {sentence.rstrip('.')}"
    if verdict.status == "unknown":
        return f"may fall to the CPU: {table.asked} was not asked about {said(node.types)}"
    return f"falls to the CPU at {said(node.types)}: {_short(verdict.line)}"


def _short(reason: str) -> str:
    return reason.rstrip(". ")


def _without_names(reason: str, names: set[str]) -> str:
    """A reason without the tensor that it ends with: the same reason reads the same for every layer."""
    text, _, name = _short(reason).rpartition(" (")
    known = name.removesuffix(")").removesuffix(_SPLIT_OFF)
    return text if text and (known in names or ";" in known or "/" in known) else _short(reason)


def _is_compiled(graph: Graph) -> bool:
    return any(operator.code == _COMPILED for operator in graph.main.operators)


SUPPORT = _EthosU()
