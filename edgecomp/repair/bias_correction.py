"""Bias correction: take from each layer's bias what quantization adds to its outputs on average.

Rounded weights and clipped or rounded inputs shift the mean of a layer's outputs, and the layers behind it pass the
shift on. Layer by layer, in the order in which they run, the shift of each output channel is measured on calibration
samples and subtracted from the bias of the float model, which is then quantized again; so a layer is measured on inputs
that the layers before it, already corrected, give.

Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization and Bias Correction, 2019,
arXiv 1906.04721, section 4.2 and its empirical form. The shift is that of the values before the activation, which a
file with fused activations does not show. A layer is linear up to there, so the mean of its outputs is its output for
the mean of its inputs: one sample to be computed here, with the weights as the file stores them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.errors import QuantizationError
from edgecomp.quantize import Samples
from edgecomp.repair.activations import mean_values
from edgecomp.repair.layers import STORED, Layer, Network, preactivation


def correct_biases(
    float_model: bytes,
    quantize: Callable[[bytes], bytes],
    samples: Samples,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """Measure the shift of every layer, first to last, and take it out of the float model's biases.

    Args:
        float_model: Bytes of a float .tflite.
        quantize: Makes the quantized file from a float one whose biases were changed.
        samples: Real inputs by name, each of shape (1, *sample_shape); at least one.
        progress: Called with (layers done, layers in all).

    Returns:
        A float .tflite whose biases make up for what quantization does: to be quantized, not to be run.

    Raises:
        QuantizationError: The quantized file has other layers than the float one.
    """
    network = Network(float_model)
    inputs = [layer.operator.inputs[0] for layer in network.layers]
    exact = mean_values(float_model, samples, sorted(set(inputs)))
    for layer in network.layers:  # Every layer gets a bias of its own, to be changed.
        network.set_bias(layer, network.bias(layer))
    # Nothing but biases differs from now on: they are written into the quantized file, which saves quantizing again.
    data = bytearray(quantize(network.pack()))
    quantized = Network(bytes(data))
    twins = {twin.position: twin for twin in quantized.layers}
    for layer, source in zip(network.layers, inputs, strict=True):
        if progress is not None:
            progress(layer.position, len(network.layers))
        twin = twins.get(layer.position)
        if twin is None or twin.code != layer.code:
            raise QuantizationError(f"The quantized file has no layer that is the float model's {layer.name}.")
        mean = mean_values(bytes(data), samples, [twin.operator.inputs[0]])[twin.operator.inputs[0]]
        got = preactivation(layer, quantized.constant(twin.weights), mean)
        wanted = preactivation(layer, network.constant(layer.weights), exact[source])
        corrected = network.bias(layer) - (got - wanted).mean(axis=0)
        network.set_bias(layer, corrected)
        _write_bias(data, quantized, twin, corrected)
    return network.pack()


def _write_bias(data: bytearray, network: Network, layer: Layer, values: np.ndarray) -> None:
    """Put real values into the bias of a file, in the type and with the scales that it has there."""
    tensor = network.graph.main.tensors[layer.operator.inputs[2]]
    stored = schema.Model.GetRootAs(data, 0).Buffers(network.buffer(tensor)).DataAsNumpy().view(STORED[tensor.type])
    if tensor.scales:
        limits = np.iinfo(stored.dtype)
        values = np.clip(np.round(values / np.array(tensor.scales)), limits.min, limits.max)
    stored[:] = values
