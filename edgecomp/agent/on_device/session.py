"""A measurement: every configuration in several fresh processes, in alternating order, under watch.

What differs between processes (where memory lies, which core) is often more than what differs between the inferences
of one, and what drifts meanwhile must hit all configurations alike. So rounds go A B, B A, A B, ...; after the least
number of rounds a configuration is left out as soon as its interval is narrow enough.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

from .conditions import Conditions, core_speeds, pick_cores
from .protocol import MARK, AgentError, Say
from .stopping import is_settled
from .timing import PARENT

WATCH_S = 0.5
MOST_SAMPLES = 60
LONGEST_LINE_BYTES = 1 << 22


def run_session(job: Any, folder: str, agent: str, say: Say) -> None:
    """Measure all configurations of a job.

    Args:
        job: `configurations`, each with `model`, `golden` and `evaluate` (file names or None), `made_with`,
            `num_threads` (0: one for each core that is measured on) and `big_cores` (None: as many as are fastest);
            `min_processes`, `max_processes`, `min_runs`, `min_seconds`, `process_seconds`, `golden_seconds`,
            `precision_ratio`, `tolerance_lsb`; `passes`: "memory" and "profile", where wanted.
        folder: Holds the files.
        agent: This very file.
        say: Takes the messages.

    Raises:
        AgentError: Whoever started the session is gone.
    """
    session = _Session(job, folder, agent, say)
    session.measure()
    session.other_passes()
    say("done", rounds=session.rounds)


class _Session:
    def __init__(self, job: Any, folder: str, agent: str, say: Say) -> None:
        self._job, self._folder, self._agent, self._say = job, folder, agent, say
        self._configurations = job["configurations"]
        affinity = getattr(os, "sched_getaffinity", None)
        allowed = sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))
        speeds = core_speeds(allowed)
        for configuration in self._configurations:
            cores = pick_cores(speeds, configuration["big_cores"])
            configuration["cores"] = cores if affinity else None
            configuration["num_threads"] = min(configuration["num_threads"] or len(cores), len(cores))
        self._conditions = [Conditions(pick_cores(speeds, item["big_cores"])) for item in self._configurations]
        self._processes: list[list[list[float]]] = [[] for _ in self._configurations]
        self._has_failed: set[int] = set()
        self.rounds = 0
        with open(os.path.join(folder, "job.json"), "w", encoding="utf-8") as stream:
            json.dump(job, stream)  # With cores and threads decided, for the processes.
        for index, configuration in enumerate(self._configurations):
            say(
                "configuration",
                configuration=index,
                num_threads=configuration["num_threads"],
                limits=self._conditions[index].limits(),
            )

    def measure(self) -> None:
        """The rounds."""
        everyone = list(range(len(self._configurations)))
        for number in range(self._job["max_processes"]):
            order = everyone if number % 2 == 0 else everyone[::-1]
            for index in order:
                settled = number >= self._job["min_processes"] and is_settled(
                    self._processes[index], self._job["precision_ratio"]
                )
                if settled or index in self._has_failed:
                    continue
                self._say("round", configuration=index, round=number)
                values = self._run(index, "latency" if number else "golden")
                if values is None:
                    self._has_failed.add(index)
                else:
                    self._processes[index].append(values)
                    self.rounds = number + 1

    def other_passes(self) -> None:
        """What is not latency; a pass that fails costs itself alone."""
        for index, configuration in enumerate(self._configurations):
            if index in self._has_failed:
                continue
            for name in self._job["passes"]:
                self._run(index, name)
            if configuration.get("evaluate"):
                self._run(index, "outputs")

    def _run(self, index: int, name: str) -> list[float] | None:
        """One pass in a fresh process; None where it failed, which was said. Latencies in microseconds."""
        command = [sys.executable, self._agent, "pass", os.path.join(self._folder, "job.json"), str(index), name]
        child = subprocess.Popen(command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        watch = _Watch(self._conditions[index])
        values: list[float] = []
        ended: str | None = None
        stage = ""
        try:
            for line in _lines(child, watch):
                if not line.startswith(MARK):
                    sys.stderr.write(line.decode("utf-8", "replace"))
                    continue
                message = json.loads(line.decode("ascii"))
                kind = message.pop("type")
                message.pop("edgecomp")
                if kind == "stage":
                    stage = message["name"]
                    watch.enter(stage)
                elif kind == "samples":
                    values += message["values"]
                elif kind in ("done", "error"):
                    ended = kind
                    watch.usage = message
                if kind != "done":
                    self._say(kind, configuration=index, **{"pass": name, **message})
        except BaseException:
            child.kill()
            raise
        finally:
            code = child.wait()
            if child.stdout is not None:
                child.stdout.close()
        if ended == "error":
            return None
        if ended is None:
            self._say("error", configuration=index, code="crash", exit_code=code, stage=stage, **{"pass": name})
            return None
        if name in ("golden", "latency"):
            self._say("process", configuration=index, runs=len(values), **watch.report())
        return values


def _lines(child: Any, watch: _Watch) -> Any:
    """Lines of a child's stdout as they come; the watch looks around while there are none."""
    pending = b""
    descriptor = child.stdout.fileno()
    while True:
        ready, _, _ = select.select([descriptor], [], [], WATCH_S)
        if os.getppid() != PARENT:
            raise AgentError("orphan", "The process that started the measurement is gone.")
        if not ready:
            watch.look()
            continue
        data = os.read(descriptor, 1 << 16)
        if not data:
            break
        pending += data
        lines = pending.split(b"\n")
        pending = lines.pop()[:LONGEST_LINE_BYTES]
        for line in lines:
            yield line + b"\n"
    if pending:
        yield pending


