"""A model that was trained again: the recipe of an earlier bundle on its new weights."""

import json
import shutil
import subprocess
import sys

import pytest

from edgecomp.bundle.verify import verify_bundle
from edgecomp.candidates import tflm_available
from edgecomp.refit import Change, RefitResult
from edgecomp.report.refit import print_refit
from edgecomp.results import FitResult
from tests.conftest import ROOT, missing
from tests.planned_fits import DATA, MODEL, SCALING, called, events, last_run, trained

# Weights of another training, nearly: 2 % of noise on every kernel; or the answers' layer with its inputs shuffled.
CHANGED = """
import sys
from pathlib import Path
import numpy as np
from edgecomp.diary import save_keras
from edgecomp.load import load_trainable
model = load_trainable(sys.argv[1], trust_code=False)
random = np.random.default_rng(7)
layers = [layer for layer in model.layers if layer.weights]
if sys.argv[3] == "near":
    for layer in layers:
        noise = [1 + 0.02 * random.standard_normal(w.shape) for w in layer.get_weights()]
        layer.set_weights([(w * by).astype(w.dtype) for w, by in zip(layer.get_weights(), noise)])
else:
    kernel, *rest = layers[-1].get_weights()
    layers[-1].set_weights([kernel[random.permutation(len(kernel))], *rest])
save_keras(model, Path(sys.argv[2]))
"""


# One worker makes the fit that all of these start from.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("planned")]


