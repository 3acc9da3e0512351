"""Channel counts that the kernels of a target like."""

from __future__ import annotations

from edgecomp.cost_families import family_of
from edgecomp.profile import DeviceProfile

# A layer with fewer is not rounded; one with more has at least so many counts to choose from.
_LEAST_ROUNDED = 16
_LEAST_CHOICES = 4
_DEFAULT = 4


def channel_multiple(profile: DeviceProfile | None) -> tuple[int, str]:
    """Of what channel counts should be multiples on a device, and why.

    The groups in which a family of kernels computes output channels are those of the cost model; a channel is also
    one of the products that the next layer adds up, for which the sources of the kernels were read.
    """
    if profile is None:
        return _DEFAULT, "no device given: 4 suits most int8 kernels"
    runtime = profile.runtime
    if runtime.name == "ethos-u":
        return 16, "Ethos-U stores activations in bricks of 16 channels (NHCWB16)"
    if runtime.kernels == "cmsis-nn":
        return 4, "CMSIS-NN adds up 4 products at a time (arm_nn_mat_mult_kernel_s8_s16)"
    if runtime.kernels == "esp-nn" and "lx7" in profile.cpu.core.lower():
        return 8, "ESP-NN has vector kernels for multiples of 8 (esp_nn_conv_s8_mult8)"
    family, _ = family_of(profile)
    if family is not None:
        multiple = max(family.output_multiple, family.reduction_multiple)
        return multiple, f"{family.name} computes {multiple} channels at a time"
    return _DEFAULT, f"nothing is known of the kernels of {runtime.name}: 4 suits most int8 kernels"


def allowed_counts(size: int, width: int, multiple: int, least: int) -> list[int]:
    """How many members of a group may be left, falling, from all of them on.

    Args:
        size: Members of the group.
        width: Channels that one member is.
        multiple: Channels left are a multiple of this, or of half of it and so on in a group so narrow that it would
            have fewer than 4 counts to choose from. A group of fewer than 16 channels is not rounded.
        least: Channels that must be left.
    """
    channels = size * width
    while multiple > 1 and multiple * _LEAST_CHOICES > channels:
        multiple //= 2
    if channels < _LEAST_ROUNDED:
        multiple = 1
    smaller = [count for count in range(size - 1, 0, -1) if count * width >= least and (count * width) % multiple == 0]
    return [size, *smaller]
