"""Run a command and measure the time and the memory of its whole process tree."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PERIOD_S = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# getrusage counts kibibytes on Linux, bytes on macOS.
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Run:
    """A command that ended with exit code 0.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Of all its processes together; hardly changes with what else the machine does.
        stdout: What it printed.
        largest_bytes: Peak resident memory of the largest process in the tree.
        tree_bytes: Largest sum over the tree at any sample; pages that processes share count once for each. None
            where there is no /proc.
    """

    seconds: float
    cpu_seconds: float
    stdout: str
    largest_bytes: int
    tree_bytes: int | None


@dataclass
class _Peaks:
    """What the sampler has seen."""

    tree_bytes: int = 0
    largest_bytes: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def watch(self, root: int) -> None:
        """Sample until told to stop."""
        while not self.stop.wait(_PERIOD_S):
            resident = [_resident_bytes(process) for process in _tree(root)]
            self.tree_bytes = max(self.tree_bytes, sum(resident))
            self.largest_bytes = max([self.largest_bytes, *resident])


def _tree(root: int) -> list[int]:
    """A process and all that descend from it. A worker in a process group of its own still has its parent."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):  # It may end at any moment.
                # The name of the command, in brackets, may hold blanks.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _resident_bytes(process: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0


def run_measured(argv: Sequence[str], *, folder: Path) -> Run:
    """Run a command in a folder.

    The kernel's own peak of every process that was waited for, however deep, comes with the exit code; workers that
    are killed at the end count, as long as their parent waits for them. Sampling adds whatever was not waited for.
    The caller should be small: a new process starts with the peak of the one it was forked from.

    Raises:
        CalledProcessError: It failed.
    """
    peaks = _Peaks()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(argv, stdout=out, stderr=errors, stdin=subprocess.DEVNULL, cwd=folder)
        watcher = threading.Thread(target=peaks.watch, args=(process.pid,))
        if Path("/proc/self/statm").exists():
            watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        peaks.stop.set()
        if watcher.ident is not None:
            watcher.join()
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, argv, out.read(), errors.read())
        largest = max(peaks.largest_bytes, usage.ru_maxrss * _MAXRSS_BYTES)
        return Run(seconds, usage.ru_utime + usage.ru_stime, out.read(), largest, peaks.tree_bytes or None)