class _Watch:
    """Conditions before, during and after one process is timed."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._before = conditions.sample()
        self._during: list[dict[str, Any]] = []
        self._counters: list[dict[str, Any]] = []
        self._is_timing = False
        self._own_s = 0.0
        self.usage: dict[str, Any] = {}

    def enter(self, stage: str) -> None:
        """A stage of the process has begun."""
        if stage in ("measuring", "measured"):
            self._counters.append(self._conditions.counters())
            self._own_s = time.process_time() - self._own_s
        self._is_timing = stage == "measuring"
        if self._is_timing:
            self.look()

    def look(self) -> None:
        """Take a sample, if the process is being timed."""
        if self._is_timing and len(self._during) < MOST_SAMPLES:
            self._during.append(self._conditions.sample())

    def report(self) -> dict[str, Any]:
        """Samples, and what the counters say of the time in between; None for what this system does not tell."""
        first, last = self._counters[0], self._counters[-1]
        elapsed_s = last["t_s"] - first["t_s"]
        room_s = max(elapsed_s, 1e-9) * max(1, len(self._conditions.cores))

        def grown(name: str) -> Any:
            return None if first[name] is None or last[name] is None else last[name] - first[name]

        busy_s, stolen_s = grown("busy_s"), grown("stolen_s")
        others_s = None if busy_s is None else max(0.0, busy_s - self.usage["cpu_s"] - self._own_s)
        return {
            "before": self._before,
            "during": self._during,
            "after": self._conditions.sample(),
            "elapsed_s": round(elapsed_s, 3),
            "others_ratio": None if others_s is None else round(others_s / room_s, 4),
            "stolen_ratio": None if stolen_s is None else round(stolen_s / room_s, 4),
            "quota_periods": grown("quota_periods"),
            "throttled_before": first["throttled"],
            "throttled_after": last["throttled"],
            "clock_jump_s": round((last["clock_s"] - first["clock_s"]) - elapsed_s, 3),
            "involuntary_switches": self.usage["involuntary_switches"],
            "every": self.usage["every"],
        }
