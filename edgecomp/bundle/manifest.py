"""manifest.json of a bundle. It holds no time and no path, so that the same fit gives the same bytes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgecomp.tensors import TensorSpec

MANIFEST_SCHEMA: Literal["edgecomp.bundle/1"] = "edgecomp.bundle/1"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Model):
    """One file of the bundle."""

    sha256: str
    bytes: int


class TensorEntry(_Model):
    """One input or output of model.tflite: real = scale * (stored - zero_point) where there is a scale."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None
    zero_point: int | None

    @classmethod
    def of(cls, spec: TensorSpec) -> TensorEntry:
        """The entry of a tensor."""
        return cls(name=spec.name, shape=spec.shape, dtype=spec.dtype, scale=spec.scale, zero_point=spec.zero_point)

    def spec(self) -> TensorSpec:
        """The tensor of an entry."""
        return TensorSpec(self.name, self.shape, self.dtype, self.scale, self.zero_point)


class Preprocessing(_Model):
    """What turns raw data into the model's real input: (x - mean) / std, a scalar or one value per channel."""

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


class Golden(_Model):
    """Where golden.npz comes from: its outputs are exact only within this kernel family and version."""

    kernel_family: str
    runtime: str
    runtime_version: str
    architecture: str
    samples: int


class PlanStep(_Model):
    """One candidate of the fit and what became of it."""

    name: str
    status: str
    reason: str


class Manifest(_Model):
    """Everything that is known about a bundle."""

    schema_version: Literal["edgecomp.bundle/1"] = Field(default=MANIFEST_SCHEMA, alias="schema")
    device: str
    chosen: str
    source: dict[str, Any] = Field(description="Name, kind and sha256 of the model that was given.")
    files: dict[str, FileEntry]
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    metrics: dict[str, Any] = Field(
        description="Every number with its mode, interval, split and kernels, as in fit-result.schema.json."
    )
    limits: dict[str, float | str | None]
    fit: dict[str, Any] = Field(default={}, description="Further options of the fit that a refit repeats.")
    golden: Golden
    plan: tuple[PlanStep, ...]
    seed: int
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return self.model_dump(mode="json", by_alias=True)
