"""Measure bundles on the devices of a fleet, side by side; what one device does never costs another one its result.

Every target has a thread of its own. They wait for devices nearly all the time, so the threads of a fleet cost this
machine little; the device's own lock keeps measurements on it apart, whoever asks for them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgecomp.bench.attached import bench_attached
from edgecomp.bench.engines import Engine, bench_with
from edgecomp.bench.measurement import BenchReport, FailedMeasurement, Measurement
from edgecomp.bench.runner import THREADS, BenchmarkFiles, read_benchmark_files
from edgecomp.bench.settings import BenchSettings
from edgecomp.device_setup import setup_device
from edgecomp.errors import (
    AuthenticationError,
    BenchmarkError,
    CommandTimeoutError,
    EdgecompError,
    HostKeyError,
    NoPythonError,
    NoRuntimeError,
    TransportError,
    UsageError,
)
from edgecomp.fleet.file import Argv, Fleet, Target
from edgecomp.transports import Transport, connect, one_line

TRIES = 3
TRY_AGAIN_S = 2.0
COMMAND_SECONDS = 120.0
MOST_AT_ONCE = 64

FleetProgress = Callable[[str, str, int, int], None]
"""Called with (target, what, step, steps), always from the thread that called `run_fleet`."""


@dataclass(frozen=True)
class Assignment:
    """The bundles that are for one target."""

    name: str
    target: Target
    files: tuple[BenchmarkFiles, ...]


@dataclass
class _Running:
    """The connection that a thread has open, for whoever has to end it."""

    transport: Transport | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def assign(fleet: Fleet, bundles: Sequence[Path]) -> list[Assignment]:
    """Which bundle goes to which target: the one of the same profile.

    Raises:
        UsageError: A bundle that no target is for, or nothing at all to do.
        BundleError: A bundle is missing, damaged or changed.
    """
    opened = [read_benchmark_files(bundle) for bundle in bundles]
    found = []
    for name, target in fleet.targets.items():
        device = fleet.profile(target).name
        mine = tuple(files for files in opened if files.manifest.device == device)
        if mine:
            found.append(Assignment(name, target, mine))
    profiles = sorted({fleet.profile(target).name for target in fleet.targets.values()})
    for files in opened:
        if files.manifest.device not in profiles:
            raise UsageError(
                f"{files.bundle} is for {files.manifest.device}, and no target is one.",
                hint=f"The targets of {fleet.path} that were chosen are: {', '.join(profiles)}.",
            )
    return found


def run_fleet(
    fleet: Fleet,
    assignments: Sequence[Assignment],
    *,
    threads: Sequence[int] = THREADS,
    settings: BenchSettings | None = None,
    accept_new_host_key: bool = False,
    connect_timeout_s: float = 15.0,
    on_result: Callable[[str, BenchReport], None] | None = None,
    progress: FleetProgress | None = None,
    notify: Callable[[str], None] | None = None,
) -> dict[str, BenchReport]:
    """Measure on all targets at once.

    Args:
        fleet: Where relative paths of targets start.
        assignments: See `assign`.
        threads: See `bench_bundles`; a board has one.
        settings: None for the usual ones.
        accept_new_host_key: See `transports.connect`; `notify` is told about each key.
        connect_timeout_s: Likewise.
        on_result: Called with (target, report) as each one ends, from the calling thread.
        progress: See `FleetProgress`.
        notify: See `transports.connect`.

    Returns:
        By target, in the order given. What failed is in the report of its target.

    Raises:
        KeyboardInterrupt: Connections were closed, so that the devices stop and tidy up.
    """
    settings = settings or BenchSettings()
    events: queue.SimpleQueue[tuple[str, BenchReport | tuple[str, int, int]]] = queue.SimpleQueue()
    at_once = threading.Semaphore(MOST_AT_ONCE)
    options: dict[str, Any] = {"accept_new_host_key": accept_new_host_key, "connect_timeout_s": connect_timeout_s}
    if notify is not None:
        options["notify"] = notify

    def work(item: Assignment, running: _Running) -> None:
        with at_once:
            visit = _Visit(fleet, item, tuple(threads), settings, options, running, events)
            events.put((item.name, visit.report()))

    everyone: dict[str, _Running] = {}
    for item in assignments:
        # Daemons: a device that hangs must not keep the program from ending.
        everyone[item.name] = _Running()
        threading.Thread(target=work, args=(item, everyone[item.name]), name=f"fleet {item.name}", daemon=True).start()
    reports: dict[str, BenchReport] = {}
    try:
        while len(reports) < len(everyone):
            name, event = events.get()
            if isinstance(event, BenchReport):
                reports[name] = event
                if on_result is not None:
                    on_result(name, event)
            elif progress is not None:
                progress(name, *event)
    except BaseException:
        for running in everyone.values():
            with running.lock, contextlib.suppress(EdgecompError, OSError, RuntimeError):
                if running.transport is not None:
                    running.transport.close()
        raise
    return {item.name: reports[item.name] for item in assignments}


@dataclass(frozen=True)
class _Visit:
    """One target: connect, prepare, measure, put back; again where the network failed."""

    fleet: Fleet
    item: Assignment
    threads: tuple[int, ...]
    settings: BenchSettings
    options: dict[str, Any]
    running: _Running
    events: queue.SimpleQueue[tuple[str, BenchReport | tuple[str, int, int]]]

    def report(self) -> BenchReport:
        """What was measured, or why nothing was."""
        for number in range(1, TRIES + 1):
            try:
                return self._measure()
            except (HostKeyError, AuthenticationError, CommandTimeoutError) as error:
                return self._failed(error)
            except TransportError as error:
                if number == TRIES:
                    return self._failed(error, f"tried {TRIES} times")
                self._tell(f"{error.message} Trying again", 0, 0)
                time.sleep(TRY_AGAIN_S * number)
            except EdgecompError as error:
                return self._failed(error)
            except Exception as error:  # One device must not cost the others their results.
                said = one_line(f"{type(error).__name__}: {error}")
                return self._failed(BenchmarkError(f"Something unforeseen happened: {said}."))
        raise AssertionError("unreachable")

    def _measure(self) -> BenchReport:
        target = self.item.target
        self._tell(f"connecting to {target.host}", 0, 0)
        identity, known_hosts = (
            None if name is None else self.fleet.beside(name) for name in (target.identity, target.known_hosts)
        )
        with connect(target.host, identity=identity, known_hosts=known_hosts, **self.options) as transport:
            with self.running.lock:
                self.running.transport = transport
            try:
                for argv in target.before:
                    self._command(transport, argv)
                report = self._bench(transport)
            finally:
                with self.running.lock:
                    self.running.transport = None
                for argv in target.after:
                    with contextlib.suppress(TransportError):  # What went wrong before is what is told.
                        self._command(transport, argv)
        named = tuple(replace(measured, target=self.item.name) for measured in report.measurements)
        failed = tuple(replace(failure, target=self.item.name) for failure in report.failed)
        return replace(report, measurements=named, failed=failed)

    def _bench(self, transport: Transport) -> BenchReport:
        target, profile = self.item.target, self.fleet.profile(self.item.target)
        if target.kind == "attached":
            attachment = self.fleet.attachment(self.item.name)
            measured: list[Measurement] = [
                bench_attached(
                    files, attachment, transport, profile=profile, name=self.item.name, python=target.python,
                    settings=self.settings, progress=self._tell,
                )
                for files in self.item.files
            ]  # fmt: skip
            return BenchReport(tuple(measured))
        bundles = [files.bundle for files in self.item.files]

        def bench(engine: Engine) -> BenchReport:
            return bench_with(
                engine, bundles, transport, profile=profile, python=target.python, threads=self.threads,
                settings=self.settings, progress=self._tell,
            )  # fmt: skip

        engine = target.measured_by
        # Where wheels are at hand a runtime is installed before another engine is thought of.
        has_wheels = target.wheels is not None and engine.name == "auto"
        try:
            return bench(Engine("interpreter") if has_wheels else engine)
        except (NoPythonError, NoRuntimeError) as error:
            if target.wheels is None:
                raise
            if isinstance(error, NoRuntimeError):
                wheels = self.fleet.beside(target.wheels)
                setup_device(transport, python=target.python, wheels=wheels, progress=self._tell)
            return bench(engine)

    def _command(self, transport: Transport, argv: Argv) -> None:
        self._tell(f"running {argv[0]}", 0, 0)
        result = transport.run(argv, timeout_s=COMMAND_SECONDS)
        if result.exit_code != 0:
            words = one_line(result.stderr.strip().splitlines()[-1]) if result.stderr.strip() else None
            raise BenchmarkError(
                f"{transport.host}: {argv[0]} failed (exit code {result.exit_code}).",
                hint=None if words is None else f"Its last words: {words!r}",
            )

    def _failed(self, error: EdgecompError, how: str | None = None) -> BenchReport:
        text = error.message if how is None else f"{error.message.removesuffix('.')} ({how})."
        device = self.fleet.profile(self.item.target).name
        return BenchReport(
            (),
            tuple(
                FailedMeasurement(
                    device, str(files.bundle), self.item.target.host, text, error.hint, target=self.item.name
                )
                for files in self.item.files
            ),
        )

    def _tell(self, what: str, step: int, steps: int) -> None:
        self.events.put((self.item.name, (what, step, steps)))
