"""Which candidates a device gets, in which order, before anything is made."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecomp.errors import UsageError
from edgecomp.profile import DeviceProfile, Precision


@dataclass(frozen=True)
class Step:
    """One candidate of a plan.

    Attributes:
        is_fallback: Made only when everything before it breaks a limit.
        ruled_out: Why it is not made at all, or None.
        is_repaired: Post-training repair of the precision's plain candidate, which comes before it.
    """

    precision: Precision
    is_fallback: bool = False
    ruled_out: str | None = None
    is_repaired: bool = False

    @property
    def name(self) -> str:
        """As the candidate is called: `INT8`, `INT8 repaired`."""
        return f"{self.precision} repaired" if self.is_repaired else str(self.precision)


def make_plan(profile: DeviceProfile, asked: tuple[Precision, ...], *, has_calibration: bool) -> tuple[Step, ...]:
    """The steps for one device.

    Args:
        profile: Its precisions give the order; what can be repaired is, straight after its plain candidate.
        asked: Precisions that the user wants tried, in this order and as they are; empty for the profile's own.
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
    if asked:
        steps = [Step(precision) for precision in asked]
    else:
        steps = [step for precision in profile.precisions.order for step in _with_repair(Step(precision))]
        for precision in profile.precisions.fallback:
            steps += _with_repair(Step(precision, is_fallback=True))
    return tuple(_ruled(step, profile, has_calibration) for step in steps)


def _with_repair(step: Step) -> list[Step]:
    from edgecomp.quantize import REPAIRABLE

    return [step, replace(step, is_repaired=True)] if step.precision in REPAIRABLE else [step]


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
    return replace(step, ruled_out=reason)


def kept_precision(profile: DeviceProfile) -> Precision | None:
    """What SELECTIVE keeps its sensitive layers in: float where the device runs it, else 16-bit activations."""
    for precision in (Precision.FLOAT32, Precision.INT16X8):
        if precision in profile.precisions.supported:
            return precision
    return None