@pytest.fixture(scope="module", autouse=True)
def interpreter():
    if not tflm_available():
        missing("tflite-micro has wheels for Linux x86-64 only")


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Paths of models with other weights."""
    folder = tmp_path_factory.mktemp("models")

    def make(kind):
        path = folder / f"{kind}.h5"
        if not path.exists():
            done = subprocess.run([sys.executable, "-c", CHANGED, MODEL, path, kind], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return path

    return make


def refit(bundle, model, store, out, *more):
    return called("refit", bundle, model, "--data", DATA, "--store", store, "--out", out, *more)


def candidate(body, name):
    return next(item for item in body["fit"]["devices"][0]["candidates"] if item["name"] == name)


def manifest_of(bundle):
    return json.loads((bundle / "manifest.json").read_text())


@pytest.fixture(scope="module")
def bundle(planned, tmp_path_factory):
    """The planner ships what only just holds; with a little room the recipe holds for other weights too."""
    folder = tmp_path_factory.mktemp("roomy") / planned.bundle.name
    shutil.copytree(planned.bundle, folder)
    manifest = manifest_of(folder)
    manifest["limits"] |= {"max_accuracy_drop": "15pp", "min_accuracy": 0.75}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


class TestReplayed:
    @pytest.fixture(scope="class")
    @staticmethod
    def done(planned, bundle, changed, tmp_path_factory):
        out = tmp_path_factory.mktemp("refitted")
        # Preprocessing, limits, device and training options are the bundle's.
        result = refit(bundle, changed("near"), planned.store, out, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout), out, last_run(planned.store)

    def test_the_same_recipe(self, planned, done):
        body, _, run = done
        assert body["schema"] == "edgecomp.refit/1"
        assert body["was_replayed"] is True
        assert body["recipe"] == planned.fit.device["chosen"] == body["fit"]["devices"][0]["chosen"]
        assert body["fit"]["devices"][0]["was_replayed"] is True
        assert trained(run) == [body["recipe"]]
        assert len(events(run, "trial")) == 1

    def test_the_same_training(self, planned, done):
        now, before = candidate(done[0], done[0]["recipe"])["recipe"], planned.fit.chosen["recipe"]
        for key in ("settings", "precision", "epochs"):
            assert now[key] == before[key]
        assert [step["options"] for step in now["steps"]] == [step["options"] for step in before["steps"]]

    def test_the_same_limits_hold(self, bundle, done):
        body = done[0]
        assert body["fit"]["devices"][0]["limits"] == manifest_of(bundle)["limits"]
        chosen = candidate(body, body["recipe"])
        assert chosen["status"] == "chosen"
        assert chosen["model_bytes"] <= 5 * 1024
        assert chosen["validation_accuracy"]["value"] >= 0.75

    def test_the_bundle_is_a_new_one(self, bundle, done):
        body, out, _ = done
        new = out / "near-stm32l4r5"
        assert verify_bundle(new).max_difference_lsb == 0
        manifest, old = manifest_of(new), manifest_of(bundle)
        assert manifest["source"]["sha256"] == body["fit"]["model"]["sha256"] != old["source"]["sha256"]
        for key in ("limits", "seed", "preprocessing", "chosen"):
            assert manifest[key] == old[key]
        assert manifest["fit"]["minimize"] == old["fit"]["minimize"]
        assert manifest["fit"]["metric"] == old["fit"]["metric"] == "accuracy"

    def test_changes_against_the_old_bundle(self, planned, done):
        body = done[0]
        changes = {item["what"]: (item["before"], item["after"]) for item in body["changes"]}
        old, new = planned.fit.chosen, candidate(body, body["recipe"])
        assert changes["file"] == (old["model_bytes"], new["model_bytes"])
        assert changes["accuracy on test"] == (old["accuracy"]["value"], new["accuracy"]["value"])
        float_before, float_now = changes["float model on test"]
        assert float_before == pytest.approx(planned.fit.body["float_model"]["accuracy"]["value"])
        assert float_now == body["fit"]["float_model"]["accuracy"]["value"]
        assert changes["model"][0] != changes["model"][1]

    def test_people_see_the_changes(self, done, capsys):
        body = done[0]
        changes = tuple(Change(**item) for item in body["changes"])
        print_refit(RefitResult(FitResult.model_validate(body["fit"]), True, body["recipe"], changes))
        text = capsys.readouterr().out
        assert f"replayed: {body['recipe']} meets every limit again" in text
        assert "old bundle" in text
        assert "accuracy on test" in text

    def test_it_can_be_refitted_again(self, done):
        from edgecomp.bundle.reader import read_bundle

        manifest = read_bundle(done[1] / "near-stm32l4r5.zip").manifest
        assert manifest.fit
        assert manifest.metrics["recipe"]["stage"] == "full"


def test_the_same_model_elsewhere_gives_the_same_file(planned, tmp_path):
    """Another store, no search before the training: what was trained depends on nothing but what was asked for."""
    done = refit(planned.bundle, MODEL, tmp_path / "store", tmp_path / "out", "--json")
    body = json.loads(done.stdout)
    assert body["was_replayed"] is True
    assert candidate(body, body["recipe"])["sha256"] == planned.fit.chosen["sha256"]


def test_a_model_that_has_lost_its_accuracy_is_searched_for(planned, changed, tmp_path):
    """At quick effort nothing compressed is tried, and nothing fits."""
    done = refit(
        planned.bundle, changed("shuffled"), tmp_path / "store", tmp_path / "out", "--effort", "quick", "--json"
    )
    assert done.exit_code == 3, done.output
    body = json.loads(done.stdout)
    assert body["was_replayed"] is False
    assert body["changes"] == []
    device = body["fit"]["devices"][0]
    assert device["status"] == "no_fit"
    (note,) = [note for note in device["notes"] if note.startswith("Not replayed: ")]
    assert body["recipe"] in note
    assert "accuracy" in note
    assert list((tmp_path / "out").iterdir()) == []


def test_no_time_to_replay(planned, changed, tmp_path):
    limited = ("--effort", "quick", "--time-limit", "1s")
    done = refit(planned.bundle, changed("near"), tmp_path / "store", tmp_path / "out", *limited, "--json")
    assert done.exit_code == 3, done.output
    assert trained(last_run(tmp_path / "store")) == []
    notes = json.loads(done.stdout)["fit"]["devices"][0]["notes"]
    assert any("not trained: it would take about" in note for note in notes)


def test_a_model_that_cannot_be_trained_says_so_once(planned, tmp_path):
    model = ROOT / "tests" / "models" / "digits_float.tflite"
    done = refit(planned.bundle, model, tmp_path / "store", tmp_path / "out", "--json")
    body = json.loads(done.stdout)
    assert body["was_replayed"] is False
    notes = body["fit"]["devices"][0]["notes"]
    assert sum(note.startswith("Nothing was trained: ") for note in notes) == 1


class TestRefused:
    @pytest.fixture
    def bundle(self, planned, tmp_path):
        shutil.copytree(planned.bundle, tmp_path / "bundle")
        return tmp_path / "bundle"

    def test_a_bundle_of_an_older_edgecomp(self, bundle, tmp_path):
        manifest = manifest_of(bundle)
        del manifest["fit"]
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        done = refit(bundle, MODEL, tmp_path / "store", tmp_path / "out")
        assert done.exit_code == 2
        assert "The bundle does not say how it was made: it comes from an older edgecomp." in done.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("damage", "text"),
        [
            (lambda folder: (folder / "model.tflite").write_bytes(b"x"), "model.tflite has changed"),
            (lambda folder: (folder / "golden.npz").unlink(), "golden.npz is missing"),
            (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
            (lambda folder: (folder / "manifest.json").unlink(), "is not a bundle"),
        ],
    )
    def test_a_damaged_bundle(self, bundle, tmp_path, damage, text):
        damage(bundle)
        done = refit(bundle, MODEL, tmp_path / "store", tmp_path / "out")
        assert done.exit_code == 1
        assert text in done.stderr
        assert done.stdout == ""

    @pytest.mark.parametrize(
        ("part", "changes"),
        [
            ("metrics", {"recipe": {"steps": []}}),
            ("metrics", {"recipe": "cluster"}),
            ("fit", {"minimize": "weight"}),
        ],
    )
    def test_a_manifest_that_no_edgecomp_has_written(self, bundle, tmp_path, part, changes):
        """Whoever edits it, or has it from a newer edgecomp, gets a sentence, not a traceback."""
        manifest = manifest_of(bundle)
        manifest[part] |= changes
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        done = refit(bundle, MODEL, tmp_path / "store", tmp_path / "out")
        assert done.exit_code == 1, done.output
        assert "the manifest does not say how the bundle was made in words that this edgecomp knows" in done.stderr

    def test_half_an_archive(self, planned, tmp_path):
        archive = tmp_path / "half.zip"
        archive.write_bytes(planned.bundle.with_suffix(".zip").read_bytes()[:3000])
        done = refit(archive, MODEL, tmp_path / "store", tmp_path / "out")
        assert done.exit_code == 1
        assert "cannot be read as a bundle" in done.stderr


def test_a_limit_that_no_longer_holds_is_searched_for(planned, tmp_path):
    """The old file is one byte too large by now, but less accuracy is enough: something smaller is found."""
    bundle = tmp_path / "bundle"
    shutil.copytree(planned.bundle, bundle)
    manifest = manifest_of(bundle)
    size = planned.fit.chosen["model_bytes"] - 1
    manifest["limits"] |= {"max_model_bytes": size, "max_accuracy_drop": "30pp", "min_accuracy": 0.5}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = refit(bundle, MODEL, planned.store, tmp_path / "out", *SCALING, "--json")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert body["was_replayed"] is False
    chosen = candidate(body, body["fit"]["devices"][0]["chosen"])
    assert chosen["model_bytes"] <= size
    assert chosen["name"] != body["recipe"]
    assert chosen["recipe"] is not None
