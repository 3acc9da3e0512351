"""`edgecomp fit` on models and data of every kind that its users bring."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, read_npz
from tests.whole_fits import chosen_of, fit, run

DIGITS = ROOT / "calibration_data" / "digits"
SCALED = ("--mean", "0", "--std", "16")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    script = ROOT / "tests" / "make_models.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def digits():
    return read_npz(DIGITS / "digits.npz")


def images(digits, **more):
    """The digits without labels, and more arrays by name."""
    return {key: value for key, value in digits.items() if key.startswith("x_")} | more


class TestTasks:
    @pytest.mark.slow
    def test_several_inputs_and_outputs(self, models, digits, tmp_path):
        arrays = {}
        for split in ("train", "val", "calib", "test"):
            x = digits[f"x_{split}"].astype(np.float32) / 16
            arrays[f"x_{split}.image"] = x
            arrays[f"x_{split}.numbers"] = x[:, 4, :4, 0]
            arrays[f"y_{split}.digit"] = digits[f"y_{split}"]
        np.savez(tmp_path / "data.npz", **arrays)
        code, body = fit(
            tmp_path, models / "two_in_two_out.keras", "--data", "data.npz", "--device=rpi4", "--device=stm32l4r5",
            "--max-accuracy-drop", "5pp",
        )  # fmt: skip
        assert code == 0, body
        for device in ("rpi4", "stm32l4r5"):
            # Only the labelled output is scored; the model is untrained, so the score is near chance, 0.1.
            assert 0 <= chosen_of(body, device)["accuracy"]["value"] < 0.35
            assert chosen_of(body, device)["agreement"]["value"] > 0.9

    @pytest.mark.slow
    def test_regression_is_judged_by_its_error(self, models, digits, tmp_path):
        labels = {
            key.replace("x_", "y_"): value.reshape(len(value), -1).mean(1) / 16 + 0.25
            for key, value in images(digits).items()
        }
        np.savez(tmp_path / "data.npz", **images(digits, **labels))
        options = ("--data", "data.npz", "--metric", "mae", *SCALED, "--device", "rpi4", "--precision", "INT8")
        code, body = fit(tmp_path, models / "regression.keras", *options)
        assert code == 0, body
        # The labels are 0.25 above what the model computes: its error is known.
        assert body["float_model"]["accuracy"]["value"] == pytest.approx(0.25, abs=1e-6)
        assert body["devices"][0]["limits"]["max_accuracy_drop"] == "5%"
        chosen = chosen_of(body, "rpi4")
        assert chosen["accuracy_drop_pp"] is None
        assert abs(chosen["score_drop"]["value"]) < 0.0125  # 5 % of 0.25
        assert chosen["agreement"] is None
        assert chosen["output_snr_db"] > 30

    def test_percentage_points_of_an_error_are_refused(self, models, digits, tmp_path):
        np.savez(tmp_path / "data.npz", **images(digits, y_test=np.zeros(360), y_val=np.zeros(237)))
        options = ("--metric", "mse", "--max-accuracy-drop", "1pp", *SCALED, "--device", "rpi4")
        done = run(tmp_path, "fit", models / "regression.keras", "--data", "data.npz", *options)
        assert done.returncode == 2
        assert "--max-accuracy-drop 1pp is in percentage points, which mse has not" in done.stderr

    @pytest.mark.slow
    def test_without_labels_the_answers_of_the_float_model_count(self, digits, tmp_path):
        np.savez(tmp_path / "data.npz", **images(digits))
        code, body = fit(tmp_path, DIGITS / "digits_cnn.keras", "--data", "data.npz", *SCALED, "--device", "rpi4")
        assert code == 0, body
        chosen = chosen_of(body, "rpi4")
        assert chosen["accuracy"] is None
        assert chosen["accuracy_drop_pp"] is None
        assert body["float_model"]["accuracy"] is None
        assert chosen["agreement"]["value"] >= 0.99
        assert any("There are no labels" in note for note in body["notes"])

    @pytest.mark.slow
    def test_a_metric_of_the_users_own(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "def sevens(labels, outputs):\n"
            "    return ((labels == 7) == (outputs.argmax(1) == 7)).astype(float)\n"
            "sevens.per_sample = True\n"
            "sevens.is_ratio = True\n"
        )
        model, data = DIGITS / "digits_cnn.keras", DIGITS / "digits.npz"
        code, body = fit(tmp_path, model, "--data", data, *SCALED, "--device", "rpi4", "--metric", "mine:sevens")
        assert code == 0, body
        assert body["metric"] == "mine:sevens"
        assert chosen_of(body, "rpi4")["accuracy"]["value"] > 0.97


class TestSources:
    @pytest.mark.slow
    def test_a_folder_of_images(self, digits, tmp_path):
        for split in ("train", "test"):
            for index, (image, label) in enumerate(zip(digits[f"x_{split}"], digits[f"y_{split}"], strict=True)):
                folder = tmp_path / "images" / split / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[:, :, 0]).save(folder / f"{index}.png")
        options = ("--data", "images", *SCALED, "--device", "rpi4")
        code, body = fit(tmp_path, DIGITS / "digits_cnn.keras", *options)
        assert code == 0, body
        assert chosen_of(body, "rpi4")["accuracy"]["samples"] == 360
        assert body["float_model"]["accuracy"]["value"] == pytest.approx(354 / 360)  # as from the .npz

    @pytest.mark.slow
    def test_a_function_that_streams(self, tmp_path):
        (tmp_path / "stream.py").write_text(
            "import numpy as np\n"
            "print('this must not reach stdout')\n"
            f"with np.load({str(DIGITS / 'digits.npz')!r}) as stored:\n    data = dict(stored)\n"
            "def batches(split):\n"
            "    if split not in ('train', 'test'):\n"
            "        return None\n"
            "    return ((data['x_' + split][i:i+50], data['y_' + split][i:i+50])\n"
            "            for i in range(0, len(data['x_' + split]), 50))\n"
        )
        code, body = fit(tmp_path, DIGITS / "digits_cnn.keras", "--data", "stream:batches", *SCALED, "--device", "rpi4")
        assert code == 0, body
        assert body["float_model"]["accuracy"]["value"] == pytest.approx(354 / 360)
        assert body["data"]["splits"] == {"test": 360, "validation": 200, "calibration": 200, "train": 800} | {
            "train": body["data"]["splits"]["train"]
        }

    @pytest.mark.data
    @pytest.mark.slow
    def test_a_float_tflite_without_a_signature(self, data_folder, tmp_path):
        folder = data_folder / "resnet8-cifar10"
        options = ("--data", folder / "cifar10_lossless_4k_1k.npz", "--device", "stm32l4r5")
        code, body = fit(tmp_path, folder / "pretrainedResnet.tflite", *options)
        assert code == 0, body
        assert body["model"]["kind"] == "tflite"
        assert not body["model"]["is_trainable"]
        assert body["model"]["notes"]
        assert chosen_of(body, "stm32l4r5")["accuracy"]["value"] >= 0.871

    @pytest.mark.data
    def test_a_quantized_tflite_is_no_source(self, data_folder, tmp_path):
        folder = data_folder / "resnet8-cifar10"
        options = ("--data", folder / "cifar10_lossless_4k_1k.npz", "--device", "stm32l4r5")
        done = run(tmp_path, "fit", folder / "pretrainedResnet_quant.tflite", *options)
        assert done.returncode == 1
        assert "quantized" in done.stderr


class TestWhatDevicesCannotTake:
    def test_code_in_the_model_needs_trust(self, models, tmp_path):
        options = ("--data", DIGITS / "digits.npz", *SCALED, "--device", "rpi4", "--max-accuracy-drop", "5pp")
        done = run(tmp_path, "fit", models / "with_lambda.keras", *options)
        assert done.returncode == 1
        assert "--trust-model-code" in done.stderr
        assert not (tmp_path / "bundles").exists()
        code, body = fit(tmp_path, models / "with_lambda.keras", *options, "--trust-model-code")
        assert code == 0, body

    @pytest.mark.slow
    def test_operators_outside_tflite_are_named(self, models, digits, tmp_path):
        arrays = {key: value[..., 0] if key.startswith("x_") else value for key, value in digits.items()}
        np.savez(tmp_path / "data.npz", **arrays)
        options = ("--data", "data.npz", *SCALED, "--device", "rpi4", "--trust-model-code")
        done = run(tmp_path, "fit", models / "with_select_tf.keras", *options)
        assert done.returncode == 1
        assert "MatrixDeterminant" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.slow
    def test_a_recurrent_layer_fits_without_integers_and_says_so(self, models, digits, tmp_path):
        arrays = {key: value[..., 0] if key.startswith("x_") else value for key, value in digits.items()}
        np.savez(tmp_path / "data.npz", **arrays)
        options = ("--data", "data.npz", *SCALED, "--max-accuracy-drop", "5pp")
        code, body = fit(tmp_path, models / "with_lstm.keras", *options, "--device", "rpi4")
        assert code == 0, body
        int8 = body["devices"][0]["candidates"][0]
        assert (int8["name"], int8["status"]) == ("INT8", "failed")
        assert "layer 'lstm' runs as a loop (WHILE)" in int8["reason"]
        assert body["devices"][0]["candidates"][1]["reason"] == "it builds on INT8, which could not be made"
        assert chosen_of(body, "rpi4")["agreement"]["value"] >= 0.9
        assert any("recurrent layer" in note for note in body["model"]["notes"])
