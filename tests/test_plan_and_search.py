"""Planning and choosing, with fakes: no model is made here."""

import pytest

from edgecomp.budget import Budget, Values
from edgecomp.errors import UsageError
from edgecomp.plan import Step, make_plan
from edgecomp.profile import Precision, load_profile
from edgecomp.results import BrokenLimit, CandidateResult
from edgecomp.search import search
from edgecomp.units import Drop

RPI4, L4R5 = load_profile("rpi4"), load_profile("stm32l4r5")


def names(steps):
    return [step.name for step in steps]


class TestPlan:
    def test_the_profile_gives_the_order_and_fallbacks_come_last(self):
        steps = make_plan(L4R5, (), has_calibration=True)
        assert names(steps) == [
            "INT8", "INT8 repaired", "SELECTIVE", "FLOAT32", "INT16X8", "INT4_WEIGHTS", "INT4_WEIGHTS repaired",
        ]  # fmt: skip
        assert [step.is_fallback for step in steps] == [False] * 4 + [True] * 3
        assert all(step.ruled_out is None for step in steps)

    def test_without_calibration_samples_integer_precisions_are_ruled_out(self):
        steps = make_plan(RPI4, (), has_calibration=False)
        runnable = [str(step.precision) for step in steps if step.ruled_out is None]
        assert runnable == ["DYNAMIC_RANGE", "FLOAT16", "FLOAT32"]
        assert "calibration" in steps[0].ruled_out

    def test_what_is_asked_for_is_no_fallback(self):
        steps = make_plan(RPI4, (Precision.INT16X8,), has_calibration=True)
        assert steps == (Step(Precision.INT16X8),)

    def test_what_is_asked_for_is_made_as_it_is(self):
        assert names(make_plan(L4R5, (Precision.INT8,), has_calibration=True)) == ["INT8"]

    def test_what_the_device_does_not_run_is_said_so(self):
        steps = make_plan(L4R5, (Precision.FLOAT16, Precision.INT8), has_calibration=True)
        assert steps[0].ruled_out == "stm32l4r5 (tflm) does not run it"
        assert steps[1].ruled_out is None

    def test_asking_only_for_what_the_device_does_not_run_is_an_error(self):
        with pytest.raises(UsageError, match="stm32l4r5 runs none of the precisions asked for"):
            make_plan(L4R5, (Precision.DYNAMIC_RANGE,), has_calibration=True)


def result(name, *broken):
    breaks = tuple(BrokenLimit(limit=limit, value=2, allowed=1, unit="", text=limit) for limit in broken)
    return CandidateResult(name=name, status="rejected" if broken else "chosen", reason=",".join(broken), breaks=breaks)


class TestSearch:
    steps = make_plan(L4R5, (), has_calibration=True)

    def run(self, outcomes):
        made = []

        def make(step):
            made.append(step.name)
            return result(step.name, *outcomes.get(step.name, ()))

        return search(self.steps, make), made

    def test_the_first_that_fits_is_chosen_and_nothing_more_is_made(self):
        results, made = self.run({})
        assert made == ["INT8"]
        assert [item.status for item in results] == ["chosen", *["skipped"] * 6]
        assert results[1].reason == "INT8 already meets every limit"

    def test_fallbacks_are_made_when_the_order_breaks_limits(self):
        results, made = self.run(dict.fromkeys(("INT8", "INT8 repaired", "SELECTIVE", "FLOAT32"), ("accuracy_drop",)))
        assert made == ["INT8", "INT8 repaired", "SELECTIVE", "FLOAT32", "INT16X8"]
        assert results[4].status == "chosen"

    def test_repair_comes_straight_after_the_candidate_that_misses_the_accuracy(self):
        results, made = self.run({"INT8": ("accuracy_drop",)})
        assert made == ["INT8", "INT8 repaired"]
        assert [item.name for item in results if item.status == "chosen"] == ["INT8 repaired"]

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            (("model_size",), "it raises the accuracy of INT8, which is not what INT8 lacks"),
            (
                ("accuracy_drop", "model_size", "ram"),
                "it changes nothing but the accuracy of INT8, which also breaks the limit of model size, ram",
            ),
        ],
        ids=["size-only", "size-too"],
    )
    def test_repair_is_not_made_for_what_it_cannot_cure(self, broken, reason):
        results, made = self.run({"INT8": broken})
        assert "INT8 repaired" not in made
        assert results[1].reason == reason

    def test_selective_cannot_cure_a_size(self):
        results, made = self.run({"INT8": ("model_size", "accuracy_drop"), "FLOAT32": ("model_size",)})
        assert "SELECTIVE" not in made
        assert results[2].reason == "it is larger than INT8, which is already too large"

    def test_a_failed_candidate_stops_nothing(self):
        def make(step):
            if step.precision is Precision.INT8:
                return CandidateResult(name="INT8", status="failed", reason="boom")
            return result(step.name)

        # Repair starts from an INT8 file and SELECTIVE keeps layers of one: without it there is nothing to start from.
        results = search(self.steps, make)
        assert [item.status for item in results][:4] == ["failed", "skipped", "skipped", "chosen"]
        assert results[1].reason == "it builds on INT8, which could not be made"

    def test_nothing_fits(self):
        results, _ = self.run({step.name: ("model_size",) for step in self.steps})
        assert not any(item.status == "chosen" for item in results)


class TestBudget:
    budget = Budget(Drop(0.01), max_model_bytes=1000, max_ram_bytes=500, max_latency_ms=2.0)

    def values(self, **changes):
        base = {"drop": 0.0, "float_score": 0.9, "model_bytes": 10, "ram_bytes": 10, "latency_ms": 1.0}
        return Values(**(base | changes))

    def test_a_value_on_its_limit_fits(self):
        # 0.88 - 0.87 is 0.010000000000000009 in binary: one point is not above one point.
        assert (
            self.budget.violations(self.values(drop=0.88 - 0.87, model_bytes=1000, ram_bytes=500, latency_ms=2.0)) == []
        )

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"drop": 0.02}, "accuracy drop 2.00 pp, 1.00 pp above the 1 allowed"),
            ({"model_bytes": 1001}, "model size 1001 B, 1 B above the 1000 B allowed"),
            ({"ram_bytes": 2548}, "ram 2.5 KiB, 2.0 KiB above the 500 B allowed"),
            ({"latency_ms": 2.5}, "latency 2.50 ms, 0.50 ms above the 2 allowed"),
        ],
    )
    def test_each_limit_says_by_how_much(self, changes, text):
        assert [str(item) for item in self.budget.violations(self.values(**changes))] == [text]

    def test_an_unknown_latency_is_not_a_fast_one_nor_a_slow_one(self):
        assert self.budget.violations(self.values(latency_ms=None)) == []

    def test_a_relative_drop_is_measured_against_the_float_score(self):
        budget = Budget(Drop(0.05, is_relative=True))
        assert budget.violations(self.values(drop=0.0049, float_score=0.1)) == []  # 4.9 % of 0.1
        assert len(budget.violations(self.values(drop=0.0051, float_score=0.1))) == 1

    def test_the_device_limits_hold_even_if_the_user_allows_more(self):
        usable = L4R5.memory.usable_flash_bytes
        assert Budget.for_device(L4R5, max_model_bytes=10 * usable).max_model_bytes == usable
        assert Budget.for_device(L4R5, max_model_bytes=1000).max_model_bytes == 1000
        assert Budget.for_device(RPI4).max_model_bytes is None
