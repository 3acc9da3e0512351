"""Boards without a shell: a host that they hang on flashes and runs them, and hands on what they say.

What a board says is documented in docs/attached.md and checked here. Verdicts and results are those of every other
measurement; what only an operating system knows (load, frequencies, memory of a process) is not known of a board.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from edgecomp.agent.on_device.golden import compare_golden
from edgecomp.agent.remote import Heard, Progress, converse
from edgecomp.agent.reports import DeviceFacts, GoldenCheck
from edgecomp.bench.board_messages import BoardHello, BoardRound, read_round
from edgecomp.bench.measurement import Measurement
from edgecomp.bench.runner import BenchmarkFiles
from edgecomp.bench.settings import BenchSettings
from edgecomp.bench.statistics import timing_statistics
from edgecomp.bench.verdict import judge
from edgecomp.errors import BenchmarkError
from edgecomp.files import sha256_of
from edgecomp.profile import DeviceProfile
from edgecomp.transports import CommandResult, Transport

FLASH_SECONDS = 300.0
_CLOCK_RATIO = 0.01


@dataclass(frozen=True)
class Attachment:
    """How a board is flashed and run from its host.

    Every command is an argument vector. It runs in a private folder that has the files of the bundle (`model.tflite`,
    `golden.npz`, `model_data.h`, ...) and `files`.

    Attributes:
        flash: Puts the firmware on the board; None where it is on it.
        run: Resets the board, which starts a round; None where opening the port does.
        serial: Port that the board speaks on; None where the output of `run` is what it says.
        baud: Speed of that port.
        files: More files for the folder, by name: the firmware.
        round_seconds: The longest that a round may take.
    """

    flash: tuple[str, ...] | None = None
    run: tuple[str, ...] | None = None
    serial: str | None = None
    baud: int = 115200
    files: Mapping[str, bytes] = field(default_factory=dict)
    round_seconds: float = 120.0


def bench_attached(
    files: BenchmarkFiles,
    attachment: Attachment,
    transport: Transport,
    *,
    profile: DeviceProfile,
    name: str,
    python: str = "python3",
    settings: BenchSettings | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Flash and run a board on a host, compare its golden outputs, time it.

    Args:
        files: Of the bundle.
        attachment: How the board is flashed and run.
        transport: Reaches its host; stays open.
        profile: What the board ought to be.
        name: Of the board, for messages and results.
        python: On the host; it needs neither numpy nor a runtime.
        settings: `min_processes` is the number of rounds; None for the usual ones.
        progress: Called with (what, step, steps).

    Raises:
        BenchmarkError: A command or the board failed, or it does not speak the protocol.
        CommandTimeoutError, TransportError: See `agent.remote.converse`.
    """
    settings = settings or BenchSettings()
    if attachment.run is None and attachment.serial is None:
        raise BenchmarkError(f"{name}: there is neither a command to run it nor a serial port.")
    on = f"{name} on {transport.host}"
    rounds = settings.min_processes if attachment.run is not None else 1
    job = {
        "flash": None if attachment.flash is None else list(attachment.flash),
        "run": None if attachment.run is None else list(attachment.run),
        "serial": attachment.serial,
        "baud": attachment.baud,
        "rounds": rounds,
        "flash_seconds": FLASH_SECONDS,
        "round_seconds": attachment.round_seconds,
    }

    def understand(heard: Sequence[Heard], _result: CommandResult) -> Measurement:
        said = [read_round(messages, on) for messages in heard[0].board]
        return _measurement(files, profile, on, said, settings)

    return converse(
        transport,
        {**files.opened.files, **attachment.files},
        job,
        1,
        understand,
        python=python,
        timeout_s=settings.timeout_s or FLASH_SECONDS + rounds * attachment.round_seconds + 60,
        lock_wait_s=settings.lock_wait_s,
        progress=progress,
    )


