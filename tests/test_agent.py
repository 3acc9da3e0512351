"""The files that run on the device: their language, their rule for golden outputs, and their faults.

Faults are real: real processes, real signals, modules that break as installations in the field break. Which runtime
a process finds is decided by a PYTHONPATH of stand-ins, for no test can have a runtime that crashes on demand.
"""

import ast
import json
import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from edgecomp.agent import keeper
from edgecomp.agent.on_device import machine, protocol, runtime, timing
from edgecomp.agent.packing import agent_file
from edgecomp.agent.remote import run_session
from edgecomp.errors import BenchmarkError, CommandTimeoutError, DeviceBusyError, RuntimeRefusedError
from edgecomp.files import sha256_of
from edgecomp.transports import connect
from tests.digits_bundle import MODELS, digit_images, golden_arrays, npz
from tests.sshd import wait_until

KEEPER = Path(keeper.__file__)
ON_DEVICE = [KEEPER, *sorted(Path(protocol.__file__).parent.glob("*.py"))]

# What the stand-ins share: one input and one output of 4 int8 values, the output equal to the input.
FAKE_INTERPRETER = """
import os, signal, sys, time
import numpy as np
class Interpreter:
    def __init__(self, model_path, num_threads):
        {creating}
    def allocate_tensors(self):
        self.value = np.zeros((1, 4), np.int8)
    def _details(self):
        scales = dict(scales=[1])
        return [dict(name="x", index=0, shape=np.array([1, 4]), dtype=np.int8, quantization_parameters=scales)]
    get_input_details = get_output_details = get_tensor_details = _details
    def set_tensor(self, index, value):
        self.value = value.copy()
    def get_tensor(self, index):
        return self.value
    def invoke(self):
        {invoking}
"""
CONFIGURATION = {
    "model": "model.tflite",
    "golden": "golden.npz",
    "made_with": {"kernel_family": "TFLM", "runtime": "tflite-micro", "runtime_version": "1", "architecture": "none"},
    "num_threads": 1,
    "big_cores": 1,
    "evaluate": None,
}
JOB = {
    "configurations": [CONFIGURATION],
    "min_runs": 3,
    "min_seconds": 0.0,
    "process_seconds": 5.0,
    "min_processes": 1,
    "max_processes": 1,
    "precision_ratio": 1e9,
    "golden_seconds": 5.0,
    "tolerance_lsb": 32.0,
    "passes": [],
}


HEADER = {"deadline_s": 60, "lock_wait_s": 0, "governor": None, "agent": agent_file()[0], "files": []}


def fake_runtime(folder, package, *, importing="", creating="pass", invoking="pass", version="9.9"):
    """A stand-in for a runtime's package on PYTHONPATH."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(f"__version__ = {version!r}\n{importing}\n")
    source = FAKE_INTERPRETER.format(creating=creating, invoking=invoking)
    (folder / package / "interpreter.py").write_text(source)


@pytest.fixture
def device(tmp_path, monkeypatch):
    """This machine, with a folder of stand-ins before all installed modules and an empty one for temporary files."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    yield tmp_path
    assert list((tmp_path / "tmp").iterdir()) == []  # Whatever happened, nothing is left on the device.


def run(device, *, python=sys.executable, job=JOB, timeout_s=60.0, files=None, **more):
    samples = np.arange(8, dtype=np.int8).reshape(2, 4)
    files = files or {"model.tflite": b"stand-in", "golden.npz": npz({"input_0": samples, "output_0": samples})}
    with connect("local") as transport:
        report = run_session(transport, files, job, python=str(python), timeout_s=timeout_s, **more)
    return report.configurations[0]


class TestLanguage:
    @pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: path.name)
    def test_python_3_7_reads_it(self, path):
        ast.parse(path.read_text(), feature_version=(3, 7))

    @pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: path.name)
    def test_it_stands_alone(self, path):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
        assert names <= sys.stdlib_module_names

    def test_both_speak_the_same_protocol(self):
        assert protocol.MARK == keeper.MARK

    def test_an_old_python_is_told_so(self, device):
        """A stand-in that reads the version check and fails it: this machine need not have an old Python."""
        old = device / "python2"
        old.write_text(
            f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (2, 7); exec(sys.argv[1])" "$2"\n'
        )
        old.chmod(0o755)
        with pytest.raises(BenchmarkError, match=r"exit code 1.*Python 3.7 or newer is needed, this is 2.7"):
            run(device, python=old)


