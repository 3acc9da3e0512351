"""The real data sets of EDGECOMP_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest

from edgecomp.data import DataOptions, lint_calibration, prepare_dataset
from edgecomp.tensors import TensorSpec

DATA = Path(os.environ.get("EDGECOMP_DATA", Path(__file__).parents[2] / "shared" / "data"))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data: {DATA} is missing; set EDGECOMP_DATA"),
]


def prepared(file, folder, shape, classes, **options):
    dataset = prepare_dataset(DataOptions(str(DATA / file), **options), folder)
    return dataset.bind([TensorSpec("x", (1, *shape), "float32")], [TensorSpec("y", (1, classes), "float32")])


def test_cifar10(tmp_path):
    bound = prepared("resnet8-cifar10/cifar10_lossless_4k_1k.npz", tmp_path, (32, 32, 3), 10)
    assert bound.dataset.counts == {"train": 3200, "validation": 800, "calibration": 200, "test": 1000}
    with np.load(DATA / "resnet8-cifar10/cifar10_lossless_4k_1k.npz") as source:
        images = np.concatenate([batch["x"] for batch in bound.split("test").batches(64)])
        np.testing.assert_array_equal(images, source["x_test"].astype(np.float32))
        np.testing.assert_array_equal(bound.split("test").labels["y"], source["y_test"])
        train = np.bincount(source["y_train"])
    # Stratified: each class has its fifth of the training images, within one image.
    assert np.abs(np.bincount(bound.split("validation").labels["y"]) - train / 5).max() < 1
    assert [finding for finding in lint_calibration(bound) if finding.level != "info"] == []


def test_har_keeps_every_subject_on_one_side(tmp_path):
    bound = prepared("har-spsw/har_spsw_w64.npz", tmp_path, (64, 6), 5, group_key="subject")
    with np.load(DATA / "har-spsw/har_spsw_w64.npz") as source:
        subjects = source["subject_train"]
    found = {name: set(subjects[bound.dataset.positions(name)]) for name in ("train", "validation", "calibration")}
    assert not found["train"] & found["validation"]
    assert found["train"] | found["validation"] == set(range(1, 19))
    assert found["calibration"] <= found["train"]
    assert len(found["validation"]) == 4
    assert bound.dataset.array("train", "inputs", "").dtype == np.float16
    assert any("device_train" in note for note in bound.notes)


def test_har_is_standardised_by_its_readme(tmp_path):
    mean = (-5.1423, -1.8441, 0.4623, -0.0095, -0.0002, 0.0314)
    std = (5.0414, 6.4378, 4.2962, 1.3490, 1.2518, 1.0536)
    bound = prepared("har-spsw/har_spsw_w64.npz", tmp_path, (64, 6), 5, mean=mean, std=std)
    training = bound.split("train").read()["x"]
    # The README's mean and std are those of all training windows: four fifths of them come near 0 and 1.
    np.testing.assert_allclose(training.mean(axis=(0, 1)), 0, atol=0.02)
    np.testing.assert_allclose(training.std(axis=(0, 1)), 1, atol=0.02)


def test_mnist_gets_its_channel_axis(tmp_path):
    bound = prepared("mnist/mnist.npz", tmp_path, (28, 28, 1), 10, std=(255.0,))
    assert [note for note in bound.notes if "(28, 28)" in note and "axis of size 1 is added" in note]
    batch = next(bound.split("validation").batches(32))["x"]
    assert batch.shape == (32, 28, 28, 1)
    assert (batch.min(), batch.max()) == (0, 1)
    assert bound.split("validation").count == 2000  # the limit; a fifth would be 12,000
