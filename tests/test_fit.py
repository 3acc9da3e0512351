"""The main job, whole: the embedded demo through the command line, in worker processes, to bundles."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecomp.bundle.verify import verify_bundle
from edgecomp.report.terminal import print_fit
from edgecomp.results import FitResult
from tests.conftest import ROOT, read_npz
from tests.whole_fits import EDGECOMP, chosen_of, fit, run, score_in_litert


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The embedded demo for every device, run in an empty folder."""
    folder = tmp_path_factory.mktemp("demo")
    code, body = fit(folder, "--device", "rpi4", "--device", "stm32l4r5", "--device", "pixel4")
    assert code == 0, body
    return folder, body


class TestDemo:
    def test_says_that_it_is_the_demo(self, demo):
        assert demo[1]["notes"][0].startswith("No MODEL was given: this is the embedded demo")

    def test_every_device_fits_and_has_a_bundle_that_verifies(self, demo):
        folder, body = demo
        assert body["status"] == "fits"
        assert [item["device"] for item in body["devices"]] == ["rpi4", "stm32l4r5", "pixel4"]
        for item in body["devices"]:
            report = verify_bundle(folder / item["bundle"])
            assert report.max_difference_lsb == 0  # same kernels, same machine
            assert verify_bundle((folder / item["bundle"]).with_suffix("")).files == report.files

    def test_reported_accuracy_is_that_of_the_shipped_bytes(self, demo):
        folder, body = demo
        data = read_npz(ROOT / "calibration_data" / "digits" / "digits.npz")
        model = folder / "bundles" / "digits_cnn-rpi4" / "model.tflite"
        accuracy = chosen_of(body, "rpi4")["accuracy"]
        assert accuracy["split"] == "test"
        assert accuracy["samples"] == 360
        assert accuracy["value"] == pytest.approx(score_in_litert(model, data["x_test"] / 16, data["y_test"]))
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]

    def test_result_is_what_the_documented_schema_says(self, demo):
        assert FitResult.model_validate(demo[1]).to_json() == demo[1]

    def test_the_chosen_one_is_held_against_the_float_model_beyond_the_average(self, demo):
        for device in demo[1]["devices"]:
            for item in device["candidates"]:
                assert (item["robustness"] is not None) == (item["status"] == "chosen")
            chosen = chosen_of(demo[1], device["device"])
            found = chosen["robustness"]
            assert found["mode"] == "measured"
            assert found["kernels"] == chosen["accuracy"]["kernels"]
            flips, worst = found["flips"], found["worst_class"]
            assert flips["value"] == pytest.approx(1 - chosen["agreement"]["value"])
            # What got worse minus what got better is the drop.
            lost = 100 * (flips["worse"]["value"] - flips["better"]["value"])
            assert lost == pytest.approx(chosen["accuracy_drop_pp"]["value"])
            assert worst["compared"] == 10  # 33 to 37 test samples of every digit
            assert worst["drop_pp"]["value"] >= chosen["accuracy_drop_pp"]["value"]
            assert [item["name"] for item in found["conditions"]] == ["clean", "noise", "blur", "brightness", "jpeg"]
            assert found["conditions"][0]["score"] == chosen["accuracy"]["value"]  # all 360 samples
            manifest = json.loads((demo[0] / device["bundle"]).with_suffix("").joinpath("manifest.json").read_text())
            assert manifest["metrics"]["robustness"] == found

    def test_the_float_model_scores_the_same_for_every_device(self, demo):
        body = demo[1]
        scores = [
            [item["float_score"] for item in chosen_of(body, name)["robustness"]["conditions"]]
            for name in ("rpi4", "stm32l4r5", "pixel4")
        ]
        assert scores[0][0] == body["float_model"]["accuracy"]["value"]
        assert scores[0] == scores[1] == scores[2]

    def test_corrupted_accuracy_is_that_of_images_corrupted_elsewhere(self, demo):
        folder, body = demo
        data = read_npz(ROOT / "calibration_data" / "digits" / "digits.npz")
        x, y = data["x_test"], data["y_test"]
        model = folder / "bundles" / "digits_cnn-rpi4" / "model.tflite"
        decoded = np.empty(x.shape)
        for index, image in enumerate(x[..., 0]):
            file = io.BytesIO()
            Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)).save(file, "jpeg", quality=65)
            decoded[index, :, :, 0] = np.asarray(Image.open(file))
        conditions = {item["name"]: item["score"] for item in chosen_of(body, "rpi4")["robustness"]["conditions"]}
        # Pixels are whole numbers from 0 to 16: 0.1 of that is 1.6, rounded after it was added.
        brighter = np.minimum(np.rint(x + 1.6), 16)
        assert conditions["brightness"] == pytest.approx(score_in_litert(model, brighter / 16, y))
        assert conditions["jpeg"] == pytest.approx(score_in_litert(model, np.rint(decoded * (16 / 255)) / 16, y))
        assert conditions["brightness"] < conditions["clean"]

    def test_people_see_it_below_the_table(self, demo, capsys):
        print_fit(FitResult.model_validate(demo[1]))
        lines = capsys.readouterr().out.splitlines()
        table = next(index for index, line in enumerate(lines) if line.startswith("360 samples"))
        assert lines[table].split() == ["360", "samples", "INT8", "accuracy", "float", "accuracy", "drop"]
        shown = {line.split()[0]: line.split()[1:3] for line in lines[table + 1 : table + 6]}
        conditions = chosen_of(demo[1], "rpi4")["robustness"]["conditions"]
        assert shown == {item["name"]: [f"{item['score']:.3f}", f"{item['float_score']:.3f}"] for item in conditions}
        assert "of the float model's 360 answers: " in lines[table - 2]
        assert "loses most of 10 classes: " in lines[table - 1]
        assert sum(line.startswith("corrupted test samples: noise: Gaussian") for line in lines) == 1

    def test_the_default_io_is_that_of_the_device(self, demo):
        body = demo[1]
        assert {name: chosen_of(body, name)["io"] for name in ("rpi4", "stm32l4r5", "pixel4")} == {
            "rpi4": "float32",
            "stm32l4r5": "int8",
            "pixel4": "float32",
        }

    @pytest.mark.slow
    def test_one_seed_gives_one_model_and_one_bundle(self, demo, tmp_path):
        code, body = fit(tmp_path, "--device", "rpi4", "--device", "stm32l4r5")
        assert code == 0
        for device in ("rpi4", "stm32l4r5"):
            assert chosen_of(body, device)["sha256"] == chosen_of(demo[1], device)["sha256"]
        assert [item["bundle_sha256"] for item in body["devices"]] == [
            item["bundle_sha256"] for item in demo[1]["devices"][:2]
        ]

    def test_nothing_is_left_but_the_bundles(self, demo):
        folder, _ = demo
        assert {path.name for path in folder.iterdir()} == {"bundles"}
        assert len(list((folder / "bundles").iterdir())) == 6  # a folder and a .zip a device

    @pytest.mark.slow
    def test_bench_of_a_bundle(self, demo):
        folder, body = demo
        bundle = body["devices"][0]["bundle"]
        done = run(folder, "bench", bundle, "--host", "local", "--python", sys.executable, "--json")
        measured = json.loads(done.stdout)["measurements"][0]
        assert done.returncode == 4
        assert measured["verdict"] == "wrong_device"
        assert measured["golden"]["equal"]
        assert len(measured["processes_us"]) >= 3
        assert all(len(samples) >= 50 for samples in measured["processes_us"])
        table = run(folder, "bench", bundle, "--host", "local", "--python", sys.executable)
        assert "bit by bit" in table.stdout
        assert "wrong device" in table.stdout
        assert "not the profile's device" in table.stdout

    def test_a_microcontroller_bundle_cannot_be_timed_on_a_host(self, demo):
        folder, body = demo
        done = run(folder, "bench", body["devices"][1]["bundle"], "--host", "local")
        assert done.returncode == 1
        assert "is for a microcontroller (stm32l4r5)" in done.stderr


