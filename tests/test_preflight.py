"""`edgecomp check`: what is said of a model and a device before anything is made."""

import json
import subprocess
import sys
import zlib

import pytest

from edgecomp.budget import Budget
from edgecomp.graph import read_graph
from edgecomp.preflight import preflight
from edgecomp.profile import load_profile
from tests.conftest import ROOT

RESNET8 = "resnet8-cifar10/pretrainedResnet_quant.tflite"
RESNET8_FLOAT = "resnet8-cifar10/pretrainedResnet.tflite"
DYNAMIC_RANGE = "dscnn-kws/kws_ref_model_float32.tflite"

pytestmark = pytest.mark.data


@pytest.fixture
def look(data_folder):
    def look(name, device, **limits):
        data = (data_folder / name).read_bytes()
        profile = load_profile(device)
        return preflight(data, read_graph(data), profile, Budget.for_device(profile, **limits))

    return look


class TestMicrocontroller:
    def test_memory_of_resnet8(self, look, data_folder):
        report = look(RESNET8, "stm32l4r5")
        assert report.status == "fits"
        assert report.flash.raw_bytes == 98_496  # as MLPerf Tiny ships it
        assert report.flash.on_target_bytes == 98_496  # 6,156 times 16
        assert report.flash.compressed_bytes == len(zlib.compress((data_folder / RESNET8).read_bytes(), 9))
        assert report.ram.parts["head"] == 49_152  # three activations of 16 KiB in the first block
        # 55,984 bytes in the 64-bit wheel; a 32-bit core needs less.
        assert 53_000 < report.ram.needed_bytes < 55_984
        assert report.ram.peak_rss_bytes is None

    def test_the_layer_of_the_peak_is_in_the_first_block(self, look):
        report = look(RESNET8, "stm32l4r5")
        peak = max(report.layers, key=lambda row: row.live_bytes)
        assert peak.live_bytes == 49_152
        assert report.ram.peak_layer == peak.layer

    def test_a_limit_that_is_broken_is_named(self, look):
        report = look(RESNET8_FLOAT, "stm32g0b1")  # 144 KB of RAM; the float activations alone take 196,608 bytes
        assert report.status == "no_fit"
        assert "ram" in {broken.limit for broken in report.breaks}

    def test_the_users_limit_holds_below_the_devices(self, look):
        report = look(RESNET8, "stm32l4r5", max_model_bytes=90_000)
        assert [str(broken) for broken in report.breaks] == ["model size 96.2 KiB, 8.3 KiB above the 87.9 KiB allowed"]

    def test_what_the_runtime_refuses_is_named_with_a_way_out(self, look):
        report = look(DYNAMIC_RANGE, "stm32l4r5")
        assert report.status == "cannot_run"
        errors = [finding for finding in report.findings if finding.severity == "error"]
        # TFLM: "Hybrid models are not supported on TFLite Micro."
        assert "CONV_2D" in {finding.operator for finding in errors}
        assert any(finding.rewrite and "INT8" in finding.rewrite for finding in errors)


class TestLinux:
    def test_memory_is_arena_file_and_packed_weights(self, look):
        report = look(RESNET8, "rpi4")
        assert report.status == "fits"
        assert report.ram.parts == {"arena": 52_224, "file": 98_496, "packed weights": 78_752}
        assert report.ram.needed_bytes == 52_224 + 98_496 + 78_752
        assert report.flash_limit_bytes is None
        assert report.flash.code_bytes is None


class TestLayers:
    def test_they_add_up(self, look):
        report = look(RESNET8, "rpi4")
        assert sum(row.macs for row in report.layers) == report.macs == 12_501_632
        assert sum(row.weight_bytes for row in report.layers) == 78_752
        if report.latency is not None:
            assert sum(row.latency_ms for row in report.layers) == pytest.approx(report.latency.value_ms, rel=0.02)


class TestCommand:
    def run(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "edgecomp", "check", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
        )

    def test_three_devices_as_json(self, data_folder):
        devices = ("--device", "stm32l4r5", "--device", "rp2040", "--device", "rpi4")
        done = self.run(data_folder / RESNET8, *devices, "--json")
        body = json.loads(done.stdout)
        assert done.returncode == 0, done.stderr
        assert body["schema"] == "edgecomp.check/1"
        assert [item["device"] for item in body["devices"]] == ["stm32l4r5", "rp2040", "rpi4"]
        for item in body["devices"]:
            assert item["status"] == "fits"
            assert item["ram"]["mode"] == "estimated"
            assert "layers" not in item

    def test_the_screen(self, data_folder):
        done = self.run(data_folder / RESNET8, "--device", "stm32l4r5", "--layers")
        assert "stm32l4r5: fits" in done.stdout
        assert "96.2 KiB of" in done.stdout
        assert "estimated" in done.stdout
        assert done.stdout.count("CONV_2D") == 9

    def test_exit_code_3_when_it_cannot_run(self, data_folder):
        done = self.run(data_folder / DYNAMIC_RANGE, "--device", "stm32l4r5")
        assert done.returncode == 3
        assert "stm32l4r5: cannot run" in done.stdout

    def test_a_keras_model_is_converted_first(self):
        done = self.run(ROOT / "calibration_data" / "digits" / "digits_cnn.keras", "--device", "stm32l4r5", "--json")
        assert done.returncode == 0, done.stderr
        assert any("float model" in note for note in json.loads(done.stdout)["notes"])

    def test_no_heavy_library_for_a_tflite(self, data_folder):
        script = (
            "import sys\n"
            "from edgecomp.cli import main\n"
            "try:\n"
            f"    main(['check', {str(data_folder / RESNET8)!r}, '--device', 'stm32l4r5', '--device', 'rpi4'])\n"
            "except SystemExit:\n"
            "    pass\n"
            "print('\\n'.join(sys.modules), file=sys.stderr)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        modules = set(done.stderr.splitlines())
        assert "edgecomp.preflight" in modules
        heavy = {"tensorflow", "tf_keras", "keras", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro", "asyncssh"}
        assert not heavy & modules

    @pytest.mark.parametrize(
        ("arguments", "code", "sentence"),
        [
            (("nowhere.tflite", "--device", "rpi4"), 1, "nowhere.tflite: cannot be read"),
            (("nowhere.keras", "--device", "rpi4"), 1, "nowhere.keras: no such file"),
            (("nowhere.tflite", "--device", "rpi44"), 2, "Unknown device 'rpi44'"),
        ],
    )
    def test_mistakes(self, arguments, code, sentence):
        done = self.run(*arguments)
        assert done.returncode == code
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
