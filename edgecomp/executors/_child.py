"""The process behind `local.Worker`: `python -m edgecomp.executors._child LOG`."""

from __future__ import annotations

import importlib
import os
import queue
import sys
import threading
import traceback
from typing import IO, Any

from edgecomp.errors import EdgecompError, WorkerError
from edgecomp.executors.limits import MEMORY_BYTES, limit_memory
from edgecomp.executors.local import read_message, write_message

_replies: IO[bytes] | None = None


def report_progress(what: str, done: int, total: int) -> None:
    """Tell the parent how far the present call is. Does nothing outside a worker."""
    if _replies is not None:
        write_message(_replies, ("progress", (what, done, total)))


def _read_requests(stream: IO[bytes], requests: queue.Queue[Any]) -> None:
    while True:
        try:
            requests.put(read_message(stream))
        except EOFError:
            # The parent is gone, however it went: nobody wants the work any more.
            os._exit(1)


def _answer(function: str, arguments: dict[str, object]) -> tuple[str, object]:
    module, _, name = function.partition(":")
    try:
        return "result", getattr(importlib.import_module(module), name)(**arguments)
    except EdgecompError as error:
        return "error", error
    except MemoryError:
        return "error", _out_of_memory(name)
    except Exception as error:  # The last resort of the process: the log has the traceback, the parent the sentence.
        traceback.print_exc()
        if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's name for the same.
            return "error", _out_of_memory(name)
        text = " ".join(str(error).split())
        return "error", f"{type(error).__name__}: {text[:300]}"


def _out_of_memory(name: str) -> WorkerError:
    allowed = os.environ.get(MEMORY_BYTES)
    limit = "there is" if allowed is None else f"the {int(allowed) / 2**30:.1f} GiB that a worker may use"
    return WorkerError(f"{name} needs more memory than {limit}.")


def main(log_path: str) -> None:
    """Serve requests until the parent closes the pipe."""
    global _replies
    limit_memory()
    requests_stream = os.fdopen(os.dup(0), "rb")
    _replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    requests: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests_stream, requests), daemon=True).start()
    while True:
        kind, what, arguments = requests.get()
        if kind == "preload":
            for module in what:
                importlib.import_module(module)
            continue
        reply = _answer(what, arguments)
        sys.stdout.flush()
        write_message(_replies, reply)


if __name__ == "__main__":
    # Run as a module this file is __main__: functions must find the same `report_progress` that we serve.
    from edgecomp.executors import _child

    _child.main(sys.argv[1])
