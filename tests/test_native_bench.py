"""`edgecomp bench` with a native `benchmark_model`: when it is taken, what it measures, and the device's lock.

The program is a shell script that prints recorded output, over a real sshd whose search path holds what a phone has and
no Python. The lock is tried against real keepers and against a second native measurement.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shlex
import shutil
import sys
import threading
import time
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from edgecomp.agent.keeper import LOCK_NAME
from edgecomp.bench import BenchSettings, bench_bundle
from edgecomp.bench.engines import Engine, bench_with
from edgecomp.bench.native import native_session
from edgecomp.bench.native_device import locked_folder
from edgecomp.bench.native_facts import parse_device
from edgecomp.errors import (
    BenchmarkError,
    DeviceBusyError,
    NoPythonError,
    NoRuntimeError,
    RuntimeRefusedError,
    UsageError,
)
from edgecomp.fleet import read_fleet, run_fleet
from edgecomp.fleet.run import assign
from edgecomp.transports import connect
from tests.adbd import attached_device
from tests.bench_device import ONCE, Visit
from tests.conftest import ROOT, missing
from tests.digits_bundle import MODELS, write_digits_bundle
from tests.sshd import LOCALHOST, missing_tools, running_sshd, wait_until

RECORDED = Path(__file__).parent / "recorded" / "benchmark_model"
TOOLS = (
    "cat", "chmod", "date", "dirname", "echo", "find", "flock", "getconf", "grep", "head", "ls", "mkdir", "mktemp",
    "mv", "rm", "setsid", "sh", "sha256sum", "sleep", "taskset", "uname",
)  # fmt: skip
USAGE = 'case "$1" in --help) echo "usage: benchmark_model <flags> --graph=" >&2; exit 1;; esac\n'
HOST_PROFILE = {"x86_64": "linux-x86-64", "aarch64": "linux-arm64"}.get(platform.machine(), "linux-x86-64")
QUICK = BenchSettings(min_seconds=0.0, max_seconds=5.0, min_processes=2, max_processes=2, precision_ratio=0.5)
AT_ONCE = replace(ONCE, lock_wait_s=0)


class Phone:
    """A real sshd whose programs are those of a phone, and a folder for the one that measures."""

    def __init__(self, server, bin_folder: Path) -> None:
        self.server, self.bin = server, bin_folder

    def connect(self):
        return connect(self.server.target, ssh_config=self.server.config)

    def install(self, body: str) -> Path:
        path = self.bin / "benchmark_model"
        path.write_text("#!/bin/sh\n" + USAGE + body)
        path.chmod(0o755)
        return path

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.server.tmp.iterdir())


def show(name: str = "am62x_median.txt") -> str:
    return f"cat {shlex.quote(str(RECORDED / name))}\n"


@contextlib.contextmanager
def running_phone(folder: Path, without: tuple[str, ...] = ()):
    if missing_tools():
        missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    tools = folder / "tools"
    tools.mkdir()
    for name in set(TOOLS) - set(without):
        found = shutil.which(name)
        if found is None:
            missing(f"{name} is not installed")
        (tools / name).symlink_to(found)
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    environment = {"PATH": f"{bin_folder}{os.pathsep}{tools}", "EDGECOMP_SYSFS_ROOT": str(folder / "root")}
    zone = folder / "root" / "sys" / "class" / "thermal" / "thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("48312\n")
    with running_sshd(folder / "sshd", environment) as server:
        yield Phone(server, bin_folder)


@pytest.fixture(scope="module")
def module_phone(tmp_path_factory):
    with running_phone(tmp_path_factory.mktemp("phone")) as phone:
        yield phone


@pytest.fixture
def phone(module_phone, monkeypatch):
    """What a test left there is an error, but a second may pass: who holds the lock looks once in a second."""
    monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(module_phone.server.config))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield module_phone
    for path in module_phone.bin.iterdir():
        path.unlink()
    wait_until(lambda: module_phone.leftovers() == [], "the device's folder for temporary files is empty")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """For this machine, so that it is the profile's device."""
    text = (ROOT / "device_profiles" / f"{HOST_PROFILE}.toml").read_text()
    return write_digits_bundle(tmp_path_factory.mktemp("bundles"), profile=text)


