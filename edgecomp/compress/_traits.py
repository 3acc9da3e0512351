"""What of a device a technique looks at: two devices that are alike in it can share what was trained."""

from __future__ import annotations

from typing import Any

from edgecomp.compress._channels.rounding import channel_multiple
from edgecomp.compress._footprint import packs_codebooks
from edgecomp.profile import DeviceProfile, Precision


def device_traits(technique: str, profile: DeviceProfile | None) -> list[Any]:
    """Plain values; a technique that is not known here is taken to look at everything."""
    if profile is None:
        return []
    # Reports count bytes as the runtime stores them.
    traits: list[Any] = [packs_codebooks(profile)]
    if technique in ("structured_prune", "distill"):
        traits += channel_multiple(profile)
    elif technique == "low_rank":
        cost = None if profile.cost is None else profile.cost.model_dump(mode="json", exclude_unset=True)
        is_integer = Precision.INT8 in profile.precisions.supported
        traits += [cost, profile.cpu.core, profile.cpu.clock_hz, is_integer]
    elif technique == "qat":
        traits += [profile.runtime.name, sorted(profile.runtime.int4_weight_operators)]
    elif technique != "cluster":
        traits.append(profile.text)
    return traits