def _measurement(
    files: BenchmarkFiles, profile: DeviceProfile, on: str, rounds: Sequence[BoardRound], settings: BenchSettings
) -> Measurement:
    """Raises ValueError where an answer has another shape than the golden one."""
    hello = rounds[0].hello
    processes_us = tuple(item.samples_us for item in rounds)
    timing = timing_statistics(processes_us)
    facts = DeviceFacts(
        machine=hello.core, architecture=profile.cpu.architecture, cpu_part_ids=(), cpu_model=hello.core, cores=1,
        system="none", kernel="none", python=None, numpy=None, runtime=hello.runtime,
        runtime_version=hello.runtime_version, kernel_family=hello.kernels, tried=(),
    )  # fmt: skip
    mismatches = _mismatches(hello, profile)
    golden = _compare(files, rounds[0], settings.tolerance_lsb)
    verdict, reasons = judge(
        timing, facts, precision_ratio=settings.precision_ratio, golden=golden, mismatches=mismatches
    )
    notes = ["Frequency, temperature and load of a board without a system are not known."]
    if len(rounds) == 1:
        notes.append("One round only: what differs from reset to reset is not known.")
    return Measurement(
        device=profile.name,
        chosen=files.manifest.chosen,
        bundle=str(files.bundle),
        model_sha256=sha256_of(files.model),
        on=on,
        num_threads=1,
        verdict=verdict,
        reasons=reasons,
        mismatches=mismatches,
        timing=timing,
        init_ms=None,
        first_ms=None,
        processes_us=processes_us,
        golden=golden,
        delegate=None,
        memory=None,
        profile=None,
        score=None,
        facts=facts,
        steady=None,
        conditions=(),
        notes=tuple(notes),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        engine="firmware",
    )


def _mismatches(hello: BoardHello, profile: DeviceProfile) -> tuple[str, ...]:
    found = []
    if hello.core.lower() != profile.cpu.core.lower():
        found.append(f"core {hello.core}, profile says {profile.cpu.core}")
    if hello.clock_hz is not None and abs(hello.clock_hz / profile.cpu.clock_hz - 1) > _CLOCK_RATIO:
        found.append(f"{hello.clock_hz / 1e6:g} MHz, profile says {profile.cpu.clock_hz / 1e6:g} MHz")
    return tuple(found)


def _compare(files: BenchmarkFiles, said: BoardRound, tolerance_lsb: float) -> GoldenCheck:
    """The golden samples that the board answered.

    A firmware with another model, or one that answers none, is wrong whatever it answers.
    """
    digest = sha256_of(files.model)
    problem = None
    if said.hello.model_sha256 != digest:
        problem = f"The firmware has another model ({said.hello.model_sha256[:12]}, the bundle's is {digest[:12]})."
    elif not said.golden:
        problem = "The board answered no golden sample."
    if problem is not None:
        return GoldenCheck(
            ok=False, rule="exact", equal=False, max_difference_lsb=None, tolerance_lsb=None, argmax_agreement=None,
            samples=max(1, len(said.golden)), message=problem,
        )  # fmt: skip
    arrays = files.opened.golden()
    numbers = sorted(said.golden)
    pairs = [
        (*_pair(arrays[f"output_{index}"], said, numbers, index), entry.scale is not None)
        for index, entry in enumerate(files.manifest.outputs)
    ]
    is_float = all(np.dtype(entry.dtype).kind == "f" for entry in (*files.manifest.inputs, *files.manifest.outputs))
    made, hello = files.manifest.golden, said.hello
    is_exact = (made.runtime, made.runtime_version) == (hello.runtime, hello.runtime_version)
    is_exact = is_exact and hello.kernels == "reference"
    return GoldenCheck.model_validate(compare_golden(np, pairs, is_float, is_exact, tolerance_lsb))


def _pair(expected: np.ndarray, said: BoardRound, numbers: Sequence[int], index: int) -> tuple[np.ndarray, np.ndarray]:
    """One output as golden and as answered, both of shape (samples, ...)."""
    if numbers[-1] >= len(expected):
        raise ValueError(f"golden sample {numbers[-1]} does not exist, there are {len(expected)}")
    answers = []
    for number in numbers:
        outputs = said.golden[number].outputs
        count = len(outputs[index]) if index < len(outputs) else 0
        if count != expected[0].size:
            raise ValueError(f"output {index} has {expected[0].size} values, the board sent {count}")
        answers.append(np.asarray(outputs[index]).reshape(expected.shape[1:]).astype(expected.dtype))
    return expected[list(numbers)], np.stack(answers)
