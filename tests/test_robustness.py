"""What an average hides: flips, the worst class, and corrupted inputs, against hand-computed and independent values."""

import colorsys
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edgecomp import robustness, scoring, stages
from edgecomp.data import DataOptions, prepare_dataset
from edgecomp.errors import DataError, WorkerError
from edgecomp.inference import KernelFamily
from edgecomp.metrics import agreement, load_metric
from edgecomp.metrics.corruptions import (
    Corruptor,
    Kind,
    Values,
    brighten,
    corrupt,
    gaussian_blur,
    jpeg,
)
from edgecomp.metrics.robustness import compare_condition, flips, worst_class
from edgecomp.tensors import TensorSpec
from tests.conftest import ROOT, read_npz
from tests.whole_fits import chosen_of, fit

BYTES = np.dtype(np.uint8)
FLOATS = np.dtype(np.float32)


def scores(answers, classes=3):
    """Probabilities whose largest is the answer given."""
    return {"y": np.eye(classes, dtype=np.float32)[np.asarray(answers)]}


class TestFlips:
    LABELS = (0, 1, 2, 0, 1, 1, 2, 0, 0, 0)
    WANT = (0, 1, 2, 0, 1, 0, 2, 1, 1, 2)
    GOT = (0, 1, 2, 1, 2, 1, 2, 2, 1, 2)

    def test_shares_by_hand(self):
        found = flips(scores(self.GOT), scores(self.WANT), 0, {"y": np.array(self.LABELS)})
        assert found.samples == 10
        assert found.share.value == pytest.approx(0.4)  # samples 3, 4, 5 and 7
        assert found.worse.value == pytest.approx(0.2)  # 3 and 4 were right
        assert found.better.value == pytest.approx(0.1)  # 5 is right now; 7 is wrong before and after

    def test_the_difference_of_worse_and_better_is_the_drop(self):
        labels = np.array(self.LABELS)
        found = flips(scores(self.GOT), scores(self.WANT), 0, {"y": labels})
        drop = np.mean(np.array(self.WANT) == labels) - np.mean(np.array(self.GOT) == labels)
        assert found.worse.value - found.better.value == pytest.approx(drop)

    def test_they_are_what_agreement_leaves(self):
        same = agreement(scores(self.GOT), scores(self.WANT), 0)
        assert flips(scores(self.GOT), scores(self.WANT), 0).share.value == pytest.approx(1 - same.value)

    def test_without_labels_nobody_knows_which_are_worse(self):
        found = flips(scores(self.GOT), scores(self.WANT), 0)
        assert found.share.value == pytest.approx(0.4)
        assert found.worse is None
        assert found.better is None

    @pytest.mark.parametrize(
        ("changed", "total", "low", "high"),
        # By scipy.stats.binomtest(changed, total).proportion_ci(method="wilson").
        [(0, 100, 0.0, 0.036993), (10, 100, 0.055229, 0.174366), (3, 360, 0.002838, 0.024211)],
    )
    def test_the_interval_is_that_of_wilson(self, changed, total, low, high):
        got = [1] * changed + [0] * (total - changed)
        share = flips(scores(got), scores([0] * total), 0).share
        assert (share.low, share.high) == pytest.approx((low, high), abs=1e-6)

    def test_several_positions_count_by_their_share(self):
        want = np.eye(2)[[[0, 0, 0, 0], [1, 1, 1, 1]]]  # two samples of four positions
        got = np.eye(2)[[[0, 0, 0, 1], [1, 1, 0, 0]]]
        labels = {"y": np.array([[0, 0, 0, 0], [1, 0, 0, 0]])}
        found = flips({"y": got}, {"y": want}, 0, labels)
        assert found.samples == 2
        assert found.share.value == pytest.approx((1 / 4 + 2 / 4) / 2)
        assert found.worse.value == pytest.approx((1 / 4 + 0) / 2)
        assert found.better.value == pytest.approx((0 + 2 / 4) / 2)

    def test_several_outputs_count_by_their_mean(self):
        want = {"a": np.eye(2)[[0, 0]], "b": np.eye(2)[[1, 1]]}
        got = {"a": np.eye(2)[[1, 0]], "b": np.eye(2)[[1, 1]]}
        assert flips(got, want, 0).share.value == pytest.approx(1 / 4)

    @pytest.mark.parametrize(
        ("want", "got", "share"),
        [
            ([0.2, 0.6, 0.9, 0.4], [0.2, 0.4, 0.9, 0.4], 1 / 4),  # probabilities: 0.5 is the border
            ([-3.0, 0.2, 4.0, -0.1], [-3.0, 0.1, 4.0, 0.1], 1 / 4),  # logits: 0 is
        ],
        ids=["probability", "logit"],
    )
    def test_one_score(self, want, got, share):
        found = flips({"y": np.array(got)[:, None]}, {"y": np.array(want)[:, None]}, 0, class_outputs=["y"])
        assert found.share.value == pytest.approx(share)

    def test_quantities_have_no_answers(self):
        assert flips({"y": np.array([[7.0]])}, {"y": np.array([[9.0]])}, 0) is None
        assert flips(scores([0]), scores([1]), 0, class_outputs=()) is None

    def test_bad_outputs_are_refused(self):
        with pytest.raises(DataError, match="NaN for 1 of 2 samples"):
            flips({"y": np.array([[np.nan, 1], [0, 1]])}, {"y": np.eye(2)}, 0)
        with pytest.raises(DataError, match=r"shape \(1, 3\) for the candidate and \(2, 3\)"):
            flips(scores([0]), scores([0, 1]), 0)
        with pytest.raises(DataError, match="0 to 2; got 7"):
            flips(scores([0, 1]), scores([0, 1]), 0, {"y": np.array([0, 7])})


