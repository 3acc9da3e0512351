"""`edgecomp bench --accuracy N`: test samples that are answered on the device and scored here."""

import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import edgecomp.bench.evaluation as evaluation_module
from edgecomp.bench import BenchSettings, bench_bundles
from edgecomp.bench.evaluation import SampleEvaluation
from edgecomp.bundle.manifest import Manifest
from edgecomp.errors import BenchmarkError, BundleError, DataError, MissingDataError, UsageError
from edgecomp.tflite_build import Node, Tensor, build_model
from edgecomp.transports import connect
from tests.conftest import ROOT, missing, read_npz
from tests.digits_bundle import MODELS, npz, write_digits_bundle
from tests.planned_fits import called
from tests.sshd import missing_tools, running_sshd, wait_until

DIGITS = ROOT / "calibration_data" / "digits"
DATA = DIGITS / "digits.npz"
SETTINGS = BenchSettings(
    min_seconds=0.0, max_seconds=5.0, min_processes=1, max_processes=1, precision_ratio=0.99, passes=()
)
QUICK = ("--runs", 5, "--min-seconds", 0, "--max-processes", 1, "--processes", 1, "--threads", 1)
ARGS = ("--host", "local", "--python", sys.executable, *QUICK)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """What is used for temporary files, here and on the device that is this machine; nothing may be left there."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def local(temporary):
    with connect("local") as transport:
        yield transport


def retold(bundle, **changes):
    """A bundle whose manifest says something else."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return bundle


