"""The emulated Raspberry Pi through its SSH server: what it says of itself, and that tests can change it."""

import json
import subprocess
from pathlib import Path

import pytest
from ai_edge_litert.interpreter import Interpreter

import edgecomp.agent
from edgecomp.transports import connect
from tests.aarch64_device import BINFMT, MODEL, QEMU, running_board
from tests.conftest import read_npz
from tests.digits_bundle import MODELS
from tests.sshd import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.device]

ON_DEVICE = Path(edgecomp.agent.__file__).with_name("on_device")
SIGNS = "import json; from on_device.emulation import *; print(json.dumps([emulator_signs(), virtual_machine()]))"
RUN = """
import json, numpy, sys
from importlib import import_module
interpreter = import_module(sys.argv[1] + ".interpreter").Interpreter(model_path=sys.argv[2], num_threads=1)
interpreter.allocate_tensors()
detail = interpreter.get_input_details()[0]
with numpy.load(sys.argv[3]) as arrays:
    images = arrays["x"]
answers = []
for image in images[:16]:
    interpreter.set_tensor(detail["index"], image.reshape(detail["shape"]).astype(detail["dtype"]))
    interpreter.invoke()
    answers.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].tolist())
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as running:
        yield running


@pytest.fixture(scope="module")
def transport(board):
    with connect(board.target, ssh_config=board.config) as opened:
        yield opened


def say(transport, *argv):
    result = transport.run(list(argv), timeout_s=120)
    assert result.exit_code == 0, result.stderr.decode()
    return result.stdout.decode().strip()


def running_commands():
    return subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True, check=True).stdout


def test_it_is_an_aarch64_machine_with_python(board, transport):
    assert say(transport, "uname", "-m") == "aarch64"
    assert say(transport, "python3", "-c", "import sys; print(sys.version_info[:2])") == "(3, 11)"
    assert transport.run(["sh", "-c", "exit 7"], timeout_s=60).exit_code == 7


def test_it_describes_itself_as_a_raspberry_pi_4(board, transport):
    cpuinfo = say(transport, "cat", "/proc/cpuinfo")
    assert cpuinfo.count("CPU part\t: 0xd08") == 4  # Cortex-A72.
    assert MODEL in cpuinfo
    assert "hypervisor" not in cpuinfo  # Nothing of the host's shows through.


def test_what_a_test_writes_is_what_the_board_reads(board, transport):
    zone, core = "/sys/class/thermal/thermal_zone0/temp", "/sys/devices/system/cpu/cpu3/cpufreq"
    assert (
        say(transport, "cat", zone, f"{core}/scaling_cur_freq", f"{core}/scaling_governor")
        == "48312\n1500000\nondemand"
    )
    board.set_temperature(81.5)
    board.set_frequency(600_000)
    board.set_governor("powersave")
    board.set_throttled(0x4)
    try:
        told = say(transport, "cat", zone, f"{core}/scaling_cur_freq", f"{core}/scaling_governor")
        assert told == "81500\n600000\npowersave"
        assert say(transport, "vcgencmd", "get_throttled") == "throttled=0x4"
    finally:
        board.set_temperature(48.312)
        board.set_frequency(1_500_000)
        board.set_governor("ondemand")
        board.set_throttled(0)


def test_the_board_can_change_its_governor(board, transport):
    path = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    say(transport, "sh", "-c", f"echo performance > {path}")
    assert board.governors() == ["performance", "ondemand", "ondemand", "ondemand"]
    board.set_governor("ondemand")


def test_bytes_pass_unchanged(board, transport):
    data = bytes(range(256)) * 4096
    transport.put(data, "/tmp/sent")
    assert (board.tmp / "sent").read_bytes() == data
    assert transport.get("/tmp/sent") == data
    say(transport, "rm", "/tmp/sent")
    assert list(board.tmp.iterdir()) == []


def test_the_system_is_read_only(board, transport):
    """The root file system is shared with other tests: no board may change it."""
    result = transport.run(["touch", "/usr/bin/something"], timeout_s=60)
    assert result.exit_code != 0
    assert b"Read-only file system" in result.stderr


@pytest.mark.parametrize(
    ("runtime", "package"), [("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime")]
)
def test_both_runtimes_compute_what_this_machine_computes(board, transport, runtime, package):
    for path in (MODELS / "digits_int8.tflite", MODELS / "digits_samples.npz"):
        transport.put(path.read_bytes(), f"/tmp/{path.name}")
    files = ["/tmp/digits_int8.tflite", "/tmp/digits_samples.npz"]
    answers = json.loads(say(transport, board.python(runtime), "-c", RUN, package, *files))
    interpreter = Interpreter(model_path=str(MODELS / "digits_int8.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    for image, answer in zip(read_npz(MODELS / "digits_samples.npz")["x"][:16], answers, strict=True):
        interpreter.set_tensor(detail["index"], image.reshape(detail["shape"]).astype(detail["dtype"]))
        interpreter.invoke()
        expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].tolist()
        assert expected.index(max(expected)) == answer.index(max(answer))
    say(transport, "rm", *files)


def test_the_board_knows_that_it_is_emulated(board, transport):
    for name in ("__init__", "emulation", "machine"):
        transport.put((ON_DEVICE / f"{name}.py").read_bytes(), f"/tmp/{name}.py")
    say(transport, "sh", "-c", "mkdir /tmp/on_device && mv /tmp/*.py /tmp/on_device")
    signs, _ = json.loads(say(transport, "env", "PYTHONPATH=/tmp", "python3", "-c", SIGNS))
    say(transport, "rm", "-r", "/tmp/on_device")
    assert any(f"this process for aarch64 is run by {QEMU}" in sign for sign in signs)
    # The emulated core has the crypto extensions, the Raspberry Pi whose /proc/cpuinfo this is has not.
    assert any("/proc/cpuinfo lacks aes, pmull, sha1, sha2" in sign for sign in signs)


def test_nothing_is_left_when_it_ends(tmp_path):
    """Even of a board on which something runs that ignores its signals."""
    entries = set(BINFMT.iterdir())
    with running_board(tmp_path / "board") as board:
        with connect(board.target, ssh_config=board.config) as opened:
            stubborn = "trap '' HUP TERM INT; while :; do sleep 1; done"
            opened.run(["sh", "-c", f'sh -c "{stubborn}" >/dev/null 2>&1 </dev/null &'], timeout_s=60)
        wait_until(lambda: stubborn in running_commands(), "it runs")
    assert not board.root.exists()
    assert str(board.root) not in Path("/proc/mounts").read_text()
    assert stubborn not in running_commands()
    assert set(BINFMT.iterdir()) == entries
