"""Calibrate the cost model to one board: time generated models on it, fit its constants, say how far off they are.

How the models are timed is not decided here: `measure` is handed in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgecomp.calibration.fit import Fit, Timing, fit, left_out_errors, timing
from edgecomp.calibration.layers import Dtype
from edgecomp.calibration.models import DTYPES, NETWORKS, calibration_models, model_name
from edgecomp.cost_families import ByKind, Calls, Core, CostFamily, Interval, Kind, Measured, family_of, load_family
from edgecomp.cost_families import Dtype as FamilyDtype
from edgecomp.cost_measured import INFERENCE, LEFT, OPERATOR, OTHER, PARTITION
from edgecomp.cost_work import operator_work
from edgecomp.errors import BenchmarkError, UsageError
from edgecomp.graph import read_graph
from edgecomp.profile import DeviceProfile
from edgecomp.profile_files import dump_toml

Processes = Sequence[Sequence[float]]
"""Microseconds of every inference, by fresh process."""


class Timed(Protocol):
    """What a benchmark gives back for a model."""

    @property
    def processes_us(self) -> Processes:
        """Microseconds of every inference, by fresh process."""


Measure = Callable[[Mapping[str, bytes]], Mapping[str, Processes | Timed]]
"""Times .tflite files, by name, on one core; at least three fresh processes of some 30 inferences each, in turn."""

_QUANTILE = 1.645
_KINDS: tuple[Kind, ...] = ("pointwise", "convolution", "depthwise", "dense")
# No formula of this kind is closer to whatever network may come, however well it predicts the few of the calibration.
_LEAST_SD = 0.05
# ln(median / tenth percentile) of the fastest process, median over the models: 0.01 to 0.02 on a quiet board.
_NOISY, _TOO_NOISY = 0.03, 0.10
# Beyond it, what the models are made of says next to nothing of the time that they take.
_LARGEST_SD = 0.5


@dataclass(frozen=True)
class CalibrationResult:
    """Constants of one board.

    Attributes:
        family: They, as a cost family of this board alone.
        errors: Predicted over timed, less one, of each network that was left out of the fit in its turn.
        fitted_errors: The same of every model, by the fit of all of them.
        noise_ratio: How far inferences within the fastest processes lay apart, median over the models.
        num_models: Timed models.
        notes: What makes it weaker than others, one sentence each.
    """

    family: CostFamily
    errors: Mapping[str, float]
    fitted_errors: Mapping[str, float]
    noise_ratio: float
    num_models: int
    notes: tuple[str, ...]

    @property
    def median_error(self) -> float:
        """Cross-validated: of the networks that were left out."""
        return statistics.median(abs(error) for error in self.errors.values())

    def file_text(self) -> str:
        """The cost file that goes beside the profile and is named there by `cost.file`."""
        heading = [
            f"# Times of {self.num_models} generated models on this very device, measured; median error of networks",
            f"# left out of the fit: {self.median_error:.1%}. What `measured` and `calls` do not say is that of the",
            "# family that the profile named before. docs/cost-model.md says how it is put together.",
        ]
        table = self.family.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return "\n".join(heading) + "\n" + dump_toml(table)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "family": self.family.name,
            "num_models": self.num_models,
            "median_error_ratio": self.median_error,
            "sd": {dtype: table.sd for dtype, table in self.family.measured.items()},
            "left_out": dict(self.errors),
            "fitted": dict(self.fitted_errors),
            "noise_ratio": self.noise_ratio,
            "notes": list(self.notes),
        }


def calibrate(measure: Measure, profile: DeviceProfile) -> CalibrationResult:
    """Time the calibration models, FLOAT32 and INT8, and fit the constants of the device to them.

    Args:
        measure: Times them on it.
        profile: The device: its clock, its runtime, and the family that stands in for what is not timed (threads,
            dtypes that are a factor of INT8).

    Raises:
        UsageError: The profile's runtime does not run .tflite files as they are.
        BenchmarkError: A model was not timed, the times scatter too much, or no constants explain them.
    """
    if profile.runtime.name != "litert":
        raise UsageError(
            f"{profile.name} cannot be calibrated: its runtime is {profile.runtime.name}, and only LiteRT is timed.",
            hint="Its latency is estimated from the family of kernels that the profile names.",
        )
    files = calibration_models()
    timings = _timings(files, measure(files))
    noise = statistics.median(item.noise for item in timings)
    if noise > _TOO_NOISY:
        raise BenchmarkError(
            f"The calibration cannot be trusted: within a process, the median inference took {math.expm1(noise):.0%} "
            f"longer than the fastest tenth, where a quiet device has 1 to 2 %; at most {math.expm1(_TOO_NOISY):.0%} "
            "is accepted.",
            hint="Stop what else runs on the device, and calibrate again.",
        )
    delegate = profile.runtime.delegate
    left_out = [model_name(name, dtype) for name in NETWORKS for dtype in DTYPES]
    errors = left_out_errors(timings, left_out, DTYPES, delegate)
    sds = {dtype: _sd([error for name, error in errors.items() if name.endswith(f", {dtype}")]) for dtype in DTYPES}
    if (worst := max(sds.values())) > _LARGEST_SD:
        raise BenchmarkError(
            "The calibration cannot be trusted: networks that the fit had not seen are off by a factor of "
            f"{math.exp(worst):.1f}, typically; at most {math.exp(_LARGEST_SD):.1f} is accepted.",
            hint="Stop what else runs on the device, see to its cooling, and calibrate again.",
        )
    found = fit(timings, DTYPES, delegate)
    notes = []
    if noise > _NOISY:
        notes.append(
            f"Inferences within a process lay {math.expm1(noise):.0%} apart (a quiet device: 1 to 2 %); "
            "the interval is wider for it."
        )
    return CalibrationResult(
        family=_family(found, sds, noise, profile),
        errors={name: math.expm1(error) for name, error in errors.items()},
        fitted_errors={item.name: found.predicted_us(item.work) / item.time_us - 1 for item in timings},
        noise_ratio=math.expm1(noise),
        num_models=len(timings),
        notes=tuple(notes),
    )


def _timings(files: Mapping[str, bytes], measured: Mapping[str, Processes | Timed]) -> list[Timing]:
    if missing := [name for name in files if name not in measured]:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BenchmarkError(f"The calibration is not complete: {missing[0]!r}{others} was not timed.")
    found = []
    for name, file in files.items():
        taken = measured[name]
        processes = taken if isinstance(taken, Sequence) else taken.processes_us
        found.append(timing(name, operator_work(read_graph(file, name)), processes))
    return found


def _sd(errors: Sequence[float]) -> float:
    """Standard deviation of the next error, from a few of them: the mean of no error is 0, its spread is uncertain."""
    if not all(math.isfinite(error) for error in errors):
        return math.inf
    count = len(errors)
    seen = math.sqrt(sum(error * error for error in errors) / count)
    return max(seen * math.sqrt((count + 1) / (count - 1)), _LEAST_SD)


def _family(found: Fit, sds: Mapping[Dtype, float], noise: float, profile: DeviceProfile) -> CostFamily:
    base = family_of(profile)[0] or load_family(
        "x86-64-xnnpack" if profile.cpu.architecture == "x86_64" else "arm-a-xnnpack"
    )
    clock_hz = profile.cpu.clock_hz
    cycles = {key: _rounded(value * 1e-6 * clock_hz) for key, value in found.constants_us.items()}
    measured: dict[FamilyDtype, Measured] = {dtype: _measured(dtype, found, cycles, sds[dtype]) for dtype in DTYPES}
    core = profile.cpu.core.lower()
    return CostFamily(
        schema_version=1,
        name=f"{profile.name}-calibrated",
        description=f"Timed on {profile.name}: {profile.description}",
        basis="calibration",
        folds_constants=base.folds_constants,
        overhead_cycles=base.overhead_cycles,
        parallel_loss=base.parallel_loss,
        relative=base.relative,
        macs_per_output=base.macs_per_output,
        macs_per_element=base.macs_per_element,
        output_multiple=measured["int8"].output_multiple,
        reduction_multiple=measured["int8"].channel_multiple,
        default_core=core,
        cores={
            core: Core(cycles_per_mac={d: max(table.cycles_per_mac.pointwise, 1e-6) for d, table in measured.items()})
        },
        derived={dtype: derived for dtype, derived in base.derived.items() if dtype not in measured},
        missing={dtype: why for dtype, why in base.missing.items() if dtype not in measured},
        calls=Calls(
            delegate=found.delegate,
            inference_cycles=cycles.get(INFERENCE, 0.0),
            partition_cycles=cycles.get(PARTITION, 0.0),
            operator_cycles=cycles.get(OPERATOR, 0.0),
            left_cycles=cycles.get(LEFT, 0.0),
        ),
        measured=measured,
        interval=Interval(
            quantile=_QUANTILE,
            residual_sd=max(_rounded(noise), 0.01),
            board_sd=0.0,
            other_core_sd=base.interval.other_core_sd,
            external_flash_sd=0.0,
            thread_sd=base.interval.thread_sd,
            kind_sd=ByKind(pointwise=0.0, convolution=0.0, depthwise=0.0, dense=0.0),
        ),
    )


def _measured(dtype: Dtype, found: Fit, cycles: Mapping[tuple[str, ...], float], sd: float) -> Measured:
    def by_kind(what: str) -> ByKind:
        return ByKind(**{kind: cycles.get((dtype, what, kind), 0.0) for kind in _KINDS})

    def by_code(what: str) -> dict[str, float]:
        return {key[2]: value for key, value in sorted(cycles.items()) if key[:2] == (dtype, what)}

    return Measured(
        output_multiple=found.groups[dtype].outputs,
        channel_multiple=found.groups[dtype].channels,
        cycles_per_mac=by_kind("mac"),
        cycles_per_output=by_kind("output"),
        cycles_per_tap=cycles.get((dtype, "tap"), 0.0),
        cycles_per_element={OTHER: 0.0} | by_code("element"),
        cycles_per_result=by_code("result"),
        sd=_rounded(sd),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
