"""The host's side of the installer: send it, ask it, and turn what it says into values or errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import edgecomp.agent
from edgecomp.agent.on_device.protocol import MARK
from edgecomp.agent.packing import BOOT
from edgecomp.agent.remote import describe_exit
from edgecomp.device_setup.archive import Archive
from edgecomp.device_setup.system import DeviceSystem, Installed, how_to_get_python
from edgecomp.errors import SetupError, TransportError
from edgecomp.transports import CommandResult, Transport, one_line
from edgecomp.units import format_bytes

_MODULES = {
    "edgecomp.agent.on_device.machine": ("agent", "on_device", "machine.py"),
    "edgecomp.agent.on_device.private_runtime": ("agent", "on_device", "private_runtime.py"),
    "edgecomp.device_setup.installer": ("device_setup", "installer.py"),
}
# Stands in for an import system that reads files: each module is made from its text under its own name.
_LOADER = """
import sys, types
def load(name, text):
    module = sys.modules[name] = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    exec(compile(text, name, "exec"), module.__dict__)
    return module
for name, text in {modules!r}:
    last = load(name, text)
sys.exit(last.main())
"""
_HERE = Path(__file__).parent
_INPUT, _OUTPUT = [[1.0, 2.0, 3.0, 4.0]], [[30.5, 1.0]]  # See scripts/make_trial_model.py.
_TRIAL_S = 180.0  # The first import of a runtime from an SD card takes a Pi Zero half a minute.
_ASK_S = 60.0
# A link that brings less than this is taken for dead.
_LEAST_BYTES_PER_S = 20_000
_GRACE_S = 20.0
_NO_COMMAND = (126, 127)
_NOISE_LINES = 1000
_SPARE_BYTES = 4 * 2**20


class Trial(BaseModel):
    """How the runtime did on the device: its outputs and its numpy, or what went wrong."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    values: list[list[float]] | None = None
    numpy: str | None = None
    error: str | None = None
    exit_code: int | None = None
    last_words: str = ""

    @property
    def problem(self) -> str | None:
        """What is wrong, as the end of a sentence; None where it works."""
        if self.error is not None:
            return one_line(self.error).rstrip(".")
        if self.values is not None:
            return None if self.values == _OUTPUT else f"it computes {self.values} instead of {_OUTPUT}"
        words = one_line(self.last_words)
        how = describe_exit(self.exit_code if self.exit_code is not None else 1)
        return how + (f"; its last words: {words!r}" if words else "")


