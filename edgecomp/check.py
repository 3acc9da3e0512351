"""What can be said of a model and a device before anything is made: operators that the runtime cannot take.

What each runtime takes is known to `edgecomp.support`; here stands what holds for all of them, and which are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecomp.errors import ModelError
from edgecomp.graph import Graph
from edgecomp.plugins import load_member, member_names
from edgecomp.support import Finding, Support
from edgecomp.support._node import Node, nodes
from edgecomp.support._table import load_table

if TYPE_CHECKING:
    from edgecomp.profile import DeviceProfile, Precision

__all__ = ["Finding", "check_operators", "require_runnable", "runnable_precisions"]

_SUPPORT = "edgecomp.support"
_RESOURCE_OPERATORS = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"})
_SELECT_TF_PREFIX = "Flex"
_REPLACE = "replace the layer by one that converts to builtin operators"
# What a compiler put there for the accelerator: its own operator, not the user's.
_COMPILED = {"edgetpu": "edgetpu-custom-op", "ethos-u": "ethos-u"}


def check_operators(
    graph: Graph, profile: DeviceProfile, *, data: bytes | None = None, precision: Precision | None = None
) -> list[Finding]:
    """What the runtime of a profile makes of a model, in the order of the graph.

    An "error" does not run. A "warning" runs elsewhere than it could (on the CPU beside an accelerator, on slow
    kernels); an "info" is worth knowing.

    Args:
        graph: The model.
        profile: The device.
        data: The file that `graph` was read from. Rules on options are held only with it, and Vela needs it.
        precision: Judge a float model as it would be at this precision; None: as the file is.
    """
    found = nodes(graph, profile, data, precision)
    findings = [finding for node in found if (finding := _of_any_runtime(node, profile)) is not None]
    stopped = {finding.position for finding in findings}
    for finding in _of_runtime(graph, profile, data, precision):
        if finding.position not in stopped:
            findings.append(finding)
    # What is about the whole stands last.
    return sorted(findings, key=lambda item: item.position if item.position >= 0 else len(found))


def runnable_precisions(
    graph: Graph, profile: DeviceProfile, *, data: bytes | None = None
) -> Mapping[Precision, list[Finding]]:
    """The precisions of a profile at which a float model would run, each with what is worth knowing about it."""
    judged = {
        precision: check_operators(graph, profile, data=data, precision=precision)
        for precision in profile.precisions.supported
    }
    return {precision: findings for precision, findings in judged.items() if not _errors(findings)}


def require_runnable(graph: Graph, profile: DeviceProfile, *, data: bytes | None = None) -> list[Finding]:
    """Stop where a model cannot run at any precision of the profile.

    Returns:
        What is worth knowing about the first precision at which it runs.

    Raises:
        ModelError: Names the device, the first operator and its layer, the nearest rewrite, and how many more.
    """
    first: list[Finding] = []
    for precision in profile.precisions.supported:
        findings = check_operators(graph, profile, data=data, precision=precision)
        errors = _errors(findings)
        if not errors:
            return findings
        first = first or errors
    more = f" {len(first) - 1} more operators have the same fate." if len(first) > 1 else ""
    problem = replace(first[0], rewrite=None)
    raise ModelError(
        f"The model cannot run on {profile.name}: {problem}.{more}",
        hint=f"Would pass: {first[0].rewrite or _REPLACE}. Or choose another device.",
    )


def _errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def _of_any_runtime(node: Node, profile: DeviceProfile) -> Finding | None:
    """What stops an operator on every runtime that lacks the feature."""
    runtime = profile.runtime
    if node.code.startswith(_SELECT_TF_PREFIX) and not runtime.custom_operators:
        return node.finding("error", f"{runtime.name} has no Select TensorFlow operators", _REPLACE)
    if node.operator.is_custom and not runtime.custom_operators and not _has_custom(node.code, runtime.name):
        return node.finding("error", f"a custom operator that {runtime.name} does not have", _REPLACE)
    if node.code in _RESOURCE_OPERATORS and not runtime.resource_variables:
        reason = f"{runtime.name} here takes no resource variables"
        return node.finding("error", reason, "pass the state in as an input and out as an output")
    if not runtime.dynamic_shapes:
        dynamic = [node.subgraph.tensors[index].dynamic for index in node.operator.outputs if index >= 0]
        # A free batch size alone is harmless: it is 1 in what ships.
        if any(axes and axes != (0,) for axes in dynamic):
            reason = f"its shape is not fixed, which {runtime.name} needs"
            return node.finding("error", reason, "convert the model with a fixed input shape")
    return None


def _has_custom(code: str, runtime: str) -> bool:
    member: str | None = runtime.replace("-", "_")
    if code == _COMPILED.get(runtime):
        return True
    while member is not None and member in member_names(_SUPPORT):
        support = _member(member)
        if member in ("litert", "tflm"):
            return code in load_table(member).customs
        member = support.fallback
    return False


def _member(name: str) -> Support:
    support: Support = load_member(_SUPPORT, name).SUPPORT
    return support


def _of_runtime(graph: Graph, profile: DeviceProfile, data: bytes | None, precision: Precision | None) -> list[Finding]:
    """The runtime's own findings, and those of what runs the operators that it leaves."""
    runtime = profile.runtime
    name: str | None = runtime.name.replace("-", "_")
    delegate = getattr(runtime, "delegate", None)
    if name not in member_names(_SUPPORT):
        return [Finding("info", "MODEL", "", f"there is no table of operators for {runtime.name}")]
    findings: list[Finding] = []
    left: set[int] | None = None
    while name is not None:
        support = _member(name)
        found = support.check(graph, profile, data=data, precision=precision)
        if left is None:
            findings = found
        else:
            # Where it falls to matters only if it does not run there either.
            findings += [item for item in found if item.position in left and item.severity == "error"]
        left = {item.position for item in found if item.position >= 0} if left is None else left
        name = support.fallback
    if delegate is not None and runtime.name == "litert":
        errors = {item.position for item in findings if item.severity == "error"}
        delegated = _member(delegate).check(graph, profile, data=data, precision=precision)
        findings += [item for item in delegated if item.position not in errors]
    return findings
