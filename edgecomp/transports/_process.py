"""Talking to a process on this machine: the command itself, or the tool that reaches a device."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable
from typing import IO

from edgecomp.errors import TransportError

_CHUNK_BYTES = 1 << 16
_ORPHAN_WAIT_S = 0.5


def exchange(
    process: subprocess.Popen[bytes],
    stdin: bytes,
    hold_stdin: bool,
    take_stdout: Callable[[bytes], None],
    take_stderr: Callable[[bytes], None],
    deadline: float,
) -> None:
    """Feed stdin and read both outputs until the process has ended.

    Args:
        process: Started with three unbuffered pipes.
        stdin: Given to it; what it does not want is left over.
        hold_stdin: Keep stdin open after that.
        take_stdout: Called with what it prints; what it raises passes through.
        take_stderr: Likewise.
        deadline: Of `time.monotonic()`.

    Raises:
        TimeoutError: It did not end in time; it still runs.
    """
    readers = {present(process.stdout): take_stdout, present(process.stderr): take_stderr}
    pending = memoryview(stdin)
    ended_at: float | None = None
    with selectors.DefaultSelector() as selector:
        for stream, take in readers.items():
            selector.register(stream, selectors.EVENT_READ, take)
        feed = present(process.stdin)
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


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Close this side of the three pipes. Safe to call twice."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def present(stream: IO[bytes] | None) -> IO[bytes]:
    """A pipe of the process."""
    if stream is None:
        raise TransportError("A pipe to the command is missing.")
    return stream


def _write_some(feed: IO[bytes], pending: memoryview) -> memoryview:
    try:
        return pending[os.write(feed.fileno(), pending[:_CHUNK_BYTES]) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        return pending[:0]  # It does not want the rest; how it ends says why.
