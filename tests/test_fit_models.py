"""Whole fits of published models with their data: accuracy, sizes and what each kind of device gets."""

import json

import pytest

from tests.conftest import read_npz
from tests.whole_fits import chosen_of, fit, score_in_litert

CIFAR = ("resnet8-cifar10/pretrainedResnet.h5", "resnet8-cifar10/cifar10_lossless_4k_1k.npz")


@pytest.mark.data
@pytest.mark.slow
class TestResNet8:
    """MLPerf Tiny's image classification model: float 0.881 on these 1,000 images, reference int8 file 98,496 bytes."""

    @pytest.fixture(scope="class")
    @staticmethod
    def result(data_folder, tmp_path_factory):
        folder = tmp_path_factory.mktemp("resnet8")
        model, data = (data_folder / name for name in CIFAR)
        code, body = fit(folder, model, "--data", data, "--device", "rpi4", "--device", "stm32l4r5")
        assert code == 0, body
        return folder, body

    def test_float_baseline_is_the_published_one(self, result):
        assert result[1]["float_model"]["accuracy"]["value"] == 0.881

    @pytest.mark.parametrize("device", ["rpi4", "stm32l4r5"])
    def test_int8_keeps_the_accuracy_at_the_reference_size(self, result, device):
        chosen = chosen_of(result[1], device)
        assert chosen["name"] == "INT8"
        assert chosen["accuracy"]["value"] >= 0.871
        assert chosen["accuracy"]["samples"] == 1000
        assert chosen["model_bytes"] <= 98_496
        assert chosen["float_operators"] == []

    def test_accuracy_equals_that_of_a_plain_interpreter_loop(self, result, data_folder):
        data = read_npz(data_folder / CIFAR[1])
        model = result[0] / "bundles" / "pretrainedResnet-rpi4" / "model.tflite"
        assert chosen_of(result[1], "rpi4")["accuracy"]["value"] == pytest.approx(
            score_in_litert(model, data["x_test"], data["y_test"])
        )

    def test_microcontroller_file_ran_in_tflite_micro(self, result):
        pytest.importorskip("tflite_micro", reason="wheels exist for Linux x86-64 only")
        chosen = chosen_of(result[1], "stm32l4r5")
        assert chosen["accuracy"]["kernels"] == "TFLM"
        assert chosen["arena_mode"] == "simulated"
        assert 49_152 < chosen["arena_bytes"] < 60_000  # head 49,152 by the memory plan, plus the tail
        assert chosen["tflm"]["argmax_agreement"] >= 0.98
        assert chosen["tflm"]["max_difference_lsb"] <= 32

    def test_corruptions_cost_both_models_alike(self, result):
        found = [chosen_of(result[1], device)["robustness"] for device in ("rpi4", "stm32l4r5")]
        assert found[0]["samples"] == 500
        # 12.5 M multiplications: too many for 2,000 inferences in TFLM's reference kernels.
        assert [item["kernels"] for item in found] == ["LITERT_XNNPACK", "LITERT_BUILTIN"]
        for item in found:
            conditions = {condition["name"]: condition for condition in item["conditions"]}
            assert conditions["noise"]["float_score"] < 0.5 < 0.7 < conditions["jpeg"]["float_score"]
            for condition in conditions.values():
                assert abs(condition["accuracy_drop_pp"]["value"]) < 4
            assert 0.005 < item["flips"]["value"] < 0.05

    def test_a_model_that_has_seen_its_validation_samples_is_noted(self, result):
        assert any("probably trained on the validation samples" in note for note in result[1]["notes"])

    def test_the_paired_interval_is_narrower_than_the_two_scores_suggest(self, result):
        drop = chosen_of(result[1], "rpi4")["accuracy_drop_pp"]
        # Two independent scores of 1,000 images have a difference of +-2.9 pp; 2 to 3 % of the answers differ here.
        assert drop["high"] - drop["low"] < 3.0
        assert drop["low"] <= drop["value"] <= drop["high"]

    def test_tight_limits_walk_down_the_whole_plan(self, data_folder, tmp_path):
        model, data = (data_folder / name for name in CIFAR)
        arguments = (model, "--data", data, "--device", "rpi4", "--device", "stm32l4r5", "--max-model-size", "40KiB")
        # Slimmed for TFLM INT4_WEIGHTS has 44,768 bytes, as it was made 56,440.
        code, body = fit(tmp_path, *arguments)
        assert code == 3
        assert body["status"] == "no_fit"
        assert list((tmp_path / "bundles").iterdir()) == []
        for device in body["devices"]:
            assert device["bundle"] is None
            for item in device["candidates"]:
                if item["status"] == "skipped":
                    assert item["name"] in ("SELECTIVE", "INT8 repaired", "INT4_WEIGHTS repaired")
                    continue
                assert item["status"] == "rejected"
                size = next(limit for limit in item["breaks"] if limit["limit"] == "model_size")
                assert (size["value"], size["allowed"]) == (item["model_bytes"], 40_960)
                assert "above the 40.0 KiB allowed" in item["reason"]
        by_name = {item["name"]: item for item in body["devices"][0]["candidates"]}
        # What each precision stores for a weight: 4, 2, 1 and (convolutions only) 0.5 bytes; 78,666 parameters.
        assert by_name["FLOAT32"]["model_bytes"] > 4 * 77_000
        assert by_name["FLOAT16"]["model_bytes"] == pytest.approx(by_name["FLOAT32"]["model_bytes"] / 2, rel=0.1)
        assert by_name["INT4_WEIGHTS"]["model_bytes"] < 0.62 * by_name["INT8"]["model_bytes"]
        assert by_name["FLOAT16"]["agreement"]["value"] >= 0.995
        assert by_name["INT16X8"]["agreement"]["value"] >= 0.985
        coded = next(item for item in body["devices"][1]["candidates"] if item["name"] == "INT8")
        assert coded["packing"]["kinds"] == ["HUFFMAN"]  # too large slimmed: coded, and too large still
        assert coded["model_bytes"] < coded["packing"]["plain_bytes"] < coded["packing"]["unpacked_bytes"]

    def test_sensitive_layers_are_kept_when_int8_misses_the_accuracy(self, data_folder, tmp_path):
        model, data = (data_folder / name for name in CIFAR)
        # Asked for as they are: without --precision repair would come between them, and be enough here.
        asked = ("--precision", "INT8", "--precision", "SELECTIVE")
        code, body = fit(tmp_path, model, "--data", data, "--device", "rpi4", "--max-accuracy-drop", "0.2pp", *asked)
        assert code == 0
        int8, selective = body["devices"][0]["candidates"]
        assert int8["breaks"][0]["limit"] == "accuracy_drop"
        assert selective["name"] == body["devices"][0]["chosen"] == "SELECTIVE"
        assert 1 <= len(selective["kept_operators"]) == len(selective["float_operators"])
        assert int8["model_bytes"] < selective["model_bytes"] < body["float_model"]["model_bytes"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("model", "data", "options", "float_accuracy", "samples"),
    [
        pytest.param(
            "mnist/mnist_lenet.keras",
            "mnist/mnist.npz",
            ("--mean", "0", "--std", "255"),
            0.986,
            10_000,
            marks=pytest.mark.slow,
        ),
        ("fsdd/fsdd_dscnn.keras", "fsdd/fsdd_logmel.npz", ("--mean=-8", "--std", "4"), 0.9633, 300),
        (
            "har-spsw/har_cnn1d.keras",
            "har-spsw/har_spsw_w64.npz",
            (
                "--mean=-5.1423,-1.8441,0.4623,-0.0095,-0.0002,0.0314",
                "--std=5.0414,6.4378,4.2962,1.3490,1.2518,1.0536",
                "--group-key=subject",
            ),
            0.9185,
            2514,
        ),
    ],
    ids=["mnist", "fsdd", "har"],
)
def test_keras_3_models(data_folder, tmp_path, model, data, options, float_accuracy, samples):
    code, body = fit(
        tmp_path, data_folder / model, "--data", data_folder / data, *options, "--device=rpi4", "--device=stm32l4r5"
    )
    assert code == 0, body
    assert body["model"]["kind"] == "keras3"
    assert body["model"]["is_trainable"]
    assert body["model"]["rebuild_max_difference"] <= 1e-5
    assert body["float_model"]["accuracy"]["value"] == pytest.approx(float_accuracy, abs=1e-4)
    for device in ("rpi4", "stm32l4r5"):
        chosen = chosen_of(body, device)
        assert chosen["name"] == "INT8"
        assert chosen["accuracy"]["samples"] == samples
        assert chosen["accuracy"]["value"] >= float_accuracy - 0.01
        assert chosen["agreement"]["value"] >= 0.98
    assert chosen_of(body, "stm32l4r5")["arena_bytes"] > 0


@pytest.mark.data
@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
@pytest.mark.slow
def test_io_type_is_that_of_the_file(data_folder, tmp_path, io):
    model, data = (data_folder / name for name in CIFAR)
    code, body = fit(tmp_path, model, "--data", data, "--device", "rpi4", "--precision", "INT8", "--io", io)
    assert code == 0
    assert chosen_of(body, "rpi4")["accuracy"]["value"] >= 0.871
    manifest = json.loads((tmp_path / "bundles" / "pretrainedResnet-rpi4" / "manifest.json").read_text())
    for tensor in (*manifest["inputs"], *manifest["outputs"]):
        assert tensor["dtype"] == io
        assert (tensor["scale"] is None) == (io == "float32")
