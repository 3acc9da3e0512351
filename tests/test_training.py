"""The fine-tuning loop: what it learns, what it keeps, what it takes up again; against values computed by hand."""

import os
from dataclasses import replace

import numpy as np
import pytest

from edgecomp.convert import ENVIRONMENT

os.environ.update(ENVIRONMENT)
tf = pytest.importorskip("tensorflow")

import tf_keras  # noqa: E402

from edgecomp.data import DataOptions, prepare_dataset  # noqa: E402
from edgecomp.errors import MissingDataError, TrainingError, UsageError  # noqa: E402
from edgecomp.load import from_tf_keras  # noqa: E402
from edgecomp.training.codebook import Codebook  # noqa: E402
from edgecomp.training.loop import FineTuning  # noqa: E402
from edgecomp.training.projection import Mask  # noqa: E402
from edgecomp.training.samples import TrainingData, augment, training_data  # noqa: E402
from edgecomp.training.seeds import epoch_order, use_restartable_generators  # noqa: E402
from edgecomp.training.settings import TrainingSettings  # noqa: E402
from edgecomp.training.task import make_task  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

DIGITS = ROOT / "calibration_data" / "digits" / "digits.npz"


use_restartable_generators()


def small_model(activation="softmax", seed=1, dropout=0.0):
    tf_keras.utils.set_random_seed(seed)
    return tf_keras.Sequential(
        [
            tf_keras.layers.Input((8, 8, 1)),
            tf_keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            tf_keras.layers.BatchNormalization(momentum=0.8, name="norm"),
            tf_keras.layers.GlobalAveragePooling2D(name="pool"),
            tf_keras.layers.Dropout(dropout),
            tf_keras.layers.Dense(10, activation=activation, name="dense"),
        ]
    )


@pytest.fixture(scope="module")
def bound(tmp_path_factory):
    options = DataOptions(source=str(DIGITS), mean=(0.0,), std=(16.0,))
    loaded = from_tf_keras(small_model())
    return prepare_dataset(options, tmp_path_factory.mktemp("data")).bind(loaded.inputs, loaded.outputs)


@pytest.fixture(scope="module")
def data(bound):
    return training_data(bound)


SETTINGS = TrainingSettings(epochs=3, batch_size=32, learning_rate=5e-3, distill_weight=0.0)


def test_the_loss_falls_and_the_best_epoch_is_kept(data):
    model = small_model()
    history = FineTuning(data, SETTINGS).run(model, "test")
    assert history.epochs == 3
    assert history.losses[-1] < history.losses[0] < 2.4  # ln(10) = 2.303 is guessing.
    assert history.best_epoch == int(np.argmin(history.validation_losses))
    task = make_task(model, data.validation, SETTINGS)
    total = 0.0
    for inputs, labels, _ in data.validation.batches(64):
        total += float(tf.reduce_sum(task.supervised(inputs, labels, [model(inputs[0], training=False)])))
    assert total / data.validation.count == pytest.approx(history.validation_losses[history.best_epoch], rel=1e-4)


def test_a_training_that_only_harms_leaves_the_model_as_it_was(data):
    model = small_model()
    FineTuning(data, SETTINGS).run(model, "test")
    before = model.get_weights()
    history = FineTuning(data, replace(SETTINGS, epochs=2, learning_rate=3.0)).run(model, "test")
    assert history.best_epoch == -1
    assert history.start_loss < min(history.validation_losses)
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


def test_what_has_not_its_final_form_is_no_start_to_go_back_to(data):
    """A network whose zeros come epoch by epoch may be better without them: that is not what was asked for."""
    model = small_model()
    FineTuning(data, SETTINGS).run(model, "test")
    kernel = model.get_layer("dense").kernel

    class Late(Mask):
        def is_final(self, epoch, epochs):
            return epoch == epochs - 1

    zeros = Late(np.zeros(kernel.shape, bool))
    history = FineTuning(data, replace(SETTINGS, epochs=2, learning_rate=3.0)).run(model, "test", {id(kernel): zeros})
    assert history.best_epoch == 1
    assert not kernel.numpy().any()


