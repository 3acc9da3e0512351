"""Several models for several devices in one command: their fits, the matrix of them, and what interrupts it."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecomp import Budget, DataOptions, FitRequest, FitResult, MatrixResult, Store, Target, fit_matrix, load_profile
from edgecomp.bundle.verify import verify_bundle
from edgecomp.errors import UsageError
from edgecomp.model_ranking import best_of
from edgecomp.report.matrix import print_results
from edgecomp.report.terminal import print_fit
from tests.conftest import ROOT
from tests.planned_fits import called

DIGITS = ROOT / "calibration_data" / "digits"
DATA = DIGITS / "digits.npz"
DEVICES = ("rpi4", "stm32l4r5")
# INT8 of the CNN has 8,060 bytes for TFLM, and more than 8 KiB for LiteRT.
LIMITS = ("--max-model-size", "8KiB", "--max-accuracy-drop", "3pp", "--precision", "INT8")

# One dense layer with the weights of least squares: exact, without training.
MAKE = """
import sys
import keras
import numpy as np

with np.load(sys.argv[1]) as data:
    x, labels = data["x_train"].reshape(-1, 64) / 16, data["y_train"]
solved = np.linalg.lstsq(np.c_[x, np.ones(len(x))], 8 * np.eye(10)[labels], rcond=None)[0].astype(np.float32)
for name, shape in (("linear", (8, 8, 1)), ("flat", (64,))):
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.layers[-1].set_weights([solved[:-1], solved[-1]])
    model.save(f"{name}.keras")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a CNN, a smaller model, one that takes other inputs, and one that was cut."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-c", MAKE, DATA], cwd=folder, check=True, capture_output=True)
    whole = (DIGITS / "digits_cnn.keras").read_bytes()
    (folder / "cnn.keras").write_bytes(whole)
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    return folder


def command(folder, *more, name="fit"):
    """Options that most have in common; those in `more` come last."""
    known = (name, "--data", DATA, "--mean", 0, "--std", 16, "--store", folder / "store", "--out", folder / "bundles")
    return [str(item) for item in (*known, *(f"--device={device}" for device in DEVICES), *more)]


def runs_of(folder):
    """Oldest first."""
    with Store.open(folder / "store") as store:
        return [store.load_run(run.name) for run in reversed(store.runs())]


def chosen_in(fit, device):
    found = next(item for item in fit["devices"] if item["device"] == device)
    return next((item for item in found["candidates"] if item["status"] == "chosen"), None)


@pytest.fixture(scope="module")
def four(models, tmp_path_factory):
    """All four models with --json: the folder, the exit code and the object."""
    folder = tmp_path_factory.mktemp("four")
    names = [models / f"{name}.keras" for name in ("cnn", "cut", "flat", "linear")]
    done = called(*command(folder, *names, *LIMITS, "--time-limit", "1h", "--json"))
    assert done.stdout.startswith("{"), done.output
    return folder, done.exit_code, json.loads(done.stdout)


