import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgecomp.bundle import writer
from edgecomp.bundle.manifest import Golden, Manifest, Preprocessing, TensorEntry
from edgecomp.bundle.reader import read_bundle
from edgecomp.bundle.verify import verify_bundle
from edgecomp.bundle.writer import file_entries, require_writable, runner_script, write_bundle
from edgecomp.errors import BundleError
from edgecomp.files import atomic_folder, sha256_of, sha256_of_path, write_atomic
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, load, stored_inputs
from tests.conftest import read_npz

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def content(data_folder, tmp_path_factory):
    """A bundle's manifest and files, made by hand from MLPerf Tiny's ResNet8 and real images."""
    folder = data_folder / "resnet8-cifar10"
    data = (folder / "pretrainedResnet_quant.tflite").read_bytes()
    images = read_npz(folder / "cifar10_lossless_4k_1k.npz")["x_test"][:4]
    inputs = {"input_1_int8": images.astype(np.float32)}
    model = load(data, KernelFamily.LITERT_XNNPACK)
    golden = tmp_path_factory.mktemp("golden") / "golden.npz"
    np.savez(golden, input_0=stored_inputs(model.graph, inputs)[0], output_0=model.run(inputs)[0])
    files = {"model.tflite": data, "golden.npz": golden.read_bytes(), "run_model.py": runner_script()}
    graph = read_graph(data)
    manifest = Manifest(
        device="rpi4",
        chosen="INT8",
        source={"name": "pretrainedResnet.h5", "kind": "legacy_h5", "sha256": "0" * 64},
        files=file_entries(files),
        inputs=tuple(TensorEntry.of(spec) for spec in graph.inputs),
        outputs=tuple(TensorEntry.of(spec) for spec in graph.outputs),
        preprocessing=Preprocessing(mean=None, std=None),
        class_names=None,
        metrics={},
        limits={},
        golden=Golden(
            kernel_family="LITERT_XNNPACK",
            runtime="ai-edge-litert",
            runtime_version="2.3.0",
            architecture="x86_64",
            samples=4,
        ),
        plan=(),
        seed=0,
        versions={},
    )
    return manifest, files


@pytest.fixture
def bundle(content, tmp_path):
    write_bundle(tmp_path, "b", *content)
    return tmp_path / "b"


def test_folder_and_zip_hold_the_same_and_are_deterministic(content, tmp_path):
    path, digest = write_bundle(tmp_path / "one", "b", *content)
    again, digest_again = write_bundle(tmp_path / "two", "b", *content)
    assert digest == digest_again == sha256_of_path(path) == sha256_of_path(again)
    assert read_bundle(path).files == read_bundle(tmp_path / "one" / "b").files
    assert {item.name for item in (tmp_path / "one").iterdir()} == {"b", "b.zip"}


def test_a_second_write_replaces_the_first(content, tmp_path):
    manifest, files = content
    write_bundle(tmp_path, "b", manifest, files)
    changed = {**files, "extra.txt": b"x"}
    write_bundle(tmp_path, "b", manifest.model_copy(update={"files": file_entries(changed)}), changed)
    assert "extra.txt" in read_bundle(tmp_path / "b").files
    assert {item.name for item in tmp_path.iterdir()} == {"b", "b.zip"}


def test_verify_runs_the_golden_samples(bundle):
    report = verify_bundle(bundle)
    assert report.files == 3
    assert report.samples == 4
    assert report.max_difference_lsb == 0  # the same kernels on the same machine
    assert report.rule == "exact"
    assert report.argmax_agreement == 1.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.tflite").write_bytes(b"x"), "model.tflite has changed"),
        (lambda folder: (folder / "golden.npz").unlink(), "golden.npz is missing"),
        (lambda folder: (folder / "new.txt").write_text("x"), "new.txt is not in the manifest"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not a bundle: it has no manifest.json"),
    ],
)
def test_what_was_changed_is_named(bundle, damage, message):
    damage(bundle)
    with pytest.raises(BundleError, match=message):
        read_bundle(bundle)


