"""Reading .npz files, and every way in which they can be wrong."""

import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecomp.data import DataOptions, Dataset, prepare_dataset
from edgecomp.errors import DataError, EdgecompError, MissingDataError, UsageError


def read_npz(count=40, classes=4, shape=(3, 2), dtype=np.uint8, seed=0):
    """x and y of both parts, every sample different, classes in turn."""
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 255, (count, *shape)).astype(dtype),
        "y_train": np.arange(count) % classes,
        "x_test": rng.integers(0, 255, (20, *shape)).astype(dtype),
        "y_test": np.arange(20) % classes,
    }


@pytest.fixture
def prepare(tmp_path):
    """Write arrays to an .npz and prepare it."""

    def run(members, **options):
        path = tmp_path / "data.npz"
        np.savez(path, **members)
        return prepare_dataset(DataOptions(str(path), **({"calibration_samples": 10} | options)), tmp_path / "run")

    return run


def stored(dataset, split, role="inputs"):
    return np.array(dataset.array(split, role, ""))


def test_arrays_are_kept_as_they_are(prepare):
    members = read_npz(dtype=np.int16)
    dataset = prepare(members)
    np.testing.assert_array_equal(stored(dataset, "train"), members["x_train"])
    assert stored(dataset, "train").dtype == np.int16
    np.testing.assert_array_equal(stored(dataset, "test", "labels"), members["y_test"])


@pytest.mark.parametrize("dtype", [">f4", "<f2", "<f8", "|u1", ">i2", "|b1"])
def test_every_dtype_of_numbers_is_kept(prepare, dtype):
    members = read_npz(dtype=dtype)
    np.testing.assert_array_equal(stored(prepare(members), "test"), members["x_test"])


def test_fortran_order_is_read_right(prepare):
    members = read_npz()
    dataset = prepare(members | {"x_train": np.asfortranarray(members["x_train"])})
    np.testing.assert_array_equal(stored(dataset, "train"), members["x_train"])


def test_large_arrays_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("edgecomp.data.sources.npz.CHUNK_BYTES", 100)
    members = read_npz(count=1000)
    np.savez_compressed(tmp_path / "data.npz", **members)
    seen = []
    options = DataOptions(str(tmp_path / "data.npz"))
    dataset = prepare_dataset(options, tmp_path / "run", lambda *step: seen.append(step))
    np.testing.assert_array_equal(stored(dataset, "train"), members["x_train"])
    assert ("reading train", 12, 1000) in seen  # 100 bytes hold 12 labels of 8 bytes
    assert seen[-1] == ("reading train", 1000, 1000)


def test_a_second_process_opens_the_same(prepare, tmp_path):
    dataset = prepare(read_npz())
    assert Dataset.open(tmp_path / "run") == dataset
    assert dataset.sha256 == prepare(read_npz()).sha256
    assert dataset.sha256 != prepare(read_npz(), seed=1).sha256
    assert dataset.sha256 != prepare(read_npz(), mean=(1.0,)).sha256
    assert dataset.sha256 != prepare(read_npz(seed=1)).sha256


def test_arrays_that_are_not_used_are_named(prepare):
    assert any("device_train" in note for note in prepare(read_npz() | {"device_train": np.zeros(40)}).notes)


def test_an_unused_object_array_does_no_harm(prepare):
    assert prepare(read_npz() | {"names": np.array([{}, None], dtype=object)}).counts["test"] == 20


def refused(prepare, members, *words, error=DataError, **options):
    with pytest.raises(EdgecompError) as caught:
        prepare(members, **options)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_name_the_sample(prepare, value):
    members = read_npz(dtype=np.float32)
    members["x_train"][17, 1, 1] = value
    refused(prepare, members, "x", "train", "sample 17", "NaN" if np.isnan(value) else "inf")


def test_nan_in_a_later_piece_has_the_right_number(prepare, monkeypatch):
    monkeypatch.setattr("edgecomp.data.sources.npz.CHUNK_BYTES", 50)
    members = read_npz(dtype=np.float32)
    members["x_test"][13] = np.nan
    refused(prepare, members, "sample 13")


def test_nan_in_labels(prepare):
    labels = np.full(20, 0.5)
    labels[3] = np.nan
    refused(prepare, read_npz() | {"y_test": labels}, "y", "test", "sample 3", "NaN")


