"""Which candidates a device gets, in which order, before anything is made."""

from __future__ import annotations

from dataclasses import dataclass

from edgecomp.errors import UsageError
from edgecomp.profile import DeviceProfile, Precision


@dataclass(frozen=True)
class Step:
    """One candidate of a plan.

    Attributes:
        is_fallback: Made only when everything before it breaks a limit.
        ruled_out: Why it is not made at all, or None.
    """

    precision: Precision
    is_fallback: bool = False
    ruled_out: str | None = None


def make_plan(profile: DeviceProfile, asked: tuple[Precision, ...], *, has_calibration: bool) -> tuple[Step, ...]:
    """The steps for one device.

    Args:
        profile: Its precisions give the order.
        asked: Precisions that the user wants tried, in this order; empty for the profile's own.
        has_calibration: Whether the data has calibration samples; integer precisions need them.

    Raises:
        UsageError: None of the precisions that were asked for runs on the device.
    """
    supported = profile.precisions.supported
    if asked and not set(asked) & set(supported):
        raise UsageError(
            f"{profile.name} runs none of the precisions asked for ({', '.join(asked)}).",
            hint=f"It runs {', '.join(supported)}.",
        )
    steps = [Step(precision) for precision in asked or profile.precisions.order]
    if not asked:
        steps += [Step(precision, is_fallback=True) for precision in profile.precisions.fallback]
    return tuple(_ruled(step, profile, has_calibration) for step in steps)


def _ruled(step: Step, profile: DeviceProfile, has_calibration: bool) -> Step:
    from edgecomp.quantize import CALIBRATED

    reason = None
    if step.precision not in profile.precisions.supported:
        reason = f"{profile.name} ({profile.runtime.name}) does not run it"
    elif step.precision in CALIBRATED and not has_calibration:
        reason = "needs calibration samples, and the data has neither x_calib nor x_train"
    elif step.precision is Precision.SELECTIVE and kept_precision(profile) is None:
        reason = f"{profile.name} runs neither float nor 16-bit activations to keep layers in"
    elif step.precision is Precision.INT4_WEIGHTS and not profile.runtime.int4_weight_operators:
        reason = f"no kernel of {profile.runtime.name} on {profile.name} takes 4-bit weights"
    return Step(step.precision, step.is_fallback, reason)


def kept_precision(profile: DeviceProfile) -> Precision | None:
    """What SELECTIVE keeps its sensitive layers in: float where the device runs it, else 16-bit activations."""
    for precision in (Precision.FLOAT32, Precision.INT16X8):
        if precision in profile.precisions.supported:
            return precision
    return None
