"""`edgecomp bench` over a real SSH server, with real runtimes and real faults; nothing may be left on the device."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from edgecomp.bench import bench_bundle
from edgecomp.errors import BenchmarkError, TransportError
from edgecomp.transports import connect
from tests import bench_device
from tests.bench_device import DEVICE_PYTHONS, ENDLESS, QUICK, interpreter_of, program
from tests.conftest import read_npz
from tests.digits_bundle import MODELS, digit_images, golden_arrays, write_digits_bundle
from tests.sshd import LOCALHOST, CuttingProxy

pytestmark = pytest.mark.device

server = bench_device.server
device = bench_device.device
bundle = bench_device.bundle


class TestRuntimes:
    """The two that boards in the field have."""

    @pytest.mark.parametrize("runtime", DEVICE_PYTHONS)
    @pytest.mark.parametrize("model", ["digits_int8", "digits_float"])
    def test_digits(self, device, tmp_path, runtime, model):
        made = write_digits_bundle(tmp_path, model=(MODELS / f"{model}.tflite").read_bytes())
        with connect(device.target) as transport:
            measured = bench_bundle(made, transport, **QUICK | {"python": interpreter_of(runtime)})
        assert measured.golden.ok, measured.golden.message
        assert measured.runtime == runtime
        assert measured.golden.rule == ("exact" if runtime == "ai-edge-litert" else "tolerance")
        assert measured.on == device.target
        assert measured.runs >= 50
        if runtime == "tflite-runtime":
            assert measured.facts.numpy.startswith("1.")
            # Its int8 kernels are not XNNPACK's, its float ones are.
            assert measured.kernel_family == ("LITERT_XNNPACK" if model == "digits_float" else "LITERT_BUILTIN")

    @pytest.mark.data
    @pytest.mark.parametrize("runtime", DEVICE_PYTHONS)
    def test_resnet8(self, device, data_folder, tmp_path, runtime):
        """100 real images: the older runtime's int8 kernels are others, so 3 or 4 images are beyond 32 LSB."""
        folder = data_folder / "resnet8-cifar10"
        model = (folder / "pretrainedResnet_quant.tflite").read_bytes()
        images = read_npz(folder / "cifar10_lossless_4k_1k.npz")["x_test"][:100].astype(np.float32)
        made = write_digits_bundle(tmp_path, model=model, arrays=golden_arrays(model, images))
        with connect(device.target) as transport:
            measured = bench_bundle(made, transport, **QUICK | {"python": interpreter_of(runtime)})
        assert measured.golden.ok, measured.golden.message
        assert measured.golden.samples == 100
        assert measured.golden.argmax_agreement >= 0.95
        assert measured.golden.equal == (runtime == "ai-edge-litert")
        # AVERAGE_POOL_2D and SOFTMAX stay outside of XNNPACK; the older runtime takes no int8 operator at all.
        assert measured.delegate.delegated == (14 if runtime == "ai-edge-litert" else 0)
        assert measured.delegate.total == 16


class TestCommandLine:
    def test_bench(self, device, bundle, run_cli):
        """The bundle is for a Raspberry Pi 4: measured, shown, and not trusted."""
        result = run_cli(
            "bench", bundle, "--host", device.target, "--python", sys.executable, "--min-seconds", 0, "--json"
        )
        assert result.exit_code == 4, result.output
        report = json.loads(result.stdout)
        measured = report["measurements"][0]
        assert (report["schema"], measured["verdict"]) == ("edgecomp.measurement/2", "wrong_device")
        assert (measured["on"], measured["golden"]["ok"], measured["mode"]) == (device.target, True, "measured")

    def test_unknown_host_key_is_one_sentence(self, device, bundle, run_cli, tmp_path, monkeypatch):
        config = tmp_path / "config"
        config.write_text(device.config.read_text().replace(str(device.known_hosts), "/dev/null"))
        monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(config))
        result = run_cli("bench", bundle, "--host", device.target)
        assert result.exit_code == 1
        assert f"The host key of {device.target} is unknown: ssh-ed25519 SHA256:" in result.stderr