@pytest.mark.device
class TestMeasurement:
    def test_a_phone_is_timed_by_the_program(self, phone, bundle, run_cli):
        """Nothing is asked for: there is no Python, the program is found, and both are said."""
        program = phone.install(show())
        words = ("--threads", 1, "--runs", 7, "--min-seconds", 0.25, "--max-seconds", 45)
        result = run_cli("bench", bundle, "--host", phone.server.target, *words, "--json")
        assert result.exit_code in (0, 4), result.output  # 4 where a hypervisor takes this machine's cores away.
        (measured,) = json.loads(result.stdout)["measurements"]
        assert (measured["engine"], measured["golden"], measured["runtime"]) == (
            "benchmark_model",
            None,
            "benchmark_model",
        )
        assert measured["processes_us"] == [[899281]] * 3  # Medians that agree: three are enough.
        assert measured["timing"]["p50_ms"] == pytest.approx(899.281)
        assert measured["label"] == HOST_PROFILE
        facts = measured["facts"]
        assert (facts["python"], facts["numpy"], facts["architecture"]) == (None, None, platform.machine())
        assert (facts["kernel"], facts["kernel_family"]) == (platform.release(), "LITERT_XNNPACK")
        assert facts["runtime_version"].startswith("sha256:")
        notes = " ".join(measured["notes"])
        assert f"instead of the Python agent. There is no python3 on {phone.server.target}." in notes
        assert "Outputs were not compared" in notes
        assert f"benchmark_model is {program} there, sha256 " in notes
        assert "150 inferences in all" in notes
        assert all("hypervisor" in reason for reason in measured["reasons"])

    def test_as_people_read_it(self, phone, bundle, run_cli):
        phone.install(show())
        result = run_cli("bench", bundle, "--host", phone.server.target, "--threads", 1, "--processes", 3)
        assert "p50 899.3 ms [899.3, 899.3] (measured, 3 processes, each a sample)" in result.stdout
        assert "p90" not in result.stdout.partition("note:")[0]  # Of three medians it would be no p90.
        assert "outputs: not compared" in result.stdout
        assert "48 °C at most" in result.stdout  # Read before and after.
        assert "runtime benchmark_model sha256:" in result.stdout

    def test_processes_take_turns(self, phone, bundle, tmp_path):
        """Two bundles with 1 and 2 threads: forwards, backwards, forwards, and as many rounds as precision takes."""
        log = tmp_path / "log"
        # Times that grow, so that no interval becomes narrow.
        phone.install(
            f'echo "$1 $2" >> {log}\nn=$(grep -c "" {log})\nus=$((300000 + n * 100000))\n'
            'echo "count=50 first=905463 curr=$us min=1 max=999999 avg=$us std=5 p5=1 median=$us p95=999999"\n'
            'echo "Inference timings in us: Init: 1, First inference: 2, Warmup (avg): 3, Inference (avg): $us"\n'
        )
        other = write_digits_bundle(tmp_path, model=(MODELS / "digits_float.tflite").read_bytes())
        settings = BenchSettings(min_seconds=0.0, min_processes=2, max_processes=3)
        with phone.connect() as transport:
            report = bench_with(
                Engine("benchmark_model"), [bundle, other], transport, threads=(1, 2), settings=settings
            )
        visits = log.read_text().splitlines()
        assert len(visits) == 12
        assert len(set(visits[:4])) == 4
        assert visits[4:8] == visits[3::-1]
        assert visits[8:] == visits[:4]
        assert [item.timing.num_processes for item in report.measurements] == [3] * 4
        assert [item.num_threads for item in report.measurements] == [1, 2, 1, 2]
        assert all(item.verdict != "valid" for item in report.measurements)
        assert any("the median is known to" in reason for reason in report.measurements[0].reasons)

    def test_a_hot_device_is_throttled(self, phone, bundle):
        zone = phone.bin.parent / "root" / "sys" / "class" / "thermal" / "thermal_zone0" / "temp"
        phone.install(f"echo 86000 > {zone}\n{show()}")
        try:
            with phone.connect() as transport:
                report = bench_with(Engine(), [bundle], transport, threads=(1,), settings=QUICK)
        finally:
            zone.write_text("48312\n")
        assert report.measurements[0].verdict == "throttled"
        assert any("86 °C" in reason for reason in report.measurements[0].reasons)

    def test_cores_of_the_profile(self, phone, bundle, tmp_path):
        """Bound to as many cores as the profile counts; all threads are those."""
        phone.install(f'taskset -p $$ >> {tmp_path}/mask\necho "$@" >> {tmp_path}/arguments\n{show()}')
        with phone.connect() as transport:
            report = bench_with(Engine(), [bundle], transport, threads=(0,), settings=QUICK)
        (measured,) = report.measurements
        mask = int((tmp_path / "mask").read_text().splitlines()[0].rpartition(" ")[2], 16)
        assert bin(mask).count("1") == measured.num_threads == len(measured.steady.cores)
        assert f"--num_threads={measured.num_threads}" in (tmp_path / "arguments").read_text()

    def test_what_fails_costs_the_others_nothing(self, phone, bundle, tmp_path):
        refused = write_digits_bundle(tmp_path, model=(MODELS / "digits_float.tflite").read_bytes())
        digest = json.loads((refused / "manifest.json").read_text())["files"]["model.tflite"]["sha256"]
        phone.install(f'case "$1" in *{digest}*) {show("refused_2022.txt").strip()}; exit 1;; esac\n{show()}')
        with phone.connect() as transport:
            report = bench_with(Engine(), [refused, bundle], transport, threads=(1,), settings=QUICK)
            assert [item.bundle for item in report.measurements] == [str(bundle)]
            (failed,) = report.failed
            assert (failed.bundle, failed.num_threads) == (str(refused), 1)
            assert "does not run this model: Failed to apply XNNPACK delegate" in failed.error
            with pytest.raises(RuntimeRefusedError, match="does not run this model"):
                bench_with(Engine(), [refused], transport, threads=(1,), settings=QUICK)

    def test_over_adb(self, tmp_path, bundle, run_cli):
        """A phone through the real adb client; this machine has a Python, so it is called by another name."""
        if shutil.which("adb") is None:
            missing("adb is not installed (Debian: adb)")
        program = tmp_path / "benchmark_model"
        program.write_text("#!/bin/sh\n" + USAGE + show())
        program.chmod(0o755)
        (tmp_path / "device").mkdir()
        with attached_device(tmp_path / "device") as phone:
            words = ("--host", f"adb://{phone.serial}", "--python", "no-python", "--threads", 1)
            result = run_cli("bench", bundle, *words, "--benchmark-model", program, "--json")
            assert json.loads(result.stdout)["measurements"][0]["engine"] == "benchmark_model"
            bare = run_cli("bench", bundle, *words)
            assert bare.exit_code == 1
            assert "There is no benchmark_model either." in bare.stderr
            wait_until(lambda: list(phone.tmp.iterdir()) == [], "nothing is left on the phone")