def manifest_of(bundle):
    return Manifest.model_validate_json((bundle / "manifest.json").read_bytes())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The demo, fitted: float inputs, preprocessing (x - 0) / 16."""
    folder = tmp_path_factory.mktemp("fitted")
    done = called(
        "fit", DIGITS / "digits_cnn.keras", "--data", DATA, "--mean", "0", "--std", "16", "--device", "rpi4",
        "--precision", "INT8", "--store", folder / "store", "--out", folder,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "digits_cnn-rpi4"


@pytest.fixture
def bundle(tmp_path):
    """The digits model whose inputs and outputs are int8 themselves; made without any fit."""
    return retold(write_digits_bundle(tmp_path / "bundles"), preprocessing={"mean": [0.0], "std": [16.0]})


@pytest.fixture
def digits():
    return read_npz(DATA)


def written(folder, **arrays):
    path = folder / "data.npz"
    path.write_bytes(npz(arrays))
    return path


def interpreted(model, stored):
    """Outputs of every sample by LiteRT itself, its values as they are stored."""
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (fed,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for sample in stored:
        interpreter.set_tensor(fed["index"], sample[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(out["index"])[0].copy())
    return np.stack(found)


def inputs_of(evaluation, manifest):
    with np.load(io.BytesIO(evaluation.inputs_for(manifest))) as arrays:
        return dict(arrays)


def answers(outputs):
    """What a device sends back: each inference with its batch axis."""
    return npz({"output_0": outputs[:, None]})


class TestScore:
    @pytest.mark.slow
    def test_all_samples_of_a_fit(self, temporary, fitted, digits):
        """The same file, kernels, samples and seed as for the bundle: the same score, and the same interval."""
        done = called("bench", fitted, *ARGS, "--accuracy", 1000, "--data", DATA, "--json")
        (measured,) = json.loads(done.stdout)["measurements"]
        score, known = measured["score"], manifest_of(fitted).metrics["accuracy"]
        assert (score["value"], score["low"], score["high"]) == (known["value"], known["low"], known["high"])
        assert (score["host_value"], score["host_kernels"]) == (known["value"], known["kernels"])
        assert (score["samples"], score["test_samples"]) == (360, 360)  # All that there are.
        assert (score["metric"], score["agreement"], score["mode"]) == ("accuracy", 1.0, "measured")
        outputs = interpreted((fitted / "model.tflite").read_bytes(), digits["x_test"].astype(np.float32) / 16)
        assert score["value"] == np.mean(outputs.argmax(1) == digits["y_test"])

    def test_some_samples(self, temporary, bundle, digits):
        done = called("bench", bundle, *ARGS, "--accuracy", 100, "--data", DATA)
        assert "(measured there on 100 of 360 test samples; " in " ".join(done.stdout.split())
        assert "same answer on 100.0%" in done.stdout
        stored = inputs_of(SampleEvaluation(str(DATA), 100), manifest_of(bundle))["input_0"]
        outputs = interpreted((MODELS / "digits_int8.tflite").read_bytes(), stored)
        right = outputs.argmax(1) == digits["y_test"][positions(stored, digits)]
        assert f"accuracy {right.mean():.4f} [" in done.stdout

    def test_several_numbers_of_threads_are_scored_once(self, local, bundle):
        report = bench_bundles(
            [bundle], local, threads=(1, 2), settings=SETTINGS, python=sys.executable,
            evaluation=SampleEvaluation(str(DATA), 20),
        )  # fmt: skip
        assert [one.score is None for one in report.measurements] == [False, True][: len(report.measurements)]
        assert report.failed == ()

    def test_other_answers_on_the_device(self, bundle, digits):
        """A device that answers 36 of 360 otherwise: a tenth less agreement, and as many right ones less."""
        model, evaluation, manifest = read_model(bundle), SampleEvaluation(str(DATA), 360), manifest_of(bundle)
        outputs = interpreted(model, inputs_of(evaluation, manifest)["input_0"])
        right = outputs.argmax(1) == digits["y_test"]
        wrong = np.flatnonzero(right)[:36]
        outputs[wrong] = np.roll(outputs[wrong], 1, axis=1)
        score = evaluation.score(manifest, model, answers(outputs))
        assert score.agreement == pytest.approx(0.9)
        assert score.host_value == right.mean()
        assert score.value == pytest.approx(right.mean() - 0.1)
        assert score.low < score.value < score.high

    def test_a_regression_has_no_agreement(self, bundle, tmp_path, digits):
        """Mean absolute error of all ten outputs against numbers that are no classes."""
        wanted = np.random.default_rng(0).random((360, 10), np.float32)
        data = written(tmp_path, x_test=digits["x_test"], y_test=wanted, x_val=digits["x_val"])
        manifest = manifest_of(retold(bundle, fit={"metric": "mae"}))
        evaluation, model = SampleEvaluation(str(data), 360), read_model(bundle)
        outputs = interpreted(model, inputs_of(evaluation, manifest)["input_0"])
        score = evaluation.score(manifest, model, answers(outputs))
        real = (outputs.astype(np.float64) + 128) / 256  # Scale and zero point of the output.
        assert (score.metric, score.agreement) == ("mae", None)
        assert score.value == score.host_value == pytest.approx(np.abs(real - wanted).mean(), rel=1e-6)

    def test_a_metric_of_the_users_own(self, temporary, bundle, tmp_path, monkeypatch, digits):
        (tmp_path / "sevens_metric.py").write_text(
            "def sevens(labels, outputs):\n    return float(((labels == 7) == (outputs.argmax(1) == 7)).mean())\n"
        )
        monkeypatch.chdir(tmp_path)
        retold(bundle, fit={"metric": "sevens_metric:sevens"})
        done = called("bench", bundle, *ARGS, "--accuracy", 360, "--data", DATA, "--json")
        score = json.loads(done.stdout)["measurements"][0]["score"]
        stored = inputs_of(SampleEvaluation(str(DATA), 360), manifest_of(bundle))["input_0"]
        sevens = interpreted(read_model(bundle), stored).argmax(1) == 7
        assert score["metric"] == "sevens_metric:sevens"
        assert score["value"] == np.mean((digits["y_test"] == 7) == sevens)

    @pytest.mark.slow
    def test_several_inputs(self, local, tmp_path):
        """a - b, so that swapped inputs would be seen; 40 samples of which the sign of the sum is known."""
        first, second = (Tensor("FLOAT32", (1, 4)) for _ in range(2))
        out = Tensor("FLOAT32", (1, 4))
        model = build_model([Node("SUB", [first, second], [out], schema.SubOptionsT())])
        rng = np.random.default_rng(3)
        a, b = rng.normal(size=(2, 40, 4)).astype(np.float32)
        golden = {"input_0": a[:8], "input_1": b[:8], "output_0": a[:8] - b[:8]}
        labels = (a - b).argmax(1)
        labels[:10] = (labels[:10] + 1) % 4
        data = written(tmp_path, **{"x_test.SUB in 0": a, "x_test.SUB in 1": b, "y_test": labels})
        made = write_digits_bundle(tmp_path, model=model, arrays=golden)
        # Without training samples half of the test samples are the validation's: the other half was the fit's test.
        report = bench_bundles(
            [made], local, threads=(1,), settings=SETTINGS, python=sys.executable,
            evaluation=SampleEvaluation(str(data), 100),
        )  # fmt: skip
        score = report.measurements[0].score
        assert (score.samples, score.test_samples, score.agreement) == (20, 20, 1.0)
        stored = inputs_of(SampleEvaluation(str(data), 100), manifest_of(made))
        chosen = [int(np.flatnonzero((a == row).all(1))[0]) for row in stored["input_0"]]
        assert (b[chosen] == stored["input_1"]).all()
        assert score.value == score.host_value == np.mean(np.array(chosen) >= 10)


def read_model(bundle):
    return (bundle / "model.tflite").read_bytes()


def positions(stored, digits):
    """Which test samples these are: 255 steps of the input are 16 steps of the data."""
    wanted = digits["x_test"].astype(np.float64) / 16
    real = (stored.astype(np.float64) + 128) * 0.003921568859368563
    distances = np.abs(real[:, None] - wanted[None]).reshape(len(stored), len(wanted), -1).max(2)
    assert distances.min(1).max() < 0.002  # Half a step.
    return distances.argmin(1)


class TestChoice:
    def test_drawn_by_the_seed_of_the_bundle(self, bundle, digits):
        evaluation = SampleEvaluation(str(DATA), 50)
        manifest = manifest_of(bundle)
        first = inputs_of(evaluation, manifest)["input_0"]
        assert (first.shape, first.dtype) == ((50, 8, 8, 1), np.int8)
        assert np.array_equal(first, inputs_of(evaluation, manifest)["input_0"])
        chosen = positions(first, digits)
        assert (np.diff(chosen) > 0).all()  # Each once, in the order of the data.
        assert chosen[0] < 36 <= 324 <= chosen[-1]  # Over all of it.
        counts = np.bincount(digits["y_test"][chosen], minlength=10)
        shares = np.bincount(digits["y_test"], minlength=10) * 50 / 360
        assert np.abs(counts - shares).max() < 1  # Each class in proportion.
        other = inputs_of(evaluation, manifest.model_copy(update={"seed": 1}))["input_0"]
        assert not np.array_equal(first, other)

    def test_groups_stay_whole_as_for_the_fit(self, bundle, tmp_path, digits):
        """Carved by subject: 6 subjects of 60, and validation gets three of them whole."""
        subject = np.arange(360) // 60
        data = written(tmp_path, x_test=digits["x_test"], y_test=digits["y_test"], subject_test=subject)
        evaluation = SampleEvaluation(str(data), 360, group_key="subject")
        stored = inputs_of(evaluation, manifest_of(bundle))["input_0"]
        found, counts = np.unique(subject[positions(stored, digits)], return_counts=True)
        assert (len(found), set(counts)) == (3, {60})

    def test_folder_of_images(self, bundle, tmp_path, digits):
        folder = tmp_path / "images"
        for index, (image, label) in enumerate(zip(digits["x_test"], digits["y_test"], strict=True)):
            for split in ("test", "val"):
                place = folder / split / str(label)
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[:, :, 0]).save(place / f"{index}.png")
        manifest = manifest_of(bundle)
        stored = inputs_of(SampleEvaluation(str(folder), 1000), manifest)["input_0"]
        assert len(stored) == 360
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "test" / "0" / "large.png")
        with pytest.raises(DataError, match=r"large.png: is 9 x 9 pixels"):
            SampleEvaluation(str(folder), 1000).inputs_for(manifest)
        resized = inputs_of(SampleEvaluation(str(folder), 1000, image_size=(8, 8)), manifest)["input_0"]
        assert len(resized) == 361

    def test_little_training_data_is_no_obstacle(self, bundle, tmp_path, digits):
        """A fit of 20 samples has asked for fewer to calibrate with; the bundle does not say so."""
        few = {name: digits[name][:20] for name in ("x_train", "y_train", "x_val", "y_val")}
        data = written(tmp_path, x_test=digits["x_test"], y_test=digits["y_test"], **few)
        assert len(inputs_of(SampleEvaluation(str(data), 1000), manifest_of(bundle))["input_0"]) == 360

    def test_more_than_can_be_sent(self, bundle, monkeypatch):
        """One sample is 64 bytes of int8, one answer 10; the limits are lowered, so that the digits reach them."""
        manifest = manifest_of(bundle)
        monkeypatch.setattr(evaluation_module, "MOST_INPUT_BYTES", 6400)
        with pytest.raises(UsageError, match=r"101 samples of this model are 6\.3 KiB, at most 6\.2 KiB") as caught:
            SampleEvaluation(str(DATA), 101).inputs_for(manifest)
        assert caught.value.hint == "Ask for 100, or fewer."
        assert len(inputs_of(SampleEvaluation(str(DATA), 100), manifest)["input_0"]) == 100
        monkeypatch.setattr(evaluation_module, "MOST_OUTPUT_BYTES", 500)
        with pytest.raises(UsageError, match="51 answers of this model are 510 B,") as caught:
            SampleEvaluation(str(DATA), 51).inputs_for(manifest)
        assert caught.value.hint == "Ask for 50, or fewer."


class TestWrongData:
    """Each ends in one sentence, before the device is asked for anything."""

    @pytest.fixture
    def arrays(self, digits):
        return {name: digits[name] for name in ("x_test", "y_test", "x_val", "y_val")}

    @pytest.mark.parametrize(
        ("change", "code", "message"),
        [
            ({"x_test": np.zeros((360, 4, 4, 1)), "x_val": np.zeros((237, 4, 4, 1))}, 1,
             "x of test: a sample is (4, 4, 1), the model's input 'args_0' takes (8, 8, 1)."),
            ({"y_test": None, "y_val": None}, 1, "the test samples have no labels, so there is nothing to"),
            ({"x_test": None, "y_test": None}, 1, "has no test samples."),
            ({"y_test": np.full(360, 12)}, 1, "y of test: has the class 12; the model's output 'output_0' knows 10"),
            ({"y_test": np.random.default_rng(0).random((360, 10)), "y_val": None}, 1, "accuracy"),
            ({"x_test": np.full((360, 8, 8, 1), np.nan)}, 1, "NaN"),
        ],
        ids=["shape", "no labels", "no test split", "class", "no classes", "NaN"],
    )  # fmt: skip
    def test_arrays(self, temporary, bundle, tmp_path, arrays, change, code, message):
        data = written(tmp_path, **{name: value for name, value in (arrays | change).items() if value is not None})
        done = called("bench", bundle, *ARGS, "--accuracy", 10, "--data", data)
        assert done.exit_code == code
        assert message in " ".join(done.stderr.split())
        assert "copying to" not in done.stderr
        assert done.stdout == ""

    def test_no_file_and_no_npz(self, temporary, bundle, tmp_path):
        done = called("bench", bundle, *ARGS, "--accuracy", 10, "--data", tmp_path / "absent.npz")
        assert (done.exit_code, "absent.npz: no such file" in done.stderr) == (2, True)
        (tmp_path / "text.npz").write_text("hello")
        done = called("bench", bundle, *ARGS, "--accuracy", 10, "--data", tmp_path / "text.npz")
        assert (done.exit_code, "text.npz: is not an .npz file" in done.stderr) == (1, True)

    def test_preprocessing_of_another_model(self, bundle):
        manifest = manifest_of(retold(bundle, preprocessing={"mean": [1.0, 2.0, 3.0], "std": [1.0]}))
        with pytest.raises(UsageError, match=r"--mean has 3 values, the input 'args_0' of shape \(8, 8, 1\) has 1"):
            SampleEvaluation(str(DATA), 10).inputs_for(manifest)

    def test_metric_that_cannot_be_had(self, temporary, bundle):
        retold(bundle, fit={"metric": "no_such_module:score"})
        done = called("bench", bundle, *ARGS, "--accuracy", 10, "--data", DATA)
        assert done.exit_code == 2
        said = " ".join(done.stderr.split())
        assert "The metric of the bundle, no_such_module:score, cannot be had here: importing no_such_module" in said
        assert "Modules are looked for in the current folder" in said

    def test_kernels_that_do_not_exist(self, bundle):
        golden = json.loads((bundle / "manifest.json").read_text())["golden"] | {"kernel_family": "OTHER"}
        with pytest.raises(BundleError, match="kernels 'OTHER', there are LITERT_XNNPACK, "):
            SampleEvaluation(str(DATA), 10).inputs_for(manifest_of(retold(bundle, golden=golden)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--accuracy", 10), "--accuracy N and --data go together"),
            (("--data", DATA), "--accuracy N and --data go together"),
            (("--group-key", "subject"), "--group-key says how --data is read"),
            (("--image-size", "8x8"), "--image-size says how --data is read"),
            (("--accuracy", 10, "--data", DATA, "--image-size", "8y8"), "'8y8'"),
            (("--accuracy", 0, "--data", DATA), "0 is not in the range x>=1"),
        ],
    )
    def test_options(self, bundle, options, message):
        done = called("bench", bundle, *ARGS, *options)
        assert (done.exit_code, message in " ".join(done.stderr.split())) == (2, True), done.stderr

    def test_no_samples(self):
        with pytest.raises(UsageError, match="at least 1 sample, got 0"):
            SampleEvaluation(str(DATA), 0)

    def test_labels_are_what_is_missing(self, bundle, tmp_path, digits):
        """Labels of validation alone score nothing."""
        data = written(tmp_path, x_test=digits["x_test"], x_val=digits["x_val"], y_val=digits["y_val"])
        with pytest.raises(MissingDataError, match="test samples have no labels"):
            SampleEvaluation(str(data), 10).inputs_for(manifest_of(bundle))


class Twisted(SampleEvaluation):
    """Sends something else than it was asked for: stands in for a link or a disk that damages data."""

    def __init__(self, inputs):
        super().__init__(str(DATA), 20)
        self._inputs = inputs

    def inputs_for(self, manifest):
        super().inputs_for(manifest)
        return self._inputs


class TestNoScore:
    """The latency is known all the same; the call as a whole has failed."""

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (npz({"input_0": np.zeros((20, 4, 4, 1), np.int8)}), "of shape (1, 8, 8, 1), the golden one is int8"),
            (npz({"input_1": np.zeros((20, 8, 8, 1), np.int8)}), "lack input_0"),
            (b"nonsense", "cannot be read"),
            (npz({"input_0": np.zeros((5, 8, 8, 1), np.int8)}), "Answer 0 of the device is int8 of shape (5, 1, 10)"),
        ],
        ids=["shape", "name", "no npz", "too few"],
    )
    def test_samples_that_are_not_answered(self, local, bundle, inputs, message):
        report = bench_bundles(
            [bundle], local, threads=(1,), settings=SETTINGS, python=sys.executable, evaluation=Twisted(inputs)
        )
        (measured,), (failed,) = report.measurements, report.failed
        assert measured.score is None
        assert measured.runs >= 50
        assert failed.error.startswith("There is no score. ")
        assert message in failed.error
        assert not any("outputs:" in note for note in measured.notes)  # Said once.

    @pytest.mark.parametrize(
        ("sent", "message"),
        [
            (b"nonsense", "cannot be read: File is not a zip file"),
            (b"", "cannot be read: File is not a zip file"),
            (npz({"output_1": np.zeros((20, 1, 10), np.int8)}), "cannot be read: .*output_0"),
            (npz({"output_0": np.zeros((20, 1, 10), np.int16)}), r"is int16 of shape \(20, 1, 10\), this machine's"),
            (npz({"output_0": np.zeros((20, 1, 9), np.int8)}), r"\(20, 1, 9\), this machine's int8 of \(20, 10\)"),
            (npz({"output_0": np.zeros((19, 1, 10), np.int8)}), r"of shape \(19, 1, 10\)"),
            (npz({"output_0": np.zeros((20, 10, 1), np.int8)}), r"of shape \(20, 10, 1\)"),
            (npz({"output_0": np.array(["a", None], dtype=object)}), "cannot be read: Object arrays cannot be loaded"),
            (npz({"output_0": np.zeros((20, 1, 10**5), np.int8)}), "cannot be read: they hold 2000128 bytes"),
        ],
    )  # fmt: skip
    def test_hostile_answers(self, bundle, sent, message):
        evaluation, manifest = SampleEvaluation(str(DATA), 20), manifest_of(bundle)
        evaluation.inputs_for(manifest)
        with pytest.raises(BenchmarkError, match=message):
            evaluation.score(manifest, read_model(bundle), sent)

    def test_answers_that_unpack_to_much(self, bundle):
        """100 MB of zeros in 100 KB: refused by what the archive says, before anything is unpacked."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("output_0.npy", bytes(10**8))
        evaluation, manifest = SampleEvaluation(str(DATA), 20), manifest_of(bundle)
        evaluation.inputs_for(manifest)
        assert len(stream.getvalue()) < 10**6
        with pytest.raises(BenchmarkError, match="they hold 100000000 bytes"):
            evaluation.score(manifest, read_model(bundle), stream.getvalue())

    def test_header_that_claims_much(self, bundle):
        """A header of 80 GB before 10 bytes."""
        stream, member = io.BytesIO(), io.BytesIO()
        header = {"descr": "|i1", "fortran_order": False, "shape": (20, 1, 4 * 10**9)}
        np.lib.format.write_array_header_1_0(member, header)
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("output_0.npy", member.getvalue() + bytes(10))
        evaluation, manifest = SampleEvaluation(str(DATA), 20), manifest_of(bundle)
        evaluation.inputs_for(manifest)
        with pytest.raises(BenchmarkError, match="cannot be read"):
            evaluation.score(manifest, read_model(bundle), stream.getvalue())


