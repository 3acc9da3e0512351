"""Figures of a measurement against a known truth: coverage of the interval, the stop rule, outliers, drift."""

import ast
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from edgecomp.agent.on_device import stopping
from edgecomp.agent.on_device.stopping import (
    between_processes_ratio,
    is_settled,
    median_interval,
    t_quantile,
    within_process_interval,
    within_process_ratio,
)
from edgecomp.bench.statistics import drift_ratio, outliers, timing_statistics
from edgecomp.errors import BenchmarkError
from tests.synthetic_bench import TRUE_US, board

RUNS = 1000


def coverage(measure, seed):
    """Share of RUNS measurements whose interval contains the truth."""
    rng = np.random.default_rng(seed)
    intervals = [median_interval(measure(rng)) for _ in range(RUNS)]
    return sum(low <= TRUE_US <= high for low, _, high in intervals) / RUNS


def measured_until_settled(rng, between):
    """Three to five processes, by the rule of the agent."""
    processes = board(rng, 5, between=between)
    return next((processes[:count] for count in (3, 4) if is_settled(processes[:count], 0.02)), processes)


class TestCoverage:
    """Nominal 95 %: at least 93 % of 1,000 simulated measurements, each of fresh processes with 50 inferences."""

    @pytest.mark.parametrize("processes", [3, 5])
    @pytest.mark.parametrize("between", [0.002, 0.005, 0.01])
    def test_fixed_number_of_processes(self, between, processes):
        assert coverage(lambda rng: board(rng, processes, between=between), seed=processes) >= 0.93

    @pytest.mark.parametrize("between", [0.002, 0.005, 0.01, 0.03])
    def test_three_to_five_processes(self, between):
        assert coverage(lambda rng: measured_until_settled(rng, between), seed=3) >= 0.93

    def test_of_the_processes_as_if_they_were_one(self):
        """What the interval is for: 150 inferences of 3 processes are not 150 independent measurements."""
        rng = np.random.default_rng(4)
        hits = 0
        for _ in range(RUNS):
            low, high = within_process_interval(np.concatenate(board(rng, 3, between=0.005)))
            hits += low <= TRUE_US <= high
        assert hits / RUNS < 0.7

    def test_one_process_alone_covers_its_own_median(self):
        assert coverage(lambda rng: board(rng, 1, between=0.0), seed=5) >= 0.93


class TestQuantile:
    def test_at_whole_degrees(self):
        for degrees in range(1, 10):
            assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.98, degrees), rel=3e-4)

    def test_never_too_short_and_little_too_long(self):
        for degrees in np.linspace(2, 200, 1500):
            assert -3e-4 <= t_quantile(degrees) / stats.t.ppf(0.98, degrees) - 1 <= 0.02

    def test_falls_with_degrees(self):
        values = [t_quantile(degrees) for degrees in np.linspace(1, 50, 500)]
        assert all(first > second for first, second in pairwise(values))


class TestMedianInterval:
    def test_by_hand(self):
        """Medians 9, 10 and 11: mean of logs 2.29922, their deviation 0.10038, reach 4.849 * 0.10038 / sqrt(3)."""
        low, estimate, high = median_interval([[9.0], [10.0], [11.0]])
        assert estimate == pytest.approx(990 ** (1 / 3))
        assert math.log(high / estimate) == pytest.approx(0.28103, abs=1e-4)
        assert math.log(estimate / low) == pytest.approx(0.28103, abs=1e-4)

    def test_medians_that_agree_by_chance_are_not_certain(self):
        process = [float(value) for value in range(90, 111)]
        assert median_interval([process] * 3) == pytest.approx((97.0, 100.0, 103.0))  # Ranks 24 and 40 of 63.

    def test_one_process(self):
        process = [5.0, 1.0, 9.0]
        assert median_interval([process]) == pytest.approx((1.0, 5.0, 9.0))

    def test_unit_and_order_do_not_matter(self):
        processes = board(np.random.default_rng(6), 4, between=0.01)
        ratio = between_processes_ratio(processes)
        assert between_processes_ratio(processes[::-1]) == pytest.approx(ratio)
        assert between_processes_ratio([[time / 1000 for time in one] for one in processes]) == pytest.approx(ratio)


class TestStopRule:
    def test_one_process_never_settles_it(self):
        assert not is_settled([[100.0] * 1000], 0.02)
        assert is_settled([[100.0] * 1000] * 2, 0.02)

    def test_the_precision_is_half_the_interval(self):
        processes = [[100.0 * math.exp(offset)] for offset in (-0.006, 0.0, 0.006)]  # 4.849 * 0.006 / sqrt(3) = 1.68 %
        assert between_processes_ratio(processes) == pytest.approx(0.0168, abs=1e-4)
        assert is_settled(processes, 0.0169)
        assert not is_settled(processes, 0.0167)

    def test_within_a_process(self):
        samples = [float(value) for value in range(1, 51)]
        assert within_process_ratio(samples) == (33 - 18) / 2 / 25.5
        assert within_process_ratio([7.0]) == 0.0

    def test_quiet_board_seldom_needs_more_than_three(self):
        rng = np.random.default_rng(7)
        counts = [len(measured_until_settled(rng, 0.005)) for _ in range(300)]
        assert np.mean(counts) < 3.5

    def test_runs_on_python_3_7_without_numpy(self):
        tree = ast.parse(Path(stopping.__file__).read_text(), feature_version=(3, 7))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert imported == {"__future__", "collections.abc", "math"}


