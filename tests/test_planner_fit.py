"""The planner on a real model: from a budget to a compressed file, and everything that it must not do on the way."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecomp.bundle.verify import verify_bundle
from edgecomp.candidates import tflm_available
from edgecomp.executors.limits import machine_bytes
from edgecomp.files import sha256_of
from edgecomp.report.story import print_story
from edgecomp.store import Store
from tests.conftest import ROOT, missing, read_npz
from tests.planned_fits import (
    DATA,
    LIMITS,
    MODEL,
    SCALING,
    called,
    command,
    events,
    fitted,
    last_run,
    plan_and_fit,
    trained,
)

DEVICE = ("--device", "stm32l4r5")

# One worker makes the fit that most of these look at.
pytestmark = pytest.mark.xdist_group("planned")


@pytest.fixture(scope="module", autouse=True)
def interpreter():
    if not tflm_available():
        missing("tflite-micro has wheels for Linux x86-64 only")


def accuracy_in_tflm(bundle: Path) -> float:
    """By tflite-micro's own interface, with the scales that the manifest states."""
    from tflite_micro import runtime

    source = json.loads((bundle / "manifest.json").read_text())["inputs"][0]
    data = read_npz(Path(DATA))
    images = np.round(data["x_test"] / 16 / source["scale"]) + source["zero_point"]
    stored = np.clip(images, -128, 127).astype(np.int8)
    interpreter = runtime.Interpreter.from_bytes((bundle / "model.tflite").read_bytes())
    answers = []
    for image in stored:
        interpreter.set_input(image[np.newaxis], 0)
        interpreter.invoke()
        answers.append(interpreter.get_output(0)[0].argmax())
    return float(np.mean(np.array(answers) == data["y_test"]))


def words(text: str) -> str:
    """Without the breaks of lines in narrow columns."""
    return " ".join(text.split())


@pytest.mark.slow
class TestFit:
    def test_a_compressed_file_fits(self, planned):
        assert planned.fit.code == 0
        assert planned.fit.body["status"] == "fits"
        chosen = planned.fit.chosen
        assert chosen["recipe"]["stage"] == "full"
        assert chosen["recipe"]["epochs"] >= 2
        assert planned.fit.candidate("INT8")["model_bytes"] > 5 * 1024

    def test_the_shipped_bytes_meet_the_size(self, planned):
        shipped = (planned.bundle / "model.tflite").read_bytes()
        assert len(shipped) == planned.fit.chosen["model_bytes"] <= 5 * 1024
        assert sha256_of(shipped) == planned.fit.chosen["sha256"]
        assert verify_bundle(planned.bundle).max_difference_lsb == 0

    def test_reported_accuracy_is_that_of_the_shipped_bytes(self, planned):
        accuracy = planned.fit.chosen["accuracy"]
        assert (accuracy["split"], accuracy["kernels"], accuracy["samples"]) == ("test", "TFLM", 360)
        assert accuracy["value"] == pytest.approx(accuracy_in_tflm(planned.bundle))

    def test_the_choice_met_every_limit_on_validation(self, planned):
        for item in planned.fit.device["candidates"]:
            if item["status"] in ("chosen", "beaten"):
                accuracy = item["validation_accuracy"] or item["accuracy"]
                assert accuracy["value"] >= 0.85
                assert planned.fit.body["float_model"]["validation_accuracy"]["value"] - accuracy["value"] <= 0.03
                assert item["model_bytes"] <= 5 * 1024
                assert item["breaks"] == []

    def test_of_those_that_fit_it_has_the_least_latency(self, planned):
        fitting = [item for item in planned.fit.device["candidates"] if item["status"] in ("chosen", "beaten")]
        assert planned.fit.device["objective"] == "latency"
        latency = planned.fit.chosen["estimated_latency_ms"]["value"]
        assert latency <= 1.01 * min(item["estimated_latency_ms"]["value"] for item in fitting)

    def test_the_test_split_is_looked_at_once(self, planned):
        splits = {
            item["name"]: item["accuracy"]["split"] for item in planned.fit.device["candidates"] if item["accuracy"]
        }
        assert [name for name, split in splits.items() if split == "test"] == [planned.fit.device["chosen"]]
        assert planned.fit.stderr.count("test split, once") == 1

    def test_what_previews_rule_out_is_not_trained(self, planned):
        trials = events(planned.plan_run, "trial") + events(planned.fit_run, "trial")
        ruled_out = {
            trial["candidate"]["name"]
            for trial in trials
            if trial["stage"] == "preview"
            and (trial["candidate"]["status"] == "failed" or broken(trial["candidate"]) & {"model_size", "ram"})
        }
        assert ruled_out
        assert trained(planned.fit_run)
        assert not ruled_out & set(trained(planned.fit_run))

    def test_what_the_plan_has_previewed_is_not_previewed_again(self, planned):
        previewed = {event["key"] for event in events(planned.plan_run, "made")}
        made = {event["key"] for event in events(planned.fit_run, "made")}
        assert made
        assert not made & previewed
        assert {event["stage"] for event in events(planned.fit_run, "made")} <= {"preview", "short", "full"}

    def test_nothing_is_made_twice(self, planned):
        keys = [event["key"] for event in events(planned.fit_run, "made")]
        assert len(keys) == len(set(keys))

    def test_a_second_fit_makes_nothing(self, planned):
        again = fitted(planned.folder, *DEVICE, *LIMITS)
        assert again.code == 0
        assert events(last_run(planned.store), "made") == []
        assert again.chosen["sha256"] == planned.fit.chosen["sha256"]
        assert again.device["bundle_sha256"] == planned.fit.device["bundle_sha256"]
        names = [[item["name"] for item in done.device["candidates"]] for done in (again, planned.fit)]
        assert names[0] == names[1]


