"""What zeros are worth on a device, in sentences with numbers. Imported by the TensorFlow worker only."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import tf_keras

from edgecomp.compress._weights import Kernel, kernels
from edgecomp.profile import DeviceProfile
from edgecomp.sparse_inference import no_sparse_kernels, with_sparse_kernels


def deflated_bytes(model: Any) -> int:
    """All kernels as 8-bit integers in TFLite's order, deflated as an update over the air is (zlib, level 9)."""
    return len(zlib.compress(b"".join(_integers(kernel) for kernel in kernels(model)), 9))


def _integers(kernel: Kernel) -> bytes:
    """One scale a channel, symmetric, as TFLite quantizes them."""
    rows = kernel.channels(kernel.variable.numpy())
    peaks = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    return np.rint(127 * rows / np.where(peaks > 0, peaks, 1)).astype(np.int8).tobytes()


def notes(model: Any, before_bytes: int, profile: DeviceProfile | None) -> tuple[str, ...]:
    """Size of an update, measured; then whether the device is faster, and if not, why.

    Args:
        model: After pruning.
        before_bytes: `deflated_bytes` before it.
        profile: The device, or None.
    """
    size = f"8-bit kernels deflated, as for an update: {before_bytes:,} -> {deflated_bytes(model):,} bytes (measured)."
    if profile is None:
        return (size,)
    reason = no_sparse_kernels(profile)
    if reason is None:
        reason = _not_sparse_enough(model)
    if reason is None:
        data = _float_tflite(model)
        stored, found = with_sparse_kernels(data, profile)
        if found.is_used:
            return size, _faster(data, stored, profile)
        reason = "; ".join(found.reasons)
    flash = "the update and Vela's flash are" if profile.runtime.name == "ethos-u" else "only the update is"
    return size, f"{profile.name} is not faster for zeros: {reason}. With pruning {flash} smaller."


def _faster(data: bytes, stored: bytes, profile: DeviceProfile) -> str:
    return (
        f"On {profile.name} XNNPACK skips the zeros of a FLOAT32 or FLOAT16 file whose weights are stored sparse "
        f"(FLOAT32: {len(data):,} -> {len(stored):,} bytes); in INT8 it does not. Bench measures what that is worth."
    )


def _not_sparse_enough(model: Any) -> str | None:
    """What rules XNNPACK's sparse kernels out before anything is converted: they are for 1x1 convolutions."""
    found = [
        kernel.variable.numpy()
        for kernel in kernels(model)
        if isinstance(kernel.layer, tf_keras.layers.Conv2D)
        and not isinstance(kernel.layer, tf_keras.layers.DepthwiseConv2D | tf_keras.layers.Conv2DTranspose)
        and tuple(kernel.variable.shape[:2]) == (1, 1)
    ]
    weights = sum(values.size for values in found)
    if not weights:
        return "XNNPACK skips zeros in 1x1 convolutions alone, and the model has none"
    zeros = sum(int(np.sum(values == 0)) for values in found)
    if 3 * zeros <= 2 * weights:
        return f"{zeros / weights:.0%} of the weights of its 1x1 convolutions are zero, XNNPACK asks for more than 67 %"
    return None


def _float_tflite(model: Any) -> bytes:
    from edgecomp.convert import to_tflite
    from edgecomp.load import from_tf_keras

    return to_tflite(from_tf_keras(model), where="the pruned model")
