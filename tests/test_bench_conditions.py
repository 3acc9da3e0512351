"""The real agent on a device whose conditions change while it measures: the reason is said, whatever else is wrong.

This machine may be busy, slow or a virtual one, and all of that is said too. So a test looks for the reason that it has
caused, never for the verdict of a machine that it does not own. Clock, temperature and quota are files that a test
writes (EDGECOMP_SYSFS_ROOT); stopped and busy processes are real.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgecomp.bench import BenchSettings, bench_bundle
from edgecomp.transports import connect
from tests.conftest import missing
from tests.digits_bundle import write_digits_bundle
from tests.sshd import missing_tools, running_sshd

pytestmark = [pytest.mark.slow, pytest.mark.device]  # Minutes, most of it waiting for processes.

# Two processes: what is written while the first one is timed holds for all of the second.
SETTINGS = BenchSettings(
    min_seconds=1.5, max_seconds=10.0, min_processes=2, max_processes=2, precision_ratio=0.99, passes=()
)
ZONE = "sys/class/thermal/thermal_zone0"
KHZ = 1_500_000


@dataclass(frozen=True)
class Board:
    """A stand-in for /sys and /proc of a board that has the cores of this machine."""

    root: Path

    def write(self, path, text):
        """Whole at once, for somebody is reading."""
        target, draft = self.root / path, self.root / "draft"
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(f"{text}\n")
        draft.replace(target)

    def write_cores(self, name, text):
        for core in os.sched_getaffinity(0):
            self.write(f"sys/devices/system/cpu/cpu{core}/cpufreq/{name}", text)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_digits_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def board(tmp_path):
    made = Board(tmp_path / "board")
    made.write_cores("cpuinfo_max_freq", KHZ)
    made.write_cores("scaling_cur_freq", KHZ)
    made.write_cores("scaling_governor", "ondemand")
    made.write(f"{ZONE}/type", "cpu-thermal")
    made.write(f"{ZONE}/temp", 48_000)
    made.write("proc/self/cgroup", "0::/board")
    made.write("sys/fs/cgroup/board/cpu.stat", "nr_periods 0\nnr_throttled 0")
    return made


@pytest.fixture(params=["local", "ssh"])
def transport(request, board, tmp_path, monkeypatch):
    """The agent as a child of this process, and behind a real SSH server; nothing may be left of it."""
    folder = tmp_path / "tmp"
    if request.param == "local":
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setenv("EDGECOMP_SYSFS_ROOT", str(board.root))
        with connect("local") as opened:
            yield opened
    else:
        if missing_tools():
            missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        with running_sshd(tmp_path / "sshd", {"EDGECOMP_SYSFS_ROOT": str(board.root)}) as server:
            folder = server.tmp
            monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(server.config))
            with connect(server.target) as opened:
                yield opened
    assert list(folder.iterdir()) == []


only_local = pytest.mark.parametrize("transport", ["local"], indirect=True)


def measured_while(happening, bundle, transport, settings=SETTINGS, **more):
    """Measure, and call `happening` each time that a process begins to be timed."""

    def progress(stage, *_):
        if stage == "measuring":
            happening()

    return bench_bundle(bundle, transport, settings=settings, python=sys.executable, progress=progress, **more)


def said(measured, pattern):
    """The reasons that a pattern is found in."""
    return [reason for reason in measured.reasons if re.search(pattern, reason)]


class TestFiles:
    """What a board tells through files; the one agent reads them all."""

    def test_nothing_happens(self, bundle, board, transport):
        """The board that all other tests change is without a fault: no reason is of its clock, heat or quota."""
        measured = measured_while(lambda: None, bundle, transport)
        assert said(measured, "MHz|°C|governor|quota|firmware") == []
        moments = [one for process in measured.conditions for one in (process.before, *process.during, process.after)]
        assert {one.temperatures_c["thermal_zone0:cpu-thermal"] for one in moments} == {48.0}
        assert {khz for one in moments for khz in one.khz.values()} == {KHZ}
        assert {one.governors for one in moments} == {("ondemand",)}
        assert [process.quota_periods for process in measured.conditions] == [0, 0]
        assert all(len(process.during) >= 2 for process in measured.conditions)  # Twice a second, for 1.5 s.
        assert measured.steady.max_khz == {str(core): KHZ for core in measured.steady.cores}

    def test_temperature_rises(self, bundle, board, transport):
        measured = measured_while(lambda: board.write(f"{ZONE}/temp", 85_000), bundle, transport)
        (hot,) = said(measured, "it slows down from")
        assert hot == "thermal_zone0:cpu-thermal reached 85 °C, and it slows down from 80 °C"
        assert said(measured, "went from 48 to 85 °C: measure --sustained, or let it cool")
        assert not measured.is_valid

    @only_local
    def test_trip_point_of_the_kernel(self, bundle, board, transport):
        """A board that slows down from 60 °C on reaches 65."""
        board.write(f"{ZONE}/trip_point_0_type", "passive")
        board.write(f"{ZONE}/trip_point_0_temp", 60_000)
        measured = measured_while(lambda: board.write(f"{ZONE}/temp", 65_000), bundle, transport)
        assert said(measured, "cpu-thermal reached 65 °C, and it slows down from 60 °C")

    @only_local
    def test_warm_and_no_more(self, bundle, board, transport):
        measured = measured_while(lambda: board.write(f"{ZONE}/temp", 57_000), bundle, transport)
        assert said(measured, "°C") == []

    def test_frequency_drops(self, bundle, board, transport):
        measured = measured_while(lambda: board.write_cores("scaling_cur_freq", 600_000), bundle, transport)
        assert said(measured, r"core \d+ ran at 600 MHz, at another time at 1500")
        assert not measured.is_valid

    @only_local
    def test_frequency_that_is_capped_from_the_start(self, bundle, board, transport):
        board.write_cores("scaling_cur_freq", 750_000)
        board.write_cores("scaling_governor", "powersave")
        measured = measured_while(lambda: None, bundle, transport)
        assert said(measured, r"core \d+ ran at 750 of 1500 MHz \(governor powersave\)")

    @only_local
    def test_one_core_of_several_drops(self, bundle, board, transport):
        """With a thread for each core the slowest counts; with one thread it may be a core at rest."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            missing("this machine has one core only")
        path = f"sys/devices/system/cpu/cpu{cores[1]}/cpufreq/scaling_cur_freq"
        one = measured_while(lambda: board.write(path, 600_000), bundle, transport)
        assert said(one, "MHz") == []
        board.write_cores("scaling_cur_freq", KHZ)
        both = measured_while(lambda: board.write(path, 600_000), bundle, transport, num_threads=2)
        assert said(both, f"core {cores[1]} ran at 600 MHz, at another time at 1500")

    def test_governor_changes(self, bundle, board, transport):
        measured = measured_while(lambda: board.write_cores("scaling_governor", "powersave"), bundle, transport)
        assert said(measured, r"the governor changed meanwhile \(ondemand, powersave\)")
        assert not measured.is_valid

    def test_quota_is_used_up(self, bundle, board, transport):
        """A stand-in for a control group, which few machines let a test make: 7 periods more in each process."""
        periods = [100]
        board.write("sys/fs/cgroup/board/cpu.stat", "nr_throttled 100")  # Of an earlier day.

        def use_up():
            periods[0] += 7
            board.write("sys/fs/cgroup/board/cpu.stat", f"nr_periods 500\nnr_throttled {periods[0]}")

        measured = measured_while(use_up, bundle, transport)
        (quota,) = said(measured, "CPU quota")
        # On a machine that is very busy the file may be written before or after the process is timed.
        assert quota in [f"the CPU quota of its control group was used up in {count} periods" for count in (7, 14)]

    @only_local
    def test_firmware_of_a_raspberry_pi(self, bundle, board, transport, tmp_path, monkeypatch):
        """Under-voltage while the second process is timed; the bit that stays says that it was under-voltage before."""
        bits = tmp_path / "throttled"
        bits.write_text("throttled=0x20000\n")
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "vcgencmd").write_text(f'#!/bin/sh\nexec cat "{bits}"\n')
        (folder / "vcgencmd").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        measured = measured_while(lambda: bits.write_text("throttled=0x30000\n"), bundle, transport)
        assert said(measured, "firmware") == ["the firmware says under-voltage"]