class TestFaults:
    def test_line_that_is_cut_in_mid_measurement(self, device, bundle):
        with CuttingProxy(device.port) as proxy:
            device.trust(proxy.port)
            with (
                connect(f"{device.user}@{LOCALHOST}:{proxy.port}") as transport,
                pytest.raises(TransportError, match=rf"connection to .*:{proxy.port} was lost"),
            ):
                bench_bundle(
                    bundle, transport, **ENDLESS, progress=lambda what, *_: proxy.cut() if what == "measuring" else None
                )

    def test_line_that_is_cut_while_files_are_copied(self, device, tmp_path):
        """200,000 samples are 12.8 MB; the line goes after 3 MB."""
        small = golden_arrays((MODELS / "digits_int8.tflite").read_bytes(), digit_images())
        large = {name: np.concatenate([array] * 6250) for name, array in small.items()}
        made = write_digits_bundle(tmp_path, arrays=large)
        with CuttingProxy(device.port, cut_after_bytes=3_000_000) as proxy:
            device.trust(proxy.port)
            with (
                connect(f"{device.user}@{LOCALHOST}:{proxy.port}") as transport,
                pytest.raises(TransportError, match="was lost"),
            ):
                bench_bundle(made, transport, **ENDLESS)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
    def test_host_that_is_interrupted_or_killed(self, device, bundle, number):
        """Ctrl-C, and a host that has no chance to say anything."""
        script = (
            "import sys; from pathlib import Path; from edgecomp.bench import BenchSettings, bench_bundle\n"
            "from edgecomp.transports import connect\n"
            "with connect(sys.argv[1]) as transport:\n"
            "    settings = BenchSettings(min_seconds=600, max_seconds=600)\n"
            "    bench_bundle(Path(sys.argv[2]), transport, python=sys.executable, settings=settings,\n"
            "        progress=lambda what, *_: print(what, flush=True))\n"
        )
        command = [sys.executable, "-c", script, device.target, str(bundle)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            for line in process.stdout:
                if line == "measuring\n":
                    break
            assert len(list(device.tmp.glob("edgecomp-agent-*"))) == 1
            process.send_signal(number)
            assert process.wait(timeout=60) == -number

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal SIGSEGV, while loading the model"),
            (
                "raise OSError('libLiteRt.so: cannot open shared object file')",
                "libLiteRt.so: cannot open shared object",
            ),
        ],
        ids=["crash", "broken runtime"],
    )
    def test_runtime_that_breaks(self, device, bundle, tmp_path, body, message):
        for package in ("ai_edge_litert", "tflite_runtime", "tensorflow"):
            (tmp_path / package).mkdir()
            (tmp_path / package / "__init__.py").write_text(f"import os, signal\n{body}\n")
        python = program(tmp_path / "python", f'PYTHONPATH="{tmp_path}" exec {sys.executable} "$@"')
        with connect(device.target) as transport, pytest.raises(BenchmarkError, match=message):
            bench_bundle(bundle, transport, **QUICK | {"python": python})

    def test_no_python(self, device, bundle):
        with connect(device.target) as transport:
            with pytest.raises(BenchmarkError, match=f"There is no no-python on {device.target}. Install Python 3.7"):
                bench_bundle(bundle, transport, **QUICK | {"python": "no-python"})
            assert bench_bundle(bundle, transport, **QUICK).golden.ok  # The connection is as good as before.

    def test_device_that_does_not_speak_the_protocol(self, device, bundle, tmp_path):
        python = program(tmp_path / "python", "yes 'login: '")
        with connect(device.target) as transport, pytest.raises(BenchmarkError, match="printed 'login:' and more"):
            bench_bundle(bundle, transport, **QUICK | {"python": python})
