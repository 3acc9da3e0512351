"""The calibration of `edgecomp probe`: generated models timed on the device, cost constants beside the profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from edgecomp.bench import BenchSettings, ModelTiming, time_models
from edgecomp.calibration.calibrate import calibrate
from edgecomp.errors import BenchmarkError, NoRuntimeError
from edgecomp.facts import Facts
from edgecomp.probe import Calibrate, Calibrated
from edgecomp.probed_profile import Stated
from edgecomp.profile import DeviceProfile
from edgecomp.transports import Transport

SETTINGS = BenchSettings(
    min_runs=30, min_seconds=0.2, max_seconds=7.5, min_processes=3, max_processes=5, precision_ratio=0.02, passes=()
)
"""About a minute a round for all models. The fastest process of each counts; where they differ, five are taken."""

_WORST = ("wrong_device", "throttled", "contended")


def cost_file(out: Path) -> Path:
    """Where the constants of a profile go: beside it."""
    return out.with_name(f"{out.stem}.cost.toml")


def calibration(
    out: Path, python: str, wait_s: float, progress: Callable[[str, int, int], None] | None = None
) -> Calibrate:
    """What `probe` calls to calibrate the cost model.

    Args:
        out: File of the profile; the constants go beside it.
        python: On the device.
        wait_s: For another measurement on the device.
        progress: Called with (what, step, steps).

    Returns:
        A callable that never raises for what a device is or does: where it cannot be calibrated the profile is written
        without constants of its own, and a note says why.
    """

    def run(transport: Transport, facts: Facts, profile: DeviceProfile) -> Calibrated:
        if profile.runtime.name != "litert":
            return _without(f"Not calibrated: its runtime is {profile.runtime.name}, and only LiteRT is timed.")
        verdicts: dict[str, None] = {}

        def measure(models: Mapping[str, bytes]) -> Mapping[str, ModelTiming]:
            timed = time_models(
                transport, models, settings=replace(SETTINGS, lock_wait_s=wait_s), python=python,
                big_cores=profile.cpu.big_cores, progress=progress,
            )  # fmt: skip
            emulated = next((signs[0] for item in timed.values() if (signs := item.facts.emulator_signs)), None)
            if emulated is not None:
                raise BenchmarkError(f"an emulator, whose times are no latencies ({emulated})")
            verdicts.update(dict.fromkeys(item.verdict for item in timed.values() if item.verdict in _WORST))
            return timed

        try:
            found = calibrate(measure, profile)
        except NoRuntimeError:
            return _without(f"Not calibrated: no TFLite runtime works there. `edgecomp setup {facts.host}` brings one.")
        except BenchmarkError as error:
            return _without(f"Not calibrated: {error.message.removesuffix('.')}. {error.hint or ''}".strip())
        notes = list(found.notes)
        if verdicts:
            notes.append(f"Some of the models' times were {', '.join(verdicts)}: calibrate again on a quiet device.")
        name = cost_file(out).name
        day = datetime.now(UTC).date().isoformat()
        source = (
            f"edgecomp probe of {facts.host}, {day}: {found.num_models} generated models, measured; cross-validated "
            f"median error {found.median_error:.1%}"
        )
        return Calibrated(
            stated=(Stated("cost.file", name, source),),
            files={name: found.file_text().encode()},
            notes=tuple(notes),
            report=found.to_json(),
        )

    return run


def _without(note: str) -> Calibrated:
    return Calibrated(stated=(), files={}, notes=(note,), report=None)
