"""Progress on stderr: one changing line on a terminal, one line a step elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from edgecomp.executors.local import Progress


@contextlib.contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """What a long command calls with (what, done, total)."""
    started = time.monotonic()
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def line(what: str, done: int, total: int) -> None:  # noqa: ARG001  The steps of a step would fill a log.
            if what not in seen:
                seen.add(what)
                print(f"[{time.monotonic() - started:6.1f} s] {what}", file=sys.stderr, flush=True)  # noqa: T201

        yield line
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:

        def show(what: str, done: int, total: int) -> None:
            count = f"  {done}/{total}" if total else ""
            status.update(f"{what}{count}  [dim]{time.monotonic() - started:.0f} s[/dim]")

        yield show