class TestWorstClass:
    def test_by_hand(self):
        labels = np.repeat([0, 1, 2], [20, 40, 25])
        want = labels.copy()
        want[:2] = 1  # class 0: 18 of 20 right
        got = labels.copy()
        got[:3] = 1  # class 0: 17 of 20, 5 pp less
        got[20:26] = 2  # class 1: 34 of 40, 15 pp less
        found = worst_class({"y": labels}, scores(got), scores(want), 0)
        assert (found.output, found.index, found.samples, found.compared) == ("y", 1, 40, 3)
        assert (found.score, found.float_score) == (34 / 40, 1.0)
        assert found.drop.value == pytest.approx(0.15)
        # Normal approximation: 0.15 +- 1.96 * sqrt(0.15 * 0.85 / 40) = [0.039, 0.261].
        assert found.drop.low == pytest.approx(0.039, abs=0.015)
        assert found.drop.high == pytest.approx(0.261, abs=0.03)

    def test_it_is_paired(self):
        labels = np.zeros(40, int)
        want, got = np.zeros(40, int), np.zeros(40, int)
        want[:5], got[5:10] = 1, 1  # as many wrong, but others
        found = worst_class({"y": labels}, scores(got), scores(want), 0)
        assert found.drop.value == 0
        assert found.drop.low < 0 < found.drop.high

    def test_a_class_with_few_samples_does_not_count(self):
        labels = np.repeat([0, 1], [40, 19])
        got = np.repeat([0, 0], [40, 19])  # class 1 is lost, but 19 samples are below the 20 asked for
        found = worst_class({"y": labels}, scores(got), scores(labels), 0)
        assert (found.index, found.compared, found.drop.value) == (0, 1, 0)
        assert worst_class({"y": labels}, scores(got), scores(labels), 0, min_samples=19).index == 1
        assert worst_class({"y": labels}, scores(got), scores(labels), 0, min_samples=41) is None

    def test_of_equal_drops_the_one_with_more_samples(self):
        labels = np.repeat([0, 1, 2], [20, 40, 40])
        got = labels.copy()
        got[:2], got[20:24], got[60:64] = 1, 0, 0  # 10 pp each
        assert worst_class({"y": labels}, scores(got), scores(labels), 0).index == 1

    def test_a_class_that_gains_has_a_negative_drop(self):
        labels = np.zeros(20, int)
        want = np.array([1] * 5 + [0] * 15)
        assert worst_class({"y": labels}, scores(labels), scores(want), 0).drop.value == pytest.approx(-0.25)

    def test_one_hot_and_binary_labels(self):
        labels = np.array([0] * 20 + [1] * 20)
        got = np.array([0] * 20 + [0] * 5 + [1] * 15)
        one_hot = worst_class({"y": np.eye(3)[labels]}, scores(got), scores(labels), 0)
        binary = worst_class({"y": labels}, {"y": got[:, None] * 0.8}, {"y": labels[:, None] * 0.9}, 0)
        for found in (one_hot, binary):
            assert (found.index, found.samples, found.score) == (1, 20, 0.75)

    def test_positions_count_by_the_share_of_their_class(self):
        labels = np.tile([0, 0, 1, 1], (20, 1))  # 20 samples, two positions of either class in each
        got = labels.copy()
        got[:10, 0] = 1  # half of class 0 is lost in half of the samples
        found = worst_class({"y": labels}, {"y": np.eye(2)[got]}, {"y": np.eye(2)[labels]}, 0)
        assert (found.index, found.samples) == (0, 20)
        assert found.drop.value == pytest.approx(0.25)

    def test_every_labelled_output_is_looked_at(self):
        labels = {"a": np.zeros(20, int), "b": np.ones(20, int)}
        want = {"a": np.eye(2)[labels["a"]], "b": np.eye(2)[labels["b"]]}
        got = want | {"b": np.eye(2)[np.repeat([0, 1], [1, 19])]}
        found = worst_class(labels, got, want, 0)
        assert (found.output, found.index, found.compared) == ("b", 1, 2)