class TestRealRuntime:
    def test_measures_the_digits(self, device, monkeypatch):
        monkeypatch.delenv("PYTHONPATH")
        model = (MODELS / "digits_int8.tflite").read_bytes()
        files = {"model.tflite": model, "golden.npz": npz(golden_arrays(model, digit_images()))}
        stages = []
        report = run(device, files=files, progress=lambda *step: stages.append(step))
        assert report.golden.ok
        assert report.golden.equal
        assert report.golden.rule == "tolerance"  # JOB says that TFLM made them.
        assert report.golden.samples == 32
        # Three of four operators: SOFTMAX has no XNNPACK kernel for int8.
        assert report.loaded[0].delegate.model_dump() == {"delegated": 3, "total": 4, "partitions": 1}
        assert report.facts.kernel_family == "LITERT_XNNPACK"
        assert (report.facts.runtime, report.facts.tried) == ("ai-edge-litert", ())
        assert report.facts.architecture == machine.this_architecture()
        assert len(report.processes_us[0]) == 3
        assert min(report.processes_us[0]) > 0
        assert stages == [
            ("loading the model with ai-edge-litert", 0, 1),
            ("comparing outputs", 0, 1),
            ("warming up", 0, 1),
            ("measuring", 0, 1),
            ("measured", 0, 1),
        ]

    def test_file_that_is_no_model(self, device, monkeypatch):
        monkeypatch.delenv("PYTHONPATH")
        with pytest.raises(RuntimeRefusedError, match=r"local: ai-edge-litert does not load this model: .*Flatbuffer"):
            run(device)

    def test_golden_samples_of_another_model(self, device, monkeypatch):
        monkeypatch.delenv("PYTHONPATH")
        model = (MODELS / "digits_int8.tflite").read_bytes()
        golden = npz({"input_0": np.zeros((2, 3), np.int8), "output_0": np.zeros((2, 10), np.int8)})
        with pytest.raises(
            BenchmarkError, match=r"takes int8 of shape \(1, 8, 8, 1\), the golden one is int8 of \(3,\)"
        ):
            run(device, files={"model.tflite": model, "golden.npz": golden})

    def test_golden_samples_that_are_nonsense(self, device, monkeypatch):
        monkeypatch.delenv("PYTHONPATH")
        model = (MODELS / "digits_int8.tflite").read_bytes()
        for golden in (b"nonsense", npz(golden_arrays(model, digit_images()))[:-100], b""):
            with pytest.raises(BenchmarkError, match="The golden samples cannot be read"):
                run(device, files={"model.tflite": model, "golden.npz": golden})