def broken(candidate):
    return {item["limit"] for item in candidate["breaks"]}


@pytest.mark.slow
class TestPlan:
    """With two trainers, which must train nothing either."""

    def test_nothing_is_trained(self, planned):
        stages = {event["stage"] for event in events(planned.plan_run, "trial")}
        assert stages == {"preview"}
        assert {event["stage"] for event in events(planned.plan_run, "made")} == {"post-training", "preview"}

    def test_it_says_what_would_be(self, planned):
        assert planned.plan.exit_code == 0
        text = words(planned.plan.stdout)
        assert "a plan, nothing was trained" in text
        assert "train: about" in text
        assert "file 5.0 KiB" in text
        for name in {event["candidate"]["name"] for event in events(planned.plan_run, "trial")}:
            assert name in text
        # Trained first is what the plan says.
        would = [line.split()[0] for line in planned.plan.stdout.splitlines() if "train: about" in line]
        assert set(trained(planned.fit_run)[:1]) <= set(would)

    def test_nothing_is_shipped(self, planned):
        assert planned.plan_run.result["status"] == "planned"
        assert planned.plan_run.result["devices"][0]["bundle"] is None
        assert planned.plan_run.result["float_model"]["accuracy"]["split"] == "test"


@pytest.mark.slow
class TestExplain:
    @pytest.fixture(scope="class")
    @staticmethod
    def story(planned):
        return called("explain", planned.fit.body["run"], "--store", planned.store)

    def test_every_candidate_and_what_it_broke(self, planned, story):
        assert story.exit_code == 0
        text = words(story.stdout)
        for item in planned.fit.device["candidates"]:
            assert item["name"] in text
            for limit in item["breaks"]:
                # The accuracy of what was not trained says nothing.
                is_final = not item["recipe"] or item["recipe"]["stage"] != "preview"
                assert limit["text"] in text or (not is_final and limit["limit"] not in ("model_size", "ram"))
            if item["sha256"] is None:
                assert item["reason"] in text

    def test_layers_and_changes(self, planned, story):
        assert "Layers that suffer most from rounding to INT8" in story.stdout
        assert f"What {planned.fit.device['chosen']} did" in story.stdout

    def test_trainings_that_were_for_nothing(self, planned, story, capsys):
        """Told with what may help; only those in full, for a few epochs are often too few."""
        result = json.loads(json.dumps(planned.fit_run.result))
        done = [item for item in result["devices"][0]["candidates"] if item["recipe"]]
        for item in done:
            for step in item["recipe"]["steps"]:
                assert (step["best_epoch"] is None) == (item["recipe"]["stage"] == "preview")
                step["best_epoch"] = None if step["best_epoch"] is None else 1
        print_story(replace(planned.fit_run, result=result))
        assert "Training undone" not in capsys.readouterr().out
        for item in done:
            if item["recipe"]["stage"] == "short":
                item["recipe"]["steps"][0]["best_epoch"] = 0
        undone = next(item for item in done if item["recipe"]["stage"] == "full")
        undone["recipe"]["steps"][0]["best_epoch"] = 0
        print_story(replace(planned.fit_run, result=result))
        told = capsys.readouterr().out.partition("Training undone")[2].splitlines()
        assert told[1] == f"  {undone['name']}: {undone['recipe']['steps'][0]['technique']}"
        assert told[2] == "  A --learning-rate below 0.001 or more training samples may win back more."

    def test_last_is_the_newest(self, planned):
        body = json.loads(called("explain", "last", "--store", planned.store, "--json").stdout)
        assert body["schema"] == "edgecomp.run/1"
        assert body["name"] == last_run(planned.store).summary.name

    def test_an_unfinished_run_tells_what_it_has(self, planned, tmp_path):
        with Store.open(tmp_path) as store:
            run = store.begin_run(planned.fit_run.summary.request, "request", "digits_cnn")
            trials = [event.value for event in planned.fit_run.events if event.kind in ("candidate", "trial")][:6]
            for value in trials:
                run.record("trial" if "stage" in value else "candidate", value)
            run.finish("interrupted", None)
        told = called("explain", "last", "--store", tmp_path)
        assert told.exit_code == 0
        assert "There is no result: the same command with --resume goes on." in told.stdout
        for value in trials:
            assert f"stm32l4r5: {value['candidate']['name']}: {value['candidate']['reason']}" in told.stdout

    def test_no_run(self, tmp_path):
        with Store.open(tmp_path):
            pass
        told = called("explain", "last", "--store", tmp_path)
        assert told.exit_code == 1
        assert "the store holds none" in told.stderr


