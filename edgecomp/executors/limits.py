"""How much memory a worker may use."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

MEMORY_BYTES = "EDGECOMP_WORKER_MEMORY_BYTES"
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_SHARE = 0.8


def machine_bytes() -> int:
    """Memory of this machine, or of the container that we run in."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(path.read_text()))
    return min(sizes)


def worker_bytes(jobs: int) -> int:
    """What each of so many workers may use at the same time: four fifths of the memory, shared out."""
    return int(_SHARE * machine_bytes()) // jobs


def limit_memory() -> None:
    """Hold this process to what its environment says: what it writes to counts, not what it only maps (RLIMIT_DATA)."""
    text = os.environ.get(MEMORY_BYTES)
    if text:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = int(text) if most == resource.RLIM_INFINITY else min(int(text), most)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))
