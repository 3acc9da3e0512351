"""What is said about calibration samples."""

import numpy as np
import pytest

from edgecomp.data import DataOptions, lint_calibration, prepare_dataset
from edgecomp.errors import MissingDataError
from edgecomp.tensors import TensorSpec


@pytest.fixture
def lint(tmp_path):
    """Findings about calibration samples beside training and test samples that cover 0 to 255."""

    def run(calib=None, y_calib=None, spec=None, classes=4, **options):
        rng = np.random.default_rng(0)
        members = {
            "x_train": rng.integers(0, 256, (400, 8), dtype=np.uint8).astype(np.float32),
            "y_train": np.arange(400) % 4,
            "x_test": rng.integers(0, 256, (50, 8), dtype=np.uint8).astype(np.float32),
            "y_test": np.arange(50) % 4,
        }
        if calib is not None:
            members["x_calib"] = np.asarray(calib, np.float32)
        if y_calib is not None:
            members["y_calib"] = y_calib
        np.savez(tmp_path / "a.npz", **members)
        dataset = prepare_dataset(DataOptions(str(tmp_path / "a.npz"), **options), tmp_path / "run")
        spec = spec or TensorSpec("x", (1, 8), "float32")
        return lint_calibration(dataset.bind([spec], [TensorSpec("y", (1, classes), "float32")]))

    return run


def told(findings, level):
    return [finding.message for finding in findings if finding.level == level]


def spread(count, low=0.0, high=255.0):
    return np.linspace(low, high, count * 8).reshape(count, 8)


def test_good_samples_give_facts_only(lint):
    findings = lint(calibration_samples=200)
    assert told(findings, "warning") == told(findings, "error") == []
    assert told(findings, "info") == ["200 calibration samples.", "Input 'x': calibration values run from 0 to 255."]


def test_few_samples(lint):
    assert "Only 20 calibration samples" in told(lint(calibration_samples=20), "warning")[0]


def test_repeated_samples(lint):
    calib = np.concatenate([spread(120), spread(120)[:30]])
    assert told(lint(calib, np.arange(150) % 4), "warning") == ["Only 120 of the 150 calibration samples are distinct."]
    assert told(lint(np.tile(spread(1), (150, 1))), "error") == ["All 150 calibration samples are the same."]


def test_one_value(lint):
    calib = np.full((120, 8), 3.0)
    assert "every calibration value is 3" in " ".join(told(lint(calib), "error"))


def test_another_scale_than_the_validation_samples(lint):
    small = told(lint(spread(120, 0, 1), np.arange(120) % 4), "warning")
    assert len(small) == 1
    assert "from 0 to 1, the validation values from 0 to 255" in small[0]
    assert "less than half" in small[0]
    wide = told(lint(spread(120, 0, 2000), np.arange(120) % 4), "warning")
    assert "four times too wide costs two bits" in wide[0]


def test_ranges_are_those_after_mean_and_std(lint):
    assert "from -1 to 1." in told(lint(mean=(127.5,), std=(127.5,)), "info")[1]


def test_the_range_that_a_quantized_input_stores(lint):
    def warnings(scale, zero_point):
        spec = TensorSpec("x", (1, 8), "int8", scale, zero_point)
        return " ".join(told(lint(spec=spec), "warning"))

    assert warnings(1.0, -128) == ""  # 0 to 255
    assert "stores 0 to 127.5 only" in warnings(0.5, -128)
    assert "a small part of the 0 to 5100" in warnings(20.0, -128)


def test_missing_classes(lint):
    findings = told(lint(spread(120), np.arange(120) % 2), "warning")
    assert findings == ["Output 'y': 2 of 4 classes have no calibration sample: 2, 3."]


def test_classes_that_no_sample_has_are_not_missed(lint):
    assert told(lint(classes=10), "warning") == []


def test_without_labels_classes_cannot_be_judged(lint):
    assert any("have no labels" in message for message in told(lint(spread(120)), "info"))


def test_without_calibration_samples(tmp_path):
    np.savez(tmp_path / "a.npz", x_test=np.zeros((4, 8)), y_test=[0, 1, 0, 1])
    dataset = prepare_dataset(DataOptions(str(tmp_path / "a.npz")), tmp_path / "run")
    bound = dataset.bind([TensorSpec("x", (1, 8), "float32")], [TensorSpec("y", (1, 2), "float32")])
    with pytest.raises(MissingDataError, match="no calibration samples"):
        lint_calibration(bound)
