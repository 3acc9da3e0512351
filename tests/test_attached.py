"""Boards without a shell: firmware-like programs on a pty and on stdout, flashed and run by commands on a host."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecomp.bench import BenchSettings, read_benchmark_files
from edgecomp.bench.attached import Attachment, bench_attached
from edgecomp.errors import BenchmarkError
from edgecomp.inference import KernelFamily, load
from edgecomp.profile import load_profile
from edgecomp.transports import connect
from tests.conftest import missing
from tests.digits_bundle import MODELS, digit_images, write_digits_bundle
from tests.sshd import wait_until

FIRMWARE = Path(__file__).with_name("board_firmware.py")
SETTINGS = BenchSettings(min_processes=3, precision_ratio=0.99)
MODEL = (MODELS / "digits_int8.tflite").read_bytes()

# Flashing is a copy: what the commands find in their folder is what was sent there.
FLASH = (
    sys.executable,
    "-c",
    "import shutil, sys; [shutil.copy(n, sys.argv[1]) for n in ('model.tflite', 'golden.npz')]",
)
RESET = (sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write('reset')")


def tflm_version():
    try:
        return importlib.metadata.version("tflite-micro")
    except importlib.metadata.PackageNotFoundError:
        missing("tflite-micro is not installed (it exists for Linux on x86-64 only)")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A bundle for a microcontroller, whose golden outputs TFLM made."""
    version = tflm_version()
    loaded = load(MODEL, KernelFamily.TFLM)
    spec = loaded.graph.inputs[0]
    arrays = {"input_0": spec.quantize(digit_images()), "output_0": loaded.run({spec.name: digit_images()})[0]}
    bundle = write_digits_bundle(
        tmp_path_factory.mktemp("bundles"), arrays=arrays, profile=load_profile("stm32l4r5").text,
        kernel_family="TFLM", runtime="tflite-micro", runtime_version=version, architecture=platform.machine(),
    )  # fmt: skip
    return read_benchmark_files(bundle)


