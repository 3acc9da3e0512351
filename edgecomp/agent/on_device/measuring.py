"""One fresh process: load a model, then one pass over it.

Passes are apart because they disturb each other: `latency` (with the golden outputs, before anything is timed),
`memory` (the peak of a process that does nothing else), `outputs` (answers to samples, for a score on the device) and
`profile` (time by operator).
"""

from __future__ import annotations

import base64
import io
import os
import resource
import time
from typing import Any

from .emulation import emulator_signs, virtual_machine
from .golden import compare_golden
from .machine import collect_facts, read_text
from .model import Model, ZeroInputs, load_arrays
from .operators import profile_operators
from .private_runtime import add_private_runtime
from .protocol import AgentError, Say, first_line
from .runtime import (
    delegate_coverage,
    import_numpy,
    is_float_arithmetic,
    is_quantized,
    kernel_family,
    load_any_runtime,
    open_model,
)
from .timing import WARM_UP_S, time_runs

SAMPLES_PER_LINE = 10_000
BYTES_PER_LINE = 1 << 16
MEMORY_RUNS = 5


class Opened:
    """A model in a runtime, and what is known of both."""

    def __init__(self, configuration: Any, folder: str, say: Say, weighs_runtime: bool = False) -> None:
        private = add_private_runtime()
        facts = collect_facts()
        self.np = import_numpy()
        self.runtime_rss_bytes: int | None = None
        if weighs_runtime:
            say("stage", name="loading the runtime")
            self.runtime_rss_bytes = rss_bytes("VmRSS") if load_any_runtime(self.np.__version__) else None
        path = os.path.join(folder, configuration["model"])
        found = open_model(path, configuration["num_threads"], self.np.__version__, say)
        self.interpreter, self.runtime, self.init_ms = found["interpreter"], found["runtime"], found["init_ms"]
        self.coverage = delegate_coverage(self.interpreter)
        self.made_with = {
            "kernel_family": kernel_family(self.coverage),
            "runtime": found["runtime"],
            "runtime_version": found["version"],
            "architecture": facts["architecture"],
        }
        self.arrays = None
        if configuration.get("golden"):
            self.arrays = load_arrays(self.np, os.path.join(folder, configuration["golden"]))
        signs, machine = emulator_signs(), virtual_machine()
        say(
            "facts",
            **dict(facts, **self.made_with),
            numpy=self.np.__version__,
            tried=found["tried"],
            private_runtime=private,
            emulator_signs=signs,
            virtual_machine=machine,
        )

    def model(self) -> Any:
        """What is fed to it: the golden samples, or zeros where there are none."""
        if self.arrays is None:
            return ZeroInputs(self.np, self.interpreter)
        return Model(self.np, self.interpreter, self.arrays)


def run_pass(job: Any, configuration: Any, name: str, folder: str, say: Say) -> None:
    """One pass over one configuration.

    Args:
        job: See `session.run_session`.
        configuration: One of its `configurations`.
        name: "latency", "golden" (latency, after the outputs were compared), "memory", "outputs" or "profile".
        folder: Holds the files that the configuration names.
        say: Takes the messages.

    Raises:
        AgentError: There is no result, and why.
    """
    if name == "profile":
        add_private_runtime()
        say("stage", name="profiling operators")
        say("profile", **profile_operators(os.path.join(folder, configuration["model"]), configuration["num_threads"]))
        say("done")
        return
    opened = Opened(configuration, folder, say, weighs_runtime=name == "memory")
    try:
        if name == "outputs":
            _answer(opened, os.path.join(folder, configuration["evaluate"]), say)
        elif name == "memory":
            _measure_memory(opened, say)
        else:
            _measure_latency(job, configuration, opened, say, compares=name == "golden")
    except (ValueError, RuntimeError) as error:
        raise AgentError("model", f"{opened.runtime} does not run this model: {first_line(error)}.") from error


def _measure_latency(job: Any, configuration: Any, opened: Opened, say: Say, compares: bool) -> None:
    model = opened.model()
    model.feed(0)
    start_ns = time.perf_counter_ns()
    model.invoke()
    first_ms = (time.perf_counter_ns() - start_ns) / 1e6
    say("loaded", init_ms=opened.init_ms, first_ms=first_ms, delegate=opened.coverage)
    if compares and opened.arrays is not None:
        say("stage", name="comparing outputs")
        ours = opened.made_with
        is_exact = None not in ours.values() and configuration["made_with"] == ours
        say("golden", **check_golden(model, opened, job["golden_seconds"], is_exact, job["tolerance_lsb"]))
    say("stage", name="warming up")
    time_runs(model, 1, WARM_UP_S, job["process_seconds"], 1.0)
    say("stage", name="measuring")
    switches, cpu_s = involuntary_switches(), time.process_time()
    values, every = time_runs(
        model, job["min_runs"], job["min_seconds"], job["process_seconds"], job["precision_ratio"]
    )
    switches, cpu_s = involuntary_switches() - switches, time.process_time() - cpu_s
    say("stage", name="measured")
    for start in range(0, len(values), SAMPLES_PER_LINE):
        say("samples", unit="us", values=values[start : start + SAMPLES_PER_LINE])
    say("done", involuntary_switches=switches, cpu_s=cpu_s, every=every)


def involuntary_switches() -> int:
    """How often this process was taken off a core so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def check_golden(
    model: Any, opened: Opened, max_seconds: float, is_exact: bool, tolerance_lsb: float
) -> dict[str, Any]:
    """Run the golden samples, as many as fit into the time limit but at least one, and compare."""
    np = opened.np
    deadline = time.perf_counter() + max_seconds
    found: list[list[Any]] = []
    for number in range(model.count):
        model.feed(number)
        model.invoke()
        found.append(model.read())
        if time.perf_counter() > deadline:
            break
    pairs = [
        (model.expected[i][: len(found)], np.stack([outputs[i] for outputs in found]), is_quantized(np, detail))
        for i, detail in enumerate(model.outputs)
    ]
    return compare_golden(np, pairs, is_float_arithmetic(np, opened.interpreter), is_exact, tolerance_lsb)


def _measure_memory(opened: Opened, say: Say) -> None:
    say("stage", name="measuring memory")
    model = opened.model()
    for number in range(MEMORY_RUNS):
        model.feed(number)
        model.invoke()
    peak = rss_bytes("VmHWM")
    say("memory", peak_rss_bytes=peak, runtime_rss_bytes=opened.runtime_rss_bytes)
    say("done")


def rss_bytes(key: str) -> int | None:
    """`VmRSS` or `VmHWM` of this process; None where the system does not tell."""
    for line in read_text("/proc/self/status").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None


def _answer(opened: Opened, path: str, say: Say) -> None:
    """Outputs of every sample of a file, as the bytes of an .npz in several messages."""
    np = opened.np
    arrays = load_arrays(np, path)
    model = Model(np, opened.interpreter, arrays, has_outputs=False)
    say("stage", name="answering samples")
    found: list[list[Any]] = []
    for number in range(model.count):
        model.feed(number)
        model.invoke()
        found.append(model.read())
        if number % 50 == 49:
            say("answered", samples=number + 1, of=model.count)
    stream = io.BytesIO()
    np.savez(stream, **{f"output_{i}": np.stack([one[i] for one in found]) for i in range(len(model.outputs))})
    data = stream.getvalue()
    for start in range(0, len(data), BYTES_PER_LINE):
        say("outputs", data=base64.b64encode(data[start : start + BYTES_PER_LINE]).decode("ascii"))
    say("done")
