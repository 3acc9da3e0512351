"""Whether the process that worked on a run still does."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def is_alive(pid: int | None, start: str | None) -> bool:
    """Whether the very process that took up a run still is; another one may have got its number meanwhile."""
    if pid is None:
        return False
    if _has_proc():
        found = process_start(pid)
        return found is not None and start in (None, found)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def process_start(pid: int) -> str | None:
    """When a process started, in ticks after a boot; None if it is gone, or where there is no /proc."""
    try:
        # The name in parentheses may hold anything; the state is field 3, the start field 22.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{_boot()}:{ticks}"


@cache
def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
