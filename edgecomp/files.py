"""Writing files so that they are whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def sha256_of(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_path(path: Path) -> str:
    """Hex digest of a file, or of a folder: the digest over its sorted relative names and contents."""
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for member in sorted(item for item in path.rglob("*") if item.is_file()):
        digest.update(member.relative_to(path).as_posix().encode() + b"\0" + sha256_of_path(member).encode())
    return digest.hexdigest()


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_names(folder: Path) -> None:
    """Make renames in a folder last. Not every file system can; the content is whole either way."""
    with contextlib.suppress(OSError):
        _sync(folder)


def stage_file(path: Path, data: bytes) -> Path:
    """Write the data beside `path` under a temporary name, synced; returns that name. Raises OSError."""
    temporary = _temporary_name(path)
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename. Raises OSError."""
    temporary = stage_file(path, data)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_names(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name; it takes its real name only when the block ends without an error.

    A folder that already has the name is replaced; if anything fails it is left as it was. Raises OSError.
    """
    temporary = _temporary_name(path)
    temporary.mkdir(parents=True)
    previous: Path | None = None
    try:
        yield temporary
        for member in sorted(temporary.rglob("*")):
            _sync(member)
        _sync(temporary)
        if path.exists():
            previous = _temporary_name(path)
            path.rename(previous)
        try:
            temporary.rename(path)
        except BaseException:
            if previous is not None:
                previous.rename(path)
                previous = None
            raise
        _sync_names(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if previous is not None:
            shutil.rmtree(previous, ignore_errors=True)