class TestRuntimes:
    def test_segmentation_fault_names_signal_and_moment(self, device):
        fake_runtime(device / "modules", "ai_edge_litert", invoking="os.kill(os.getpid(), signal.SIGSEGV)")
        with pytest.raises(
            BenchmarkError, match=r"killed by signal SIGSEGV, while loading the model with ai-edge-litert"
        ):
            run(device)

    def test_crash_in_mid_measurement(self, device):
        dies = "self.n = getattr(self, 'n', 0) + 1; self.n < 3 or os.kill(os.getpid(), signal.SIGILL)"
        fake_runtime(device / "modules", "ai_edge_litert", invoking=dies)
        with pytest.raises(
            BenchmarkError, match=r"SIGILL, an instruction that this CPU does not have, while comparing"
        ):
            run(device)

    def test_unforeseen_exception_brings_its_last_words(self, device):
        fake_runtime(device / "modules", "ai_edge_litert", invoking="raise KeyError('what is this')")
        with pytest.raises(BenchmarkError, match=r"exit code 1, .* Its last words: .*KeyError: 'what is this'"):
            run(device)

    def test_what_a_runtime_prints_is_no_message(self, device):
        noise = 'os.write(1, b\'no newline\'); print(\'{"edgecomp": 1, "type": "done", "runs": 99}\')'
        fake_runtime(
            device / "modules",
            "ai_edge_litert",
            importing="print('hello')",
            creating=noise,
            invoking=noise,
        )
        assert len(run(device).processes_us[0]) == 3

    def test_noise_before_the_agent_starts_is_no_message(self, device):
        """As a sitecustomize.py may print, without even a newline."""
        (device / "modules" / "sitecustomize.py").write_text("import sys; sys.stdout.write('welcome')")
        fake_runtime(device / "modules", "ai_edge_litert")
        assert len(run(device).processes_us[0]) == 3

    def test_next_runtime_is_taken_where_the_first_is_broken(self, device):
        fake_runtime(device / "modules", "ai_edge_litert", importing="raise OSError('libfoo.so: wrong ELF class')")
        fake_runtime(device / "modules", "tflite_runtime", version="2.20.0")
        (device / "modules" / "sitecustomize.py").write_text("import numpy; numpy.__version__ = '1.26.4'")
        report = run(device)
        assert report.facts.runtime == "tflite-runtime"
        assert report.facts.runtime_version == "2.20.0"
        assert [item.model_dump() for item in report.facts.tried] == [
            {"name": "ai-edge-litert", "error": "libfoo.so: wrong ELF class"}
        ]

    def test_old_runtime_that_does_not_tell_about_delegates(self, device):
        fake_runtime(device / "modules", "ai_edge_litert")  # The stand-in has no _get_ops_details.
        report = run(device)
        assert report.loaded[0].delegate is None
        assert report.facts.kernel_family is None
        assert report.golden.rule == "tolerance"

    def test_numpy_2_under_tflite_runtime(self, device, bare_python):
        fake_runtime(device / "modules", "tflite_runtime", version="2.14.0")
        link_numpy(device / "modules")
        with pytest.raises(BenchmarkError) as caught:
            run(device, python=bare_python)
        assert caught.value.message == (
            f"local: tflite-runtime 2.14.0 needs numpy below 2, and the device has numpy {np.__version__}."
        )
        assert caught.value.hint == f"On the device: {bare_python} -m pip install 'numpy<2'"

    def test_no_runtime_says_what_to_install(self, device, bare_python):
        link_numpy(device / "modules")
        with pytest.raises(BenchmarkError) as caught:
            run(device, python=bare_python)
        assert caught.value.message == f"local: No TFLite runtime works in {bare_python}."
        assert caught.value.hint.startswith(f"On the device: {bare_python} -m pip install ai-edge-litert")

    def test_no_numpy_says_what_to_install(self, device, bare_python):
        with pytest.raises(BenchmarkError, match=r"not even numpy .* -m pip install ai-edge-litert"):
            run(device, python=bare_python)

    @pytest.mark.parametrize(
        ("version", "machine", "wanted"),
        [
            ((3, 11), "aarch64", "ai-edge-litert (where"),
            ((3, 8), "aarch64", "tflite-runtime 'numpy<2'"),
            ((3, 11), "armv7l", "tflite-runtime 'numpy<2'"),
        ],
    )
    def test_what_to_install_depends_on_the_device(self, monkeypatch, version, machine, wanted):
        monkeypatch.setattr(runtime.sys, "version_info", version)
        monkeypatch.setattr(runtime, "this_architecture", lambda: machine)
        assert f"pip install {wanted}" in runtime.install_hint()


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