def test_wrong_golden_outputs_do_not_verify(content, tmp_path):
    manifest, files = content
    with np.load(io.BytesIO(files["golden.npz"])) as arrays:
        inputs, outputs = arrays["input_0"], arrays["output_0"]
    np.savez(tmp_path / "golden.npz", input_0=inputs, output_0=np.roll(outputs, 1, axis=1))
    wrong = {**files, "golden.npz": (tmp_path / "golden.npz").read_bytes()}
    write_bundle(tmp_path, "b", manifest.model_copy(update={"files": file_entries(wrong)}), wrong)
    with pytest.raises(BundleError, match=r"Output 0 is not the golden one: 4 of 4 samples differ by more than 0 LSB"):
        verify_bundle(tmp_path / "b")


def test_not_a_bundle(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(BundleError, match=r"text\.zip cannot be read as a bundle"):
        read_bundle(tmp_path / "text.zip")
    with pytest.raises(BundleError, match="There is no bundle at"):
        read_bundle(tmp_path / "nowhere")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        read_bundle(tmp_path / "other.zip")


class TestRunModel:
    """The script in the bundle, run as a user would."""

    def run(self, bundle, *arguments):
        return subprocess.run(
            [sys.executable, "-W", "ignore", str(bundle / "run_model.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def test_checks_its_golden_samples(self, bundle):
        done = self.run(bundle)
        assert done.returncode == 0, done.stderr
        assert "4 golden samples, same answer 100%, largest difference 0 LSB" in done.stdout

    def test_answers_for_a_raw_sample(self, bundle, data_folder, tmp_path):
        with np.load(data_folder / "resnet8-cifar10" / "cifar10_lossless_4k_1k.npz") as arrays:
            np.save(tmp_path / "cat.npy", arrays["x_test"][0])  # the first CIFAR-10 test image is a cat: class 3
        done = self.run(bundle, tmp_path / "cat.npy")
        assert "answer: class 3" in done.stdout, done.stderr

    def test_says_what_shape_it_takes(self, bundle, tmp_path):
        np.save(tmp_path / "small.npy", np.zeros((8, 8, 3)))
        done = self.run(bundle, tmp_path / "small.npy")
        assert done.returncode == 1
        assert "The model takes 3072 values [32, 32, 3], got shape (8, 8, 3)" in done.stderr


class TestFaults:
    def full_disk(self, monkeypatch, after):
        """The disk is full from the given fsync on: what a real one reports late."""
        calls = {"n": 0}
        real = os.fsync

        def fsync(descriptor):
            calls["n"] += 1
            if calls["n"] > after:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        monkeypatch.setattr("os.fsync", fsync)

    @pytest.mark.parametrize("after", [0, 1, 3, 4, 5])
    def test_a_full_disk_leaves_nothing_behind(self, content, tmp_path, monkeypatch, after):
        self.full_disk(monkeypatch, after)
        with pytest.raises(BundleError, match=r"Cannot write the bundle .*: the disk is full"):
            write_bundle(tmp_path, "b", *content)
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_keeps_the_bundle_that_was_there(self, content, tmp_path, monkeypatch):
        write_bundle(tmp_path, "b", *content)
        self.full_disk(monkeypatch, after=2)
        with pytest.raises(BundleError, match="the disk is full"):
            write_bundle(tmp_path, "b", *content)
        assert verify_bundle(tmp_path / "b").files == 3

    def test_an_output_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "out").write_text("x")
        with pytest.raises(BundleError, match=r"Cannot write to the output folder .*out"):
            require_writable(tmp_path / "out")

    def test_a_broken_write_leaves_no_temporary_file(self, tmp_path, monkeypatch):
        self.full_disk(monkeypatch, after=0)
        with pytest.raises(OSError, match="No space"):
            write_atomic(tmp_path / "file", b"data")
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupted_folder_is_absent(self, tmp_path):
        def interrupted():
            with atomic_folder(tmp_path / "f") as folder:
                (folder / "half").write_text("x")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert list(tmp_path.iterdir()) == []


def test_digest_of_a_folder_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = sha256_of_path(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256_of_path(tmp_path) != first
    assert sha256_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4


def test_the_runner_parses_on_python_3_7():
    import ast

    ast.parse(Path(writer.__file__).with_name("run_model.py").read_text(), feature_version=(3, 7))


def test_manifest_is_json_without_time_or_path(content, bundle):
    text = (bundle / "manifest.json").read_text()
    assert json.loads(text)["schema"] == "edgecomp.bundle/1"
    assert str(bundle.parent) not in text
