"""The host's side of the agent: send it, listen to it, and turn what it says into values or errors."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgecomp.agent.on_device.protocol import MARK
from edgecomp.agent.packing import BOOT, TOO_OLD, agent_file
from edgecomp.agent.reports import ConfigurationReport, ProcessReport, SessionReport
from edgecomp.errors import (
    BenchmarkError,
    CommandTimeoutError,
    DeviceBusyError,
    EdgecompError,
    NoPythonError,
    NoRuntimeError,
    RuntimeRefusedError,
    UsageError,
)
from edgecomp.files import sha256_of
from edgecomp.transports import CommandResult, Transport, one_line

Progress = Callable[[str, int, int], None]
_Result = TypeVar("_Result")

# What the keeper gets beyond its own deadline to report and to tidy up.
_GRACE_S = 20.0
_NO_COMMAND = (126, 127)
# A shell's greeting is shorter; more of it is a program that is no Python.
_MOST_NOISE_LINES = 1000
_MOST_SAMPLES = 10_000_000
# Some hundred times what the agent says; parsed, it takes up to twenty times as much memory.
_LONGEST_LINE_CHARS = 1 << 22
_MOST_CHARS = 1 << 24
_SHORTEST_US, _LONGEST_US = 1e-3, 1e12
# What is kept; a device that says anything else does not fill the host's memory with it.
_OF_SESSION = ("waiting", "hello", "error", "done", "closed")
_OF_CONFIGURATION = ("configuration", "facts", "golden", "memory", "profile")
_NONSENSE = (ValueError, KeyError, TypeError, IndexError, ArithmeticError, RecursionError)


class _Samples(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    unit: Literal["us"]
    values: tuple[float, ...]


class Heard:
    """What was said of one configuration.

    Attributes:
        said: The last message of each kind.
        board: By round, what a board said.
        failed_passes: What a pass failed of, by its name.
    """

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.loaded: list[Any] = []
        self.processes: list[Any] = []
        self.processes_us: list[list[float]] = []
        self.outputs: list[bytes] = []
        self.board: list[list[Any]] = []
        self.failed_passes: dict[str, EdgecompError] = {}
        self.stage = ""


class _Listener:
    """Takes the lines that arrive and keeps those of the protocol."""

    def __init__(self, count: int, rounds: int, host: str, progress: Progress | None) -> None:
        self._most_processes = count * rounds
        self.heard = [Heard() for _ in range(count)]
        self.messages: dict[str, dict[str, Any]] = {}
        self.noise = ""
        self._noise_lines = 0
        self._samples = 0
        self._chars = 0
        self._host = host
        self._progress = progress

    def hear(self, line: str) -> None:
        """One line of stdout. Raises one of `_NONSENSE` for one that has the mark and makes no sense."""
        if not line.startswith(MARK.decode()):
            self.noise = self.noise or one_line(line, most_chars=200)
            self._noise_lines += 1
            if self._noise_lines > _MOST_NOISE_LINES:
                raise ValueError(f"it printed {self.noise!r} and more like it")
            return
        if len(line) > _LONGEST_LINE_CHARS:
            raise ValueError(f"it sent a message of {len(line)} characters")
        message = json.loads(line)
        kind = str(message["type"])
        self._chars += 0 if kind in ("samples", "outputs") else len(line)
        if self._chars > _MOST_CHARS:
            raise ValueError(f"it said more than {_MOST_CHARS >> 20} MiB beside samples")
        if kind == "waiting":
            self._tell(f"waiting for another measurement (process {one_line(str(message['holder']))})", 0, 0)
        if "configuration" not in message:
            if kind in _OF_SESSION:
                self.messages[kind] = message
            return
        number = int(message["configuration"])
        if not 0 <= number < len(self.heard):
            raise ValueError(f"it speaks of configuration {number}, there are {len(self.heard)}")
        self._hear_of(self.heard[number], kind, message)

    def _hear_of(self, heard: Heard, kind: str, message: dict[str, Any]) -> None:
        if kind == "stage":
            heard.stage = one_line(str(message["name"]))
            done = sum(len(one.processes) for one in self.heard)
            self._tell(heard.stage, min(done, self._most_processes), self._most_processes)
        elif kind == "round":
            heard.processes_us.append([])
            heard.board.append([])
        elif kind == "board":
            heard.board[-1].append(message["message"])
        elif kind == "samples":
            values = _Samples.model_validate(message).values
            self._samples += len(values)
            if self._samples > _MOST_SAMPLES:
                raise ValueError(f"it sent more than {_MOST_SAMPLES} samples")
            wrong = next((value for value in values if not _SHORTEST_US <= value <= _LONGEST_US), None)
            if wrong is not None:
                raise ValueError(f"no inference takes {wrong:g} microseconds")
            heard.processes_us[-1] += values
        elif kind == "process":
            heard.processes.append(message)
        elif kind == "loaded":
            heard.loaded.append(message)
        elif kind == "outputs":
            heard.outputs.append(base64.b64decode(message["data"], validate=True))
        elif kind == "error":
            heard.failed_passes[one_line(str(message["pass"]))] = explain(message, self._host, heard.stage)
        elif kind in _OF_CONFIGURATION:
            heard.said[kind] = message

    def _tell(self, what: str, step: int, steps: int) -> None:
        if self._progress is not None:
            self._progress(what, step, steps)


def converse(
    transport: Transport,
    files: Mapping[str, bytes],
    job: Mapping[str, Any],
    count: int,
    understand: Callable[[Sequence[Heard], CommandResult], _Result],
    *,
    python: str,
    timeout_s: float,
    lock_wait_s: float = 0.0,
    governor: str | None = None,
    progress: Progress | None = None,
) -> _Result:
    """Run the agent on a device, in a private temporary folder that is removed afterwards.

    Args:
        transport: Reaches the device.
        files: What the job needs, by the names that it uses.
        job: See `edgecomp.agent.on_device.session.run_session`, or `attached.run_attached` for a board behind a host.
        count: How many configurations it speaks of.
        understand: Turns what was heard of them into a result; what it raises for want of something is told as
            nonsense from the device.
        python: Python on the device.
        timeout_s: After this long the device stops by itself, even if the link is gone.
        lock_wait_s: How long to wait for another measurement on the device, before that.
        governor: Set while it measures, and put back; None leaves it alone.
        progress: Called with (what, step, steps), maybe from another thread.

    Raises:
        UsageError: A Python that makes no sense.
        NoPythonError: There is no Python, or one that is too old.
        BenchmarkError: No runtime, a crash, golden samples of another model, or nonsense from the device.
        DeviceBusyError: Another measurement did not end in time.
        CommandTimeoutError: It did not end in time.
        TransportError: The connection was lost.
    """
    if not python or python.startswith("-") or not python.isprintable():
        raise UsageError(f"A Python on the device is a name or a path, got {python!r}.")
    keeper = Path(__file__).with_name("keeper.py").read_bytes()
    agent_name, agent = agent_file()
    files = {**files, agent_name: agent, "job.json": json.dumps(job).encode()}
    header = {
        "deadline_s": timeout_s,
        "lock_wait_s": lock_wait_s,
        "governor": governor,
        "agent": agent_name,
        "files": [{"name": name, "bytes": len(data), "sha256": sha256_of(data)} for name, data in files.items()],
    }
    rounds = job["rounds"] if "rounds" in job else job["max_processes"]
    listener = _Listener(count, rounds, transport.host, progress)
    try:
        result = transport.run(
            [python, "-c", BOOT, str(len(keeper))],
            timeout_s=timeout_s + lock_wait_s + _GRACE_S,
            stdin=b"".join([keeper, json.dumps(header).encode() + b"\n", *files.values()]),
            hold_stdin=True,
            on_line=listener.hear,
        )
        if "error" in listener.messages:
            raise _with_last_words(explain(listener.messages["error"], transport.host, ""), result)
        if "done" not in listener.messages:
            raise _silent(listener, transport.host, python, result)
        return understand(listener.heard, result)
    except _NONSENSE as error:
        raise BenchmarkError(
            f"{python} on {transport.host} does not speak the agent's protocol: {_why(error)}."
        ) from error
    finally:
        _sweep(transport, listener)


def _why(error: Exception) -> str:
    """What is wrong with a line that has the mark and is not what the agent says."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return one_line(f"{where}: {first['msg']}")
    return one_line(f"{error} is missing" if isinstance(error, KeyError) else str(error))