class TestCondition:
    def test_of_a_regression(self):
        labels, want, got = (
            {"y": np.array([[1.0], [2.0]])},
            {"y": np.array([[1.5], [2.0]])},
            {"y": np.array([[2.0], [1.0]])},
        )
        found = compare_condition(load_metric("mae"), labels, got, want, 0)
        assert (found.score, found.float_score) == (1.0, 0.25)  # (1 + 1) / 2 and (0.5 + 0) / 2
        assert found.drop.value == pytest.approx(0.75)  # an error: larger is worse
        assert found.agreement is None
        # 10 log10((1.5^2 + 2^2) / (0.5^2 + 1^2)) = 10 log10(5)
        assert found.output_snr_db == pytest.approx(6.9897, abs=1e-4)

    def test_without_labels_the_agreement_remains(self):
        found = compare_condition(load_metric("accuracy"), None, scores([0, 1, 1, 2]), scores([0, 1, 2, 2]), 0)
        assert (found.score, found.float_score, found.drop) == (None, None, None)
        assert found.agreement.value == 0.75


class TestKind:
    @pytest.mark.parametrize(
        ("shape", "dtype", "low", "high", "kind"),
        [
            ((32, 32, 3), "uint8", 0, 255, Kind.IMAGE),
            ((28, 28, 1), "float32", 0, 1, Kind.IMAGE),
            ((96, 96, 4), "float64", 0, 255, Kind.IMAGE),
            ((8, 8, 1), "uint8", 0, 16, Kind.IMAGE),
            ((32, 32, 2), "uint8", 0, 255, Kind.SIGNAL),  # two channels are no picture
            ((32, 32, 3), "float32", -1, 1, Kind.SIGNAL),  # normalized before it was stored
            ((49, 10, 1), "float32", 0, 37.5, Kind.SIGNAL),  # a spectrum: neither scale of images
            ((64, 6), "float32", -20, 20, Kind.SIGNAL),
            ((16,), "float32", 0, 1, Kind.VECTOR),
            ((), "float32", 0, 1, Kind.VECTOR),
            ((32, 32, 1), "bool", 0, 1, Kind.CODES),
        ],
    )
    def test_of_an_input(self, shape, dtype, low, high, kind):
        assert Values(shape, np.dtype(dtype), low, high).kind is kind

    def test_of_token_numbers(self):
        assert Values((128,), np.dtype(np.int32), 0, 30_000, takes_codes=True).kind is Kind.CODES
        tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
        values = Values((3,), tokens.dtype, 0, 9, takes_codes=True)
        assert (corrupt("noise", tokens, values, np.random.default_rng(0)) == tokens).all()

    @pytest.mark.parametrize(
        ("dtype", "high", "white"),
        [("uint8", 250, 255), ("uint8", 16, 16), ("float32", 0.93, 1), ("float32", 240, 255)],
    )
    def test_white(self, dtype, high, white):
        assert Values((8, 8, 1), np.dtype(dtype), 0, high).white == white

    @pytest.mark.parametrize(("side", "noise", "blur"), [(32, 0.06, 0.6), (96, 0.08, 0.75), (224, 0.12, 2.0)])
    def test_severity_2_of_the_authors_by_size(self, side, noise, blur):
        severity = Values((side, side + 9, 3), BYTES, 0, 255).severity
        assert (severity.noise, severity.blur) == (noise, blur)


