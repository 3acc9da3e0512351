"""What is found out about a model file without TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import pytest

from edgecomp.errors import EdgecompError, GraphError, ModelError
from edgecomp.model import ModelKind, identify

MODELS = Path(__file__).parent / "models"


def keras_object(class_name, name, module="keras.layers", registered=None, **config):
    return {
        "module": module,
        "class_name": class_name,
        "config": {"name": name, **config},
        "registered_name": registered,
    }


def sequential(*layers):
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "net", "layers": list(layers)},
        "registered_name": None,
    }


DENSE = keras_object("Dense", "dense", dtype=keras_object("DTypePolicy", "float32", "keras"))


def write_keras(path, config=None, version="3.15.1", leave_out=()):
    members = {
        "metadata.json": json.dumps({"keras_version": version}),
        "config.json": json.dumps(sequential(DENSE) if config is None else config),
        "model.weights.h5": "weights",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            if name not in leave_out:
                archive.writestr(name, text)
    return path


def write_h5(path, config=None, version="2.4.0", weights_only=False):
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        file.create_dataset("kernel", data=[1.0] * 1000)
        if weights_only:
            file.attrs["layer_names"] = ["dense"]
        else:
            file.attrs["model_config"] = json.dumps(sequential(DENSE) if config is None else config)
    return path


def write_saved_model(path, graph=b"graph"):
    path.mkdir()
    (path / "saved_model.pb").write_bytes(graph)
    return path


def refusal(path, **options):
    """The whole text of the error, which must be one sentence about this file and what to do next."""
    with pytest.raises(ModelError) as caught:
        identify(path, **options)
    assert str(path) in caught.value.message
    return str(caught.value)


class TestKinds:
    def test_by_content(self, tmp_path):
        assert identify(write_keras(tmp_path / "a.keras")) is ModelKind.KERAS3
        assert identify(write_keras(tmp_path / "b.keras", version="2.15.0")) is ModelKind.LEGACY_KERAS
        assert identify(write_h5(tmp_path / "c.h5")) is ModelKind.LEGACY_H5
        assert identify(write_h5(tmp_path / "d.hdf5", version="3.15.1")) is ModelKind.KERAS3
        # Keras before 2.12 wrote HDF5 whatever the extension.
        assert identify(write_h5(tmp_path / "e.keras")) is ModelKind.LEGACY_H5
        assert identify(write_saved_model(tmp_path / "f")) is ModelKind.SAVED_MODEL
        assert identify(MODELS / "digits_float.tflite") is ModelKind.TFLITE

    @pytest.mark.data
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("mnist/mnist_lenet.keras", ModelKind.KERAS3),
            ("resnet8-cifar10/pretrainedResnet.h5", ModelKind.LEGACY_H5),
            ("dscnn-kws/kws_ref_model.h5", ModelKind.LEGACY_H5),
            ("dscnn-kws/kws_ref_model", ModelKind.SAVED_MODEL),
            ("resnet8-cifar10/pretrainedResnet.tflite", ModelKind.TFLITE),
        ],
    )
    def test_real_models(self, data_folder, name, kind):
        assert identify(data_folder / name) is kind

    def test_neither_tensorflow_nor_keras_is_imported(self, tmp_path):
        paths = [write_keras(tmp_path / "a.keras"), write_h5(tmp_path / "a.h5"), MODELS / "digits_float.tflite"]
        code = (
            "import sys; from pathlib import Path; from edgecomp.model import identify; import edgecomp.convert\n"
            "for path in sys.argv[1:]: identify(Path(path))\n"
            "heavy = {'tensorflow', 'keras', 'tf_keras', 'ai_edge_litert'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, timeout=60)


class TestNotAModel:
    def test_missing(self, tmp_path):
        assert "no such file or folder" in refusal(tmp_path / "nothing.keras")

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("model.onnx", "ONNX"),
            ("model.pt", "litert-torch"),
            ("saved_model.pb", "Pass the folder"),
            ("model", "allowed"),
        ],
    )
    def test_unknown_extension(self, tmp_path, name, hint):
        path = tmp_path / name
        path.write_bytes(b"x" * 100)
        text = refusal(path)
        assert "unknown kind of model file" in text
        assert "a .keras, .h5 or .tflite file, or the folder of a SavedModel" in text
        assert hint in text

    @pytest.mark.parametrize("extension", ["keras", "h5", "tflite"])
    def test_text(self, tmp_path, extension):
        path = tmp_path / f"model.{extension}"
        path.write_text("this is not a model\n" * 100)
        assert f"not a .{extension} file: it begins with b'this is '" in refusal(path)

    @pytest.mark.parametrize("extension", ["keras", "h5", "tflite"])
    def test_empty(self, tmp_path, extension):
        path = tmp_path / f"model.{extension}"
        path.touch()
        assert "the file is empty" in refusal(path)

    def test_wrong_name(self, tmp_path):
        keras = write_keras(tmp_path / "model.keras")
        assert "Rename it to model.keras." in refusal(keras.rename(tmp_path / "model.h5"))

    @pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
    def test_cut(self, tmp_path, keep):
        for whole in (
            write_keras(tmp_path / "a.keras"),
            write_h5(tmp_path / "a.h5"),
            MODELS / "digits_float.tflite",
        ):
            data = whole.read_bytes()
            path = tmp_path / f"cut{whole.suffix}"
            path.write_bytes(data[: int(len(data) * keep)])
            assert "damaged" in refusal(path)

    def test_flipped_byte_in_archive(self, tmp_path):
        path = write_keras(tmp_path / "model.keras")
        data = bytearray(path.read_bytes())
        data[data.index(b"weights", data.index(b"model.weights.h5") + 16)] ^= 1
        path.write_bytes(data)
        assert "the checksum of model.weights.h5 is wrong" in refusal(path)

    def test_zip_without_a_model(self, tmp_path):
        path = write_keras(tmp_path / "model.keras", leave_out=("config.json",))
        assert "config.json is missing in the archive" in refusal(path)

    @pytest.mark.parametrize("config", [[], {}, "text"], ids=["list", "dict", "text"])
    def test_configuration_of_nothing(self, tmp_path, config):
        assert "describes no model" in refusal(write_keras(tmp_path / "model.keras", config=config))

    def test_configuration_that_is_not_json(self, tmp_path):
        path = tmp_path / "model.h5"
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = "{"
        assert "not JSON" in refusal(path)

    def test_weights_only(self, tmp_path):
        text = refusal(write_h5(tmp_path / "model.h5", weights_only=True))
        assert "holds weights but no architecture" in text
        assert "model.save(" in text

    def test_damaged_tflite_is_a_graph_error(self, tmp_path):
        path = tmp_path / "model.tflite"
        path.write_bytes((MODELS / "digits_float.tflite").read_bytes()[:1000])
        with pytest.raises(GraphError):
            identify(path)


class TestSavedModelFolder:
    def test_empty(self, tmp_path):
        assert "no saved_model.pb, it is empty" in refusal(tmp_path)

    def test_folder_of_something_else(self, tmp_path):
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).touch()
        assert "it holds a.txt, b.txt" in refusal(tmp_path)

    def test_folder_around_it(self, tmp_path):
        inner = write_saved_model(tmp_path / "inner")
        assert f"Did you mean {inner}?" in refusal(tmp_path)

    def test_variables_without_index(self, tmp_path):
        path = write_saved_model(tmp_path / "model")
        (path / "variables").mkdir()
        (path / "variables" / "variables.data-00000-of-00001").touch()
        assert "variables.index is missing" in refusal(path)

    def test_operators_that_act_on_the_machine(self, tmp_path):
        path = write_saved_model(tmp_path / "model", b"\x0a\x04save\x12\x09WriteFile\x1a\x00")
        assert "the TensorFlow operator WriteFile" in refusal(path)
        assert identify(path, trust_code=True) is ModelKind.SAVED_MODEL


LAMBDA = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}
CODE = {
    "Lambda": keras_object("Lambda", "inner", function=LAMBDA),
    "Lambda in a wrapper": keras_object(
        "TimeDistributed", "outer", layer=keras_object("Lambda", "inner", function="named")
    ),
    "Lambda in a nested model": sequential(keras_object("Lambda", "inner", function=LAMBDA)),
    "activation": keras_object("Dense", "inner", activation=LAMBDA),
    "activation as Keras 3.15 writes it": keras_object("Dense", "inner", activation={"value": ["4wEA", None, None]}),
}


class TestCode:
    @pytest.mark.parametrize("name", CODE)
    def test_refused_in_keras(self, tmp_path, name):
        path = write_keras(tmp_path / "model.keras", sequential(DENSE, CODE[name]))
        text = refusal(path)
        assert "layer 'inner' holds Python code" in text
        assert "--trust-model-code" in text
        assert identify(path, trust_code=True) is ModelKind.KERAS3

    @pytest.mark.parametrize("version", ["2.4.0", "3.15.1"])
    def test_refused_in_h5(self, tmp_path, version):
        path = write_h5(tmp_path / "model.h5", sequential(CODE["Lambda"]), version)
        assert "layer 'inner' holds Python code (Lambda)" in refusal(path)
        assert identify(path, trust_code=True)

    def test_tensorflow_function_that_acts_on_the_machine(self, tmp_path):
        layer = {"class_name": "TFOpLambda", "config": {"name": "inner", "function": "io.write_file"}}
        path = write_h5(tmp_path / "model.h5", sequential(layer))
        assert "layer 'inner' holds Python code (tf.io.write_file)" in refusal(path)
        layer["config"]["function"] = "math.sin"
        assert identify(write_h5(tmp_path / "other.h5", sequential(layer))) is ModelKind.LEGACY_H5

    def test_loss_does_not_matter(self, tmp_path):
        """Models are opened without being compiled."""
        config = {**sequential(DENSE), "compile_config": {"loss": LAMBDA}}
        assert identify(write_keras(tmp_path / "model.keras", config)) is ModelKind.KERAS3


class TestCustomClasses:
    @pytest.mark.parametrize(
        ("layer", "named"),
        [
            (keras_object("Twice", "mine", None, "acme>Twice"), "layer 'mine' needs the class acme>Twice"),
            (keras_object("Twice", "mine", None, "Twice"), "layer 'mine' needs the class Twice"),
            (keras_object("Twice", "mine", "acme.net", "Twice"), "the class Twice of the module acme.net"),
            (
                keras_object(
                    "Dense",
                    "mine",
                    activation={
                        "module": "acme",
                        "class_name": "function",
                        "config": "bend",
                        "registered_name": "function",
                    },
                ),
                "layer 'mine' needs the function bend of the module acme",
            ),
        ],
        ids=["registered", "unregistered", "module", "function"],
    )
    def test_named(self, tmp_path, layer, named):
        path = write_keras(tmp_path / "model.keras", sequential(DENSE, layer))
        text = refusal(path, trust_code=True)  # Trust does not bring the class either.
        assert named in text
        assert "model.export(" in text

    def test_model_class(self, tmp_path):
        config = {
            "module": None,
            "class_name": "Net",
            "config": {"name": "net"},
            "registered_name": "acme>Net",
        }
        assert "needs the class acme>Net" in refusal(write_keras(tmp_path / "model.keras", config))


def test_unreadable_file_is_no_traceback(tmp_path, monkeypatch):
    path = write_keras(tmp_path / "model.keras")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # As root, file modes forbid nothing.
    with pytest.raises(EdgecompError, match="cannot be read: Permission denied"):
        identify(path)