def timed_process(folder):
    """The process that runs the model: the agent's, in a folder of its own, that has a pass to do."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if os.readlink(entry / "cwd").startswith(f"{folder}/") and b"pass" in words:
                    return int(entry.name)
    return None


class DutyCycle:
    """Stops a process for 75 of every 100 ms, as a quota of a quarter of a core does."""

    def __init__(self, folder):
        self._folder = folder
        self._is_over = threading.Event()
        self._threads = []
        self.stops = 0

    def begin(self):
        self._threads.append(threading.Thread(target=self._run, args=(timed_process(self._folder),)))
        self._threads[-1].start()

    def _run(self, pid):
        with contextlib.suppress(ProcessLookupError):
            while pid is not None and not self._is_over.wait(0.025):
                os.kill(pid, signal.SIGSTOP)
                try:
                    time.sleep(0.075)
                finally:
                    os.kill(pid, signal.SIGCONT)
                self.stops += 1

    def end(self):
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@only_local
class TestProcesses:
    def test_a_quarter_of_the_time(self, bundle, transport, tmp_path):
        """The median is that of the digits, some 10 us: only the mean and the slowest inference show the stops."""
        cycle = DutyCycle(tmp_path / "tmp")
        settings = BenchSettings(
            min_seconds=3.0, max_seconds=20.0, min_processes=2, max_processes=2, precision_ratio=0.99, passes=()
        )
        try:
            measured = measured_while(cycle.begin, bundle, transport, settings)
        finally:
            cycle.end()
        assert cycle.stops >= 10
        slowest_ms = max(max(samples) for samples in measured.processes_us) / 1000
        assert slowest_ms >= 70  # 75 ms, less what had passed of it between two inferences.
        assert measured.timing.p50_ms < slowest_ms / 100
        assert said(measured, "an inference takes .* times the median on average")
        assert not measured.is_valid

    def test_busy_loop_on_the_same_cores(self, bundle, transport):
        """One on each core: at least the half of all that they have, whoever else is computing."""
        spinning = [
            multiprocessing.get_context("spawn").Process(target=spin, args=(core,)) for core in os.sched_getaffinity(0)
        ]
        for process in spinning:
            process.start()
        try:
            measured = measured_while(lambda: None, bundle, transport)
        finally:
            for process in spinning:
                process.kill()
                process.join()
        (reason,) = said(measured, "other processes used")
        share = int(re.search(r"used (\d+)% of the measured cores \(allowed: 5%\)", reason).group(1))
        assert 40 <= share <= 100
        assert not measured.is_valid


def spin(core):
    """Compute on one core, until it is killed."""
    os.sched_setaffinity(0, [core])
    while True:
        pass
