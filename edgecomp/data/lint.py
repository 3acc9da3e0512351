"""What is wrong with calibration samples, before they decide the ranges of a quantized model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgecomp.data.binding import BoundDataset, Split
from edgecomp.data.inputs import BoundInput
from edgecomp.data.labels import LabelKind

FEW_SAMPLES = 100
"""Fewer leave out rare values; 100 to 500 are usual for post-training quantization."""
_BATCH = 256


@dataclass(frozen=True)
class Finding:
    """One sentence about the calibration samples.

    Attributes:
        level: "info" for facts, "warning" for what probably costs accuracy, "error" for what makes ranges useless.
        message: The sentence.
    """

    level: Literal["info", "warning", "error"]
    message: str


def lint_calibration(bound: BoundDataset) -> list[Finding]:
    """Judge the calibration samples: count, distinct samples, value range, missing classes.

    Ranges are those of the preprocessed values. They are compared with the range that a quantized input can store, and
    with the validation samples, which must look alike: a calibration that was scaled in another way shows there.

    Raises:
        MissingDataError: There are no calibration samples.
    """
    split = bound.split("calibration")
    findings = _count(bound, split)
    for name, entry in bound.bound_inputs.items():
        findings += _range(bound, name, entry)
    return findings + _classes(bound)


def _count(bound: BoundDataset, split: Split) -> list[Finding]:
    findings = [Finding("info", f"{split.count:,} calibration samples.")]
    if split.count < FEW_SAMPLES:
        message = f"Only {split.count} calibration samples: {FEW_SAMPLES} to 500 cover rare values better."
        findings = [Finding("warning", message)]
    seen = set()
    for batch in split.batches(_BATCH):
        for row in range(len(next(iter(batch.values())))):
            seen.add(hashlib.sha256(b"".join(batch[spec.name][row].tobytes() for spec in bound.inputs)).digest())
    if len(seen) == 1 < split.count:
        findings.append(Finding("error", f"All {split.count:,} calibration samples are the same."))
    elif len(seen) < split.count:
        message = f"Only {len(seen):,} of the {split.count:,} calibration samples are distinct."
        findings.append(Finding("warning", message))
    return findings


def _range(bound: BoundDataset, name: str, entry: BoundInput) -> list[Finding]:
    low, high = _real_range(bound, "calibration", entry)
    what = f"Input {name!r}: calibration values run from {low:g} to {high:g}"
    if low == high:
        return [Finding("error", f"Input {name!r}: every calibration value is {low:g}.")]
    findings = [Finding("info", f"{what}.")]
    spec = entry.spec
    if spec.scale is not None and spec.zero_point is not None:
        limits = np.iinfo(spec.dtype)
        least, most = ((limit - spec.zero_point) * spec.scale for limit in (limits.min, limits.max))
        if low < least - spec.scale or high > most + spec.scale:
            findings.append(Finding("warning", f"{what}, but the input stores {least:g} to {most:g} only."))
        elif high - low < (most - least) / 8:
            message = (
                f"{what}, a small part of the {least:g} to {most:g} that the input stores: is it scaled as in training?"
            )
            findings.append(Finding("warning", message))
    if bound.has("validation"):
        seen_low, seen_high = _real_range(bound, "validation", entry)
        overlap = min(high, seen_high) - max(low, seen_low)
        compared = f"{what}, the validation values from {seen_low:g} to {seen_high:g}"
        if overlap < (seen_high - seen_low) / 2:
            findings.append(Finding("warning", f"{compared}: calibration covers less than half of that range."))
        elif overlap < (high - low) / 4:
            message = f"{compared}: a calibration range four times too wide costs two bits."
            findings.append(Finding("warning", message))
    return findings


def _real_range(bound: BoundDataset, name: str, entry: BoundInput) -> tuple[float, float]:
    """Smallest and largest preprocessed value, before a quantized input would saturate it."""
    low, high = np.inf, -np.inf
    for batch in bound.split(name).real_batches(_BATCH):
        low = min(low, float(batch[entry.spec.name].min()))
        high = max(high, float(batch[entry.spec.name].max()))
    return low, high


def _classes(bound: BoundDataset) -> list[Finding]:
    if not bound.has_labels("calibration"):
        return [Finding("info", "The calibration samples have no labels: missing classes cannot be seen.")]
    findings = []
    for output, kind in bound.label_kinds.items():
        if not kind.is_class:
            continue
        expected: set[int] = set()
        for name in ("train", "validation", "test"):
            if bound.has_labels(name):
                expected |= _present(bound.split(name), output, kind)
        missing = sorted(expected - _present(bound.split("calibration"), output, kind))
        if missing:
            names = bound.class_names
            shown = ", ".join(names[number] if names else str(number) for number in missing[:5])
            more = ", ..." if len(missing) > 5 else ""
            what = f"{len(missing)} of {len(expected)} classes have no calibration sample"
            findings.append(Finding("warning", f"Output {output!r}: {what}: {shown}{more}."))
    return findings


def _present(split: Split, output: str, kind: LabelKind) -> set[int]:
    present: set[int] = set()
    for batch in split.label_batches(_BATCH):
        labels = batch[output]
        present.update(np.unique(labels.argmax(axis=-1) if kind is LabelKind.ONE_HOT else labels).tolist())
    return present
