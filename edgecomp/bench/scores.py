"""A score on the device itself: samples of the test split, answered there and scored here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from edgecomp.bundle.manifest import Manifest


@dataclass(frozen=True)
class DeviceScore:
    """What the model scores on the device, and what the same file scores on this machine on the same samples.

    Attributes:
        value: Of the metric, with its 95 % interval `low` to `high` (bootstrap).
        samples: How many were answered, of `test_samples` that the data has.
        host_value: Of the same samples on this machine, by its `host_kernels`.
        agreement: Share of samples with the same answer on both; None where there is nothing to choose from.
    """

    metric: str
    value: float
    low: float
    high: float
    samples: int
    test_samples: int
    host_value: float
    host_kernels: str
    agreement: float | None
    mode: Literal["measured"] = "measured"

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return asdict(self)


class Evaluation(Protocol):
    """Samples to score on a device."""

    def inputs_for(self, manifest: Manifest) -> bytes:
        """An .npz of inputs (`input_0`, ...) as the model of a bundle stores them."""

    def score(self, manifest: Manifest, model: bytes, outputs_npz: bytes) -> DeviceScore:
        """The score of the outputs (`output_0`, ...) that came back for those inputs."""
