"""Ask a device what it is, and write the profile that follows: it extends the nearest one, and states what differs.

Nothing is run there but a few commands that print facts, and nothing is written there. What a benchmark would find
out (which kernels run, how fast) is no fact: a calibration measures it, where one is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecomp.devices import check_text, write_profile
from edgecomp.errors import EdgecompError, ProbeError, UsageError
from edgecomp.facts import Facts, collect
from edgecomp.facts.figures import Figures, figures_of
from edgecomp.facts.software import major_minor
from edgecomp.files import write_atomic
from edgecomp.nearest import Match, nearest_profile
from edgecomp.probed_profile import Stated, profile_text, state
from edgecomp.profile import DeviceProfile, read_profile
from edgecomp.profile_files import profile_names
from edgecomp.transports import Transport

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Calibrated:
    """What a calibration hands back.

    Attributes:
        stated: Lines for the profile, above all "cost.family".
        files: Name beside the profile -> contents, written before the profile is.
        notes: One sentence each.
        report: Plain values for `--json`; None where the device could not be calibrated, which a note explains.
    """

    stated: tuple[Stated, ...]
    files: Mapping[str, bytes]
    notes: tuple[str, ...]
    report: Mapping[str, Any] | None


Calibrate = Callable[[Transport, Facts, DeviceProfile], Calibrated]
"""Measures on the device; gets the profile as it would be without it. Raises EdgecompError."""


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found out and wrote.

    Attributes:
        path: The profile's file.
        match: What it extends, and why.
        stated: What the profile itself says.
        notes: What is missing or weak, one sentence each.
        calibration: Report of the calibration, None where there was none.
    """

    name: str
    path: Path
    match: Match
    stated: tuple[Stated, ...]
    facts: Facts
    profile: DeviceProfile
    notes: tuple[str, ...]
    calibration: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": "edgecomp.probe/1",
            "name": self.name,
            "path": str(self.path),
            "extends": self.match.name,
            "is_known": self.match.is_known,
            "because": list(self.match.because),
            "stated": [asdict(item) for item in self.stated],
            "facts": asdict(self.facts),
            "notes": list(self.notes),
            "calibration": None if self.calibration is None else dict(self.calibration),
        }


def probe(
    transport: Transport,
    *,
    name: str,
    out: Path,
    force: bool = False,
    python: str = "python3",
    calibrate: Calibrate | None = None,
) -> ProbeResult:
    """Write the profile of a device, and read it back.

    Args:
        transport: Reaches the device.
        name: Of the profile.
        out: Its file; ends in .toml.
        force: Overwrite the file.
        python: The interpreter on the device whose runtimes count.
        calibrate: Measures there, and adds to the profile what it finds.

    Raises:
        UsageError: Name or file cannot be used; see `check_target`.
        ProbeError: The device does not say enough for a profile.
        TransportError: It cannot be asked.
        EdgecompError: The file cannot be written.
    """
    check_target(name, out, force=force)
    facts = collect(transport, python=python)
    figures = figures_of(facts)
    _check_enough(facts, figures)
    match = nearest_profile(figures)
    stated = state(facts, figures, match)
    text = profile_text(name, facts, match, stated)
    profile = _checked(out, text)
    calibrated = None if calibrate is None else calibrate(transport, facts, profile)
    if calibrated is not None:
        if calibrated.stated:
            # Constants of its own take the place of a family's.
            stated = (*(item for item in stated if not item.key.startswith("cost.")), *calibrated.stated)
        text = profile_text(name, facts, match, stated)
        _write_beside(out, calibrated.files, force=force)
    write_profile(out, text, overwrite=force)
    return ProbeResult(
        name=name,
        path=out,
        match=match,
        stated=stated,
        facts=facts,
        profile=read_profile(out),
        notes=(*figures.notes, *_notes(facts, figures, match), *(calibrated.notes if calibrated else ())),
        calibration=None if calibrated is None else calibrated.report,
    )


