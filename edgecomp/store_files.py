"""The files of a store: what it holds by content, names that may become paths, and locks that the kernel releases."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from edgecomp.errors import StoreError
from edgecomp.files import sha256_of, sha256_of_path, write_atomic

ARTIFACTS, STEPS, LOCKS = "artifacts", "steps", "locks"
# Whoever adds or looks up files holds it together with others, whoever removes files alone.
FILES_LOCK = ".files"
_KEY = re.compile(r"[0-9a-z-]{1,80}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def checked_key(key: str) -> str:
    """The key itself, if it may become the name of a file. Raises StoreError."""
    if not _KEY.fullmatch(key):
        raise StoreError(f"{key!r} cannot be a key of the store: 1 to 80 of the characters 0-9, a-z and - are allowed.")
    return key


def refused(error: OSError, folder: Path) -> StoreError:
    """What an operating system's refusal means for the store."""
    if error.errno in _NO_SPACE:
        return StoreError(
            f"There is no space left to write the store {folder}; what was recorded before stays.",
            hint="Free some, for example with `edgecomp runs gc`, and run the same command again: it goes on from "
            "there.",
        )
    stays = "; what was recorded before stays" if error.errno == errno.EIO else ""
    return StoreError(f"The store {folder} cannot be read or written: {error.strerror or error}{stays}.")


@contextlib.contextmanager
def held(folder: Path, name: str, *, shared: bool = False, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock of the store in the block; the kernel releases it when the process dies.

    Args:
        folder: Of the store.
        name: Of the lock.
        shared: Together with others that share it.
        on_wait: Called once, and only if the lock is not free.

    Raises:
        StoreError: The lock's file cannot be made.
    """
    try:
        descriptor = _acquire(folder / LOCKS / name, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, on_wait)
    except OSError as error:
        raise refused(error, folder) from error
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held_if_free(folder: Path, name: str) -> Iterator[bool]:
    """Hold a lock in the block, or learn that somebody else does. Raises OSError."""
    path = folder / LOCKS / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield _is_at(path, descriptor)
    finally:
        os.close(descriptor)


def _acquire(path: Path, mode: int, on_wait: Callable[[], None] | None) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                fcntl.flock(descriptor, mode)
            # Meanwhile the file may have been collected: a lock on one without a name holds nobody off.
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class Artifacts:
    """Files by their content.

    Args:
        folder: Of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Keep the data; returns its sha256. Raises OSError, StoreError."""
        sha256 = sha256_of(data)
        path = self.path(sha256)
        with held(self._folder, FILES_LOCK, shared=True):
            if not _is_whole(path, sha256):
                path.parent.mkdir(exist_ok=True)
                write_atomic(path, data)
            os.utime(path)
        return sha256

    def whole(self, sha256: str) -> Path | None:
        """Where the file is; None if it is missing, or was damaged and is removed now. Raises OSError, StoreError."""
        path = self.path(sha256)
        with held(self._folder, FILES_LOCK, shared=True):
            if _is_whole(path, sha256):
                # Told to `gc`, which leaves alone what a live run may have looked up.
                os.utime(path)
                return path
            is_damaged = path.is_file()
        if is_damaged:
            with held(self._folder, FILES_LOCK):
                # Another process may have put a whole one there since.
                if not _is_whole(path, sha256):
                    path.unlink(missing_ok=True)
        return None

    def path(self, sha256: str) -> Path:
        """Where a file of this content is, if it is there. Raises StoreError."""
        if not _SHA256.fullmatch(sha256):
            raise StoreError(f"{sha256!r} is not a sha256.")
        return self._folder / ARTIFACTS / sha256[:2] / sha256

    def all(self) -> Iterator[Path]:
        """Every file that is named as an artifact."""
        for path in sorted((self._folder / ARTIFACTS).glob("??/*")):
            if _SHA256.fullmatch(path.name):
                yield path

    def leftovers(self) -> Iterator[Path]:
        """What killed processes have half written; under the exclusive lock nobody writes there any more."""
        yield from sorted((self._folder / ARTIFACTS).glob("??/.*.tmp"))


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of_path(path) == sha256
