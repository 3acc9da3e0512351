"""The four splits, and a data set seen through a model."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from edgecomp.data import DataOptions, Dataset, LabelKind, parse_channel_values, parse_image_size, prepare_dataset
from edgecomp.errors import DataError, EdgecompError, MissingDataError, UsageError
from edgecomp.tensors import TensorSpec

CLASSES = 4


def read_npz(train=200, test=40, shape=(3, 2), dtype=np.uint8):
    """Every sample holds its own number, so it can be told apart."""

    def x(count, start):
        return (np.zeros((count, *shape)) + np.arange(start, start + count).reshape(-1, *[1] * len(shape))).astype(
            dtype
        )

    members = {"x_test": x(test, 0), "y_test": np.arange(test) % CLASSES}
    return members | ({"x_train": x(train, 0), "y_train": np.arange(train) % CLASSES} if train else {})


@pytest.fixture
def prepare(tmp_path):
    """Write arrays to an .npz and prepare it."""

    def run(members, **options):
        path = tmp_path / "data.npz"
        np.savez(path, **members)
        return prepare_dataset(DataOptions(str(path), **({"calibration_samples": 20} | options)), tmp_path / "run")

    return run


def bind(dataset, shape=(1, 3, 2), dtype="float32", output=(1, CLASSES), **spec):
    return dataset.bind([TensorSpec("x", shape, dtype, **spec)], [TensorSpec("y", output, "float32")])


def numbers(bound, split):
    """Which samples a split has."""
    return np.concatenate([batch["x"][:, 0, 0] for batch in bound.split(split).batches(7)]).astype(int).tolist()


def refused(call, *words, error=DataError):
    with pytest.raises(EdgecompError) as caught:
        call()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


# ---- splits


def test_validation_is_carved_from_train_and_calibration_from_the_rest(prepare):
    bound = bind(prepare(read_npz()))
    train, validation, calibration = (set(numbers(bound, name)) for name in ("train", "validation", "calibration"))
    assert (len(train), len(validation), len(calibration)) == (160, 40, 20)  # a fifth of 200; 20 asked for
    assert train | validation == set(range(200))
    assert not train & validation
    assert calibration < train
    assert numbers(bound, "test") == list(range(40))  # in the order of the file
    assert any("40 of the 200 train samples" in note for note in bound.notes)


def test_carved_splits_are_stratified(prepare):
    bound = bind(prepare(read_npz()))
    for split, per_class in (("train", 40), ("validation", 10), ("calibration", 5)):
        assert np.bincount(bound.split(split).labels["y"]).tolist() == [per_class] * CLASSES


def test_labels_stay_with_their_samples(prepare):
    bound = bind(prepare(read_npz()))
    for split in ("train", "validation", "calibration", "test"):
        assert (np.array(numbers(bound, split)) % CLASSES).tolist() == bound.split(split).labels["y"].tolist()


def test_splits_are_repeatable_by_seed(prepare):
    first, again, other = (numbers(bind(prepare(read_npz(), seed=seed)), "validation") for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_given_splits_are_used_whole(prepare):
    members = read_npz() | {"x_val": np.full((30, 3, 2), 201, np.uint8), "y_val": np.zeros(30, int)}
    bound = bind(prepare(members | {"x_calib": np.full((12, 3, 2), 202, np.uint8)}))
    assert bound.dataset.counts == {"train": 200, "validation": 30, "calibration": 12, "test": 40}
    assert set(numbers(bound, "calibration")) == {202}
    assert bound.split("calibration").labels is None
    assert bound.has_labels("validation")
    assert not bound.has_labels("calibration")


def test_validation_has_an_upper_limit(prepare):
    assert prepare(read_npz(), max_validation_samples=15).counts["validation"] == 15
    members = read_npz() | {"x_val": np.zeros((30, 3, 2), np.uint8), "y_val": np.arange(30) % CLASSES}
    dataset = prepare(members, max_validation_samples=12)
    assert dataset.counts["validation"] == 12
    assert any("12 of the 30" in note for note in dataset.notes)


def test_given_validation_samples_are_shuffled_so_that_a_head_is_fair(prepare):
    members = read_npz() | {"x_val": np.zeros((400, 3, 2), np.uint8), "y_val": np.repeat(np.arange(4), 100)}
    assert set(bind(prepare(members)).split("validation").head(40).labels["y"]) == {0, 1, 2, 3}


def test_without_train_validation_is_half_of_test_and_calibration_is_absent(prepare):
    bound = bind(prepare(read_npz(train=0)))
    validation, test = set(numbers(bound, "validation")), set(numbers(bound, "test"))
    assert (len(validation), len(test)) == (20, 20)
    assert validation | test == set(range(40))
    assert not bound.has("calibration")
    assert any("no training samples" in note for note in bound.notes)
    refused(lambda: bound.split("calibration"), "has no calibration samples", "x_calib", error=MissingDataError)
    refused(lambda: bound.split("train"), "has no train samples", "x_train", error=MissingDataError)


def test_calibration_can_be_given_without_train(prepare):
    dataset = prepare(read_npz(train=0) | {"x_calib": np.zeros((5, 3, 2), np.uint8)})
    assert dataset.counts == {"validation": 20, "calibration": 5, "test": 20}


def test_train_without_labels_leaves_validation_to_test(prepare):
    members = read_npz()
    del members["y_train"]
    bound = bind(prepare(members))
    assert bound.dataset.counts == {"train": 200, "validation": 20, "calibration": 20, "test": 20}
    assert bound.split("validation").labels["y"].shape == (20,)
    assert any("have no labels" in note for note in bound.notes)


def test_no_labels_at_all_is_announced(prepare):
    members = {name: array for name, array in read_npz().items() if name.startswith("x")}
    bound = bind(prepare(members))
    assert bound.split("test").labels is None
    assert bound.class_outputs is None
    assert any("only agreement" in note for note in bound.notes)
    refused(lambda: next(bound.split("test").labelled_batches(4)), "have no labels", error=MissingDataError)


@pytest.mark.parametrize("key", ["subject", "subject_train"])
def test_groups_stay_together(prepare, key):
    subjects = np.arange(200) // 20
    bound = bind(prepare(read_npz() | {"subject_train": subjects}, group_key=key))
    train, validation, calibration = (
        set(subjects[numbers(bound, name)].tolist()) for name in ("train", "validation", "calibration")
    )
    assert len(validation) == 2  # a fifth of 10 groups
    assert train | validation == set(range(10))
    assert not train & validation
    assert calibration <= train
    assert any("2 of 10 groups" in note for note in bound.notes)


def test_groups_by_an_exact_key_of_texts(prepare):
    people = np.array(["ann", "bob", "eve", "joe"])[np.arange(200) // 50]
    bound = bind(prepare(read_npz() | {"person": people}, group_key="person"))
    assert not set(people[numbers(bound, "train")]) & set(people[numbers(bound, "validation")])


def test_groups_in_two_splits_are_announced(prepare):
    members = read_npz() | {"subject_train": np.arange(200) // 20, "subject_test": np.full(40, 3)}
    assert any(
        "train and test samples have subject in common (1, such as 3)" in note
        for note in prepare(members, group_key="subject").notes
    )


def test_groups_beyond_the_limit_are_left_out_of_both(prepare):
    members = read_npz() | {"subject_train": np.arange(200) // 100}
    dataset = prepare(members, group_key="subject", max_validation_samples=30)
    assert (dataset.counts["validation"], dataset.counts["train"]) == (30, 100)
    assert any("70 more samples of them are not used" in note for note in dataset.notes)


# ---- binding


def test_batches_are_preprocessed_and_cast(prepare):
    bound = bind(prepare(read_npz(), mean=(10.0, 20.0), std=(2.0, 4.0)))
    batches = list(bound.split("test").batches(16))
    assert [len(batch["x"]) for batch in batches] == [16, 16, 8]
    assert batches[0]["x"].dtype == np.float32
    # Sample 3 holds 3 everywhere: (3 - 10) / 2 and (3 - 20) / 4.
    np.testing.assert_array_equal(batches[0]["x"][3], np.full((3, 2), [-3.5, -4.25], np.float32))


@pytest.mark.parametrize(("mean", "std", "expected"), [((3.0,), None, 2.0), (None, (2.0,), 2.5), ((1.0,), (2.0,), 2.0)])
def test_mean_and_std_can_stand_alone(prepare, mean, std, expected):
    assert bind(prepare(read_npz(), mean=mean, std=std)).split("test").read()["x"][5, 0, 0] == expected


def test_float16_samples_are_scaled_in_float32(prepare):
    members = {name: array.astype(np.float16) for name, array in read_npz(shape=(1, 1)).items() if name[0] == "x"}
    bound = bind(prepare(members, mean=(0.1,), std=(0.3,)), shape=(1, 1, 1))
    assert bound.split("test").read()["x"][7, 0, 0] == (np.float32(7) - np.float32(0.1)) / np.float32(0.3)


def test_a_quantized_input_gets_quantized_values(prepare):
    bound = bind(prepare(read_npz(), mean=(10.0,)), dtype="int8", scale=0.5, zero_point=-28)
    assert bound.split("test").read()["x"][3, 0, 0] == -42  # (3 - 10) / 0.5 - 28
    assert next(bound.split("test").real_batches(4))["x"][3, 0, 0] == -7


def test_whole_numbers_feed_an_integer_input(prepare):
    batch = bind(prepare(read_npz(dtype=np.int64)), dtype="int32").split("test").read()["x"]
    assert batch.dtype == np.int32
    assert batch[3, 0, 0] == 3


def test_take_head_and_read(prepare):
    split = bind(prepare(read_npz())).split("test")
    assert split.take([5, 1, 5]).read()["x"][:, 0, 0].tolist() == [5, 1, 5]
    assert split.take([5, 1, 5]).labels["y"].tolist() == [1, 1, 1]
    assert split.take([9, 8, 7]).head(2).read()["x"][:, 0, 0].tolist() == [9, 8]
    assert split.head(1000).count == 40
    pairs = list(split.head(6).labelled_batches(4))
    assert [labels["y"].tolist() for _, labels in pairs] == [[0, 1, 2, 3], [0, 1]]


def test_batches_can_be_changed_by_their_reader(prepare):
    split = bind(prepare(read_npz(dtype=np.float32))).split("test")
    next(split.batches(4))["x"] += 1
    assert next(split.batches(4))["x"][0, 0, 0] == 0


@pytest.mark.parametrize(
    ("sample", "model"),
    [((3, 2), (1, 3, 2, 1)), ((3, 2), (1, 1, 3, 2)), ((3, 2), (1, 3, 1, 2)), ((3,), (1, 3, 1)), ((), (1, 1))],
    ids=str,
)
def test_one_missing_axis_of_size_one_is_added_and_announced(prepare, sample, model):
    bound = bind(prepare(read_npz(shape=sample)), shape=model)
    assert bound.split("test").read()["x"].shape == (40, *model[1:])
    assert [note for note in bound.notes if "axis of size 1 is added" in note], bound.notes


def test_none_matches_any_size(prepare):
    bound = bind(prepare(read_npz()), shape=(None, None, 2))
    assert bound.split("test").read()["x"].shape == (40, 3, 2)
    assert not any("axis" in note for note in bound.notes)


@pytest.mark.parametrize(
    ("sample", "model", "hint"),
    [
        ((3, 2), (1, 3, 3), "(3, 2)"),
        ((3, 2, 1), (1, 3, 2), "(3, 2, 1)"),
        ((3, 2), (1, 3, 2, 1, 1), "(3, 2, 1, 1)"),
        ((3, 8, 8), (1, 8, 8, 3), "channels-first"),
        ((8, 8, 3), (1, 4, 4, 3), "--image-size"),
        ((3, 2), (1, 3, 2, None), "(3, 2, any)"),
    ],
    ids=["size", "one axis too many", "two missing", "channels first", "image size", "unknown size"],
)
def test_any_other_shape_is_refused(prepare, sample, model, hint):
    dataset = prepare(read_npz(shape=sample))
    refused(lambda: bind(dataset, shape=model), "a sample is", "takes", hint)


@pytest.mark.parametrize(
    ("dtype", "target", "word"),
    [(np.float32, "int32", "whole numbers"), (np.int16, "int8", "-128 to 127"), (np.uint8, "string", "only numbers")],
)
def test_dtype_conflicts(prepare, dtype, target, word):
    dataset = prepare(read_npz(dtype=dtype))
    refused(lambda: bind(dataset, dtype=target), word)


def test_values_beyond_the_dtype_of_the_model(prepare):
    members = read_npz(dtype=np.float64)
    members["x_train"][3] = 1e300
    dataset = prepare(members)
    refused(lambda: bind(dataset), "1e+300", "float32")


def test_mean_and_std_need_floats_and_the_right_number_of_channels(prepare):
    scaled = prepare(read_npz(), mean=(1.0,))
    refused(lambda: bind(scaled, dtype="int32"), "--mean and --std", "whole numbers")
    three = prepare(read_npz(), mean=(1.0, 2.0, 3.0))
    refused(lambda: bind(three), "--mean has 3 values", "2 channels", error=UsageError)
    two = prepare(read_npz(), std=(1.0, 2.0))
    # The axis that is added is the channel axis.
    refused(lambda: bind(two, shape=(1, 3, 2, 1)), "--std has 2 values", "1 channel", error=UsageError)


def test_several_inputs_and_outputs(prepare):
    rng = np.random.default_rng(0)
    members = {}
    for split, count in (("train", 100), ("test", 30)):
        members[f"x_{split}.image"] = rng.integers(0, 255, (count, 4, 4, 1), dtype=np.uint8)
        members[f"x_{split}.age"] = rng.random((count, 1))
        members[f"y_{split}.kind"] = np.arange(count) % 3
        members[f"y_{split}.dose"] = rng.random((count, 2)).astype(np.float32)
    inputs = [TensorSpec("image", (1, 4, 4, 1), "float32"), TensorSpec("age", (1, 1), "float32")]
    outputs = [TensorSpec(*spec, "float32") for spec in (("kind", (1, 3)), ("dose", (1, 2)), ("extra", (1, 8)))]
    dataset = prepare(members)
    bound = dataset.bind(inputs, outputs)
    batch, labels = next(bound.split("validation").labelled_batches(5))
    assert {name: array.shape for name, array in batch.items()} == {"image": (5, 4, 4, 1), "age": (5, 1)}
    assert {name: array.shape for name, array in labels.items()} == {"kind": (5,), "dose": (5, 2)}
    assert bound.label_kinds == {"kind": LabelKind.CLASSES, "dose": LabelKind.VALUES}
    assert bound.class_outputs == ("kind",)
    refused(lambda: dataset.bind(inputs[:1], outputs), "no input 'age'")
    refused(lambda: dataset.bind([*inputs, TensorSpec("sex", (1, 1), "float32")], outputs), "x_test.sex")
    refused(lambda: dataset.bind(inputs, outputs[1:]), "no output 'kind'")
    scaled = prepare(members, mean=(1.0,))
    refused(lambda: scaled.bind(inputs, outputs), "work with one input", "image, age", error=UsageError)


def test_one_array_for_several_inputs_or_outputs(prepare):
    dataset = prepare(read_npz())
    two = [TensorSpec("a", (1, 3, 2), "float32"), TensorSpec("b", (1, 3, 2), "float32")]
    refused(lambda: dataset.bind(two, two), "one x", "x_test.a")
    refused(lambda: dataset.bind(two[:1], two), "one y", "y_test.a")


def test_a_name_is_allowed_for_one_input(prepare):
    members = {"x_test.x": np.zeros((9, 3, 2), np.uint8), "y_test.y": np.zeros(9, int)}
    assert bind(prepare(members)).split("test").read()["x"].shape == (5, 3, 2)  # 4 went to validation


@pytest.mark.parametrize(
    ("labels", "output", "kind", "shape"),
    [
        (np.arange(40) % 4, (1, 4), LabelKind.CLASSES, (40,)),
        ((np.arange(40) % 4).reshape(40, 1).astype(np.uint8), (1, 4), LabelKind.CLASSES, (40,)),
        ((np.arange(40) % 4).astype(np.float32), (1, 4), LabelKind.CLASSES, (40,)),
        (np.eye(4)[np.arange(40) % 4], (1, 4), LabelKind.ONE_HOT, (40, 4)),
        (np.full((40, 4), 0.25), (1, 4), LabelKind.VALUES, (40, 4)),
        (np.arange(40) % 2, (1, 1), LabelKind.BINARY, (40,)),
        ((np.arange(40) % 2 == 0), (1,), LabelKind.BINARY, (40,)),
        (np.arange(40) / 7, (1, 1), LabelKind.VALUES, (40,)),
        (np.arange(40), (1, 1), LabelKind.VALUES, (40,)),
        (np.zeros((40, 5, 6), np.uint8), (1, 5, 6, 3), LabelKind.CLASSES, (40, 5, 6)),
        (np.zeros((40, 5, 6, 1), np.uint8), (1, 5, 6, 3), LabelKind.CLASSES, (40, 5, 6)),
        (np.zeros((40, 5, 6, 1), np.uint8), (1, 5, 6, 1), LabelKind.BINARY, (40, 5, 6)),
        (np.zeros((40, 7)), (1, 4), LabelKind.OTHER, (40, 7)),
        (np.arange(40) % 4, (1, None), LabelKind.CLASSES, (40,)),
    ],
)
def test_what_labels_are(prepare, labels, output, kind, shape):
    bound = bind(
        prepare(read_npz() | {"y_test": labels, "y_train": np.resize(labels, (200, *labels.shape[1:]))}), output=output
    )
    found = bound.split("test").labels["y"]
    assert (bound.label_kinds["y"], found.shape) == (kind, shape)
    assert found.dtype == (np.int64 if kind in (LabelKind.CLASSES, LabelKind.BINARY) else labels.dtype)


def test_labels_that_the_model_does_not_know(prepare):
    dataset = prepare(read_npz())
    refused(lambda: bind(dataset, output=(1, 3)), "class 3", "3 classes, 0 to 2")
    dataset = prepare(read_npz() | {"y_test": np.arange(40) % 4 + 1})
    refused(lambda: bind(dataset), "y of test", "class 4", "subtract 1")
    dataset = prepare(read_npz() | {"y_test": np.arange(40) % 4 - 1})
    refused(lambda: bind(dataset), "class -1", "numbered from 0")


# ---- in other processes, and options


def test_binding_in_a_worker_gives_the_same(prepare, tmp_path):
    bound = bind(prepare(read_npz(), mean=(3.0,)))
    again = bind(Dataset.open(tmp_path / "run"))
    assert again.notes == bound.notes
    for split in ("train", "validation", "calibration", "test"):
        np.testing.assert_array_equal(again.split(split).read()["x"], bound.split(split).read()["x"])


def test_options_travel_to_workers():
    options = DataOptions("a.npz", mean=(1.0,), image_size=(3, 4))
    assert pickle.loads(pickle.dumps(options)) == options


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"std": (1.0, 0.0)}, "--std must be above zero everywhere, got 1,0"),
        ({"std": (-1.0,)}, "above zero"),
        ({"mean": (float("nan"),)}, "--mean must be one finite number"),
        ({"mean": ()}, "got nothing"),
        ({"mean": (1.0, 2.0), "std": (1.0, 2.0, 3.0)}, "--mean has 2 values and --std has 3"),
        ({"calibration_samples": 0}, "at least 1, got 0"),
        ({"validation_fraction": 1.0}, "between 0 and 1, got 1"),
        ({"max_validation_samples": 0}, "at least 1, got 0"),
        ({"image_size": (0, 4)}, "two positive numbers"),
        ({"seed": -1}, "must not be negative, got -1"),
    ],
)
def test_options_out_of_range(options, word):
    refused(lambda: DataOptions("a.npz", **options), word, error=UsageError)


def test_texts_of_options():
    assert parse_channel_values("0.5, 1,-2e-1", "--mean") == (0.5, 1.0, -0.2)
    assert parse_image_size("96x128") == (96, 128)
    assert parse_image_size("96") == (96, 96)
    refused(lambda: parse_channel_values("0.5,,1", "--mean"), "--mean", "'0.5,,1'", error=UsageError)
    for text in ("96x", "axb", "0x3", "1x2x3", "-4"):
        refused(lambda text=text: parse_image_size(text), repr(text), error=UsageError)


def test_reading_data_imports_neither_tensorflow_nor_pillow():
    code = "import sys, edgecomp.data, edgecomp.metrics; print({'tensorflow', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
