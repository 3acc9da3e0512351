"""Is a bundle what it says it is? Digests, and the golden samples run on this machine."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.agent.on_device.golden import compare_golden
from edgecomp.bench.settings import BenchSettings
from edgecomp.bundle.reader import Bundle, read_bundle
from edgecomp.bundle.writer import UNPACKED_NAME
from edgecomp.errors import BundleError
from edgecomp.inference import KernelFamily, Model, load, runtime_version


@dataclass(frozen=True)
class VerifyReport:
    """What was checked.

    Attributes:
        files: How many digests were right.
        kernels: Family that ran the golden samples here; `golden_kernels` made them.
        rule: "exact" within one family, version and architecture, else "tolerance" (docs/bundles.md).
        max_difference_lsb: Largest difference from the golden outputs, in steps of the output's scale (1/256 of the
            range for a float output); None where there is none.
        argmax_agreement: Share of golden samples with the same answer; None where there is nothing to choose from.
    """

    bundle: str
    files: int
    kernels: str
    golden_kernels: str
    rule: str
    samples: int
    max_difference_lsb: float | None
    argmax_agreement: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {"schema": "edgecomp.verify/1", "status": "ok", **asdict(self)}

    def __str__(self) -> str:
        text = (
            f"{self.bundle}: ok. {self.files} files unchanged. {self.samples} golden samples (from "
            f"{self.golden_kernels}) run here with {self.kernels}"
        )
        if self.max_difference_lsb is not None:
            text += f": largest difference {self.max_difference_lsb:.3g} LSB"
        if self.argmax_agreement is not None:
            text += f", same answer {self.argmax_agreement:.0%}"
        return text + "."


def verify_bundle(path: Path) -> VerifyReport:
    """Check digests and golden outputs, by the rule that `edgecomp bench` uses on a device.

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
        model = load(bundle.files.get(UNPACKED_NAME, bundle.files["model.tflite"]), kernels)
    here = (str(kernels), *runtime_version(kernels), platform.machine())
    made = (golden.kernel_family, golden.runtime, golden.runtime_version, golden.architecture)
    found = _compare(bundle, model, is_exact=here == made)
    if not found["ok"]:
        raise BundleError(
            f"{path}: {found['message']}",
            hint=f"Run here with {kernels}; the model or the runtime is not the one that the bundle was made with.",
        )
    return VerifyReport(
        bundle=str(path),
        files=len(bundle.files),
        kernels=kernels,
        golden_kernels=golden.kernel_family,
        rule=found["rule"],
        samples=found["samples"],
        max_difference_lsb=found["max_difference_lsb"],
        argmax_agreement=found["argmax_agreement"],
    )


def _compare(bundle: Bundle, model: Model, *, is_exact: bool) -> dict[str, Any]:
    arrays = bundle.golden()
    real = {spec.name: spec.dequantize(arrays[f"input_{i}"]) for i, spec in enumerate(model.graph.inputs)}
    outputs = model.run(real)
    pairs = [
        (arrays[f"output_{index}"], got, spec.scale is not None)
        for index, (got, spec) in enumerate(zip(outputs, model.graph.outputs, strict=True))
    ]
    is_float = not any(tensor.scales for tensor in model.graph.main.tensors)
    return compare_golden(np, pairs, is_float, is_exact, BenchSettings().tolerance_lsb)
