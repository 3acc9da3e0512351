"""The second engine: a native `benchmark_model` that is on the device already, as on one without Python.

It feeds random inputs and prints neither outputs nor the time of each inference: nothing can be compared with golden
outputs, and each process counts as one sample. Its output is parsed by `native_output`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgecomp.agent.remote import describe_exit
from edgecomp.agent.reports import ProcessReport, Steady
from edgecomp.bench.native_conditions import process_report, take_snapshot
from edgecomp.bench.native_device import SHORT_S, last_words, locked_folder, run_watched, text_of
from edgecomp.bench.native_output import NativeProcess, NativeReport, notes_on, parse_output, refusal, unknown_flags
from edgecomp.errors import BenchmarkError, CommandTimeoutError, RuntimeRefusedError, UsageError
from edgecomp.files import sha256_of
from edgecomp.plain_text import one_line
from edgecomp.transports import CommandResult, Transport

PLACES = ("benchmark_model", "/data/local/tmp/benchmark_model")
"""Where it is looked for: on the search path, and where TFLite's guide for Android puts it."""

PUT_S = 120.0
"""The longest that a model may take to be copied; see `Transport.put`."""

# Shell texts are constants; what comes from outside is an argument of theirs.
_LOCATE = 'command -v "$1"'
_DIGEST = re.compile(r"^\\?([0-9a-f]{64}) ", re.MULTILINE)


@dataclass(frozen=True)
class NativeOptions:
    """How one model is run.

    Attributes:
        num_threads: Of the interpreter.
        min_runs: At least so many inferences in a process, and at least `min_seconds`, but not beyond `max_seconds`.
        min_seconds: See `min_runs`; warm-up is not counted.
        max_seconds: See `min_runs`.
        use_xnnpack: False for LiteRT's own kernels.
        cores: Bind the processes to these, by the device's `taskset`; None for no binding.
    """

    num_threads: int = 1
    min_runs: int = 50
    min_seconds: float = 1.0
    max_seconds: float = 20.0
    use_xnnpack: bool = True
    cores: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if min(self.num_threads, self.min_runs) < 1:
            raise UsageError(f"Threads and runs must be at least 1, got {self.num_threads} and {self.min_runs}.")
        if not (0 <= self.min_seconds <= self.max_seconds < math.inf and self.max_seconds > 0):
            raise UsageError(f"The seconds must be 0 <= min <= max, got {self.min_seconds:g} and {self.max_seconds:g}.")
        if self.cores is not None and (not self.cores or min(self.cores) < 0 or max(self.cores) > 1023):
            raise UsageError(f"Cores are numbers from 0 on, got {list(self.cores)}.")


@dataclass(frozen=True)
class NativeSample:
    """One process, and what the device did meanwhile; None where its shell cannot read that."""

    process: NativeProcess
    conditions: ProcessReport | None
    steady: Steady | None


def find_benchmark_model(transport: Transport, path: str | None = None) -> str | None:
    """Where `benchmark_model` is on a device, or None where none is named and none is found.

    Args:
        transport: Reaches the device.
        path: Its name or path there; None to look in `PLACES`.

    Raises:
        UsageError: The path is none.
        BenchmarkError: There is nothing at this path, or it is another program, or it does not start.
        CommandTimeoutError, TransportError: See `Transport.run`.
    """
    if path is not None:
        _check_program(path)
    for place in PLACES if path is None else (path,):
        found = locate(transport, place)
        if found is None:
            continue
        usage = transport.run([found, "--help"], timeout_s=SHORT_S)
        if "--graph" not in text_of(usage):
            raise _not_started(found, transport.host, usage)
        return found
    if path is None:
        return None
    raise BenchmarkError(
        f"There is no program {one_line(path)} on {transport.host}.",
        hint="Copy a benchmark_model that was built for the device there, and make it executable (chmod +x).",
    )


def locate(transport: Transport, name: str) -> str | None:
    """Path of a program on the device, by its name or path; None where there is none."""
    result = transport.run(["sh", "-c", _LOCATE, "sh", name], timeout_s=SHORT_S)
    found = result.stdout.decode(errors="replace").rstrip("\n")
    return found if result.exit_code == 0 and found and found.isprintable() else None


