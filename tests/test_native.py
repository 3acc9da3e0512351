"""The native `benchmark_model` as an engine: recorded outputs, and a stand-in for the program on a real sshd.

No program of that name can be had here (no wheel ships it), so what it prints is what its users have published.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import threading
from pathlib import Path

import pytest

from edgecomp.bench.native import NativeOptions, find_benchmark_model, run_benchmark_model
from edgecomp.bench.native_conditions import parse_snapshot, process_report
from edgecomp.bench.native_output import NativeProcess, NativeReport, notes_on, parse_output, refusal, unknown_flags
from edgecomp.bench.statistics import timing_statistics
from edgecomp.errors import BenchmarkError, CommandTimeoutError, RuntimeRefusedError, TransportError, UsageError
from edgecomp.transports import connect
from tests.adbd import attached_device
from tests.conftest import missing
from tests.sshd import CuttingProxy, missing_tools, running_sshd, wait_until

RECORDED = Path(__file__).parent / "recorded" / "benchmark_model"
MODEL = b"a model's bytes"
USAGE = 'case "$1" in --help) echo "usage: benchmark_model <flags> --graph=" >&2; exit 1;; esac\n'


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


class TestRecordedOutputs:
    """What several versions printed; the figures are in the files, in plain sight."""

    def test_with_percentiles(self):
        found = parse_output(recorded("am62x_median.txt"))
        assert found.runs == 50  # Of the second line that counts: the first is the warm-up's.
        assert (found.median_us, found.p5_us, found.p95_us) == (899281, 898333, 904305)
        assert found.center_us == 899281
        assert (found.init_us, found.first_us, found.mean_us) == (614333, 905463, 899641)
        assert found.memory_bytes == round(150.141 * 2**20)  # MB are 1024 kB there.
        assert (found.xnnpack, found.partitions) == ("some", 1)
        assert found.unknown_flags == ()

    @pytest.mark.parametrize(
        ("name", "runs", "mean_us", "first_us", "min_us", "memory_mib", "xnnpack"),
        [
            ("rpi_xnnpack_2021.txt", 50, 55744.2, 65683, 52522, None, "some"),
            ("x86_tf213.txt", 50, 116066, 124020, 111222, 12.1914, None),
            ("xiaomi_tf24.txt", 50, 249684, 360262, 247067, 138.809, None),  # "Peak memory footprint".
            ("rpi4_tiny.txt", 14192, 69.691, 2071, 68, None, None),  # Below a millisecond.
            # 2.95034e+06, and a profile after it that counts 50 of its own.
            ("riscv_slow.txt", 50, 2950340, 3512391, 2727568, 46.0859, None),
        ],
    )
    def test_without_percentiles(self, name, runs, mean_us, first_us, min_us, memory_mib, xnnpack):
        found = parse_output(recorded(name))
        assert (found.runs, found.mean_us, found.first_us, found.min_us) == (runs, mean_us, first_us, min_us)
        assert found.median_us is None
        assert found.center_us == mean_us
        assert found.memory_bytes == (None if memory_mib is None else round(memory_mib * 2**20))
        assert found.xnnpack == xnnpack

    def test_all_the_same(self):
        """Where every run takes as long, the program prints less."""
        text = recorded("rpi4_tiny.txt").replace(
            "count=14192 first=93 curr=70 min=68 max=249 avg=69.691 std=5", "count=14192 curr=70(all same)"
        )
        found = parse_output(text)
        assert (found.runs, found.min_us, found.max_us, found.std_us) == (14192, 70, 70, None)

    @pytest.mark.parametrize(
        ("line", "xnnpack", "partitions"),
        [
            (
                "Explicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.",
                "all",
                1,
            ),
            (
                "Though XNNPACK delegate is explicitly applied, the model graph will not be executed by the delegate.",
                "none",
                0,
            ),
            # Another delegate tells nothing of XNNPACK.
            (
                "Explicitly applied NNAPI delegate, and the model graph will be completely executed by the delegate.",
                None,
                None,
            ),
        ],
    )
    def test_delegation(self, line, xnnpack, partitions):
        found = parse_output(line + "\n" + recorded("rpi4_tiny.txt"))
        assert (found.xnnpack, found.partitions) == (xnnpack, partitions)

    def test_delegated_nodes(self):
        line = (
            "VERBOSE: Replacing 14 out of 16 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 3 partitions"
        )
        found = parse_output(line + "\n" + recorded("rpi4_tiny.txt"))
        assert (found.delegated_nodes, found.total_nodes) == (14, 16)

    def test_unknown_flags(self):
        """The program only warns, and measures something else than was asked for."""
        text = "STARTING!\nWARN: Unconsumed cmdline flags: --min_secs=1 --use_xnnpack=true\n"
        assert unknown_flags(text) == ("--min_secs=1", "--use_xnnpack=true")

    def test_refusal(self):
        assert refusal(recorded("refused_2022.txt")) == "Failed to apply XNNPACK delegate"
        assert refusal(recorded("am62x_median.txt")) is None
        text = "ERROR: Didn't find op for builtin 'GELU'.\nERROR: Registration failed.\nERROR: Benchmarking failed.\n"
        assert refusal(text) == "Didn't find op for builtin 'GELU'"
        assert refusal("INFO: STARTING!\nBenchmarking failed.") == "it says only that benchmarking failed"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "no line of inference timings"),
            (
                "Average inference timings in us: Warmup: 27917, Init: 2, no stats: 23313",
                "no line of inference timings",
            ),
            (
                "Inference timings in us: Init: 1, First inference: 2, Warmup (avg): 3, Inference (avg): 4",
                "counts the runs",
            ),
            (
                "count=0 \nInference timings in us: Init: 1, First inference: 2, Warmup (avg): 3, Inference (avg): 4",
                "0 runs",
            ),
            (
                "count=5 curr=0\nInference timings in us: Init: 1, First inference: 2, Warmup (avg): 0, "
                "Inference (avg): 0",
                "no measurement",
            ),
            (
                "count=5 curr=1\nInference timings in us: Init: 1, First inference: 2, Warmup (avg): 3, "
                "Inference (avg): 1e999",
                "is no time",
            ),
            (
                "count=5 curr=1\nInference timings in us: Init: 1.2.3, First inference: 2, Warmup (avg): 3, "
                "Inference (avg): 4",
                "could not convert",
            ),
        ],
    )
    def test_nonsense(self, text, why):
        with pytest.raises(ValueError, match=why):
            parse_output(text)


SYSFS = {
    "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000",
    "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1500000",
    "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
    "class/thermal/thermal_zone0/type": "cpu-thermal",
    "class/thermal/thermal_zone0/temp": "48312",
    "class/thermal/thermal_zone0/trip_point_0_type": "critical",
    "class/thermal/thermal_zone0/trip_point_0_temp": "110000",
    "class/thermal/thermal_zone0/trip_point_1_type": "passive",
    "class/thermal/thermal_zone0/trip_point_1_temp": "75000",
}
SHELL_SAID = """\
/proc/uptime:4433.12 8000.00
/proc/loadavg:0.15 0.20 0.18 1/137 2042
/proc/stat:cpu  100 0 100 900 0 0 0 30 0 0
/proc/stat:cpu0 60 0 50 400 0 0 0 20 0 0
/proc/stat:cpu1 40 0 50 500 0 0 0 10 0 0
/proc/stat:intr 12345
/proc/meminfo:MemTotal:        3884372 kB
/proc/meminfo:MemAvailable:    3000000 kB
clock:1795851793
firmware:throttled=0x50005
""" + "".join(f"/sys/{name}:{value}\n" for name, value in SYSFS.items())


class TestSnapshot:
    """What a shell reads of clock, temperature and load."""

    def test_all_of_it(self):
        found = parse_snapshot(SHELL_SAID, cores=None)
        assert found.steady.cores == (0, 1)
        assert found.steady.max_khz == {"0": 1500000}
        assert found.steady.passive_trips_c == {"thermal_zone0:cpu-thermal": 75}  # Not the critical one.
        moment = found.conditions
        assert (moment.khz, moment.governors) == ({"0": 600000}, ("ondemand",))
        assert moment.temperatures_c == {"thermal_zone0:cpu-thermal": 48.312}
        assert (moment.load_1m, moment.available_bytes) == (0.15, 3000000 * 1024)
        assert (moment.t_s, moment.clock_s) == (4433.12, 1795851793)
        assert found.stolen_s == pytest.approx(0.3)  # 20 + 10 ticks of a hundredth.
        assert found.throttled == 0x50005

    def test_measured_cores_only(self):
        found = parse_snapshot(SHELL_SAID, cores=[1])
        assert found.steady.cores == (1,)
        assert found.conditions.khz == {}
        assert found.stolen_s == pytest.approx(0.1)

    def test_between_two(self):
        later = SHELL_SAID.replace(":4433.12 ", ":4443.12 ").replace("1795851793", "1795855403")
        later = later.replace("0 0 0 20 0 0", "0 0 0 120 0 0").replace("0x50005", "0x0")
        report = process_report(parse_snapshot(SHELL_SAID, None), parse_snapshot(later, None), runs=50)
        assert report.elapsed_s == 10
        assert report.stolen_ratio == 0.05  # 1 s of two cores' 10 s.
        assert report.clock_jump_s == 3600  # 3,610 s of the wall clock in 10 s.
        assert (report.throttled_before, report.throttled_after) == (0x50005, 0)
        assert (report.others_ratio, report.involuntary_switches, report.during) == (None, None, ())

    @pytest.mark.parametrize("text", ["", "clock:1\n", "/proc/uptime:soon 1\nclock:1\n", "/proc/uptime:5 1\nclock:\n"])
    def test_a_shell_that_tells_nothing(self, text):
        with pytest.raises((ValueError, IndexError)):
            parse_snapshot(text, None)


class TestReport:
    """What several processes come to."""

    @staticmethod
    def report(*processes: NativeProcess, use_xnnpack: bool = True) -> NativeReport:
        notes = notes_on(processes, use_xnnpack)
        return NativeReport("benchmark_model", None, 1, use_xnnpack, None, processes, None, (), notes)

    def test_medians_are_the_samples(self):
        one = parse_output(recorded("am62x_median.txt"))
        report = self.report(one, one, one)
        assert report.statistic == "median"
        assert report.processes_us == ((899281,), (899281,), (899281,))
        assert report.runs == 150
        timing = timing_statistics(report.processes_us)
        assert (timing.p50_ms, timing.num_processes) == (pytest.approx(899.281), 3)
        assert (report.init_ms, report.first_ms) == (614.333, 905.463)
        assert [note.split(":")[0] for note in report.notes] == [
            "Outputs were not compared",
            "It prints no single times either",
            # 150.141 MB of its own, which are MiB.
            "The model added 150.1 MiB of memory, by its own account, which is approximate.",
        ]

    def test_means_are_said_to_be_means(self):
        report = self.report(parse_output(recorded("rpi4_tiny.txt")))
        assert report.statistic == "mean"
        assert report.processes_us == ((69.691,),)
        assert report.memory_bytes is None
        assert "Times are means: this version of benchmark_model prints no median." in report.notes
        assert "It does not say whether XNNPACK was used." in report.notes

    def test_medians_and_means_are_not_mixed(self):
        report = self.report(parse_output(recorded("am62x_median.txt")), parse_output(recorded("rpi4_tiny.txt")))
        assert report.processes_us == ((899641,), (69.691,))

    def test_built_without_xnnpack(self):
        text = "Unconsumed cmdline flags: --use_xnnpack=true\n" + recorded("rpi4_tiny.txt")
        report = self.report(parse_output(text))
        assert "This benchmark_model does not know --use_xnnpack: it was built without XNNPACK." in report.notes


class Device:
    """A real sshd, with programs in a folder of its own."""

    def __init__(self, server, transport, bin_folder):
        self.server, self.transport, self.bin = server, transport, bin_folder

    def install(self, body: str, name: str = "benchmark_model") -> Path:
        """Put a shell script there that answers --help like benchmark_model, and does `body` otherwise."""
        path = self.bin / name
        path.write_text("#!/bin/sh\n" + USAGE + body)
        path.chmod(0o755)
        return path

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.server.tmp.iterdir())

    def run(self, program: Path, options: NativeOptions | None = None, **others):
        return run_benchmark_model(self.transport, MODEL, program=str(program), options=options, **others)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    if missing_tools():
        missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    folder = tmp_path_factory.mktemp("native")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    environment = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "EDGECOMP_SYSFS_ROOT": str(folder / "root")}
    for name, value in SYSFS.items():
        path = folder / "root" / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    with running_sshd(folder / "sshd", environment) as server:
        yield server, bin_folder


@pytest.fixture
def device(running):
    server, bin_folder = running
    with connect(server.target, ssh_config=server.config) as transport:
        yield Device(server, transport, bin_folder)
    for path in bin_folder.iterdir():
        path.unlink()


def show(name: str) -> str:
    return f"cat {shlex.quote(str(RECORDED / name))}\n"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.device
def test_over_adb(tmp_path):
    """A phone: the same through the real adb client, and a program that hangs is ended there too."""
    if shutil.which("adb") is None:
        missing("adb is not installed (Debian: adb)")
    program = tmp_path / "benchmark_model"
    program.write_text("#!/bin/sh\n" + USAGE + show("am62x_median.txt"))
    program.chmod(0o755)
    (tmp_path / "device").mkdir()
    with attached_device(tmp_path / "device") as phone, connect(f"adb://{phone.serial}") as transport:
        found = find_benchmark_model(transport, str(program))
        report = run_benchmark_model(transport, MODEL, program=str(found), num_processes=2)
        assert report.processes_us == ((899281,), (899281,))
        program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
        with pytest.raises(CommandTimeoutError, match="did not end on"):
            run_benchmark_model(transport, MODEL, program=str(program), timeout_s=2)
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: not is_running(pid), "the program is ended")


@pytest.mark.slow
@pytest.mark.device
class TestOverSsh:
    """A script that prints recorded output, where the program would be."""

    def test_fresh_processes(self, device, tmp_path):
        log = tmp_path / "log"
        program = device.install(f'echo "$$" >> {log}\n{show("am62x_median.txt")}')
        said = []
        report = device.run(program, num_processes=4, progress=lambda *step: said.append(step))
        assert len(set(log.read_text().split())) == 4  # Four process ids.
        assert report.processes_us == ((899281,),) * 4
        assert report.program_sha256 == hashlib.sha256(program.read_bytes()).hexdigest()
        assert [step[0] for step in said][-1] == "process 4 of 4"
        assert device.leftovers() == []

    def test_arguments_and_model_arrive(self, device, tmp_path):
        name = "bench $(id) 'a' \"b\"; --x model"
        program = device.install(
            f'printf "%s\\n" "$@" > {tmp_path}/arguments\ncp "${{1#--graph=}}" {tmp_path}/model\n'
            f'stat -c %a $(dirname "${{1#--graph=}}") > {tmp_path}/mode\n{show("am62x_median.txt")}',
            name,
        )
        assert find_benchmark_model(device.transport, str(program)) == str(program)
        options = NativeOptions(num_threads=3, min_runs=7, min_seconds=0.25, max_seconds=9, use_xnnpack=False)
        device.run(program, options, num_processes=1)
        graph, *others = (tmp_path / "arguments").read_text().splitlines()
        digest = hashlib.sha256(MODEL).hexdigest()
        assert graph.startswith(f"--graph={device.server.tmp}/edgecomp-native-")
        assert graph.endswith(f"/model-{digest}.tflite")
        assert others == ["--num_threads=3", "--num_runs=7", "--min_secs=0.25", "--max_secs=9", "--use_xnnpack=false"]
        assert (tmp_path / "model").read_bytes() == MODEL
        assert (tmp_path / "mode").read_text().strip() == "700"
        assert device.leftovers() == []

    def test_affinity(self, device, tmp_path):
        program = device.install(f"taskset -p $$ > {tmp_path}/mask\n{show('am62x_median.txt')}")
        core = min(os.sched_getaffinity(0))
        report = device.run(program, NativeOptions(cores=(core,)), num_processes=1)
        assert int((tmp_path / "mask").read_text().rpartition(" ")[2], 16) == 1 << core
        assert report.cores == (core,)

    def test_found_on_the_search_path(self, device):
        assert find_benchmark_model(device.transport) is None
        program = device.install(show("am62x_median.txt"))
        assert find_benchmark_model(device.transport) == str(program)
        report = run_benchmark_model(device.transport, MODEL, program="benchmark_model", num_processes=1)
        assert report.program_sha256 == hashlib.sha256(program.read_bytes()).hexdigest()

    def test_conditions(self, device):
        """The program heats the device up; the shell reads that before and after it."""
        temperature = device.server.folder.parent / "root" / "sys" / "class" / "thermal" / "thermal_zone0" / "temp"
        program = device.install(f"echo 81000 > {temperature}\n{show('am62x_median.txt')}")
        try:
            report = device.run(program, num_processes=2)
        finally:
            temperature.write_text(SYSFS["class/thermal/thermal_zone0/temp"] + "\n")
        name = "thermal_zone0:cpu-thermal"
        seen = [(one.before.temperatures_c[name], one.after.temperatures_c[name]) for one in report.conditions]
        assert seen == [(48.312, 81), (81, 81)]
        assert [one.runs for one in report.conditions] == [50, 50]
        assert report.steady.passive_trips_c == {name: 75}
        assert report.steady.max_khz == {"0": 1500000}

    @pytest.mark.parametrize(
        ("body", "kind", "message"),
        [
            ("kill -SEGV $$", BenchmarkError, "ended early: killed by signal SIGSEGV"),
            ("kill -KILL $$", BenchmarkError, "SIGKILL, most likely for want of memory"),
            ("kill -ILL $$", BenchmarkError, "SIGILL, an instruction that this CPU does not have"),
            ("echo hello", BenchmarkError, "did not print what benchmark_model prints: there is no line of inference"),
            ("echo oops >&2; exit 3", BenchmarkError, "ended early: exit code 3"),
            (f"{show('refused_2022.txt')}exit 1", RuntimeRefusedError, "does not run this model: Failed to apply XNN"),
            (show("refused_2022.txt"), RuntimeRefusedError, "does not run this model"),
            ("head -c 3000000 /dev/zero", BenchmarkError, "did not print what benchmark_model prints"),
            ("printf '\\377\\033[2J\\033]0;x\\007count=\\n'; exit 4", BenchmarkError, "ended early: exit code 4"),
            (
                f"echo 'Unconsumed cmdline flags: --max_secs=20'\n{show('rpi4_tiny.txt')}",
                BenchmarkError,
                "does not know --max_secs=20, and would not measure what was asked for",
            ),
            ("no_such_library_loader", BenchmarkError, "or what it needs is not on"),
        ],
        ids=["segv", "kill", "ill", "other", "code", "refused", "refused0", "zeros", "ansi", "flags", "127"],
    )
    def test_faults_are_one_sentence(self, device, body, kind, message):
        program = device.install(body)
        with pytest.raises(kind) as caught:
            device.run(program)
        assert message in caught.value.message
        assert caught.value.message.count("\n") == 0
        assert str(caught.value).isprintable()
        assert device.transport.host in caught.value.message
        assert device.leftovers() == []

    def test_unknown_xnnpack_is_only_said(self, device):
        program = device.install(f"echo 'Unconsumed cmdline flags: --use_xnnpack=true'\n{show('rpi4_tiny.txt')}")
        report = device.run(program, num_processes=1)
        assert "This benchmark_model does not know --use_xnnpack: it was built without XNNPACK." in report.notes

    def test_a_program_that_hangs_is_ended(self, device, tmp_path):
        program = device.install(f"echo $$ > {tmp_path}/pid\nexec sleep 600")
        with pytest.raises(CommandTimeoutError, match=r"benchmark_model did not end on .* within 2 s\.") as caught:
            device.run(program, timeout_s=2)
        assert caught.value.hint is not None
        assert device.leftovers() == []
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: not is_running(pid), "the program is ended")

    def test_lost_connection_leaves_nothing(self, device, tmp_path):
        program = device.install(f"echo $$ > {tmp_path}/pid\nexec sleep 600")
        with CuttingProxy(device.server.port) as proxy:
            device.server.trust(proxy.port)
            target = device.server.target.rpartition(":")[0]
            with contextlib.ExitStack() as stack:
                transport = stack.enter_context(connect(f"{target}:{proxy.port}", ssh_config=device.server.config))
                caught = []

                def measure():
                    with pytest.raises(TransportError, match=r"The connection to .* was lost") as error:
                        run_benchmark_model(transport, MODEL, program=str(program), timeout_s=60)
                    caught.append(error)

                thread = threading.Thread(target=measure)
                thread.start()
                wait_until(
                    lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "", "start"
                )
                proxy.cut()
                thread.join(timeout=60)
        assert len(caught) == 1
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: not is_running(pid), "the program is ended")
        wait_until(lambda: device.leftovers() == [], "the folder is removed")

    def test_old_leftovers_are_swept(self, device):
        old, new = device.server.tmp / "edgecomp-native-aaaaaaaa", device.server.tmp / "edgecomp-native-bbbbbbbb"
        for folder in (old, new):
            folder.mkdir()
        os.utime(old, (0, 0))
        try:
            device.run(device.install(show("am62x_median.txt")), num_processes=1)
            assert device.leftovers() == [new.name]  # Somebody may be measuring in it.
        finally:
            new.rmdir()

    def test_missing_and_wrong_programs(self, device, tmp_path):
        with pytest.raises(BenchmarkError, match="There is no program /nowhere/benchmark_model on"):
            find_benchmark_model(device.transport, "/nowhere/benchmark_model")
        other = tmp_path / "other"
        other.write_text("#!/bin/sh\necho 'I am something else'\n")
        other.chmod(0o755)
        with pytest.raises(BenchmarkError, match="is no benchmark_model, or fails") as caught:
            find_benchmark_model(device.transport, str(other))
        assert caught.value.hint == "Its last words: 'I am something else'"
        foreign = tmp_path / "foreign"
        foreign.write_bytes(b"\x7fELF" + bytes(60))  # For no machine at all.
        foreign.chmod(0o755)
        with pytest.raises(BenchmarkError, match="cannot be executed on"):
            find_benchmark_model(device.transport, str(foreign))

    def test_no_taskset(self, device, monkeypatch):
        program = device.install(show("am62x_median.txt"))
        fake = device.bin / "taskset"
        fake.write_text("#!/bin/sh\necho 'taskset: not found' >&2; exit 127\n")
        fake.chmod(0o755)
        with pytest.raises(BenchmarkError, match="or what it needs is not on") as caught:
            device.run(program, NativeOptions(cores=(0,)))
        assert caught.value.hint == "Its last words: 'taskset: not found'"
        assert device.leftovers() == []


class TestOptions:
    """What makes no sense is refused before anything is sent."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"program": "-rf"}, "a name or a path, got '-rf'"),
            ({"program": ""}, "a name or a path"),
            ({"program": "a\nb"}, "a name or a path"),
            ({"num_processes": 0}, "at least 1 process, got 0"),
        ],
    )
    def test_refused(self, options, message):
        with connect("local") as transport, pytest.raises(UsageError) as caught:
            run_benchmark_model(transport, MODEL, **{"program": "benchmark_model", **options})
        assert message in caught.value.message

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_threads": 0}, "at least 1, got 0 and 50"),
            ({"min_runs": -1}, "at least 1, got 1 and -1"),
            ({"min_seconds": 5, "max_seconds": 2}, "got 5 and 2"),
            ({"max_seconds": float("inf")}, "got 1 and inf"),
            ({"cores": ()}, "from 0 on"),
            ({"cores": (-1,)}, "from 0 on"),
        ],
    )
    def test_options_that_make_no_sense(self, options, message):
        with pytest.raises(UsageError, match=message):
            NativeOptions(**options)

    def test_signal_numbers_are_those_of_a_shell(self, tmp_path):
        """128 + 11 of a local process is no exit code of its own."""
        program = tmp_path / "benchmark_model"
        program.write_text(f"#!/bin/sh\nkill -{signal.SIGABRT.value} $$\n")
        program.chmod(0o755)
        with connect("local") as transport, pytest.raises(BenchmarkError, match="SIGABRT"):
            run_benchmark_model(transport, MODEL, program=str(program))
