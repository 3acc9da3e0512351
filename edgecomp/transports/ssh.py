"""A device over SSH, with a POSIX shell as login shell and, for files, an SFTP server."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import signal
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

import asyncssh

from edgecomp.errors import CommandTimeoutError, TransportError
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
from edgecomp.transports._loop import LoopThread
from edgecomp.transports._ssh_config import parse_address
from edgecomp.transports._ssh_login import close_all, log_in

_CHUNK_BYTES = 1 << 16
_Result = TypeVar("_Result")


class SshTransport:
    """Commands and files over one SSH connection.

    Raises:
        ConnectError, HostKeyError, AuthenticationError, UsageError: See `edgecomp.transports.connect`.
    """

    def __init__(self, address: str, options: ConnectOptions) -> None:
        parsed = parse_address(address)
        self._loop: LoopThread | None = LoopThread(f"ssh {address}")
        try:
            login, self._connections = self._loop.call(log_in(parsed, options))
        except BaseException:
            self._loop.close()
            raise
        self.host = login.label

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        hold_stdin: bool = False,
        on_line: LineCallback | None = None,
    ) -> CommandResult:
        """See `Transport.run`; commands start in the home folder."""
        check_words(argv)
        output = OutputCollector(self.host, on_line)
        what = f"{one_line(argv[0])} did not end"
        return self._call(self._run(argv, timeout_s, stdin, hold_stdin, output), what, timeout_s)

    def put(self, data: bytes, remote_path: str, *, timeout_s: float = 120.0) -> None:
        """See `Transport.put`; needs the SFTP server of the device."""
        check_words([remote_path])
        what = f"{one_line(remote_path)} was not written"
        self._call(self._put(data, remote_path, timeout_s), what, timeout_s)

    def get(self, remote_path: str, *, timeout_s: float = 120.0) -> bytes:
        """See `Transport.get`; needs the SFTP server of the device."""
        check_words([remote_path])
        what = f"{one_line(remote_path)} was not read"
        data = self._call(self._get(remote_path, timeout_s), what, timeout_s)
        check_file_size(len(data), remote_path, self.host)
        return data

    def close(self) -> None:
        """Close the connection and those to its jump hosts."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call(self._close())
            loop.close()

    def __enter__(self) -> SshTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, coroutine: Coroutine[Any, Any, _Result], what: str, timeout_s: float) -> _Result:
        """Run a coroutine on the connection; its failures become ours."""
        if self._loop is None:
            coroutine.close()
            raise TransportError(f"The connection to {self.host} is closed.")
        try:
            return self._loop.call(coroutine)
        except TimeoutError as error:
            raise CommandTimeoutError(f"{what} on {self.host} within {timeout_s:g} s.") from error
        except asyncssh.SFTPError as error:
            # A full disk is a plain "Failure" in the protocol.
            hint = "Is there room left? `df` on the device shows it." if error.code == asyncssh.FX_FAILURE else None
            raise TransportError(f"{what} on {self.host}: {one_line(error.reason).rstrip('.')}.", hint=hint) from error
        except (asyncssh.Error, OSError) as error:
            reason = one_line(getattr(error, "reason", None) or str(error) or type(error).__name__).rstrip(".")
            if isinstance(error, asyncssh.ChannelOpenError) and not self._connections[-1].is_closed():
                raise TransportError(f"{what} on {self.host}, which does not allow it: {reason}.") from error
            raise TransportError(
                f"The connection to {self.host} was lost: {reason}.", hint="Check the link and try again."
            ) from error

    async def _run(
        self, argv: Sequence[str], timeout_s: float, stdin: bytes, hold_stdin: bool, output: OutputCollector
    ) -> CommandResult:
        process = None
        try:
            async with asyncio.timeout(timeout_s), contextlib.AsyncExitStack() as tasks:
                process = await self._connections[-1].create_process(shlex.join(argv), encoding=None, errors="strict")
                exchange = [
                    asyncio.create_task(_feed(process, stdin, hold_stdin)),
                    asyncio.create_task(_drain(process.stdout, output.add_stdout)),
                    asyncio.create_task(_drain(process.stderr, output.add_stderr)),
                ]
                tasks.push_async_callback(_cancel, exchange)
                await asyncio.gather(*exchange)
                await process.wait_closed()
        except BaseException:
            if process is not None:
                await _stop(process)
            raise
        return output.result(self._exit_code(process))

    def _exit_code(self, process: asyncssh.SSHClientProcess[bytes]) -> int:
        if process.exit_signal is not None:
            name = f"SIG{process.exit_signal[0]}"
            return 128 + (signal.Signals[name] if name in signal.Signals.__members__ else 0)
        if process.exit_status is None:
            raise TransportError(f"The connection to {self.host} was lost before the command ended.")
        return process.exit_status

    async def _put(self, data: bytes, remote_path: str, timeout_s: float) -> None:
        part = f"{remote_path}.part-{secrets.token_hex(4)}"
        async with asyncio.timeout(timeout_s), self._connections[-1].start_sftp_client() as sftp:
            try:
                async with sftp.open(part, "xb", asyncssh.SFTPAttrs(permissions=0o600)) as stream:
                    await stream.write(data)
                await sftp.posix_rename(part, remote_path)
            except BaseException:
                # A partial file would stay and fill the disk.
                with contextlib.suppress(asyncssh.Error, OSError):
                    await sftp.remove(part)
                raise

    async def _get(self, remote_path: str, timeout_s: float) -> bytes:
        async with (
            asyncio.timeout(timeout_s),
            self._connections[-1].start_sftp_client() as sftp,
            sftp.open(remote_path, "rb") as stream,
        ):
            data = await stream.read(MAX_FILE_BYTES + 1)
        return cast(bytes, data)

    async def _close(self) -> None:
        close_all(self._connections)
        for connection in reversed(self._connections):
            with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
                async with asyncio.timeout(STOP_GRACE_S):
                    await connection.wait_closed()


async def _feed(process: asyncssh.SSHClientProcess[bytes], stdin: bytes, hold_stdin: bool) -> None:
    # A command that does not want its stdin says so by how it ends.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for start in range(0, len(stdin), _CHUNK_BYTES):
            process.stdin.write(stdin[start : start + _CHUNK_BYTES])
            await process.stdin.drain()
        if not hold_stdin:
            process.stdin.write_eof()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(stream: asyncssh.SSHReader[bytes], take: Callable[[bytes], None]) -> None:
    while data := await stream.read(_CHUNK_BYTES):
        take(data)


async def _stop(process: asyncssh.SSHClientProcess[bytes]) -> None:
    """End of stdin and SIGTERM, so that the command can clean up after itself; SIGKILL if it does not."""
    with contextlib.suppress(asyncssh.Error, OSError, TimeoutError):
        process.stdin.write_eof()
        process.terminate()
        async with asyncio.timeout(STOP_GRACE_S):
            await asyncio.gather(
                _drain(process.stdout, lambda _: None), _drain(process.stderr, lambda _: None), process.wait_closed()
            )
    with contextlib.suppress(asyncssh.Error, OSError):
        process.kill()
        process.close()


TRANSPORT = SshTransport
