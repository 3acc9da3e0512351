"""RAM, and room on the disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecomp.facts._fact import Fact, clean, number


@dataclass(frozen=True)
class Memory:
    """RAM of the device.

    Attributes:
        total_bytes: What the kernel has; firmware and graphics have taken theirs before.
        available_bytes: What a new process could have without swapping; None where the kernel is too old to say so
            and says nothing either of what is free.
        is_estimate: `available_bytes` is free memory and caches, for want of the kernel's own figure.
    """

    total_bytes: int
    available_bytes: int | None
    is_estimate: bool = False


def parse_meminfo(text: str) -> Memory | None:
    """The text of /proc/meminfo; None without a total."""
    kib = {key: int(value) for key, value in re.findall(r"^(\w+): *([0-9]{1,12}) kB", text, re.MULTILINE)}
    total = kib.get("MemTotal", 0)
    if total <= 0:
        return None
    available, is_estimate = kib.get("MemAvailable"), False
    if available is None and "MemFree" in kib:
        available, is_estimate = kib["MemFree"] + kib.get("Buffers", 0) + kib.get("Cached", 0), True
    return Memory(total * 1024, None if available is None else min(available, total) * 1024, is_estimate)


@dataclass(frozen=True)
class Disk:
    """A file system: room that an ordinary user has, and where it is mounted."""

    free_bytes: int
    mounted_on: str


def parse_df(text: str) -> Disk | None:
    """The last line of `df -Pk FOLDER`; None if it has no figures."""
    # Names of file systems may have blanks; the figures are the four words before the folder.
    before, slash, folder = text.rstrip().rpartition("\n")[2].partition("% /")
    words = before.split()
    free = number(words[-2]) if slash and len(words) >= 5 else None
    return None if free is None else Disk(max(0, free) * 1024, clean(f"/{folder}"))


MEMORY = Fact("memory", ("cat", "/proc/meminfo"), parse_meminfo, "/proc/meminfo")
HOME_DISK = Fact("home_disk", ("sh", "-c", 'df -Pk "${HOME:-.}"'), parse_df, "df")
TEMPORARY_DISK = Fact("temporary_disk", ("sh", "-c", 'df -Pk "${TMPDIR:-/tmp}"'), parse_df, "df")