class TestImages:
    def image(self, seed=0, shape=(2, 12, 10, 3)):
        return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)

    @pytest.mark.parametrize(("dtype", "white"), [("float32", 1.0), ("uint8", 255.0), ("float32", 255.0)])
    def test_noise_has_the_stated_level(self, dtype, white):
        grey = np.full((20, 32, 32, 3), white / 2).astype(dtype)
        noisy = corrupt("noise", grey, Values((32, 32, 3), np.dtype(dtype), 0, white), np.random.default_rng(0))
        noise = noisy.astype(np.float64) - grey
        # 61,440 values: the standard deviation is known to 0.3 %. Grey is 8 of them away from either end.
        assert noise.std() / white == pytest.approx(0.06, rel=0.01)
        assert abs(noise.mean()) / white < 0.001

    def test_noise_ends_at_black_and_white(self):
        ends = np.array([0, 16], np.uint8).repeat(32).reshape(1, 8, 8, 1)
        noisy = corrupt("noise", ends, Values((8, 8, 1), BYTES, 0, 16), np.random.default_rng(0))
        assert noisy.dtype == np.uint8
        assert noisy.max() == 16
        assert (noisy != ends).any()

    def test_blur_of_an_impulse_is_the_gaussian(self):
        impulse = np.zeros((1, 21, 21, 1))
        impulse[0, 10, 10, 0] = 1
        blurred = gaussian_blur(impulse, 1.5)[0, :, :, 0]
        taps = np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2)  # 4 standard deviations to either side
        taps /= taps.sum()
        assert blurred[4:17, 4:17] == pytest.approx(np.outer(taps, taps), abs=1e-12)
        assert blurred.sum() == pytest.approx(1)
        assert blurred[:4].max() == 0

    def test_blur_is_that_of_scipy_up_to_the_edge(self):
        ndimage = pytest.importorskip("scipy.ndimage", reason="comes with scikit-learn")
        image = self.image()
        expected = ndimage.gaussian_filter(image.astype(np.float64), (0, 2, 2, 0), mode="nearest", truncate=4)
        assert gaussian_blur(image, 2.0) == pytest.approx(expected, abs=1e-6)

    def test_brightness_is_the_value_of_hsv(self):
        image = self.image(shape=(1, 4, 4, 3))
        image[0, 0, 0] = 0  # black has no hue: it becomes grey
        for got, pixel in zip(brighten(image, 0.3, 1.0).reshape(-1, 3), image.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*map(float, pixel))
            assert tuple(got) == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1)), abs=1e-6)

    def test_brightness_of_one_channel_is_a_shift(self):
        grey = np.array([0, 3, 15, 16], np.uint8).reshape(1, 2, 2, 1)
        brighter = corrupt("brightness", grey, Values((2, 2, 1), BYTES, 0, 16), np.random.default_rng(0))
        assert brighter.reshape(-1).tolist() == [2, 5, 16, 16]  # 0.1 of 16 is 1.6

    @pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
    def test_jpeg_is_that_of_pillow(self, channels, mode):
        pixels = (self.image(shape=(2, 16, 24, channels)) * 255).astype(np.uint8)
        got = corrupt("jpeg", pixels, Values((16, 24, channels), BYTES, 0, 255), np.random.default_rng(0))
        for image, picture in zip(got, pixels, strict=True):
            file = io.BytesIO()
            Image.frombytes(mode, (24, 16), picture.tobytes()).save(file, "jpeg", quality=65)
            assert image.tobytes() == Image.open(file).tobytes()

    def test_jpeg_maps_the_value_range_to_bytes_and_back(self):
        pixels = (self.image(shape=(2, 16, 16, 3)) * 255).astype(np.uint8)
        by_bytes = jpeg(pixels.astype(np.float32), 65, 255.0)
        assert jpeg(pixels.astype(np.float32) / 255, 65, 1.0) == pytest.approx(by_bytes / 255, abs=1e-6)

    @pytest.mark.parametrize("name", ["noise", "blur", "brightness", "jpeg"])
    @pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
    def test_shape_and_type_stay_and_so_does_a_fourth_channel(self, name, dtype):
        white = 255 if dtype == "uint8" else 1
        image = (self.image(shape=(3, 9, 7, 4)) * white).astype(dtype)
        changed = corrupt(name, image, Values((9, 7, 4), np.dtype(dtype), 0, white), np.random.default_rng(0))
        assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
        assert (changed[..., :3] != image[..., :3]).mean() > 0.5
        assert (changed[..., 3] == image[..., 3]).all()
        assert 0 <= changed.min() <= changed.max() <= white


