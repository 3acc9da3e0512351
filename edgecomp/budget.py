"""Limits that a candidate must meet, and what it breaks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecomp.errors import UsageError
from edgecomp.profile import DeviceProfile
from edgecomp.units import Drop, format_bytes

# How much worse than the float model's an error (mse, mae, a user's own) may be where nobody says.
_DEFAULT_ERROR_DROP = Drop(0.05, is_relative=True)


@dataclass(frozen=True)
class Violation:
    """One broken limit.

    Attributes:
        limit: Name of the limit: "accuracy_drop", "model_size", "ram" or "latency".
        value, allowed: In `unit`.
    """

    limit: str
    value: float
    allowed: float
    unit: str

    def __str__(self) -> str:
        name = self.limit.replace("_", " ")
        if self.unit == "bytes":
            excess = format_bytes(int(self.value - self.allowed))
            return (
                f"{name} {format_bytes(int(self.value))}, {excess} above the {format_bytes(int(self.allowed))} allowed"
            )
        over = self.value - self.allowed
        return f"{name} {self.value:.2f} {self.unit}, {over:.2f} {self.unit} above the {self.allowed:g} allowed"


@dataclass(frozen=True)
class Values:
    """What is known of a candidate. A latency that nobody measured on the device is None, never zero.

    Attributes:
        drop: How much worse than the float model, as a fraction (0.01 = 1 pp) or in the metric's own unit.
        float_score: The float model's score; what a relative drop is measured against.
    """

    drop: float
    float_score: float
    model_bytes: int
    ram_bytes: int
    latency_ms: float | None = None


@dataclass(frozen=True)
class Budget:
    """Limits for one device; None means that there is no such limit.

    Attributes:
        is_default_drop: Nobody asked for this accuracy drop: it is the profile's.
    """

    max_accuracy_drop: Drop
    max_model_bytes: int | None = None
    max_ram_bytes: int | None = None
    max_latency_ms: float | None = None
    is_default_drop: bool = False

    @classmethod
    def for_device(
        cls,
        profile: DeviceProfile,
        *,
        max_accuracy_drop: Drop | None = None,
        max_model_bytes: int | None = None,
        max_ram_bytes: int | None = None,
        max_latency_ms: float | None = None,
    ) -> Budget:
        """The user's limits where they were given, the device's own memory in any case."""
        return cls(
            max_accuracy_drop=max_accuracy_drop or profile.limits.max_accuracy_drop,
            max_model_bytes=_smaller(max_model_bytes, profile.memory.usable_flash_bytes),
            max_ram_bytes=_smaller(max_ram_bytes, profile.memory.usable_ram_bytes),
            max_latency_ms=max_latency_ms,
            is_default_drop=max_accuracy_drop is None,
        )

    def for_metric(self, name: str, *, is_ratio: bool) -> Budget:
        """The same limits for a metric: percentage points mean nothing to an error such as mse.

        Raises:
            UsageError: The user gave percentage points for such a metric.
        """
        if is_ratio or self.max_accuracy_drop.is_relative:
            return self
        if not self.is_default_drop:
            raise UsageError(
                f"--max-accuracy-drop {self.max_accuracy_drop} is in percentage points, which {name} has not.",
                hint='Say "5%" of the float model\'s value.',
            )
        return replace(self, max_accuracy_drop=_DEFAULT_ERROR_DROP)

    def violations(self, values: Values) -> list[Violation]:
        """Every limit that the values break, empty if they fit. A value equal to its limit fits."""
        broken = []
        drop, unit = self.max_accuracy_drop, "%" if self.max_accuracy_drop.is_relative else "pp"
        dropped = values.drop / abs(values.float_score) if drop.is_relative and values.float_score else values.drop
        # Accuracies are counts divided by counts: a millionth of a point keeps 1.0 pp from being above 1 pp.
        if dropped > drop.amount + 1e-9:
            broken.append(Violation("accuracy_drop", dropped * 100, drop.amount * 100, unit))
        broken += self.size_violations(model_bytes=values.model_bytes, ram_bytes=values.ram_bytes)
        if (
            self.max_latency_ms is not None
            and values.latency_ms is not None
            and values.latency_ms > self.max_latency_ms
        ):
            broken.append(Violation("latency", values.latency_ms, self.max_latency_ms, "ms"))
        return broken

    def size_violations(self, *, model_bytes: int, ram_bytes: int) -> list[Violation]:
        """The limits of memory alone, which can be judged before anything is made."""
        broken = []
        if self.max_model_bytes is not None and model_bytes > self.max_model_bytes:
            broken.append(Violation("model_size", model_bytes, self.max_model_bytes, "bytes"))
        if self.max_ram_bytes is not None and ram_bytes > self.max_ram_bytes:
            broken.append(Violation("ram", ram_bytes, self.max_ram_bytes, "bytes"))
        return broken


def _smaller(first: int | None, second: int | None) -> int | None:
    known = [value for value in (first, second) if value is not None]
    return min(known, default=None)
