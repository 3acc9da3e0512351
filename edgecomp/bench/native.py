"""The second engine: a native `benchmark_model` that is on the device already, as on one without Python.

It feeds random inputs and prints neither outputs nor the time of each inference: nothing can be compared with golden
outputs, and each process counts as one sample. Its output is parsed by `native_output`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import PurePosixPath

from edgecomp.agent.remote import describe_exit
from edgecomp.agent.reports import ProcessReport
from edgecomp.bench.native_conditions import Snapshot, process_report, take_snapshot
from edgecomp.bench.native_output import NativeProcess, NativeReport, notes_on, parse_output, refusal, unknown_flags
from edgecomp.errors import BenchmarkError, CommandTimeoutError, RuntimeRefusedError, TransportError, UsageError
from edgecomp.files import sha256_of
from edgecomp.plain_text import one_line
from edgecomp.transports import CommandResult, Transport

PLACES = ("benchmark_model", "/data/local/tmp/benchmark_model")
"""Where it is looked for: on the search path, and where TFLite's guide for Android puts it."""

PREFIX = "edgecomp-native-"
_SHORT_S = 30.0
_MOST_BYTES = 2**20
_MOST_LINE = 1000

# Shell texts are constants; what comes from outside is an argument of theirs.
_LOCATE = 'command -v "$1"'
# Android has no /tmp. What a lost connection left there goes after a day, when nobody can be using it.
_MAKE_FOLDER = (
    'for folder in "$TMPDIR" /tmp /data/local/tmp; do [ -n "$folder" ] && [ -w "$folder" ] && break; done; '
    f'find "$folder" -maxdepth 1 -name "{PREFIX}*" -mtime +0 -exec rm -rf {{}} + 2>/dev/null; '
    f'mktemp -d "$folder/{PREFIX}XXXXXXXX"'
)
# Runs the rest of the arguments. The end of stdin means that the host is gone: then the program is ended, and the
# folder $1 is removed, for nobody else will.
_RUN = (
    'folder=$1; shift; exec 3<&0; "$@" </dev/null 3<&- & child=$!; '
    '{ cat <&3; kill -9 $child; rm -rf -- "$folder"; } >/dev/null 2>&1 & watch=$!; '
    "exec 3<&-; wait $child; code=$?; kill $watch 2>/dev/null; exit $code"
)
_FOLDER = re.compile(rf"/[^\x00-\x1f]*/{PREFIX}[A-Za-z0-9]+")
_DIGEST = re.compile(r"^\\?([0-9a-f]{64}) ", re.MULTILINE)


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
        result = transport.run(["sh", "-c", _LOCATE, "sh", place], timeout_s=_SHORT_S)
        found = result.stdout.decode(errors="replace").rstrip("\n")
        if result.exit_code != 0 or not found or not found.isprintable():
            continue
        usage = transport.run([found, "--help"], timeout_s=_SHORT_S)
        if "--graph" not in _text_of(usage):
            raise _not_started(found, transport.host, usage)
        return found
    if path is None:
        return None
    raise BenchmarkError(
        f"There is no program {one_line(path)} on {transport.host}.",
        hint="Copy a benchmark_model that was built for the device there, and make it executable (chmod +x).",
    )


