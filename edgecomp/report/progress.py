"""Progress on stderr: one changing line with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from edgecomp.executors.local import Progress
from edgecomp.units import format_seconds

_LINE_SECONDS = 30
# Earlier than this a guess at the time left is worth nothing.
_LEAST_SECONDS, _LEAST_SHARE = 3, 0.02


class Steps:
    """What is being done, since when, and how long it may take.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._what = ""
        self._started = self._first = 0.0

    def remaining_s(self, what: str, done: int, total: int) -> float | None:
        """Seconds left of this step by its speed so far; None before that means anything."""
        now = self._clock()
        if what != self._what:
            self._what, self._started, self._first = what, now, done
            return None
        gone, share = now - self._started, (done - self._first) / total if total else 0.0
        if gone < _LEAST_SECONDS or share < _LEAST_SHARE:
            return None
        return gone * (total - done) / (done - self._first)


def _told(steps: Steps, what: str, done: int, total: int) -> str:
    left = steps.remaining_s(what, done, total)
    count = f"  {100 * done / total:.0f} %" if total else ""
    return what + count + ("" if left is None else f", {format_seconds(left)} left")


@contextlib.contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """What a long command calls with (what, done, total)."""
    started = time.monotonic()
    steps = Steps()
    if not sys.stderr.isatty():
        told: dict[str, float] = {}

        def line(what: str, done: int, total: int) -> None:
            text, now = _told(steps, what, done, total), time.monotonic()
            # Every step of a step would fill a log.
            if now - told.get(what, -_LINE_SECONDS) >= _LINE_SECONDS and (total or what not in told):
                text = text if what in told else what
                told[what] = now
                print(f"[{now - started:6.1f} s] {text}", file=sys.stderr, flush=True)  # noqa: T201

        yield line
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with console.status("starting") as status:

        def show(what: str, done: int, total: int) -> None:
            status.update(f"{escape(_told(steps, what, done, total))}  [dim]{time.monotonic() - started:.0f} s[/dim]")

        yield show
