"""What runs inside the emulator: loads a model and runs it between marks that the counter sees.

    python3 guest.py JOB.json

The job names the files and folders and how many runs there are to be. The answer goes to a file of its own, for
runtimes print on stdout and stderr. Python 3.7 or newer.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any


def mark() -> None:
    """A system call that the counter takes for a mark; see counter.c."""
    os.getpriority(os.PRIO_PROCESS, 0)


def nothing() -> None:
    """Stands in for the model, so that what the loop itself executes is known."""


def run_marked(job: dict[str, Any], feed: Callable[[int], None], call: Callable[[], None]) -> int:
    """Call with a mark before and after, first without counting; returns how many calls count.

    The first calls take longer: memory is got, and Python specializes its byte code. Models that take seconds here have
    so many instructions that neither shows.
    """
    start_s = time.monotonic()
    for number in range(job["warm_up_runs"]):
        feed(number)
        call()
        if time.monotonic() - start_s > job["warm_up_s"]:
            break
    runs = 0
    start_s = time.monotonic()
    while runs < job["runs"] and (runs < job["least_runs"] or time.monotonic() - start_s < job["most_s"]):
        feed(runs)
        mark()
        call()
        mark()
        runs += 1
    return runs


def simulate(job: dict[str, Any]) -> dict[str, Any]:
    """Load the model with the runtime of the job and run it; returns what is known then."""
    sys.path[:0] = [job["runtime_folder"], job["agent_folder"]]
    feeding, protocol, runtime = (import_module(f"on_device.{name}") for name in ("model", "protocol", "runtime"))
    np = import_module("numpy")
    interpreter_class = import_module(job["package"] + ".interpreter").Interpreter
    try:
        interpreter = interpreter_class(model_path=job["model"], num_threads=1)
        interpreter.allocate_tensors()
        if job["samples"] is None:
            model = feeding.ZeroInputs(np, interpreter)
        else:
            model = feeding.Model(np, interpreter, feeding.load_arrays(np, job["samples"]), has_outputs=False)
        gc.disable()  # A collection in mid-run would be counted as inference.
        mark()
        counted = [run_marked(job, lambda _: None, nothing), run_marked(job, model.feed, model.invoke)]
    except protocol.AgentError as error:
        return {"error": error.message.rstrip(".")}
    except (ValueError, RuntimeError) as error:
        return {"error": protocol.first_line(error)}
    coverage = runtime.delegate_coverage(interpreter)
    return {
        "counted": counted,
        "delegate": coverage,
        "kernel_family": runtime.kernel_family(coverage),
        "runtime_version": runtime.version_of(job["runtime"], import_module(job["package"])),
        "is_float": runtime.is_float_arithmetic(np, interpreter),
    }


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as stream:
        JOB = json.load(stream)
    ANSWER = simulate(JOB)
    with open(JOB["answer"], "w", encoding="utf-8") as stream:
        json.dump(ANSWER, stream)