def test_the_same_seed_gives_the_same_weights(data):
    made = []
    for _ in range(2):
        model = small_model()
        FineTuning(data, replace(SETTINGS, epochs=1, augment=("shift", "noise"))).run(model, "test")
        made.append(model.get_weights())
    assert all(np.array_equal(*pair) for pair in zip(*made, strict=True))


class StopError(Exception):
    """Stands for a kill."""


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_weights(data, tmp_path):
    """Optimizer state, order of the samples, random numbers, projections and best weights are all as they would be."""
    settings = replace(SETTINGS, epochs=4)

    def run(model, report):
        book = Codebook(model.get_layer("dense").kernel.numpy(), (1,), 4)
        job = FineTuning(data, settings, checkpoint=tmp_path / "state.npz", report=report)
        return job.run(model, "test", {id(model.get_layer("dense").kernel): book})

    whole = small_model(dropout=0.3)
    run(whole, lambda what, done, total: None)
    steps = -(-data.train.count // settings.batch_size)

    def kill_in_third_epoch(what, done, total):
        if done > 2 * steps + 3:
            raise StopError

    with pytest.raises(StopError):
        run(small_model(dropout=0.3), kill_in_third_epoch)
    assert (tmp_path / "state.npz").exists()
    resumed = small_model(dropout=0.3)
    history = run(resumed, lambda what, done, total: None)
    assert (history.resumed_at, history.epochs) == (2, 4)
    assert all(np.array_equal(*pair) for pair in zip(whole.get_weights(), resumed.get_weights(), strict=True))
    assert not (tmp_path / "state.npz").exists()


def test_a_state_of_another_run_is_not_taken_up(data, tmp_path):
    path = tmp_path / "state.npz"

    def kill(what, done, total):
        if done > 2 * total // 3:
            raise StopError

    with pytest.raises(StopError):
        FineTuning(data, SETTINGS, checkpoint=path, report=kill).run(small_model(), "test")
    assert path.exists()
    other = replace(SETTINGS, seed=7, epochs=1)
    assert FineTuning(data, other, checkpoint=path).run(small_model(), "test").resumed_at == 0


def test_a_student_comes_near_its_teacher_without_labels(bound, data):
    teacher = small_model(seed=3)
    FineTuning(data, replace(SETTINGS, epochs=6)).run(teacher, "teacher")
    unlabelled = TrainingData(_without_labels(data.train), _without_labels(data.validation))
    student = small_model(seed=4)
    x = next(iter(bound.split("validation").read().values()))

    def agreement():
        return np.mean(student.predict(x, verbose=0).argmax(1) == teacher.predict(x, verbose=0).argmax(1))

    before = agreement()
    FineTuning(unlabelled, replace(SETTINGS, epochs=6, distill_weight=1.0), teacher).run(student, "student")
    assert before < 0.3  # Ten classes: two networks that know nothing of each other agree on about a tenth.
    assert agreement() > 0.4


def _without_labels(samples):
    import copy

    bare = copy.copy(samples)
    bare.labels, bare.labelled, bare._label_arrays = {}, 0, []
    return bare


@pytest.mark.parametrize(("form", "activation"), [("probabilities", "softmax"), ("logits", "linear")])
def test_distillation_is_the_kl_divergence_at_a_temperature(data, form, activation):
    """By hand: T**2 * sum p log(p / q) with p, q = softmax(z / T); equal from scores and from probabilities."""
    task = make_task(small_model(activation), data.train, SETTINGS)
    assert task.forms == (form,)
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 10))

    def softmax(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(teacher / 4), softmax(student / 4)
    expected = 16 * np.sum(p * np.log(p / q), axis=-1)
    given = (student, teacher) if form == "logits" else (softmax(student), softmax(teacher))
    found = task.distillation(*([tf.constant(item, tf.float32)] for item in given), 4.0)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_pruned_weights_stay_zero_and_others_move(data):
    model = small_model()
    kernel = model.get_layer("conv").kernel
    before = kernel.numpy()
    keep = np.random.default_rng(0).random(before.shape) < 0.5
    FineTuning(data, replace(SETTINGS, epochs=1)).run(model, "test", {id(kernel): Mask(keep)})
    after = kernel.numpy()
    assert np.array_equal(after == 0, ~keep)
    assert np.abs(after - before)[keep].mean() > 1e-3


@pytest.mark.parametrize("shared", [False, True])
def test_a_codebook_leaves_as_many_values_as_it_says(data, shared):
    model = small_model()
    kernel = model.get_layer("dense").kernel
    book = Codebook(kernel.numpy(), (1,), 4, shared=shared)
    FineTuning(data, SETTINGS).run(model, "test", {id(kernel): book})
    rows = kernel.numpy().T
    assert max(len(np.unique(row)) for row in rows) <= 4
    if shared:  # At 8 bits all channels have the same integers: the scale of a channel is its largest weight / 127.
        integers = np.rint(127 * rows / np.abs(rows).max(axis=1, keepdims=True))
        assert len(np.unique(integers)) <= 4


def test_a_codebook_keeps_zeros():
    values = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    values[:, ::2] = 0
    made = Codebook(values, (0,), 4, keep_zeros=True)(tf.constant(values)).numpy()
    assert np.array_equal(made == 0, values == 0)
    assert max(len(np.unique(row)) for row in made) <= 4  # Three values and zero.


def test_a_codebook_finds_values_that_are_there():
    """Three values a channel, three clusters: nothing is lost."""
    rng = np.random.default_rng(0)
    levels = np.array([[-1.0, 0.1, 0.7], [-0.2, 0.0, 0.4]], np.float32)
    values = np.stack([row[rng.integers(0, 3, 60)] for row in levels])
    made = Codebook(values, (0,), 3, shared=False)(tf.constant(values)).numpy()
    np.testing.assert_allclose(made, values, atol=1e-6)


def test_small_weights_move_in_proportion(data):
    """A kernel of size 1e-4 (pixels of 0 to 255, normalization folded in) survives Adam's steps of 5e-3."""
    model = small_model()
    kernel = model.get_layer("conv").kernel
    kernel.assign(kernel * 1e-3)
    before = kernel.numpy()
    FineTuning(data, replace(SETTINGS, epochs=1, freeze_batch_norm=True)).run(model, "test")
    change = np.abs(kernel.numpy() - before).mean() / np.abs(before).mean()
    assert 0 < change < 20  # 30 steps of 5e-3 without regard to size would be a change of about 500.


def test_frozen_batch_normalization_keeps_its_statistics(data):
    model = small_model()
    norm = model.get_layer("norm")
    before = norm.moving_mean.numpy()
    FineTuning(data, replace(SETTINGS, epochs=1, freeze_batch_norm=True)).run(model, "test")
    assert np.array_equal(norm.moving_mean.numpy(), before)
    assert norm.trainable


def test_features_of_the_teacher_are_met(data):
    teacher = small_model(seed=5)
    student = small_model(seed=6)
    settings = replace(SETTINGS, epochs=4, distill_weight=1.0, feature_layers=("pool",), feature_loss="cosine")
    history = FineTuning(data, settings, teacher).run(student, "test")
    assert history.losses[-1] < history.losses[0]


def test_early_stop(data):
    settings = replace(SETTINGS, epochs=8, learning_rate=1e-12, patience=2)
    history = FineTuning(data, settings).run(small_model(), "test")
    assert history.epochs < 8


def test_not_a_number_is_an_error_with_what_to_do(data):
    model = small_model()
    model.get_layer("dense").kernel.assign(tf.fill([8, 10], float("nan")))
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 1 of 3") as caught:
        FineTuning(data, SETTINGS).run(model, "prune")
    assert "--learning-rate" in caught.value.hint


def test_no_training_samples(data):
    with pytest.raises(MissingDataError, match="cluster needs training samples"):
        FineTuning(TrainingData(None, data.validation), SETTINGS).run(small_model(), "cluster")


def test_neither_labels_nor_teacher(data):
    bare = TrainingData(_without_labels(data.train), _without_labels(data.validation))
    with pytest.raises(TrainingError, match="nothing to learn from"):
        FineTuning(bare, SETTINGS).run(small_model(), "prune")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning rate must be positive, got 0"),
        ({"distill_weight": 1.5}, "between 0 and 1, got 1.5"),
        ({"temperature": -1.0}, "temperature must be positive, got -1"),
        ({"augment": ("rotate",)}, "Unknown augmentation 'rotate'"),
    ],
)
def test_settings_out_of_range(change, text):
    with pytest.raises(UsageError, match=text):
        replace(SETTINGS, **change)


