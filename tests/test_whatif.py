"""What-if: figures by hand."""

from edgecomp.budget import Budget, Values
from edgecomp.objective import Objective
from edgecomp.planner.whatif import relaxed
from edgecomp.units import Drop

BUDGET = Budget(max_accuracy_drop=Drop(0.01), max_model_bytes=1000)


def test_the_nearest_and_the_best_of_every_limit():
    """Chosen: 10 ms. One needs 1.5 pp for 8 ms, another 4 pp for 5 ms; one breaks two limits, one is slower."""
    chosen = Values(0.005, 0.9, 900, 10, latency_ms=10.0)
    candidates = [
        ("chosen", chosen),
        ("near", Values(0.015, 0.9, 800, 10, latency_ms=8.0)),
        ("best", Values(0.04, 0.9, 700, 10, latency_ms=5.0)),
        ("both", Values(0.04, 0.9, 1100, 10, latency_ms=1.0)),
        ("slow", Values(0.0, 0.9, 1100, 10, latency_ms=12.0)),
    ]
    found = relaxed(candidates, BUDGET, Objective.LATENCY, chosen)
    assert [(row.candidate, row.limit.limit, round(row.limit.value, 6)) for row in found] == [
        ("near", "accuracy_drop", 1.5),
        ("best", "accuracy_drop", 4.0),
    ]


def test_with_nothing_chosen_every_limit_is_looked_at():
    candidates = [("a", Values(0.0, 0.9, 1100, 10, latency_ms=1.0)), ("b", Values(0.03, 0.9, 900, 10, latency_ms=1.0))]
    found = relaxed(candidates, BUDGET, Objective.LATENCY, None)
    assert {row.limit.limit: row.candidate for row in found} == {"model_size": "a", "accuracy_drop": "b"}


def test_nothing_to_gain():
    chosen = Values(0.0, 0.9, 100, 10, latency_ms=1.0)
    assert relaxed([("chosen", chosen)], BUDGET, Objective.LATENCY, chosen) == []
