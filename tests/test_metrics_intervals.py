"""Intervals against theory, and what they decide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm
from sklearn.metrics import roc_auc_score

from edgecomp.errors import DataError
from edgecomp.metrics import Estimate, estimate, load_metric, looks_memorised, paired_drop
from edgecomp.metrics.bootstrap import mean_estimate

ACCURACY = load_metric("accuracy")


def answers(right):
    """Labels 0 and outputs of two classes that are right where told."""
    right = np.asarray(right, bool)
    outputs = np.stack([right, ~right], axis=1).astype(np.float32)
    return {"y": np.zeros(len(right), int)}, {"y": outputs}


def share(right, count):
    return np.arange(count) < right


def width(found):
    return found.high - found.low


def test_half_width_of_an_accuracy_of_1000_images():
    found = estimate(ACCURACY, *answers(share(880, 1000)), seed=0)
    assert found.value == 0.88
    # 1.96 * sqrt(0.88 * 0.12 / 1000) = 2.01 points on either side.
    assert 0.88 - found.low == pytest.approx(0.0201, abs=0.0015)
    assert found.high - 0.88 == pytest.approx(0.0201, abs=0.0015)


def test_intervals_of_means_like_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=400)
    ours = mean_estimate(values, seed=0)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=1).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * width(ours))
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * width(ours))


def test_few_levels_and_many_give_the_same_interval():
    levels = np.random.default_rng(0).integers(3, size=900).astype(float)  # the multinomial way
    many = levels + np.random.default_rng(1).normal(scale=1e-9, size=900)  # the drawn way
    few_found, many_found = mean_estimate(levels, seed=0), mean_estimate(many, seed=0)
    assert few_found.low == pytest.approx(many_found.low, abs=0.1 * width(many_found))
    assert few_found.high == pytest.approx(many_found.high, abs=0.1 * width(many_found))


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        found = mean_estimate((rng.random(300) < 0.8).astype(float), seed=trial)
        covered += found.low <= 0.8 <= found.high
    # 95 % of 400 is 380; three standard deviations are 13, and discreteness costs a little.
    assert 362 <= covered <= 395


def test_many_samples_stay_within_bounded_memory(monkeypatch):
    monkeypatch.setattr("edgecomp.metrics.bootstrap._CHUNK_DRAWS", 1000)
    values = np.random.default_rng(0).normal(size=300)
    assert width(mean_estimate(values, seed=0, resamples=50)) == pytest.approx(2 * 1.96 / 300**0.5, rel=0.4)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=100)
    assert mean_estimate(values, seed=4) == mean_estimate(values, seed=4)
    assert mean_estimate(values, seed=4) != mean_estimate(values, seed=5)


def test_a_paired_drop_is_narrower_than_one_from_two_intervals():
    labels, reference = answers(share(880, 1000))
    right = share(880, 1000)
    right[:15] = False  # 15 lost, 9 won
    right[900:909] = True
    _, candidate = answers(right)
    drop = paired_drop(ACCURACY, labels, candidate, reference, seed=0)
    assert drop.value == pytest.approx(0.006)  # (15 - 9) / 1000
    # Only the 24 images that changed matter: 1.96 * sqrt((24 / 1000 - 0.006^2) / 1000) = 0.96 points.
    assert width(drop) / 2 == pytest.approx(0.0096, abs=0.001)
    alone = [estimate(ACCURACY, labels, outputs, seed=0) for outputs in (candidate, reference)]
    unpaired = np.hypot(*(width(found) / 2 for found in alone))
    assert width(drop) / 2 < unpaired / 2.5


def test_equal_outputs_drop_nothing():
    labels, outputs = answers(share(7, 10))
    assert paired_drop(ACCURACY, labels, outputs, outputs, seed=0) == Estimate(0.0, 0.0, 0.0)


def test_a_worse_error_is_a_positive_drop():
    labels = {"y": np.zeros(50)}
    reference = {"y": np.linspace(0.5, 1.0, 50)}
    candidate = {"y": reference["y"] * 2}
    drop = paired_drop(load_metric("mae"), labels, candidate, reference, seed=0)
    assert drop.value == pytest.approx(0.75)  # mean of 0.5 to 1.0
    assert 0 < drop.low < drop.value < drop.high


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.integers(0, 50))
def test_a_drop_changes_its_sign_with_the_roles(pairs, seed):
    labels, ours = answers([pair[0] for pair in pairs])
    _, theirs = answers([pair[1] for pair in pairs])
    forth = paired_drop(ACCURACY, labels, ours, theirs, seed)
    back = paired_drop(ACCURACY, labels, theirs, ours, seed)
    assert forth.value == -back.value
    assert forth.low <= forth.value <= forth.high
    assert -1 <= forth.low <= forth.high <= 1


def binary(count, positives, gap, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) < positives).astype(int)
    return {"y": labels}, {"y": rng.normal(size=count) + gap * labels}


def test_auc_interval_is_near_hanley_and_mcneil():
    labels, outputs = binary(600, 200, 1.0)
    found = estimate(load_metric("auc"), labels, outputs, seed=0)
    area = roc_auc_score(labels["y"], outputs["y"])
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 199 * (q1 - area**2) + 399 * (q2 - area**2)) / (200 * 400)
    assert found.value == pytest.approx(area)
    assert width(found) == pytest.approx(2 * norm.ppf(0.975) * variance**0.5, rel=0.15)


def test_auc_of_resamples_like_scikit_learn():
    labels, outputs = binary(80, 30, 0.5)
    indices = np.random.default_rng(1).integers(80, size=80)
    expected = roc_auc_score(labels["y"][indices], outputs["y"][indices])
    assert load_metric("auc").resampler(labels, outputs)(indices) == pytest.approx(expected)


def test_auc_drop_is_paired():
    labels, reference = binary(400, 150, 1.0)
    candidate = {"y": reference["y"] + np.random.default_rng(5).normal(scale=0.1, size=400)}
    drop = paired_drop(load_metric("auc"), labels, candidate, reference, seed=0)
    assert width(drop) < width(estimate(load_metric("auc"), labels, reference, seed=0)) / 3


def test_resamples_with_one_class_are_drawn_again():
    labels, outputs = binary(6, 1, 9.0)  # a third of the draws, (5/6)^6, miss the only positive
    assert estimate(load_metric("auc"), labels, outputs, seed=0) == Estimate(1.0, 1.0, 1.0)


def test_a_metric_that_hardly_ever_has_a_score_has_no_interval(monkeypatch):
    metric = load_metric("auc")
    monkeypatch.setattr(metric, "resampler", lambda labels, outputs: lambda indices: float("nan"))
    with pytest.raises(DataError, match="only 0 of 5,000 resamples"):
        estimate(metric, *binary(10, 5, 1.0), seed=0)


def test_one_sample():
    assert estimate(ACCURACY, *answers([True]), seed=0) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("validation", "test", "is_noted"),
    [
        # ResNet8 on CIFAR-10: 0.930 on images it was trained on, 0.881 on 1,000 that it has not seen.
        (Estimate(0.930, 0.912, 0.947), Estimate(0.881, 0.860, 0.901), True),
        (Estimate(0.890, 0.868, 0.911), Estimate(0.881, 0.860, 0.901), False),
        (Estimate(0.860, 0.836, 0.884), Estimate(0.930, 0.912, 0.947), False),
        # Decided, but below one point: it does not matter.
        (Estimate(0.995, 0.9945, 0.9955), Estimate(0.990, 0.9895, 0.9905), False),
    ],
    ids=["seen in training", "tie", "worse", "less than a point"],
)
def test_a_float_model_that_has_seen_its_validation_samples(validation, test, is_noted):
    note = looks_memorised(validation, test)
    assert (note is not None) == is_noted
    if note is not None:
        assert "93.0 % on validation and 88.1 % on test" in note


def test_memorised_errors_are_smaller_ones():
    low, high = Estimate(1.0, 0.9, 1.1), Estimate(2.0, 1.8, 2.2)
    assert "1 on validation and 2 on test" in looks_memorised(low, high, higher_is_better=False, is_ratio=False)
    assert looks_memorised(high, low, higher_is_better=False, is_ratio=False) is None
