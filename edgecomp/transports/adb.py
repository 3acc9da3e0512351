"""An Android device, over USB or the network, through the user's own adb client.

`adb shell` passes on stdin, both outputs and the exit code (shell protocol 2, Android 7 and later), but no signals; and
a command whose device has vanished ends like one that went well, with exit code 0. So the shell on the device says its
process id first, and that the command has ended last: on stderr, after a word that is new for every command.

Files go through the same shell: `adb push` would make a file that everybody on the device can read.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType

from edgecomp.errors import CommandTimeoutError, TransportError
from edgecomp.plain_text import one_line
from edgecomp.transports._adb_device import AdbDevice, find_device, lost
from edgecomp.transports._base import (
    STOP_GRACE_S,
    CommandResult,
    ConnectOptions,
    LineCallback,
    OutputCollector,
    check_file_size,
    check_words,
)
from edgecomp.transports._process import close_pipes, exchange, present

# A shell that a signal ended says so with these; the adb client itself never does.
_KILLED = range(128 + 1, 128 + 65)
# SIGTERM for the command and all that it started; SIGKILL for what is left after some time.
_END = (
    "kill -TERM -{pid}; i=0; while kill -0 -{pid} && [ $i -lt {tries} ]; do sleep 0.2; i=$((i+1)); done; "
    "kill -KILL -{pid}"
)
# $1: temporary name, $2: name, $3: bytes. A link that breaks looks like the end of the file, hence the count.
_PUT = """umask 077
trap 'rm -f "$1"' EXIT
trap 'exit 1' HUP INT TERM
if [ -d "$2" ]; then echo "$2: Is a directory" >&2; exit 1; fi
touch "$1" && cat >"$1" && [ "$(wc -c <"$1")" -eq "$3" ] && mv -f "$1" "$2\""""


