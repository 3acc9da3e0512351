"""Which factorization each layer gets, or why it gets none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecomp.compress._channels.rounding import channel_multiple
from edgecomp.compress._factorize import Method, full_ranks, kept_energy, methods_of
from edgecomp.compress._factorize_cost import Geometry, Operator, latency_ms, operators
from edgecomp.compress.low_rank import Options
from edgecomp.errors import CompressionError
from edgecomp.profile import DeviceProfile

# Energies are sums of floats: the whole may come out a little below 1.
_EPSILON = 1e-9
_MOST_RANKS = 64
_LEAST_CHOICES = 4
# Powers of ten between which the price is looked for, and how finely.
_PRICES, _HALVINGS = (-6.0, 6.0), 40
_PRICE_RATIOS = 11


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


def by_energy(layers: Mapping[int, Candidates], energy: float) -> tuple[dict[int, Choice], dict[int, str]]:
    """The cheapest factorization of every layer that keeps so much.

    Returns:
        Choices, and for the layers that stay whole the reason, in one clause.
    """
    chosen, reasons = {}, {}
    for key, layer in layers.items():
        enough = [choice for choice in layer.choices if choice.energy >= energy - _EPSILON]
        gaining = [choice for choice in enough if choice.gains]
        if gaining:
            chosen[key] = min(gaining, key=lambda choice: choice.share)
        elif enough:
            reasons[key] = f"nothing is gained by {min(enough, key=lambda choice: choice.share)}"
        else:
            reasons[key] = f"no rank below the full one keeps {100 * energy:g} % of its energy"
    return chosen, reasons


def by_ratio(layers: Mapping[int, Candidates], others: Cost, ratio: float) -> tuple[dict[int, Choice], dict[int, str]]:
    """The factorizations with the largest product of energies at which the model keeps so much of its cost.

    The product of what the layers keep goes with the accuracy (Zhang et al. 2015, arXiv 1505.06798, section 2.4).
    It is made largest for prices of MACs and of bytes, which are raised until both are down; of several ratios of the
    two prices the best one counts.

    Args:
        layers: All that can be factorized.
        others: What the rest of the model costs.
        ratio: Of MACs, and of bytes, that the model may keep.

    Raises:
        CompressionError: Even the lowest ranks keep more.
    """
    wholes = [layer.whole for layer in layers.values()]
    total = Cost(sum(c.macs for c in wholes) + others.macs, sum(c.file_bytes for c in wholes) + others.file_bytes)

    def left(chosen: dict[int, Choice]) -> tuple[float, float]:
        macs = total.macs - sum(choice.before.macs - choice.after.macs for choice in chosen.values())
        size = total.file_bytes - sum(choice.before.file_bytes - choice.after.file_bytes for choice in chosen.values())
        return macs / total.macs, size / total.file_bytes

    tables = {key: _Table(layer, total) for key, layer in layers.items()}

    def at(price: float, weight: float) -> dict[int, Choice]:
        best = {key: table.best(price * weight, price * (1 - weight)) for key, table in tables.items()}
        return {key: choice for key, choice in best.items() if choice is not None}

    found = []
    for weight in np.linspace(0, 1, _PRICE_RATIOS):
        low, high = _PRICES
        if max(left(at(10**high, weight))) > ratio:
            continue
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if max(left(at(10**middle, weight))) <= ratio else (middle, high)
        found.append(at(10**high, weight))
    if not found:
        macs, size = left(at(10 ** _PRICES[1], 0.5))
        raise CompressionError(
            f"low_rank: {ratio:g} of the model cannot be reached: the lowest ranks leave {macs:.2f} of its MACs and "
            f"{size:.2f} of its bytes.",
            hint="Raise --low-rank-ratio, or lower --min-rank.",
        )
    chosen = min(found, key=lambda choices: -sum(np.log(choice.energy) for choice in choices.values()))
    reasons = {}
    for key, layer in layers.items():
        if key in chosen:
            continue
        if layer.gaining:
            reasons[key] = f"other layers lose less for what they save than it does by {layer.gaining[-1]}"
        elif layer.choices:
            reasons[key] = f"nothing is gained by {layer.choices[0]}"
        else:
            reasons[key] = "no rank is left below the full one"
    return chosen, reasons


class _Table:
    """Candidates of a layer as arrays; leaving it whole is the first."""

    def __init__(self, layer: Candidates, total: Cost) -> None:
        self._choices: Sequence[Choice | None] = [None, *layer.gaining]
        costs = [layer.whole, *(choice.after for choice in layer.gaining)]
        self._macs = np.array([cost.macs / total.macs for cost in costs])
        self._bytes = np.array([cost.file_bytes / total.file_bytes for cost in costs])
        self._loss = -np.log(np.maximum([1.0, *(choice.energy for choice in layer.gaining)], _EPSILON))

    def best(self, macs_price: float, bytes_price: float) -> Choice | None:
        """What is cheapest where all MACs of the model, and all of its bytes, cost so much."""
        return self._choices[int(np.argmin(self._loss + macs_price * self._macs + bytes_price * self._bytes))]
