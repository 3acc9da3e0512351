"""`edgecomp setup`: a TFLite runtime for a device, chosen and unpacked on this machine.

The device says what it is; wheels are chosen for it and unpacked here, and go there as one archive. What they make is
a folder that Python imports from, not a virtual environment: it takes neither pip nor venv nor internet on the device,
it comes and goes as a whole, and the interpreter stays the one that bench uses anyway.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgecomp.device_setup.archive import Archive, pack_wheels
from edgecomp.device_setup.choice import RUNTIMES, Choice, choose_runtimes
from edgecomp.device_setup.session import DeviceSession, Trial
from edgecomp.device_setup.system import DeviceSystem, Installed
from edgecomp.device_setup.wheels import NoWheelError, Wheels, fetch_wheels
from edgecomp.errors import SetupError, UsageError
from edgecomp.transports import Transport, one_line

Progress = Callable[[str, int, int], None]

__all__ = ["SetupReport", "remove_runtime", "setup_device"]

_STEPS = 4


@dataclass(frozen=True)
class SetupReport:
    """What was done.

    Attributes:
        status: "installed", "unchanged" (it was there and works), "removed", or "absent" (nothing to remove).
        runtime, version: Of the private runtime; None where there is none now.
        why: Why this runtime.
        numpy: Version that the runtime works with.
        own_numpy: That is the device's own, for want of a wheel.
        folder: Where it is on the device.
        python, abi, architecture, libc: What it was chosen for.
        wheels: Names of the files that it was made from.
        dropped: Files of these that were left out.
        sent_bytes, tree_bytes: Sent to the device; taken on its disk. None where nothing was sent.
    """

    host: str
    status: str
    runtime: str | None
    version: str | None
    why: str | None
    numpy: str | None
    own_numpy: bool
    folder: str | None
    python: str
    abi: str
    architecture: str
    libc: str
    wheels: tuple[str, ...]
    dropped: tuple[str, ...]
    sent_bytes: int | None
    tree_bytes: int | None

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {"schema": "edgecomp.setup/1", **asdict(self)}


def setup_device(
    transport: Transport,
    *,
    python: str = "python3",
    runtime: str | None = None,
    wheels: Path | None = None,
    progress: Progress | None = None,
) -> SetupReport:
    """Put a runtime onto a device, unless one that fits and works is there.

    Args:
        transport: Reaches the device.
        python: Python on the device that is to have it.
        runtime: Name of the only runtime to consider; None for the best that has wheels.
        wheels: A folder to take them from, without any network.
        progress: Called with (what, step, steps).

    Raises:
        UsageError: `python`, `runtime` or `wheels` makes no sense.
        SetupError: No Python, no wheel for it, no room, or a runtime that does not work there.
        TransportError: The connection was lost; nothing was left, or the next visit removes it.
    """
    _check_options(python, wheels)
    tell = progress or (lambda *_: None)
    session = DeviceSession(transport, python)
    tell("asking the device", 0, _STEPS)
    system = session.ask()
    choices = choose_runtimes(system, runtime, has_own_wheels=wheels is not None)
    if wheels is None and (trial := _try_current(session, system, runtime, tell)):
        return _report(transport.host, "unchanged", system, system.current, trial)
    with tempfile.TemporaryDirectory(prefix="edgecomp-wheels-") as folder:
        tell("choosing wheels", 1, _STEPS)
        choice, found = _fetch(choices, system, Path(folder), wheels)
        tell("unpacking wheels", 2, _STEPS)
        archive = pack_wheels(found.paths)
    installed = _installed(choice, found, system, archive)
    is_there = system.current is not None and system.current.folder == installed.folder
    if is_there and (trial := _try_current(session, system, installed.runtime, tell)):
        return _report(transport.host, "unchanged", system, system.current, trial)
    tell("sending and trying it", 3, _STEPS)
    trial = session.install(archive, choice.runtime.package, installed)
    if trial.problem is not None:
        raise _does_not_work(transport.host, choice.runtime.name, found, trial)
    tell("done", _STEPS, _STEPS)
    return _report(transport.host, "installed", system, installed, trial, why=choice.why, archive=archive)


def remove_runtime(transport: Transport, *, python: str = "python3") -> SetupReport:
    """Remove every private runtime from a device.

    Raises:
        UsageError, SetupError, TransportError: See `setup_device`.
    """
    _check_options(python, None)
    session = DeviceSession(transport, python)
    system = session.ask()
    removed = session.remove()
    return _report(transport.host, "removed" if removed else "absent", system, None, None)


def _check_options(python: str, wheels: Path | None) -> None:
    if not python or python.startswith("-") or not python.isprintable():
        raise UsageError(f"--python is a name or a path, got {python!r}.")
    if wheels is not None and not any(wheels.glob("*.whl")):
        raise UsageError(f"{wheels} is no folder with wheels (*.whl).", hint="`pip download` fills one.")


def _try_current(session: DeviceSession, system: DeviceSystem, runtime: str | None, tell: Progress) -> Trial | None:
    """How the current runtime does, where it is the one wanted, for this very Python, and works; else None."""
    current = system.current
    if current is None or runtime not in (None, current.runtime):
        return None
    package = next((item.package for item in RUNTIMES if item.name == current.runtime), None)
    if package is None or (current.abi, current.architecture) != (system.abi, system.architecture):
        return None
    tell("trying what is there", 0, _STEPS)
    trial = session.check(package)
    return trial if trial.problem is None else None


def _fetch(
    choices: tuple[Choice, ...], system: DeviceSystem, folder: Path, wheels: Path | None
) -> tuple[Choice, Wheels]:
    """The wheels of the first runtime that has some; why the others have none, if none has."""
    refusals: list[NoWheelError] = []
    for number, choice in enumerate(choices):
        target = folder / str(number)
        target.mkdir()
        try:
            return choice, fetch_wheels(choice, system, target, wheels)
        except NoWheelError as error:
            refusals.append(error)
    if len(refusals) == 1:
        raise refusals[0]
    raise SetupError(" ".join(error.message for error in refusals), hint=refusals[-1].hint)


def _installed(choice: Choice, found: Wheels, system: DeviceSystem, archive: Archive) -> Installed:
    return Installed(
        folder=f"runtime-{archive.digest[:16]}",
        runtime=choice.runtime.name,
        version=found.version,
        abi=system.abi,
        architecture=system.architecture,
        own_numpy=found.own_numpy is not None,
        wheels=tuple(path.name for path in found.paths),
    )


def _does_not_work(host: str, runtime: str, found: Wheels, trial: Trial) -> SetupError:
    problem = str(trial.problem)
    hint = "`edgecomp setup --runtime` takes the other runtime, --wheels wheels of your own."
    if "cannot open shared object file" in problem:
        library = problem.split(":")[0].split()[-1]
        hint = f"Install the package of the device's system that has {library} (on Debian, `apt-file search` tells)."
    elif found.own_numpy is not None:
        hint = f"It was tried with the device's own numpy {found.own_numpy}; --wheels can bring another one."
    return SetupError(f"{host}: {runtime} {found.version} does not work there: {problem}. It was removed.", hint=hint)


def _report(
    host: str,
    status: str,
    system: DeviceSystem,
    installed: Installed | None,
    trial: Trial | None,
    *,
    why: str | None = None,
    archive: Archive | None = None,
) -> SetupReport:
    return SetupReport(
        host=host,
        status=status,
        runtime=installed.runtime if installed else None,
        version=installed.version if installed else None,
        why=why,
        numpy=one_line(trial.numpy) if trial and trial.numpy else None,
        own_numpy=installed is not None and installed.own_numpy,
        folder=one_line(f"{system.folder}/{installed.folder}") if installed else None,
        python=one_line(system.python),
        abi=system.abi,
        architecture=system.architecture,
        libc=one_line(system.libc),
        wheels=tuple(one_line(name) for name in installed.wheels) if installed else (),
        dropped=archive.dropped if archive else (),
        sent_bytes=len(archive.data) if archive else None,
        tree_bytes=archive.tree_bytes if archive else None,
    )
