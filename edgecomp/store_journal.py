"""The journal of a store: one SQLite file that several processes write at the same time, any of which may be killed."""

from __future__ import annotations

import contextlib
import errno
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecomp.errors import StoreError
from edgecomp.store_files import held, refused

JOURNAL = "store.db"
SCHEMA_VERSION = 1
_OPENING = ".opening"
_BUSY_SECONDS = 60
_SCHEMA = (
    """CREATE TABLE result (
        number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, value TEXT NOT NULL,
        seconds REAL NOT NULL, made_at REAL NOT NULL)""",
    """CREATE TABLE artifact (
        result INTEGER NOT NULL REFERENCES result ON DELETE CASCADE, sha256 TEXT NOT NULL,
        PRIMARY KEY (result, sha256)) WITHOUT ROWID""",
    # A run that nobody works on has no pid. part_at: when its present process took it up.
    """CREATE TABLE run (
        number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, request_key TEXT NOT NULL, label TEXT NOT NULL,
        request TEXT NOT NULL, status TEXT NOT NULL, result TEXT, started_at REAL NOT NULL, part_at REAL NOT NULL,
        updated_at REAL NOT NULL, elapsed_s REAL NOT NULL, pid INTEGER, pid_start TEXT)""",
    "CREATE INDEX run_by_request ON run (request_key)",
    """CREATE TABLE event (
        run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, number INTEGER NOT NULL, at REAL NOT NULL,
        kind TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, number)) WITHOUT ROWID""",
    # No reference to result: a run also uses steps, and steps that have no result yet.
    """CREATE TABLE used (
        run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, key TEXT NOT NULL,
        PRIMARY KEY (run, key)) WITHOUT ROWID""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class Journal:
    """An open journal. Threads may share it; a forked child may not.

    Args:
        folder: Of the store; on a local disk, since neither WAL nor flock is safe on every network file system.

    Raises:
        StoreError: It cannot be made or opened, is damaged, or a newer edgecomp has written it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mutex = threading.RLock()
        # Making the schema and turning to WAL are no matter of SQLite's own waiting: one process at a time.
        with told(folder), held(folder, _OPENING):
            self._connection = sqlite3.connect(
                folder / JOURNAL, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        version = self._pragma("user_version")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"The store {self._folder} was written by a newer edgecomp: its schema is version {version}, "
                f"this edgecomp reads up to {SCHEMA_VERSION}.",
                hint="Upgrade edgecomp, or choose another folder with --store.",
            )
        if self._pragma("quick_check(1)") != "ok":
            raise damaged(self._folder)
        if self._pragma("journal_mode = WAL") != "wal":
            raise StoreError(f"The file system of the store {self._folder} cannot hold an SQLite journal in WAL mode.")
        # FULL: what was recorded is still there after the power failed, not only after a kill.
        # Rows that go are not overwritten with zeros: on a full disk there would be no room for them.
        for setting in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = OFF"):
            self._connection.execute(f"PRAGMA {setting}")
        if version == SCHEMA_VERSION:
            return
        if self.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise damaged(self._folder, "holds tables of something else")
        with self.writing() as database:
            for statement in _SCHEMA:
                database.execute(statement)

    def _pragma(self, text: str) -> Any:
        return self._connection.execute(f"PRAGMA {text}").fetchone()[0]

    def close(self) -> None:
        """Close it; what was recorded is on disk already."""
        with self._mutex:
            self._connection.close()

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """What a query answers. Raises StoreError."""
        with self._mutex, told(self._folder):
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, whole or absent; nobody else writes meanwhile. Raises StoreError."""
        with self._mutex, told(self._folder):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has undone some failures by itself.
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise

    def value(self, text: str) -> Any:
        """A stored JSON text. Raises StoreError."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise damaged(self._folder, f"holds text that is not JSON ({error})") from error


def damaged(folder: Path, what: str = "is damaged") -> StoreError:
    """The error of a journal that is not what edgecomp has written."""
    return StoreError(
        f"{folder / JOURNAL} {what}.",
        hint=f"Move {JOURNAL}, {JOURNAL}-wal and {JOURNAL}-shm out of {folder}: the next fit starts a new journal and "
        "makes again what it needs; the training steps in the store stay of use.",
    )


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """What the disk or SQLite refuses in this block, as one sentence. Raises StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise _from_sqlite(error, folder) from error
    except OSError as error:
        raise refused(error, folder) from error


def _from_sqlite(error: sqlite3.Error, folder: Path) -> StoreError:
    # Errors of Python's own module have no code.
    code: int | None = getattr(error, "sqlite_errorcode", None)
    family = None if code is None else code & 0xFF
    if family == sqlite3.SQLITE_FULL:
        return refused(OSError(errno.ENOSPC, "disk full"), folder)
    if family in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(folder)
    if family == sqlite3.SQLITE_BUSY:
        return StoreError(
            f"Another process has held the store {folder} for more than {_BUSY_SECONDS} s.",
            hint="Look for an edgecomp that is stopped (state T), and let it go on or end it.",
        )
    if family == sqlite3.SQLITE_IOERR and code not in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ):
        return refused(OSError(errno.EIO, str(error)), folder)
    return StoreError(f"The store {folder} cannot be used: {error}.")
