"""This machine as a device: the same contract without a network."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from edgecomp.errors import CommandTimeoutError, TransportError, UsageError
from edgecomp.plain_text import one_line
from edgecomp.transports._base import (
    MAX_FILE_BYTES,
    STOP_GRACE_S,
    CommandResult,
    ConnectOptions,
    LineCallback,
    OutputCollector,
    check_file_size,
    check_words,
)
from edgecomp.transports._process import close_pipes, exchange, present


class LocalTransport:
    """Commands as child processes, each in a session of its own so that it ends with all that it started."""

    host = "local"

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        hold_stdin: bool = False,
        on_line: LineCallback | None = None,
    ) -> CommandResult:
        """See `Transport.run`."""
        check_words(argv)
        name = one_line(argv[0])
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                list(argv), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
            )
        except FileNotFoundError:
            return CommandResult(127, b"", f"{argv[0]}: not found\n".encode())
        except PermissionError:
            return CommandResult(126, b"", f"{argv[0]}: permission denied\n".encode())
        except OSError as error:
            raise TransportError(f"{name} cannot be started: {error.strerror}.") from error
        output = OutputCollector(self.host, on_line)
        try:
            deadline = time.monotonic() + timeout_s
            exchange(process, stdin, hold_stdin, output.add_stdout, output.add_stderr, deadline)
        except TimeoutError:
            _stop(process)
            raise CommandTimeoutError(f"{name} did not end on this machine within {timeout_s:g} s.") from None
        except BaseException:
            _stop(process)
            raise
        finally:
            # What the command left running in its session goes with it.
            _signal_session(process, signal.SIGKILL)
            process.wait()
            close_pipes(process)
        code = process.returncode
        return output.result(code if code >= 0 else 128 - code)

    def put(self, data: bytes, remote_path: str, *, timeout_s: float = 120.0) -> None:  # noqa: ARG002
        """See `Transport.put`; a local write has no time limit."""
        check_words([remote_path])
        part = Path(f"{remote_path}.part-{secrets.token_hex(4)}")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "wb") as stream:
                    stream.write(data)
                part.replace(remote_path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            where = f"{one_line(remote_path)} cannot be written on this machine"
            raise TransportError(f"{where}: {error.strerror}.") from error

    def get(self, remote_path: str, *, timeout_s: float = 120.0) -> bytes:  # noqa: ARG002
        """See `Transport.get`; a local read has no time limit."""
        check_words([remote_path])
        try:
            with open(remote_path, "rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            where = f"{one_line(remote_path)} cannot be read on this machine"
            raise TransportError(f"{where}: {error.strerror}.") from error
        check_file_size(len(data), remote_path, self.host)
        return data

    def close(self) -> None:
        """Nothing is held between calls."""

    def __enter__(self) -> LocalTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _signal_session(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End of stdin and SIGTERM, so that the command can clean up after itself."""
    with contextlib.suppress(OSError):
        present(process.stdin).close()
    _signal_session(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_GRACE_S)


def open_local(address: str, options: ConnectOptions) -> LocalTransport:  # noqa: ARG001
    """The local transport; it has no address and no options.

    Raises:
        UsageError: An address was given.
    """
    if address:
        raise UsageError(f'The target of this machine is "local", got {"local://" + address!r}.')
    return LocalTransport()


TRANSPORT = open_local
