"""Post-training repair of whole models: what plain quantization loses comes back without labels or training."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from edgecomp import convert, stages
from edgecomp.errors import MissingDataError, QuantizationError
from edgecomp.graph import read_graph
from edgecomp.profile import Precision
from edgecomp.quantize import QuantizationOptions, Quantizer
from edgecomp.repair import repair as module
from edgecomp.repair.repair import repair
from edgecomp.tflite_edit import import_float
from tests.conftest import ROOT, read_npz

os.environ.update(convert.ENVIRONMENT)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tf_keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning"),
]

INT8 = QuantizationOptions(Precision.INT8, "float32")
INT4 = QuantizationOptions(Precision.INT4_WEIGHTS, "float32", int4_operators=("CONV_2D", "FULLY_CONNECTED"))


def outputs_in_litert(data, x):
    """Real outputs, (n, classes), by the plain interpreter loop of the LiteRT documentation."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for sample in x:
        interpreter.set_tensor(source["index"], sample[np.newaxis])
        interpreter.invoke()
        results.append(interpreter.get_tensor(sink["index"])[0])
    return np.array(results)


def accuracy(outputs, y):
    return float((outputs.argmax(axis=-1) == y).mean())


def snr_db(outputs, exact):
    return float(10 * np.log10((exact**2).sum() / ((outputs - exact) ** 2).sum()))


def samples_of(data, x):
    name = read_graph(data).inputs[0].name
    return [{name: sample[np.newaxis]} for sample in x]


@pytest.fixture(scope="module")
def digits():
    """The demo's float model, which is 4.8 kB, and 100 calibration samples in the order of the file."""
    images = read_npz(ROOT / "calibration_data" / "digits" / "digits.npz")["x_calib"][:100].astype(np.float32) / 16
    data = import_float((ROOT / "tests" / "models" / "digits_float.tflite").read_bytes(), "The demo's model")
    return Quantizer(data, samples_of(data, images.reshape(-1, *read_graph(data).inputs[0].sample_shape)))


@pytest.fixture(scope="module")
def keywords(data_folder):
    """Log-mel features of spoken digits: 200 train clips in random order, and the 300 test clips with labels."""
    data = read_npz(data_folder / "fsdd" / "fsdd_logmel.npz")
    order = np.random.default_rng(0).choice(len(data["x_train"]), 200, replace=False)
    train, test = ((part.astype(np.float32) + 8) / 4 for part in (data["x_train"][order], data["x_test"]))
    return train, test, data["y_test"]


@pytest.fixture(scope="module")
def badly_scaled_keras(data_folder, tmp_path_factory):
    """The spoken-digit network with depthwise channels up to 2^8 apart, which the next layer makes up for.

    In float the network is the same: gamma and beta of the batch normalization behind each depthwise layer times f, the
    weights of the next convolution over f, and a ReLU between them.
    """
    keras = pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    model = keras.models.load_model(data_folder / "fsdd" / "fsdd_dscnn.keras")
    damaged = 0
    for layer, norm, relu, following in zip(*(model.layers[i:] for i in range(4)), strict=False):
        if not isinstance(layer, keras.layers.DepthwiseConv2D):
            continue
        assert isinstance(norm, keras.layers.BatchNormalization), norm
        assert isinstance(relu, keras.layers.ReLU), relu
        factors = 2.0 ** rng.uniform(-4, 4, size=norm.gamma.shape[0])
        norm.gamma.assign(norm.gamma * factors)
        norm.beta.assign(norm.beta * factors)
        kernel, *bias = following.get_weights()
        following.set_weights([kernel / factors[:, np.newaxis], *bias])
        damaged += 1
    assert damaged == 3
    path = tmp_path_factory.mktemp("repair") / "badly_scaled.keras"
    model.save(path)
    return path


