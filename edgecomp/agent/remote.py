"""The host's side of the agent: send it, listen to it, and turn what it says into values or errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgecomp.agent.agent import MARK
from edgecomp.errors import BenchmarkError, CommandTimeoutError, EdgecompError, RuntimeRefusedError, TransportError
from edgecomp.files import sha256_of
from edgecomp.transports import CommandResult, Transport

# Read by a Python of any age, and by any login shell: one line, no quotes but these.
_BOOT = (
    "import sys; sys.version_info < (3, 7) and sys.exit("
    '"Python 3.7 or newer is needed, this is %d.%d" % sys.version_info[:2]); '
    "exec(sys.stdin.buffer.read(int(sys.argv[1])))"
)
# What the keeper gets beyond its own deadline to report and to tidy up.
_GRACE_S = 20.0
_NO_COMMAND = (126, 127)
# A shell's greeting is shorter; more of it is a program that is no Python.
_MOST_NOISE_LINES = 1000
_STEPS = ("loading the model", "comparing outputs", "warming up", "measuring")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class TriedRuntime(_Message):
    """A runtime that was passed over, and why."""

    name: str
    error: str


class DeviceFacts(_Message):
    """The machine and the software that a measurement was taken on.

    Attributes:
        machine: What the kernel says it is; `architecture` is what Python and the runtime run as.
        cpu_part_ids: "CPU part" of /proc/cpuinfo, empty on x86.
        cores: How many the measurement was allowed to use.
        kernel: Release of the operating system.
        kernel_family: Kernels that computed the outputs, by the names of the manifest; None if not known.
        tried: Runtimes that come before this one and do not work there.
    """

    machine: str
    architecture: str
    cpu_part_ids: tuple[str, ...]
    cpu_model: str | None
    cores: int | None
    system: str
    kernel: str
    python: str
    numpy: str
    runtime: str
    runtime_version: str | None
    kernel_family: str | None
    tried: tuple[TriedRuntime, ...]


class DelegateCoverage(_Message):
    """How many of the model's operators a delegate (XNNPACK) took over, in so many partitions."""

    delegated: int
    total: int
    partitions: int


class GoldenCheck(_Message):
    """The outputs on the device against the golden ones.

    Attributes:
        rule: "exact" where kernel family, runtime, version and architecture are those of the golden outputs.
        equal: Every output is equal bit by bit.
        max_difference_lsb: In units of an integer output, or 1/256 of a float output's range; None where there is
            none (an output of labels, or one that is not a number).
        tolerance_lsb: What was allowed: for every sample under "exact", for 95 % or all but one under "tolerance".
        argmax_agreement: Share of argmaxes (or labels) that agree; None where there is nothing to choose from.
        samples: How many golden samples were compared.
        message: What is wrong, one sentence; None where `ok`.
    """

    ok: bool
    rule: Literal["exact", "tolerance"]
    equal: bool
    max_difference_lsb: float | None
    tolerance_lsb: float | None
    argmax_agreement: float | None
    samples: int = Field(gt=0)
    message: str | None


class _Loaded(_Message):
    init_ms: float = Field(ge=0)
    first_ms: float = Field(ge=0)
    delegate: DelegateCoverage | None


class _Samples(_Message):
    unit: Literal["us"]
    values: tuple[float, ...]


class AgentReport(_Message):
    """All that the agent found out."""

    facts: DeviceFacts
    loaded: _Loaded
    golden: GoldenCheck
    samples_us: tuple[float, ...] = Field(min_length=1)


class _Listener:
    """Takes the lines that arrive and keeps those of the protocol."""

    def __init__(self, progress: Callable[[str, int, int], None] | None) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.samples_us: list[float] = []
        self.noise = ""
        self._noise_lines = 0
        self.stage = ""
        self._progress = progress

    def hear(self, line: str) -> None:
        """One line of stdout. Raises ValueError for one that has the mark and makes no sense."""
        if not line.startswith(MARK.decode()):
            self.noise = self.noise or line.strip()[:200]
            self._noise_lines += 1
            if self._noise_lines > _MOST_NOISE_LINES:
                raise ValueError(f"it printed {self.noise!r} and more like it")
            return
        message = json.loads(line)
        kind = message["type"]
        if kind == "samples":
            self.samples_us += _Samples.model_validate(message).values
        elif kind == "stage":
            self._enter(str(message["name"]))
        else:
            self.messages[str(kind)] = message

    def _enter(self, stage: str) -> None:
        self.stage = stage
        step = next((index for index, name in enumerate(_STEPS) if stage.startswith(name)), 0)
        if self._progress is not None:
            self._progress(stage, step, len(_STEPS))


