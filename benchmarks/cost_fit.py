"""Fit the constants of the cost model to published latencies.

One fit pools the boards of a group. In logarithms, it finds the most probable constants given the rows and a normal
prior on every constant. Boards share what an operator costs relative to another one, and each has a speed of its own;
kernel libraries within a group may deviate from what the group shares.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from benchmarks.cost_rows import Graphs, Row
from edgecomp.cost_families import ByKind, Core, CostFamily, Dtype, Interval
from edgecomp.cost_work import rounded_up

KINDS = ("pointwise", "convolution", "depthwise", "dense")
_ELEMENTWISE = len(KINDS)

# What a fit believes before it has seen a row: median, and standard deviation of the logarithm.
PRIORS = {
    "convolution": (1.0, 0.2),
    "depthwise": (2.0, 0.5),
    "dense": (1.0, 0.2),
    "macs_per_output": (10.0, 0.5),
    "macs_per_output of depthwise": (3.0, 1.0),
    "macs_per_element": (3.0, 0.7),
    "overhead_cycles": (1500.0, 1.0),
    "parallel_loss": (0.02, 1.0),
}
# How far one kernel library may lie from the others of its group. Whether convolutions are copied into matrices
# first, and whether weights stream from flash, differs most.
DEVIATIONS = {
    "convolution": 0.5,
    "depthwise": 0.3,
    "dense": 0.5,
    "macs_per_output": 0.3,
    "macs_per_output of depthwise": 0.3,
}
_CYCLES_PER_MAC = (1.0, 2.0)
_CYCLES_PER_BYTE = (0.5, 0.7)
# How closely a fit follows a row.
_ROW_SD = 0.1

# Output channels and products that kernels compute at once, from their sources; the rows do not tell them apart.
MULTIPLES = {"xnnpack": (8, 1), "dotprod": (8, 1), "cortex-m-helium": (4, 16)}

# Products that are added up for one output, in the models of the rows.
_TYPICAL_REDUCTION = {"pointwise": 64, "convolution": 144, "depthwise": 9, "dense": 128}

Key = str | tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """The most probable constants of one group, as logarithms, with their covariance."""

    keys: Mapping[Key, int]
    values: np.ndarray
    covariance: np.ndarray

    def own(self, key: Key) -> float:
        """A constant by its key."""
        return math.exp(self.values[self.keys[key]])

    def shared(self, name: str, kernels: str) -> float:
        """A constant that boards share, with the deviation of one kernel library."""
        deviation = self.keys.get((name, kernels))
        return self.own(name) * (1.0 if deviation is None else math.exp(self.values[deviation]))

    def kind_sd(self, kernels: str) -> ByKind:
        """How well the cost of a typical operator of each kind is known, relative to a typical pointwise one."""
        pointwise = self._gradient("pointwise", kernels)
        return ByKind(**{kind: self._sd(self._gradient(kind, kernels) - pointwise) for kind in KINDS})

    def _sd(self, gradient: np.ndarray) -> float:
        return math.sqrt(float(gradient @ self.covariance @ gradient))

    def _gradient(self, kind: str, kernels: str) -> np.ndarray:
        """Of ln(relative * (reduction + macs_per_output)), by all constants."""
        name = "macs_per_output of depthwise" if kind == "depthwise" else "macs_per_output"
        start = self.shared(name, kernels)
        gradient = np.zeros(len(self.values))
        for key, slope in ((kind, 1.0), (name, start / (_TYPICAL_REDUCTION[kind] + start))):
            for each in (key, (key, kernels)):
                if each in self.keys:
                    gradient[self.keys[each]] += slope
        return gradient


class Problem:
    """The rows of one group, prepared for many fits, each without some of them."""

    def __init__(self, rows: Sequence[Row], graphs: Graphs) -> None:
        self.rows = list(rows)
        self._keys: dict[Key, int] = {}
        self._middle: list[float] = []
        self._sd: list[float] = []
        for name, prior in PRIORS.items():
            if name != "parallel_loss" or any(row.threads > 1 for row in rows):
                self._add(name, *prior)
        for row in rows:
            self._add(row.speed_key, *_CYCLES_PER_MAC)
            if row.bandwidth_key is not None:
                self._add(row.bandwidth_key, *_CYCLES_PER_BYTE)
        if len({row.kernels for row in rows}) > 1:
            for row in rows:
                for name, sd in DEVIATIONS.items():
                    self._add((name, row.kernels), 1.0, sd)
        works = [[work for work in graphs[row.model, row.dtype] if work.kind != "free"] for row in rows]
        self._starts = np.cumsum([0] + [len(items) for items in works[:-1]])
        flat = [(number, item) for number, items in enumerate(works) for item in items]
        names = [*KINDS, "elementwise"]
        self._row = np.array([number for number, _ in flat])
        self._kind = np.array([names.index(item.kind) for _, item in flat])
        counts = [
            rounded_up(item, *MULTIPLES.get(rows[number].kernels, (1, 1))) if item.macs else (0.0, 0.0)
            for number, item in flat
        ]
        self._macs, self._outputs = np.array(counts, float).T
        self._elements = np.array([item.elements for _, item in flat], float)
        self._bytes = np.array([item.bytes for _, item in flat], float)
        self._threads = np.array([row.threads for row in rows], float)
        self._clock = np.array([row.clock_hz for row in rows], float)
        self._published = np.log([row.ms for row in rows])

    def _add(self, key: Key, middle: float, sd: float) -> None:
        if key not in self._keys:
            self._keys[key] = len(self._keys)
            self._middle.append(math.log(middle))
            self._sd.append(sd)

    def _shared(self, values: np.ndarray, name: str) -> np.ndarray:
        logarithms = [
            values[self._keys[name]] + (values[self._keys[key]] if (key := (name, row.kernels)) in self._keys else 0.0)
            for row in self.rows
        ]
        return np.exp(logarithms)

    def predicted(self, values: np.ndarray) -> np.ndarray:
        """ln(ms) of every row: the formula of edgecomp.cost for all rows at once."""
        ones = np.ones(len(self.rows))
        relative = np.stack([ones, *(self._shared(values, kind) for kind in KINDS[1:]), 0 * ones])
        per_output = self._shared(values, "macs_per_output")
        depthwise = self._shared(values, "macs_per_output of depthwise")
        starts = np.stack([per_output, per_output, depthwise, per_output, 0 * ones])
        at = (self._kind, self._row)
        per_element = math.exp(values[self._keys["macs_per_element"]])
        work = relative[at] * (self._macs + self._outputs * starts[at])
        work += np.where(self._kind == _ELEMENTWISE, self._elements * per_element, 0.0)
        rate = np.exp([values[self._keys[row.speed_key]] for row in self.rows]) / self._threads
        if "parallel_loss" in self._keys:
            rate *= 1 + math.exp(values[self._keys["parallel_loss"]]) * (self._threads - 1)
        per_byte = np.array([
            0.0 if row.bandwidth_key is None else math.exp(values[self._keys[row.bandwidth_key]]) for row in self.rows
        ])  # fmt: skip
        cycles = np.maximum(work * rate[self._row], self._bytes * per_byte[self._row])
        cycles += math.exp(values[self._keys["overhead_cycles"]])
        return np.log(np.add.reduceat(cycles, self._starts) / self._clock * 1000)

    def fit(self, keep: Collection[Row] | None = None) -> Fit:
        """Constants from some of the rows; from all by default."""
        chosen = np.array([keep is None or row in keep for row in self.rows])
        middle, sd = np.array(self._middle), np.array(self._sd)

        def residuals(values: np.ndarray) -> np.ndarray:
            of_rows = (self.predicted(values) - self._published)[chosen] / _ROW_SD
            return np.concatenate([of_rows, (values - middle) / sd])

        found = least_squares(residuals, middle, x_scale="jac", max_nfev=200)
        return Fit(self._keys, found.x, np.linalg.inv(found.jac.T @ found.jac))


def family_of(fit: Fit, rows: Sequence[Row], interval: Interval) -> CostFamily:
    """The constants of one family of kernels. A core with several boards gets their geometric mean.

    Args:
        fit: Of the group.
        rows: All of the family: of one group and one set of kernels.
        interval: Without its `kind_sd`, which the fit gives.
    """
    first = rows[0]
    kernels = first.kernels
    per_output = fit.shared("macs_per_output", kernels)
    depthwise = fit.shared("macs_per_output of depthwise", kernels)
    output_multiple, reduction_multiple = MULTIPLES.get(kernels, (1, 1))
    linux = first.bandwidth_key is not None
    return CostFamily(
        schema_version=1,
        name=first.family or first.group,
        description=first.runtime,
        basis="rows",
        folds_constants=linux,
        overhead_cycles=fit.own("overhead_cycles"),
        parallel_loss=fit.own("parallel_loss") if linux else None,
        relative=ByKind(pointwise=1.0, **{kind: fit.shared(kind, kernels) for kind in KINDS[1:]}),
        macs_per_output=ByKind(pointwise=per_output, convolution=per_output, depthwise=depthwise, dense=per_output),
        macs_per_element=fit.own("macs_per_element"),
        output_multiple=output_multiple,
        reduction_multiple=reduction_multiple,
        default_core=first.core,
        cores={name: _core(fit, [row for row in rows if row.core == name]) for name in {row.core: 0 for row in rows}},
        interval=interval.model_copy(update={"kind_sd": fit.kind_sd(kernels)}),
    )


def _core(fit: Fit, rows: Sequence[Row]) -> Core:
    speeds: dict[Dtype, list[float]] = {}
    for key in dict.fromkeys((row.dtype, row.speed_key) for row in rows):
        speeds.setdefault(key[0], []).append(fit.own(key[1]))
    keys = {row.bandwidth_key: row.clock_hz for row in rows if row.bandwidth_key is not None}
    bandwidths = [clock_hz / fit.own(key) for key, clock_hz in keys.items()]
    return Core(
        cycles_per_mac={dtype: float(np.exp(np.mean(np.log(items)))) for dtype, items in speeds.items()},
        bytes_per_second=float(np.exp(np.mean(np.log(bandwidths)))) if bandwidths else None,
        threads=tuple(sorted({row.threads for row in rows})),
    )
