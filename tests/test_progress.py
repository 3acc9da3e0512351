"""The time left, against a clock that the test sets."""

import pytest

from edgecomp.report.progress import Steps
from edgecomp.units import format_seconds


def test_the_time_left_follows_the_speed_so_far():
    now = 0.0
    steps = Steps(lambda: now)
    assert steps.remaining_s("training", 0, 100) is None
    now = 10.0
    assert steps.remaining_s("training", 20, 100) == 40  # 20 in 10 s: 80 more take 40 s.


def test_a_new_step_starts_anew_and_a_resumed_one_counts_from_where_it_is():
    now = 0.0
    steps = Steps(lambda: now)
    steps.remaining_s("first", 0, 10)
    now = 50.0
    assert steps.remaining_s("second", 60, 100) is None
    now = 60.0
    assert steps.remaining_s("second", 80, 100) == 10  # 20 in 10 s since it was taken up at 60.


def test_too_early_to_say():
    now = 0.0
    steps = Steps(lambda: now)
    steps.remaining_s("training", 0, 1000)
    now = 10.0
    assert steps.remaining_s("training", 1, 1000) is None
    assert steps.remaining_s("reading", 0, 0) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (190, "3 min 10 s"), (3900, "1 h 05 min")]
)
def test_seconds_as_people_read_them(seconds, text):
    assert format_seconds(seconds) == text
