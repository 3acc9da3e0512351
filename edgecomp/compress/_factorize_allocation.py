"""Which factorization each layer of a model gets, or why it stays whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgecomp.compress._factorize_choice import Candidates, Choice, Cost
from edgecomp.errors import CompressionError

# Energies are sums of floats: the whole may come out a little below 1.
_EPSILON = 1e-9
# Powers of ten between which the price is looked for, and how finely.
_PRICES, _HALVINGS = (-6.0, 6.0), 40
_PRICE_RATIOS = 11


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

    Args:
        layers: All that can be factorized; at least one.
        others: What the rest of the model costs.
        ratio: Of MACs, and of bytes, that the model may keep.

    Returns:
        As `by_energy`.

    Raises:
        CompressionError: Even the lowest ranks keep more.
    """
    places = _Budget(list(layers.values()), others, ratio).spend()
    chosen, reasons = {}, {}
    for (key, layer), place in zip(layers.items(), places, strict=True):
        if place:
            chosen[key] = layer.gaining[place - 1]
        elif layer.gaining:
            reasons[key] = f"other layers lose less for what they save than it does by {layer.gaining[-1]}"
        elif layer.choices:
            reasons[key] = f"nothing is gained by {layer.choices[0]}"
        else:
            reasons[key] = "no rank is left below the full one"
    return chosen, reasons


class _Budget:
    """MACs and bytes of a model, shared out among its layers. Place 0 of a layer is the layer as it is."""

    def __init__(self, layers: list[Candidates], others: Cost, ratio: float) -> None:
        options = [[layer.whole, *(choice.after for choice in layer.gaining)] for layer in layers]
        costs = [np.array([(cost.macs, cost.file_bytes) for cost in items], float) for items in options]
        rest = np.array([others.macs, others.file_bytes], float)
        total = rest + sum(items[0] for items in costs)
        self._ratio = ratio
        self._rest = rest / total
        # Fractions of the model's MACs and bytes, and what is lost: of every layer, at every place.
        self._shares = [items / total for items in costs]
        self._losses = [-np.log(np.maximum([1.0, *(c.energy for c in layer.gaining)], _EPSILON)) for layer in layers]

    def spend(self) -> list[int]:
        """The places that lose least within the ratio, or nearly so.

        Layers pay a price for MACs and for bytes, which is raised until the model can afford both; of several ratios of
        the two prices the best one counts. What is then left over is spent: with few layers it may be much.
        """
        found = [places for weight in np.linspace(0, 1, _PRICE_RATIOS) if (places := self._affordable(weight))]
        if not found:
            macs, size = self._left(self._at(_PRICES[1], 0.5))
            raise CompressionError(
                f"low_rank: {self._ratio:g} of the model cannot be reached: the lowest ranks leave {macs:.2f} of its "
                f"MACs and {size:.2f} of its bytes.",
                hint="Raise --low-rank-ratio, or lower --min-rank.",
            )
        return min((self._regained(places) for places in found), key=self._lost)

    def _affordable(self, weight: float) -> list[int]:
        """Places at the lowest price that is high enough; none where no price is."""
        low, high = _PRICES
        if max(self._left(self._at(high, weight))) > self._ratio:
            return []
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if max(self._left(self._at(middle, weight))) <= self._ratio else (middle, high)
        return self._at(high, weight)

    def _regained(self, places: list[int]) -> list[int]:
        """Better places for single layers, the one that regains most first, as long as any fits."""
        places = list(places)
        while True:
            room = self._ratio - np.array(self._left(places))
            best = (0.0, 0, 0)
            for layer, (place, loss, share) in enumerate(zip(places, self._losses, self._shares, strict=True)):
                regained = np.where((share - share[place] <= room).all(axis=1), loss[place] - loss, 0.0)
                best = max(best, (float(regained.max()), layer, int(regained.argmax())))
            if best[0] <= _EPSILON:
                return places
            places[best[1]] = best[2]

    def _at(self, power: float, weight: float) -> list[int]:
        """The best place of every layer at a price of 10 ** power, of which `weight` is for MACs."""
        prices = 10**power * np.array([weight, 1 - weight])
        return [int(np.argmin(loss + share @ prices)) for loss, share in zip(self._losses, self._shares, strict=True)]

    def _lost(self, places: list[int]) -> float:
        return float(sum(loss[place] for loss, place in zip(self._losses, places, strict=True)))

    def _left(self, places: list[int]) -> tuple[float, float]:
        """Fractions of MACs and of bytes that the model keeps."""
        macs, size = self._rest + sum(share[place] for share, place in zip(self._shares, places, strict=True))
        return float(macs), float(size)
