"""The rule for outputs: exact within one kernel family and version, else a tolerance in LSB and argmax agreement."""

from __future__ import annotations

import math
from typing import Any

# One LSB of an 8-bit tensor as a fraction of its range; float outputs are compared in the same unit.
LSB_PER_RANGE = 256
FLOAT_TOLERANCE_LSB = 1e-3 * LSB_PER_RANGE
# Float kernels round differently with and without fused multiply-add: ResNet8 on two x86-64 CPUs under the same
# runtime differed by 9e-8 of the range, while the outputs of its int8 version were equal bit by bit.
FLOAT_ROUNDING_LSB = 1e-5 * LSB_PER_RANGE
MIN_AGREEMENT = 0.95


def is_enough(agreeing: int, total: int) -> bool:
    """At least 95 %, or all but one: among a few samples a single one would already be more than 5 %."""
    return agreeing >= max(1, min(MIN_AGREEMENT * total, total - 1))


def differences_lsb(np: Any, expected: Any, actual: Any) -> Any:
    """Largest absolute difference of each sample, shape (n,): in stored units, or 1/256 of a float golden's range."""
    difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    if expected.dtype.kind == "f":
        span = float(np.max(expected) - np.min(expected)) or float(np.max(np.abs(expected))) or 1.0
        difference = difference * (LSB_PER_RANGE / span)
    largest = difference.reshape(len(difference), -1).max(axis=1)
    return np.where(np.isfinite(largest), largest, np.inf)


def count_argmax(np: Any, expected: Any, actual: Any) -> tuple[int, int] | None:
    """(how many argmaxes over the last axis agree, how many there are); None where there is nothing to choose from.

    Saturated outputs tie, so an argmax agrees where either side's choice is also a largest value of the other.
    """
    if expected.ndim < 2 or expected.shape[-1] < 2:
        return None
    ours = np.argmax(actual, axis=-1)[..., None]
    theirs = np.argmax(expected, axis=-1)[..., None]
    agrees = np.take_along_axis(expected, ours, -1)[..., 0] == expected.max(axis=-1)
    agrees |= np.take_along_axis(actual, theirs, -1)[..., 0] == actual.max(axis=-1)
    return int(agrees.sum()), int(agrees.size)


def compare_output(np: Any, expected: Any, actual: Any, allowed_lsb: float | None, is_exact: bool) -> dict[str, Any]:
    """One output of shape (n, ...) against the golden one.

    Args:
        np: The numpy module.
        expected: The golden output.
        actual: The device's, of the same shape and dtype.
        allowed_lsb: Largest difference allowed; None for labels, where how far apart two of them are means nothing.
        is_exact: Every sample has to be within it, rather than `is_enough` of them.

    Returns:
        `equal`, `difference_lsb` and `agreement` (None where there is no such figure), `allowed_lsb`, and `problem`.
    """
    equal = bool(np.array_equal(expected, actual))
    distance: float | None = None
    problem: str | None = None
    counts: tuple[int, int] | None = (int((expected == actual).sum()), int(expected.size))
    if allowed_lsb is not None:
        differences = differences_lsb(np, expected, actual)
        distance, total = float(differences.max()), len(differences)
        counts = count_argmax(np, expected, actual)
        beyond = int((differences > allowed_lsb).sum())
        if beyond and (is_exact or not is_enough(total - beyond, total)):
            problem = (
                f"{beyond} of {total} samples differ by more than {allowed_lsb:.4g} LSB, at most by {distance:.4g}"
            )
    if problem is None and counts and not is_enough(*counts):
        problem = f"only {counts[0]} of {counts[1]} {'values' if allowed_lsb is None else 'argmaxes'} agree"
    return {
        "equal": equal,
        "difference_lsb": distance,
        "allowed_lsb": allowed_lsb,
        "agreement": None if counts is None else counts[0] / counts[1],
        "problem": problem,
    }


def compare_golden(np: Any, pairs: Any, is_float: bool, is_exact: bool, tolerance_lsb: float) -> dict[str, Any]:
    """Compare the outputs of the device with the golden ones.

    Args:
        np: The numpy module.
        pairs: For each output (expected, actual, is_quantized), arrays of shape (n, ...).
        is_float: The model computes in float, so its outputs must be within 1/1000 of their range.
        is_exact: Same kernel family, runtime, version and architecture as the golden outputs were made with: they
            must be equal, but for the rounding of float arithmetic, which is the CPU's.
        tolerance_lsb: Allowed difference where the kernels are others, for all but a few samples: softmax amplifies
            what the layers before it rounded (int8 ResNet8, XNNPACK against LiteRT's own kernels, 1,000 images: half
            of them at most 1 LSB apart, 3.5 % more than 32, one 87, with the accuracy unchanged).

    Returns:
        `ok`, `rule` ("exact" or "tolerance"), `equal`, `max_difference_lsb` with the `tolerance_lsb` that held for
        it, `argmax_agreement` (all None where no output has them), `samples`, and `message`: the first thing that
        is wrong.
    """
    rows = []
    for expected, actual, quantized in pairs:
        allowed: float | None = 0.0 if is_exact else tolerance_lsb
        if expected.dtype.kind == "f" and is_float:
            allowed = FLOAT_ROUNDING_LSB if is_exact else FLOAT_TOLERANCE_LSB
        elif expected.dtype.kind != "f" and not quantized and not is_exact:
            allowed = None
        rows.append(compare_output(np, expected, actual, allowed, is_exact))
    measured = [row for row in rows if row["difference_lsb"] is not None]
    worst = max(measured, key=lambda row: float(row["difference_lsb"])) if measured else None
    agreements = [row["agreement"] for row in rows if row["agreement"] is not None]
    problems = [
        f"Output {index} is not the golden one: {row['problem']}." for index, row in enumerate(rows) if row["problem"]
    ]
    return {
        "ok": not problems,
        "rule": "exact" if is_exact else "tolerance",
        "equal": all(row["equal"] for row in rows),
        # JSON has no infinity: an output that is not a number has no difference either.
        "max_difference_lsb": worst["difference_lsb"] if worst and math.isfinite(worst["difference_lsb"]) else None,
        "tolerance_lsb": worst["allowed_lsb"] if worst else None,
        "argmax_agreement": min(agreements) if agreements else None,
        "samples": len(pairs[0][0]),
        "message": problems[0] if problems else None,
    }