@pytest.mark.slow
class TestFour:
    def test_every_model_has_a_row_and_every_device_a_cell(self, four):
        _, code, body = four
        assert code == 1  # two models failed
        assert (body["schema"], body["status"]) == ("edgecomp.fit-matrix/1", "no_fit")
        assert body["devices"] == list(DEVICES)
        assert [Path(row["model"]).stem for row in body["rows"]] == ["cnn", "cut", "flat", "linear"]
        assert [row["status"] for row in body["rows"]] == ["no_fit", "failed", "failed", "fits"]
        assert [[cell["device"] for cell in row["cells"]] for row in body["rows"]] == [[*DEVICES], [], [], [*DEVICES]]

    def test_what_failed_says_why_and_the_others_go_on(self, four):
        _, cut, flat, linear = four[2]["rows"]
        assert "cut.keras: damaged: the archive cannot be read" in cut["reason"]
        # Images of 8 x 8 for a model that takes rows of 64: data that fits one model is not that of every model.
        assert "a sample is (8, 8, 1), the model's input" in flat["reason"]
        assert "takes (64)" in flat["reason"]
        assert linear["reason"] is None

    def test_cells_are_what_the_fits_say(self, four):
        body = four[2]
        rows = [row for row in body["rows"] if row["cells"]]
        assert len(body["fits"]) == len(rows) == 2
        for row, fit in zip(rows, body["fits"], strict=True):
            assert row["model"] == fit["model"]["path"]
            for cell in row["cells"]:
                chosen = chosen_in(fit, cell["device"])
                if chosen is None:
                    continue
                assert cell["candidate"] == "INT8"
                assert cell["score"] == chosen["accuracy"]
                assert (cell["score"]["split"], cell["score"]["samples"]) == ("test", 360)
                assert cell["model_bytes"] == chosen["model_bytes"] <= 8192
                assert cell["latency_ms"] == chosen["estimated_latency_ms"]["value"]
                assert cell["latency_mode"] == "estimated"
                assert verify_bundle(Path(cell["bundle"])).max_difference_lsb == 0

    def test_where_nothing_fits_the_nearest_candidate_says_why(self, four):
        cell = four[2]["rows"][0]["cells"][0]
        assert (cell["device"], cell["status"], cell["candidate"], cell["bundle"]) == ("rpi4", "no_fit", None, None)
        limit = four[2]["fits"][0]["devices"][0]["candidates"][0]["breaks"][0]
        assert cell["reason"] == f"nearest is INT8: {limit['text']}"
        assert limit["text"].endswith("above the 8.0 KiB allowed")

    def test_bundles_are_named_after_models(self, four):
        names = sorted(path.name for path in (four[0] / "bundles").iterdir() if path.is_dir())
        assert names == ["cnn-stm32l4r5", "linear-rpi4", "linear-stm32l4r5"]

    def test_the_best_of_each_device(self, four):
        rpi4, stm32 = four[2]["best"]
        linear, cnn = four[2]["rows"][3], four[2]["rows"][0]
        assert rpi4["models"] == [linear["model"]]
        assert rpi4["text"] == "linear.keras, the only one that fits"
        # 640 multiplications against some thousands, and fewer digits right.
        assert (stm32["objective"], stm32["models"], stm32["higher_score"]) == (
            "latency", [linear["model"]], [cnn["model"]]
        )  # fmt: skip
        assert "linear.keras has the least latency: " in stm32["text"]
        assert "cnn.keras scores higher: 0.9" in stm32["text"]
        assert any("--min-accuracy holds all of them against one number" in note for note in four[2]["notes"])

    def test_the_object_is_what_the_schema_says(self, four):
        assert MatrixResult.model_validate(four[2]).to_json() == four[2]

    def test_one_run_for_all_and_one_for_each_model_that_could_be_begun(self, four):
        folder, _, body = four
        runs = runs_of(folder)
        # The cut one is refused before it has a run.
        assert [run.summary.label for run in runs] == ["matrix", "cnn", "flat", "linear"]
        assert [run.summary.status for run in runs] == ["done", "done", "failed", "done"]
        assert body["run"] == runs[0].summary.name
        assert [row["run"] for row in body["rows"]] == [runs[1].summary.name, None, None, runs[3].summary.name]
        assert {run.summary.request["part_of"] for run in runs[1:]} == {body["run"]}
        assert runs[0].result == body
        assert [run.result for run in (runs[1], runs[3])] == body["fits"]

    def test_the_time_limit_is_shared_out(self, four):
        whole, cnn, flat, linear = (run.summary.request["time_limit_s"] for run in runs_of(four[0]))
        assert (whole, cnn) == (3600, 900)  # a quarter
        spent = four[2]["fits"][0]["seconds"]
        # What cnn left is for three, and the one that was cut took a moment of its share.
        assert flat == pytest.approx((3600 - spent) / 2, abs=1)
        assert 3600 - spent - 120 < linear < 3600 - spent

    def test_one_model_alone_is_the_same_fit_and_its_object_is_the_old_one(self, four, models):
        done = called(*command(four[0], models / "linear.keras", *LIMITS, "--json"))
        assert done.exit_code == 0
        body = json.loads(done.stdout)
        assert body["schema"] == "edgecomp.fit/1"
        again = [device["bundle_sha256"] for device in body["devices"]]
        assert again == [device["bundle_sha256"] for device in four[2]["fits"][1]["devices"]]
        with Store.open(four[0] / "store") as store:
            assert store.load_run("last").summary.name == body["run"]


