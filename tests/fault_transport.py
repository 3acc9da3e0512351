"""A transport that fails on purpose: it wraps a real one and spoils what a command says.

    FaultTransport(connect("local"), Cut(after_lines=3))            # the first run loses its connection
    FaultTransport(connect("local"), Stall(), times=2)              # two runs are never heard of, the third works

A fault comes after so many lines of stdout were handed on; a run that says less than that is not spoiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecomp.errors import CommandTimeoutError, TransportError
from edgecomp.transports import CommandResult, LineCallback, Transport

HOSTILE_LINES = (
    "",
    "\x1b[2J\x1b]0;owned\x07\x1b[31m",
    "\ufffd\ufffd\x00\x08\u202e",  # As bytes that are no UTF-8 arrive.
    "{",
    "null",
    "[1, 2",
    '{"edgecomp": 1}',
    '{"edgecomp": 1, "type": "samples", "unit": "us", "values": [NaN, -1, "x"]}',
    '{"edgecomp": 1, "type": ["no"], "values": {}}',
    '{"edgecomp": 1, "type": "error", "code": "\\u001b[31m", "message": null, "hint": 7}',
)


@dataclass(frozen=True)
class Cut:
    """The connection is lost; nothing works until the device is connected to anew."""

    after_lines: int = 0


@dataclass(frozen=True)
class Stall:
    """Nothing more arrives, and the time limit ends it. The limit is not really waited for, but said to be over."""

    after_lines: int = 0


@dataclass(frozen=True)
class Garbage:
    """Lines that the command never said."""

    after_lines: int = 0
    lines: Sequence[str] = HOSTILE_LINES


@dataclass(frozen=True)
class HugeLine:
    """One line of so many characters that the command never said."""

    after_lines: int = 0
    chars: int = 32 * 2**20


@dataclass(frozen=True)
class Exit:
    """The command is gone (137: the system was out of memory), and what it would have said with it."""

    after_lines: int = 0
    exit_code: int = 137
    stderr: bytes = b""


Fault = Cut | Stall | Garbage | HugeLine | Exit


class _SpoiledError(Exception):
    """Ends the real command at the line where the fault comes."""


class FaultTransport:
    """Spoils the first `times` runs that reach the fault; files pass, except over a connection that was cut."""

    def __init__(self, inner: Transport, fault: Fault, *, times: int = 1) -> None:
        self._inner = inner
        self._fault = fault
        self._left = times
        self._is_cut = False
        self.host = inner.host
        self.runs = 0

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        hold_stdin: bool = False,
        on_line: LineCallback | None = None,
    ) -> CommandResult:
        self._check()
        self.runs += 1
        said: list[str] = []

        def hear(line: str) -> None:
            if self._left and len(said) == self._fault.after_lines:
                self._spoil(said, on_line)
            _hand_on(line, said, on_line)

        try:
            result = self._inner.run(argv, timeout_s=timeout_s, stdin=stdin, hold_stdin=hold_stdin, on_line=hear)
        except _SpoiledError:
            stdout = "".join(f"{line}\n" for line in said).encode()
            return self._ended(argv, timeout_s, stdout)
        return CommandResult(result.exit_code, "".join(f"{line}\n" for line in said).encode(), result.stderr)

    def put(self, data: bytes, remote_path: str, *, timeout_s: float = 120.0) -> None:
        self._check()
        self._inner.put(data, remote_path, timeout_s=timeout_s)

    def get(self, remote_path: str, *, timeout_s: float = 120.0) -> bytes:
        self._check()
        return self._inner.get(remote_path, timeout_s=timeout_s)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> FaultTransport:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _spoil(self, said: list[str], on_line: LineCallback | None) -> None:
        self._left -= 1
        if isinstance(self._fault, Garbage):
            for line in self._fault.lines:
                _hand_on(line, said, on_line)
        elif isinstance(self._fault, HugeLine):
            _hand_on("x" * self._fault.chars, said, on_line)
        else:
            raise _SpoiledError

    def _ended(self, argv: Sequence[str], timeout_s: float, stdout: bytes) -> CommandResult:
        if isinstance(self._fault, Stall):
            raise CommandTimeoutError(f"{argv[0]} did not end on {self.host} within {timeout_s:g} s.")
        if isinstance(self._fault, Exit):
            return CommandResult(self._fault.exit_code, stdout, self._fault.stderr)
        self._is_cut = True
        self._check()
        raise AssertionError

    def _check(self) -> None:
        if self._is_cut:
            raise TransportError(f"The connection to {self.host} was lost: cut by a test.", hint="Check the link.")


def _hand_on(line: str, said: list[str], on_line: LineCallback | None) -> None:
    said.append(line)
    if on_line is not None:
        on_line(line)