@pytest.mark.device
class TestChoice:
    def test_neither_names_both_ways_out(self, phone, bundle, run_cli):
        result = run_cli("bench", bundle, "--host", phone.server.target)
        assert result.exit_code == 1
        assert f"There is no python3 on {phone.server.target}. There is no benchmark_model either." in result.stderr
        said = " ".join(result.stderr.split())
        assert all(way in said for way in ("--python", "`edgecomp setup`", "--benchmark-model"))

    def test_no_runtime(self, phone, bundle, tmp_path):
        """A Python with nothing in it: the program is taken, or `edgecomp setup HOST` and the program are named."""
        venv.create(tmp_path / "bare", with_pip=False)
        python = str(tmp_path / "bare" / "bin" / "python")
        options = {"python": python, "threads": (1,), "settings": QUICK}
        with phone.connect() as transport:
            with pytest.raises(
                NoRuntimeError, match=r"No TFLite runtime works in .* There is no benchmark_model"
            ) as caught:
                bench_with(Engine(), [bundle], transport, **options)
            assert f"Run `edgecomp setup {phone.server.target}`; or copy a benchmark_model" in caught.value.hint
            phone.install(show())
            report = bench_with(Engine(), [bundle], transport, **options)
            assert "No TFLite runtime works in" in report.measurements[0].notes[0]
            with pytest.raises(NoRuntimeError) as caught:
                bench_with(Engine("interpreter"), [bundle], transport, **options)
            assert "benchmark_model" not in str(caught.value)

    def test_a_python_that_works_comes_first(self, phone, bundle):
        phone.install("exit 9\n")
        with phone.connect() as transport:
            report = bench_with(
                Engine(), [bundle], transport, python=sys.executable, threads=(1,), settings=ONCE
            )  # fmt: skip
        assert report.measurements[0].engine == "interpreter"
        assert report.measurements[0].golden.ok

    def test_interpreter_only(self, phone, bundle):
        phone.install(show())
        with phone.connect() as transport, pytest.raises(NoPythonError, match="There is no python3 on"):
            bench_with(Engine("interpreter"), [bundle], transport, settings=QUICK)

    def test_the_program_is_asked_for_and_not_there(self, phone, bundle):
        with phone.connect() as transport:
            with pytest.raises(BenchmarkError, match=r"There is no benchmark_model on .*/data/local/tmp") as caught:
                bench_with(Engine("benchmark_model"), [bundle], transport, settings=QUICK)
            assert caught.value.hint.startswith("Copy a benchmark_model")
            with pytest.raises(BenchmarkError, match="There is no program /nowhere/bm on"):
                bench_with(Engine("auto", "/nowhere/bm"), [bundle], transport, settings=QUICK)

    def test_what_only_the_agent_can_do(self, phone, bundle, run_cli):
        """Asked for with the program it is a mistake; where the program only stands in, it fails and says why."""
        phone.install(show())
        host = ("--host", phone.server.target)
        result = run_cli("bench", bundle, *host, "--engine", "benchmark_model", "--operators")
        assert result.exit_code == 2
        assert "benchmark_model only times a model: --operators needs the Python agent." in result.stderr
        result = run_cli("bench", bundle, *host, "--operators", "--set-governor", "performance")
        assert result.exit_code == 1
        said = " ".join(result.stderr.split())
        assert "There is no python3 on" in said
        assert "only times a model: --operators and --set-governor need the Python agent." in said


