"""What the check of a model for a runtime finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from edgecomp.graph import Graph, Operator, Subgraph
    from edgecomp.profile import DeviceProfile, Precision

Severity = Literal["error", "warning", "info"]

# What a convolution or matrix product is called inside a layer, best first: names that a converter merged may end
# with the operator of another layer that shares a constant, the addition of the bias never does.
_PRODUCTS = ("BiasAdd", "MatMul", "Conv2D", "depthwise", "conv2d_transpose")
_MOST_OUTPUTS = 64  # Looking for the layer before each of thousands would take minutes on a hostile file.
_NO_LAYER = ("StatefulPartitionedCall", "PartitionedCall", "Identity", "tensor ")


@dataclass(frozen=True)
class Finding:
    """One thing to know about a model on a device.

    Attributes:
        severity: "error": it does not run. "warning": it runs, but not where or as fast as it could. "info": the rest.
        operator: The schema's name; "MODEL" where it is about the whole.
        layer: As the model calls it; empty where it is about the whole.
        rewrite: The nearest change to the model that the runtime would take, or None if none is known.
        tensor: Name of the operator's first output in the file: what rules of a quantizer match.
        position: Which operator of the file it is, counted over all subgraphs; -1 for the whole.
    """

    severity: Severity
    operator: str
    layer: str
    reason: str
    rewrite: str | None = None
    tensor: str = ""
    position: int = -1

    def __str__(self) -> str:
        where = f" (layer {self.layer})" if self.layer else ""
        way_out = f". Would pass: {self.rewrite}" if self.rewrite else ""
        return f"{self.operator}{where}: {self.reason}{way_out}"


class Support(Protocol):
    """A runtime, a delegate or an accelerator.

    Attributes:
        fallback: The member that runs what this one does not take, or None if nothing does.
    """

    fallback: str | None

    def check(
        self,
        graph: Graph,
        profile: DeviceProfile,
        *,
        data: bytes | None = None,
        precision: Precision | None = None,
    ) -> list[Finding]:
        """What this runtime does not take of a model, in the order of the graph.

        Args:
            graph: The model.
            profile: The device.
            data: The file that `graph` was read from: rules on an operator's options need it.
            precision: Judge a float model as it would be at this precision; None: as the file is.
        """
        ...

    def takes(self, code: str, types: str) -> bool:
        """Whether it takes an operator with these types (see `types_of`), as far as is known."""
        ...


def user_layer(subgraph: Subgraph, operator: Operator) -> str:
    """The layer of the user's model that an operator came from.

    A converter joins the names of all that it merged: "model/conv/Relu;model/conv/BiasAdd;model/conv/Conv2D" is layer
    "conv" of "model".
    """
    name = subgraph.layer(operator)
    if name.startswith(_NO_LAYER):
        return _unnamed(subgraph, operator, name)
    parts = [part.split("/") for part in name.split(";") if part]
    if not parts:
        return name
    ranked = [
        path
        for product in _PRODUCTS
        for path in parts
        if path[-1] == product and operator.code not in ("ADD", "RELU", "RELU6")
    ]
    path = (ranked or parts)[0]
    if len(path) == 1:
        return path[0]
    return "/".join(path[1:-1] if len(path) > 2 else path[:-1])


def _unnamed(subgraph: Subgraph, operator: Operator, name: str) -> str:
    """Outputs of a model lose their layer's name; where their values come from keeps its own."""
    if len(subgraph.outputs) > _MOST_OUTPUTS or not set(operator.outputs) & set(subgraph.outputs):
        return name
    makers = {index: item for item in subgraph.operators for index in item.outputs}
    for index in operator.inputs:
        maker = makers.get(index)
        if maker is not None and maker is not operator and not subgraph.layer(maker).startswith(_NO_LAYER):
            return f"output after {user_layer(subgraph, maker)}"
    return "output"
