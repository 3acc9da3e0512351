"""Findings from a table: what a runtime said about an operator with these types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from edgecomp.support._finding import Finding, Severity
from edgecomp.support._node import Node
from edgecomp.support._rewrites import nearest
from edgecomp.support._table import Table, Verdict

NOT_DELEGATED = "not delegated"


def by_table(
    nodes: Iterable[Node],
    table: Table,
    severity: Callable[[Node], Severity],
    *,
    precisions: Sequence[str] = ("INT8", "FLOAT32", "INT16"),
    application: bool = True,
) -> list[Finding]:
    """A finding for each operator that the table does not take; custom operators are not its business.

    Args:
        nodes: The operators.
        table: What the runtime said.
        severity: How bad it is.
        precisions: Types that a rewrite may move to, best first.
        application: Whether a rewrite may leave the operator to who calls the model.
    """
    found = []
    for node in nodes:
        if node.operator.is_custom:
            continue
        verdict = table.verdict(node.code, node.types)
        if verdict.status == "unknown":
            found.append(node.finding("info", f"{table.asked} was not asked about {said(node.types)}"))
        elif verdict.status != "runs":
            rewrite = nearest(node, table.takes, precisions, application=application)
            reason = why(table, node.types, verdict)
            found.append(node.finding(severity(node), reason, None if rewrite is None else rewrite.text))
        else:
            found += _around(node, table, severity(node))
    return found


def _around(node: Node, table: Table, severity: Severity) -> list[Finding]:
    """What a precision puts around an operator may be refused where the operator itself is not."""
    findings = []
    for code, types in node.around:
        verdict = table.verdict(code, types)
        if verdict.status not in ("runs", "unknown"):
            reason = f"at this precision it needs {code} {said(types)}, and {why(table, types, verdict)}"
            findings.append(node.finding(severity, reason, "another precision"))
    return findings


def why(table: Table, types: str, verdict: Verdict) -> str:
    """The reason as a sentence, with the runtime's own line."""
    if verdict.status == "absent":
        return f"{table.asked} does not have this operator"
    if verdict.line == NOT_DELEGATED:
        return f"XNNPACK leaves it to the built-in kernels at {said(types)} ({table.asked})"
    if verdict.status == "wrong":
        return f"{table.asked} takes {said(types)} but {verdict.line}"
    return f"{table.asked} refuses {said(types)}: {verdict.line}"


def said(types: str) -> str:
    """A key in words."""
    if "->" in types:
        return types.replace("->", " to ")
    activation, _, weights = types.partition("x")
    if not weights:
        return types
    single = weights.removesuffix("_PER_TENSOR")
    scales = "a single scale" if single != weights else "one scale per channel"
    hybrid = "hybrid operators, " if activation == "FLOAT32" else ""
    if single == activation or single not in ("INT8", "INT4"):
        return f"{activation} times {single}, both computed"
    return f"{hybrid}{activation} activations with {single} weights ({scales})"
