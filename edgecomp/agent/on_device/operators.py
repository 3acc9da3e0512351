"""Time by operator, from the profiler that is in LiteRT itself.

The runtime's Python modules do not reach it, but the C API of the wheel's libLiteRt.so does. That API may change with
any version, so only those that were tried are used. Runs in a process of its own: a profiler makes inferences slower,
and what goes wrong in native code ends the process.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import time
from importlib import import_module
from typing import Any

from .private_runtime import add_private_runtime
from .protocol import AgentError
from .runtime import version_of
from .timing import PARENT, WARM_UP_S

CHECKED_VERSIONS = re.compile(r"2\.3\.\d+$")
MIN_RUNS = 50
MIN_S = 1.0
MOST_S = 30.0
# Inferences with and without the profiler take turns, so that what drifts meanwhile hits both alike.
BATCH_S = 0.05
# The profiler forgets events beyond the size of its buffer, so they are collected well before.
EVENTS_PER_BATCH = 10_000

_CPU = 1
_ENVIRONMENT_ACCELERATORS = 24
_ANY_INT = 2
_LOCK_FOR_WRITING = 1
_MOST_DIMENSIONS = 8
_STATUSES = {
    1: "invalid argument",
    2: "not enough memory",
    3: "the runtime failed",
    5: "not supported",
    500: "the file cannot be read as a model",
    501: "not a valid model file",
    504: "it cannot be compiled",
}
# "   Delegate/Add (ND)   3   0.001   0.557%   99.647%   0.000   30": nodes, mean ms, share, sum, memory, times called.
_ROW = re.compile(r"\s*(\S.*?)\s+(\d+)\s+[\d.]+\s+([\d.]+)%\s+[\d.]+%\s+[\d.]+\s+\d+$")
# Their own time is that of the operators in their subgraphs, and what the profiler adds to each of them.
_CONTAINERS = ("CALL", "CALL_ONCE", "IF", "STABLEHLO_CASE", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE", "WHILE")
_TOTAL = re.compile(r"Timings \(microseconds\): count=\d+ curr=(\d+)$")


def parse_summary(text: str, runs: int) -> dict[str, Any]:
    """The table by type of operator of LiteRT's profile.

    Args:
        text: What `LiteRtGetProfileSummary` wrote.
        runs: Inferences that were profiled.

    Returns:
        `operators_ms`, the time in all operators per inference, and `operators` in order of time, each with `type`,
        `nodes`, `ms` per inference and `ratio` of `operators_ms`. Types that begin with "Delegate/" are XNNPACK's
        own, which are not one to one with the model's. `containers` are types that are left out, because they hold
        other operators, whose time would count twice.

    Raises:
        ValueError: There is no such table in it.
    """
    rows: list[tuple[float, int, str]] = []
    containers: list[str] = []
    total_us = 0
    is_inside = False
    for line in text.splitlines():
        if line.startswith("==="):
            is_inside = "Summary by node type" in line
        total, row = _TOTAL.match(line), _ROW.match(line) if is_inside else None
        if total:
            total_us = int(total.group(1))
        if row and row.group(1) in _CONTAINERS:
            containers.append(row.group(1))
        elif row:
            rows.append((float(row.group(3)), int(row.group(2)), row.group(1)))
    percent = math.fsum(row[0] for row in rows)
    if total_us == 0 or percent == 0:
        raise ValueError("it has no times by operator")
    # The mean of each row has three digits of a millisecond; its share of the total tells more.
    operators_ms = percent / 100 * total_us / 1000 / runs
    operators = [
        {"type": name, "nodes": nodes, "ms": share / percent * operators_ms, "ratio": share / percent}
        for share, nodes, name in sorted(rows, key=lambda row: -row[0])
    ]
    return {"operators_ms": operators_ms, "operators": operators, "containers": containers}


def profile_operators(model_path: str, num_threads: int) -> dict[str, Any]:
    """Where the time of an inference goes, measured with inputs of zeros.

    Args:
        model_path: The .tflite file.
        num_threads: Of XNNPACK.

    Returns:
        `engine`, `runtime_version`, `inputs` ("zeros"), `runs`, and what `parse_summary` returns; `total_ms`, the mean
        of an inference without the profiler; `overhead_ms`, what the profiler adds to it, mostly between operators;
        `unaccounted_ms`, what `total_ms` is more than `operators_ms`: time between operators, and what is lost
        because the profiler counts whole microseconds; noise may make it negative.

    Raises:
        AgentError: There is no such runtime, none of a version that was tried, or it refuses the model.
    """
    library, version = _load_library()
    total_s, profiled_s, runs, text = _collect(_Profiled(library, model_path, num_threads))
    try:
        found = parse_summary(text, runs)
    except ValueError as error:
        raise AgentError("profile", f"LiteRT's profile of this model cannot be used: {error}.") from error
    return {
        "engine": "litert-profiler",
        "runtime_version": version,
        "inputs": "zeros",
        "runs": runs,
        "total_ms": total_s / runs * 1000,
        "overhead_ms": (profiled_s - total_s) / runs * 1000,
        "unaccounted_ms": total_s / runs * 1000 - found["operators_ms"],
        **found,
    }


def check_version(version: str | None) -> None:
    """Raises AgentError for a version whose C API was not tried."""
    if version is None or not CHECKED_VERSIONS.match(version):
        raise AgentError(
            "profile",
            f"Time by operator is known to work with ai-edge-litert 2.3, this is {version or 'an unknown version'}.",
            "The latency does not depend on it; for time by operator install ai-edge-litert 2.3 on the device.",
        )


def _load_library() -> tuple[Any, str]:
    add_private_runtime()
    try:
        package = import_module("ai_edge_litert")
    except ImportError as error:
        raise AgentError("profile", "Time by operator needs ai-edge-litert, which is not installed.") from error
    version = version_of("ai-edge-litert", package)
    check_version(version)
    path = os.path.join(os.path.dirname(os.path.abspath(str(package.__file__))), "libLiteRt.so")
    try:
        return ctypes.CDLL(path), str(version)
    except OSError as error:
        raise AgentError("profile", f"LiteRT's library cannot be loaded: {path}.") from error


class _TensorType(ctypes.Structure):
    _fields_ = [
        ("element_type", ctypes.c_int),
        ("rank_bits", ctypes.c_uint32),
        ("dimensions", ctypes.c_int32 * _MOST_DIMENSIONS),
        ("strides", ctypes.c_uint32 * _MOST_DIMENSIONS),
    ]


class _Option(ctypes.Structure):
    _fields_ = [("tag", ctypes.c_int), ("type", ctypes.c_int64), ("value", ctypes.c_int64)]


class _Profiled:
    """A compiled model with its profiler and buffers, kept until the process ends."""

    def __init__(self, library: Any, model_path: str, num_threads: int) -> None:
        self._library = library
        # Only the CPU's: loading the one of WebGPU kills the process on cores without LSE atomics (Cortex-A53, A72).
        option = _Option(_ENVIRONMENT_ACCELERATORS, _ANY_INT, _CPU)
        self._environment = self._new("LiteRtCreateEnvironment", 1, ctypes.byref(option))
        model = self._new("LiteRtCreateModelFromFile", self._environment, os.fsencode(model_path))
        options = self._new("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        for name, text in (
            ("runtime_options_string", "enable_profiling = true"),
            ("xnnpack", f"num_threads = {num_threads}"),
        ):
            self._add_option(options, name, text)
        self._compiled = self._new("LiteRtCreateCompiledModel", self._environment, model, options)
        self.profiler = self._new("LiteRtCompiledModelGetProfiler", self._compiled)
        signature = self._new("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
        self._inputs = self._make_buffers(signature, "Input")
        self._outputs = self._make_buffers(signature, "Output")

    def run(self) -> None:
        """One inference."""
        self._call(
            "LiteRtRunCompiledModel",
            self._compiled,
            ctypes.c_size_t(0),
            ctypes.c_size_t(len(self._inputs)),
            self._inputs,
            ctypes.c_size_t(len(self._outputs)),
            self._outputs,
        )

    def time_runs(self, runs: int) -> float:
        """Seconds of so many inferences."""
        start = time.perf_counter()
        for _ in range(runs):
            self.run()
        return time.perf_counter() - start

    def profile(self, runs: int) -> tuple[float, int, str]:
        """Seconds of so many inferences, the events that they left, and the summary of all inferences so far."""
        self._call("LiteRtResetProfiler", self.profiler)
        self._call("LiteRtStartProfiler", self.profiler)
        seconds = self.time_runs(runs)
        self._call("LiteRtStopProfiler", self.profiler)
        events = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self.profiler, ctypes.byref(events))
        summary = self._new("LiteRtGetProfileSummary", self.profiler, self._compiled)
        text = ctypes.string_at(summary).decode("utf-8", "replace")
        _free(summary)
        return seconds, events.value, text

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            reason = _STATUSES.get(status, f"status {status}")
            raise AgentError("profile", f"LiteRT cannot profile this model: {name} says {reason}.")

    def _new(self, name: str, *arguments: Any) -> Any:
        """What a function returns through its last argument."""
        found = ctypes.c_void_p()
        self._call(name, *arguments, ctypes.byref(found))
        if not found:
            raise AgentError("profile", f"LiteRT cannot profile this model: {name} returned nothing.")
        return found

    def _add_option(self, options: Any, name: str, text: str) -> None:
        data, free = _copy_for_c(text)
        option = self._new("LiteRtCreateOpaqueOptions", name.encode(), data, free)
        self._call("LiteRtAddOpaqueOptions", options, option)

    def _make_buffers(self, signature: Any, kind: str) -> Any:
        """One buffer for each input or output; inputs are zeroed."""
        count = ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{kind}s", signature, ctypes.byref(count))
        buffers = (ctypes.c_void_p * count.value)()
        for index in range(count.value):
            number = ctypes.c_size_t(index)
            tensor = self._new(f"LiteRtGetSignature{kind}TensorByIndex", signature, number)
            layout = _TensorType()
            self._call("LiteRtGetRankedTensorType", tensor, ctypes.byref(layout))
            if kind == "Input" and -1 in layout.dimensions[1:]:
                raise AgentError("profile", f"Input {index} has no fixed size, and would be profiled with size 1.")
            for axis in range(_MOST_DIMENSIONS):
                layout.dimensions[axis] = max(1, layout.dimensions[axis])  # -1: of any size, as a batch.
            name = f"LiteRtGetCompiledModel{kind}BufferRequirements"
            needs = self._new(name, self._compiled, ctypes.c_size_t(0), number)
            create = "LiteRtCreateManagedTensorBufferFromRequirements"
            buffer = self._new(create, self._environment, ctypes.byref(layout), needs)
            if kind == "Input":
                self._clear(buffer, needs)
            buffers[index] = buffer
        return buffers

    def _clear(self, buffer: Any, needs: Any) -> None:
        size = ctypes.c_size_t()
        self._call("LiteRtGetTensorBufferRequirementsBufferSize", needs, ctypes.byref(size))
        address = ctypes.c_void_p()
        self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), _LOCK_FOR_WRITING)
        ctypes.memset(address, 0, size.value)
        self._call("LiteRtUnlockTensorBuffer", buffer)


def _copy_for_c(text: str) -> tuple[Any, Any]:
    """A copy of a text that C owns, and the function that frees it."""
    libc = ctypes.CDLL(None)
    libc.strdup.restype = ctypes.c_void_p
    return ctypes.c_void_p(libc.strdup(text.encode())), ctypes.cast(libc.free, ctypes.c_void_p)


def _free(address: Any) -> None:
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]
    free.restype = None
    free(address)


def _collect(profiled: _Profiled) -> tuple[float, float, int, str]:
    """Warm up, then run with and without the profiler in turns.

    Returns:
        Seconds without, seconds with it, how many runs each of them took, and the summary of all that were profiled.
    """
    warm_up_s, runs = 0.0, 0
    while warm_up_s < WARM_UP_S:
        warm_up_s, runs = warm_up_s + profiled.time_runs(1), runs + 1
    profiled_s, events, text = profiled.profile(1)
    batch = max(1, min(EVENTS_PER_BATCH // max(1, events), int(BATCH_S * runs / warm_up_s)))
    total_s, runs = profiled.time_runs(1), 1
    begin = time.monotonic()
    while (runs < MIN_RUNS or total_s + profiled_s < MIN_S) and time.monotonic() - begin < MOST_S:
        total_s += profiled.time_runs(batch)
        seconds, _, text = profiled.profile(batch)
        profiled_s, runs = profiled_s + seconds, runs + batch
        if os.getppid() != PARENT:
            raise AgentError("orphan", "The process that started the measurement is gone.")
    return total_s, profiled_s, runs, text
