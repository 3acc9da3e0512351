"""An asyncio loop in a thread of its own, so that blocking code can use an asynchronous library.

The thread also keeps keep-alives going between calls, and works where the caller has a loop of its own (a notebook).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")

_CLEAN_UP_S = 10.0


class LoopThread:
    """Runs coroutines for a caller that waits for them."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine to its end and return what it returns.

        Where the wait is interrupted (Ctrl-C) the coroutine is cancelled and gets a few seconds to clean up.
        """
        has_ended = threading.Event()

        async def watched() -> _Result:
            try:
                return await coroutine
            finally:
                has_ended.set()

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                has_ended.wait(_CLEAN_UP_S)
            raise

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _cancel_others() -> None:
    """End what the library left running; a loop that is closed under a task complains."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
