"""The emulator, and the plugin that counts in it: found, and compiled when it is first needed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgecomp.errors import SimulationError, did_you_mean
from edgecomp.files import sha256_of

PROGRAM = "qemu-aarch64"
SOURCE = Path(__file__).with_name("counter.c")
CLASSES = ("instructions", "dot_product", "int8_matrix", "half_precision")
"""What a line of the plugin counts, in this order."""

_INSTALL = (
    "Debian 12: apt-get install --no-install-recommends qemu-user; elsewhere a QEMU that is not linked statically"
)
_COMPILE_TIMEOUT_S = 120
_ASK_TIMEOUT_S = 30


@dataclass(frozen=True)
class Emulator:
    """A QEMU that takes plugins.

    Attributes:
        path: Of qemu-aarch64.
        version: "7.2.22".
    """

    path: str
    version: str

    @property
    def plugin_api(self) -> int:
        """Version of the interface to compile the plugin for; see counter.c."""
        major, minor = (int(part) for part in self.version.split(".")[:2])
        return 1 if major < 9 else 2 if (major, minor) == (9, 0) else 3


def _ask(program: str, *words: str) -> str:
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SimulationError(f"{program} cannot be run: {error}.") from error
    return done.stdout


def find_emulator(cpu: str) -> Emulator:
    """The emulator on the search path.

    Args:
        cpu: A core that it has to know.

    Raises:
        SimulationError: There is none, it takes no plugins, or does not know the core.
    """
    if sys.platform != "linux":
        raise SimulationError("Only Linux can run aarch64 programs under QEMU's user mode; this is another system.")
    path = shutil.which(PROGRAM)
    if path is None:
        raise SimulationError(f"{PROGRAM} is not installed.", hint=f"{_INSTALL}.")
    if "-plugin" not in _ask(path, "--help"):
        # Statically linked programs cannot load anything; from Debian 13 on qemu-user is one.
        raise SimulationError(f"{path} takes no plugins: it is linked statically.", hint=f"{_INSTALL}.")
    version = re.search(r"version (\d+\.\d+\S*)", _ask(path, "--version"))
    if version is None:
        raise SimulationError(f"{path} does not tell its version.")
    known = [line.strip() for line in _ask(path, "-cpu", "help").splitlines() if line.startswith(" ")]
    if cpu not in known:
        raise SimulationError(f"QEMU {version[1]} does not know {cpu}.", hint=did_you_mean(cpu, known))
    return Emulator(path, version[1])


def cache_folder() -> Path:
    """The user's own folder for what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore a relative one.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgecomp"


def build_plugin(emulator: Emulator) -> Path:
    """The compiled plugin, from the cache if it is there. The name says what it was made from.

    Raises:
        SimulationError: There is no C compiler, it failed, or the cache cannot be written.
    """
    options = ["-O2", "-shared", "-fPIC", f"-DPLUGIN_API={emulator.plugin_api}"]
    digest = sha256_of(SOURCE.read_bytes() + " ".join(options).encode())
    path = cache_folder() / f"instruction-counter-{digest[:24]}.so"
    if path.is_file():
        return path
    compiler = shutil.which("cc")
    if compiler is None:
        hint = "Install: apt-get install --no-install-recommends gcc libc6-dev."
        raise SimulationError("There is no C compiler (cc) to build the instruction counter with.", hint=hint)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _compile([compiler, *options, "-o", str(temporary), str(SOURCE)])
        temporary.replace(path)
    except OSError as error:
        raise SimulationError(
            f"The instruction counter cannot be written to {path.parent}: {error.strerror}.",
            hint="XDG_CACHE_HOME names another folder.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SimulationError(f"{command[0]} did not end within {_COMPILE_TIMEOUT_S} s.") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        reason = lines[0].strip() if lines else f"exit code {done.returncode}"
        raise SimulationError(f"{command[0]} did not compile the instruction counter: {reason}.")
