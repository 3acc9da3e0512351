"""Models x devices: the fits of several models side by side; docs/fit-matrix.schema.json is the JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgecomp.budget import Violation
from edgecomp.results import (
    Accuracy,
    CandidateResult,
    DeviceResult,
    EstimatedLatency,
    FitResult,
    Interval,
    Latency,
    Mode,
)

Status = Literal["fits", "no_fit", "failed", "planned"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cell(_Model):
    """One model on one device: the chosen candidate, or why there is none."""

    device: str
    status: Status
    reason: str | None = Field(default=None, description="Why nothing fits, by the nearest candidate; or what failed.")
    candidate: str | None = Field(default=None, description="The chosen one; of a plan, what fits without training.")
    score: Accuracy | None = Field(default=None, description="On test, of a plan on validation; null without labels.")
    agreement: Interval | None = Field(default=None, description="Share of samples answered as the float model does.")
    model_bytes: int | None = None
    latency_ms: float | None = Field(default=None, description="Measured on the device itself, else estimated.")
    latency_mode: Mode | None = None
    bundle: str | None = Field(default=None, description="Path of the bundle's .zip.")
    error: str | None = Field(default=None, description="What failed after the bundle was made, e.g. its timing.")


class Row(_Model):
    """One model on every device."""

    model: str = Field(description="Its path, as it was given.")
    status: Status = Field(description='"failed" if the model or any of its devices failed.')
    reason: str | None = Field(default=None, description="Why the model failed as a whole: it has no cells then.")
    run: str | None = Field(default=None, description="Name in the store: `edgecomp explain RUN`.")
    cells: tuple[Cell, ...] = ()


class Best(_Model):
    """Which model is best for a device, by what its candidates were chosen by."""

    device: str
    objective: str | None = Field(description="Of accuracy_drop: models are compared by their scores on test.")
    models: tuple[str, ...] = Field(
        description="Several are equal: within 1 %, or scores with intervals that overlap. Empty: none fits, or none "
        "can be compared."
    )
    higher_score: tuple[str, ...] = Field(
        default=(), description="Others that fit and score better on test, with intervals that do not overlap."
    )
    text: str


class MatrixResult(_Model):
    """The one object that `edgecomp fit --json` prints for several models."""

    schema_version: Literal["edgecomp.fit-matrix/1"] = Field(default="edgecomp.fit-matrix/1", alias="schema")
    status: Literal["fits", "no_fit", "planned"] = Field(description='"fits" if every model fits every device.')
    run: str | None = Field(default=None, description="Name in the store; each model has a run of its own besides.")
    metric: str
    devices: tuple[str, ...]
    rows: tuple[Row, ...] = Field(description="One a model, in the order given.")
    best: tuple[Best, ...] = Field(description="One a device; empty for a plan.")
    fits: tuple[FitResult, ...] = Field(description="Of the models that did not fail as a whole, in the same order.")
    notes: tuple[str, ...] = ()
    seed: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return self.model_dump(mode="json", by_alias=True)


def row_of(fit: FitResult) -> Row:
    """The row of a model that was fitted."""
    has_failed = any(device.status == "failed" or device.error is not None for device in fit.devices)
    return Row(
        model=fit.model.path,
        status="failed" if has_failed else fit.status,
        run=fit.run,
        cells=tuple(_cell(device) for device in fit.devices),
    )


def name_of(model: str) -> str:
    """What a model is called where there is little room: bundles are named so too, and no two are alike."""
    return Path(model).name


def chosen_of(device: DeviceResult) -> CandidateResult | None:
    """The candidate that was chosen for a device, or None."""
    return next((item for item in device.candidates if item.status == "chosen"), None)


def latency_of(candidate: CandidateResult) -> Latency | EstimatedLatency | None:
    """Measured on the device itself, else estimated; None if neither is known."""
    measured = candidate.latency_ms
    return measured if measured is not None and measured.is_trusted else candidate.estimated_latency_ms


def _cell(device: DeviceResult) -> Cell:
    chosen = chosen_of(device)
    if chosen is None:
        reason = device.reason if device.status == "failed" else _why_nothing_fits(device)
        return Cell(device=device.device, status=device.status, reason=reason, error=device.error)
    latency = latency_of(chosen)
    return Cell(
        device=device.device,
        status=device.status,
        candidate=chosen.name,
        score=chosen.accuracy,
        agreement=chosen.agreement,
        model_bytes=chosen.model_bytes,
        latency_ms=None if latency is None else latency.value,
        latency_mode=None if latency is None else latency.mode,
        bundle=device.bundle,
        error=device.error,
    )


def _why_nothing_fits(device: DeviceResult) -> str:
    """The finished candidate that breaks the fewest limits, by the least, and which."""
    broken = [item for item in device.candidates if item.breaks and (not item.recipe or item.recipe.stage == "full")]
    if broken:
        nearest = min(broken, key=lambda item: (len(item.breaks), _gap(item)))
        return f"nearest is {nearest.name}: {'; '.join(limit.text for limit in nearest.breaks)}"
    failed = next((item for item in device.candidates if item.status == "failed"), None)
    return "no candidate could be made" if failed is None else f"{failed.name}: {failed.reason}"


def _gap(item: CandidateResult) -> float:
    return max(Violation(limit.limit, limit.value, limit.allowed, limit.unit).gap for limit in item.breaks)