@contextlib.contextmanager
def board(folder, fault=""):
    """A board that is switched on; yields how it is flashed, reset and listened to."""
    os.mkfifo(folder / "reset")
    environment = os.environ | {"TFLM_VERSION": tflm_version()}
    process = subprocess.Popen([sys.executable, str(FIRMWARE), str(folder), fault], env=environment)
    try:
        wait_until(lambda: (folder / "port").is_symlink(), "the board is on")
        yield Attachment((*FLASH, str(folder)), (*RESET, str(folder / "reset")), str(folder / "port"), round_seconds=20)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def host(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with connect("local") as transport:
        yield transport
    assert list((tmp_path / "tmp").iterdir()) == []


def measure(files, attachment, host, settings=SETTINGS):
    profile = load_profile("stm32l4r5")
    return bench_attached(
        files, attachment, host, profile=profile, name="nucleo", python=sys.executable, settings=settings
    )


HELLO = {"type": "hello", "model_sha256": "x", "core": "c", "runtime": "r"}


class TestBoard:
    def test_serial_port(self, files, host, tmp_path):
        """Flashed once, reset three times: three processes of 20 inferences; TFLM's outputs are equal bit by bit."""
        with board(tmp_path) as attachment:
            measured = measure(files, attachment, host)
        assert [len(samples) for samples in measured.processes_us] == [20, 20, 20]
        assert (measured.golden.rule, measured.golden.equal, measured.golden.samples) == ("exact", True, 8)
        assert (measured.engine, measured.on, measured.device) == ("firmware", "nucleo on local", "stm32l4r5")
        assert measured.is_profile_device
        assert measured.verdict in ("valid", "noisy")  # Which of them is this machine's doing.
        # Cycles of a clock of 120 MHz: 8.333 ns each.
        steps = np.concatenate(measured.processes_us) * 120
        assert np.allclose(steps, np.round(steps))
        assert "not known" in measured.notes[0]

    def test_output_of_the_command(self, files, host, tmp_path):
        """As from a debugger with semihosting: what the command prints is what the board says."""
        script = (
            "import os, sys, json; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
            "from tests.board_firmware import messages\n"
            "print('Open On-Chip Debugger')\n"
            "for one in messages(Path('.'), ''): print(json.dumps({'edgecomp_board': 1, **one}), flush=True)\n"
        )
        root = Path(__file__).parent.parent
        os.environ["TFLM_VERSION"] = tflm_version()
        try:
            measured = measure(files, Attachment(run=(sys.executable, "-c", script, str(root))), host)
        finally:
            del os.environ["TFLM_VERSION"]
        assert measured.golden.equal
        assert len(measured.processes_us) == 3

    def test_files_of_the_attachment_arrive(self, files, host):
        script = "import sys; assert open('firmware.bin', 'rb').read() == bytes(range(256)); sys.exit('flashed')"
        attachment = Attachment(
            flash=(sys.executable, "-c", script), run=("true",), files={"firmware.bin": bytes(range(256))}
        )
        with pytest.raises(BenchmarkError, match=r"did not flash the board .exit code 1.*Its last words: 'flashed'"):
            measure(files, attachment, host)


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "verdict", "reason"),
        [
            ("other model", "wrong_output", "The firmware has another model (000000000000, the bundle's is"),
            (
                "wrong outputs",
                "wrong_output",
                "Output 0 is not the golden one: 8 of 8 samples differ by more than 0 LSB",
            ),
            ("other core", "wrong_device", "not the profile's device: core cortex-m0+, profile says cortex-m4"),
        ],
    )
    def test_what_makes_it_worthless(self, files, host, tmp_path, fault, verdict, reason):
        with board(tmp_path, fault) as attachment:
            measured = measure(files, attachment, host)
        assert measured.verdict == verdict
        assert measured.reasons[0].startswith(reason)

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("never done", "local: The board did not say that it was done within 3 s"),
            ("silent", "The board did not say that it was done within 3 s. Its last words: .*boot: clock 120 MHz"),
            ("nonsense", "local: The board does not speak the protocol"),
            ("gives up", r"nucleo on local gave up: AllocateTensors\(\) failed\.$"),
        ],
    )
    def test_what_ends_it(self, files, host, tmp_path, fault, message):
        with board(tmp_path, fault) as attachment:
            quick = Attachment(attachment.flash, attachment.run, attachment.serial, round_seconds=3)
            with pytest.raises(BenchmarkError, match=message):
                measure(files, quick, host)

    @pytest.mark.parametrize(
        ("attachment", "message"),
        [
            (Attachment(run=("no-such-tool",)), "no-such-tool cannot be started there: No such file or directory"),
            (Attachment(flash=("false",), run=("true",)), r"false did not flash the board \(exit code 1\)"),
            (Attachment(run=("true",)), r"ended before it said that it was done \(exit code 0\)"),
            (Attachment(run=("true",), serial="/dev/no-such-port"), "serial port /dev/no-such-port cannot be opened"),
            (Attachment(run=("true",), serial="/dev/null"), "/dev/null is no serial port"),
            (Attachment(), "nucleo: there is neither a command to run it nor a serial port"),
        ],
    )
    def test_commands_and_ports_that_do_not_work(self, files, host, attachment, message):
        with pytest.raises(BenchmarkError, match=message):
            measure(files, attachment, host)

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ([{"type": "time", "us": 5}, {"type": "done"}], 'the board did not say "hello"'),
            ([HELLO, {"type": "done"}], "timed no inference"),
            ([{"type": "time", "cycles": 5}, {"type": "done"}], 'or "cycles" after a "hello" with "clock_hz"'),
            ([{"type": "time", "us": -1}, {"type": "done"}], "greater than 0"),
            ([{"type": "what"}, {"type": "done"}], "does not match any of the expected tags"),
        ],
    )  # fmt: skip
    def test_messages_that_make_no_sense(self, files, host, said, message):
        script = "import json; [print(json.dumps({'edgecomp_board': 1, **one})) for one in " + repr(said) + "]"
        with pytest.raises(BenchmarkError, match=f"does not speak the agent's protocol: .*{message}"):
            measure(files, Attachment(run=(sys.executable, "-c", script)), host)