class DeviceSession:
    """Asks the device to do one thing at a time.

    Raises:
        SetupError: From every method: no Python, one that is too old, or what the device says.
        CommandTimeoutError, TransportError: From every method: see `Transport.run`.
    """

    def __init__(self, transport: Transport, python: str) -> None:
        self._transport = transport
        self._python = python

    def ask(self) -> DeviceSystem:
        """What the device is. Leftovers of a visit that was killed are removed."""
        try:
            return DeviceSystem.model_validate(self._talk("ask", {}, b"", _ASK_S))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise self._nonsense(f"{where}: {error.errors()[0]['msg']}") from error

    def check(self, package: str) -> Trial:
        """Try the runtime that is there."""
        return self._trial(self._talk("check", {"trial": _trial(package)}, b"", _TRIAL_S + _ASK_S))

    def install(self, archive: Archive, package: str, installed: Installed) -> Trial:
        """Send a runtime; it becomes the current one only if it works there.

        Args:
            archive: Its files.
            package: What is imported.
            installed: What `runtime.json` is to say.
        """
        header = {
            "archive_bytes": len(archive.data),
            "archive_sha256": archive.sha256,
            "needed_bytes": archive.tree_bytes + _SPARE_BYTES,
            "pointer": installed.model_dump(mode="json"),
            "trial": _trial(package),
        }
        # Unpacking onto a slow SD card takes its time, too.
        timeout_s = len(archive.data) / _LEAST_BYTES_PER_S + _TRIAL_S + _ASK_S
        return self._trial(self._talk("install", header, archive.data, timeout_s))

    def remove(self) -> tuple[str, ...]:
        """Remove all private runtimes; the names of their folders."""
        removed = self._talk("remove", {}, b"", _ASK_S).get("removed")
        if not isinstance(removed, list):
            raise self._nonsense("it does not say what it removed")
        return tuple(one_line(str(name)) for name in removed)

    def _trial(self, answer: Mapping[str, Any]) -> Trial:
        try:
            return Trial.model_validate(answer.get("trial"))
        except ValidationError as error:
            raise self._nonsense(error.errors()[0]["msg"]) from error

    def _talk(self, action: str, header: Mapping[str, object], payload: bytes, timeout_s: float) -> dict[str, Any]:
        program = _program()
        head = json.dumps({**header, "action": action, "deadline_s": timeout_s}).encode() + b"\n"
        listener = _Listener()
        try:
            result = self._transport.run(
                [self._python, "-c", BOOT, str(len(program))],
                timeout_s=timeout_s + _GRACE_S,
                stdin=b"".join([program, head, payload]),
                on_line=listener.hear,
            )
        except ValueError as error:  # RecursionError and UnicodeError are no news either: it is no JSON of ours.
            raise self._nonsense(str(error)) from error
        if listener.last is None:
            raise self._silent(listener, result)
        if listener.last.get("type") == "error":
            raise self._reported(listener.last, header)
        return listener.last

    def _reported(self, said: Mapping[str, Any], header: Mapping[str, object]) -> SetupError:
        """The problem that the device reported."""
        host, code = self._transport.host, said.get("code")
        if not isinstance(said.get("message"), str):
            return self._nonsense("it names no problem")
        message = one_line(said["message"]).rstrip(".")
        if code == "disk":
            free, needed = said.get("free_bytes"), header.get("needed_bytes")
            room = f" ({format_bytes(free)} are free)" if isinstance(free, int) else ""
            need = f"the runtime needs {format_bytes(needed)}" if isinstance(needed, int) else "there is no room"
            return SetupError(
                f"{host}: The disk of the home folder is full: {need}{room}. Nothing was left there.",
                hint="Free some room on the device (`df` shows it) and try again.",
            )
        if code == "device":
            where = one_line(str(said.get("path") or "~/.local/share/edgecomp"))
            return SetupError(
                f"{host}: {where} cannot be used: {message}.",
                hint="The runtime goes below the home folder of the user that logs in: it must exist and be writable.",
            )
        hints = {"busy": "Wait for it and try again.", "cut": "Try again.", "damaged": "Try again."}
        return SetupError(f"{host}: {message}.", hint=hints.get(str(code)))

    def _silent(self, listener: _Listener, result: CommandResult) -> SetupError:
        """Why there was no answer."""
        host, python = self._transport.host, self._python
        words = _last_words(result)
        if result.exit_code in _NO_COMMAND:
            return SetupError(f"There is no {python} on {host}.", hint=self._how_to_get_python())
        if "Python 3.7 or newer is needed" in words:
            return SetupError(
                f"{python} on {host} is too old: {words}.",
                hint="Name a newer one with --python, or update the device: no TFLite runtime works with it.",
            )
        said = words or one_line(listener.noise)
        return SetupError(
            f"{python} on {host} is no Python that answers (exit code {result.exit_code}).",
            hint=f"Its last words: {said!r}" if said else None,
        )

    def _how_to_get_python(self) -> str:
        os_release, is_android = "", False
        with contextlib.suppress(TransportError):
            os_release = self._transport.run(["cat", "/etc/os-release"], timeout_s=10).stdout.decode(errors="replace")
            if not os_release:
                is_android = b"Android" in self._transport.run(["uname", "-o"], timeout_s=10).stdout
        return how_to_get_python(os_release, is_android)

    def _nonsense(self, why: str) -> SetupError:
        return SetupError(f"{self._python} on {self._transport.host} does not speak our protocol: {one_line(why)}.")


class _Listener:
    """Keeps the last message of the protocol, and the first line of anything else."""

    def __init__(self) -> None:
        self.last: dict[str, Any] | None = None
        self.noise = ""
        self._noise_lines = 0

    def hear(self, line: str) -> None:
        """One line of stdout. Raises ValueError where no Python of ours is talking."""
        if not line.startswith(MARK.decode()):
            self.noise = self.noise or line.strip()[:200]
            self._noise_lines += 1
            if self._noise_lines > _NOISE_LINES:
                raise ValueError(f"it printed {self.noise!r} and more like it")
            return
        try:
            said = json.loads(line)
        except RecursionError as error:
            raise ValueError("its JSON is nested too deeply") from error
        if said.get("type") in ("done", "error"):
            self.last = said


def _program() -> bytes:
    """The installer and what it imports as one text."""
    packages = ("edgecomp", "edgecomp.agent", "edgecomp.agent.on_device", "edgecomp.device_setup")
    root = Path(edgecomp.agent.__file__).parent.parent
    modules = [(name, "") for name in packages]
    modules += [(name, root.joinpath(*parts).read_text("utf-8")) for name, parts in _MODULES.items()]
    return _LOADER.replace("{modules!r}", ascii(modules)).encode("ascii")


def _trial(package: str) -> dict[str, object]:
    return {
        "program": (_HERE / "trial.py").read_text("utf-8"),
        "model": (_HERE / "trial.tflite").read_bytes().hex(),
        "job": {"package": package, "input": _INPUT},
        "output": _OUTPUT,
        "timeout_s": _TRIAL_S,
    }


def _last_words(result: CommandResult) -> str:
    lines = [line for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
    return one_line(lines[-1]).rstrip(".") if lines else ""