def test_an_object_array_is_never_unpickled(prepare):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the array was unpickled",))

    members = read_npz() | {"x_train": np.array([Trap()] * 40, dtype=object)}
    refused(prepare, members, "x_train", "Python objects", "np.stack")


def test_an_object_array_of_groups(prepare):
    members = read_npz() | {"who_train": np.array([None] * 40, dtype=object)}
    refused(prepare, members, "who_train", "Python objects", group_key="who")


@pytest.mark.parametrize(
    ("name", "array"),
    [("x_train", np.array(["a"] * 40)), ("y_test", np.array(["cat"] * 20)), ("x_test", np.zeros((20, 3, 2), complex))],
    ids=["texts", "class names", "complex"],
)
def test_values_that_are_no_numbers(prepare, name, array):
    refused(prepare, read_npz() | {name: array}, "must hold numbers", str(array.dtype))


def test_different_counts_of_x_and_y(prepare):
    refused(prepare, read_npz() | {"y_train": np.zeros(39, int)}, "x_train has 40", "y_train has 39")


def test_a_missing_test_split(prepare):
    members = {name: array for name, array in read_npz().items() if "test" not in name}
    refused(prepare, members, "no test samples", "x_test", error=MissingDataError)


@pytest.mark.parametrize("split", ["test", "train"])
def test_an_empty_split(prepare, split):
    empty = {f"x_{split}": np.zeros((0, 3, 2), np.uint8), f"y_{split}": np.zeros(0, int)}
    refused(prepare, read_npz() | empty, f"the {split} split is empty")


def test_labels_without_samples(prepare):
    refused(prepare, read_npz() | {"y_val": np.zeros(3, int)}, "y_val but no x_val")


def test_a_misspelt_array(prepare):
    refused(prepare, read_npz() | {"x_valid": np.zeros((3, 3, 2))}, "x_valid", "Did you mean 'x_val'?")


def test_a_single_value(prepare):
    refused(prepare, read_npz() | {"x_test": np.float32(1)}, "x_test is a single value")


def test_samples_without_values(prepare):
    refused(prepare, read_npz() | {"x_test": np.zeros((20, 0, 2), np.uint8)}, "must hold values", "(0, 2)")


def test_splits_that_were_prepared_differently(prepare):
    refused(prepare, read_npz() | {"x_test": np.zeros((20, 3, 2), np.float32)}, "uint8", "float32", "train", "test")
    refused(prepare, read_npz() | {"x_test": np.zeros((20, 4, 2), np.uint8)}, "(3, 2)", "(4, 2)")


def test_named_and_unnamed_arrays_together(prepare):
    refused(prepare, read_npz() | {"x_train.a": np.zeros((40, 1))}, "both x_train and x_train.a")


def test_names_that_differ_between_splits(prepare):
    members = {"x_test.a": np.zeros((5, 1)), "x_train.b": np.zeros((5, 1))}
    refused(prepare, members, "b in train", "a in test")


def test_an_unknown_group_key(prepare):
    members = read_npz() | {"subject_train": np.arange(40) // 10}
    refused(prepare, members, "subjct", "Did you mean 'subject'?", error=UsageError, group_key="subjct")


def test_one_group_only(prepare):
    members = read_npz() | {"subject_train": np.full(40, 7)}
    refused(prepare, members, "one value only, 7", "two groups", group_key="subject")


def test_groups_of_the_wrong_length_or_shape(prepare):
    refused(prepare, read_npz() | {"who_train": np.arange(3)}, "who_train has 3", group_key="who")
    refused(prepare, read_npz() | {"who_train": np.zeros((40, 2))}, "one value per sample", group_key="who")


def test_groups_of_the_wrong_split(prepare):
    refused(prepare, read_npz() | {"who_test": np.arange(20)}, "no who_train", error=UsageError, group_key="who")


def test_more_calibration_samples_than_there_are(prepare):
    # 40 training samples, a fifth of them for validation.
    refused(prepare, read_npz(), "50 calibration samples", "only 32 training samples", calibration_samples=50)


def test_one_training_sample(prepare):
    refused(prepare, read_npz(count=1, classes=1), "1 train sample cannot be split")


def refused_file(path, tmp_path, *words, error=DataError):
    with pytest.raises(EdgecompError) as caught:
        prepare_dataset(DataOptions(str(path)), tmp_path / "run")
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    assert not list((tmp_path / "run").glob("*")), "a refused source leaves nothing behind"


def test_a_missing_file(tmp_path):
    refused_file(tmp_path / "nowhere.npz", tmp_path, "nowhere.npz", "no such file", error=UsageError)
    refused_file(tmp_path / "nowhere", tmp_path, "no such file, folder or function", error=UsageError)


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"hello world")
    refused_file(tmp_path / "a.npz", tmp_path, "is not an .npz file", "np.savez")
    (tmp_path / "empty.npz").write_bytes(b"")
    refused_file(tmp_path / "empty.npz", tmp_path, "is not an .npz file")


