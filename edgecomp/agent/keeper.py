"""Keeps the device clean: makes a temporary folder there, fills it, runs the agent in it, removes it.

Runs alone on the device (Python 3.7 or newer, standard library), from stdin, so that nothing is on its disk before
there is somebody to remove it. After this file's own text, stdin brings one line of JSON,
{"deadline_s": ..., "lock_wait_s": ..., "governor": ..., "agent": ..., "files": [{"name", "bytes", "sha256"}, ...]},
then the contents of the files one after the other, and stays open: its end means that the host is gone.

One measurement at a time: the keeper holds a lock on a file, which the kernel lets go of when the keeper ends, however
it ends. A guardian, a second process that only waits for the end of the first, ends the measurement, removes the folder
and restores the governor where the keeper itself was killed.

Everything said is one JSON object a line on stdout, each starting with MARK: "waiting" for the lock, "hello" with the
folder, what the agent says, "error", and "closed" at the end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, BinaryIO

MARK = b'{"edgecomp": 1, '
# What a main thread that hangs on a dead link gets before the folder is removed without it.
LAST_WORDS_S = 5.0
LOCK_POLL_S = 0.5
LOCK_NAME = "edgecomp.lock"
PREFIX = "edgecomp-agent-"
GOVERNORS = os.environ.get("EDGECOMP_SYSFS_ROOT", "") + "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"
# Waits for the end of the keeper (of its own stdin), then undoes what that could not undo itself.
GUARDIAN = """
import fcntl, json, os, shutil, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
folder, governors, lock, group = None, {}, None, None
for line in sys.stdin:
    folder, governors, lock, group = json.loads(line)
if group:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
for path, governor in governors.items():
    with open(path, "w") as stream:
        stream.write(governor)
if folder:
    shutil.rmtree(folder, ignore_errors=True)
for _ in range(50 if lock else 0):
    try:
        with open(lock) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(lock)):
                os.unlink(lock)
        break
    except BlockingIOError:  # The keeper is not quite gone, or the next one is there.
        time.sleep(0.1)
    except OSError:
        break