class TestSignals:
    def signal(self, count=200):
        """Channels of very different size and offset."""
        rng = np.random.default_rng(0)
        return (rng.standard_normal((count, 50, 2)) * [5.0, 0.1] + [100.0, -3.0]).astype(np.float32)

    def values(self, x):
        return Values(x.shape[1:], x.dtype, x.min(), x.max(), mean=x.mean((0, 1)), std=x.std((0, 1)))

    def test_noise_is_20_db_below_the_variance_of_each_channel(self):
        x = self.signal()
        noise = corrupt("noise", x, self.values(x), np.random.default_rng(0)).astype(np.float64) - x
        level_db = 10 * np.log10(x.var((0, 1)) / noise.var((0, 1)))
        assert level_db == pytest.approx([20, 20], abs=0.2)  # 10,000 values: known to 0.06 dB

    def test_noise_of_a_vector_is_by_feature(self):
        x = np.random.default_rng(1).standard_normal((5000, 3)) * [1.0, 10.0, 0.0]
        values = Values((3,), x.dtype, x.min(), x.max(), mean=x.mean(0), std=x.std(0))
        noise = corrupt("noise", x, values, np.random.default_rng(0)) - x
        assert noise.std(0) == pytest.approx([0.1, 1.0, 0.0], rel=0.04)

    def test_gain_is_one_factor_a_sample_around_the_mean(self):
        x = self.signal()
        values = self.values(x)
        loud = corrupt("gain", x, values, np.random.default_rng(0))
        gains_db = 20 * np.log10((loud[:, :, 0] - values.mean[0]).std(1) / (x[:, :, 0] - values.mean[0]).std(1))
        assert np.abs(gains_db).max() <= 3.001
        assert gains_db.min() < -2.8  # of 200 uniform ones
        assert gains_db.max() > 2.8
        assert abs(gains_db.mean()) < 0.5
        single = (loud[0] - values.mean) / (x[0] - values.mean)
        assert single == pytest.approx(np.full_like(single, single[0, 0]), rel=0.02)

    @pytest.mark.parametrize("name", ["noise", "gain"])
    def test_data_normalized_before_it_was_stored_suffers_the_same(self, name):
        x = self.signal().astype(np.float64)
        normal = (x - x.mean((0, 1))) / x.std((0, 1))
        raw = corrupt(name, x, self.values(x), np.random.default_rng(0))
        changed = corrupt(name, normal, self.values(normal), np.random.default_rng(0))
        assert (raw - x.mean((0, 1))) / x.std((0, 1)) == pytest.approx(changed, abs=1e-9)

    @pytest.mark.parametrize("name", ["noise", "gain"])
    def test_whole_numbers_stay_whole_and_in_range(self, name):
        x = np.random.default_rng(0).integers(-1000, 1001, (50, 40, 1), dtype=np.int16)
        changed = corrupt(name, x, self.values(x), np.random.default_rng(0))
        assert changed.dtype == np.int16
        assert (changed != x).mean() > 0.9
        assert x.min() <= changed.min() < changed.max() <= x.max()


