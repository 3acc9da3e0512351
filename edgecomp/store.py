"""The store: what fits have made, so that a killed one goes on and others share its work.

store.db                  the journal: results by key, runs and their events
artifacts/<aa>/<sha256>   files by content
steps/<key>/              folders of training steps; `edgecomp.diary` writes in them
locks/<key>               empty files that processes lock
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgecomp.errors import StoreError
from edgecomp.store_files import ARTIFACTS, FILES_LOCK, LOCKS, STEPS, Artifacts, checked_key, held
from edgecomp.store_gc import Collected, collect
from edgecomp.store_journal import JOURNAL, Journal, told
from edgecomp.store_runs import Event, Run, RunDetails, RunSummary, begin, load, summaries, unfinished

__all__ = ["Collected", "Event", "Run", "RunDetails", "RunSummary", "Store"]


class Store:
    """An open store; made by `Store.open`. Several processes of one machine may work in it at the same time.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder = folder
        self._journal = journal
        self._artifacts = Artifacts(folder)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open the store in a folder; made where there is none.

        Raises:
            StoreError: It cannot be made or opened, its journal is damaged, or a newer edgecomp has written it.
        """
        folder = folder.absolute()
        with told(folder):
            for name in (ARTIFACTS, STEPS, LOCKS):
                (folder / name).mkdir(parents=True, exist_ok=True)
        return cls(folder, Journal(folder))

    @classmethod
    def open_existing(cls, folder: Path) -> Store | None:
        """Open the store in a folder; None if there is none, and none is made. Raises StoreError as `open`."""
        return cls.open(folder) if (folder / JOURNAL).exists() else None

    def close(self) -> None:
        """Close it; everything is on disk already."""
        self._journal.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def steps_root(self) -> Path:
        """Where the folders of training steps are."""
        return self.folder / STEPS

    def put(self, data: bytes) -> str:
        """Keep a file by its content; returns its sha256. Raises StoreError."""
        with told(self.folder):
            return self._artifacts.put(data)

    def path_of(self, sha256: str) -> Path | None:
        """Where a file is, its content checked; None if it is missing. A damaged one is removed and counts as missing.

        Raises:
            StoreError: The file cannot be read, or this is no sha256.
        """
        with told(self.folder):
            return self._artifacts.whole(sha256)

    def recall(self, key: str) -> dict[str, Any] | None:
        """A finished result; None if there is none, or one of its artifacts is no longer there and whole.

        Raises:
            StoreError: The store cannot be read, or the key is not allowed.
        """
        # One statement: a collection between two of them would leave a result that seems to name nothing.
        rows = self._journal.rows(
            "SELECT result.number, value, sha256 FROM result LEFT JOIN artifact ON result = result.number "
            "WHERE key = ?",
            (checked_key(key),),
        )
        if not rows:
            return None
        number, text, _ = rows[0]
        names = [sha256 for _, _, sha256 in rows if sha256 is not None]
        if all(self.path_of(sha256) is not None for sha256 in names):
            value: dict[str, Any] = self._journal.value(text)
            return value
        # Forgotten, so that whoever makes it anew can have it remembered.
        with self._journal.writing() as database:
            database.execute("DELETE FROM result WHERE number = ? AND key = ?", (number, key))
        return None

    def remember(self, key: str, kind: str, value: dict[str, Any], artifacts: Sequence[str], seconds: float) -> None:
        """Keep a finished result. If the key has one already, that one stays.

        Args:
            key: Digest of all that the result depends on.
            kind: What it is the result of.
            value: What JSON can hold.
            artifacts: The sha256 of every file that it needs; each was `put` before.
            seconds: That making it took.

        Raises:
            StoreError: The store cannot be written, the key is not allowed, or an artifact is not there.
        """
        text = json.dumps(value)
        with told(self.folder), held(self.folder, FILES_LOCK, shared=True):
            for sha256 in artifacts:
                if not self._artifacts.path(sha256).is_file():
                    raise StoreError(f"The result {key} names the artifact {sha256}, which is not in {self.folder}.")
            with self._journal.writing() as database:
                made = database.execute(
                    "INSERT INTO result (key, kind, value, seconds, made_at) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (key) DO NOTHING",
                    (checked_key(key), kind, text, seconds, time.time()),
                )
                if made.rowcount:
                    named = [(made.lastrowid, sha256) for sha256 in sorted(set(artifacts))]
                    database.executemany("INSERT INTO artifact VALUES (?, ?)", named)

    def step_folder(self, key: str) -> Path:
        """The folder of a training step; made where missing. Work in it under `lock(key)`. Raises StoreError."""
        path = self.folder / STEPS / checked_key(key)
        with told(self.folder), held(self.folder, FILES_LOCK, shared=True):
            path.mkdir(exist_ok=True)
            # Told to `gc`, which leaves alone what a live run may have looked up.
            path.touch()
        return path

    @contextlib.contextmanager
    def lock(self, key: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Do alone, among all processes, what stands in the block; the kernel ends it when the process dies.

        Not reentrant: whoever holds a key and asks for it again waits for itself.

        Args:
            key: Of the result or step that is made in the block.
            on_wait: Called once, and only if another process has to be waited for.

        Raises:
            StoreError: The lock cannot be made, or the key is not allowed.
        """
        with held(self.folder, checked_key(key), on_wait=on_wait):
            yield

    def begin_run(self, request: dict[str, Any], request_key: str, label: str) -> Run:
        """Start a run of this process.

        Args:
            request: What was asked for; `edgecomp runs` shows `model` and `devices` of it. `part_of` names the run of
                several models that it is one of.
            request_key: Digest of the request: the same request finds its unfinished run by it.
            label: A word for people, part of the name.

        Raises:
            StoreError: The store cannot be written, or the key is not allowed.
        """
        return begin(self._journal, request, request_key, label)

    def unfinished_run(self, request_key: str) -> Run | None:
        """The newest run of a request that was interrupted, or whose process is gone. Raises StoreError."""
        return unfinished(self._journal, request_key)

    def runs(self) -> list[RunSummary]:
        """Every run, newest first. Raises StoreError."""
        return summaries(self._journal)

    def load_run(self, name: str) -> RunDetails:
        """A run by its name, or by a beginning of it; "last" is the newest, of several models that of all of them.

        Raises:
            StoreError: No run begins so, or several do; near ones are named.
        """
        if name == "last":
            name = next((run.name for run in self.runs() if run.request.get("part_of") is None), name)
        return load(self._journal, name)

    def gc(self, keep_runs: int, older_than_days: float | None = None, *, dry_run: bool = False) -> Collected:
        """Remove old runs, then the results, artifacts and steps that no remaining run uses.

        Never what a live run uses, nor what was made or looked up since the oldest live run began; never a step that is
        locked.

        Args:
            keep_runs: So many of the newest runs that have ended stay.
            older_than_days: Of the others, only those without a sign of life for so long go; None: all of them.
            dry_run: Only say what would go.

        Raises:
            StoreError: The store cannot be read or written, or a number is below zero.
        """
        if keep_runs < 0 or (older_than_days is not None and not 0 <= older_than_days < math.inf):
            raise StoreError(f"Runs to keep and days must be at least 0, got {keep_runs} and {older_than_days}.")
        return collect(self.folder, self._journal, keep_runs, older_than_days, dry_run=dry_run)