class NativeSession:
    """A program on a device that has its lock, and a private folder with models.

    Attributes:
        program: Where it is on the device.
        program_sha256: Tells builds apart; None until a model was put there, or where the device has no sha256sum.
    """

    def __init__(self, transport: Transport, program: str, folder: str) -> None:
        self.program = program
        self.program_sha256: str | None = None
        self._transport = transport
        self._folder = folder

    def put(self, model: bytes) -> str:
        """Copy a model there, checked by its sha256; returns its path.

        Raises:
            BenchmarkError: It did not arrive as it was sent.
            CommandTimeoutError, TransportError: See `Transport.put`.
        """
        digest = sha256_of(model)
        path = f"{self._folder}/model-{digest}.tflite"
        self._transport.put(model, path, timeout_s=PUT_S)
        located = locate(self._transport, self.program) or self.program
        command = ["sha256sum", "--", path, located]
        found = _DIGEST.findall(self._transport.run(command, timeout_s=SHORT_S).stdout.decode(errors="replace"))
        if found and found[0] != digest:
            raise BenchmarkError(
                f"The model did not arrive on {self._transport.host} as it was sent.", hint="Try again."
            )
        self.program_sha256 = found[1] if len(found) == 2 else None
        return path

    def run(self, path: str, options: NativeOptions, timeout_s: float) -> NativeSample:
        """One fresh process.

        Args:
            path: Of a model, from `put`.
            options: How it is run.
            timeout_s: From start to end.

        Raises:
            BenchmarkError, RuntimeRefusedError, CommandTimeoutError, TransportError: See `run_benchmark_model`.
        """
        command = [
            *([] if options.cores is None else ["taskset", f"{sum(1 << core for core in set(options.cores)):x}"]),
            self.program,
            f"--graph={path}",
            f"--num_threads={options.num_threads}",
            f"--num_runs={options.min_runs}",
            f"--min_secs={options.min_seconds:g}",
            f"--max_secs={options.max_seconds:g}",
            f"--use_xnnpack={'true' if options.use_xnnpack else 'false'}",
        ]
        host = self._transport.host
        before = take_snapshot(self._transport, options.cores)
        try:
            result = run_watched(self._transport, self._folder, command, timeout_s)
        except CommandTimeoutError as error:
            raise CommandTimeoutError(
                f"{one_line(self.program)} did not end on {host} within {timeout_s:.3g} s.",
                hint="Give it more time (--timeout), or fewer runs.",
            ) from error
        process = _understand(result, self.program, host)
        after = take_snapshot(self._transport, options.cores)
        if before is None or after is None:
            return NativeSample(process, None, None)
        return NativeSample(process, process_report(before, after, process.runs), before.steady)

    def report(self, samples: Sequence[NativeSample], options: NativeOptions) -> NativeReport:
        """All processes of one model."""
        processes = tuple(sample.process for sample in samples)
        return NativeReport(
            program=self.program,
            program_sha256=self.program_sha256,
            num_threads=options.num_threads,
            use_xnnpack=options.use_xnnpack,
            cores=None if options.cores is None else tuple(sorted(set(options.cores))),
            processes=processes,
            steady=samples[0].steady,
            conditions=tuple(sample.conditions for sample in samples if sample.conditions is not None),
            notes=notes_on(processes, options.use_xnnpack),
        )


@contextlib.contextmanager
def native_session(
    transport: Transport, program: str, *, wait_s: float, limit_s: float, tell: Callable[[str, int, int], None]
) -> Iterator[NativeSession]:
    """See `native_device.locked_folder`."""
    with locked_folder(transport, wait_s=wait_s, limit_s=limit_s, tell=tell) as folder:
        yield NativeSession(transport, program, folder)


def run_benchmark_model(
    transport: Transport,
    model: bytes,
    *,
    program: str,
    options: NativeOptions | None = None,
    num_processes: int = 3,
    timeout_s: float = 120.0,
    lock_wait_s: float = 0.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> NativeReport:
    """Time a model in fresh processes of a program on the device; the model lies in a private folder meanwhile.

    Args:
        transport: Reaches the device; stays open.
        model: A .tflite file.
        program: See `find_benchmark_model`.
        options: None for the usual ones.
        num_processes: One after the other.
        timeout_s: For each process, from start to end.
        lock_wait_s: How long to wait for another measurement on the device.
        progress: Called with (what, step, steps).

    Raises:
        UsageError: A number that makes no sense.
        BenchmarkError: No such program, an option that it does not know, a crash, or output that it does not print.
        DeviceBusyError: Another measurement did not end in time.
        RuntimeRefusedError: It does not run this model.
        CommandTimeoutError: A process did not end in time.
        TransportError: The connection was lost, or the device has no room.
    """
    _check_program(program)
    if num_processes < 1:
        raise UsageError(f"There must be at least 1 process, got {num_processes}.")
    options = options or NativeOptions()
    tell = progress or (lambda *_: None)
    limit_s = num_processes * (timeout_s + 2 * SHORT_S) + 2 * PUT_S
    with native_session(transport, program, wait_s=lock_wait_s, limit_s=limit_s, tell=tell) as session:
        tell(f"copying to {transport.host}", 0, num_processes)
        path = session.put(model)
        samples = []
        for number in range(num_processes):
            tell(f"process {number + 1} of {num_processes}", number, num_processes)
            samples.append(session.run(path, options, timeout_s))
        return session.report(samples, options)


def _check_program(path: str) -> None:
    if not path or path.startswith("-") or not path.isprintable():
        raise UsageError(f"A benchmark_model on the device is a name or a path, got {path!r}.")


def _understand(result: CommandResult, program: str, host: str) -> NativeProcess:
    text = text_of(result)
    name = one_line(program)
    why = refusal(text)
    unknown = [flag for flag in unknown_flags(text) if not flag.startswith("--use_xnnpack=")]
    if unknown:
        raise BenchmarkError(
            f"{name} on {host} does not know {one_line(' '.join(unknown))}, and would not measure what was asked for.",
            hint="It needs a benchmark_model of TensorFlow 2.3 or newer.",
        )
    if why is not None:
        raise RuntimeRefusedError(f"{name} on {host} does not run this model: {one_line(why)}.")
    if result.exit_code != 0:
        raise _not_started(program, host, result)
    try:
        return parse_output(text)
    except ValueError as error:
        raise BenchmarkError(
            f"{name} on {host} did not print what benchmark_model prints: {error}.", hint=last_words(result)
        ) from error


def _not_started(program: str, host: str, result: CommandResult) -> BenchmarkError:
    """Why there is no answer."""
    name, code, hint = one_line(program), result.exit_code, last_words(result)
    if code == 126:
        return BenchmarkError(f"{name} cannot be executed on {host}.", hint=hint or "Is it built for this device?")
    if code == 127:
        return BenchmarkError(f"{name} or what it needs is not on {host}.", hint=hint)
    if code == 0 or code == 1:
        return BenchmarkError(f"{name} on {host} is no benchmark_model, or fails (exit code {code}).", hint=hint)
    how = describe_exit(128 - code if code > 128 else code)
    return BenchmarkError(f"{name} on {host} ended early: {how}.", hint=hint)
