"""A board without a shell, behind the host that this runs on: flash it, run it, hand on what it says.

The board says one JSON object a line, over a serial port or as the output of the command that runs it
(docs/attached.md); whatever else it prints is passed over. Every round resets it: that is its fresh process.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from typing import Any, Iterator

from .protocol import AgentError, Say, first_line
from .timing import PARENT

MARK = b'{"edgecomp_board": 1, '
POLL_S = 0.5
LONGEST_LINE_BYTES = 1 << 20
MOST_BYTES = 1 << 26
LAST_LINES = 3


def run_attached(job: Any, folder: str, say: Say) -> None:
    """Flash once, then run round by round, and say everything that the board says.

    Args:
        job: `flash` and `run`, argument vectors or None; `serial` and `baud`, or None for the output of `run`;
            `rounds`; `flash_seconds` and `round_seconds`, what they may take.
        folder: Where the commands run; the files of the job are in it.
        say: Takes the messages.

    Raises:
        AgentError: A command cannot be started or fails, the port cannot be opened, or the board ends too late.
    """
    say("configuration", configuration=0)
    if job["flash"] is not None:
        say("stage", configuration=0, name="flashing")
        _flash(job["flash"], folder, job["flash_seconds"])
    for number in range(job["rounds"]):
        say("round", configuration=0, round=number)
        say("stage", configuration=0, name=f"running round {number + 1}")
        for message in _round(job, folder):
            say("board", configuration=0, message=message)
    say("done", rounds=job["rounds"])


def _start(argv: list[str], folder: str, stdout: Any) -> Any:
    try:
        return subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT)
    except OSError as error:
        raise AgentError("board", f"{argv[0]} cannot be started there: {error.strerror}.") from error


def _flash(argv: list[str], folder: str, seconds: float) -> None:
    child = _start(argv, folder, subprocess.PIPE)
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise AgentError("board", f"{argv[0]} did not flash the board within {seconds:g} s.") from None
    if child.returncode != 0:
        raise AgentError(
            "board", f"{argv[0]} did not flash the board (exit code {child.returncode}).", _last_words(output)
        )


def _round(job: Any, folder: str) -> Iterator[Any]:
    """Messages of the board from its reset to its "done"."""
    port = None if job["serial"] is None else _open_port(job["serial"], job["baud"])
    child: Any = None
    try:
        if job["run"] is not None:
            child = _start(job["run"], folder, subprocess.PIPE if port is None else subprocess.DEVNULL)
        descriptor: int = child.stdout.fileno() if port is None else port
        for message in _messages(descriptor, job["round_seconds"]):
            yield message
            if message.get("type") in ("done", "error"):
                return
        code = child.wait(10) if child is not None and port is None else None
        ended = "" if code is None else f" (exit code {code})"
        raise AgentError("board", f"The board ended before it said that it was done{ended}.")
    finally:
        if port is not None:
            os.close(port)
        if child is not None:
            if child.poll() is None:
                child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


def _messages(descriptor: int, seconds: float) -> Iterator[Any]:
    """What is said on a descriptor, parsed; the end of the descriptor ends it."""
    deadline = time.monotonic() + seconds
    pending, total = b"", 0
    noise: list[bytes] = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise AgentError(
                "board", f"The board did not say that it was done within {seconds:g} s.", _last_words(b"\n".join(noise))
            )
        ready, _, _ = select.select([descriptor], [], [], min(left, POLL_S))
        if os.getppid() != PARENT:
            raise AgentError("orphan", "The process that started the measurement is gone.")
        if not ready:
            continue
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError as error:  # A pty whose other end is gone, a USB cable that was pulled.
            raise AgentError("board", f"The connection to the board broke: {error.strerror}.") from error
        if not data:
            return
        total += len(data)
        if total > MOST_BYTES:
            raise AgentError("board", f"The board said more than {MOST_BYTES >> 20} MiB.")
        lines = (pending + data).split(b"\n")
        pending = lines.pop()[:LONGEST_LINE_BYTES]
        for line in lines:
            line = line.strip()
            if not line.startswith(MARK):
                noise = [*noise, line][-LAST_LINES:] if line else noise
                continue
            try:
                yield json.loads(line.decode("ascii"))
            except ValueError as error:
                raise AgentError("board", f"The board does not speak the protocol: {first_line(error)}.") from error


def _open_port(path: str, baud: int) -> int:
    """A serial port, raw, with what was in it thrown away."""
    import termios  # Not on every system that has Python.

    try:
        port = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise AgentError("board", f"The serial port {path} cannot be opened: {error.strerror}.") from error
    try:
        speed = getattr(termios, f"B{baud}")
        settings = termios.tcgetattr(port)
        settings[0] = settings[1] = settings[3] = 0  # No translation, no echo, no lines.
        settings[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
        settings[4] = settings[5] = speed
        termios.tcsetattr(port, termios.TCSANOW, settings)
        termios.tcflush(port, termios.TCIFLUSH)
    except AttributeError:
        os.close(port)
        raise AgentError("board", f"This system has no serial speed of {baud} baud.") from None
    except (OSError, termios.error) as error:
        os.close(port)
        raise AgentError("board", f"{path} is no serial port: {first_line(error)}.") from error
    return port


def _last_words(output: bytes) -> str | None:
    text = output.decode("utf-8", "replace")
    lines = ["".join(char for char in line if char.isprintable()).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    return f"Its last words: {lines[-1][:300]!r}" if lines else None