class AdbTransport:
    """Commands and files through `adb shell`; each command has an adb client of its own.

    Raises:
        UsageError, ConnectError, AuthenticationError: See `edgecomp.transports.connect`.
    """

    def __init__(self, address: str, options: ConnectOptions) -> None:
        self._device: AdbDevice = find_device(address, options.connect_timeout_s)
        self.host = self._device.label
        self._is_closed = False

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        hold_stdin: bool = False,
        on_line: LineCallback | None = None,
    ) -> CommandResult:
        """See `Transport.run`; commands start in the root folder."""
        check_words(argv)
        output = OutputCollector(self.host, on_line)
        return self._run(argv, timeout_s, stdin, hold_stdin, output, f"{one_line(argv[0])} did not end")

    def put(self, data: bytes, remote_path: str, *, timeout_s: float = 120.0) -> None:
        """See `Transport.put`."""
        check_words([remote_path])
        path = _no_option(remote_path)
        command = ["sh", "-c", _PUT, "sh", f"{path}.part-{secrets.token_hex(4)}", path, str(len(data))]
        what = f"{one_line(remote_path)} was not written"
        result = self._run(command, timeout_s, data, False, OutputCollector(self.host, None), what)
        if result.exit_code != 0:
            raise self._file_error(what, result)

    def get(self, remote_path: str, *, timeout_s: float = 120.0) -> bytes:
        """See `Transport.get`."""
        check_words([remote_path])
        what = f"{one_line(remote_path)} was not read"
        output = _FileCollector(self.host, remote_path)
        result = self._run(["cat", _no_option(remote_path)], timeout_s, b"", False, output, what)
        if result.exit_code != 0:
            raise self._file_error(what, result)
        return result.stdout

    def close(self) -> None:
        """Nothing is held between calls; adb's server stays, as it always does."""
        self._is_closed = True

    def __enter__(self) -> AdbTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        stdin: bytes,
        hold_stdin: bool,
        output: OutputCollector,
        what: str,
    ) -> CommandResult:
        if self._is_closed:
            raise TransportError(f"The connection to {self.host} is closed.")
        word = secrets.token_hex(8)
        # In a shell of its own: `exit` and `exec` are commands, too.
        line = f"echo {word} $$ >&2; ({shlex.join(argv)}); code=$?; echo {word} >&2; exit $code"
        process = self._start(line)
        try:
            deadline = time.monotonic() + timeout_s
            exchange(process, stdin, hold_stdin, output.add_stdout, output.add_stderr, deadline)
        except TimeoutError:
            self._stop(process, _Marks(word, output.stderr).pid)
            raise CommandTimeoutError(f"{what} on {self.host} within {timeout_s:g} s.") from None
        except BaseException:
            self._stop(process, _Marks(word, output.stderr).pid)
            raise
        finally:
            process.kill()
            process.wait()
            close_pipes(process)
        code = process.returncode
        marks = _Marks(word, output.stderr)
        if not marks.has_ended and (marks.pid is None or code not in _KILLED):
            raise lost(self.host, marks.of_client)
        return CommandResult(code, output.result(code).stdout, marks.of_command)

    def _start(self, line: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        try:
            # A session of its own: Ctrl-C is ours to deal with.
            return subprocess.Popen(
                self._device.shell(line), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
            )
        except OSError as error:
            raise TransportError(f"{self._device.program} cannot be started: {error.strerror}.") from error

    def _stop(self, process: subprocess.Popen[bytes], pid: int | None) -> None:
        """End of stdin and SIGTERM, so that the command can clean up after itself; SIGKILL if it does not."""
        with contextlib.suppress(OSError):
            present(process.stdin).close()
        if pid is None:
            return
        deadline = time.monotonic() + STOP_GRACE_S
        with contextlib.suppress(TransportError):
            ender = self._start(_END.format(pid=pid, tries=round(STOP_GRACE_S / 0.2)))
            try:
                # What it still says is let through to nobody: blocked, it could not clean up.
                with contextlib.suppress(TimeoutError):
                    exchange(process, b"", False, _ignore, _ignore, deadline)
                with contextlib.suppress(TimeoutError):
                    exchange(ender, b"", False, _ignore, _ignore, deadline + STOP_GRACE_S)
            finally:
                ender.kill()
                ender.wait()
                close_pipes(ender)

    def _file_error(self, what: str, result: CommandResult) -> TransportError:
        """What the tool complained about: "cat: /x: No such file or directory"."""
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        reason = one_line(lines[-1]).rpartition(": ")[2] if lines else "it did not arrive whole"
        hint = "`df` on the device shows how much room is left." if "space" in reason else None
        return TransportError(f"{what} on {self.host}: {reason.rstrip('.')}.", hint=hint)


class _Marks:
    """The stderr of an adb client, taken apart at the words that the shell on the device wrote.

    Attributes:
        pid: Process id of that shell and of its session; None where it has not started. Never 1 or less: to a signal
            that would mean everything that runs.
        of_client: What the adb client itself said before it started, or all that it said.
        of_command: What the command wrote.
        has_ended: The shell said that the command has ended.
    """

    def __init__(self, word: str, stderr: bytes) -> None:
        self.of_client, _, rest = stderr.partition(word.encode())
        number, newline, rest = rest.partition(b"\n")
        pid = int(number) if newline and number.strip().isdigit() else 0
        self.pid = pid if pid > 1 else None
        before, mark, after = rest.partition(f"{word}\n".encode())
        self.has_ended = bool(mark)
        self.of_command = before + after


class _FileCollector(OutputCollector):
    """What is printed is a file."""

    def __init__(self, host: str, remote_path: str) -> None:
        super().__init__(host, None)
        self._path = remote_path

    def _check(self) -> None:
        check_file_size(len(self._stdout) + len(self._stderr), self._path, self._host)


def _ignore(data: bytes) -> None:
    """Takes what nobody reads any more."""


def _no_option(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


TRANSPORT = AdbTransport
