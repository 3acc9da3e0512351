"""Cross-layer equalization: scale the channels between two layers so that one scale for all of them fits better.

An activation tensor has one scale for all channels. Where one channel reaches 50 and another 0.05, the second is left
with a fraction of a step. Since max(0, s * x) = s * max(0, x) for s > 0, the weights and the bias that make channel i
of a layer can be divided by s_i and the weights that read it in the next layer multiplied by s_i: the model computes
the same.

Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization and Bias Correction, 2019,
arXiv 1906.04721, section 4.1. There s_i = sqrt(r_i / c_i), with r_i the range of the weights that make channel i and
c_i of those that read it. Here weights have a scale for each output channel and calibration samples say what
activations reach, so the compromise between the two is computed: `balance.py` states the expected error and takes its
minimum. Where a depthwise layer reads the channels, each with a scale of its own, all ranges become equal; where a
convolution or a dense layer reads them, less so. What is done to one pair of layers changes nothing for the next pair,
so one sweep converges.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from edgecomp.errors import QuantizationError
from edgecomp.quantize import Samples
from edgecomp.repair.activations import ChannelStatistics, Tracer, channel_statistics
from edgecomp.repair.balance import FLOOR, make_balance
from edgecomp.repair.layers import Layer, Network, by_feature
from edgecomp.repair.links import Link, Skipped, find_links

_MIN_GAIN_DB = 0.1
_TOLERANCE = 1e-4
_COMPARED_SAMPLES = 16


@dataclass(frozen=True)
class EqualizedLink:
    """What was done between two layers.

    Attributes:
        spread_before, spread_after: Largest range of a channel over the smallest that is not 0.
        gain_db: How much smaller the expected error of the second layer's outputs is (estimated).
    """

    first: str
    second: str
    spread_before: float
    spread_after: float
    gain_db: float


@dataclass(frozen=True)
class Equalized:
    """The rescaled float file.

    Attributes:
        max_relative_difference: Largest difference of its outputs from the original's, over the largest output.
    """

    data: bytes
    links: tuple[EqualizedLink, ...]
    skipped: tuple[Skipped, ...]
    max_relative_difference: float


def equalize(float_model: bytes, samples: Samples, *, int4_operators: Collection[str] = ()) -> Equalized:
    """Rescale the channels between layers; the float model computes what it did before.

    Args:
        float_model: Bytes of a float .tflite.
        samples: Real inputs by name, each of shape (1, *sample_shape); at least one.
        int4_operators: Operators whose weights will have 4 bits. All others, and activations, have 8.

    Raises:
        QuantizationError: The outputs of the result differ by more than 1e-4 of the largest one.
    """
    network = Network(float_model)
    found = list(find_links(network))
    links = [item for item in found if isinstance(item, Link)]
    skipped = [item for item in found if isinstance(item, Skipped)]
    tensors = {link.rounded for link in links}
    for link in links:
        tensors |= {link.first.operator.inputs[0], link.second.operator.inputs[0], link.second.operator.outputs[0]}
    statistics = channel_statistics(float_model, samples, sorted(tensors))
    # Before anything is rescaled: the statistics are those of the original.
    typical = [_typical(network, link.first, statistics[link.first.operator.inputs[0]]) for link in links]
    done = []
    for link, each in zip(links, typical, strict=True):
        weight_bits = 4 if link.second.code in int4_operators else 8
        result = _equalize(network, link, statistics, each, weight_bits)
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            done.append(result)
    if not done:
        return Equalized(float_model, (), tuple(skipped), 0.0)
    data = network.pack()
    return Equalized(data, tuple(done), tuple(skipped), _compare(float_model, data, samples[:_COMPARED_SAMPLES]))


def _equalize(
    network: Network,
    link: Link,
    statistics: Mapping[int, ChannelStatistics],
    typical: np.ndarray,
    weight_bits: int,
) -> EqualizedLink | Skipped:
    first, second = network.constant(link.first.weights), network.constant(link.second.weights)
    balance = make_balance(
        link.second,
        second,
        link.channels,
        inputs=statistics[link.second.operator.inputs[0]],
        outputs=statistics[link.second.operator.outputs[0]],
        rounded=_widened(statistics[link.rounded], typical[link.rounded_channels]),
        rounded_channels=link.rounded_channels,
        weight_bits=weight_bits,
    )
    scales = balance.minimize(len(typical))
    before, after = balance.error(np.ones(len(typical))), balance.error(scales)
    gain_db = float(10 * np.log10(before / after)) if after > 0 else 0.0
    if gain_db < _MIN_GAIN_DB:
        return Skipped(
            link.first.name, f"its channels are balanced as they are ({max(gain_db, 0):.2f} dB to be gained)"
        )
    shape = [1] * first.ndim
    shape[link.first.channel_axis] = len(scales)
    network.set_weights(link.first, first / scales.reshape(shape))
    network.set_bias(link.first, network.bias(link.first) / scales)
    network.set_weights(link.second, second * by_feature(link.second, second, scales[link.channels]))
    ranges = balance.ranges(len(scales))
    is_live = ranges > FLOOR * ranges.max()
    return EqualizedLink(
        link.first.name,
        link.second.name,
        spread_before=_spread(ranges[is_live]),
        spread_after=_spread((ranges / scales)[is_live]),
        gain_db=gain_db,
    )


def _spread(ranges: np.ndarray) -> float:
    return float(ranges.max() / ranges.min())


def _typical(network: Network, layer: Layer, inputs: ChannelStatistics) -> np.ndarray:
    """What the weights of each output channel make of inputs of that power: sqrt(sum of w^2 * E[x^2]), (out,)."""
    weights = network.constant(layer.weights)
    powers = weights**2 * by_feature(layer, weights, inputs.power)
    axes = tuple(axis for axis in range(weights.ndim) if axis != layer.channel_axis)
    return np.asarray(np.sqrt(powers.sum(axis=axes)))


def _widened(observed: ChannelStatistics, typical: np.ndarray) -> ChannelStatistics:
    """The same with every range at least the typical one.

    A channel whose largest value is less was hardly ever active on the samples, and may well be on others: it is not to
    be blown up until the little that was seen fills the range.
    """
    reach = np.maximum(observed.high, -observed.low)
    factor = np.where(reach > 0, np.maximum(typical / np.where(reach > 0, reach, 1.0), 1.0), 1.0)
    return ChannelStatistics(observed.low * factor, observed.high * factor, observed.power)


def _compare(original: bytes, rescaled: bytes, samples: Samples) -> float:
    """Largest relative difference of the outputs on real inputs. Raises QuantizationError above the tolerance."""
    before, after = Tracer(original), Tracer(rescaled)
    worst = 0.0
    for left, right in zip(before.run(samples), after.run(samples), strict=True):
        for want, got in zip(left.outputs(), right.outputs(), strict=True):
            worst = max(worst, float(np.max(np.abs(got - want)) / max(float(np.abs(want).max()), 1e-30)))
    if worst > _TOLERANCE:
        raise QuantizationError(
            f"Not equalized: the outputs of the rescaled float model differ by {worst:.1e} of the largest one."
        )
    return worst
