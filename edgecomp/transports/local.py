"""This machine as a device: the same contract without a network."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from edgecomp.errors import CommandTimeoutError, TransportError, UsageError
from edgecomp.transports._base import (
    STOP_GRACE_S,
    CommandResult,
    ConnectOptions,
    LineCallback,
    OutputCollector,
)

_CHUNK_BYTES = 1 << 16
_ORPHAN_WAIT_S = 0.5


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
            raise TransportError(f"{argv[0]} cannot be started: {error.strerror}.") from error
        output = OutputCollector(self.host, on_line)
        try:
            _exchange(process, stdin, hold_stdin, output, time.monotonic() + timeout_s)
        except TimeoutError:
            _stop(process)
            raise CommandTimeoutError(f"{argv[0]} did not end on this machine within {timeout_s:g} s.") from None
        except BaseException:
            _stop(process)
            raise
        finally:
            # What the command left running in its session goes with it.
            _signal_session(process, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        code = process.returncode
        return output.result(code if code >= 0 else 128 - code)

    def put(self, data: bytes, remote_path: str, *, timeout_s: float = 120.0) -> None:  # noqa: ARG002
        """See `Transport.put`; a local write has no time limit."""
        path = Path(remote_path)
        part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "wb") as stream:
                    stream.write(data)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise TransportError(f"{remote_path} cannot be written on this machine: {error.strerror}.") from error

    def get(self, remote_path: str, *, timeout_s: float = 120.0) -> bytes:  # noqa: ARG002
        """See `Transport.get`; a local read has no time limit."""
        try:
            return Path(remote_path).read_bytes()
        except OSError as error:
            raise TransportError(f"{remote_path} cannot be read on this machine: {error.strerror}.") from error

    def close(self) -> None:
        """Nothing is held between calls."""

    def __enter__(self) -> LocalTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _exchange(
    process: subprocess.Popen[bytes], stdin: bytes, hold_stdin: bool, output: OutputCollector, deadline: float
) -> None:
    """Feed stdin and read both outputs until the process has ended. Raises TimeoutError."""
    readers = {_present(process.stdout): output.add_stdout, _present(process.stderr): output.add_stderr}
    pending = memoryview(stdin)
    ended_at: float | None = None
    with selectors.DefaultSelector() as selector:
        for stream, take in readers.items():
            selector.register(stream, selectors.EVENT_READ, take)
        feed = _present(process.stdin)
        if pending:
            os.set_blocking(feed.fileno(), False)
            selector.register(feed, selectors.EVENT_WRITE)
        elif not hold_stdin:
            feed.close()
        while any(key.events == selectors.EVENT_READ for key in selector.get_map().values()):
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError
            ready = selector.select(min(deadline - now, 0.1))
            for key, _ in ready:
                if key.fileobj is feed:
                    pending = _write_some(feed, pending)
                    if not pending:
                        selector.unregister(feed)
                        if not hold_stdin:
                            feed.close()
                elif data := os.read(key.fd, _CHUNK_BYTES):
                    key.data(data)
                else:
                    selector.unregister(key.fileobj)
            # A grandchild may hold the pipes open for ever; the command itself is what counts.
            if process.poll() is not None and not any(key.fileobj is not feed for key, _ in ready):
                ended_at = ended_at or now
                if now - ended_at > _ORPHAN_WAIT_S:
                    break
    try:
        process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def _write_some(feed: IO[bytes], pending: memoryview) -> memoryview:
    try:
        return pending[os.write(feed.fileno(), pending[:_CHUNK_BYTES]) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        return pending[:0]  # It does not want the rest; how it ends says why.


def _present(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise TransportError("A pipe to the command is missing.")
    return stream


def _signal_session(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End of stdin and SIGTERM, so that the command can clean up after itself."""
    with contextlib.suppress(OSError):
        _present(process.stdin).close()
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