class TestOptions:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--engine", "tensorrt"], "'tensorrt' is not one of 'auto', 'interpreter', 'benchmark_model'"),
            (["--engine", "interpreter", "--benchmark-model", "/x"], "is of no use to the engine interpreter"),
            (["--engine", "benchmark_model", "--set-governor", "performance"], "--set-governor needs the Python agent"),
            (
                ["--engine", "benchmark_model", "--accuracy", "5", "--data", "d.npz", "--operators"],
                "--accuracy and --operators need the Python agent",
            ),
        ],
    )
    def test_contradictions(self, run_cli, words, message):
        """Before anything is connected to: no such host."""
        result = run_cli("bench", "b.zip", "--host", "nobody.invalid", *words)
        assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True), result.output

    @pytest.mark.parametrize("words", [["--engine", "benchmark_model"], ["--benchmark-model", "/x"]])
    def test_a_fleet_says_it_by_target(self, run_cli, words):
        result = run_cli("bench", "b.zip", "--fleet", "f.toml", *words)
        assert result.exit_code == 2
        assert "each target has keys of its own: engine, benchmark_model" in " ".join(result.stderr.split())

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ('engine = "tensorrt"', "targets.one.engine: Input should be 'auto', 'interpreter' or 'benchmark_model'"),
            ('benchmark_model = ""', "targets.one.benchmark_model: String should have at least 1"),
            ('engine = "interpreter"\nbenchmark_model = "/x"', 'is of no use to engine = "interpreter"'),
            (
                'kind = "attached"\nengine = "benchmark_model"\n[targets.one.attached]\nrun = ["x"]',
                "engine and benchmark_model are for devices with an operating system",
            ),
        ],
    )
    def test_mistakes_in_a_fleet(self, tmp_path, keys, message):
        path = tmp_path / "fleet.toml"
        path.write_text(f'[targets.one]\nhost = "pi@one"\nprofile = "rpi4"\n{keys}\n')
        with pytest.raises(UsageError, match=message):
            read_fleet(path)


