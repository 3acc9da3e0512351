"""The user's file of trusted host keys: reading it, and adding a key to it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import asyncssh

DEFAULT_PORT = 22


def read_known_hosts(paths: Iterable[str]) -> asyncssh.SSHKnownHosts:
    """All keys of files that can be read. A damaged line costs itself only; OpenSSH skips it as well."""
    known = asyncssh.SSHKnownHosts()
    for path in paths:
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                known.load(line)
            except ValueError:
                continue
    return known


def listed_name(host: str, port: int, alias: str | None) -> str:
    """How OpenSSH lists a host: its HostKeyAlias whatever the port, "[host]:port", or the bare host at port 22."""
    if alias:
        return alias
    return host if port == DEFAULT_PORT else f"[{host}]:{port}"


def add_known_host(path: Path, name: str, key: asyncssh.SSHKey) -> None:
    """Append one line to a file of trusted keys; it is made (0600, its folder 0700) if it is missing.

    Other lines are never rewritten, so nothing can lose them. A line that a crash cut short stays alone: the next one
    starts on a new line. Several processes may add at a time.

    Raises:
        OSError: The file cannot be written, or is none.
    """
    line = b" ".join([name.encode(), *key.export_public_key().split()[:2]]) + b"\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        there = stream.read()
        if line in there.splitlines(keepends=True):
            return
        if there and not there.endswith(b"\n"):
            line = b"\n" + line
        if stream.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
