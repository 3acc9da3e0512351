"""Limits that a candidate must meet, and what it breaks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from edgecomp.errors import UsageError
from edgecomp.profile import DeviceProfile
from edgecomp.units import Drop, format_bytes

# Names of limits, as in `Violation.limit`.
RESOURCE_LIMITS = ("model_size", "ram", "latency", "energy")
QUALITY_LIMITS = ("accuracy_drop", "accuracy", "flips")

# How much worse than the float model's an error (mse, mae, a user's own) may be where nobody says.
_DEFAULT_ERROR_DROP = Drop(0.05, is_relative=True)

# Accuracies are counts divided by counts: a millionth of a point keeps 1.0 pp from being above 1 pp.
_TOLERANCE = 1e-9

# Limit -> its fields in `Budget` and in `Values`.
_FIELDS = {
    "model_size": ("max_model_bytes", "model_bytes"),
    "ram": ("max_ram_bytes", "ram_bytes"),
    "latency": ("max_latency_ms", "latency_ms"),
    "energy": ("max_energy_mj", "energy_mj"),
    "accuracy_drop": ("max_accuracy_drop", "drop"),
    "accuracy": ("min_accuracy", "score"),
    "flips": ("max_flips", "flips"),
}


def limit_kind(limit: str) -> Literal["resource", "quality"]:
    """Whether a limit is one of memory, time or energy, or one of what the model answers.

    Raises:
        ValueError: There is no such limit.
    """
    if limit in RESOURCE_LIMITS:
        return "resource"
    if limit in QUALITY_LIMITS:
        return "quality"
    raise ValueError(f"no limit is called {limit!r}")


@dataclass(frozen=True)
class Violation:
    """One broken limit.

    Attributes:
        limit: Of RESOURCE_LIMITS or QUALITY_LIMITS.
        value, allowed: In `unit`: "bytes", "ms", "mJ", "pp", "%"; of a score "fraction" or, where it is none, "score".
        is_estimated: The value is computed, not measured.
        title: What the value is called, if not like the limit.
    """

    limit: str
    value: float
    allowed: float
    unit: str
    is_estimated: bool = False
    title: str | None = None

    @property
    def is_resource(self) -> bool:
        """Whether it is a limit of memory, time or energy."""
        return limit_kind(self.limit) == "resource"

    @property
    def gap(self) -> float:
        """How far the limit is missed: a fraction of the score or of all answers; else relative to what is allowed."""
        excess = abs(self.value - self.allowed)
        if self.unit in ("pp", "%"):
            return excess / 100
        if self.unit == "fraction":
            return excess
        return excess / abs(self.allowed) if self.allowed else math.inf

    def __str__(self) -> str:
        name = self.title or self.limit.replace("_", " ")
        mode = " estimated" if self.is_estimated else ""
        over = abs(self.value - self.allowed)
        if self.unit == "bytes":
            value, excess, allowed = (format_bytes(int(number)) for number in (self.value, over, self.allowed))
            return f"{name} {value}{mode}, {excess} above the {allowed} allowed"
        if self.limit == "accuracy":
            side = "below" if self.value < self.allowed else "above"
            return (
                f"{name} {_digits(self.value, over)}{mode}, {_digits(over, over)} {side} the {self.allowed:g} asked for"
            )
        return f"{name} {self.value:.2f} {self.unit}{mode}, {over:.2f} {self.unit} above the {self.allowed:g} allowed"


def _digits(score: float, gap: float) -> str:
    """Three decimals, or as many as show the gap."""
    return f"{score:.{max(3, math.ceil(-math.log10(gap))) if gap else 3}f}"


@dataclass(frozen=True)
class Values:
    """What is known of a candidate. None is not known and judges nothing; it is never zero.

    Attributes:
        drop: How much worse than the float model, as a fraction (0.01 = 1 pp) or in the metric's own unit.
        float_score: The float model's score; what a relative drop is measured against.
        score: The candidate's own.
        flips: Share of answers that differ from the float model's.
        estimated: Names of limits whose value is computed, not measured.
    """

    drop: float | None = None
    float_score: float | None = None
    model_bytes: int | None = None
    ram_bytes: int | None = None
    latency_ms: float | None = None
    score: float | None = None
    flips: float | None = None
    energy_mj: float | None = None
    estimated: frozenset[str] = frozenset()

    def of(self, limit: str) -> float | None:
        """What a limit is held against."""
        value: float | None = getattr(self, _FIELDS[limit][1])
        return value


@dataclass(frozen=True)
class Budget:
    """Limits for one device; None means that there is no such limit.

    Attributes:
        min_accuracy: The least score; where lower is better, the largest.
        max_flips: Share of validation answers that may differ from the float model's.
        is_default_drop: Nobody asked for this accuracy drop: it is the profile's.
        flattery: By how much validation flatters: what the float model loses from there to test, where it has learned
            the validation samples by heart. Taken off scores before they are held against `min_accuracy`.
        metric, higher_is_better, is_ratio: What the score is, once `for_metric` has said it.
    """

    max_accuracy_drop: Drop | None = None
    max_model_bytes: int | None = None
    max_ram_bytes: int | None = None
    max_latency_ms: float | None = None
    is_default_drop: bool = False
    min_accuracy: float | None = None
    max_flips: float | None = None
    max_energy_mj: float | None = None
    metric: str = "accuracy"
    higher_is_better: bool = True
    is_ratio: bool = True
    flattery: float = 0.0

    @classmethod
    def for_device(
        cls,
        profile: DeviceProfile,
        *,
        max_accuracy_drop: Drop | None = None,
        max_model_bytes: int | None = None,
        max_ram_bytes: int | None = None,
        max_latency_ms: float | None = None,
        min_accuracy: float | None = None,
        max_flips: float | None = None,
        max_energy_mj: float | None = None,
    ) -> Budget:
        """The user's limits where they were given, the device's own memory in any case.

        The profile's accuracy drop holds where neither a drop nor a score was asked for.
        """
        is_default = max_accuracy_drop is None and min_accuracy is None
        return cls(
            max_accuracy_drop=profile.limits.max_accuracy_drop if is_default else max_accuracy_drop,
            max_model_bytes=_smaller(max_model_bytes, profile.memory.usable_flash_bytes),
            max_ram_bytes=_smaller(max_ram_bytes, profile.memory.usable_ram_bytes),
            max_latency_ms=max_latency_ms,
            is_default_drop=is_default,
            min_accuracy=min_accuracy,
            max_flips=max_flips,
            max_energy_mj=max_energy_mj,
        )

    def for_metric(
        self, name: str, *, is_ratio: bool, higher_is_better: bool = True, has_labels: bool = True
    ) -> Budget:
        """The same limits for a metric: percentage points mean nothing to an error such as mse.

        Raises:
            UsageError: The user gave percentage points for such a metric, a ratio above 1, or a score without labels.
        """
        known = replace(self, metric=name, higher_is_better=higher_is_better, is_ratio=is_ratio)
        if self.min_accuracy is not None:
            _check_score(name, self.min_accuracy, is_ratio=is_ratio, has_labels=has_labels)
        drop = self.max_accuracy_drop
        if is_ratio or drop is None or drop.is_relative:
            return known
        if not self.is_default_drop:
            raise UsageError(
                f"--max-accuracy-drop {drop} is in percentage points, which {name} has not.",
                hint='Say "5%" of the float model\'s value.',
            )
        return replace(known, max_accuracy_drop=_DEFAULT_ERROR_DROP)

    def is_limited(self, name: str) -> bool:
        """Whether there is a limit of this name. Raises ValueError for what is no name of one."""
        limit_kind(name)
        return getattr(self, _FIELDS[name][0]) is not None

    def violations(self, values: Values) -> list[Violation]:
        """Every limit that the values break, empty if they fit. A value equal to its limit fits."""
        broken = [*self._drop_violations(values), *self._score_violations(values)]
        if self.max_flips is not None and values.flips is not None and values.flips > self.max_flips + _TOLERANCE:
            broken.append(Violation("flips", 100 * values.flips, 100 * self.max_flips, "%"))
        broken += self.size_violations(model_bytes=values.model_bytes, ram_bytes=values.ram_bytes)
        for limit, value, allowed, unit in (
            ("latency", values.latency_ms, self.max_latency_ms, "ms"),
            ("energy", values.energy_mj, self.max_energy_mj, "mJ"),
        ):
            if allowed is not None and value is not None and value > allowed:
                broken.append(Violation(limit, value, allowed, unit))
        return [replace(item, is_estimated=True) if item.limit in values.estimated else item for item in broken]

    def _drop_violations(self, values: Values) -> list[Violation]:
        drop = self.max_accuracy_drop
        if drop is None or values.drop is None:
            return []
        dropped = values.drop / abs(values.float_score) if drop.is_relative and values.float_score else values.drop
        if dropped <= drop.amount + _TOLERANCE:
            return []
        return [Violation("accuracy_drop", dropped * 100, drop.amount * 100, "%" if drop.is_relative else "pp")]

    def _score_violations(self, values: Values) -> list[Violation]:
        if self.min_accuracy is None or values.score is None:
            return []
        score = values.score - self.flattery
        missing = (self.min_accuracy - score) * (1 if self.higher_is_better else -1)
        if missing <= _TOLERANCE:
            return []
        unit = "fraction" if self.is_ratio else "score"
        return [Violation("accuracy", score, self.min_accuracy, unit, title=self.metric)]

    def size_violations(self, *, model_bytes: int | None, ram_bytes: int | None) -> list[Violation]:
        """The limits of memory alone, which can be judged before anything is made."""
        broken = []
        if self.max_model_bytes is not None and model_bytes is not None and model_bytes > self.max_model_bytes:
            broken.append(Violation("model_size", model_bytes, self.max_model_bytes, "bytes"))
        if self.max_ram_bytes is not None and ram_bytes is not None and ram_bytes > self.max_ram_bytes:
            broken.append(Violation("ram", ram_bytes, self.max_ram_bytes, "bytes"))
        return broken


def _check_score(metric: str, score: float, *, is_ratio: bool, has_labels: bool) -> None:
    if not has_labels:
        raise UsageError(
            f"--min-accuracy {score:g} cannot be judged: the data has no labels.",
            hint="Limit what changes instead: --max-flips 2%.",
        )
    if is_ratio and not 0 <= score <= 1:
        raise UsageError(
            f"--min-accuracy {score:g} can never be judged: {metric} lies between 0 and 1.",
            hint="Write 0.85 for 85 %.",
        )


def _smaller(first: int | None, second: int | None) -> int | None:
    known = [value for value in (first, second) if value is not None]
    return min(known, default=None)