def run_session(
    transport: Transport, files: Mapping[str, bytes], job: Mapping[str, Any], **options: Any
) -> SessionReport:
    """Measure on a device with an operating system; see `converse`.

    Raises:
        BenchmarkError: As `converse`; where there are several configurations, only if it hit all of them.
        RuntimeRefusedError: The runtime of the device does not take the model.
        CommandTimeoutError, TransportError: As `converse`.
    """
    return converse(transport, files, job, len(job["configurations"]), _understand, **options)


def _understand(all_heard: Sequence[Heard], result: CommandResult) -> SessionReport:
    """Raises ValueError or KeyError where something is missing, and the error of the device if nothing was measured."""
    reports: list[ConfigurationReport | str] = []
    errors: list[EdgecompError] = []
    for heard in all_heard:
        error = heard.failed_passes.get("golden") or heard.failed_passes.get("latency")
        if error is not None:
            errors.append(error)
            reports.append(str(error))
        else:
            reports.append(_configuration(heard))
    if len(errors) == len(reports):
        raise _with_last_words(errors[0], result)
    return SessionReport(configurations=tuple(reports))


def _configuration(heard: Heard) -> ConfigurationReport:
    said = heard.said
    processes = [ProcessReport.model_validate(item) for item in heard.processes]
    for process, samples in zip(processes, heard.processes_us, strict=True):
        if process.runs != len(samples):
            raise ValueError(f"{process.runs} runs were announced, {len(samples)} arrived")
    return ConfigurationReport.model_validate({
        "num_threads": said["configuration"]["num_threads"],
        "steady": said["configuration"]["limits"],
        "facts": said["facts"],
        "loaded": heard.loaded,
        "golden": said.get("golden"),
        "processes_us": heard.processes_us,
        "processes": processes,
        "memory": said.get("memory"),
        "profile": said.get("profile"),
        "outputs_npz": b"".join(heard.outputs) or None,
        "failed_passes": {name: error.message for name, error in heard.failed_passes.items()},
    })  # fmt: skip