def bound_data(folder, x, y=None, *, inputs=None, outputs=(1, 3), **options):
    """A bound data set whose test split is x (and y)."""
    folder.mkdir(exist_ok=True)
    names = x if isinstance(x, dict) else {"": x}
    arrays = {f"x_{split}" + (f".{name}" if name else ""): v for name, v in names.items() for split in ("test", "val")}
    if y is not None:
        arrays |= {"y_test": y, "y_val": y}
    np.savez(folder / "data.npz", **arrays)
    data = prepare_dataset(DataOptions(str(folder / "data.npz"), **options), folder / "data")
    specs = inputs or [TensorSpec("x", (1, *names[""].shape[1:]), "float32")]
    return data.bind(specs, [TensorSpec("y", outputs, "float32")])


def drained(corruptor, name):
    return np.concatenate([batch["x"] for batch in corruptor.batches(name, 16)])


class TestCorruptor:
    IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    LABELS = np.repeat([0, 1, 2], [36, 18, 6])

    def test_the_seed_decides_everything(self, tmp_path):
        first, again, other = (
            Corruptor(bound_data(tmp_path / str(i), self.IMAGES, self.LABELS), "test", 30, seed)
            for i, seed in enumerate((0, 0, 1))
        )
        assert first.names == ("noise", "blur", "brightness", "jpeg")
        assert (first.positions == again.positions).all()
        assert (first.positions != other.positions).any()
        for name in first.names:
            assert (drained(first, name) == drained(again, name)).all()
            assert (drained(first, name) == drained(first, name)).all()  # also the second time

    def test_samples_are_drawn_by_class(self, tmp_path):
        corruptor = Corruptor(bound_data(tmp_path, self.IMAGES, self.LABELS), "test", 30, 0)
        assert np.bincount(self.LABELS[corruptor.positions]).tolist() == [18, 9, 3]  # half of each
        assert (np.diff(corruptor.positions) > 0).all()
        assert (corruptor.split.labels["y"] == self.LABELS[corruptor.positions]).all()

    def test_a_small_split_is_taken_whole(self, tmp_path):
        assert Corruptor(bound_data(tmp_path, self.IMAGES), "test", 500, 0).positions.tolist() == list(range(60))

    def test_mean_and_std_come_after_the_corruption(self, tmp_path):
        bound = bound_data(tmp_path, self.IMAGES, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))
        got = drained(Corruptor(bound, "test", 500, 0), "jpeg")
        expected = jpeg(self.IMAGES.astype(np.float32), 65, 255.0)
        assert got == pytest.approx((expected - [100, 110, 120]) / [50, 60, 70], abs=1e-5)

    def test_a_quantized_input_gets_quantized_values(self, tmp_path):
        spec = TensorSpec("x", (1, 8, 8, 3), "int8", scale=1.0, zero_point=-128)
        bound = bound_data(tmp_path, self.IMAGES, inputs=[spec])
        got = drained(Corruptor(bound, "test", 500, 0), "brightness")
        assert got.dtype == np.int8
        assert got.astype(int).max() == 127  # white, 255

    def test_signals_are_told_by_their_own_variance(self, tmp_path):
        x = (np.random.default_rng(0).standard_normal((100, 40, 2)) * [1, 50] + [0, 1e4]).astype(np.float32)
        bound = bound_data(tmp_path, x, mean=(0.0, 1e4), std=(1.0, 50.0))
        corruptor = Corruptor(bound, "test", 500, 0)
        assert corruptor.names == ("noise", "gain")
        clean = np.concatenate([batch["x"] for batch in bound.split("test").batches(16)])
        noise = drained(corruptor, "noise").astype(np.float64) - clean
        assert noise.std((0, 1)) == pytest.approx([0.1, 0.1], rel=0.03)  # 20 dB below 1

    def test_each_input_by_its_kind(self, tmp_path):
        numbers = np.random.default_rng(1).standard_normal((60, 5)).astype(np.float32)
        specs = [TensorSpec("image", (1, 8, 8, 3), "float32"), TensorSpec("numbers", (1, 5), "float32")]
        bound = bound_data(tmp_path, {"image": self.IMAGES, "numbers": numbers}, inputs=specs)
        corruptor = Corruptor(bound, "test", 500, 0)
        assert corruptor.names == ("noise", "blur", "brightness", "jpeg")
        assert "numbers: Gaussian, 20 dB" in corruptor.strength("noise")
        blurred = next(corruptor.batches("blur", 60))
        assert (blurred["numbers"] == numbers).all()
        assert (blurred["image"] != self.IMAGES).mean() > 0.9
        assert (next(corruptor.batches("noise", 60))["numbers"] != numbers).all()

    def test_token_numbers_have_no_corruption(self, tmp_path):
        tokens = np.arange(120, dtype=np.int32).reshape(20, 6) % 30
        bound = bound_data(tmp_path, tokens, inputs=[TensorSpec("x", (1, 6), "int32")])
        assert Corruptor(bound, "test", 500, 0).names == ()