def link_numpy(folder):
    """numpy of this Python, and nothing else of it."""
    site = Path(np.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (site / name).exists():
            (folder / name).symlink_to(site / name)


class TestKeeper:
    def test_late_measurement_is_ended(self, device):
        fake_runtime(device / "modules", "ai_edge_litert", invoking="time.sleep(600)")
        with pytest.raises(CommandTimeoutError, match="local: The measurement did not end in time"):
            run(device, timeout_s=2)

    def test_damaged_file_is_noticed(self, device):
        content = {"name": "model.tflite", "bytes": 3, "sha256": "0" * 64}
        messages, _ = talk(device, HEADER | {"files": [content]}, b"abc")
        assert messages[-2]["message"] == "model.tflite did not arrive as it was sent."
        assert messages[-1] == {"edgecomp": 1, "type": "closed", "removed": True}

    def test_stdin_that_ends_early_is_noticed(self, device):
        content = {"name": "model.tflite", "bytes": 3, "sha256": "0" * 64}
        messages, _ = talk(device, HEADER | {"files": [content]}, b"ab")
        assert messages[-2]["message"] == "model.tflite did not arrive whole."

    def test_full_disk_is_one_sentence(self, device):
        """A limit on file sizes stands in for the disk; both fail in write()."""
        content = {"name": "model.tflite", "bytes": 100_000, "sha256": "0" * 64}
        limited = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh"]
        messages, _ = talk(device, HEADER | {"files": [content]}, bytes(100_000), prefix=limited)
        assert (messages[-2]["code"], messages[-2]["message"]) == ("device", "File too large.")
        assert "TMPDIR" in keeper.disk_hint(OSError(28, "No space left on device"))

    def test_host_that_vanishes_in_mid_measurement(self, device):
        """The end of stdin is all that the device learns of it."""
        fake_runtime(device / "modules", "ai_edge_litert", invoking="time.sleep(600)")
        process = start_keeper(device)
        process.stdin.close()
        assert process.wait(timeout=60) == 1
        process.stdout.close()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
    def test_signal_in_mid_measurement(self, device, number):
        fake_runtime(device / "modules", "ai_edge_litert", invoking="time.sleep(600)")
        process = start_keeper(device)
        process.send_signal(number)
        assert process.wait(timeout=60) == 1
        process.stdin.close()
        process.stdout.close()

    def test_folder_is_private(self, device):
        fake_runtime(device / "modules", "ai_edge_litert", invoking="time.sleep(600)")
        process = start_keeper(device)
        (folder,) = (device / "tmp").glob("edgecomp-agent-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()

    def test_keeper_that_is_killed_is_swept_up_after(self, device):
        """As when memory runs out: its guardian tidies up, and the measurement ends itself when its parent is gone."""
        fake_runtime(device / "modules", "ai_edge_litert", invoking="time.sleep(0.05)")
        pids = []

        def kill(stage, *_):
            if stage == "measuring":
                pids.extend(processes_in(device / "tmp"))
                (keeper_pid,) = {parent_of(pid) for pid in pids} - set(pids)
                os.kill(keeper_pid, signal.SIGKILL)

        with pytest.raises(BenchmarkError, match=r"ended early \(exit code 137\)"):
            run(device, job=JOB | {"min_runs": 100_000}, progress=kill)
        assert len(pids) == 2  # The session, and the process that it times.
        for pid in pids:
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the measurement ends itself")  # noqa: B023

    def test_guardian_restores_what_a_killed_keeper_changed(self, device, monkeypatch):
        """Governor, folder and lock, without the host's help: its end of the line is still open."""
        governor = device / "sys" / "devices" / "system" / "cpu" / "cpu0" / "cpufreq" / "scaling_governor"
        governor.parent.mkdir(parents=True)
        governor.write_text("ondemand\n")
        monkeypatch.setenv("EDGECOMP_SYSFS_ROOT", str(device))
        fake_runtime(device / "modules", "ai_edge_litert", invoking="time.sleep(600)")
        process = start_keeper(device, governor="performance")
        assert governor.read_text() == "performance"
        process.kill()
        process.wait(timeout=60)
        wait_until(lambda: governor.read_text() == "ondemand", "the governor is what it was")
        wait_until(lambda: list((device / "tmp").iterdir()) == [], "nothing is left")
        process.stdin.close()
        process.stdout.close()

    @pytest.mark.parametrize("has_governor", [True, False])
    def test_governor(self, device, monkeypatch, has_governor):
        folder = device / "sys" / "devices" / "system" / "cpu" / "cpu0" / "cpufreq"
        folder.mkdir(parents=True)
        if has_governor:
            (folder / "scaling_governor").write_text("ondemand\n")
        monkeypatch.setenv("EDGECOMP_SYSFS_ROOT", str(device))
        fake_runtime(device / "modules", "ai_edge_litert")
        if not has_governor:
            with pytest.raises(BenchmarkError, match="local: This device has no frequency governor to set"):
                run(device, governor="performance")
            return
        report = run(device, governor="performance")
        assert {moment.governors for moment in report.processes[0].during} == {("performance",)}
        assert (folder / "scaling_governor").read_text() == "ondemand"

    def test_second_visitor_waits_for_the_first(self, device):
        """Two want one device: the second waits, says so, and gives up with a sentence when it takes too long."""
        fake_runtime(device / "modules", "ai_edge_litert", invoking="time.sleep(600)")
        process = start_keeper(device)
        stages = []
        with pytest.raises(DeviceBusyError, match=rf"process {process.pid}\), and did not end within 1 s. Wait for it"):
            run(device, lock_wait_s=1.0, progress=lambda stage, *_: stages.append(stage))
        assert stages == [f"waiting for another measurement (process {process.pid})"]
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
        fake_runtime(device / "modules", "tflite_runtime")
        (device / "modules" / "ai_edge_litert" / "interpreter.py").write_text("raise ImportError('gone')")
        (device / "modules" / "sitecustomize.py").write_text("import numpy; numpy.__version__ = '1.26.4'")
        assert run(device).facts.runtime == "tflite-runtime"  # The lock was let go of.

    def test_lock_file_that_is_left_over_is_no_lock(self, device):
        """The holder was killed with its guardian, or the power went: the kernel knows that nobody holds it."""
        (device / "tmp" / "edgecomp.lock").write_text("99999")
        (device / "tmp" / "edgecomp-agent-old").mkdir()
        (device / "tmp" / "edgecomp-agent-old" / "model.tflite").write_bytes(b"left over")
        fake_runtime(device / "modules", "ai_edge_litert")
        assert len(run(device).processes_us[0]) == 3  # And both are gone: the fixture looks.

    def test_lock_file_that_is_a_link_is_not_followed(self, device):
        (device / "target").write_text("precious")
        (device / "tmp" / "edgecomp.lock").symlink_to(device / "target")
        messages, _ = talk(device, HEADER, b"")
        assert (messages[-2]["code"], messages[-2]["message"]) == ("device", "Too many levels of symbolic links.")
        assert (device / "target").read_text() == "precious"
        (device / "tmp" / "edgecomp.lock").unlink()


def processes_in(folder):
    """Ids of the processes that work in a sub-folder of `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if Path(os.readlink(entry / "cwd")).parent == folder:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def start_keeper(device, **header):
    """A keeper whose measurement has begun."""
    samples = np.arange(8, dtype=np.int8).reshape(2, 4)
    files = {
        agent_file()[0]: agent_file()[1],
        "job.json": json.dumps(JOB).encode(),
        "model.tflite": b"stand-in",
        "golden.npz": npz({"input_0": samples, "output_0": samples}),
    }
    contents = [{"name": name, "bytes": len(data), "sha256": sha256_of(data)} for name, data in files.items()]
    process = subprocess.Popen([sys.executable, str(KEEPER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(json.dumps(HEADER | {"files": contents} | header).encode() + b"\n" + b"".join(files.values()))
    process.stdin.flush()
    for line in process.stdout:
        if b"facts" in line:
            return process
    raise AssertionError("the measurement did not begin")


def talk(device, header, contents, prefix=()):
    """Everything that a keeper says to a header and contents."""
    result = subprocess.run(
        [*prefix, sys.executable, str(KEEPER)],
        input=json.dumps(header).encode() + b"\n" + contents,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return [json.loads(line) for line in result.stdout.splitlines()], result


class TestTiming:
    """The stop rule, on a clock that only inference moves."""

    class SlowModel:
        def __init__(self, milliseconds):
            self.now_ns, self._step_ns, self.fed = 0, int(milliseconds * 1e6), []

        def feed(self, number):
            self.fed.append(number)

        def invoke(self):
            self.now_ns += self._step_ns

    @pytest.mark.parametrize(
        ("milliseconds", "max_seconds", "runs"),
        [(10, 60, 100), (100, 60, 50), (100, 2, 20), (5000, 2, 1)],
        ids=["at least 1 s", "at least 50 runs", "at most 2 s", "but once at least"],
    )
    def test_stop_rule(self, monkeypatch, milliseconds, max_seconds, runs):
        model = self.SlowModel(milliseconds)
        monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: model.now_ns)
        values, every = timing.time_runs(model, 50, 1.0, max_seconds, precision_ratio=0.02)
        assert every == 1
        assert values == [milliseconds * 1000.0] * runs  # Microseconds.
        assert model.fed == list(range(runs))

    def test_fast_model_is_timed_as_long_as_any_other(self, monkeypatch):
        """20 us on average for 2 s are 100,000 inferences: fewer than 50,000 are kept, every fourth by its number.

        Every third takes 40 us; the kept ones must have the same share of them, for 4 and 3 have no common factor.
        """
        model = self.SlowModel(0.01)
        invoke = model.invoke

        def sometimes_slow():
            for _ in range(4 if len(model.fed) % 3 == 0 else 1):
                invoke()

        model.invoke = sometimes_slow
        monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: model.now_ns)
        values, every = timing.time_runs(model, 50, 2.0, 4.0, precision_ratio=0.02)
        assert (every, len(values)) == (4, -(-len(model.fed) // 4))
        assert len(model.fed) == pytest.approx(100_000, rel=0.01)  # 2 s of (10 + 10 + 40) / 3 us.
        assert sum(value == 40.0 for value in values) / len(values) == pytest.approx(1 / 3, abs=0.001)


class TestFacts:
    PI4 = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nprocessor\t: 1\nCPU part\t: 0xd08\n\n" + (
        "Hardware\t: BCM2835\nRevision\t: c03112\nModel\t\t: Raspberry Pi 4 Model B Rev 1.2\n"
    )
    PI4_32 = "processor\t: 0\nmodel name\t: ARMv7 Processor rev 3 (v7l)\nCPU part\t: 0xd08\n\n" + (
        "Hardware\t: BCM2711\nModel\t\t: Raspberry Pi 4 Model B Rev 1.1\n"
    )
    PHONE = "".join(f"processor\t: {i}\nCPU part\t: {'0x805' if i < 4 else '0x804'}\n\n" for i in range(8)) + (
        "Hardware\t: Qualcomm Technologies, Inc SM8150\n"
    )
    PC = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n"

    @pytest.mark.parametrize(
        ("text", "part_ids", "model"),
        [
            (PI4, ["0xd08"], "Raspberry Pi 4 Model B Rev 1.2"),
            (PI4_32, ["0xd08"], "Raspberry Pi 4 Model B Rev 1.1"),
            (PHONE, ["0x805", "0x804"], "Qualcomm Technologies, Inc SM8150"),
            (PC, [], "AMD EPYC"),
            ("", [], None),
        ],
        ids=["pi4", "pi4, 32 bit", "phone", "pc", "hidden"],
    )
    def test_cpuinfo(self, text, part_ids, model):
        assert machine.parse_cpuinfo(text) == {"part_ids": part_ids, "model": model}

    @pytest.mark.parametrize(
        ("name", "bits", "architecture"),
        [
            ("aarch64", 64, "aarch64"),
            ("aarch64", 32, "armv7l"),  # Raspberry Pi OS, 32 bit, on its 64-bit kernel.
            ("armv8l", 32, "armv7l"),
            ("arm64", 64, "aarch64"),
            ("AMD64", 64, "x86_64"),
            ("riscv64", 64, "riscv64"),
        ],
    )
    def test_architecture(self, name, bits, architecture):
        assert machine.architecture_of(name, bits) == architecture


def operator(name, inputs, outputs):
    return {"op_name": name, "inputs": inputs, "outputs": outputs}


def test_delegate_coverage_walks_back_from_each_partition():
    """CONV and RELU went into one partition, ADD into another, SOFTMAX into none; tensor 9 is a constant."""

    class Interpreter:
        def _get_ops_details(self):
            return [
                operator("CONV_2D", [0, 9], [1]),
                operator("RELU", [1], [2]),
                operator("SOFTMAX", [2], [3]),
                operator("ADD", [3, 2], [4]),
                operator("DELEGATE", [0, 9], [2]),
                operator("DELEGATE", [3, 2], [4]),
            ]

    assert runtime.delegate_coverage(Interpreter()) == {"delegated": 3, "total": 4, "partitions": 2}


def test_agent_runs_without_a_keeper(tmp_path):
    """As a person would by hand: model and job in one folder, messages on stdout, all other text on stderr."""
    name, data = agent_file()
    model = (MODELS / "digits_float.tflite").read_bytes()
    (tmp_path / name).write_bytes(data)
    (tmp_path / "model.tflite").write_bytes(model)
    (tmp_path / "golden.npz").write_bytes(npz(golden_arrays(model, digit_images())))
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    result = subprocess.run(
        [sys.executable, str(tmp_path / name), "session", str(tmp_path / "job.json")],
        capture_output=True,
        timeout=120,
        check=True,
    )
    lines = result.stdout.decode().strip().splitlines()
    assert [json.loads(line)["type"] for line in lines] == [
        "configuration", "round", "stage", "facts", "loaded", "stage", "golden", "stage", "stage", "stage", "samples",
        "process", "done",
    ]  # fmt: skip


def test_agent_is_the_same_file_each_time():
    """Its name is a digest of its bytes, so that a device can tell which agent it runs."""
    name, data = agent_file()
    agent_file.cache_clear()
    assert agent_file() == (name, data)
    assert name == f"agent-{sha256_of(data)[:16]}.pyz"
