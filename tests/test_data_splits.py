"""Which sample goes where."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecomp.data.splits import class_ids, draw, draw_groups, is_integral, is_one_hot, rest


def test_each_class_is_drawn_in_proportion():
    classes = np.repeat([0, 1, 2], [600, 300, 100])
    drawn = draw(100, 1000, seed=0, classes=classes)
    assert np.bincount(classes[drawn]).tolist() == [60, 30, 10]  # 10 % of each


def test_shares_that_are_not_whole_add_up_by_the_largest_remainder():
    classes = np.repeat([0, 1, 2], [5, 3, 2])
    drawn = draw(5, 10, seed=0, classes=classes)
    assert np.bincount(classes[drawn]).tolist() in ([3, 1, 1], [2, 2, 1])  # quotas 2.5, 1.5 and 1.0


def test_a_rare_class_gets_one_where_the_count_reaches():
    classes = np.repeat([0, 1], [995, 5])
    assert np.bincount(classes[draw(20, 1000, 0, classes)]).tolist() == [19, 1]  # its share would be 0.1


def test_a_class_of_one_sample_stays_in_training():
    classes = np.array([0] * 50 + [1] * 49 + [2])
    drawn = draw(20, 100, 0, classes, leave=1)
    assert 2 not in classes[drawn]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 1000), st.data())
def test_draws_are_distinct_exact_in_number_and_repeatable(classes, seed, data):
    ids = np.array(classes)
    count = data.draw(st.integers(1, len(ids)))
    leave = data.draw(st.integers(0, 2))
    drawn = draw(count, len(ids), seed, ids, leave)
    assert len(drawn) == len(set(drawn.tolist())) == count
    assert 0 <= drawn.min() <= drawn.max() < len(ids)
    np.testing.assert_array_equal(drawn, draw(count, len(ids), seed, ids, leave))
    left = rest(len(ids), drawn)
    assert sorted([*left.tolist(), *drawn.tolist()]) == list(range(len(ids)))


def test_a_head_of_a_draw_is_not_sorted_by_class():
    classes = np.repeat(np.arange(10), 100)
    assert len(set(classes[draw(500, 1000, 0, classes)[:50]].tolist())) >= 8  # sorted, it would be 1


def test_seeds_differ():
    assert draw(10, 100, 0).tolist() != draw(10, 100, 1).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=80).filter(lambda g: len(set(g)) > 1), st.integers(0, 99))
def test_groups_are_never_torn_apart_and_never_all_taken(groups, seed):
    values = np.array(groups)
    taken = draw_groups(values, max(1, len(values) // 5), seed)
    inside, outside = set(values[taken].tolist()), set(values[rest(len(values), taken)].tolist())
    assert inside
    assert outside
    assert not inside & outside


def test_groups_hold_about_as_many_samples_as_asked():
    groups = np.repeat(np.arange(20), 50)
    assert len(draw_groups(groups, 200, seed=3)) == 200  # 4 groups of 50


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([0, 1, 0, 1], np.uint8), [0, 1, 0, 1]),
        (np.array([[2], [2], [0], [0]]), [2, 2, 0, 0]),
        (np.array([0.0, 1.0, 0.0, 1.0], np.float32), [0, 1, 0, 1]),
        (np.eye(2)[[1, 0, 1]], [1, 0, 1]),
    ],
    ids=["whole numbers", "one column", "whole floats", "one-hot"],
)
def test_labels_that_are_classes(labels, expected):
    ids = class_ids(labels)
    assert ids is not None
    assert ids.tolist() == expected


@pytest.mark.parametrize(
    "labels",
    [np.array([0.5, 1.0, 0.5, 1.0]), np.arange(10), np.zeros((4, 3, 3), int), np.full((4, 3), 0.2)],
    ids=["fractions", "all different", "per position", "soft"],
)
def test_labels_that_are_not_classes(labels):
    assert class_ids(labels) is None


def test_one_hot_needs_exactly_one_and_two_columns():
    assert is_one_hot(np.array([[0, 1], [1, 0]]))
    assert not is_one_hot(np.array([[1, 1], [1, 0]]))
    assert not is_one_hot(np.array([[1], [1]]))
    assert is_integral(np.array([1.0, -2.0]))
    assert not is_integral(np.array([1.5]))
