"""A file of one operator, and what is fed to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecomp.tflite_build import NUMPY, Node, Tensor, build_model, fed

__all__ = ["NUMPY", "Node", "OneOperator", "Tensor", "build", "feeds"]


@dataclass(frozen=True)
class OneOperator(Node):
    """The operator in question, and what cannot be left out around it.

    Attributes:
        before, after: Operators without which it makes no sense (VAR_HANDLE before READ_VARIABLE).
        others: Operators of subgraphs 1, 2, ... of the file.
    """

    before: Sequence[Node] = ()
    after: Sequence[Node] = ()
    others: Sequence[Sequence[Node]] = ()

    @property
    def chain(self) -> list[Node]:
        """All operators of the first subgraph, in their order."""
        return [*self.before, self, *self.after]


def build(operator: OneOperator) -> bytes:
    """The file."""
    return build_model(operator.chain, *operator.others)


def feeds(operator: OneOperator) -> list[np.ndarray]:
    """What is fed to the inputs of the file, always the same."""
    generator = np.random.default_rng(7)
    values = []
    for item in fed(operator.chain):
        drawn = item.low + generator.random(item.shape) * (item.high - item.low)
        dtype = NUMPY[item.type]
        values.append(np.asarray(drawn if np.issubdtype(dtype, np.inexact) else np.rint(drawn)).astype(dtype))
    return values
