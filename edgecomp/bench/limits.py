"""What a CI job asks of measurements: that a latency is within its limit, and that nothing became slower.

Only a valid measurement is held against anything. The median decides, as it does in a fit (`--max-latency`), and a
value equal to its limit is within it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgecomp.bench.baseline import Baseline, Measured, bundle_name, comparison_notes
from edgecomp.bench.compare import FAIL_IF_SLOWER, Comparison, compare
from edgecomp.bench.statistics import TimingStatistics
from edgecomp.errors import EXIT_NO_FIT, EXIT_OK, EXIT_UNTRUSTED, UsageError


class Timed(Measured, Protocol):
    """A measurement with its figures."""

    @property
    def timing(self) -> TimingStatistics:
        """Figures of the times."""


@dataclass(frozen=True)
class LimitCheck:
    """One limit held against one measurement.

    Attributes:
        name: "max-latency" or "fail-if-slower", as the options are called.
        passed: None where it could not be judged: the measurement is not valid, or no baseline fits.
        sentence: The figures and what follows from them.
        device, on, bundle, chosen, num_threads: Of the measurement.
        notes: What else bears on it, one sentence each.
        comparison: With the baseline, where there is one.
    """

    name: str
    passed: bool | None
    sentence: str
    device: str
    on: str
    bundle: str
    chosen: str
    num_threads: int
    notes: tuple[str, ...] = ()
    comparison: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        compared = None if self.comparison is None else dict(vars(self.comparison))
        return {**vars(self), "notes": list(self.notes), "comparison": compared}


def check_latency(measured: Timed, max_latency_ms: float) -> LimitCheck:
    """Hold the median of a measurement against a limit.

    Args:
        measured: Of any verdict.
        max_latency_ms: Milliseconds of one inference.

    Raises:
        UsageError: The limit is not above zero.
    """
    if not 0 < max_latency_ms < math.inf:
        raise UsageError(f"A limit of latency must be above zero, got {max_latency_ms:g} ms.")
    if measured.verdict != "valid":
        return _unjudged("max-latency", measured)
    timing = measured.timing
    passed = timing.p50_ms <= max_latency_ms
    gap_ms = abs(max_latency_ms - timing.p50_ms)
    sentence = (
        f"p50 {timing.p50_ms:.4g} ms [{timing.low_ms:.4g}, {timing.high_ms:.4g}] (measured), "
        f"{gap_ms:.3g} ms {'below' if passed else 'above'} the {max_latency_ms:g} ms allowed."
    )
    is_close = timing.low_ms <= max_latency_ms <= timing.high_ms
    notes = ("The limit lies within the interval: the next measurement may decide otherwise.",) if is_close else ()
    return _check("max-latency", measured, passed, sentence, notes=notes)


def check_slowdowns(
    measurements: Sequence[Measured], baseline: Baseline, fail_if_slower: float = FAIL_IF_SLOWER
) -> tuple[LimitCheck, ...]:
    """Hold each measurement against its counterpart in a baseline; see `Comparison.is_slower` for what fails.

    Where the baseline has none that it can be compared with it is not judged, and the sentence says why: what was
    measured is not lost.

    Args:
        measurements: All of one call, of any verdict.
        baseline: Holds their counterparts.
        fail_if_slower: A fraction: 0.05 is 5 %.

    Raises:
        UsageError: The fraction is below zero.
    """
    if not 0 <= fail_if_slower < math.inf:
        raise UsageError(f"A slowdown to fail at must not be below zero, got {100 * fail_if_slower:g} %.")
    needs_name = len({bundle_name(measured) for measured in measurements}) > 1
    return tuple(_check_slowdown(measured, baseline, fail_if_slower, needs_name) for measured in measurements)


def _check_slowdown(measured: Measured, baseline: Baseline, fail_if_slower: float, needs_name: bool) -> LimitCheck:
    if measured.verdict != "valid":
        return _unjudged("fail-if-slower", measured)
    try:
        past = baseline.counterpart(measured, needs_name=needs_name)
        found = compare(past.processes_us, measured.processes_us)
    except UsageError as error:
        return _check("fail-if-slower", measured, None, str(error))
    sentence = f"{slowdown_text(found)} against {baseline.path.name} (measured): {_meaning(found, fail_if_slower)}."
    return _check(
        "fail-if-slower",
        measured,
        not found.is_slower(fail_if_slower),
        sentence,
        notes=comparison_notes(past, measured),
        comparison=found,
    )


def slowdown_text(comparison: Comparison) -> str:
    """`+4.4 % [+3.0 %, +5.8 %]`: change of the median with its 95 % interval."""
    change, low, high = (f"{100 * (ratio - 1):+.1f} %" for ratio in (comparison.ratio, comparison.low, comparison.high))
    return f"{change} [{low}, {high}]"


def exit_code(verdicts: Iterable[str], checks: Sequence[LimitCheck]) -> int:
    """Exit code of the command line: 3 if a limit is missed, else 4 if something cannot be trusted, else 0."""
    if any(check.passed is False for check in checks):
        return EXIT_NO_FIT
    if any(check.passed is None for check in checks) or any(verdict != "valid" for verdict in verdicts):
        return EXIT_UNTRUSTED
    return EXIT_OK


def _meaning(found: Comparison, fail_if_slower: float) -> str:
    size = f"{100 * fail_if_slower:g} %"
    if found.is_slower(fail_if_slower):
        return f"slower, and {size} cannot be ruled out"
    if found.low > 1:
        return f"slower, but by less than {size}"
    if found.high < 1:
        return "faster"
    if found.rules_out(fail_if_slower):
        return f"no slowdown is shown, and one of {size} is ruled out"
    return f"no slowdown is shown, but one of {size} cannot be ruled out either: more processes would tell"


def _unjudged(name: str, measured: Measured) -> LimitCheck:
    return _check(name, measured, None, f"The measurement is {measured.verdict.replace('_', ' ')}.")


def _check(
    name: str,
    measured: Measured,
    passed: bool | None,
    sentence: str,
    *,
    notes: tuple[str, ...] = (),
    comparison: Comparison | None = None,
) -> LimitCheck:
    return LimitCheck(
        name=name,
        passed=passed,
        sentence=sentence,
        device=measured.device,
        on=measured.on,
        bundle=measured.bundle,
        chosen=measured.chosen,
        num_threads=measured.num_threads,
        notes=notes,
        comparison=comparison,
    )