def test_an_unknown_feature_layer(data):
    settings = replace(SETTINGS, distill_weight=0.5, feature_layers=("nowhere",))
    with pytest.raises(UsageError, match="nowhere: the model has no such layer"):
        FineTuning(data, settings, small_model()).run(small_model(), "test")


def test_a_loss_of_the_users_own(data, tmp_path, monkeypatch):
    (tmp_path / "own_loss.py").write_text(
        "import tensorflow as tf\n"
        "def loss(labels, outputs):\n"
        "    return -tf.math.log(tf.gather(outputs, labels, batch_dims=1) + 1e-7)\n"
        "def wrong(labels, outputs):\n    return tf.reduce_mean(outputs)\n"
    )
    monkeypatch.chdir(tmp_path)
    own, ours = (
        make_task(small_model(), data.train, replace(SETTINGS, loss=loss)) for loss in ("own_loss:loss", "auto")
    )
    inputs, labels, _ = next(iter(data.train.batches(16)))
    outputs = [small_model()(inputs[0])]
    np.testing.assert_allclose(
        own.supervised(inputs, labels, outputs), ours.supervised(inputs, labels, outputs), rtol=1e-3
    )
    wrong = make_task(small_model(), data.train, replace(SETTINGS, loss="own_loss:wrong"))
    with pytest.raises(TrainingError, match="one value a sample"):
        wrong.supervised(inputs, labels, outputs)


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_only():
    assert np.array_equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))
    assert not np.array_equal(epoch_order(50, 1, 2), epoch_order(50, 1, 3))
    assert sorted(epoch_order(50, 1, 2)) == list(range(50))


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = np.random.default_rng(0).random((400, 4, 4, 1)).astype(np.float32)
    made = augment((tf.constant(images),), ("flip",), tf.constant([0, 1]))[0].numpy()
    same = (made == images).all(axis=(1, 2, 3))
    mirrored = (made == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert 0.4 < mirrored.mean() < 0.6


def test_shift_moves_by_an_eighth_at_most():
    images = np.zeros((300, 16, 16, 1), np.float32)
    images[:, 8, 8] = 1
    made = augment((tf.constant(images),), ("shift",), tf.constant([0, 1]))[0].numpy()
    places = np.argwhere(made[..., 0])
    assert len(places) == 300  # Nothing is lost or doubled in the middle.
    assert {tuple(place) for place in np.abs(places[:, 1:] - 8)} == {(a, b) for a in range(3) for b in range(3)}


def test_samples_on_disk_and_in_memory_are_the_same(bound, data, monkeypatch):
    monkeypatch.setattr("edgecomp.training.samples._CACHE_BYTES", 0)
    disk = training_data(bound).train
    order = epoch_order(disk.count, 0, 0)[:100]
    for left, right in zip(disk.batches(32, order), data.train.batches(32, order), strict=True):
        assert all(np.array_equal(*pair) for pair in zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True))
