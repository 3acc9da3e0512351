"""Keeps the device clean: makes a temporary folder there, fills it, runs the agent in it, removes it.

Runs alone on the device (Python 3.7 or newer, standard library), from stdin, so that nothing is on its disk before
there is somebody to remove it. After this file's own text, stdin brings one line of JSON,
{"deadline_s": ..., "files": [{"name", "bytes", "sha256"}, ...]}, then the contents of the files one after the other,
and stays open: its end means that the host is gone.

Everything said is one JSON object a line on stdout, each starting with MARK: "hello" with the folder, what the agent
says, "error", and "closed" at the end.
"""

from __future__ import annotations

import contextlib
import errno
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


class KeeperError(Exception):
    """Why there is no measurement; `code` tells the host what kind of error it is."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def say(kind: str, **values: Any) -> None:
    """Write one message to stdout."""
    text = json.dumps(dict(values, type=kind), allow_nan=False)
    sys.stdout.buffer.write(MARK + text[1:].encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


class Keeper:
    """The folder and the process that measures in it: a runtime that crashes is reported, and tidied up after."""

    def __init__(self, stdin: BinaryIO) -> None:
        self._stdin = stdin
        self._folder: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._is_late = False
        self._lock = threading.Lock()

    def run(self) -> int:
        """From the first byte of stdin to the removed folder; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, lambda *_: sys.exit(1))
        problem: dict[str, Any] | None = None
        try:
            header = json.loads(self._stdin.readline().decode("utf-8"))
            deadline = time.monotonic() + header["deadline_s"]
            signal.alarm(math.ceil(header["deadline_s"]))  # A link that died never says so.
            self._receive(header["files"])
            signal.alarm(0)
            self._measure(deadline)
        except KeeperError as error:
            problem = {"code": error.code, "message": str(error), "hint": None}
        except OSError as error:
            problem = {"code": "device", "message": f"{error.strerror or error}.", "hint": disk_hint(error)}
        finally:
            removed = self._clean()
        if problem is not None:
            say("error", **problem)
        say("closed", removed=removed)
        return 0 if problem is None else 1

    def _receive(self, files: Any) -> None:
        self._folder = tempfile.mkdtemp(prefix="edgecomp-")  # Mode 0700.
        say("hello", folder=self._folder)
        for item in files:
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

    def _measure(self, deadline: float) -> None:
        folder = str(self._folder)
        command = [sys.executable, os.path.join(folder, "agent.py"), os.path.join(folder, "job.json")]
        self._child = child = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
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
            raise KeeperError("crash", f"The measurement ended early: {describe_exit(code)}.")

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
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _clean(self) -> bool:
        """End the measurement and remove the folder; says whether it is gone. Safe to call twice."""
        with self._lock:
            self._kill()
            if self._child is not None:
                self._child.wait()
            if self._folder is None:
                return True
            shutil.rmtree(self._folder, ignore_errors=True)
            return not os.path.exists(self._folder)


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    why = {"SIGKILL": ", most likely for want of memory", "SIGILL": ", an instruction that this CPU does not have"}
    return f"killed by signal {name}{why.get(name, '')}"


def disk_hint(error: OSError) -> str | None:
    """What to do about an error of the file system."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return f"Free some room in {tempfile.gettempdir()} on the device, or set TMPDIR there to a folder that has more."


if __name__ == "__main__":
    sys.exit(Keeper(sys.stdin.buffer).run())
