"""Is a bundle what it says it is? Digests, and the golden samples run on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.bundle.reader import Bundle, read_bundle
from edgecomp.errors import BundleError
from edgecomp.inference import KernelFamily, Model, load

# Kernel families round differently: figures per model are in docs/bundles.md.
_TOLERANCE_LSB = 32.0


@dataclass(frozen=True)
class VerifyReport:
    """What was checked.

    Attributes:
        files: How many digests were right.
        kernels: Family that ran the golden samples here.
        max_difference_lsb: Largest difference from the golden outputs, in steps of the output's scale (a float
            output's step is 1/255 of its range).
        same_answers: Share of golden samples with the same largest output.
    """

    bundle: str
    files: int
    kernels: str
    golden_kernels: str
    samples: int
    max_difference_lsb: float
    same_answers: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {"schema": "edgecomp.verify/1", "status": "ok", **asdict(self)}

    def __str__(self) -> str:
        return (
            f"{self.bundle}: ok. {self.files} files unchanged. {self.samples} golden samples (from "
            f"{self.golden_kernels}) run here with {self.kernels}: largest difference {self.max_difference_lsb:g} LSB, "
            f"same answer {self.same_answers:.0%}."
        )


def verify_bundle(path: Path) -> VerifyReport:
    """Check digests and golden outputs.

    Raises:
        BundleError: A file is missing or changed, or an output is too far from its golden value.
        RuntimeRefusedError: No runtime here takes the file.
    """
    bundle = read_bundle(path)
    golden = bundle.manifest.golden
    kernels = KernelFamily(golden.kernel_family)
    try:
        model = load(bundle.files["model.tflite"], kernels)
    except ModuleNotFoundError:  # tflite-micro exists for one platform only.
        kernels = KernelFamily.LITERT_REFERENCE
        model = load(bundle.files["model.tflite"], kernels)
    difference, same = _compare(bundle, model)
    if difference > _TOLERANCE_LSB:
        raise BundleError(
            f"{path}: the golden samples come out up to {difference:g} LSB off with {kernels}; "
            f"{_TOLERANCE_LSB:g} is allowed between kernel families.",
            hint="The model or the runtime is not the one that the bundle was made with.",
        )
    return VerifyReport(
        bundle=str(path),
        files=len(bundle.files),
        kernels=kernels,
        golden_kernels=golden.kernel_family,
        samples=golden.samples,
        max_difference_lsb=difference,
        same_answers=same,
    )


def _compare(bundle: Bundle, model: Model) -> tuple[float, float]:
    arrays = bundle.golden()
    specs = model.graph.inputs
    real = {spec.name: spec.dequantize(arrays[f"input_{index}"]) for index, spec in enumerate(specs)}
    largest, same = 0.0, []
    for index, (got, spec) in enumerate(zip(model.run(real), model.graph.outputs, strict=True)):
        want = arrays[f"output_{index}"]
        step = 1.0 if spec.scale is not None else max(float(np.ptp(want)), 1e-12) / 255
        largest = max(largest, float(np.max(np.abs(got.astype(np.float64) - want.astype(np.float64)))) / step)
        flat = (len(want), -1)
        same.append(np.mean(got.reshape(flat).argmax(1) == want.reshape(flat).argmax(1)))
    return largest, float(np.mean(same))