@pytest.mark.device
class TestSsh:
    @pytest.fixture
    def server(self, tmp_path, monkeypatch):
        if missing_tools():
            missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        with running_sshd(tmp_path / "sshd") as running:
            monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(running.config))
            yield running
            wait_until(lambda: list(running.tmp.iterdir()) == [], "the device's folder for temporary files is empty")

    def test_score_of_a_device(self, server, bundle, digits):
        done = called(
            "bench", bundle, "--host", server.target, "--python", sys.executable, *QUICK,
            "--accuracy", 360, "--data", DATA, "--json",
        )  # fmt: skip
        (measured,) = json.loads(done.stdout)["measurements"]
        stored = inputs_of(SampleEvaluation(str(DATA), 360), manifest_of(bundle))["input_0"]
        right = interpreted(read_model(bundle), stored).argmax(1) == digits["y_test"]
        assert measured["on"] == server.target
        assert measured["score"]["value"] == measured["score"]["host_value"] == right.mean()
        assert measured["score"]["agreement"] == 1.0


def test_without_tensorflow(bundle):
    """Reading, quantizing and scoring in a process of its own."""
    script = (
        "import sys, io, numpy as np\n"
        "from pathlib import Path\n"
        "from edgecomp.bench.evaluation import SampleEvaluation\n"
        "from edgecomp.bundle.manifest import Manifest\n"
        "folder = Path(sys.argv[1])\n"
        "manifest = Manifest.model_validate_json((folder / 'manifest.json').read_bytes())\n"
        "evaluation = SampleEvaluation(sys.argv[2], 20)\n"
        "evaluation.inputs_for(manifest)\n"
        "stream = io.BytesIO()\n"
        "np.savez(stream, output_0=np.zeros((20, 1, 10), np.int8))\n"
        "score = evaluation.score(manifest, (folder / 'model.tflite').read_bytes(), stream.getvalue())\n"
        "assert score.samples == 20\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, bundle, DATA], capture_output=True, text=True, cwd=ROOT, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not {"tensorflow", "keras", "tf_keras", "tflite_micro"} & set(done.stdout.split())
    assert "ai_edge_litert" in done.stdout.split()
