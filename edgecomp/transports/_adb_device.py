"""Which Android device an adb target means, and whether it can be used: the user's adb client knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass

from edgecomp.errors import AuthenticationError, ConnectError, TransportError, UsageError
from edgecomp.plain_text import one_line

PROGRAM_VARIABLE = "EDGECOMP_ADB"
SERIAL_VARIABLE = "ANDROID_SERIAL"  # adb's own.
_SHELL_PROTOCOL = "shell_v2"
# A device that was found a moment ago is in one of these for some tenths of a second.
_PASSING_STATES = ("connecting", "authorizing", "offline")
_SETTLE_S = 3.0
_POLL_S = 0.2


@dataclass(frozen=True)
class AdbDevice:
    """A device that is ready.

    Attributes:
        program: The adb client.
        serial: What `adb -s` takes.
    """

    program: str
    serial: str

    @property
    def label(self) -> str:
        """The device in messages and results."""
        return f"adb://{one_line(self.serial)}"

    def shell(self, line: str) -> list[str]:
        """The command that runs a line of shell on the device, without a terminal in between."""
        return [self.program, "-s", self.serial, "shell", "-T", line]


def find_device(address: str, timeout_s: float) -> AdbDevice:
    """The device of a serial, or the only one that is attached; starts the adb server if none runs.

    Args:
        address: A serial, or "" for the only device (or the one that ANDROID_SERIAL names, as for adb itself).
        timeout_s: For each question to adb.

    Raises:
        UsageError: No serial, several devices and none named, or EDGECOMP_ADB names no program.
        ConnectError: No adb, no such device, or it is offline, too old or in another mode.
        AuthenticationError: The device has not been told to trust this computer.
    """
    if address and (address.startswith("-") or any(char.isspace() or not char.isprintable() for char in address)):
        raise UsageError(
            f"An Android device looks like adb://SERIAL, got {'adb://' + one_line(address)!r}.",
            hint="`adb devices` lists the serials.",
        )
    program = _program()
    _ask([program, "start-server"], timeout_s)
    settled_at = time.monotonic() + _SETTLE_S
    while True:
        serial, state = _choose(address or os.environ.get(SERIAL_VARIABLE, ""), _attached(program, timeout_s))
        if state not in _PASSING_STATES or time.monotonic() > settled_at:
            break
        time.sleep(_POLL_S)
    device = AdbDevice(program, serial)
    _check_state(device.label, state)
    if _SHELL_PROTOCOL not in _ask([program, "-s", serial, "features"], timeout_s).split():
        raise ConnectError(
            f"{device.label} is too old: its adb daemon does not pass on exit codes.", hint="Android 7 or later does."
        )
    return device


def _program() -> str:
    named = os.environ.get(PROGRAM_VARIABLE)
    found = shutil.which(named or "adb")
    if found is None and named:
        raise UsageError(f"{named} (from {PROGRAM_VARIABLE}) is not a program that can be run.")
    if found is None:
        raise ConnectError(
            "adb is not installed, and adb:// targets are reached through it.",
            hint=f"Install Android's platform-tools (Debian: adb), or name the program in {PROGRAM_VARIABLE}.",
        )
    return found


def _ask(command: list[str], timeout_s: float) -> str:
    """What adb answers on stdout. Raises ConnectError."""
    try:
        # The server that this may start keeps running, and must not keep our pipes.
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConnectError(
            f"`adb {command[-1]}` did not end within {timeout_s:g} s.", hint="`adb kill-server` starts it afresh."
        ) from error
    except OSError as error:
        raise ConnectError(f"{command[0]} cannot be started: {error.strerror}.") from error
    if answer.returncode != 0:
        raise ConnectError(f"`adb {command[-1]}` failed: {complaint(answer.stderr)}.")
    return answer.stdout.decode(errors="replace")


def complaint(stderr: bytes) -> str:
    """The line of an adb client's stderr that says what is wrong."""
    lines = [one_line(line) for line in stderr.splitlines()]
    lines = [line for line in lines if line and not line.startswith("* daemon")]
    return lines[0].removeprefix("adb: ").removeprefix("error: ").rstrip(".") if lines else "it did not say why"


def _attached(program: str, timeout_s: float) -> dict[str, str]:
    """State by serial; the states are adb's words."""
    lines = _ask([program, "devices"], timeout_s).splitlines()
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def _choose(serial: str, attached: dict[str, str]) -> tuple[str, str]:
    listed = ", ".join(sorted(one_line(name) for name in attached))
    if serial in attached:
        return serial, attached[serial]
    if serial:
        raise ConnectError(
            f"There is no Android device {one_line(serial)}; attached: {listed or 'none'}.",
            hint="Is it plugged in, with USB debugging on? One in the network needs `adb connect HOST:PORT` first.",
        )
    if not attached:
        raise ConnectError(
            "No Android device is attached.",
            hint="Plug one in, with USB debugging on, or use `adb connect HOST:PORT`; `adb devices` must list it.",
        )
    if len(attached) > 1:
        raise UsageError(f"{len(attached)} Android devices are attached: {listed}.", hint="Name one: adb://SERIAL.")
    return next(iter(attached.items()))


def _check_state(label: str, state: str) -> None:
    if state == "device":
        return
    if state in ("unauthorized", "authorizing"):
        raise AuthenticationError(
            f"{label} has not been told to trust this computer.",
            hint="Unlock it and answer its question about USB debugging; `adb kill-server` makes it ask again.",
        )
    if state == "offline":
        raise ConnectError(f"{label} is offline.", hint="Plug it in again, or try `adb reconnect offline`.")
    if state.startswith("no permissions"):
        raise ConnectError(
            f"{label} cannot be opened by this user: {one_line(state)}.",
            hint="Debian: the package android-sdk-platform-tools-common has the udev rules.",
        )
    raise ConnectError(f"{label} is not ready: its state is {one_line(state)!r}.", hint="It must have started Android.")


def lost(label: str, stderr: bytes) -> TransportError:
    """The device went away while a command ran."""
    why = f": {complaint(stderr)}" if stderr.strip() else ""
    return TransportError(
        f"The connection to {label} was lost{why}.", hint="Check the cable or the network, try again."
    )
