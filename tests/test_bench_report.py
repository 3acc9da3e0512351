"""What a measurement prints: the parts that must not be more certain than what they show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgecomp.agent.reports import OperatorProfile
from edgecomp.bench import BenchReport
from edgecomp.bench.junit import junit_xml
from edgecomp.report.measurement import print_bench
from tests.synthetic_bench import measurement

TABLE = {
    "engine": "litert-profiler", "runtime_version": "2.3.0", "inputs": "zeros", "runs": 500, "total_ms": 2.0,
    "overhead_ms": 0.1, "operators_ms": 1.9, "unaccounted_ms": 0.1, "containers": (),
    "operators": ({"type": "Delegate/Convolution", "nodes": 9, "ms": 1.9, "ratio": 1.0},),
}  # fmt: skip


def printed(capsys, **changes) -> str:
    profile = OperatorProfile.model_validate({**TABLE, **changes})
    print_bench(BenchReport((measurement(profile=profile),)))
    return " ".join(capsys.readouterr().out.split())


class TestOperators:
    def test_a_table_that_accounts_for_the_time(self, capsys):
        """5 % are in no operator, and 5 % come from the profiler: the table stands by itself."""
        text = printed(capsys)
        assert "100.0% 1.9 ms 9x Delegate/Convolution" in text
        assert "rough" not in text

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            (
                {"total_ms": 0.05, "overhead_ms": 0.21, "operators_ms": 0.02, "unaccounted_ms": 0.03},
                "a rough table: 0.03 ms of the 0.05 ms of an inference are in no operator and the profiler added "
                "0.21 ms to each",
            ),
            (
                {"overhead_ms": 0.5},
                "a rough table: the profiler added 0.5 ms to the 2 ms of an inference",
            ),
            (
                {"operators_ms": 2.5, "unaccounted_ms": -0.5},
                "a rough table: its operators come to 0.5 ms more than the 2 ms of an inference",
            ),
            ({"containers": ("WHILE", "IF")}, "left out, for they hold other operators: WHILE, IF"),
        ],
        ids=["small model", "overhead", "noise", "containers"],
    )
    def test_what_it_does_not_tell(self, capsys, changes, line):
        assert line in printed(capsys, **changes)

    def test_all_of_it_is_in_the_json(self):
        profile = OperatorProfile.model_validate(TABLE)
        plain = measurement(profile=profile).to_json()["profile"]
        assert {name: plain[name] for name in ("overhead_ms", "operators_ms", "unaccounted_ms", "containers")} == {
            "overhead_ms": 0.1,
            "operators_ms": 1.9,
            "unaccounted_ms": 0.1,
            "containers": [],
        }


class TestProcessesAsSamples:
    """An engine that prints no single times."""

    MEASURED = measurement(((10_000.0,), (10_100.0,), (9_900.0,)), engine="benchmark_model")

    def test_no_percentiles_of_inferences(self, capsys):
        print_bench(BenchReport((self.MEASURED,)))
        out = capsys.readouterr().out
        assert "(measured, 3 processes, each a sample)" in out
        assert "p90" not in out
        print_bench(BenchReport((replace(self.MEASURED, engine="interpreter"),)))
        assert "p90" in capsys.readouterr().out

    def test_junit_counts_no_runs(self):
        text = junit_xml(BenchReport((self.MEASURED,)))
        assert b"p50 10 ms [9.7" in text
        assert b"(measured, 3 processes, each a sample)" in text
        assert b"p90" not in text
