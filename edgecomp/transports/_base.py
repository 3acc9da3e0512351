"""What every way of reaching a device has in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgecomp.errors import TransportError, UsageError
from edgecomp.plain_text import one_line

MAX_OUTPUT_BYTES = 64 * 2**20
"""What a command may print in all; a device that prints without end must not fill the host's memory."""

MAX_FILE_BYTES = 2**30
"""What a file may hold that is read from a device, for the same reason."""

STOP_GRACE_S = 5.0
"""How long a command that is ended early has to clean up after itself before it is killed."""

LineCallback = Callable[[str], None]
NoticeCallback = Callable[[str], None]


def say_on_stderr(notice: str) -> None:
    """Where a notice goes that the caller takes no care of: it must not go unseen."""
    sys.stderr.write(f"{notice}\n")


@dataclass(frozen=True)
class CommandResult:
    """How a command on the device ended.

    Attributes:
        exit_code: Its exit status; 128 + N where signal N ended it, 127 where there is no such command.
        stdout, stderr: All that it printed.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class ConnectOptions:
    """How to reach the device, as far as the target itself does not say.

    Attributes:
        ssh_config: OpenSSH client configuration to read; None for the user's own.
        known_hosts: The only file of trusted host keys; None for those that the configuration names.
        identity: The only private key to offer; None for those that the configuration and the agent know.
        connect_timeout_s: For connection, key exchange and login together.
        accept_new_host_key: Trust the key of a host that is not in known_hosts, and add it there. A key that has
            changed or is revoked stays an error.
        notify: Told about each key that was added, with its fingerprint, maybe from another thread.
    """

    ssh_config: Path | None = None
    known_hosts: Path | None = None
    identity: Path | None = None
    connect_timeout_s: float = 15.0
    accept_new_host_key: bool = False
    notify: NoticeCallback = say_on_stderr


class Transport(Protocol):
    """A connection to one device. One call at a time; commands are argument vectors, never shell text.

    Attributes:
        host: What to call the device in messages and results; never holds a secret.
    """

    host: str

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        hold_stdin: bool = False,
        on_line: LineCallback | None = None,
    ) -> CommandResult:
        """Run a command to its end.

        A command that does not end in time, or whose `on_line` raises, loses its stdin and gets SIGTERM; after
        `STOP_GRACE_S` it is killed. OpenSSH passes no signals on where root is logged in: there a command ends
        early only if it minds its stdin.

        Args:
            argv: The command and its arguments; a relative path starts where the transport starts.
            timeout_s: From start to end.
            stdin: Given to the command.
            hold_stdin: Keep stdin open after `stdin` was sent, so that its end tells the command that we are gone.
            on_line: Called with each line of stdout as it arrives, maybe from another thread.

        Raises:
            UsageError: `argv` is empty, or cannot be a command line.
            CommandTimeoutError: It did not end in time.
            TransportError: The connection was lost, or it printed more than `MAX_OUTPUT_BYTES`.
        """
        ...

    def put(self, data: bytes, remote_path: str, *, timeout_s: float = 120.0) -> None:
        """Write a file on the device, whole or not at all, readable by its owner only.

        Raises:
            CommandTimeoutError: It took too long.
            TransportError: The device refused it, or the connection was lost.
        """
        ...

    def get(self, remote_path: str, *, timeout_s: float = 120.0) -> bytes:
        """Read a file from the device.

        Raises:
            CommandTimeoutError: It took too long.
            TransportError: The device refused it, it holds more than `MAX_FILE_BYTES`, or the connection was lost.
        """
        ...

    def close(self) -> None:
        """Let go of the device. Safe to call twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_words(words: Sequence[str]) -> None:
    """Refuse arguments and paths that no system takes.

    Raises:
        UsageError: No words, one with a NUL in it, or one that is not Unicode text.
    """
    if not words:
        raise UsageError("A command has at least its own name, got no words.")
    for word in words:
        if "\0" in word or word != word.encode(errors="replace").decode():
            got = one_line(repr(word))
            raise UsageError(f"A word of a command, or a path, is UTF-8 text without NUL, got {got}.")


def check_file_size(size_bytes: int, remote_path: str, host: str) -> None:
    """Raises TransportError for a file that is larger than `MAX_FILE_BYTES`."""
    if size_bytes > MAX_FILE_BYTES:
        raise TransportError(
            f"{one_line(remote_path)} on {host} holds more than {MAX_FILE_BYTES // 2**20} MiB: it was not read."
        )


class OutputCollector:
    """Gathers what a command prints, and hands its stdout on line by line."""

    def __init__(self, host: str, on_line: LineCallback | None) -> None:
        self._host = host
        self._on_line = on_line
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._lines_end = 0  # Where the lines end that were handed on.
        self._searched_end = 0  # Up to where there is no further newline.

    def add_stdout(self, data: bytes) -> None:
        """Raises TransportError beyond `MAX_OUTPUT_BYTES`."""
        self._stdout += data
        self._check()
        if self._on_line is None:
            return
        while (newline := self._stdout.find(b"\n", self._searched_end)) >= 0:
            line = self._stdout[self._lines_end : newline]
            self._lines_end = self._searched_end = newline + 1
            self._on_line(line.decode(errors="replace").rstrip("\r"))
        self._searched_end = len(self._stdout)

    def add_stderr(self, data: bytes) -> None:
        """Raises TransportError beyond `MAX_OUTPUT_BYTES`."""
        self._stderr += data
        self._check()

    @property
    def stderr(self) -> bytes:
        """So much of it as has arrived."""
        return bytes(self._stderr)

    def result(self, exit_code: int) -> CommandResult:
        """What was gathered; a last line without its newline is handed on first."""
        if self._on_line is not None and self._lines_end < len(self._stdout):
            self._on_line(self._stdout[self._lines_end :].decode(errors="replace"))
            self._lines_end = len(self._stdout)
        return CommandResult(exit_code, bytes(self._stdout), bytes(self._stderr))

    def _check(self) -> None:
        if len(self._stdout) + len(self._stderr) > MAX_OUTPUT_BYTES:
            raise TransportError(
                f"A command on {self._host} printed more than {MAX_OUTPUT_BYTES // 2**20} MiB and was stopped."
            )