def test_one_npy(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    refused_file(tmp_path / "x.npy", tmp_path, "one .npy array", "np.savez")


def test_a_pickle_is_not_loaded(tmp_path):
    (tmp_path / "a.npz").write_bytes(pickle.dumps({"x_test": [1]}))
    refused_file(tmp_path / "a.npz", tmp_path, "is not an .npz file")


def test_a_zip_without_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    refused_file(tmp_path / "a.npz", tmp_path, "holds no arrays")


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.99])
def test_a_file_that_is_cut_short(tmp_path, kept):
    np.savez(tmp_path / "whole.npz", **read_npz())
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: int(len(data) * kept)])
    refused_file(tmp_path / "a.npz", tmp_path, "cut short or damaged")


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    np.savez(tmp_path / "a.npz", **read_npz())
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(b"x_test") + 250] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    refused_file(tmp_path / "a.npz", tmp_path, "x_test is cut short or damaged")


def test_a_directory_of_the_archive_that_asks_for_another_zip_version(tmp_path):
    np.savez(tmp_path / "a.npz", **read_npz())
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 64
    (tmp_path / "a.npz").write_bytes(data)
    refused_file(tmp_path / "a.npz", tmp_path, "cut short or damaged")


def test_an_array_that_is_shorter_than_its_header_says(tmp_path):
    np.savez(tmp_path / "whole.npz", **read_npz())
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in whole.namelist():
            data = whole.read(name)
            archive.writestr(name, data[:-6] if name == "x_train.npy" else data)
    refused_file(tmp_path / "a.npz", tmp_path, "x_train is cut short or damaged", "6 bytes are missing")


def test_an_impossible_shape(tmp_path):
    np.savez(tmp_path / "whole.npz", **read_npz())
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name).replace(b"(20, 3, 2)", b"(20,-3, 2)"))
    refused_file(tmp_path / "a.npz", tmp_path, "x_test is cut short or damaged", "impossible")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 0.999), value=st.integers(0, 255), compressed=st.booleans())
def test_a_damaged_byte_is_refused_or_harmless(tmp_path, position, value, compressed):
    members = read_npz(count=20)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **members)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[int(position * len(data))] = value
    (tmp_path / "a.npz").write_bytes(data)
    options = DataOptions(str(tmp_path / "a.npz"), calibration_samples=2)
    try:
        dataset = prepare_dataset(options, tmp_path / "run")
    except EdgecompError:
        return
    np.testing.assert_array_equal(stored(dataset, "test"), members["x_test"])


def test_a_folder_that_cannot_be_written(tmp_path):
    np.savez(tmp_path / "a.npz", **read_npz())
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(DataError, match="cannot be written"):
        prepare_dataset(DataOptions(str(tmp_path / "a.npz")), tmp_path / "run")


def test_an_unfinished_or_damaged_run_folder(prepare, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Dataset.open(tmp_path)
    prepare(read_npz())
    path = tmp_path / "run" / "dataset.json"
    whole = path.read_text()
    for text in (whole[:-20], "[]", '{"schema_version": 1}'):
        path.write_text(text)
        with pytest.raises(DataError, match="is damaged"):
            Dataset.open(tmp_path / "run")
    path.write_text(whole.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(DataError, match="version 2, expected 1"):
        Dataset.open(tmp_path / "run")


def test_an_array_that_was_exchanged_in_the_run_folder(prepare, tmp_path):
    prepare(read_npz())
    np.save(tmp_path / "run" / "x_test.0.npy", np.zeros((20, 3, 2), np.float32))
    with pytest.raises(DataError, match="not the array that was stored"):
        Dataset.open(tmp_path / "run").array("test", "inputs", "")
