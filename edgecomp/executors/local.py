"""Worker processes on this machine: one child each, kept and reused, one call at a time.

Heavy libraries are imported in workers only. A worker's stdout and stderr go to a log file, so whatever a library
prints stays out of edgecomp's own output; requests and replies are pickles over the child's original stdin and stdout.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from edgecomp.errors import EdgecompError, WorkerError

_LENGTH = struct.Struct("<Q")

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how many are done, how many in all)."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def write_message(stream: IO[bytes], message: object) -> None:
    """One length-prefixed pickle."""
    payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(payload)) + payload)
    stream.flush()


def read_message(stream: IO[bytes]) -> Any:
    """The next message. Raises EOFError where the other side is gone."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(header)
    payload = stream.read(size)
    if len(payload) < size:
        raise EOFError
    return pickle.loads(payload)  # noqa: S301  Both ends of the pipe are this program.


class Worker:
    """One child process that runs functions of edgecomp by their dotted name.

    The child is started at the first call and again after it died. It is a session of its own, so that Ctrl-C
    reaches only the parent, which then ends it together with whatever it started.

    Attributes:
        log_path: What the child and its libraries print.
        has_failed: Whether anything unforeseen happened, so that the log is worth keeping.
    """

    def __init__(self, name: str, log_path: Path, *, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.log_path = log_path
        self.has_failed = False
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._busy = threading.Lock()

    def preload(self, *modules: str) -> None:
        """Start the child and have it import modules; the parent does not wait."""
        self._send(("preload", modules, {}))

    def call(self, function: str, /, *, progress: Progress | None = None, **arguments: object) -> Any:
        """Run `package.module:function` in the child and return what it returns. Threads take turns.

        Raises:
            EdgecompError: The function raised one; it is raised here again.
            WorkerError: The function raised something unforeseen, or the child died.
        """
        with self._busy:
            return self._call(function, arguments, progress)

    def _call(self, function: str, arguments: dict[str, object], progress: Progress | None) -> Any:
        replies = self._send(("call", function, arguments))
        while True:
            try:
                kind, value = read_message(replies)
            except EOFError:
                raise self._obituary(function) from None
            if kind == "progress":
                if progress is not None:
                    progress(*value)
            elif kind == "result":
                return value
            elif isinstance(value, EdgecompError):
                raise value
            else:
                self.has_failed = True
                raise WorkerError(f"{function} failed unexpectedly: {value}.", hint=f"Log: {self.log_path}")

    def close(self) -> None:
        """End the child and everything it started. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def _send(self, message: tuple[str, object, dict[str, object]]) -> IO[bytes]:
        """Send a request to the child, which is started if need be; returns the stream of its replies."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgecomp.executors._child", str(self.log_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | self._environment,
                start_new_session=True,
            )
        requests, replies = self._process.stdin, self._process.stdout
        if requests is None or replies is None:
            raise WorkerError(f"The {self.name} worker has no pipes.")
        try:
            write_message(requests, message)
        except BrokenPipeError:
            raise self._obituary(str(message[1])) from None
        return replies

    def _obituary(self, function: str) -> WorkerError:
        if self._process is None:
            return WorkerError(f"The {self.name} worker was closed in {function}.")
        self.has_failed = True
        code = self._process.wait()
        self.close()
        how = f"exit code {code}"
        if code < 0:
            how = f"signal {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += ", most likely for want of memory"
        return WorkerError(f"The {self.name} worker died in {function} ({how}).", hint=f"Log: {self.log_path}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
