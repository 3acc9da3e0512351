"""A benchmark on this machine: what counts as the profile's device, the figures, and bundles that cannot be timed."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecomp.agent.reports import DeviceFacts
from edgecomp.bench import (
    BenchSettings,
    bench_bundle,
    bench_bundles,
    median_interval_ms,
    percentile_ms,
    profile_mismatches,
    read_benchmark_files,
    time_models,
)
from edgecomp.errors import BenchmarkError, BundleError, UsageError
from edgecomp.profile import load_profile
from edgecomp.transports import connect
from tests.digits_bundle import MODELS, digit_images, golden_arrays, write_digits_bundle

ONCE = BenchSettings(
    min_seconds=0.0, max_seconds=5.0, min_processes=1, max_processes=1, precision_ratio=0.99, passes=()
)
QUICK = {"settings": ONCE, "python": sys.executable}


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
        assert measured.runs >= 50
        timing = measured.timing
        assert 0 < timing.low_ms <= timing.p50_ms <= timing.high_ms
        assert timing.p50_ms <= timing.p90_ms <= max(measured.processes_us[0]) / 1000
        assert (measured.init_ms > 0, measured.first_ms > 0) == (True, True)
        assert (measured.mode, measured.on, measured.device, measured.chosen) == ("measured", "local", "rpi4", "INT8")
        assert measured.model_sha256 == read_benchmark_files(bundle).manifest.files["model.tflite"].sha256

    def test_zip_is_the_same_bundle(self, local, bundle):
        assert bench_bundle(bundle.with_suffix(".zip"), local, **QUICK).golden.ok

    def test_json_is_plain_and_whole(self, local, bundle):
        measured = bench_bundle(bundle, local, **QUICK, num_threads=2)
        plain = json.loads(json.dumps(measured.to_json(), allow_nan=False))
        assert plain["processes_us"] == [list(samples) for samples in measured.processes_us]
        assert plain["golden"]["rule"] == "exact"
        assert plain["delegate"] == {"delegated": 3, "total": 4, "partitions": 1}
        assert (plain["runtime"], plain["kernel_family"]) == ("ai-edge-litert", "LITERT_XNNPACK")
        assert (plain["timing"]["num_samples"], plain["num_threads"]) == (measured.runs, 2)

    def test_this_machine_is_no_raspberry_pi(self, local, bundle):
        measured = bench_bundle(bundle, local, **QUICK)
        found = measured.facts.architecture
        if found == "aarch64":
            pytest.skip("this machine has the architecture of a Raspberry Pi 4")
        assert not measured.is_profile_device
        assert measured.label == f"not the profile's device: {found}, profile says aarch64"
        assert measured.verdict == "wrong_device"
        assert measured.reasons[0] == measured.label

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
        assert measured.verdict == "wrong_output"  # The gravest, whatever machine this is.
        assert measured.runs >= 50

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
            ({"min_runs": 0}, "at least 1 run, got 0"),
            ({"min_seconds": -1.0}, "0 <= min <= max, got -1 and 60"),
            ({"min_seconds": 61.0}, "0 <= min <= max, got 61 and 60"),
            ({"max_seconds": float("inf")}, "got 1 and inf"),
            ({"max_seconds": float("nan")}, "got 1 and nan"),
            ({"min_processes": 0}, "1 <= least <= most <= 100, got 0 and 5"),
            ({"min_processes": 6}, "got 6 and 5"),
            ({"precision_ratio": 0.0}, "between 0 and 1, got 0"),
            ({"timeout_s": 0.0}, "above zero, got 0 s"),
            ({"lock_wait_s": -1.0}, "at least zero, got -1 s"),
            ({"governor": "performance; id"}, "a word like performance, got 'performance; id'"),
        ],
    )
    def test_numbers_that_make_no_sense(self, wrong, message):
        with pytest.raises(UsageError, match=message):
            BenchSettings(**wrong)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"num_threads": -1}, "from 1 to 64, or 0 for one a core, got -1"),
            ({"num_threads": 65}, "got 65"),
            ({"python": "-c"}, "a name or a path, got '-c'"),
        ],
    )
    def test_what_cannot_be_asked_of_a_device(self, local, bundle, wrong, message):
        with pytest.raises(UsageError, match=message):
            bench_bundle(bundle, local, **QUICK | wrong)


class TestRounds:
    """Several fresh processes, several configurations in alternation."""

    def test_two_bundles_take_turns(self, local, bundle, tmp_path):
        """Round by round in alternating order: A B, B A, A B."""
        other = write_digits_bundle(tmp_path, model=(MODELS / "digits_float.tflite").read_bytes())
        settings = BenchSettings(min_seconds=0.0, precision_ratio=0.99, min_processes=3, max_processes=3)
        report = bench_bundles([bundle, other], local, threads=(1,), settings=settings, python=sys.executable)
        assert [measured.bundle for measured in report.measurements] == [str(bundle), str(other)]
        started = sorted(
            (process.before.t_s, measured.bundle == str(bundle))
            for measured in report.measurements
            for process in measured.conditions
        )
        assert [is_first for _, is_first in started] == [True, False, False, True, True, False]
        for measured in report.measurements:
            assert len(measured.processes_us) == 3
            assert all(len(samples) >= 50 for samples in measured.processes_us)
            # A process that only runs the model, and before that has the runtime in memory.
            assert measured.memory.peak_rss_bytes > measured.memory.runtime_rss_bytes > 10 * 2**20

    def test_more_processes_until_the_interval_is_narrow(self, local, bundle):
        """No median is known to a millionth: it ends at the most that is allowed, and says so."""
        settings = BenchSettings(
            min_seconds=0.0, max_seconds=1.0, precision_ratio=1e-6, min_processes=2, max_processes=4, passes=()
        )
        measured = bench_bundle(bundle, local, settings=settings, python=sys.executable)
        assert len(measured.processes_us) == 4
        assert any("after 4 processes (wanted: ±0.0%)" in reason for reason in measured.reasons)

    def test_one_thread_and_all(self, local, bundle):
        """Where the device has one core less is measured, never the same thing twice."""
        report = bench_bundles([bundle], local, settings=ONCE, python=sys.executable)
        cores = report.measurements[0].facts.cores
        assert [measured.num_threads for measured in report.measurements] == ([1] if cores == 1 else [1, cores])

    def test_operators_are_profiled_in_a_run_of_their_own(self, local, bundle):
        settings = replace(ONCE, passes=("profile",))
        profile = bench_bundle(bundle, local, settings=settings, python=sys.executable).profile
        assert sum(item.ratio for item in profile.operators) == pytest.approx(1)
        assert "SOFTMAX" in {item.type for item in profile.operators}  # XNNPACK has no int8 kernel for it.

    def test_generated_models_have_no_golden_samples(self, local):
        model = (MODELS / "digits_int8.tflite").read_bytes()
        timed = time_models(local, {"a": model, "b": model}, settings=ONCE, python=sys.executable)
        assert list(timed) == ["a", "b"]
        assert all(timing.low_ms <= timing.p50_ms <= timing.high_ms for timing in timed.values())

    def test_generated_model_that_does_not_load_is_named(self, local):
        models = {"good": (MODELS / "digits_int8.tflite").read_bytes(), "bad": b"nonsense"}
        with pytest.raises(BenchmarkError, match="bad could not be timed: local: ai-edge-litert does not load"):
            time_models(local, models, settings=ONCE, python=sys.executable)


def samples(text):
    """A shell command that says a line of samples."""
    said = f'{{"edgecomp": 1, "type": "samples", "configuration": 0, "unit": {text}}}'
    begun = '{"edgecomp": 1, "type": "round", "configuration": 0, "round": 0}'
    return f"echo '{begun}'; echo '{said}'"


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
            (samples('"ms", "values": [1]'), "not speak the agent's"),
            (samples('"us", "values": ["a"]'), "not speak the agent's"),
            (samples('"us", "values": [NaN]'), "not speak the agent's"),
            ("""echo '{"edgecomp": 1, "type": "stage", "configuration": 7, "name": "x"}'""", "configuration 7, there"),
            ("""echo '{"edgecomp": 1, "type": "done"}'""", "does not speak the agent's protocol: 'configuration'"),
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