class TestFigures:
    def test_of_known_samples(self):
        """Three processes of 1 to 99, 2 to 198 and 4 to 396 ms: medians 50, 100 and 200 ms."""
        processes = [[1000.0 * scale * value for value in range(1, 100)] for scale in (1, 2, 4)]
        found = timing_statistics(processes)
        assert found.p50_ms == pytest.approx(100.0)
        assert found.low_ms < 50 < 200 < found.high_ms  # Three medians, each twice the one before, say very little.
        assert (found.num_samples, found.num_processes, found.num_outliers) == (297, 3, 0)
        assert found.min_ms == 1.0
        assert found.mad_ms == 42.0  # Half of |1..99 - 50|, |2..198 - 100| and |4..396 - 200| together are at most 42.
        assert found.between_ratio == pytest.approx(math.log(2))
        together = np.concatenate(processes)
        assert found.p90_ms == pytest.approx(np.percentile(together, 90) / 1000)
        assert found.p99_ms == pytest.approx(np.percentile(together, 99) / 1000)

    def test_one_process_does_not_know_the_others(self):
        found = timing_statistics([[10_000.0, 10_100.0, 9_900.0]])
        assert (found.p50_ms, found.low_ms, found.high_ms) == (10.0, 9.9, 10.1)
        assert found.between_ratio is None
        assert found.half_width_ratio == pytest.approx(0.01)

    def test_half_width_is_that_of_the_stop_rule(self):
        processes = board(np.random.default_rng(8), 3, between=0.01)
        assert timing_statistics(processes).half_width_ratio == between_processes_ratio(processes)

    def test_outliers_are_counted_and_not_dropped(self):
        process = [10_000.0 + step for step in range(-20, 21)]
        found = timing_statistics([process, [*process, 50_000.0], process])
        assert found.num_outliers == 1
        assert found.num_samples == 3 * 41 + 1
        assert found.p99_ms > found.p90_ms
        assert timing_statistics([[*process, 50_000.0]]).p99_ms > 30

    @pytest.mark.parametrize(
        ("processes", "message"),
        [
            ([], "Nothing was timed"),
            ([[1.0], []], "Process 2 of 2 timed no inference"),
            ([[1.0, 0.0]], "no inference takes 0 microseconds"),
            ([[1.0], [-3.0]], "Process 2 of 2: no inference takes -3 microseconds"),
            ([[float("nan")]], "no inference takes nan microseconds"),
            ([[float("inf")]], "no inference takes inf microseconds"),
        ],
    )
    def test_times_that_are_none(self, processes, message):
        with pytest.raises(BenchmarkError, match=message):
            timing_statistics(processes)


class TestOutliers:
    def test_by_the_deviation_from_the_median(self):
        """Median 10, deviation 1: 0.6745 * 5 / 1 = 3.37 is none, 0.6745 * 6 / 1 = 4.05 is one."""
        samples = [9.0, 10.0, 11.0] * 10
        assert outliers([*samples, 15.0]).sum() == 0
        assert outliers([*samples, 16.0]).tolist() == [False] * 30 + [True]
        assert outliers([*samples, 4.0]).tolist() == [False] * 30 + [True]

    def test_a_tick_of_a_coarse_clock_is_none(self):
        assert outliers([20.0] * 90 + [21.0] * 10).sum() == 0
        assert outliers([20.0] * 90 + [21.0] * 9 + [40.0]).sum() == 1

    def test_a_board_that_always_takes_the_same_time(self):
        assert outliers([20.0] * 100).sum() == 0
        assert outliers([20.0] * 99 + [40.0]).sum() == 1

    def test_a_step_between_processes_is_no_outlier(self):
        slow = [12_000.0 + step for step in range(-20, 21)]
        assert timing_statistics([slow, [time - 2000 for time in slow]]).num_outliers == 0


class TestDrift:
    def test_second_half_against_first(self):
        assert drift_ratio([[100.0] * 10 + [103.0] * 10, [200.0] * 10 + [206.0] * 10]) == pytest.approx(0.03)
        assert drift_ratio([[100.0] * 10 + [98.0] * 10]) == pytest.approx(-0.02)

    def test_the_middle_sample_is_in_neither_half(self):
        assert drift_ratio([[100.0, 900.0, 110.0]]) == pytest.approx(0.1)

    def test_differences_between_processes_are_none(self):
        assert drift_ratio([[100.0] * 9, [150.0] * 9]) == pytest.approx(0.0)

    def test_not_known_of_single_inferences(self):
        assert drift_ratio([[100.0], [110.0]]) is None
