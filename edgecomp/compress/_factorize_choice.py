"""The factorizations of one layer, with what each keeps and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecomp.compress._channels.rounding import channel_multiple
from edgecomp.compress._factorize import Method, full_ranks, kept_energy, methods_of
from edgecomp.compress._factorize_cost import Geometry, Operator, latency_ms, operators
from edgecomp.compress.low_rank import Options
from edgecomp.profile import DeviceProfile

_MOST_RANKS = 64
_LEAST_CHOICES = 4


@dataclass(frozen=True)
class Cost:
    """Of a layer, of its factors, or of many; `ms` is None without a cost model."""

    macs: float
    file_bytes: float
    ms: float | None = None

    def share_of(self, whole: Cost) -> float:
        """Mean of the fractions of MACs and of bytes."""
        return (self.macs / whole.macs + self.file_bytes / whole.file_bytes) / 2


@dataclass(frozen=True)
class Choice:
    """A factorization.

    Attributes:
        energy: What it keeps, see `_factorize.kept_energy`.
        before, after: Cost of the layer and of its factors.
    """

    method: Method
    ranks: tuple[int, ...]
    full: tuple[int, ...]
    energy: float
    before: Cost
    after: Cost

    @property
    def share(self) -> float:
        """Of its cost that the layer keeps."""
        return self.after.share_of(self.before)

    @property
    def gains(self) -> bool:
        """Whether MACs and bytes go down and the time does not go up."""
        if self.after.ms is not None and self.before.ms is not None and self.after.ms > self.before.ms:
            return False
        return self.after.macs < self.before.macs and self.after.file_bytes < self.before.file_bytes

    def __str__(self) -> str:
        ranks = " and ".join(f"{rank} of {full}" for rank, full in zip(self.ranks, self.full, strict=True))
        text = (
            f"{self.method} of rank {ranks}, {100 * self.energy:.1f} % of the energy: MACs {self.before.macs:,} -> "
            f"{self.after.macs:,}, bytes {self.before.file_bytes:,} -> {self.after.file_bytes:,}"
        )
        if self.after.ms is None or self.before.ms is None:
            return text
        return f"{text}, estimated {self.before.ms:.3g} -> {self.after.ms:.3g} ms"


@dataclass(frozen=True)
class Candidates:
    """What may become of one layer.

    Attributes:
        whole: Its cost as it is.
        choices: By method, those of which no cheaper one keeps as much, whether something is gained or not.
    """

    whole: Cost
    choices: tuple[Choice, ...]

    @property
    def gaining(self) -> list[Choice]:
        """Those that make the layer cheaper."""
        return [choice for choice in self.choices if choice.gains]


def candidates(
    kernel: np.ndarray,
    geometry: Geometry,
    options: Options,
    profile: DeviceProfile | None,
    moments: np.ndarray | None = None,
) -> Candidates:
    """The factorizations of one layer that are worth a look.

    Args:
        kernel: Shape (height, width, in, out), not all zero.
        geometry: Where it is used.
        options: The method and the least rank.
        profile: Ranks are rounded for its kernels.
        moments: As in `_factorize.factorize`.
    """
    whole = operators(geometry)
    before = Cost(whole[0].macs, whole[0].file_bytes(profile), latency_ms(whole, profile))
    known, wanted = methods_of(kernel), options.low_rank_method
    methods = known if wanted == "auto" else (wanted,) if wanted in known else ("svd",)
    found: list[Choice] = []
    for method in methods:
        full = full_ranks(kernel, method)
        axes = [_ranks(size, options.min_rank, profile) for size in full]
        if not all(map(len, axes)):
            continue
        grids = np.meshgrid(*axes, indexing="ij")
        energy = kept_energy(kernel, method, moments, axes[0].tolist())[tuple(grids)]
        parts = operators(geometry, method, grids)
        costs = [sum(part.macs for part in parts), sum(part.file_bytes(profile) for part in parts)]
        for place in sorted({place for cost in costs for place in _front(cost, energy)}):
            ranks = tuple(int(grid[place]) for grid in grids)
            after = _cost(operators(geometry, method, ranks), profile)
            found.append(Choice(method, ranks, full, float(energy[place]), before, after))
    return Candidates(before, tuple(found))


def _ranks(full: int, least: int, profile: DeviceProfile | None) -> np.ndarray:
    """Ranks below the full one that kernels like; half the steps and so on where that leaves fewer than 4."""
    step = 1 if profile is None else channel_multiple(profile)[0]
    while step > 1 and step * _LEAST_CHOICES > full:
        step //= 2
    ranks = np.arange(-(-least // step) * step, full, step)
    if len(ranks) > _MOST_RANKS:
        ranks = ranks[np.linspace(0, len(ranks) - 1, _MOST_RANKS).astype(int)]
    return ranks


def _cost(parts: list[Operator], profile: DeviceProfile | None) -> Cost:
    return Cost(
        sum(part.macs for part in parts), sum(part.file_bytes(profile) for part in parts), latency_ms(parts, profile)
    )


def _front(cost: np.ndarray, energy: np.ndarray) -> list[tuple[Any, ...]]:
    """Places where nothing cheaper keeps as much."""
    order = np.lexsort((-energy.ravel(), cost.ravel()))
    best = np.concatenate([[-1.0], np.maximum.accumulate(energy.ravel()[order])[:-1]])
    chosen = order[energy.ravel()[order] > best]
    return [np.unravel_index(index, cost.shape) for index in chosen]
