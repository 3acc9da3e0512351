"""Wheels for another machine, by this machine's own pip: it knows the user's index, proxy and cache.

pip resolves for the device's Python, ABI and platform tags. Only conditions in a wheel's metadata ("python_version <
3.10") are looked at with the Python of this machine; the runtimes have none that matter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from edgecomp.device_setup.choice import Choice, platform_tags
from edgecomp.device_setup.system import DeviceSystem
from edgecomp.errors import SetupError

_TIMEOUT_S = 900.0
# pip says these where the index could not be reached, before it says that there is no such version.
_NO_NETWORK = ("Retrying (", "NewConnectionError", "Could not fetch URL", "ConnectTimeoutError", "ProxyError")
_NO_MATCH = ("No matching distribution found", "ResolutionImpossible", "Could not find a version")


class NoWheelError(SetupError):
    """There is no wheel for this device, but there may be one of another runtime."""


@dataclass(frozen=True)
class Wheels:
    """Files to install.

    Attributes:
        version: Of the runtime.
        own_numpy: Version of the device's own numpy, where that is used for want of a wheel; else None.
    """

    paths: tuple[Path, ...]
    version: str
    own_numpy: str | None


def fetch_wheels(choice: Choice, system: DeviceSystem, target: Path, folder: Path | None) -> Wheels:
    """Put the wheels of a runtime and of all that it needs into a folder.

    Where there is no numpy for the device (32-bit ARM) and it has a fitting one, that is used.

    Args:
        choice: The runtime.
        system: The device.
        target: An empty folder for the wheels.
        folder: Take them from there, without any network.

    Raises:
        NoWheelError: No version has wheels for the device.
        SetupError: No pip, no network, a damaged wheel.
    """
    runtime = choice.runtime
    own_numpy = None
    try:
        _download(runtime.requirements, system, target, folder, with_dependencies=True)
    except NoWheelError:
        if system.numpy is None or not runtime.needs_only_numpy:
            raise
        _download((runtime.name,), system, target, folder, with_dependencies=False)
        own_numpy = system.numpy
    paths = tuple(sorted(target.glob("*.whl")))
    stem = runtime.package.lower() + "-"
    wheel = next((path for path in paths if path.name.lower().startswith(stem)), None)
    if wheel is None:
        raise SetupError(f"pip said nothing, but brought no {runtime.name}.", hint="Try again with a newer pip.")
    if own_numpy is not None:
        _check_numpy(wheel, own_numpy)
    return Wheels(paths, wheel.name.split("-")[1], own_numpy)


def _download(
    requirements: Sequence[str], system: DeviceSystem, target: Path, folder: Path | None, *, with_dependencies: bool
) -> None:
    major, minor = system.python_version
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check",
        "--retries=2", f"--dest={target}", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={major}.{minor}", f"--abi={system.abi}",
        *(f"--platform={tag}" for tag in platform_tags(system)),
    ]  # fmt: skip
    environment = dict(os.environ)
    if folder is not None:
        # Nothing but the folder: no index, no folder of the user's configuration.
        environment = {name: value for name, value in environment.items() if not name.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
        command += ["--no-index", f"--find-links={folder.resolve()}"]
    if not with_dependencies:
        command.append("--no-deps")
    try:
        ended = subprocess.run(
            [*command, "--", *requirements], env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"pip did not end within {_TIMEOUT_S:g} s.", hint="Is the package index reachable?") from error
    if ended.returncode:
        said = (ended.stderr + b"\n" + ended.stdout).decode(errors="replace")
        raise explain_pip(said, requirements[0], system, folder)


def explain_pip(said: str, requirement: str, system: DeviceSystem, folder: Path | None) -> SetupError:
    """What pip's words mean."""
    if "No module named pip" in said:
        return SetupError(
            f"{sys.executable} has no pip, which is to choose the wheels.",
            hint=f"Install it: {sys.executable} -m ensurepip",
        )
    if folder is None and any(sign in said for sign in _NO_NETWORK):
        return SetupError(
            "pip cannot reach the package index.",
            hint="Check this machine's network and pip's configuration, or name a folder of wheels with --wheels.",
        )
    if any(sign in said for sign in _NO_MATCH):
        missing = re.search(r"No matching distribution found for ([\w.-]+)", said)
        name = missing[1] if missing else requirement
        where = "the package index" if folder is None else str(folder)
        hint = None if folder is None else f"It looks for {_file_hint(name, system)}."
        return NoWheelError(f"There is no wheel of {name} for {system} in {where}.", hint=hint)
    damaged = re.search(r"Wheel '([^']+)' located at .* is invalid|Invalid wheel filename[^\n]*", said)
    if damaged:
        return SetupError(f"A wheel is damaged: {damaged[1] or damaged[0]}.", hint="Remove it and get it again.")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1] if lines else "nothing")
    # An address may hold a password.
    last = re.sub(r"\w+://\S+", "<URL>", last.removeprefix("ERROR:").strip())[:300].rstrip(".")
    return SetupError(f"pip could not get the wheels of {requirement}: {last}.")


def _file_hint(name: str, system: DeviceSystem) -> str:
    tags = f"{system.abi}-{system.abi}-{platform_tags(system)[0]}"
    return f"{name.replace('-', '_')}-VERSION-{tags}.whl, or one for older systems"


def _check_numpy(wheel: Path, own_numpy: str) -> None:
    """Whether the device's own numpy is one that the runtime was built for. Raises SetupError."""
    needed = least_numpy(wheel)
    found = _numbers(own_numpy)
    hint = "Put a wheel of numpy beside that of the runtime and name their folder with --wheels (piwheels has some)."
    if found >= (2,):
        raise NoWheelError(f"{wheel.name} needs numpy below 2, and the device has {own_numpy}.", hint=hint)
    if needed is not None and found < _numbers(needed):
        raise NoWheelError(f"{wheel.name} needs numpy {needed} or newer, and the device has {own_numpy}.", hint=hint)


def least_numpy(wheel: Path) -> str | None:
    """The oldest numpy that a wheel's metadata allows; None where it does not say. Raises SetupError."""
    try:
        with zipfile.ZipFile(wheel) as opened:
            name = next(item for item in opened.namelist() if item.endswith(".dist-info/METADATA"))
            headers = HeaderParser().parsestr(opened.read(name).decode(errors="replace"))
    except (zipfile.BadZipFile, OSError, StopIteration) as error:
        raise SetupError(f"A wheel is damaged: {wheel.name}.", hint="Remove it and get it again.") from error
    for requirement in headers.get_all("Requires-Dist", []):
        match = re.match(r"numpy\s*\(?[^;]*>=\s*([\d.]+)", requirement)
        if match:
            return match[1]
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