"""


class KeeperError(Exception):
    """Why there is no measurement; `code` tells the host what kind of error it is."""

    def __init__(self, code: str, message: str, hint: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.said = dict(more, code=code, message=message, hint=hint)


def say(kind: str, **values: Any) -> None:
    """Write one message to stdout."""
    text = json.dumps(dict(values, type=kind), allow_nan=False)
    sys.stdout.buffer.write(MARK + text[1:].encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


def temporary_folder() -> str:
    """Where folders are made; Android has no /tmp, and sets no TMPDIR in a shell. Raises KeeperError."""
    android = "/data/local/tmp"
    if "TMPDIR" not in os.environ and os.path.isdir(android) and os.access(android, os.W_OK):
        return android
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        hint = "Set TMPDIR there to a folder that can be written."
        raise KeeperError("device", f"{error.strerror}.", hint) from error


def lock_path() -> str:
    """The file that whoever measures here holds a lock on."""
    return os.path.join(temporary_folder(), LOCK_NAME)


class Keeper:
    """The folder and the process that measures in it: a runtime that crashes is reported, and tidied up after."""

    def __init__(self, stdin: BinaryIO) -> None:
        self._stdin = stdin
        self._folder: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._governors: dict[str, str] = {}
        self._lock_file: int | None = None
        self._is_late = False
        self._cleaning = threading.Lock()

    def run(self) -> int:
        """From the first byte of stdin to the removed folder; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, lambda *_: sys.exit(1))
        problem: dict[str, Any] | None = None
        try:
            header = json.loads(self._stdin.readline().decode("utf-8"))
            deadline = time.monotonic() + header["deadline_s"] + header["lock_wait_s"]
            signal.alarm(math.ceil(deadline - time.monotonic()))  # A link that died never says so.
            self._take_lock(header["lock_wait_s"])
            deadline = time.monotonic() + header["deadline_s"]
            sweep(self._folder)
            self._receive(header["files"])
            signal.alarm(0)
            self._set_governor(header["governor"])
            self._measure(header["agent"], deadline)
        except KeeperError as error:
            problem = error.said
        except OSError as error:
            problem = {"code": "device", "message": f"{error.strerror or error}.", "hint": disk_hint(error)}
        finally:
            removed = self._clean()
        if problem is not None:
            say("error", **problem)
        say("closed", removed=removed)
        return 0 if problem is None else 1

    def _take_lock(self, wait_s: float) -> None:
        """One measurement at a time on this device, whoever asks for it."""
        path = lock_path()
        give_up = time.monotonic() + wait_s
        has_said = False
        host = select.poll()
        # Its files have not been read, so there is input in any case: only the end of it is news.
        host.register(self._stdin.fileno(), getattr(select, "POLLRDHUP", 0))
        while True:
            descriptor = open_lock(path)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_same_file(descriptor, path):
                    self._lock_file = descriptor
                    with contextlib.suppress(OSError):  # Another user's file: locked all the same.
                        os.ftruncate(descriptor, 0)
                        os.write(descriptor, str(os.getpid()).encode())
                    return
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace")
            os.close(descriptor)
            if time.monotonic() >= give_up:
                raise KeeperError(
                    "busy",
                    f"Another measurement is running there (process {holder}), and did not end within {wait_s:g} s.",
                    "Wait for it, or give it more time with --wait.",
                )
            if not has_said:
                say("waiting", holder=holder)
                has_said = True
            if host.poll(LOCK_POLL_S * 1000):
                raise KeeperError("damaged", "The host is gone.")

    def _receive(self, files: Any) -> None:
        self._folder = tempfile.mkdtemp(prefix=PREFIX, dir=temporary_folder())  # Mode 0700.
        say("hello", folder=self._folder)
        self._guard()
        for item in files:
            if os.path.basename(item["name"]) != item["name"] or item["name"] in ("", ".", ".."):
                raise KeeperError("damaged", f"{item['name']!r} is no name of a file.")
            digest = hashlib.sha256()
            left = item["bytes"]
            with open(os.path.join(self._folder, item["name"]), "xb") as stream:
                while left:
                    data = self._stdin.read(min(left, 1 << 16))
                    if not data:
                        raise KeeperError("damaged", f"{item['name']} did not arrive whole.")
                    digest.update(data)
                    stream.write(data)
                    left -= len(data)
            if digest.hexdigest() != item["sha256"]:
                raise KeeperError("damaged", f"{item['name']} did not arrive as it was sent.")

    def _guard(self) -> None:
        """Tell the guardian what to undo; it is started with the first call."""
        if self._guardian is None:
            self._guardian = subprocess.Popen(
                [sys.executable, "-c", GUARDIAN],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        if self._guardian.stdin is not None:
            group = None if self._child is None else self._child.pid
            known = [self._folder, self._governors, lock_path(), group]
            self._guardian.stdin.write(json.dumps(known).encode() + b"\n")
            self._guardian.stdin.flush()

    def _set_governor(self, governor: str | None) -> None:
        if governor is None:
            return
        paths = sorted(glob.glob(GOVERNORS))
        if not paths:
            raise KeeperError("governor", "This device has no frequency governor to set.", "Leave --set-governor out.")
        for path in paths:
            with open(path, encoding="ascii") as stream:
                self._governors[path] = stream.read().strip()
        self._guard()
        try:
            for path in paths:
                with open(path, "w", encoding="ascii") as stream:
                    stream.write(governor)
        except OSError as error:
            raise KeeperError(
                "governor",
                f"The governor cannot be set to {governor}: {error.strerror}.",
                "It takes root on most boards: log in as root, or leave --set-governor out.",
            ) from error

    def _measure(self, agent: str, deadline: float) -> None:
        folder = str(self._folder)
        command = [sys.executable, os.path.join(folder, agent), "session", os.path.join(folder, "job.json")]
        self._child = child = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        self._guard()
        threading.Thread(target=self._watch, args=(deadline,), daemon=True).start()
        has_ended = False
        for line in child.stdout or ():
            if line.startswith(MARK) and line.endswith(b"\n"):
                has_ended = has_ended or b'"type": "error"' in line or b'"type": "done"' in line
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            else:
                sys.stderr.buffer.write(line)
        code = child.wait()
        if self._is_late:
            raise KeeperError("late", "The measurement did not end in time.")
        if not has_ended:
            raise KeeperError("crash", "The measurement ended early.", exit_code=code)

    def _watch(self, deadline: float) -> None:
        """Ends everything when the host is gone or the time is up."""
        news, _, _ = select.select([self._stdin.fileno()], [], [], max(0.0, deadline - time.monotonic()))
        if not news:
            self._is_late = True
            self._kill()
            time.sleep(LAST_WORDS_S)
        self._clean()
        os._exit(1)

    def _kill(self) -> None:
        """What it started may outlive the agent, and would disturb the next measurement."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _clean(self) -> bool:
        """End the measurement, put everything back, let go; says whether the folder is gone. Safe to call twice."""
        with self._cleaning:
            self._kill()
            if self._child is not None:
                self._child.wait()
            for path, governor in self._governors.items():
                with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as stream:
                    stream.write(governor)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            if self._guardian is not None and self._guardian.stdin is not None:
                with contextlib.suppress(OSError):  # It may be dead.
                    self._guardian.stdin.write(b"[null, {}, null, null]\n")
                    self._guardian.stdin.close()
                self._guardian.wait()
                self._guardian = None
            if self._lock_file is not None:
                with contextlib.suppress(OSError):
                    os.unlink(lock_path())
                os.close(self._lock_file)
                self._lock_file = None
            return self._folder is None or not os.path.exists(self._folder)


def open_lock(path: str) -> int:
    """A descriptor of the lock file; another user's is opened for reading, which is enough to lock it."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def is_same_file(descriptor: int, path: str) -> bool:
    """Whether a path still names what was opened: the last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def sweep(mine: str | None) -> None:
    """Remove what an earlier visit left, as after a power cut: who holds the lock is alone in such folders."""
    for folder in glob.glob(os.path.join(temporary_folder(), PREFIX + "*")):
        with contextlib.suppress(OSError):
            if folder != mine and not os.path.islink(folder) and os.stat(folder).st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)


def disk_hint(error: OSError) -> str | None:
    """What to do about an error of the file system."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return None
    return f"Free some room in {temporary_folder()} on the device, or set TMPDIR there to a folder that can be written."


if __name__ == "__main__":
    sys.exit(Keeper(sys.stdin.buffer).run())
