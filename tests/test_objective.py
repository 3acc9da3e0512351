"""What is made small: values, ties and unknowns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecomp.budget import Values
from edgecomp.objective import Objective, is_better, value_of

VALUES = Values(drop=0.01, float_score=0.9, model_bytes=1000, ram_bytes=500, latency_ms=2.0, energy_mj=3.0)
FIELDS = {
    Objective.LATENCY: "latency_ms",
    Objective.SIZE: "model_bytes",
    Objective.RAM: "ram_bytes",
    Objective.ENERGY: "energy_mj",
    Objective.ACCURACY_DROP: "drop",
}
EACH = pytest.mark.parametrize("objective", Objective)
numbers = st.none() | st.floats(0, 1e9, allow_subnormal=False)


@EACH
def test_each_looks_at_its_own_value(objective):
    assert value_of(VALUES, objective) == getattr(VALUES, FIELDS[objective])
    assert value_of(Values(), objective) is None


@EACH
def test_an_unknown_is_never_better_than_a_number(objective):
    known, unknown = Values(**{FIELDS[objective]: 5}), Values()
    assert is_better(known, unknown, objective)
    assert not is_better(unknown, known, objective)
    assert not is_better(unknown, unknown, objective)


@pytest.mark.parametrize(("ours", "expected"), [(989, True), (990, True), (991, False), (1000, False), (1020, False)])
def test_less_than_one_percent_is_a_tie(ours, expected):
    assert is_better(Values(model_bytes=ours), Values(model_bytes=1000), Objective.SIZE) is expected


def test_drops_do_not_tie():
    assert is_better(Values(drop=0.0099), Values(drop=0.00995), Objective.ACCURACY_DROP)
    assert is_better(Values(drop=-0.01), Values(drop=0.0), Objective.ACCURACY_DROP)


@given(st.sampled_from(Objective), numbers, numbers)
def test_never_both_ways(objective, first, second):
    a, b = (Values(**{FIELDS[objective]: value}) for value in (first, second))
    assert not (is_better(a, b, objective) and is_better(b, a, objective))