@pytest.mark.slow
class TestForPeople:
    @pytest.fixture(scope="class")
    @staticmethod
    def lines(four):
        from click.testing import CliRunner

        with CliRunner().isolation() as (stdout, *_):
            print_results(MatrixResult.model_validate(four[2]), print_fit)
            return stdout.getvalue().decode().splitlines()

    def test_the_fits_come_first_and_the_matrix_ends_it(self, lines, four):
        title = next(index for index, line in enumerate(lines) if line.startswith("4 models x 2 devices"))
        before = "\n".join(lines[:title])
        assert before.count("float model: ") == 2
        assert before.index("cnn.keras (keras3)") < before.index("linear.keras (keras3)")
        assert lines[title].endswith(": chosen candidate; accuracy on 360 test samples; model file, latency")
        assert lines[title + 2].split() == ["model", *DEVICES]
        assert lines[-1].endswith(f"seed 0. `edgecomp explain {four[2]['run']}` leads to the story of each model.")

    def test_cells(self, lines, four):
        start = next(index for index, line in enumerate(lines) if line.split() == ["model", *DEVICES])
        assert lines[start + 1].split() == ["cnn.keras", "nothing", "fits", "INT8"]
        score = four[2]["rows"][0]["cells"][1]["score"]
        assert f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" in lines[start + 2]
        assert "nearest is INT8: model size" in lines[start + 2]
        assert lines[start + 3].rstrip().endswith("ms estimated")
        assert sum(line.split() == ["cut.keras", "failed", "failed"] for line in lines) == 1
        assert sum(line.split() == ["linear.keras", "INT8", "INT8"] for line in lines) == 1

    def test_below_it_why_models_failed_and_which_is_best(self, lines):
        failed = [line for line in lines if line.startswith("failed: ")]
        assert len(failed) == 2
        assert "cut.keras: damaged" in failed[0]
        assert failed[1].startswith("failed: flat.keras: ")
        assert [line for line in lines if line.startswith("best for ")] == [
            "best for rpi4: linear.keras, the only one that fits",
            next(line for line in lines if line.startswith("best for stm32l4r5: linear.keras has the least latency: ")),
        ]

    def test_many_devices_stand_below_each_other(self, four, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal: its width counts
        body = four[2]
        rows = [
            row | {"cells": [cell | {"device": f"{cell['device']}-{n}"} for n in range(3) for cell in row["cells"]]}
            for row in body["rows"]
        ]
        devices = [f"{device}-{n}" for n in range(3) for device in DEVICES]
        print_results(MatrixResult.model_validate(body | {"rows": rows, "devices": devices, "fits": []}), print_fit)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
        assert [line.split()[1:] for line in lines if line.split()[:1] == ["model"]] == [
            ["rpi4-0", "stm32l4r5-0"], ["rpi4-1", "stm32l4r5-1"], ["rpi4-2", "stm32l4r5-2"],
        ]  # fmt: skip
        table = lines[2 : next(index for index, line in enumerate(lines) if line.startswith("failed: "))]
        assert max(map(len, table)) <= 80

    def test_explain_and_runs_know_it(self, four):
        folder, _, body = four
        store = ("--store", folder / "store")
        told = called("explain", body["run"], *store)
        assert told.exit_code == 0
        assert "4 models x 2 devices" in told.stdout
        for row in body["rows"]:
            if row["run"] is not None:
                assert f"{Path(row['model']).name}: `edgecomp explain {row['run']}`" in told.stdout
        shown = called("runs", "show", body["run"], *store).stdout
        cells = [line.split()[1:4] for line in shown.splitlines() if "linear.keras  " in line]
        assert cells == [["rpi4", "fits", "INT8"], ["stm32l4r5", "fits", "INT8"]]
        assert "cnn.keras, cut.keras, flat.keras, linear.keras" in called("runs", "list", *store).stdout


@pytest.mark.slow
class TestInterrupted:
    """Real processes, ended by real signals: after the first model was finished, or in the middle of it."""

    @pytest.fixture(scope="class")
    @staticmethod
    def whole(models, tmp_path_factory):
        folder = tmp_path_factory.mktemp("whole")
        done = called(*command(folder, models / "cnn.keras", models / "linear.keras", "--json"))
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def stopped(self, folder, models, number, is_time):
        """Start it, wait until the journal says that it is time, send a signal; the exit code."""
        arguments = command(folder, models / "cnn.keras", models / "linear.keras")
        with subprocess.Popen(
            [sys.executable, "-m", "edgecomp", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:  # fmt: skip
            ends = time.monotonic() + 120
            while not self._is_there(folder, is_time):
                assert process.poll() is None, "it ended before its time"
                assert time.monotonic() < ends
                time.sleep(0.05)
            process.send_signal(number)
            return process.wait(timeout=30)

    @staticmethod
    def _is_there(folder, is_time):
        if not (folder / "store" / "store.db").exists():
            return False
        return any(is_time(event) for run in runs_of(folder) for event in run.events)

    @pytest.mark.parametrize("kind", ["model", "candidate"])
    def test_resume_after_a_kill(self, models, whole, tmp_path, kind):
        code = self.stopped(tmp_path, models, signal.SIGKILL, lambda event: event.kind == kind)
        assert code == -signal.SIGKILL
        before = runs_of(tmp_path)
        assert before[0].summary.status == "interrupted"
        resumed = called(*command(tmp_path, models / "cnn.keras", models / "linear.keras", "--resume", "--json"))
        assert resumed.exit_code == 0, resumed.output
        assert ("1/2 cnn.keras: is finished" in resumed.stderr) == (kind == "model")
        runs = runs_of(tmp_path)
        # No model has begun anew, and none that was finished was taken up again.
        assert [run.summary.label for run in runs] == ["matrix", "cnn", "linear"]
        assert {run.summary.status for run in runs} == {"done"}
        made = [event.value["key"] for run in runs for event in run.events if event.kind == "made"]
        assert made
        assert len(made) == len(set(made))
        if kind == "model":
            assert runs[1].events == before[1].events
        body = json.loads(resumed.stdout)
        for ours, theirs in zip(body["fits"], whole["fits"], strict=True):
            assert [item["bundle_sha256"] for item in ours["devices"]] == [
                item["bundle_sha256"] for item in theirs["devices"]
            ]
        # The candidates took other times, and a kill costs some: everything else is the same.
        assert [row["cells"] for row in body["rows"]] == [
            [cell | {"bundle": str(tmp_path / "bundles" / Path(cell["bundle"]).name)} for cell in row["cells"]]
            for row in whole["rows"]
        ]
        assert [item["text"] for item in body["best"]] == [item["text"] for item in whole["best"]]
        again = called(*command(tmp_path, models / "cnn.keras", models / "linear.keras", "--resume"))
        assert again.exit_code == 2
        assert "has no interrupted run of this very command" in again.stderr

    def test_ctrl_c_keeps_what_is_finished(self, models, tmp_path):
        code = self.stopped(tmp_path, models, signal.SIGINT, lambda event: event.kind == "model")
        assert code == 130
        assert {path.name for path in (tmp_path / "bundles").iterdir()} >= {"cnn-rpi4.zip", "cnn-stm32l4r5.zip"}
        assert not list((tmp_path / "bundles").glob("linear*.zip"))
        assert runs_of(tmp_path)[0].summary.status == "interrupted"
        told = called("explain", "last", "--store", tmp_path / "store").stdout
        assert "There is no result: the same command with --resume goes on." in told
        name = runs_of(tmp_path)[1].summary.name
        assert f"{models / 'cnn.keras'}: is finished: `edgecomp explain {name}`" in told

    def test_what_was_finished_of_something_else_is_made_again(self, models, tmp_path):
        """Interrupted twice where the second model begins: a bundle is gone then; the first model is another one."""
        cnn, linear = tmp_path / "cnn.keras", tmp_path / "linear.keras"
        shutil.copy(models / "cnn.keras", cnn)
        shutil.copy(models / "linear.keras", linear)
        bundle = tmp_path / "bundles" / "cnn-rpi4.zip"
        told = []

        def interrupt(what, done, total):
            told.append(what)
            if what.startswith("2/2"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_matrix([cnn, linear], request_for(tmp_path, cnn), progress=interrupt)
        first = bundle.read_bytes()
        bundle.unlink()
        with pytest.raises(KeyboardInterrupt):
            fit_matrix([cnn, linear], request_for(tmp_path, cnn, resume=True), progress=interrupt)
        assert bundle.read_bytes() == first
        shutil.copy(models / "linear.keras", cnn)
        result = fit_matrix(
            [cnn, linear], request_for(tmp_path, cnn, resume=True), progress=lambda what, *_: told.append(what)
        )
        assert "1/2 cnn.keras: is finished" not in told
        assert result.status == "fits"
        assert result.fits[0].model.sha256 == result.fits[1].model.sha256
        assert bundle.read_bytes() != first


def request_for(folder, model, **more):
    profile = load_profile("rpi4")
    data = DataOptions(source=str(DATA), mean=(0.0,), std=(16.0,))
    target = Target(profile, Budget.for_device(profile), "float32")
    known = {"model": model, "data": data, "targets": (target,), "out": folder / "bundles", "store": folder / "store"}
    return FitRequest(**known | more)


@pytest.mark.slow
def test_without_a_store_nothing_names_a_run(models, tmp_path):
    done = fit_matrix([models / "linear.keras", models / "cut.keras"], request_for(tmp_path, models, store=None))
    assert (done.run, done.fits[0].run, done.rows[0].run) == (None, None, None)
    assert [row.status for row in done.rows] == ["fits", "failed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundles"]


class TestMistakes:
    def test_two_models_of_one_name(self, models, tmp_path):
        (tmp_path / "b").mkdir()
        shutil.copy(models / "cnn.keras", tmp_path / "b" / "cnn.h5")
        done = called(*command(tmp_path, models / "cnn.keras", tmp_path / "b" / "cnn.h5"))
        assert done.exit_code == 2
        first, hint = [line for line in done.stderr.splitlines() if not line.startswith("[")]
        assert first == (
            f"Error: {models / 'cnn.keras'} and {tmp_path / 'b' / 'cnn.h5'} would both become the bundle "
            f"{tmp_path / 'bundles' / 'cnn-rpi4'}."
        )
        assert hint.startswith("Bundles are named after models: rename one of them")
        assert {path.name for path in tmp_path.iterdir()} == {"b"}  # no store, no folder of bundles

    def test_names_that_are_alike_only_with_the_device(self, tmp_path):
        """m-esp32s3 for psram is m for esp32s3-psram."""
        profiles = [load_profile("esp32s3-psram"), load_profile("rpi4").model_copy(update={"name": "psram"})]
        targets = tuple(Target(profile, Budget(), "int8") for profile in profiles)
        with pytest.raises(UsageError, match="would both become the bundle"):
            fit_matrix(
                [Path("m-esp32s3.keras"), Path("m.keras")], request_for(tmp_path, Path("m.keras"), targets=targets)
            )  # fmt: skip

    def test_one_model_twice(self, models, tmp_path, monkeypatch):
        monkeypatch.chdir(models)
        done = called(*command(tmp_path, models / "cnn.keras", "cnn.keras"))
        assert done.exit_code == 2
        assert "Error: cnn.keras is given twice." in done.stderr

    @pytest.mark.slow
    def test_what_is_wrong_with_all_of_them_is_one_error(self, models, tmp_path):
        done = called(
            *command(tmp_path, models / "cnn.keras", models / "linear.keras", "--metric", "acuracy", "--json")
        )  # fmt: skip
        assert done.exit_code == 2
        body = json.loads(done.stdout)
        assert body["error"] == "--metric acuracy: there is no such metric."
        assert {run.summary.status for run in runs_of(tmp_path)} == {"failed"}

    def test_all_failed_each_for_its_own_reason(self, models, tmp_path):
        done = called(*command(tmp_path, models / "cut.keras", tmp_path / "nowhere.keras"))
        assert done.exit_code == 1
        assert "failed: " + str(tmp_path / "nowhere.keras") + ": no such file or folder." in done.stdout
        assert done.stdout.count("no model fits") == 2

    def test_a_folder_that_cannot_be_written_ends_it(self, models, tmp_path):
        (tmp_path / "file").write_text("")
        done = called(*command(tmp_path, models / "cnn.keras", models / "linear.keras", "--out", tmp_path / "file"))
        assert done.exit_code == 1
        assert "Cannot write to the output folder" in done.stderr
        assert [run.summary.status for run in runs_of(tmp_path)] == ["interrupted", "interrupted"]


@pytest.mark.slow
def test_a_plan_of_several_models_trains_nothing(models, tmp_path):
    done = called(
        *command(tmp_path, models / "linear.keras", models / "cut.keras", "--effort", "quick", *LIMITS, name="plan")
    )  # fmt: skip
    assert done.exit_code == 1  # the cut one
    assert done.stdout.count("a plan, nothing was trained") == 1
    assert "2 models x 2 devices: what fits without training; accuracy on 237 validation samples" in done.stdout
    assert "best for" not in done.stdout
    assert list((tmp_path / "bundles").iterdir()) == []


def test_models_of_a_file(models, tmp_path, run_cli):
    text = f'[fit]\nmodel = ["linear.keras", "cut.keras"]\ndata = "{DATA}"\nmean = 0\nstd = 16\nout = "out"\n'
    (tmp_path / "edgecomp.toml").write_text(f'{text}precision = ["INT8"]\n[devices.rpi4]\n')
    for name in ("linear", "cut"):
        shutil.copy(models / f"{name}.keras", tmp_path)
    done = run_cli("fit", "--config", tmp_path / "edgecomp.toml", "--store", tmp_path / "store", "--json")
    assert done.exit_code == 1
    assert [row["status"] for row in json.loads(done.stdout)["rows"]] == ["fits", "failed"]


@pytest.mark.slow
class TestBest:
    """With fits of the digits whose figures are then set to what the case needs."""

    @pytest.fixture
    def make(self, four):
        fits = [FitResult.model_validate(fit) for fit in four[2]["fits"]]

        def build(which, metric=None, data=None, objective=None, score=None, **candidate):
            fit = fits[which]
            device = fit.devices[1]
            (chosen,) = [item for item in device.candidates if item.status == "chosen"]
            if score is not None:
                value, low, high = score
                accuracy = chosen.accuracy.model_copy(update={"value": value, "low": low, "high": high})
                candidate["accuracy"] = accuracy
            chosen = chosen.model_copy(update=candidate)
            update = {"candidates": (chosen,)} | ({} if objective is None else {"objective": objective})
            changes = {"devices": (device.model_copy(update=update),), "metric": metric or fit.metric}
            return fit.model_copy(update=changes | ({} if data is None else {"data": fit.data | data}))

        return build

    @staticmethod
    def names(models):
        return [Path(model).stem for model in models]

    def test_less_than_one_percent_is_equal(self, make):
        pair = [make(0, model_bytes=1000, objective="size"), make(1, model_bytes=1009, objective="size")]
        best = best_of(pair, "stm32l4r5")
        assert self.names(best.models) == ["cnn", "linear"]
        assert best.text.startswith("cnn.keras and linear.keras are equal within 1%: size 1000 B, 1009 B")
        pair[1] = make(1, model_bytes=1011, objective="size")
        assert self.names(best_of(pair, "stm32l4r5").models) == ["cnn"]

    def test_intervals_of_estimates_that_overlap_are_told(self, make, four):
        latency = FitResult.model_validate(four[2]["fits"][0]).devices[1].candidates[0].estimated_latency_ms
        near = latency.model_copy(update={"value": 1.2, "low": 0.8, "high": 1.6})
        least = latency.model_copy(update={"value": 1.0, "low": 0.7, "high": 1.3})
        best = best_of([make(0, estimated_latency_ms=near), make(1, estimated_latency_ms=least)], "stm32l4r5")
        assert (
            "linear.keras has the least latency: 1 ms estimated; next is cnn.keras with 1.2 ms estimated" in best.text
        )
        assert "and their intervals overlap" in best.text

    def test_smallest_drop_is_the_best_score(self, make):
        """0.97 with a drop of 1 pp is better than 0.93 with none."""
        sets = {"objective": "accuracy_drop"}
        best = best_of(
            [make(0, score=(0.97, 0.95, 0.99), **sets), make(1, score=(0.93, 0.90, 0.94), **sets)], "stm32l4r5"
        )  # fmt: skip
        assert self.names(best.models) == ["cnn"]
        assert best.text == (
            "cnn.keras has the best accuracy on test: 0.970 [0.950, 0.990]; "
            "next is linear.keras with 0.930 [0.900, 0.940]"
        )
        near = best_of(
            [make(0, score=(0.97, 0.95, 0.99), **sets), make(1, score=(0.95, 0.93, 0.96), **sets)], "stm32l4r5"
        )  # fmt: skip
        assert self.names(near.models) == ["cnn", "linear"]
        assert "intervals overlap" in near.text

    def test_of_errors_the_smaller_is_the_better(self, make):
        sets = {"metric": "mse", "objective": "accuracy_drop"}
        best = best_of([make(0, score=(0.9, 0.8, 1.0), **sets), make(1, score=(0.2, 0.1, 0.3), **sets)], "stm32l4r5")
        assert self.names(best.models) == ["linear"]

    @pytest.mark.parametrize(
        ("first", "second", "sentence"),
        [
            ({}, {"data": {"sha256": "other"}}, "cnn.keras and linear.keras were not scored on the same test data"),
            ({}, {"metric": "auc"}, "were not scored on the same test data"),
            (
                {},
                {"objective": "size"},
                "candidates of cnn.keras were chosen by latency, those of linear.keras by size",
            ),
            ({}, {"estimated_latency_ms": None}, "the latency of linear.keras is not known"),
            (
                {"objective": "ram", "arena_mode": "simulated"},
                {"objective": "ram", "arena_mode": "estimated"},
                "the ram of cnn.keras is simulated, that of linear.keras estimated",
            ),
            (
                {"objective": "accuracy_drop", "accuracy": None},
                {"objective": "accuracy_drop"},
                "without labels there are no scores",
            ),
            (
                {"objective": "accuracy_drop", "metric": "mine:score"},
                {"objective": "accuracy_drop", "metric": "mine:score"},
                "whether more of mine:score is better is unknown",
            ),
        ],
        ids=["data", "metric", "objective", "unknown", "mode", "labels", "own metric"],
    )
    def test_what_cannot_be_compared_is_not(self, make, first, second, sentence):
        best = best_of([make(0, **first), make(1, **second)], "stm32l4r5")
        assert best.models == ()
        assert best.text.startswith("not compared: ")
        assert sentence in best.text

    def test_a_timing_elsewhere_is_no_latency_of_the_device(self, make, four):
        from edgecomp.results import Latency

        elsewhere = Latency(
            value=0.001, low=0.001, high=0.001, mode="measured", p90=0.001, on="a desk", is_profile_device=False,
            golden_ok=True, verdict="wrong_device", reasons=("a desk",), num_threads=1, runs=50,
        )  # fmt: skip
        best = best_of([make(0, latency_ms=elsewhere), make(1)], "stm32l4r5")
        assert self.names(best.models) == ["linear"]
        here = elsewhere.model_copy(update={"is_profile_device": True, "verdict": "valid", "reasons": ()})
        assert "the latency of cnn.keras is measured, that of linear.keras estimated" in (
            best_of([make(0, latency_ms=here), make(1)], "stm32l4r5").text
        )