@pytest.mark.data
class TestBadlyScaledDepthwiseChannels:
    """Plain INT8 answers at random: one scale for channels 256 apart leaves most of them a step or two."""

    @pytest.fixture(scope="class")
    @staticmethod
    def case(badly_scaled_keras, keywords):
        pytest.importorskip("tensorflow")
        out = badly_scaled_keras.with_suffix(".tflite")
        convert.convert_to_float_tflite(str(badly_scaled_keras), trust_code=False, out_path=str(out))
        data = out.read_bytes()
        quantizer = Quantizer(data, samples_of(data, keywords[0]))
        return quantizer, quantizer.quantize(INT8).data, repair(quantizer, INT8)

    def test_plain_int8_fails_and_repair_alone_brings_it_back(self, case, keywords):
        quantizer, plain, repaired = case
        _, x, y = keywords
        exact = accuracy(outputs_in_litert(quantizer.float_model, x), y)
        assert exact == pytest.approx(0.9633, abs=1e-3)  # as the undamaged model
        assert accuracy(outputs_in_litert(plain, x), y) < 0.2  # measured: 0.100, of 10 classes
        assert accuracy(outputs_in_litert(repaired.model.data, x), y) >= exact - 0.01
        assert repaired.model.float_operators == ()
        assert len(repaired.model.data) <= len(plain) + 1024

    def test_equalization_is_what_did_it(self, case):
        """SNR on the held-out samples, before the softmax. Measured: plain -5.7 dB, equalized 24, both 33.6."""
        trials = {trial.name: trial.snr_db for trial in case[2].trials}
        assert trials["plain"] < 0
        assert trials["biases corrected"] < 5
        assert trials["equalized"] > 20
        assert trials["equalized, biases corrected"] > trials["equalized"] + 5
        assert case[2].best.steps[0] == "equalized"
        assert case[2].best.steps[-1] == "biases corrected"

    def test_the_rescaled_float_model_gives_what_the_original_gives(self, case, keywords):
        quantizer = case[0]
        rescaled = module.equalize(quantizer.float_model, quantizer.samples)
        want = outputs_in_litert(quantizer.float_model, keywords[1])
        got = outputs_in_litert(rescaled.data, keywords[1])
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
        assert len(rescaled.links) == 7
        assert max(link.spread_before for link in rescaled.links) > 256
        assert [item.reason for item in rescaled.skipped] == ["SOFTMAX stands between it and the next layer"]


@pytest.mark.data
class TestResNet8:
    """MLPerf Tiny's image classification model, float 0.881 on these 1,000 images."""

    @pytest.fixture(scope="class")
    @staticmethod
    def case(data_folder):
        folder = data_folder / "resnet8-cifar10"
        data = import_float((folder / "pretrainedResnet.tflite").read_bytes(), "ResNet8")
        images = read_npz(folder / "cifar10_lossless_4k_1k.npz")
        order = np.random.default_rng(0).choice(4000, 200, replace=False)
        train = images["x_train"][order].astype(np.float32)
        return (
            Quantizer(data, samples_of(data, train)),
            train[1::2],
            images["x_test"].astype(np.float32),
            images["y_test"].ravel(),
        )

    def test_int8_that_is_already_good_gets_no_worse(self, case):
        """On the 100 samples that judge, recomputed with a plain LiteRT loop. Measured: 23.8 to 24.5 dB."""
        quantizer, held_out, _, _ = case
        repaired = repair(quantizer, INT8)
        exact = outputs_in_litert(quantizer.float_model, held_out)
        before = snr_db(outputs_in_litert(quantizer.quantize(INT8).data, held_out), exact)
        after = snr_db(outputs_in_litert(repaired.model.data, held_out), exact)
        assert repaired.samples == 100
        assert repaired.trials[0].output_snr_db == pytest.approx(before, abs=0.01)
        assert repaired.best.output_snr_db == pytest.approx(after, abs=0.01)
        assert after >= before
        # Before the softmax, which decides: measured 29.0 to 30.3 dB.
        assert repaired.best.snr_db >= repaired.trials[0].snr_db + 0.5

    @pytest.mark.slow
    def test_4_bit_weights_come_back_most_of_the_way(self, case):
        """Measured on 1,000 test images: OCTAV 0.683, biases corrected 0.81, best method a tensor as well 0.839."""
        quantizer, _, x, y = case
        plain = accuracy(outputs_in_litert(quantizer.quantize(INT4).data, x), y)
        repaired = repair(quantizer, INT4)
        assert plain < 0.70
        assert accuracy(outputs_in_litert(repaired.model.data, x), y) > 0.82
        assert len(repaired.model.data) <= 1.02 * len(quantizer.quantize(INT4).data)
        assert {"ranges chosen", "biases corrected"} <= set(repaired.best.steps)
        weights = {
            quantizer.graph.main.input(operator, 1).name
            for operator in quantizer.graph.main.operators
            if operator.code in INT4.int4_operators
        }
        assert len(weights) == 10
        assert {repaired.ranges[name] for name in weights} == {"MSE"}