class TestInterrupt:
    def children(self, pid):
        listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
        return [int(row[0]) for row in rows if int(row[1]) == pid]

    @pytest.mark.parametrize("seconds", [0.7, 3.0])
    def test_ctrl_c_ends_the_workers_and_leaves_nothing(self, tmp_path, seconds):
        with subprocess.Popen(
            [*EDGECOMP, "fit", "--device", "rpi4"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(seconds)
            children = self.children(process.pid)
            process.send_signal(signal.SIGINT)
            stderr = process.stderr.read()
            code = process.wait(timeout=30)
        assert code == 130, stderr
        assert stderr.rstrip().endswith("Interrupted.")
        assert "Traceback" not in stderr
        assert children or seconds < 1
        for pid in children:
            assert not Path(f"/proc/{pid}").exists()
        bundles = tmp_path / "bundles"
        assert not bundles.exists() or list(bundles.iterdir()) == []


class TestConfidence:
    """--confident: the bound of the interval decides, not the point estimate."""

    def decide(self, **fields):
        from edgecomp.candidates import values_of, with_scores
        from edgecomp.inference import KernelFamily
        from edgecomp.metrics import Estimate
        from edgecomp.results import CandidateResult
        from edgecomp.scoring import Comparison

        empty = {"score": None, "float_score": None, "drop": None, "agreement": None, "output_snr_db": 20.0}
        estimates = {name: Estimate(*value) for name, value in fields.items()}
        comparison = Comparison(samples=10, **(empty | estimates))
        made = CandidateResult(name="INT8", status="rejected", reason="", sha256="0")
        result = with_scores(made, comparison, "validation", KernelFamily.LITERT_XNNPACK, is_ratio=True)
        float_score = None if comparison.float_score is None else comparison.float_score.value
        return [values_of(result, float_score, confident=confident) for confident in (False, True)]

    def test_a_drop(self):
        found = self.decide(score=(0.87, 0.85, 0.89), float_score=(0.88, 0.86, 0.9), drop=(0.01, -0.002, 0.022))
        assert [item.drop for item in found] == pytest.approx([0.01, 0.022])
        assert [item.score for item in found] == [0.87, 0.85]
        assert [item.float_score for item in found] == [0.88, 0.88]
        assert [item.flips for item in found] == [None, None]

    def test_without_labels_the_share_of_changed_answers(self):
        found = self.decide(agreement=(0.99, 0.97, 1.0))
        assert [item.drop for item in found] == [item.flips for item in found] == pytest.approx([0.01, 0.03])
        assert [item.score for item in found] == [None, None]

    def test_without_classes_the_noise(self):
        # 20 dB: the noise has a hundredth of the signal's power.
        assert [item.drop for item in self.decide()] == pytest.approx([0.01, 0.01])


def test_the_wheel_brings_profiles_and_demo(tmp_path):
    """`pip install .` ships device_profiles/ and calibration_data/ inside the package."""
    import zipfile

    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT],
        check=True,
        capture_output=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "device_profiles").glob("*.toml"):
        assert f"edgecomp/device_profiles/{path.name}" in names
    for name in ("digits.npz", "digits_cnn.keras"):
        assert f"edgecomp/calibration_data/digits/{name}" in names
    assert "edgecomp/py.typed" in names
    assert "edgecomp/bundle/run_model.py" in names
