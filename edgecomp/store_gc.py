"""Collecting what a store holds and no run needs any more."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecomp.store_files import FILES_LOCK, LOCKS, STEPS, Artifacts, held, held_if_free
from edgecomp.store_journal import Journal, told
from edgecomp.store_process import is_alive

_DAY_SECONDS = 86400
# A file system's clock may lag a little behind the process's.
_SLACK_SECONDS = 2.0


@dataclass(frozen=True)
class Collected:
    """What `gc` removed, or would remove.

    Attributes:
        freed_bytes: Of files; room in the journal is used again but not given back.
        runs, results, steps: Names and keys.
        artifacts: Each a sha256.
    """

    is_dry_run: bool
    freed_bytes: int
    runs: tuple[str, ...]
    results: tuple[str, ...]
    artifacts: tuple[str, ...]
    steps: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "dry_run": self.is_dry_run,
            "freed_bytes": self.freed_bytes,
            "runs": list(self.runs),
            "results": list(self.results),
            "artifacts": list(self.artifacts),
            "steps": list(self.steps),
        }


@dataclass(frozen=True)
class _Rows:
    """What the journal says.

    Attributes:
        runs, results: Number in the journal -> name or key of those that go.
        used: Keys that a remaining run uses.
        named: Artifacts of results that remain.
        live_since: Seconds since 1970: what was made or looked up later may belong to a live run that has not said so
            yet; infinite if none is live.
    """

    runs: dict[int, str]
    results: dict[int, str]
    used: frozenset[str]
    named: frozenset[str]
    live_since: float


def collect(
    folder: Path, journal: Journal, keep_runs: int, older_than_days: float | None, *, dry_run: bool
) -> Collected:
    """See `Store.gc`. Raises StoreError."""
    artifacts = Artifacts(folder)
    # In this order everywhere: files, then the journal. Nobody adds or looks up anything until this is through.
    with told(folder), held(folder, FILES_LOCK), journal.writing() as database:
        rows = _rows(database, artifacts, keep_runs, older_than_days)
        gone = [path for path in artifacts.all() if path.name not in rows.named and not _is_fresh(path, rows)]
        freed = 0
        # Files go first: on a full disk the journal needs their room, and a result without its artifacts is none.
        for path in (*gone, *artifacts.leftovers()):
            freed += path.stat().st_size
            if not dry_run:
                path.unlink()
        steps = []
        for key, size_bytes in _collect_steps(folder, rows, dry_run=dry_run):
            freed += size_bytes
            steps.append(key)
        if not dry_run:
            _remove_free_locks(folder)
            database.executemany("DELETE FROM result WHERE number = ?", [(number,) for number in rows.results])
            database.executemany("DELETE FROM run WHERE number = ?", [(number,) for number in rows.runs])
    names = tuple(path.name for path in gone)
    return Collected(dry_run, freed, tuple(rows.runs.values()), tuple(rows.results.values()), names, tuple(steps))


def _rows(database: sqlite3.Connection, artifacts: Artifacts, keep_runs: int, older_than_days: float | None) -> _Rows:
    live_since, idle = math.inf, []
    for number, name, updated_at, part_at, pid, pid_start in database.execute(
        "SELECT number, name, updated_at, part_at, pid, pid_start FROM run ORDER BY number DESC"
    ):
        if is_alive(pid, pid_start):
            live_since = min(live_since, part_at - _SLACK_SECONDS)
        else:
            idle.append((number, name, updated_at))
    newest = math.inf if older_than_days is None else time.time() - older_than_days * _DAY_SECONDS
    runs = {number: name for number, name, updated_at in idle[keep_runs:] if updated_at < newest}
    used = frozenset(key for run, key in database.execute("SELECT run, key FROM used") if run not in runs)
    fresh = {path.name for path in artifacts.all() if path.stat().st_mtime >= live_since}
    named: dict[int, set[str]] = {}
    for result, sha256 in database.execute("SELECT result, sha256 FROM artifact"):
        named.setdefault(result, set()).add(sha256)
    results = {
        number: key
        for number, key, made_at in database.execute("SELECT number, key, made_at FROM result ORDER BY number")
        if key not in used and made_at < live_since and not fresh & named.get(number, set())
    }
    remaining = frozenset(sha256 for number, names in named.items() if number not in results for sha256 in names)
    return _Rows(runs, results, used, remaining, live_since)


def _is_fresh(path: Path, rows: _Rows) -> bool:
    return path.stat().st_mtime >= rows.live_since


def _collect_steps(folder: Path, rows: _Rows, *, dry_run: bool) -> Iterator[tuple[str, int]]:
    """Key and bytes of every step that goes."""
    for path in sorted((folder / STEPS).iterdir()):
        if path.name.startswith("."):
            # A collection that was killed has left it.
            if not dry_run:
                shutil.rmtree(path)
            continue
        if path.name in rows.used or _is_fresh(path, rows):
            continue
        with held_if_free(folder, path.name) as is_free:
            if not is_free:
                continue
            size_bytes = sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
            if not dry_run:
                # Whole or absent: half a step must not be taken for one.
                doomed = path.with_name(f".{path.name[:32]}.{secrets.token_hex(4)}.tmp")
                path.rename(doomed)
                shutil.rmtree(doomed)
        yield path.name, size_bytes


def _remove_free_locks(folder: Path) -> None:
    for path in sorted((folder / LOCKS).iterdir()):
        if path.name.startswith(".") or (folder / STEPS / path.name).exists():
            continue
        with held_if_free(folder, path.name) as is_free:
            if is_free:
                os.unlink(path)
