"""`edgecomp compress` as a user calls it, on the digits that ship with edgecomp."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from edgecomp.errors import UsageError
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, TflmModel, load
from edgecomp.recipe import make_recipe
from tests.conftest import ROOT, missing, read_npz

DIGITS = ROOT / "calibration_data" / "digits"
MODEL, DATA = str(DIGITS / "digits_cnn.keras"), str(DIGITS / "digits.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run with training for a microcontroller: its folder, and what was printed."""
    from click.testing import CliRunner

    from edgecomp.cli import main

    out = tmp_path_factory.mktemp("out")
    done = CliRunner().invoke(
        main,
        ["compress", MODEL, "--data", DATA, "--mean", "0", "--std", "16", "--technique", "qat",
         "--technique", "cluster",
         "--num-clusters", "8", "--epochs", "2", "--device", "stm32l4r5", "--test", "--out", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    folder = next(out.iterdir())
    return folder, done.stdout, json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_it_writes_keras_model_files_and_report(run):
    folder, _, report = run
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.h5", "report.json", "model.float32.tflite", "model.int8.tflite", "original.int8.tflite"}
    for entry in report["after"] + report["before"]:
        assert (folder / entry["file"]).stat().st_size == entry["model_bytes"]


@pytest.mark.slow
def test_steps_are_in_the_order_in_which_they_compose(run):
    _, printed, report = run
    assert [step["technique"] for step in report["steps"]] == ["cluster", "qat"]
    assert report["recipe"].startswith("cluster(num_clusters=8) + qat(")
    assert "cluster(num_clusters=8)" in printed


@pytest.mark.slow
@pytest.mark.slow
def test_the_int8_file_has_as_few_values_as_asked_for(run):
    """Read off the file by itself: at most 8 integers a channel wherever a layer was clustered."""
    folder, _, report = run
    graph = read_graph((folder / "model.int8.tflite").read_bytes())
    clustered = [change["layer"] for change in report["steps"][0]["changes"]]
    assert clustered
    counts = []
    for subgraph, operator in graph.operators():
        if operator.code not in ("CONV_2D", "FULLY_CONNECTED"):
            continue
        tensor = subgraph.tensors[operator.inputs[1]]
        stored = np.frombuffer(graph_data(folder, tensor), np.int8).reshape(tensor.shape[0], -1)
        counts.append(max(len(np.unique(row)) for row in stored))
    assert sum(count <= 8 for count in counts) >= len(clustered)


def graph_data(folder, tensor):
    from edgecomp.tflite_edit import text_of, unpack_model

    model = unpack_model((folder / "model.int8.tflite").read_bytes(), "x")
    found = next(item for item in model.subgraphs[0].tensors if text_of(item.name) == tensor.name)
    return bytes(np.asarray(model.buffers[found.buffer].data, np.uint8))


@pytest.mark.slow
def test_scores_are_those_of_the_interpreter(run):
    folder, _, report = run
    data = read_npz(DATA)
    inputs = (data["x_test"].astype(np.float32) / 16).reshape(-1, 8, 8, 1)
    model = load((folder / "model.int8.tflite").read_bytes(), KernelFamily.LITERT_BUILTIN)
    answers = model.run({model.graph.inputs[0].name: inputs})[0].argmax(axis=1)
    entry = next(item for item in report["after"] if item["name"] == "int8")
    assert entry["scores"]["test"]["value"] == pytest.approx(np.mean(answers == data["y_test"].ravel()))
    assert entry["scores"]["test"]["value"] > 0.9  # The float model has 0.97; guessing is 0.1.


@pytest.mark.slow
def test_the_packed_file_is_smaller_and_equal_in_tflm(run):
    folder, _, _ = run
    if not (folder / "model.packed.tflite").exists():
        missing("tflite-micro is not installed here")
    inputs = {"x": (read_npz(DATA)["x_test"][:40].astype(np.float32) / 16).reshape(-1, 8, 8, 1)}
    plain, packed = ((folder / f"model.{name}.tflite").read_bytes() for name in ("int8", "packed"))
    assert len(packed) < 0.8 * len(plain)
    assert np.array_equal(TflmModel(plain).run(inputs)[0], TflmModel(packed).run(inputs)[0])


def test_a_preview_trains_nothing_and_says_json(run_cli, tmp_path):
    done = run_cli("compress", MODEL, "--data", DATA, "--mean", "0", "--std", "16", "--technique", "structured_prune",
                   "--ratio", "0.3", "--preview", "--json", "--out", tmp_path)  # fmt: skip
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert body["schema"] == "edgecomp.compression/1"
    assert body["steps"][0]["epochs"] is None
    assert body["steps"][0]["after"]["macs"] < 0.8 * body["steps"][0]["before"]["macs"]
    assert body["after"][0]["macs"] < body["before"][0]["macs"]
    assert "test" not in body["after"][0]["scores"]  # Nobody asked for it.


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--technique", "clusters"], 2, "There is no 'clusters' in compress"),
        (["--technique", "cluster", "--sparsity", "0.5"], 2, "--sparsity belongs to prune, which is not in the recipe"),
        (["--technique", "cluster", "--technique", "cluster"], 2, "--technique cluster is given twice"),
        (["--technique", "cluster", "--num-clusters", "1"], 2, "--num-clusters: input should be greater than or equal"),
        (["--technique", "cluster", "--epochs", "0"], 2, "The epochs must be at least 1, got 0"),
        (["--technique", "cluster", "--augment", "rotate"], 2, "Unknown augmentation 'rotate'"),
        (["--technique", "cluster", "--device", "rpi44"], 2, "rpi44"),
        (["--technique", "cluster", "--unlabelled", "nowhere.npz"], 2, "nowhere.npz"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_sentence(run_cli, tmp_path, arguments, code, text):
    done = run_cli("compress", MODEL, "--data", DATA, "--mean", "0", "--std", "16", "--out", tmp_path, *arguments)
    assert done.exit_code == code, done.output
    assert text in done.stderr
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_tflite_file_has_no_layers_to_train(run_cli, tmp_path):
    done = run_cli("compress", ROOT / "tests" / "models" / "digits_float.tflite", "--data", DATA, "--mean", "0",
                   "--std", "16", "--technique", "prune", "--out", tmp_path)  # fmt: skip
    assert done.exit_code == 1
    assert "holds operators and weights, but no layers that can be trained" in done.stderr


@pytest.mark.slow
def test_without_training_samples(run_cli, tmp_path):
    data = read_npz(DATA)
    np.savez(tmp_path / "test_only.npz", x_test=data["x_test"], y_test=data["y_test"])
    done = run_cli("compress", MODEL, "--data", tmp_path / "test_only.npz", "--mean", "0", "--std", "16",
                   "--technique", "cluster", "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 1
    assert "cluster needs training samples and the data has none" in done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_worker_that_is_killed_for_memory_is_one_sentence(run_cli, tmp_path, monkeypatch):
    """The kernel's killer sends SIGKILL: a technique that dies like that stands for it."""
    (tmp_path / "dies.py").write_text(
        f"import os\ndef loss(labels, outputs):\n    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    monkeypatch.chdir(tmp_path)
    done = run_cli("compress", MODEL, "--data", DATA, "--mean", "0", "--std", "16", "--technique", "cluster",
                   "--loss", "dies:loss", "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 1
    assert "signal SIGKILL, most likely for want of memory" in done.stderr
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".unfinished"]  # No result, but no work lost.


@pytest.mark.slow
@pytest.mark.parametrize("when", ["cluster", "qat"])
def test_a_killed_run_goes_on_and_ends_with_the_same_files(run, tmp_path, when):
    """kill -9 of the whole command in the first or in the second step; the same command again."""
    whole, _, _ = run
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "edgecomp", "compress", MODEL, "--data", DATA, "--mean", "0", "--std", "16",
        "--technique", "qat", "--technique", "cluster", "--num-clusters", "8", "--epochs", "2", "--device", "stm32l4r5",
        "--test", "--out", str(out), "--json",
    ]  # fmt: skip
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted = "*.unfinished/cluster-*/*.npz" if when == "cluster" else "*.unfinished/cluster-*/step.json"
    deadline = time.monotonic() + 300
    while not list(out.glob(wanted)) and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, "it ended before it could be killed"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    steps = json.loads(done.stdout)["steps"]
    assert steps[0]["resumed_epochs"] == (2 if when == "qat" else 1)
    assert [path.name for path in out.iterdir()] == [whole.name]  # Nothing unfinished is left.
    for name in ("model.int8.tflite", "model.float32.tflite"):
        assert (out / whole.name / name).read_bytes() == (whole / name).read_bytes()


def test_nothing_is_trained_for_a_folder_that_cannot_be_written(run_cli, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run_cli("compress", MODEL, "--data", DATA, "--technique", "cluster", "--out", tmp_path / "file")
    assert done.exit_code == 1
    assert "Cannot write to the output folder" in done.stderr


def test_the_command_line_has_the_defaults_of_the_settings():
    import click

    from edgecomp.cli import compress
    from edgecomp.training.settings import TrainingSettings

    told = {option.name: option.default for option in compress.params if isinstance(option, click.Option)}
    for name in (
        "epochs",
        "batch_size",
        "learning_rate",
        "loss",
        "distill_weight",
        "temperature",
        "feature_loss",
        "seed",
    ):
        assert told[name] == getattr(TrainingSettings(), name), name


def test_recipes_are_named_by_all_that_they_are():
    one, other = (make_recipe(["cluster"], {"num_clusters": count}) for count in (4, 8))
    assert str(one) == "cluster(num_clusters=4)"
    assert one.slug != other.slug
    assert one.slug == make_recipe(["cluster"], {"num_clusters": 4}).slug


def test_a_recipe_of_no_technique_has_no_options():
    with pytest.raises(UsageError, match="--num-clusters belongs to cluster"):
        make_recipe([], {"num_clusters": 4})
