"""`edgecomp probe` and `edgecomp bench` on the emulated Raspberry Pi 4: real aarch64 runtimes behind a real sshd.

Its times are never called valid; its outputs are held to the rule of golden outputs across architectures.
"""

import json

import numpy as np
import pytest

from edgecomp.profile import load_profile
from edgecomp.transports import connect
from tests.aarch64_device import MODEL, running_board
from tests.conftest import read_npz
from tests.digits_bundle import golden_arrays, write_digits_bundle

pytestmark = [pytest.mark.slow, pytest.mark.device]

QUICK = ("--threads", 1, "--min-seconds", 0, "--runs", 3, "--processes", 1, "--max-processes", 1, "--precision", "99%")


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with running_board(tmp_path_factory.mktemp("board")) as running:
        yield running
        assert list(running.tmp.iterdir()) == []


@pytest.fixture
def bench(board, run_cli, monkeypatch):
    """`edgecomp bench --json` on the board: the exit code and the first measurement."""
    monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(board.config))

    def run(bundle, *options, runtime="ai-edge-litert"):
        python = ("--python", board.python(runtime))
        result = run_cli("bench", bundle, "--host", board.target, *python, *QUICK, *options, "--json")
        assert result.stdout.startswith("{"), result.stderr
        return result.exit_code, json.loads(result.stdout)["measurements"][0]

    return run


def test_probe_recognises_a_raspberry_pi_4(board, run_cli, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(board.config))
    out = tmp_path / "board.toml"
    options = ("--python", board.python("ai-edge-litert"), "--no-calibration", "--json")
    result = run_cli("probe", board.target, "--out", out, *options)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["extends"], found["is_known"]) == ("rpi4", True)
    assert MODEL in json.dumps(found["because"])
    profile = load_profile(str(out))
    assert (profile.cpu.core, profile.cpu.cores, profile.cpu.part_ids) == ("cortex-a72", 4, ("0xd08",))


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
def test_golden_outputs_of_a_real_model(bench, data_folder, tmp_path, runtime):
    """ResNet8, 8 real images: another architecture, so a tolerance holds, and every answer is the same.

    The emulated core is what the profile says, by its part id; it is the emulator that is found out.
    """
    folder = data_folder / "resnet8-cifar10"
    model = (folder / "pretrainedResnet_quant.tflite").read_bytes()
    images = read_npz(folder / "cifar10_lossless_4k_1k.npz")["x_test"][:8].astype(np.float32)
    bundle = write_digits_bundle(tmp_path, model=model, arrays=golden_arrays(model, images))
    code, measured = bench(bundle, runtime=runtime)
    assert code == 4
    assert (measured["verdict"], measured["mismatches"]) == ("wrong_device", [])
    assert any("an emulator, whose times are no latencies" in reason for reason in measured["reasons"])
    assert (measured["golden"]["ok"], measured["golden"]["rule"]) == (True, "tolerance")
    assert measured["golden"]["argmax_agreement"] == 1.0
    assert measured["facts"]["runtime"] == runtime
    assert (measured["facts"]["architecture"], measured["facts"]["cpu_model"]) == ("aarch64", MODEL)
    # XNNPACK takes 14 of 16 operators on a Cortex-A72, as on x86; the older runtime's int8 goes past it.
    assert measured["delegate"]["delegated"] == (14 if runtime == "ai-edge-litert" else 0)


def test_what_the_board_goes_through_is_told(board, bench, tmp_path):
    """Heat, voltage and a governor that keeps it slow: read from its /sys and its vcgencmd."""
    board.set_temperature(84)
    board.set_frequency(600_000)
    board.set_governor("powersave")
    board.set_throttled(0x50005)
    try:
        _, measured = bench(write_digits_bundle(tmp_path))
    finally:
        board.set_temperature(48.312)
        board.set_frequency(1_500_000)
        board.set_governor("ondemand")
        board.set_throttled(0)
    told = "; ".join(measured["reasons"])
    assert "the firmware says under-voltage, throttled" in told
    assert "ran at 600 of 1500 MHz (governor powersave)" in told
    assert "84 °C, and it slows down from 80 °C" in told


def test_governor_is_set_and_put_back(board, bench, tmp_path):
    _, measured = bench(write_digits_bundle(tmp_path), "--set-governor", "performance")
    during = [moment["governors"] for process in measured["conditions"] for moment in process["during"]]
    assert during
    assert set(map(tuple, during)) == {("performance",)}
    assert board.governors() == ["ondemand"] * 4


def test_nothing_is_left_on_the_board(board):
    with connect(board.target, ssh_config=board.config) as transport:
        assert transport.run(["ls", "-A", "/tmp"], timeout_s=60).stdout == b""