@pytest.mark.device
def test_fleet(phone, tmp_path):
    """By name; where wheels are at hand but no Python is; and what the program cannot do costs only its target."""
    program = phone.install(show())
    (tmp_path / "wheels").mkdir()
    server = phone.server
    common = (
        f'host = "{server.user}@{LOCALHOST}:{server.port}"\nprofile = "rpi4"\nidentity = "{server.identity}"\n'
        f'known_hosts = "{server.known_hosts}"\n'
    )
    path = tmp_path / "fleet.toml"
    path.write_text(
        f'[targets.named]\n{common}engine = "benchmark_model"\nbenchmark_model = "{program}"\n'
        f'[targets.bare]\n{common}wheels = "wheels"\n'
    )
    fleet = read_fleet(path)
    bundles = [write_digits_bundle(tmp_path)]
    reports = run_fleet(fleet, assign(fleet, bundles), threads=(1,), settings=QUICK)
    assert {name: report.measurements[0].engine for name, report in reports.items()} == dict.fromkeys(
        ("named", "bare"), "benchmark_model"
    )
    settings = BenchSettings(passes=("profile",))
    reports = run_fleet(fleet, assign(fleet, bundles), threads=(1,), settings=settings)
    assert "--operators needs the Python agent" in reports["named"].failed[0].error