class TestStage:
    """`scoring.robustness` on outputs that were put into the run folder by hand."""

    KERNELS = KernelFamily.LITERT_XNNPACK

    @pytest.fixture
    def bench(self, tmp_path):
        def make(labels, want, got, *, metric="accuracy", corrupted=None, classes=3):
            x = np.random.default_rng(0).standard_normal((len(want), 4)).astype(np.float32)
            bound = bound_data(tmp_path, x, labels, outputs=(1, classes))
            for model, outputs in (("float", want), ("made", got)):
                for name, values in (("test", outputs), ("noise", outputs if corrupted is None else corrupted)):
                    folder = tmp_path / "outputs" / f"{model}-{self.KERNELS}-{name}"
                    folder.mkdir(parents=True)
                    np.save(folder / "0.npy", values.astype(np.float32))
            return stages.Workbench(tmp_path, metric, 0, bound.inputs, bound.outputs)

        yield make
        for cached in (stages.bound_data, scoring._corruptor, stages.metric_of):
            cached.cache_clear()

    def run(self, bench):
        return scoring.robustness(bench, Path("made.tflite"), self.KERNELS, self.KERNELS, self.KERNELS)

    def test_with_labels(self, bench):
        labels = np.repeat([0, 1, 2], 20)
        got = labels.copy()
        got[:3] = 1
        found = self.run(bench(labels, scores(labels)["y"], scores(got)["y"], corrupted=scores(labels)["y"]))
        assert found.flips.worse.value == pytest.approx(3 / 60)
        assert (found.worst_class.index, found.worst_class.drop.value) == (0, pytest.approx(3 / 20))
        assert list(found.conditions) == ["clean", "noise"]
        assert found.conditions["clean"].score == pytest.approx(57 / 60)
        assert found.conditions["noise"].score == 1
        assert found.strengths == {"noise": "Gaussian, 20 dB below the variance of each channel"}

    def test_without_labels_there_are_flips_and_agreement_only(self, bench):
        want, got = scores([0, 1, 2, 0])["y"], scores([0, 1, 2, 1])["y"]
        found = self.run(bench(None, want, got))
        assert found.flips.share.value == 0.25
        assert (found.flips.worse, found.worst_class) == (None, None)
        assert found.conditions["noise"].score is None
        assert found.conditions["noise"].agreement.value == 0.75

    def test_a_regression_has_its_own_metric(self, bench):
        labels = np.zeros((30, 1), np.float32) + 0.5
        found = self.run(bench(labels, labels + 2, labels - 3, metric="mae", classes=1))
        assert (found.flips, found.worst_class) == (None, None)
        assert found.conditions["noise"].drop.value == pytest.approx(1)
        assert (found.conditions["noise"].score, found.conditions["noise"].float_score) == pytest.approx((3, 2))