def run_agent(
    transport: Transport,
    files: Mapping[str, bytes],
    job: Mapping[str, object],
    *,
    python: str,
    timeout_s: float,
    progress: Callable[[str, int, int], None] | None = None,
) -> AgentReport:
    """Measure on a device, in a private temporary folder that is removed afterwards.

    Args:
        transport: Reaches the device.
        files: "model.tflite" and "golden.npz".
        job: See `edgecomp.agent.agent.measure`.
        python: Python on the device.
        timeout_s: After this long the device stops by itself, even if the link is gone.
        progress: Called with (what, step, steps), maybe from another thread.

    Raises:
        BenchmarkError: No Python, no runtime, a crash, golden samples of another model, or nonsense from the device.
        RuntimeRefusedError: The runtime of the device does not take the model.
        CommandTimeoutError: It did not end in time.
        TransportError: The connection was lost.
    """
    keeper = Path(__file__).with_name("keeper.py").read_bytes()
    agent = Path(__file__).with_name("agent.py").read_bytes()
    files = {**files, "agent.py": agent, "job.json": json.dumps(job).encode()}
    contents = [{"name": name, "bytes": len(data), "sha256": sha256_of(data)} for name, data in files.items()]
    header = json.dumps({"deadline_s": timeout_s, "files": contents}).encode() + b"\n"
    listener = _Listener(progress)
    try:
        result = transport.run(
            [python, "-c", _BOOT, str(len(keeper))],
            timeout_s=timeout_s + _GRACE_S,
            stdin=b"".join([keeper, header, *files.values()]),
            hold_stdin=True,
            on_line=listener.hear,
        )
        if "error" in listener.messages:
            raise _reported(listener.messages["error"], transport.host, listener.stage, result)
        if "done" not in listener.messages:
            raise _silent(listener, transport.host, python, result)
        return _understand(listener)
    except (ValueError, KeyError, TypeError) as error:
        # pydantic's ValidationError is a ValueError: a line has the mark and is not what the agent says.
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise BenchmarkError(f"{python} on {transport.host} does not speak the agent's protocol: {why}.") from error
    finally:
        _sweep(transport, listener)


def _understand(listener: _Listener) -> AgentReport:
    """Raises ValueError or KeyError where something is missing."""
    said = listener.messages
    if said["done"]["runs"] != len(listener.samples_us):
        raise ValueError(f"{said['done']['runs']} runs were announced, {len(listener.samples_us)} arrived")
    return AgentReport.model_validate(
        {"facts": said["facts"], "loaded": said["loaded"], "golden": said["golden"], "samples_us": listener.samples_us}
    )


def _reported(message: Mapping[str, Any], host: str, stage: str, result: CommandResult) -> EdgecompError:
    """The error that the device reported."""
    code, text = str(message["code"]), f"{host}: {message['message']}"
    hint = None if message["hint"] is None else str(message["hint"])
    if code == "model":
        return RuntimeRefusedError(text, hint=hint)
    if code == "late":
        return CommandTimeoutError(text, hint="Give it more time, or fewer runs.")
    if code == "crash":
        text = text.removesuffix(".") + (f", while {stage}." if stage else ".")
        hint = _last_words(result)
    return BenchmarkError(text, hint=hint)


def _silent(listener: _Listener, host: str, python: str, result: CommandResult) -> BenchmarkError:
    """Why there was no answer at all."""
    if listener.messages:
        return BenchmarkError(
            f"{python} on {host} ended early (exit code {result.exit_code}).", hint=_last_words(result)
        )
    if result.exit_code in _NO_COMMAND:
        return BenchmarkError(
            f"There is no {python} on {host}.",
            hint="Install Python 3.7 or newer there, or name one with --python; a relative path starts in the home "
            "folder, and ~ is not expanded.",
        )
    if listener.noise:
        return BenchmarkError(
            f"{python} on {host} does not speak the agent's protocol; it printed {listener.noise!r}.",
            hint=_last_words(result),
        )
    return BenchmarkError(
        f"{python} on {host} did not run the agent (exit code {result.exit_code}).", hint=_last_words(result)
    )


def _last_words(result: CommandResult) -> str | None:
    lines = [line.strip() for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
    # What LiteRT always prints explains nothing.
    lines = [line for line in lines if not line.startswith("INFO: ")]
    return f"Its last words: {lines[-1][:300]!r}" if lines else None


def _sweep(transport: Transport, listener: _Listener) -> None:
    """Remove the folder where the keeper itself could not: it was killed, as for want of memory."""
    if "hello" not in listener.messages or listener.messages.get("closed", {}).get("removed") is True:
        return
    folder = PurePosixPath(str(listener.messages["hello"].get("folder")))
    # The name comes from the device, and something is going to be removed there: only what a keeper makes.
    if folder.is_absolute() and folder.name.startswith("edgecomp-") and ".." not in folder.parts:
        with contextlib.suppress(TransportError):
            transport.run(["rm", "-rf", "--", str(folder)], timeout_s=10)
