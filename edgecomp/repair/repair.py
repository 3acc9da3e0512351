"""Post-training repair of one candidate: what helps is found on calibration samples, without labels.

Equalized channels, corrected biases and chosen ranges are tried in that order, alone and together. Half of the
calibration samples are what they are tuned on, the other half judges: the candidate whose outputs are nearest to the
float model's wins, and plain quantization is one of the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgecomp.errors import MissingDataError, QuantizationError
from edgecomp.files import sha256_of
from edgecomp.graph import Graph
from edgecomp.profile import Precision
from edgecomp.quantize import REPAIRABLE, QuantizationOptions, QuantizedModel, Quantizer, Ranges
from edgecomp.repair.activations import channel_statistics
from edgecomp.repair.bias_correction import correct_biases
from edgecomp.repair.equalize import Equalized, equalize
from edgecomp.repair.layers import Network, by_feature
from edgecomp.repair.ranges import Range, activation_ranges, choose_greedily, collect_histograms, weight_ranges
from edgecomp.repair.yardstick import Trial, Yardstick

EQUALIZED, CORRECTED, CHOSEN = "equalized", "biases corrected", "ranges chosen"

_MIN_SAMPLES = 8
_MARGIN_DB = 0.1
_MAX_RANGE_TRIALS = 24
# Fewer values of a tensor say nothing about one in ten thousand: the largest that was seen stays in the range.
_MIN_VALUES = 10_000
# Multiply-accumulates of one pass over the samples: a second or so.
_PASS_MACS = 10_000_000_000
_FEWEST, _MOST_OUTPUT_BYTES = 16, 64 << 20

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Repaired:
    """The best candidate, and how it was found.

    Attributes:
        best: Its trial.
        trials: All of them, plain first.
        samples: How many judged.
        ranges: Tensor -> method, where it is not min-max.
        notes: What was not done, and why.
    """

    model: QuantizedModel
    best: Trial
    trials: tuple[Trial, ...]
    samples: int
    ranges: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Recipe:
    """What a candidate is made from."""

    quantizer: Quantizer
    steps: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    weights: Mapping[str, Range] = field(default_factory=dict)

    def make(self, options: QuantizationOptions, float_model: bytes | None = None) -> QuantizedModel:
        return self.quantizer.quantize(
            options,
            float_model=float_model,
            ranges=_statistics(self.ranges),
            weight_ranges=_statistics(self.weights) if self.weights else None,
        )


def _statistics(ranges: Mapping[str, Range]) -> Ranges:
    return {name: item.statistics() for name, item in ranges.items()}


def repair(quantizer: Quantizer, options: QuantizationOptions, progress: Progress | None = None) -> Repaired:
    """Find the repaired form of a candidate that is nearest to the float model; plain quantization if none is nearer.

    Args:
        quantizer: The float model and its calibration samples.
        options: INT8 or INT4_WEIGHTS.
        progress: Called with (what, done, total).

    Raises:
        QuantizationError: ai-edge-quantizer refuses the graph, or the precision is another one.
        MissingDataError: Fewer than 8 calibration samples.
    """
    if options.precision not in REPAIRABLE:
        raise QuantizationError(f"Repair is for {' and '.join(sorted(REPAIRABLE))}, not for {options.precision}.")
    if len(quantizer.samples) < _MIN_SAMPLES:
        raise MissingDataError(
            f"Repair needs at least {_MIN_SAMPLES} calibration samples, half to tune and half to judge; there are "
            f"{len(quantizer.samples)}."
        )
    return _Workshop(quantizer, options, progress or _silent).run()


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class _Workshop:
    """The trials of one repair."""

    def __init__(self, quantizer: Quantizer, options: QuantizationOptions, progress: Progress) -> None:
        self._plain = _Recipe(quantizer)
        self._options = options
        self._report = progress
        count = _affordable(quantizer.graph)
        # Every second one: samples are often in an order.
        self._tune = quantizer.samples[0::2][:count]
        self._tuning = Yardstick(quantizer.float_model, self._tune)
        self._judge = Yardstick(quantizer.float_model, quantizer.samples[1::2][:count])
        self._trials: list[tuple[Trial, QuantizedModel]] = []
        self._notes: list[str] = []

    def run(self) -> Repaired:
        self._try(self._plain)
        bases = [self._plain]
        equalized = self._equalize()
        if equalized is not None:
            bases.append(equalized)
            self._try(equalized)
        corrected = [self._correct(base) for base in bases]
        best_base = int(np.argmax([trial.snr_db for trial, _ in corrected]))
        chosen = self._choose(bases[best_base], corrected[best_base][1])
        if chosen is not None:
            self._try(chosen)
            self._correct(chosen)
        best, model = self._best()
        changed = {**chosen.ranges, **chosen.weights} if chosen is not None and CHOSEN in best.steps else {}
        return Repaired(
            model=model,
            best=best,
            trials=tuple(trial for trial, _ in self._trials),
            samples=len(self._judge.samples),
            ranges={name: item.method for name, item in changed.items()},
            notes=tuple(self._notes),
        )

    def _best(self) -> tuple[Trial, QuantizedModel]:
        """The nearest to the float model, by a margin, of those whose very outputs are no further off than plain's."""
        plain = self._trials[0]
        better = [
            item
            for item in self._trials[1:]
            if item[0].output_snr_db >= plain[0].output_snr_db and item[0].snr_db >= plain[0].snr_db + _MARGIN_DB
        ]
        return max(better, key=lambda item: item[0].snr_db, default=plain)

    def _try(self, recipe: _Recipe, float_model: bytes | None = None, steps: tuple[str, ...] = ()) -> Trial:
        model = recipe.make(self._options, float_model)
        trial = self._judge.measure(recipe.steps + steps, model.data)
        self._trials.append((trial, model))
        return trial

    @property
    def _int4_operators(self) -> tuple[str, ...]:
        return self._options.int4_operators if self._options.precision is Precision.INT4_WEIGHTS else ()

    def _equalize(self) -> _Recipe | None:
        self._report("repair: equalization", 0, 0)
        quantizer = self._plain.quantizer
        try:
            result: Equalized = equalize(quantizer.float_model, self._tune, int4_operators=self._int4_operators)
        except QuantizationError as error:
            self._notes.append(error.message)
            return None
        self._notes += [f"not equalized: {item.layer.split(';')[0]}: {item.reason}" for item in result.skipped]
        if not result.links:
            return None
        return _Recipe(Quantizer(result.data, quantizer.samples), (EQUALIZED,))

    def _correct(self, recipe: _Recipe) -> tuple[Trial, bytes]:
        """The trial with corrected biases, and its float model."""
        float_model = self._corrected(recipe)
        return self._try(recipe, float_model, (CORRECTED,)), float_model

    def _corrected(self, recipe: _Recipe) -> bytes:
        return correct_biases(
            recipe.quantizer.float_model,
            lambda data: recipe.make(self._options, data).data,
            self._tune,
            lambda done, total: self._report("repair: bias correction", done, total),
        )

    def _choose(self, base: _Recipe, corrected: bytes) -> _Recipe | None:
        """Other ranges than min-max for activations, and for 4-bit weights than OCTAV's; None if none is better.

        They are chosen for the model as it will be, with corrected biases.
        """
        weights = self._choose_weights(base) if self._int4_operators else {}
        recipe = _Recipe(base.quantizer, base.steps, weights=weights)
        float_model = self._corrected(recipe) if weights else corrected
        histograms = collect_histograms(recipe.quantizer.float_model, self._tune, recipe.quantizer.ranges())
        seen: set[str] = set()

        def snr_db(ranges: Mapping[str, Range]) -> float | None:
            self._report("repair: ranges", len(seen), _MAX_RANGE_TRIALS)
            data = _Recipe(recipe.quantizer, ranges=ranges, weights=weights).make(self._options, float_model).data
            digest = sha256_of(data)
            if digest in seen:
                return None  # The tensor gets its scale from another one.
            seen.add(digest)
            return self._tuning.measure((), data).snr_db

        ranges = choose_greedily(
            {name: activation_ranges(item) for name, item in histograms.items() if item.total >= _MIN_VALUES},
            snr_db,
            margin_db=_MARGIN_DB,
            max_trials=_MAX_RANGE_TRIALS,
        )
        if not ranges and not weights:
            return None
        return _Recipe(base.quantizer, (*base.steps, CHOSEN), ranges, weights)

    def _choose_weights(self, base: _Recipe) -> dict[str, Range]:
        """For every 4-bit weight the method with the least error, or min-max for all, or nothing: OCTAV stays.

        The biases of each are corrected before they are compared: a method that shifts means loses nothing by it. One
        tensor at a time fits the tuning samples better and other samples worse.
        """
        network = Network(base.quantizer.float_model)
        layers = [layer for layer in network.layers if layer.code in self._int4_operators]
        sources = sorted({layer.operator.inputs[0] for layer in layers})
        statistics = channel_statistics(base.quantizer.float_model, self._tune, sources)
        found: dict[str, list[Range]] = {}
        for layer in layers:
            weights = network.constant(layer.weights)
            power = by_feature(layer, weights, statistics[layer.operator.inputs[0]].power)
            name = network.graph.main.tensors[layer.weights].name
            found[name] = weight_ranges(weights, power, layer.channel_axis, 4)
        options: list[dict[str, Range]] = [
            {},
            {name: ranges[0] for name, ranges in found.items()},
            {name: min(ranges, key=lambda item: item.error) for name, ranges in found.items()},
        ]

        def snr_db(weights: dict[str, Range]) -> float:
            recipe = _Recipe(base.quantizer, weights=weights)
            return self._tuning.measure((), recipe.make(self._options, self._corrected(recipe)).data).snr_db

        return max(options, key=snr_db)


def _affordable(graph: Graph) -> int:
    """How many samples one pass takes: 16 at least, and as many as it has room for."""
    outputs = 4 * sum(graph.main.tensors[index].elements for index in graph.main.outputs)
    by_work = _PASS_MACS // max(graph.macs, 1)
    return max(_FEWEST, min(by_work, _MOST_OUTPUT_BYTES // max(outputs, 1)))
