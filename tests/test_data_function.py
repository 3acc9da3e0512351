"""`module:function` as a source."""

import sys
import textwrap

import pytest

from edgecomp.data import DataOptions, prepare_dataset
from edgecomp.errors import DataError, EdgecompError, MissingDataError, UsageError
from edgecomp.tensors import TensorSpec


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Write a module into the current folder and prepare what its function `batches` yields."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Two texts of one second would share their bytecode.

    def prepare(code, spec="my_batches:batches", **options):
        (tmp_path / "my_batches.py").write_text("import numpy as np\n" + textwrap.dedent(code))
        sys.modules.pop("my_batches", None)
        return prepare_dataset(DataOptions(spec, **({"calibration_samples": 5} | options)), tmp_path / "run")

    yield prepare
    sys.modules.pop("my_batches", None)


def refused(run, code, *words, error=DataError, **options):
    with pytest.raises(EdgecompError) as caught:
        run(code, **options)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


def yielding(expression):
    """A function whose test split yields one expression."""
    return f"def batches(split):\n    return iter([{expression}]) if split == 'test' else None\n"


def test_batches_of_any_size_are_put_together(run):
    dataset = run(
        """
        def batches(split):
            if split in ("train", "test"):
                for count in (10, 25, 5):
                    yield np.full((count, 2), count, np.int16), np.arange(count) % 2
        """
    )
    assert dataset.counts == {"train": 32, "validation": 8, "calibration": 5, "test": 40}
    bound = dataset.bind([TensorSpec("x", (1, 2), "float32")], [TensorSpec("y", (1, 2), "float32")])
    assert bound.split("test").read()["x"][:, 0].tolist() == [10] * 10 + [25] * 25 + [5] * 5


def test_all_four_splits_and_names(run):
    dataset = run(
        """
        SIZES = {"train": 8, "validation": 6, "calibration": 4, "test": 2}

        def batches(split):
            count = SIZES[split]
            return [({"a": np.zeros((count, 3)), "b": np.ones((count, 1))}, {"out": np.zeros(count)})]
        """
    )
    assert dataset.counts == {"train": 8, "validation": 6, "calibration": 4, "test": 2}
    assert set(dataset.stored["test"].inputs) == {"a", "b"}


def test_batches_without_labels(run):
    dataset = run("def batches(split):\n    return [np.zeros((4, 2)), (np.ones((4, 2)), None)]\n")
    assert dataset.stored["test"].labels == {}


def test_modules_beside_it_are_found_while_batches_are_read(run, tmp_path):
    (tmp_path / "my_helper.py").write_text("VALUE = 7\n")
    dataset = run(
        """
        def batches(split):
            import my_helper
            yield np.full((4, 1), my_helper.VALUE)
        """,
        calibration_samples=1,
    )
    assert dataset.stored["test"].inputs[""].low == 7
    assert str(tmp_path) not in sys.path


def test_a_tensor_of_another_library_is_taken(run):
    dataset = run(
        """
        class Tensor:
            def __array__(self, dtype=None, copy=None):
                return np.zeros((3, 2), np.float32)

        def batches(split):
            return [Tensor()] if split == "test" else None
        """
    )
    assert dataset.counts["test"] == 2  # one of three is validation's


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("1, 2, 3", ("batch 0", "x must be an array, got int")),
        ("(np.zeros((2, 1)), np.zeros(2), 5)", ("tuple of 3",)),
        ("[np.zeros((2, 1))]", ("got list",)),
        ("'text'", ("got str",)),
        ("{}", ("empty dict",)),
        ("{1: np.zeros((2, 1))}", ("must be texts, got 1",)),
        ("{'a': 3}", ("x 'a' must be an array, got int",)),
        ("np.float32(3)", ("single value",)),
        ("np.zeros((0, 3))", ("at least one sample",)),
        ("(np.zeros((2, 1)), np.zeros(3))", ("same number of samples", "[2, 3]")),
        ("np.array(['a', 'b'])", ("must hold numbers",)),
        ("np.array([None, None])", ("must hold numbers, got the dtype object",)),
        ("np.array([[1.0], [np.nan]])", ("sample 1 has NaN",)),
        ("np.zeros((2, 1)), np.zeros((2, 2))", ("sample 2 is float64 of shape (2,)", "of shape (1,)")),
        ("np.zeros((2, 1)), np.zeros((2, 1), int)", ("sample 2 is int64",)),
        ("np.zeros((2, 1)), {'a': np.zeros((2, 1))}", ("one array at first and 'a' from sample 2 on",)),
        ("(np.zeros((2, 1)), np.zeros(2)), np.zeros((2, 1))", ("y has one array at first and nothing",)),
    ],
)
def test_wrong_batches(run, expression, words):
    refused(run, yielding(expression), *words)


def test_no_test_split(run):
    refused(run, "def batches(split):\n    return None\n", "no test samples", error=MissingDataError)
    refused(run, "def batches(split):\n    return []\n", "the test split is empty")


@pytest.mark.parametrize("value", ["5", "'text'", "{}"])
def test_something_else_than_batches(run, value):
    refused(run, f"def batches(split):\n    return {value}\n", "must return batches", "got")


def test_errors_of_the_function_are_told_as_its_own(run):
    refused(
        run, "def batches(split):\n    raise KeyError('gone')\n", "my_batches:batches('train') raised KeyError: 'gone'"
    )
    code = "def batches(split):\n    yield np.zeros((1, 1))\n    raise OSError('disk is gone\\nreally')\n"
    refused(run, code, "batches('test') raised OSError: disk is gone.")
    code = (
        "class Odd:\n    def __iter__(self):\n        raise ValueError('no')\n\ndef batches(split):\n    return Odd()\n"
    )
    refused(run, code, "raised ValueError: no")


def test_a_module_that_cannot_be_imported(run):
    for code, word in [
        ("import not_there_at_all", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
    ]:
        refused(run, code, "importing my_batches failed", word, error=UsageError)
    refused(run, "raise SystemExit(3)", "importing my_batches failed: SystemExit", error=UsageError)
    refused(run, "", "importing nowhere failed", "current folder", error=UsageError, spec="nowhere:batches")
    refused(run, "", 'without ".py"', error=UsageError, spec="batches.py:py")


def test_a_function_that_is_missing(run):
    code = "def batchez(split): ...\nbatch_size = 3\n"
    refused(run, code, "no function 'batches'", "Did you mean 'batchez'?", error=UsageError)
    refused(run, code, "a value called 'batch_size'", error=UsageError, spec="my_batches:batch_size")


def test_a_group_key_needs_an_npz(run):
    refused(run, yielding("np.zeros((2, 1))"), "--group-key who", error=UsageError, group_key="who")


def test_a_full_disk_is_told(run, monkeypatch):
    class Full:
        def __init__(self, stream):
            self._stream = stream

        def __getattr__(self, name):
            return getattr(self._stream, name)

        def write(self, data):
            if len(data) > 500:
                raise OSError(28, "No space left on device")
            return self._stream.write(data)

    from pathlib import Path

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", **more: Full(opened(path, mode, **more)) if mode == "xb" else opened(path, mode, **more),
    )
    refused(run, yielding("np.zeros((100, 1))"), "No space left on device", "Free some space")