def hold(path: Path) -> int:
    """What a keeper does; returns the descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def silent(*_: object) -> None:
    pass


def refused_as_busy(phone: Phone, why: str) -> None:
    expected = pytest.raises(DeviceBusyError, match=why)
    with phone.connect() as transport, expected, locked_folder(transport, wait_s=0, limit_s=30, tell=silent):
        pass


@pytest.mark.slow
@pytest.mark.device
class TestLock:
    def test_waits_for_a_keeper(self, phone, bundle):
        """A keeper's lock: at once it is busy; with time to wait it is waited for, and said."""
        phone.install(show())
        path = phone.server.tmp / LOCK_NAME
        descriptor = hold(path)
        said: list[str] = []
        try:
            with phone.connect() as transport:
                with pytest.raises(DeviceBusyError, match=rf"running there \(process {os.getpid()}\), and did not end"):
                    bench_with(Engine("benchmark_model"), [bundle], transport, threads=(1,), settings=AT_ONCE)

                def progress(what, *_):
                    said.append(what)
                    if what.startswith("waiting for another measurement (process") and path.exists():
                        path.unlink()  # As a keeper does that has finished.
                        os.close(descriptor)

                report = bench_with(
                    Engine("benchmark_model"), [bundle], transport, threads=(1,), settings=QUICK, progress=progress
                )
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        assert report.measurements
        assert said[0] == f"waiting for another measurement (process {os.getpid()})"

    def test_keeps_a_keeper_waiting(self, phone, bundle):
        with phone.connect() as one, phone.connect() as two:
            with native_session(one, "true", wait_s=0, limit_s=60, tell=silent):
                holder = int((phone.server.tmp / LOCK_NAME).read_text())
                assert f"sh\0{phone.server.tmp}" in Path(f"/proc/{holder}/cmdline").read_text()
                with pytest.raises(
                    DeviceBusyError, match=rf"Another measurement is running there \(process {holder} ?\)"
                ):
                    bench_bundle(bundle, two, python=sys.executable, settings=AT_ONCE)
            assert bench_bundle(bundle, two, python=sys.executable, settings=AT_ONCE).golden.ok  # Let go of at once.

    def test_two_take_turns(self, phone, bundle, tmp_path):
        log = tmp_path / "log"
        phone.install(f"echo begin >> {log}\nsleep 1\necho end >> {log}\n{show()}")
        reports = []

        def measure():
            with phone.connect() as transport:
                reports.append(bench_with(Engine(), [bundle], transport, threads=(1,), settings=QUICK))

        threads = [threading.Thread(target=measure) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert len(reports) == 2
        assert log.read_text().split() == ["begin", "end"] * 4

    def test_a_device_that_is_forgotten_lets_go(self, phone):
        """Nobody tidies up, as where the connection was lost between two commands: the time limit does."""
        with phone.connect() as transport, locked_folder(transport, wait_s=0, limit_s=2, tell=silent) as folder:
            assert Path(folder).stat().st_mode & 0o777 == 0o700
            assert (phone.server.tmp / LOCK_NAME).exists()
            wait_until(lambda: phone.leftovers() == [], "the device has let go")
            # What comes next is not its own: it stays when the first one ends.
            (phone.server.tmp / LOCK_NAME).write_text("1")
        assert phone.leftovers() == [LOCK_NAME]
        (phone.server.tmp / LOCK_NAME).unlink()

    def test_a_host_that_is_killed(self, phone, bundle, tmp_path):
        """SIGKILL in mid-measurement: program, folder and lock are gone; the lock at once for whoever comes."""
        phone.install(f"echo $$ > {tmp_path}/pid\nexec sleep 600\n")
        with Visit(tmp_path, bundle, "--host", phone.server.target, "--threads", 1) as visit:
            wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "it measures")
            visit.process.kill()
            visit.process.wait()
            wait_until(lambda: phone.leftovers() == [], "folder and lock are removed")
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the program is ended")

    def test_a_link_is_not_followed(self, phone, tmp_path):
        """Somebody's own file must not be written to by way of the lock's name."""
        victim = tmp_path / "victim"
        victim.write_text("precious")
        (phone.server.tmp / LOCK_NAME).symlink_to(victim)
        try:
            refused_as_busy(phone, "Another measurement is running there")
        finally:
            (phone.server.tmp / LOCK_NAME).unlink()
        assert victim.read_text() == "precious"


@pytest.mark.slow
@pytest.mark.device
class TestLockWithoutFlock:
    """A shell that has no `flock`: a folder is the lock."""

    @pytest.fixture
    def phone(self, tmp_path):
        with running_phone(tmp_path, without=("flock",)) as phone:
            yield phone
            wait_until(lambda: phone.leftovers() == [], "the device's folder for temporary files is empty")

    def test_two_of_them(self, phone):
        with phone.connect() as one, phone.connect() as two:
            with locked_folder(one, wait_s=0, limit_s=30, tell=silent):
                until, holder = (phone.server.tmp / "edgecomp-native-lock" / "until").read_text().split()
                assert 0 <= int(until) - time.time() <= 31
                refused_as_busy(phone, rf"process {holder}\)")
            with locked_folder(two, wait_s=0, limit_s=30, tell=silent):
                pass

    def test_a_lock_whose_time_is_over(self, phone):
        """As after a power cut."""
        lock = phone.server.tmp / "edgecomp-native-lock"
        lock.mkdir()
        (lock / "until").write_text("1000000000 1\n")
        with phone.connect() as transport, locked_folder(transport, wait_s=0, limit_s=30, tell=silent):
            assert int((lock / "until").read_text().split()[0]) > time.time()

    def test_a_keeper_that_lives_counts(self, phone):
        path = phone.server.tmp / LOCK_NAME
        path.write_text(str(os.getpid()))
        try:
            refused_as_busy(phone, rf"process {os.getpid()}\)")
            path.write_text("99999999")  # Beyond the largest process id: it is gone.
            with phone.connect() as transport, locked_folder(transport, wait_s=0, limit_s=30, tell=silent):
                pass
        finally:
            path.unlink()