class TestMeasuring:
    """Which kernels, and what a failure costs."""

    def shop(self, answer):
        calls = []

        def worker(name):
            def call(function, **arguments):
                calls.append((name, function.split(":")[1], arguments.get("kernels")))
                return answer(function)

            return SimpleNamespace(call=call)

        bench = SimpleNamespace(float_model=Path("float.tflite"))
        shop = SimpleNamespace(
            bench=bench, quantizing=worker("quantizing"), micro=worker("micro"), progress=None, metric_is_ratio=True
        )
        return shop, calls

    def measure(self, monkeypatch, tmp_path, macs, answer=lambda function: None):
        monkeypatch.setattr(robustness, "read_graph", lambda data: SimpleNamespace(macs=macs))
        monkeypatch.setattr(robustness, "_result", lambda found, names, is_ratio: "found")
        (tmp_path / "made.tflite").write_bytes(b"")
        shop, calls = self.shop(answer)
        profile = SimpleNamespace(runtime=SimpleNamespace(delegate=None))
        made = tmp_path / "made.tflite"
        return *robustness.measure_robustness(shop, profile, made, KernelFamily.TFLM, None), calls

    def test_a_small_model_runs_in_tflm(self, monkeypatch, tmp_path):
        found, notes, calls = self.measure(monkeypatch, tmp_path, macs=2_000_000)
        assert (found, notes) == ("found", [])
        assert calls[:2] == [
            ("quantizing", "predict_corrupted", KernelFamily.LITERT_XNNPACK),
            ("micro", "predict_corrupted", KernelFamily.TFLM),
        ]

    def test_a_large_one_does_not_and_says_so(self, monkeypatch, tmp_path):
        _, notes, calls = self.measure(monkeypatch, tmp_path, macs=2_000_001)
        assert calls[1] == ("quantizing", "predict_corrupted", KernelFamily.LITERT_BUILTIN)
        assert notes == ["corrupted samples ran in LITERT_BUILTIN: more than 2 M MACs take long in tflite-micro"]

    @pytest.mark.parametrize(
        ("error", "note"),
        [
            (DataError("The output is NaN.", hint="Look."), "robustness could not be measured: The output is NaN."),
            (WorkerError("tflite-micro died"), "robustness could not be measured: tflite-micro died"),
        ],
    )
    def test_a_failure_is_a_note(self, monkeypatch, tmp_path, error, note):
        def fail(function):
            raise error

        found, notes, _ = self.measure(monkeypatch, tmp_path, 1, fail)
        assert found is None
        assert notes == [note]


@pytest.mark.slow
def test_a_fit_without_labels(tmp_path, capsys):
    """Only what needs no truth: flips, and agreement under corruption."""
    from edgecomp.report.terminal import print_fit
    from edgecomp.results import FitResult

    digits = read_npz(ROOT / "calibration_data" / "digits" / "digits.npz")
    np.savez(tmp_path / "data.npz", **{name: digits[name] for name in digits if name.startswith("x_")})
    model = ROOT / "calibration_data" / "digits" / "digits_cnn.keras"
    code, body = fit(tmp_path, model, "--data", "data.npz", "--mean=0", "--std=16", "--device", "rpi4")
    assert code == 0, body
    found = chosen_of(body, "rpi4")["robustness"]
    assert found["flips"]["value"] == pytest.approx(1 - chosen_of(body, "rpi4")["agreement"]["value"])
    assert found["flips"]["worse"] is None
    assert found["worst_class"] is None
    for condition in found["conditions"]:
        assert condition["score"] is condition["accuracy_drop_pp"] is None
        assert condition["agreement"]["value"] >= 0.97
    print_fit(FitResult.model_validate(body))
    shown = capsys.readouterr().out
    assert "same answer" in shown
    assert "right to wrong" not in shown


@pytest.mark.slow
@pytest.mark.data
def test_a_signal_model(data_folder, tmp_path):
    """Accelerometer windows: noise and gain, in tflite-micro for the microcontroller."""
    folder = data_folder / "har-spsw"
    code, body = fit(
        tmp_path, folder / "har_cnn1d.keras", "--data", folder / "har_spsw_w64.npz", "--group-key=subject",
        "--mean=-5.1423,-1.8441,0.4623,-0.0095,-0.0002,0.0314", "--std=5.0414,6.4378,4.2962,1.3490,1.2518,1.0536",
        "--device=rpi4", "--device=stm32l4r5",
    )  # fmt: skip
    assert code == 0, body
    for device in ("rpi4", "stm32l4r5"):
        found = chosen_of(body, device)["robustness"]
        assert [condition["name"] for condition in found["conditions"]] == ["clean", "noise", "gain"]
        assert found["samples"] == 500
        assert found["flips"]["samples"] == 2514
        assert found["worst_class"]["compared"] == 5
        for condition in found["conditions"]:
            # 0.918 clean on all 2,514; noise 20 dB down and 3 dB of gain cost a model of this kind a few points.
            assert condition["float_score"] > 0.85
            assert abs(condition["accuracy_drop_pp"]["value"]) < 2
    assert chosen_of(body, "stm32l4r5")["robustness"]["kernels"] == chosen_of(body, "stm32l4r5")["accuracy"]["kernels"]