class TestRepair:
    def test_the_same_samples_give_the_same_bytes(self, digits):
        again = Quantizer(digits.float_model, digits.samples)
        assert repair(again, INT4).model.data == repair(digits, INT4).model.data

    @pytest.mark.parametrize("options", [INT8, INT4], ids=["INT8", "INT4_WEIGHTS"])
    def test_what_it_returns_is_never_further_off_than_plain(self, digits, options):
        found = repair(digits, options)
        assert found.trials[0].name == "plain"
        assert found.best.output_snr_db >= found.trials[0].output_snr_db
        assert found.samples == 50
        held_out = np.concatenate([next(iter(sample.values())) for sample in digits.samples[1::2]])
        exact = outputs_in_litert(digits.float_model, held_out)
        measured = snr_db(outputs_in_litert(found.model.data, held_out), exact)
        assert measured == pytest.approx(found.best.output_snr_db, abs=0.01)

    def test_inputs_and_outputs_keep_the_type_that_was_asked_for(self, digits):
        made = repair(digits, QuantizationOptions(Precision.INT8, "int8")).model
        graph = read_graph(made.data)
        assert [spec.dtype for spec in graph.inputs + graph.outputs] == ["int8", "int8"]
        assert made.float_operators == ()

    def test_plain_is_returned_where_nothing_is_better(self, digits, monkeypatch):
        monkeypatch.setattr(module, "_MARGIN_DB", 1000.0)
        found = repair(digits, INT8)
        assert found.best.steps == ()
        assert found.ranges == {}
        assert found.model.data == digits.quantize(INT8).data

    def test_then_the_candidate_fails_with_the_reason(self, digits, monkeypatch):
        monkeypatch.setattr(module, "_MARGIN_DB", 1000.0)
        monkeypatch.setattr(stages, "_quantizer", lambda bench: digits)
        bench = stages.Workbench(ROOT, "accuracy", 0)
        with pytest.raises(QuantizationError, match="Nothing that repair tries comes nearer to the float model than"):
            stages.repair_candidate(bench, INT8)

    def test_other_precisions_are_refused(self, digits):
        with pytest.raises(QuantizationError, match="Repair is for INT4_WEIGHTS and INT8, not for FLOAT16"):
            repair(digits, QuantizationOptions(Precision.FLOAT16, "float32"))

    def test_too_few_samples_are_an_error(self, digits):
        few = Quantizer(digits.float_model, digits.samples[:7])
        with pytest.raises(MissingDataError, match=r"at least 8 calibration samples, .*; there are 7"):
            repair(few, INT8)


@pytest.mark.data
@pytest.mark.slow
class TestFit:
    """The whole command on the badly scaled model."""

    @staticmethod
    def fit(folder, model, data, *more):
        command = [sys.executable, "-m", "edgecomp", "fit", model, "--data", data, "--mean=-8", "--std", "4", "--json"]
        done = subprocess.run([*command, *more], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        return done.returncode, json.loads(done.stdout)

    def test_repair_is_the_next_candidate(self, badly_scaled_keras, data_folder, tmp_path):
        data = data_folder / "fsdd" / "fsdd_logmel.npz"
        code, body = self.fit(tmp_path, badly_scaled_keras, data, "--device", "rpi4", "--device", "stm32l4r5")
        assert code == 0, body
        for device in body["devices"]:
            assert device["chosen"] == "INT8 repaired"
            plain, chosen, *rest = device["candidates"]
            assert plain["breaks"][0]["limit"] == "accuracy_drop"
            assert plain["accuracy_drop_pp"]["value"] > 70
            assert plain["repair"] is None
            assert chosen["accuracy_drop_pp"]["value"] <= 1
            assert chosen["method"].startswith("ai-edge-quantizer, repaired: equalized")
            assert chosen["repair"]["trials"][0]["name"] == "plain"
            assert chosen["repair"]["samples"] == 100
            assert "calibration samples); meets every limit" in chosen["reason"]
            assert {item["status"] for item in rest} == {"skipped"}
            assert abs(chosen["model_bytes"] - plain["model_bytes"]) <= 1024

    def test_int8_alone_stays_plain(self, badly_scaled_keras, data_folder, tmp_path):
        data = data_folder / "fsdd" / "fsdd_logmel.npz"
        code, body = self.fit(tmp_path, badly_scaled_keras, data, "--device", "rpi4", "--precision", "INT8")
        assert code == 3
        assert [item["name"] for item in body["devices"][0]["candidates"]] == ["INT8"]