CPUINFO = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nprocessor\t: 1\nCPU part\t: 0xd08\n"
PI = {
    "system": "Linux 6.1.21-v8+ aarch64\n",
    "userland_bits": "64\n",
    "model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "cpuinfo": CPUINFO,
    "cores": "/sys/devices/system/cpu/online:0-3\n"
    + "".join(f"/sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq:1500000\n" for n in range(4)),
    "allowed": "Cpus_allowed_list:\t0-2\n",
    "taskset": "/usr/bin/taskset\n",
}


def elf(machine: int, bits: int = 64) -> bytes:
    return b"\x7fELF" + bytes([bits // 32, 1]) + bytes(12) + machine.to_bytes(2, "little")


class TestFacts:
    """From what a shell printed to the machine of a measurement."""

    @staticmethod
    def of(header: bytes = b"#!/bin/sh\n", **changes: str):
        return parse_device({name: (0, text) for name, text in (PI | changes).items()}, header)

    def test_a_raspberry_pi(self):
        found = self.of(elf(183))
        facts = found.facts
        assert (facts.machine, facts.architecture, facts.kernel) == ("aarch64", "aarch64", "6.1.21-v8+")
        assert (facts.cpu_part_ids, facts.cpu_model) == (("0xd08",), "Raspberry Pi 4 Model B Rev 1.4")
        assert (facts.python, facts.numpy, facts.runtime) == (None, None, "benchmark_model")
        assert facts.emulator_signs == ()
        assert found.speeds == dict.fromkeys((0, 1, 2), (0, 1_500_000))  # Core 3 may not be used.
        assert (facts.cores, found.can_bind) == (3, True)

    def test_what_the_program_was_built_for_counts(self):
        assert self.of(elf(40, 32)).facts.architecture == "armv7l"  # Runs on aarch64 as it is.
        assert self.of(elf(40, 32)).facts.emulator_signs == ()
        assert self.of(userland_bits="32\n").facts.architecture == "armv7l"

    def test_a_program_for_another_processor_is_emulated(self):
        signs = self.of(elf(183), system="Linux 6.1.0 x86_64\n", cpuinfo="vendor_id : X\n").facts.emulator_signs
        assert signs == ("benchmark_model is a program for aarch64, and the machine is x86_64",)

    def test_an_emulated_machine(self):
        signs = self.of(
            elf(183), cpuinfo="processor : 0\nCPU implementer : 0x00\nCPU part : 0x051\n"
        ).facts.emulator_signs
        assert signs == ("the processor is QEMU's own, of no vendor (CPU part 0x051)",)

    def test_a_phone_by_its_name(self):
        answers = PI | {"model": "", "phone": "ro.product.model=Pixel 8\nro.build.version.release=15\n"}
        assert parse_device({k: (0, v) for k, v in answers.items()}, b"").facts.cpu_model == "Pixel 8"

    def test_a_device_that_says_nothing(self):
        found = parse_device({}, b"")
        assert (found.facts.machine, found.facts.architecture, found.facts.cores) == ("unknown", "unknown", None)
        assert (found.speeds, found.can_bind) == ({}, False)