def check_target(name: str, out: Path, *, force: bool, beside: Sequence[Path] = ()) -> None:
    """Whether a profile, and files beside it, can be written, before anything is asked.

    Raises:
        UsageError: The name is no name or is a shipped profile's, the file does not end in .toml or is there already.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"A profile's name has lower-case letters, digits, - and _, got {name!r}.", hint="Choose one with --name."
        )
    if name in profile_names():
        raise UsageError(f"{name} ships with edgecomp.", hint="Choose another name with --name.")
    if out.suffix != ".toml":
        raise UsageError(f"A profile's file ends in .toml, got {str(out)!r}.", hint="Name another file with --out.")
    for path in (out, *beside):
        if path.exists() and not force:
            raise UsageError(
                f"{path} exists already.", hint="Name another file with --out, or overwrite it with --force."
            )


def name_of(target: str) -> str:
    """A profile's name for a target: "pi@Kitchen.local:2222" -> "kitchen-local"; never a shipped profile's."""
    host = target.rpartition("://")[2].rpartition("@")[2]
    host = re.sub(r":[0-9]+$", "", host)
    name = re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-") or "device"
    return f"{name}-probed" if name in profile_names() else name


def _checked(path: Path, text: str) -> DeviceProfile:
    """Raises ProbeError where the figures make no profile."""
    check = check_text(path, text)
    if check.profile is None:
        raise ProbeError(f"What the device says makes no profile: {'; '.join(check.problems)}.")
    return check.profile


def _check_enough(facts: Facts, figures: Figures) -> None:
    """Raises ProbeError unless operating system and architecture are known."""
    if facts.system is None:
        raise ProbeError(f"{facts.host} does not say what it is: {facts.missing['system']}.")
    if figures.kind is None:
        raise ProbeError(
            f"{facts.host} runs {facts.system.name}; a profile can be made of Linux and Android.",
            hint="`edgecomp devices new NAME --from PROFILE` starts one by hand.",
        )


def _write_beside(out: Path, files: Mapping[str, bytes], *, force: bool) -> None:
    paths = {out.with_name(name): data for name, data in files.items()}
    for path in paths:
        if path.exists() and not force:
            raise UsageError(f"{path} exists already.", hint="Name another file with --out, or overwrite with --force.")
    for path, data in paths.items():
        try:
            write_atomic(path, data)
        except OSError as error:
            raise EdgecompError(f"{path} cannot be written: {error.strerror}.") from error


def _notes(facts: Facts, figures: Figures, match: Match) -> tuple[str, ...]:
    notes = []
    if not match.is_known:
        notes.append(f"{match.name} only stands in for want of a nearer profile: what is not stated may be wrong.")
    for what, figure in (("cores", figures.cores), ("clock", figures.clock_hz), ("RAM", figures.ram_bytes)):
        if figure is None:
            notes.append(f"The device does not tell its {what}: {match.name}'s stands.")
    if facts.virtualization not in (None, "none"):
        notes.append(f"It runs in {facts.virtualization}: timings there depend on what else the host does.")
    if facts.throttling is not None and facts.throttling.bits:
        notes.append(f"The board reports what slows it down, {facts.throttling}.")
    return (*notes, *_runtime_notes(facts))


def _runtime_notes(facts: Facts) -> tuple[str, ...]:
    if facts.python is None:
        reason = facts.missing.get("python", "it did not answer")
        return (f"No Python to benchmark with ({reason}): `edgecomp setup {facts.host}` says what it takes.",)
    if major_minor(facts.python.version) < (3, 7):
        found = facts.python.version
        return (f"A benchmark needs Python 3.7 or newer, that one is {found}: name another with --python.",)
    if not facts.python.runtimes:
        return (f"No runtime for .tflite files in Python {facts.python.version}: `edgecomp setup {facts.host}`.",)
    if next(iter(facts.python.runtimes)) == "tflite-runtime":
        return ("tflite-runtime computes int8 without XNNPACK: estimates of INT8 are too low for it.",)
    return ()