@pytest.mark.slow
def test_an_impossible_budget_trains_nothing_and_names_the_nearest(tmp_path):
    done = called(
        *command(tmp_path, "fit", *DEVICE, "--effort", "standard", "--max-model-size", "500B", "--epochs", "2")
    )
    assert done.exit_code == 3, done.output
    run = last_run(tmp_path / "store")
    assert trained(run) == []
    text = words(done.stdout)
    assert "nothing fits" in text
    assert "Nothing that was looked at comes nearer: model size" in text
    assert "above the 500 B allowed" in text
    assert list((tmp_path / "bundles").iterdir()) == []


@pytest.mark.slow
def test_no_time_trains_nothing_and_says_so(tmp_path):
    """INT8 fits; only training with rounding could lose less accuracy, and there is no time for it."""
    done = fitted(tmp_path, *DEVICE, "--minimize", "accuracy-drop", "--time-limit", "1s")
    assert done.code == 0
    run = last_run(tmp_path / "store")
    assert trained(run) == []
    reasons = [item["reason"] for item in done.device["candidates"] if item["recipe"]]
    assert reasons
    assert all("not trained: it would take about" in reason and "are left" in reason for reason in reasons)


@pytest.mark.slow
def test_a_technique_that_takes_too_much_memory_or_dies_is_a_failed_candidate(tmp_path, monkeypatch):
    """On the first device its loss wants more than a worker may have, on the second the kernel kills it."""
    (tmp_path / "dies.py").write_text(
        "import os, pathlib\n"
        "import numpy as np\n"
        "def loss(labels, outputs):\n"
        "    if not pathlib.Path('second').exists():\n"
        "        pathlib.Path('second').touch()\n"
        f"        np.zeros({int(0.9 * machine_bytes())}, np.uint8)\n"
        "        pathlib.Path('no limit').touch()\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    monkeypatch.chdir(tmp_path)
    devices = ("--device", "rpi4", "--device", "pixel4")
    done = fitted(tmp_path, *devices, "--minimize", "accuracy-drop", "--loss", "dies:loss")
    assert done.code == 0
    assert done.body["status"] == "fits"
    assert (tmp_path / "second").exists()
    assert not (tmp_path / "no limit").exists()
    reasons = []
    for device in done.body["devices"]:
        assert device["bundle"] is not None
        reasons += [item["reason"] for item in device["candidates"] if item["status"] == "failed"]
    assert len(reasons) == 2, reasons
    assert "needs more memory than the" in reasons[0]
    assert "that a worker may use" in reasons[0]
    assert "signal SIGKILL, most likely for want of memory" in reasons[1]


def test_no_training_samples(tmp_path):
    data = read_npz(Path(DATA))
    np.savez(tmp_path / "data.npz", **{name: values for name, values in data.items() if "train" not in name})
    done = fitted(tmp_path, *DEVICE, "--max-model-size", "5KiB", data=tmp_path / "data.npz")
    assert done.code == 3
    assert done.device["notes"].count("Nothing was trained: the data has no training samples (x_train).") == 1
    assert all(item["recipe"] is None for item in done.device["candidates"])


@pytest.mark.slow
def test_a_tflite_file_has_nothing_to_train(tmp_path):
    model = ROOT / "tests" / "models" / "digits_float.tflite"
    done = fitted(tmp_path, *DEVICE, "--max-model-size", "500B", model=model)
    assert done.code == 3
    (note,) = [note for note in done.device["notes"] if note.startswith("Nothing was trained: ")]
    assert "no layers that can be trained" in note
    assert all(item["recipe"] is None for item in done.device["candidates"])


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(tmp_path):
    """A disk that has room for the journal of a run, and for none of its candidates."""
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    mount = 'mount -t tmpfs -o size=256k none "$1"'
    tried = shutil.which("unshare") and subprocess.run([*unshare, mount, "sh", disk], capture_output=True).returncode
    if tried != 0:
        missing("no tmpfs can be mounted in a user namespace here")
    arguments = [sys.executable, "-m", "edgecomp", "fit", MODEL, "--data", DATA, *SCALING, *DEVICE,
                 "--store", str(disk / "store"), "--out", str(tmp_path / "bundles")]  # fmt: skip
    script = mount + '; disk="$1"; shift; head -c 130000 /dev/zero > "$disk/ballast"; "$@"'
    done = subprocess.run([*unshare, script, "sh", disk, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("[ ")]
    assert len(errors) == 2, "a sentence, and what to do"
    assert f"There is no space left to write the store {disk / 'store'}; what was recorded before stays." in errors[0]
    assert "edgecomp runs gc" in errors[1]
    assert list((tmp_path / "bundles").iterdir()) == []


@pytest.mark.slow
class TestShared:
    def test_a_device_with_the_same_kernels_trains_nothing_anew(self, planned, tmp_path):
        """Another board, another size of RAM: what was trained for the first one is that of the second."""
        twin = tmp_path / "twin.toml"
        twin.write_text(
            'schema_version = 1\nname = "twin"\nextends = "stm32l4r5"\ndescription = "the same with less RAM"\n'
            '[memory.regions.sram]\nbytes = "128KiB"\n[sources]\n"memory.regions.sram.bytes" = "unverified"\n'
        )
        before = {path.name for path in (planned.store / "steps").iterdir()}
        done = fitted(planned.folder, "--device", twin, *LIMITS, "--out", tmp_path)
        assert done.code == 0, done.device
        assert trained(last_run(planned.store))
        assert {path.name for path in (planned.store / "steps").iterdir()} == before
        assert done.chosen["sha256"] == planned.fit.chosen["sha256"]

    def test_two_jobs_choose_the_same(self, planned, tmp_path):
        done = fitted(tmp_path, *DEVICE, *LIMITS, "--jobs", "2")
        assert done.chosen["sha256"] == planned.fit.chosen["sha256"]
        assert [item["name"] for item in done.device["candidates"]] == [
            item["name"] for item in planned.fit.device["candidates"]
        ]

    def test_the_smallest_of_those_that_are_accurate_enough(self, planned, tmp_path):
        done = fitted(planned.folder, *DEVICE, "--minimize", "size", "--min-accuracy", "0.9", "--out", tmp_path)
        assert done.code == 0
        assert done.device["objective"] == "size"
        assert done.device["limits"]["max_accuracy_drop"] is None
        fitting = [item for item in done.device["candidates"] if item["status"] in ("chosen", "beaten")]
        assert len(fitting) > 1
        smallest = min(item["model_bytes"] for item in fitting)
        assert done.chosen["recipe"] is not None
        assert done.chosen["model_bytes"] <= 1.01 * smallest
        assert done.chosen["validation_accuracy"]["value"] >= 0.9
        rejected = [item for item in done.device["candidates"] if item["status"] == "rejected"]
        assert all(broken(item) for item in rejected)

    def test_two_fits_at_once_in_one_store(self, planned, tmp_path):
        """The same command twice: neither fails, nothing is made twice, both choose the same."""
        arguments = [sys.executable, "-m", "edgecomp", *command(tmp_path, "fit", *DEVICE, *LIMITS),
                     "--effort", "standard", "--epochs", "2", "--json"]  # fmt: skip
        both = [
            subprocess.Popen([*arguments, "--out", str(tmp_path / name)], stdout=subprocess.PIPE, text=True)
            for name in "ab"
        ]
        bodies = [json.loads(process.communicate()[0]) for process in both]
        assert [process.returncode for process in both] == [0, 0]
        chosen = [next(item for item in body["devices"][0]["candidates"] if item["status"] == "chosen")
                  for body in bodies]  # fmt: skip
        assert chosen[0]["sha256"] == chosen[1]["sha256"] == planned.fit.chosen["sha256"]
        with Store.open(tmp_path / "store") as store:
            keys = [event["key"] for run in store.runs() for event in events(store.load_run(run.name), "made")]
        assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_a_plan_and_a_fit_elsewhere_end_alike(planned, tmp_path):
    """Another store, another folder: the same bytes."""
    other = plan_and_fit(tmp_path)
    assert other.fit.device["bundle_sha256"] == planned.fit.device["bundle_sha256"]