def run_benchmark_model(
    transport: Transport,
    model: bytes,
    *,
    program: str,
    num_threads: int = 1,
    num_processes: int = 3,
    min_runs: int = 50,
    min_seconds: float = 1.0,
    max_seconds: float = 20.0,
    use_xnnpack: bool = True,
    cores: Sequence[int] | None = None,
    timeout_s: float = 120.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> NativeReport:
    """Time a model in fresh processes of a program on the device; the model lies in a private folder meanwhile.

    Args:
        transport: Reaches the device; stays open.
        model: A .tflite file.
        program: See `find_benchmark_model`.
        num_threads: Of the interpreter.
        num_processes: One after the other.
        min_runs: At least so many inferences in each, and at least `min_seconds`, but not beyond `max_seconds`.
        min_seconds: See `min_runs`; warm-up is not counted.
        max_seconds: See `min_runs`.
        use_xnnpack: False for LiteRT's own kernels.
        cores: Bind the processes to these, by the device's `taskset`.
        timeout_s: For each process, from start to end.
        progress: Called with (what, step, steps).

    Raises:
        UsageError: A number that makes no sense.
        BenchmarkError: No such program, an option that it does not know, a crash, or output that it does not print.
        RuntimeRefusedError: It does not run this model.
        CommandTimeoutError: A process did not end in time.
        TransportError: The connection was lost, or the device has no room.
    """
    _check_program(program)
    _check_numbers(num_threads, num_processes, min_runs, min_seconds, max_seconds, cores)
    tell = progress or (lambda *_: None)
    tell(f"copying to {transport.host}", 0, num_processes)
    with _folder(transport) as folder:
        digest = sha256_of(model)
        path = f"{folder}/model-{digest}.tflite"
        transport.put(model, path)
        program_sha256 = _digests(transport, program, path, digest)
        command = [
            *([] if cores is None else ["taskset", f"{sum(1 << core for core in set(cores)):x}"]),
            program,
            f"--graph={path}",
            f"--num_threads={num_threads}",
            f"--num_runs={min_runs}",
            f"--min_secs={min_seconds:g}",
            f"--max_secs={max_seconds:g}",
            f"--use_xnnpack={'true' if use_xnnpack else 'false'}",
        ]
        processes, snapshots = [], [take_snapshot(transport, cores)]
        for number in range(num_processes):
            tell(f"process {number + 1} of {num_processes}", number, num_processes)
            processes.append(_run(transport, folder, command, program, timeout_s))
            snapshots.append(take_snapshot(transport, cores))
    return NativeReport(
        program=program,
        program_sha256=program_sha256,
        num_threads=num_threads,
        use_xnnpack=use_xnnpack,
        cores=None if cores is None else tuple(sorted(set(cores))),
        processes=tuple(processes),
        steady=None if snapshots[0] is None else snapshots[0].steady,
        conditions=_conditions(processes, snapshots),
        notes=notes_on(processes, use_xnnpack),
    )


def _conditions(processes: Sequence[NativeProcess], snapshots: Sequence[Snapshot | None]) -> tuple[ProcessReport, ...]:
    """Of each process, between the snapshot before it and the one after it."""
    return tuple(
        process_report(before, after, process.runs)
        for process, (before, after) in zip(processes, pairwise(snapshots), strict=True)
        if before is not None and after is not None
    )


def _check_program(path: str) -> None:
    if not path or path.startswith("-") or not path.isprintable():
        raise UsageError(f"A benchmark_model on the device is a name or a path, got {path!r}.")


def _check_numbers(
    num_threads: int,
    num_processes: int,
    min_runs: int,
    min_seconds: float,
    max_seconds: float,
    cores: Sequence[int] | None,
) -> None:
    if min(num_threads, num_processes, min_runs) < 1:
        raise UsageError(
            f"Threads, processes and runs must be at least 1, got {num_threads}, {num_processes} and {min_runs}."
        )
    if not (0 <= min_seconds <= max_seconds < math.inf and max_seconds > 0):
        raise UsageError(f"The seconds must be 0 <= min <= max, got {min_seconds:g} and {max_seconds:g}.")
    if cores is not None and (not cores or min(cores) < 0 or max(cores) > 1023):
        raise UsageError(f"Cores are numbers from 0 on, got {list(cores)}.")


@contextlib.contextmanager
def _folder(transport: Transport) -> Iterator[str]:
    """A private folder (mode 0700) on the device, removed whatever happens."""
    result = transport.run(["sh", "-c", _MAKE_FOLDER], timeout_s=_SHORT_S)
    folder = result.stdout.decode(errors="replace").rstrip("\n")
    # The name comes from the device, and it is going to be removed.
    if result.exit_code != 0 or not _FOLDER.fullmatch(folder) or ".." in PurePosixPath(folder).parts:
        raise BenchmarkError(
            f"{transport.host} made no folder for temporary files.",
            hint=_last_words(result) or "It takes mktemp there; TMPDIR may name a folder that can be written.",
        )
    try:
        yield folder
    finally:
        with contextlib.suppress(TransportError):
            transport.run(["rm", "-rf", "--", folder], timeout_s=_SHORT_S)


def _digests(transport: Transport, program: str, path: str, digest: str) -> str | None:
    """The program's sha256, after the model's own was checked; None where the device has no sha256sum."""
    located = transport.run(["sh", "-c", _LOCATE, "sh", program], timeout_s=_SHORT_S).stdout.decode(errors="replace")
    command = ["sha256sum", "--", path, located.rstrip("\n") or program]
    found = _DIGEST.findall(transport.run(command, timeout_s=_SHORT_S).stdout.decode(errors="replace"))
    if found and found[0] != digest:
        raise BenchmarkError(f"The model did not arrive on {transport.host} as it was sent.", hint="Try again.")
    return found[1] if len(found) == 2 else None


def _run(transport: Transport, folder: str, command: Sequence[str], program: str, timeout_s: float) -> NativeProcess:
    """One fresh process."""
    try:
        argv = ["sh", "-c", _RUN, "sh", folder, *command]
        result = transport.run(argv, timeout_s=timeout_s, hold_stdin=True)
    except CommandTimeoutError as error:
        raise CommandTimeoutError(
            f"{one_line(program)} did not end on {transport.host} within {timeout_s:g} s.",
            hint="Give it more time (--timeout), or fewer runs.",
        ) from error
    return _understand(result, program, transport.host)


def _understand(result: CommandResult, program: str, host: str) -> NativeProcess:
    text = _text_of(result)
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
            f"{name} on {host} did not print what benchmark_model prints: {error}.", hint=_last_words(result)
        ) from error


def _not_started(program: str, host: str, result: CommandResult) -> BenchmarkError:
    """Why there is no answer."""
    name, code, hint = one_line(program), result.exit_code, _last_words(result)
    if code == 126:
        return BenchmarkError(f"{name} cannot be executed on {host}.", hint=hint or "Is it built for this device?")
    if code == 127:
        return BenchmarkError(f"{name} or what it needs is not on {host}.", hint=hint)
    if code == 0 or code == 1:
        return BenchmarkError(f"{name} on {host} is no benchmark_model, or fails (exit code {code}).", hint=hint)
    how = describe_exit(128 - code if code > 128 else code)
    return BenchmarkError(f"{name} on {host} ended early: {how}.", hint=hint)


def _text_of(result: CommandResult) -> str:
    """Both outputs, no more of them than matters."""
    parts = [part[-_MOST_BYTES:].decode(errors="replace") for part in (result.stdout, result.stderr)]
    return "\n".join(line[:_MOST_LINE] for part in parts for line in part.splitlines())


def _last_words(result: CommandResult) -> str | None:
    lines = [line for line in _text_of(result).splitlines() if line.strip() and not line.startswith("INFO: ")]
    return f"Its last words: {one_line(lines[-1])!r}" if lines else None
