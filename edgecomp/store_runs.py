"""Runs: what was asked for, what happened so far, and which process works on it."""

from __future__ import annotations

import difflib
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from edgecomp.errors import StoreError
from edgecomp.store_files import checked_key
from edgecomp.store_journal import Journal
from edgecomp.store_process import is_alive, process_start

Status = Literal["running", "done", "failed", "interrupted"]
_BEAT_SECONDS = 5
_LABEL_LENGTH = 40
_SHOWN_NAMES = 5
_SUMMARY = "SELECT name, label, request, status, started_at, updated_at, elapsed_s, pid, pid_start FROM run"


@dataclass(frozen=True)
class Event:
    """Something that a run has recorded.

    Attributes:
        number: Its place in the run, from 1 without gaps.
        at: Seconds since 1970.
    """

    number: int
    at: float
    kind: str
    value: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {"number": self.number, "at": utc(self.at), "kind": self.kind, "value": self.value}


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance.

    Attributes:
        request: As it was given to `Store.begin_run`.
        status: A "running" run whose process is gone is "interrupted".
        started_at, updated_at: Seconds since 1970; the last sign of life.
        elapsed_s: Of all its parts, without the time between them.
    """

    name: str
    label: str
    request: dict[str, Any]
    status: Status
    started_at: float
    updated_at: float
    elapsed_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "name": self.name,
            "label": self.label,
            "model": self.request.get("model"),
            "devices": self.request.get("devices"),
            "status": self.status,
            "started_at": utc(self.started_at),
            "updated_at": utc(self.updated_at),
            "elapsed_s": round(self.elapsed_s, 1),
        }


@dataclass(frozen=True)
class RunDetails:
    """All that is known of a run.

    Attributes:
        result: None until it has finished with one.
        used: Keys of the results and steps that it used.
    """

    summary: RunSummary
    events: tuple[Event, ...]
    result: dict[str, Any] | None
    used: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            **self.summary.to_json(),
            "request": self.summary.request,
            "events": [event.to_json() for event in self.events],
            "result": self.result,
            "used": list(self.used),
        }


class Run:
    """A run that this process works on, or may take up by `resume`; made by `Store`.

    Attributes:
        name: UTC time, label and four random digits, as 20261122-214500-resnet8-3f2a.
    """

    def __init__(self, journal: Journal, number: int, name: str, elapsed_s: float, *, is_active: bool) -> None:
        self.name = name
        self._journal = journal
        self._number = number
        self._before_s = elapsed_s
        self._since = time.monotonic() if is_active else None
        self._beaten = time.monotonic()

    def record(self, kind: str, value: dict[str, Any]) -> None:
        """Write down what happened; it is on disk when this returns. Raises StoreError."""
        text = json.dumps(value)
        with self._journal.writing() as database:
            self._beat(database)
            database.execute(
                "INSERT INTO event SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4 FROM event WHERE run = ?1",
                (self._number, time.time(), kind, text),
            )

    def use(self, key: str) -> None:
        """Say that this run uses a result or step, which is kept as long as the run is. Raises StoreError."""
        with self._journal.writing() as database:
            self._beat(database)
            database.execute("INSERT INTO used VALUES (?, ?) ON CONFLICT DO NOTHING", (self._number, checked_key(key)))

    def beat(self) -> None:
        """Note now and then that the run is active; cheap enough to be called at every step. Raises StoreError."""
        if time.monotonic() - self._beaten >= _BEAT_SECONDS:
            with self._journal.writing() as database:
                self._beat(database)

    def _beat(self, database: Any) -> None:
        changed = database.execute(
            "UPDATE run SET elapsed_s = ?, updated_at = ? WHERE number = ? AND name = ?",
            (self.elapsed_s(), time.time(), self._number, self.name),
        )
        if not changed.rowcount:
            raise StoreError(f"The run {self.name} is no longer in the store.")
        self._beaten = time.monotonic()

    def events(self, kind: str | None = None) -> list[Event]:
        """What was recorded, in order; of one kind only, if it is given. Raises StoreError."""
        return [event for event in _events(self._journal, self._number) if kind is None or event.kind == kind]

    def elapsed_s(self) -> float:
        """Seconds that all its parts were active, without the time between them; after a kill up to the last beat."""
        return self._before_s + (0.0 if self._since is None else time.monotonic() - self._since)

    def finish(self, status: Literal["done", "failed", "interrupted"], result: dict[str, Any] | None) -> None:
        """End it; an interrupted one can be taken up again, by this process too. Raises StoreError."""
        text = None if result is None else json.dumps(result)
        with self._journal.writing() as database:
            self._beat(database)
            database.execute(
                "UPDATE run SET status = ?, result = ?, pid = NULL, pid_start = NULL WHERE number = ?",
                (status, text, self._number),
            )
        self._before_s, self._since = self.elapsed_s(), None

    def result(self) -> dict[str, Any] | None:
        """What it has finished with; None before, or without one. Raises StoreError."""
        return _result(self._journal, self._number)

    def resume(self) -> None:
        """Go on with it in this process.

        Raises:
            StoreError: It is done, or another process has taken it up already.
        """
        with self._journal.writing() as database:
            rows = database.execute(
                "SELECT status, pid, pid_start, elapsed_s FROM run WHERE number = ? AND name = ?",
                (self._number, self.name),
            ).fetchall()
            if not rows:
                raise StoreError(f"The run {self.name} is no longer in the store.")
            status, pid, pid_start, elapsed_s = rows[0]
            if status == "done":
                raise StoreError(f"The run {self.name} is done: there is nothing to go on with.")
            if is_alive(pid, pid_start):
                raise StoreError(f"Process {pid} works on the run {self.name} already.")
            now, own = time.time(), os.getpid()
            database.execute(
                "UPDATE run SET status = 'running', result = NULL, part_at = ?, updated_at = ?, pid = ?, pid_start = ? "
                "WHERE number = ?",
                (now, now, own, process_start(own), self._number),
            )
        self._before_s, self._since = elapsed_s, time.monotonic()


def begin(journal: Journal, request: dict[str, Any], request_key: str, label: str) -> Run:
    """Start a run of this process. Raises StoreError."""
    word = re.sub("[^0-9a-z]+", "-", label.lower())[:_LABEL_LENGTH].strip("-") or "run"
    text, own = json.dumps(request), os.getpid()
    while True:
        now = time.time()
        name = f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{word}-{secrets.token_hex(2)}"
        with journal.writing() as database:
            made = database.execute(
                "INSERT INTO run (name, request_key, label, request, status, started_at, part_at, updated_at, "
                "elapsed_s, pid, pid_start) VALUES (?, ?, ?, ?, 'running', ?, ?, ?, 0, ?, ?) ON CONFLICT DO NOTHING",
                (name, checked_key(request_key), label, text, now, now, now, own, process_start(own)),
            )
            if made.rowcount and made.lastrowid is not None:
                return Run(journal, made.lastrowid, name, 0.0, is_active=True)


def unfinished(journal: Journal, request_key: str) -> Run | None:
    """The newest run of a request that was interrupted or killed. Raises StoreError."""
    rows = journal.rows(
        "SELECT number, name, elapsed_s, pid, pid_start FROM run "
        "WHERE request_key = ? AND status IN ('running', 'interrupted') ORDER BY number DESC",
        (checked_key(request_key),),
    )
    for number, name, elapsed_s, pid, pid_start in rows:
        if not is_alive(pid, pid_start):
            return Run(journal, number, name, elapsed_s, is_active=False)
    return None


def summaries(journal: Journal) -> list[RunSummary]:
    """Every run, newest first. Raises StoreError."""
    return [_summary(journal, row) for row in journal.rows(f"{_SUMMARY} ORDER BY number DESC")]


def load(journal: Journal, name: str) -> RunDetails:
    """A run by its name, or by a beginning that no other run shares. Raises StoreError."""
    numbers = {known: number for number, known in journal.rows("SELECT number, name FROM run ORDER BY number DESC")}
    matches = [name] if name in numbers else [known for known in numbers if name and known.startswith(name)]
    if len(matches) != 1:
        raise _not_one(name, matches, list(numbers))
    number = numbers[matches[0]]
    rows = journal.rows(f"{_SUMMARY} WHERE number = ?", (number,))
    if not rows:
        raise _not_one(name, [], list(numbers))
    return RunDetails(
        _summary(journal, rows[0]),
        tuple(_events(journal, number)),
        _result(journal, number),
        tuple(key for (key,) in journal.rows("SELECT key FROM used WHERE run = ? ORDER BY key", (number,))),
    )


def _summary(journal: Journal, row: Sequence[Any]) -> RunSummary:
    name, label, request, status, started_at, updated_at, elapsed_s, pid, pid_start = row
    is_left = status == "running" and not is_alive(pid, pid_start)
    shown: Status = "interrupted" if is_left else status
    return RunSummary(name, label, journal.value(request), shown, started_at, updated_at, elapsed_s)


def _events(journal: Journal, number: int) -> list[Event]:
    rows = journal.rows("SELECT number, at, kind, value FROM event WHERE run = ? ORDER BY number", (number,))
    return [Event(place, at, kind, journal.value(text)) for place, at, kind, text in rows]


def _result(journal: Journal, number: int) -> dict[str, Any] | None:
    rows = journal.rows("SELECT result FROM run WHERE number = ? AND result IS NOT NULL", (number,))
    return journal.value(rows[0][0]) if rows else None


def _not_one(name: str, matches: list[str], known: list[str]) -> StoreError:
    if matches:
        more = f" and {len(matches) - _SHOWN_NAMES} more" if len(matches) > _SHOWN_NAMES else ""
        return StoreError(
            f"{len(matches)} runs begin with {name!r}: {', '.join(matches[:_SHOWN_NAMES])}{more}.",
            hint="Give more of the name.",
        )
    if not known:
        return StoreError(f"There is no run {name!r}: the store holds none.")
    parts = [item for item in known if name and name in item]
    near = (parts or difflib.get_close_matches(name, known, n=_SHOWN_NAMES, cutoff=0.5))[:_SHOWN_NAMES]
    closest = f"Did you mean {' or '.join(near)}? " if near else ""
    return StoreError(f"There is no run {name!r}.", hint=f"{closest}`edgecomp runs list` names all {len(known)}.")


def utc(at: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
