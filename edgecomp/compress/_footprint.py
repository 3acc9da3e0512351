"""What a tf_keras model weighs, by arithmetic over its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgecomp.compress._base import Footprint
from edgecomp.compress._weights import Kernel, clusters_of, kernels
from edgecomp.profile import DeviceProfile

_BIAS_BYTES = 4
_LEAST_INDEX_BITS, _MOST_INDEX_BITS = 1, 7


@dataclass(frozen=True)
class KernelFacts:
    """What counts of one kernel, whether it exists already or is only planned.

    Attributes:
        channels: Output channels: each has a bias.
        weights: Entries of the kernel.
        nonzero: Of them.
        uses: Positions of the output at which every weight is used once: MACs over weights.
        index_bits: Bits of an index into a table of values; None where weights are stored themselves.
        tables: So many tables: one a channel, or one.
        bits: Bits of a weight that is stored itself.
    """

    channels: int
    weights: int
    nonzero: int
    uses: float
    index_bits: float | None = None
    tables: int = 0
    bits: int = 8

    @property
    def weight_bytes(self) -> int:
        """In flash: indices and tables, or the weights themselves."""
        plain = -(-self.weights * self.bits // 8)
        return plain if self.index_bits is None else min(plain, self.table_and_index_bytes)

    @property
    def table_and_index_bytes(self) -> int:
        """What a codebook takes. Raises TypeError where there is none."""
        if self.index_bits is None:
            raise TypeError("a kernel without a codebook has no tables")
        return math.ceil(self.weights * self.index_bits / 8 + self.tables * 2**self.index_bits)


def packs_codebooks(profile: DeviceProfile | None) -> bool:
    """Whether the runtime decodes weights from look-up tables: TFLM alone does."""
    return profile is not None and profile.runtime.name == "tflm"


def facts_of(model: Any, profile: DeviceProfile | None) -> dict[str, KernelFacts]:
    """Layer name -> facts of its kernel, in the order of the model."""
    return {kernel.layer.name: _facts(kernel, profile) for kernel in kernels(model)}


def _facts(kernel: Kernel, profile: DeviceProfile | None) -> KernelFacts:
    values = kernel.variable.numpy()
    rows = kernel.channels(values)
    plain = KernelFacts(
        channels=len(rows), weights=values.size, nonzero=int(np.count_nonzero(values)), uses=_uses(kernel)
    )
    if not packs_codebooks(profile):
        return plain
    # As integers of 8 bits, which is what ships: equal ones in all channels make do with one table.
    integers = np.rint(127 * rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-20))
    shared, apart = _bits(len(np.unique(integers))), _bits(clusters_of(integers))
    options = [replace(plain, index_bits=shared, tables=1), replace(plain, index_bits=apart, tables=len(rows))]
    fitting = [option for option in options if option.index_bits is not None and option.index_bits <= _MOST_INDEX_BITS]
    return min([plain, *fitting], key=lambda option: option.weight_bytes)


def _bits(count: int) -> int:
    return max(_LEAST_INDEX_BITS, math.ceil(math.log2(count)))


def planned(kernel: Kernel, index_bits: float, *, shared: bool) -> KernelFacts:
    """A kernel with a codebook that it does not have yet."""
    values = kernel.variable.numpy()
    channels = len(kernel.channels(values))
    return KernelFacts(
        channels=channels,
        weights=values.size,
        nonzero=int(np.count_nonzero(values)),
        uses=_uses(kernel),
        index_bits=index_bits,
        tables=1 if shared else channels,
    )


def _uses(kernel: Kernel) -> float:
    """Output positions of a layer, over all of its calls; input positions of a transposed convolution."""
    is_transposed = "Transpose" in type(kernel.layer).__name__
    uses = 0.0
    for node in kernel.layer.inbound_nodes:
        shape = (node.input_shapes if is_transposed else node.output_shapes)[1:-1]
        if None in shape:
            shape = [size or 1 for size in shape]
        uses += float(np.prod(shape)) if len(shape) else 1.0
    return uses


def footprint(model: Any, profile: DeviceProfile | None) -> Footprint:
    """What a model weighs as it is: zeros and codebooks are read off its weights.

    Args:
        model: A flat tf_keras model; batch normalization counts as folded.
        profile: The device; codebooks save flash only where its runtime decodes them.
    """
    return footprint_of(facts_of(model, profile))


def footprint_of(facts: Mapping[str, KernelFacts]) -> Footprint:
    """The same for kernels that need not exist yet."""
    items = facts.values()
    biases = sum(item.channels for item in items)
    return Footprint(
        parameters=sum(item.weights for item in items) + biases,
        nonzero=sum(item.nonzero for item in items) + biases,
        macs=round(sum(item.weights * item.uses for item in items)),
        weight_bytes=sum(item.weight_bytes for item in items) + biases * _BIAS_BYTES,
    )
