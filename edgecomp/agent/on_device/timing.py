"""Timing one inference after the other, by a stop rule."""

from __future__ import annotations

import gc
import os
import time
from typing import Any

from .protocol import AgentError
from .stopping import within_process_ratio

# What one process hands over at most; a fast model has more of them in a second.
MOST_VALUES = 50_000
WARM_UP_S = 0.5
# Whoever started this process tidies up after it; without them it must not go on.
PARENT = os.getppid()


def time_runs(
    model: Any, min_runs: int, min_seconds: float, max_seconds: float, precision_ratio: float
) -> tuple[list[float], int]:
    """Time inferences one after the other; setting the inputs is not counted.

    Goes on until there are `min_runs` runs, `min_seconds` have passed and the 95 % interval of the median is within
    `precision_ratio` of it, but not beyond `max_seconds`.

    Returns:
        Microseconds of every n-th inference, and n: 1, or the power of two that keeps them below `MOST_VALUES`. Which
        ones are kept depends on their number alone, never on their time.
    """
    values: list[float] = []
    clock = time.perf_counter_ns
    begin_ns = clock()
    count, every, next_look = 0, 1, min_runs
    gc.disable()  # A collection in mid-run would be counted as inference.
    try:
        while True:
            model.feed(count)
            start_ns = clock()
            model.invoke()
            end_ns = clock()
            if count % every == 0:
                values.append((end_ns - start_ns) / 1000)
            count += 1
            if len(values) >= MOST_VALUES:
                values, every = values[::2], 2 * every
            elapsed_s = (end_ns - begin_ns) / 1e9
            if elapsed_s >= max_seconds:
                break
            if count >= next_look and elapsed_s >= min_seconds:
                if within_process_ratio(values) <= precision_ratio:
                    break
                next_look = count + count // 4 + 1  # Sorting at every run would be a load of its own.
            if os.getppid() != PARENT:
                raise AgentError("orphan", "The process that started the measurement is gone.")
    finally:
        gc.enable()
    return values, every
