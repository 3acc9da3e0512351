"""Models with classes of the user's own: refused by name without them, opened with --custom-objects."""

import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT

DIGITS = str(ROOT / "calibration_data" / "digits" / "digits.npz")
MODULE = """
    import os
    import KERAS as keras

    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    def objects():
        return {"Doubled": Doubled}

    def wrong():
        return [Doubled]

    if __name__ == "__main__":
        x = inputs = keras.layers.Input((8, 8, 1))
        x = keras.layers.Conv2D(4, 3, activation="relu")(x)
        x = Doubled()(x)
        x = keras.layers.Flatten()(x)
        keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x)).save(PATH)
"""


@pytest.fixture(scope="module", params=["tf_keras", "keras"])
def folder(request, tmp_path_factory):
    """A module `own_layers` and a model that needs it: a legacy .h5, or a .keras of Keras 3."""
    folder = tmp_path_factory.mktemp(request.param)
    name = "model.h5" if request.param == "tf_keras" else "model.keras"
    text = textwrap.dedent(MODULE).replace("KERAS", request.param).replace("PATH", repr(name))
    (folder / "own_layers.py").write_text(text)
    run = "import own_layers, runpy; runpy.run_module('own_layers', run_name='__main__')"
    if request.param == "keras":  # Under its real name the class is stored with its module.
        source = text.split("if __name__")[1].partition("\n")[2]
        run = "import keras; from own_layers import Doubled\n" + textwrap.dedent(source)
    subprocess.run([sys.executable, "-W", "ignore", "-c", run], cwd=folder, check=True, capture_output=True)
    return folder


def test_without_the_class_its_name_is_told(folder, run_cli, monkeypatch):
    monkeypatch.chdir(folder)
    model = next(str(path) for path in folder.glob("model.*"))
    done = run_cli("check", model, "--device", "rpi4")
    assert done.exit_code == 1
    assert "Doubled" in done.stderr
    assert "--custom-objects" in done.stderr


@pytest.mark.parametrize("spec", ["own_layers", "own_layers:objects"])
@pytest.mark.slow
def test_with_the_class_the_model_is_converted(folder, run_cli, monkeypatch, spec):
    monkeypatch.chdir(folder)
    model = next(str(path) for path in folder.glob("model.*"))
    done = run_cli("check", model, "--device", "rpi4", "--custom-objects", spec)
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_a_module_that_is_not_there(folder, run_cli, monkeypatch):
    monkeypatch.chdir(folder)
    model = next(str(path) for path in folder.glob("model.*"))
    done = run_cli("check", model, "--device", "rpi4", "--custom-objects", "own_layer")
    assert done.exit_code == 2
    assert "--custom-objects own_layer: importing own_layer failed" in done.stderr


@pytest.mark.slow
def test_a_function_that_returns_something_else(folder, run_cli, monkeypatch):
    monkeypatch.chdir(folder)
    model = next(str(path) for path in folder.glob("model.*"))
    done = run_cli("check", model, "--device", "rpi4", "--custom-objects", "own_layers:wrong")
    assert done.exit_code == 2
    assert "expected a dict of classes by name, got list" in done.stderr


@pytest.mark.parametrize("folder", ["tf_keras"], indirect=True)
def test_a_model_with_a_custom_layer_is_compressed_around_it(folder, run_cli, monkeypatch):
    monkeypatch.chdir(folder)
    done = run_cli(
        "compress", "model.h5", "--data", DIGITS, "--std", "16", "--mean", "0", "--technique", "cluster", "--preview",
        "--custom-objects", "own_layers", "--num-clusters", "4",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "at most 4 values a channel" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["keras"], indirect=True)
def test_a_keras_3_class_leaves_post_training_techniques(folder, run_cli, monkeypatch):
    monkeypatch.chdir(folder)
    done = run_cli(
        "compress", "model.keras", "--data", DIGITS, "--std", "16", "--mean", "0", "--technique", "cluster",
        "--custom-objects", "own_layers",
    )  # fmt: skip
    assert done.exit_code == 1
    assert "cannot be rebuilt in tf_keras" in done.stderr
