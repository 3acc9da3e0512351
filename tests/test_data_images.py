"""Folders of images as a source."""

import numpy as np
import pytest
from PIL import Image

from edgecomp.data import DataOptions, prepare_dataset
from edgecomp.errors import DataError, EdgecompError, MissingDataError, UsageError
from edgecomp.tensors import TensorSpec


def picture(path, value=0, size=(6, 4), mode="RGB", **save):
    """An image of one value; size is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode in ("L", "I;16") else (*size, len(mode))
    dtype = np.uint16 if mode == "I;16" else np.uint8
    Image.fromarray(np.full(shape, value, dtype)).save(path, **save)


@pytest.fixture
def root(tmp_path):
    """Two classes, ten training and four test images each; the value of every image tells it apart."""
    folder = tmp_path / "images"
    for number in range(10):
        picture(folder / "train" / "dog" / f"{number}.png", 100 + number)
        picture(folder / "train" / "cat" / f"{number}.png", number)
    for number in range(4):
        picture(folder / "test" / "dog" / f"{number}.png", 150 + number)
        picture(folder / "test" / "cat" / f"{number}.png", 50 + number)
    return folder


@pytest.fixture
def prepare(root, tmp_path):
    return lambda **options: prepare_dataset(
        DataOptions(str(root), **({"calibration_samples": 4} | options)), tmp_path / "run"
    )


def refused(prepare, *words, error=DataError, **options):
    with pytest.raises(EdgecompError) as caught:
        prepare(**options)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


def bound_to(dataset, shape=(1, 6, 4, 3), classes=2):
    return dataset.bind([TensorSpec("x", shape, "float32")], [TensorSpec("y", (1, classes), "float32")])


def test_classes_are_the_sorted_folder_names(prepare):
    bound = bound_to(prepare())
    assert bound.class_names == ("cat", "dog")
    assert bound.dataset.counts == {"train": 16, "validation": 4, "calibration": 4, "test": 8}
    images, labels = bound.split("test").read()["x"], bound.split("test").labels["y"]
    assert images[:, 0, 0, 0].tolist() == [50, 51, 52, 53, 150, 151, 152, 153]
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_images_are_kept_as_uint8(prepare):
    array = prepare().array("test", "inputs", "")
    assert (array.dtype, array.shape) == (np.uint8, (8, 6, 4, 3))


def test_gray_images_have_one_channel_if_all_are_gray(root, tmp_path):
    for path in root.rglob("*.png"):
        picture(path, 9, mode="L")
    options = DataOptions(str(root), calibration_samples=4)
    assert prepare_dataset(options, tmp_path / "run").array("test", "inputs", "").shape == (8, 6, 4, 1)
    picture(root / "test" / "cat" / "0.png", 9, mode="RGB")
    assert prepare_dataset(options, tmp_path / "run").array("test", "inputs", "").shape == (8, 6, 4, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_other_modes_become_rgb(prepare, root, mode):
    picture(root / "test" / "cat" / "0.png", 77, mode=mode)
    np.testing.assert_array_equal(prepare().array("test", "inputs", "")[0], np.full((6, 4, 3), 77))


def test_a_palette_becomes_its_colours(prepare, root):
    Image.new("RGB", (4, 6), (10, 20, 30)).quantize(4).save(root / "test" / "cat" / "0.png", transparency=b"\x00\x80")
    assert prepare().array("test", "inputs", "")[0, 0, 0].tolist() == [10, 20, 30]


def test_jpeg_and_bmp_and_upper_case(prepare, root):
    picture(root / "test" / "cat" / "4.JPG", 80, format="JPEG", quality=95)
    picture(root / "test" / "cat" / "5.jpeg", 80, format="JPEG", quality=95)
    picture(root / "test" / "cat" / "6.bmp", 80)
    found = prepare().array("test", "inputs", "")[4:7].astype(int)
    assert np.abs(found - 80).max() <= 1  # a plain JPEG is nearly exact


def test_val_and_calib_are_used(prepare, root):
    for number in range(3):
        picture(root / "val" / "cat" / f"{number}.png")
        picture(root / "val" / "dog" / f"{number}.png", 1)
        picture(root / "calib" / f"{number}.png", 2)
    bound = bound_to(prepare())
    assert bound.dataset.counts == {"train": 20, "validation": 6, "calibration": 3, "test": 8}
    assert not bound.has_labels("calibration")


def test_images_without_class_folders_have_no_labels(tmp_path):
    for number in range(6):
        picture(tmp_path / "flat" / "test" / f"{number}.png", number)
    dataset = prepare_dataset(DataOptions(str(tmp_path / "flat")), tmp_path / "run")
    assert dataset.stored["test"].labels == {}
    assert dataset.counts == {"validation": 3, "test": 3}


def test_sizes_that_differ_name_the_file_and_the_way_out(prepare, root):
    picture(root / "train" / "dog" / "5.png", size=(5, 4))
    refused(prepare, "5.png", "5 x 4", "6 x 4", "--image-size 6x4")


def test_resizing_is_bilinear_and_announced(prepare, root):
    ramp = np.repeat(np.array([[0, 100], [0, 100]], np.uint8)[..., np.newaxis], 3, axis=2)
    Image.fromarray(ramp).save(root / "test" / "cat" / "0.png")
    dataset = prepare(image_size=(2, 4))
    # Half-pixel centres of a ramp 0, 100 stretched to four: 0, 25, 75, 100.
    assert dataset.array("test", "inputs", "")[0, :, :, 0].tolist() == [[0, 25, 75, 100]] * 2
    assert any("resized to 2 x 4 (bilinear): 28" in note for note in dataset.notes)


@pytest.mark.parametrize("data", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image(prepare, root, data):
    (root / "test" / "dog" / "2.png").write_bytes(data)
    refused(prepare, "2.png", "cannot be read as an image", "take it out")


def test_an_image_that_is_cut_short(prepare, root):
    path = root / "test" / "dog" / "2.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    refused(prepare, "2.png", "cannot be read as an image", image_size=(6, 4))


def test_a_format_that_is_not_taken_in_disguise(prepare, root):
    Image.new("RGB", (4, 6)).save(root / "test" / "dog" / "2.png", format="GIF")
    refused(prepare, "2.png", "not a JPEG, PNG or BMP image")


def test_sixteen_bits_are_refused(prepare, root):
    picture(root / "test" / "dog" / "2.png", 5000, mode="I;16")
    refused(prepare, "2.png", "more than 8 bits")


def test_class_folders_that_differ(prepare, root):
    picture(root / "test" / "bird" / "0.png")
    refused(prepare, "train has 2 classes and test has 3", "bird is only in test")
    picture(root / "train" / "bird" / "0.png")
    picture(root / "val" / "bird" / "0.png")
    refused(prepare, "val has 1", "cat is missing in val")


def test_images_beside_class_folders(prepare, root):
    picture(root / "train" / "stray.png")
    refused(prepare, "stray.png", "images beside them")


def test_a_folder_without_splits(tmp_path):
    picture(tmp_path / "flat" / "cat" / "0.png")
    with pytest.raises(DataError, match="none of the folders train, val, calib, test, but cat"):
        prepare_dataset(DataOptions(str(tmp_path / "flat")), tmp_path / "run")


def test_no_test_folder_or_an_empty_one(tmp_path):
    picture(tmp_path / "images" / "train" / "cat" / "0.png")
    with pytest.raises(MissingDataError, match="no test samples"):
        prepare_dataset(DataOptions(str(tmp_path / "images")), tmp_path / "run")
    (tmp_path / "images" / "test" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="the test split is empty"):
        prepare_dataset(DataOptions(str(tmp_path / "images")), tmp_path / "run")


def test_a_misspelt_split(prepare, root):
    picture(root / "validation" / "cat" / "0.png")
    refused(prepare, "the folder validation is not a known split", "val")


def test_other_files_and_folders_are_announced(prepare, root):
    (root / "raw").mkdir()
    (root / "test" / "cat" / "notes.txt").write_text("")
    (root / "test" / "cat" / ".DS_Store").write_text("")
    notes = " ".join(prepare().notes)
    assert "raw" in notes
    assert "skipped: 1." in notes


def test_a_group_key_needs_an_npz(prepare):
    refused(prepare, "--group-key who", error=UsageError, group_key="who")
