"""A benchmark on this machine: what counts as the profile's device, the figures, and bundles that cannot be timed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecomp.agent.remote import DeviceFacts
from edgecomp.bench import bench_bundle, median_interval_ms, percentile_ms, profile_mismatches, read_benchmark_files
from edgecomp.errors import BenchmarkError, BundleError, UsageError
from edgecomp.profile import load_profile
from edgecomp.transports import connect
from tests.digits_bundle import MODELS, digit_images, golden_arrays, write_digits_bundle

QUICK = {"min_seconds": 0.0, "max_seconds": 5.0, "python": sys.executable}


@pytest.fixture
def local(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with connect("local") as transport:
        yield transport
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_digits_bundle(tmp_path_factory.mktemp("bundles"))


def own_profile(architecture):
    """The text of a profile whose device is this machine."""
    text = (Path(__file__).parent.parent / "device_profiles" / "rpi4.toml").read_text()
    return text.replace('"aarch64"', f'"{architecture}"').replace('part_ids = ["0xd08"]', "part_ids = []")


class TestMeasurement:
    def test_all_figures(self, local, bundle):
        measured = bench_bundle(bundle, local, **QUICK)
        assert measured.golden.ok
        assert (measured.golden.rule, measured.golden.equal) == ("exact", True)  # This runtime made the golden ones.
        assert measured.runs == 50
        assert 0 < measured.low_ms <= measured.p50_ms <= measured.high_ms
        assert measured.p50_ms <= measured.p90_ms <= max(measured.samples_us) / 1000
        assert (measured.init_ms > 0, measured.first_ms > 0) == (True, True)
        assert (measured.mode, measured.on, measured.device, measured.chosen) == ("measured", "local", "rpi4", "INT8")
        assert measured.model_sha256 == read_benchmark_files(bundle).manifest.files["model.tflite"].sha256

    def test_zip_is_the_same_bundle(self, local, bundle):
        assert bench_bundle(bundle.with_suffix(".zip"), local, **QUICK).golden.ok

    def test_json_is_plain_and_whole(self, local, bundle):
        measured = bench_bundle(bundle, local, **QUICK, num_threads=2)
        plain = json.loads(json.dumps(measured.to_json(), allow_nan=False))
        assert plain["schema"] == "edgecomp.measurement/1"
        assert plain["samples_us"] == list(measured.samples_us)
        assert plain["golden"]["rule"] == "exact"
        assert plain["delegate"] == {"delegated": 3, "total": 4, "partitions": 1}
        assert (plain["runtime"], plain["kernel_family"]) == ("ai-edge-litert", "LITERT_XNNPACK")
        assert (plain["runs"], plain["num_threads"]) == (50, 2)

    def test_this_machine_is_no_raspberry_pi(self, local, bundle):
        measured = bench_bundle(bundle, local, **QUICK)
        found = measured.facts.architecture
        if found == "aarch64":
            pytest.skip("this machine has the architecture of a Raspberry Pi 4")
        assert not measured.is_profile_device
        assert measured.label == f"not the profile's device: {found}, profile says aarch64"

    def test_this_machine_is_itself(self, local, tmp_path, bundle):
        architecture = bench_bundle(bundle, local, **QUICK).facts.architecture
        own = write_digits_bundle(tmp_path, profile=own_profile(architecture))
        measured = bench_bundle(own, local, **QUICK)
        assert (measured.is_profile_device, measured.label, measured.mismatches) == (True, "rpi4", ())

    def test_profile_of_the_caller_comes_first(self, local, bundle):
        measured = bench_bundle(bundle, local, **QUICK, profile=load_profile("pixel4"))
        assert measured.device == "pixel4"

    def test_other_outputs_are_a_result_and_not_an_error(self, local, tmp_path):
        arrays = golden_arrays((MODELS / "digits_int8.tflite").read_bytes(), digit_images())
        arrays["output_0"] = arrays["output_0"].copy()
        arrays["output_0"][3, 0] ^= 1  # One LSB in one of 320 values.
        measured = bench_bundle(write_digits_bundle(tmp_path, arrays=arrays), local, **QUICK)
        assert not measured.golden.ok
        assert measured.golden.message == (
            "Output 0 is not the golden one: 1 of 32 samples differ by more than 0 LSB, at most by 1."
        )
        assert measured.runs == 50

    @pytest.mark.parametrize(
        "made_with",
        [
            {"kernel_family": "LITERT_REFERENCE"},
            {"runtime_version": "2.2.0"},
            {"runtime": "tflite-runtime"},
            {"architecture": "s390x"},
        ],
        ids=lambda made_with: next(iter(made_with)),
    )
    def test_golden_samples_made_elsewhere_have_a_tolerance(self, local, tmp_path, made_with):
        arrays = golden_arrays((MODELS / "digits_int8.tflite").read_bytes(), digit_images())
        arrays["output_0"] = arrays["output_0"].copy()
        arrays["output_0"][3, 0] ^= 1
        measured = bench_bundle(write_digits_bundle(tmp_path, arrays=arrays, **made_with), local, **QUICK)
        assert (measured.golden.ok, measured.golden.rule) == (True, "tolerance")
        assert (measured.golden.max_difference_lsb, measured.golden.tolerance_lsb) == (1.0, 64.0)

    def test_float_model(self, local, tmp_path):
        float_bundle = write_digits_bundle(tmp_path, model=(MODELS / "digits_float.tflite").read_bytes())
        measured = bench_bundle(float_bundle, local, **QUICK)
        assert (measured.golden.ok, measured.golden.rule) == (True, "exact")
        assert measured.delegate.model_dump() == {"delegated": 4, "total": 4, "partitions": 1}


class TestBundles:
    def test_microcontroller_has_no_host(self, local, tmp_path):
        text = (Path(__file__).parent.parent / "device_profiles" / "stm32l4r5.toml").read_text()
        mcu = write_digits_bundle(tmp_path, profile=text)
        with pytest.raises(BenchmarkError, match=r"is for a microcontroller .* cannot be timed on a host"):
            bench_bundle(mcu, local, **QUICK)

    def test_model_that_was_changed(self, local, bundle, tmp_path):
        changed = shutil.copytree(bundle, tmp_path / "changed")
        (changed / "model.tflite").write_bytes((changed / "model.tflite").read_bytes() + b"\0")
        with pytest.raises(BundleError, match=r"model.tflite has changed"):
            bench_bundle(changed, local, **QUICK)

    def test_no_bundle(self, local, tmp_path):
        with pytest.raises(BundleError, match="There is no bundle at"):
            bench_bundle(tmp_path / "absent", local, **QUICK)

    def test_profile_that_cannot_be_read(self, local, tmp_path):
        with pytest.raises(BundleError, match=r"profile.toml cannot be read"):
            bench_bundle(write_digits_bundle(tmp_path, profile="name = "), local, **QUICK)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"num_threads": 0}, "at least 1, got 0 and 50"),
            ({"num_runs": 0}, "at least 1, got 1 and 0"),
            ({"min_seconds": -1.0}, "0 <= min <= max, got -1 and 5"),
            ({"min_seconds": 6.0}, "0 <= min <= max, got 6 and 5"),
            ({"max_seconds": float("inf")}, "got 0 and inf"),
            ({"max_seconds": float("nan")}, "got 0 and nan"),
            ({"timeout_s": 0.0}, "above zero, got 0 s"),
            ({"python": "-c"}, "a name or a path, got '-c'"),
        ],
    )
    def test_numbers_that_make_no_sense(self, local, bundle, wrong, message):
        with pytest.raises(UsageError, match=message):
            bench_bundle(bundle, local, **QUICK | wrong)


class TestNoPython:
    """Programs that are no Python, by the sentence that tells them apart."""

    @pytest.mark.parametrize(
        ("python", "message"),
        [
            ("no-such-python", "There is no no-such-python on local. Install Python 3.7 or newer there"),
            ("true", "true on local did not run the agent"),
            ("false", r"false on local did not run the agent \(exit code 1\)"),
            ("echo", "echo on local does not speak the agent's protocol; it printed '-c import sys"),
        ],
    )
    def test_existing_programs(self, local, bundle, python, message):
        with pytest.raises(BenchmarkError, match=message):
            bench_bundle(bundle, local, **QUICK | {"python": python})

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("yes hello", "printed 'hello' and more like it"),
            ("""echo '{"edgecomp": 1, nonsense'""", "does not speak the agent's protocol"),
            ("""echo '{"edgecomp": 1, "type": "samples", "unit": "ms", "values": [1]}'""", "not speak the agent's"),
            ("""echo '{"edgecomp": 1, "type": "samples", "unit": "us", "values": ["a"]}'""", "not speak the agent's"),
            ("""echo '{"edgecomp": 1, "type": "done", "runs": 3}'""", "3 runs were announced, 0 arrived"),
            ("""echo '{"edgecomp": 1, "type": "done", "runs": 0}'""", "does not speak the agent's protocol: 'facts'"),
            ("""echo '{"edgecomp": 1, "type": "error"}'""", "does not speak the agent's protocol"),
            ("""echo '{"edgecomp": 1, "type": "hello", "folder": "/etc"}'; exit 3""", r"ended early \(exit code 3\)"),
            ("printf '\\377\\376\\000'; exit 1", "does not speak the agent's protocol; it printed"),
        ],
    )  # fmt: skip
    def test_nonsense(self, local, bundle, tmp_path, script, message):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with pytest.raises(BenchmarkError, match=message):
            bench_bundle(bundle, local, **QUICK | {"python": str(program)})
        assert Path("/etc").exists()  # A folder that the device names is not removed because it says so.

    def test_shell_that_greets_is_no_obstacle(self, local, bundle, tmp_path):
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\nprintf "Welcome\\nto the board: "\necho\nexec {sys.executable} "$@"\n')
        program.chmod(0o755)
        assert bench_bundle(bundle, local, **QUICK | {"python": str(program)}).golden.ok


class TestFigures:
    def test_percentiles_are_in_milliseconds(self):
        assert percentile_ms([1000.0, 2000.0, 3000.0], 50) == 2.0
        assert percentile_ms([0.0, 1000.0], 90) == 0.9

    @pytest.mark.parametrize(
        ("count", "low", "high"),
        [(1, 1, 1), (5, 1, 5), (10, 2, 9), (50, 18, 33), (100, 40, 61)],
    )
    def test_interval_of_the_median_is_made_of_ranks(self, count, low, high):
        """Ranks for 10, 50 and 100 as in tables of the sign test: 2 and 9, 18 and 33, 40 and 61."""
        samples = np.random.default_rng(1).permutation(np.arange(1, count + 1)) * 1000.0
        assert median_interval_ms(samples) == (low, high)

    @pytest.mark.parametrize(
        ("device", "architecture", "part_ids", "mismatches"),
        [
            ("rpi4", "aarch64", ("0xd08",), ()),
            ("rpi4", "x86_64", (), ("x86_64, profile says aarch64",)),
            ("rpi4", "armv7l", ("0xd08",), ("armv7l, profile says aarch64",)),
            ("rpi4", "aarch64", ("0xd0b",), ("CPU part 0xd0b, profile says 0xd08",)),
            ("rpi4", "aarch64", (), ("unknown CPU part, profile says 0xd08",)),
            ("rpi4", "aarch64", ("0xd08", "0xd0b"), ("CPU part 0xd08 0xd0b, profile says 0xd08",)),
        ],
    )
    def test_what_is_not_the_profiles_device(self, device, architecture, part_ids, mismatches):
        facts = DeviceFacts(
            machine=architecture, architecture=architecture, cpu_part_ids=part_ids, cpu_model=None, cores=4,
            system="Linux", kernel="6.1", python="3.11.2", numpy="1.26.4", runtime="ai-edge-litert",
            runtime_version="2.3.0", kernel_family="LITERT_XNNPACK", tried=(),
        )  # fmt: skip
        assert profile_mismatches(load_profile(device), facts) == mismatches


def test_no_heavy_library_is_imported():
    """Neither TensorFlow nor the runtime: the device has one, the host need not wait for it."""
    script = "import sys, edgecomp.bench, edgecomp.transports.ssh; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "keras", "tf_keras", "ai_edge_litert", "tflite_micro", "scipy"} & set(modules)