def explain(message: Mapping[str, Any], host: str, stage: str) -> EdgecompError:
    """The error that the device reported."""
    code = str(message["code"])
    if code == "crash":
        stage = one_line(str(message.get("stage") or stage))
        how = one_line(describe_exit(int(message["exit_code"])))
        return BenchmarkError(f"{host}: The measurement ended early: {how}{f', while {stage}' if stage else ''}.")
    text = f"{host}: {one_line(str(message['message']))}"
    hint = None if message["hint"] is None else one_line(str(message["hint"]))
    if code == "no-runtime" and hint is not None:
        hint = f"{hint} Or from here: edgecomp setup {host}"
    kinds: dict[str, type[EdgecompError]] = {
        "model": RuntimeRefusedError,
        "late": CommandTimeoutError,
        "busy": DeviceBusyError,
        "no-runtime": NoRuntimeError,
    }
    if code == "late":
        hint = "Give it more time (--timeout), or fewer runs."
    return kinds.get(code, BenchmarkError)(text, hint=hint)


def describe_exit(code: int) -> str:
    """How a process ended, in words: its exit code, or minus the number of a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    why = {"SIGKILL": ", most likely for want of memory", "SIGILL": ", an instruction that this CPU does not have"}
    return f"killed by signal {name}{why.get(name, '')}"


def _with_last_words(error: EdgecompError, result: CommandResult) -> EdgecompError:
    if error.hint is None and "ended early" in error.message:
        error.hint = _last_words(result)
    return error


def _silent(listener: _Listener, host: str, python: str, result: CommandResult) -> BenchmarkError:
    """Why there was no answer at all."""
    if listener.messages or any(heard.said for heard in listener.heard):
        signal_number = result.exit_code - 128  # As a shell and SSH tell it.
        how = f", {describe_exit(-signal_number)}" if 0 < signal_number < signal.NSIG else ""
        return BenchmarkError(
            f"{python} on {host} ended early (exit code {result.exit_code}){how}.", hint=_last_words(result)
        )
    if result.exit_code in _NO_COMMAND:
        return NoPythonError(
            f"There is no {python} on {host}.",
            hint="Install Python 3.7 or newer there, or name one with --python; a relative path starts in the home "
            "folder, and ~ is not expanded. `edgecomp setup` says more.",
        )
    if listener.noise:
        return BenchmarkError(
            f"{python} on {host} does not speak the agent's protocol; it printed {listener.noise!r}.",
            hint=_last_words(result),
        )
    kind = NoPythonError if TOO_OLD.encode() in result.stderr else BenchmarkError
    return kind(f"{python} on {host} did not run the agent (exit code {result.exit_code}).", hint=_last_words(result))


def _last_words(result: CommandResult) -> str | None:
    lines = [line.strip() for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
    # What LiteRT always prints explains nothing.
    lines = [line for line in lines if not line.startswith("INFO: ")]
    return f"Its last words: {one_line(lines[-1])!r}" if lines else None


def _sweep(transport: Transport, listener: _Listener) -> None:
    """Remove the folder where neither keeper nor guardian could: both were killed."""
    if "hello" not in listener.messages or listener.messages.get("closed", {}).get("removed") is True:
        return
    folder = PurePosixPath(str(listener.messages["hello"].get("folder")))
    # The name comes from the device, and something is going to be removed there: only what a keeper makes.
    if folder.is_absolute() and re.fullmatch(r"edgecomp-agent-\w+", folder.name, re.ASCII) and ".." not in folder.parts:
        with contextlib.suppress(EdgecompError):
            transport.run(["rm", "-rf", "--", str(folder)], timeout_s=10)
