"""Predict published latencies by fits that have not seen the model, and say how far off they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.cost_fit import KINDS, Fit, Problem, family_of
from benchmarks.cost_rows import Graphs, Row
from edgecomp.cost import LatencyEstimate, estimate
from edgecomp.cost_families import ByKind, Interval

# Where a model is left out: on every board of the group, or on one board while the others keep it.
Scheme = Literal["everywhere", "on its board"]

# Boards with the same core under the same kernels: two Cortex-M33 18 % apart (CMSIS-NN), two Cortex-M4 11 % and two
# Cortex-M7 3 % (HALE).
BOARD_SD = 0.08
OTHER_CORE_SD = 0.35
EXTERNAL_FLASH_SD = 0.7
# Pixel 2: one thread predicted from the rows with four is 0 to 14 % off; Pixel and 3a, from two, 0 to 8 %.
THREAD_SD = 0.07
# Of a normal distribution, to both ends of 90 %.
QUANTILE = 1.645
# No family is known better than this: releases of one runtime alone differ by up to 3 % (X-CUBE-AI 7.3 and 8.0).
_LEAST_SD = 0.05
# The deviation of the whole group counts like this many rows of a family's own.
_GROUP_ROWS = 4


@dataclass(frozen=True)
class LeftOut:
    """A row as predicted by a fit without its model.

    Attributes:
        kind_variance: Of ln(latency), from how little the fit knew of the kinds of operators in it.
    """

    row: Row
    estimate: LatencyEstimate
    kind_variance: float

    @property
    def error(self) -> float:
        """ln(predicted / published)."""
        return math.log(self.estimate.value_ms / self.row.ms)

    @property
    def relative_error(self) -> float:
        """0.1: predicted 10 % more than was published."""
        return self.estimate.value_ms / self.row.ms - 1

    @property
    def half_width(self) -> float:
        """Half of the 90 % interval, relative to the estimate."""
        return (self.estimate.high_ms - self.estimate.low_ms) / 2 / self.estimate.value_ms

    @property
    def is_inside(self) -> bool:
        """Whether the published latency lies in the interval."""
        return self.estimate.low_ms <= self.row.ms <= self.estimate.high_ms


@dataclass(frozen=True)
class Summary:
    """What the target is about."""

    rows: int
    median_error: float
    coverage: float
    median_half_width: float

    @property
    def meets_the_bar(self) -> bool:
        """Median error at most 15 %, at least 85 % of rows inside, median half-width at most 30 %."""
        return self.median_error <= 0.15 and self.coverage >= 0.85 and self.median_half_width <= 0.3


def summary(items: Sequence[LeftOut]) -> Summary:
    """Over some rows, at least one."""
    return Summary(
        rows=len(items),
        median_error=statistics.median(abs(item.relative_error) for item in items),
        coverage=sum(item.is_inside for item in items) / len(items),
        median_half_width=statistics.median(item.half_width for item in items),
    )


def interval(residual_sd: float) -> Interval:
    """The interval of a family, without its `kind_sd`."""
    return Interval(
        quantile=QUANTILE, residual_sd=residual_sd, board_sd=BOARD_SD, other_core_sd=OTHER_CORE_SD,
        external_flash_sd=EXTERNAL_FLASH_SD, thread_sd=THREAD_SD,
        kind_sd=ByKind(pointwise=0, convolution=0, depthwise=0, dense=0),
    )  # fmt: skip


def leave_out(rows: Sequence[Row], graphs: Graphs, scheme: Scheme) -> list[LeftOut]:
    """Predict every row of one group by a fit without its model.

    The width of an interval comes from the errors on the other models, each left out as well: neither constants nor
    width know the row.
    """
    problem = Problem(rows, graphs)
    found: dict[Row, LeftOut] = {}
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        systems = dict.fromkeys(row.system for row in own)
        for left_systems in [set(systems)] if scheme == "everywhere" else [{system} for system in systems]:
            left = [row for row in own if row.system in left_systems]
            others = [row for row in rows if row.model != model]
            errors = _errors(problem, others, set(left), graphs)
            fit = problem.fit(set(rows) - set(left))
            for row in left:
                found[row] = _predict(row, rows, fit, graphs, residual_sd(errors, row))
    return [found[row] for row in rows]


def _errors(problem: Problem, rows: Sequence[Row], unseen: set[Row], graphs: Graphs) -> list[LeftOut]:
    """Some rows as predicted by fits that have seen neither their models anywhere nor the rows `unseen`.

    Rows of which nothing else gives the speed of the board are left away.
    """
    errors = []
    for model in dict.fromkeys(row.model for row in rows):
        seen = {row for row in problem.rows if row.model != model} - unseen
        speeds = {row.speed_key for row in seen}
        fit = problem.fit(seen)
        errors += [
            _predict(row, problem.rows, fit, graphs, 1.0)
            for row in rows
            if row.model == model and row.speed_key in speeds
        ]
    return errors


def family_sd(rows: Sequence[Row], graphs: Graphs, like: Row) -> float:
    """`residual_sd` from all rows of a group."""
    return residual_sd(_errors(Problem(rows, graphs), rows, set(), graphs), like)


def residual_sd(items: Sequence[LeftOut], like: Row) -> float:
    """Standard deviation of the errors beyond what the kinds of operators explain.

    Args:
        items: Of one group.
        like: A row of the family that it is for; the whole group counts as a few more rows of it.
    """
    squares = [(item.row, max(item.error**2 - item.kind_variance, 0.0)) for item in items]
    of_group = statistics.fmean(square for _, square in squares)
    own = [square for row, square in squares if (row.kernels, row.family) == (like.kernels, like.family)]
    if like.group == "open-mcu":  # The CMSIS-NN of two cores is one.
        own = [square for row, square in squares if row.kernels == like.kernels]
    return max(math.sqrt((sum(own) + _GROUP_ROWS * of_group) / (len(own) + _GROUP_ROWS)), _LEAST_SD)


def _predict(row: Row, rows: Sequence[Row], fit: Fit, graphs: Graphs, sd: float) -> LeftOut:
    # The board's own speed: from its other models.
    family = family_of(fit, [other for other in rows if other.system == row.system], interval(sd))
    work = graphs[row.model, row.dtype]
    found, reason = estimate(work, family, family.cores[row.core], row.clock_hz, row.threads)
    if found is None:
        raise ValueError(reason)
    of_kinds = {
        kind: sum(ms for item, (_, _, ms) in zip(work, found.per_operator, strict=True) if item.kind == kind)
        for kind in KINDS
    }
    variance = sum(
        (ms / found.value_ms * family.interval.kind_sd.of(kind)) ** 2  # type: ignore[arg-type]
        for kind, ms in of_kinds.items()
    )
    return LeftOut(row, found, variance)
