"""What can be said of a model and a device before anything is made: operators that the runtime cannot take."""

from __future__ import annotations

from dataclasses import dataclass

from edgecomp.errors import ModelError
from edgecomp.graph import Graph
from edgecomp.profile import DeviceProfile

_RESOURCE_OPERATORS = frozenset({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"})
_SELECT_TF_PREFIX = "Flex"


@dataclass(frozen=True)
class Finding:
    """One reason why a model cannot run on a device: the operator, the layer, and why."""

    operator: str
    layer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} (layer {self.layer}): {self.reason}"


def check_operators(graph: Graph, profile: DeviceProfile) -> list[Finding]:
    """Every operator of the graph that the runtime of the profile cannot take, in the order of the graph."""
    runtime = profile.runtime
    findings = []
    for subgraph, operator in graph.operators():
        layer = subgraph.layer(operator)
        if operator.code.startswith(_SELECT_TF_PREFIX) and not runtime.custom_operators:
            findings.append(Finding(operator.code, layer, f"{runtime.name} has no Select TensorFlow operators"))
        elif operator.is_custom and not runtime.custom_operators:
            findings.append(Finding(operator.code, layer, f"a custom operator that {runtime.name} does not have"))
        elif operator.code in _RESOURCE_OPERATORS and not runtime.resource_variables:
            findings.append(Finding(operator.code, layer, f"{runtime.name} here takes no resource variables"))
        elif not runtime.dynamic_shapes:
            dynamic = [index for index in operator.outputs if subgraph.tensors[index].dynamic]
            # A free batch size alone is harmless: it is 1 in what ships.
            if any(subgraph.tensors[index].dynamic != (0,) for index in dynamic):
                findings.append(Finding(operator.code, layer, f"its shape is not fixed, which {runtime.name} needs"))
    return findings


def require_runnable(graph: Graph, profile: DeviceProfile) -> None:
    """Stop where an operator cannot run.

    Raises:
        ModelError: Names the device, the first operator and its layer, and how many more there are.
    """
    findings = check_operators(graph, profile)
    if findings:
        more = f" {len(findings) - 1} more operators have the same fate." if len(findings) > 1 else ""
        raise ModelError(
            f"The model cannot run on {profile.name}: {findings[0]}.{more}",
            hint="Replace the layer by one that converts to builtin operators, or choose another device.",
        )
