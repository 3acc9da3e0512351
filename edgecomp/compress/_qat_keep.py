"""What earlier techniques have made of a kernel, kept while it is trained on."""

from __future__ import annotations

import numpy as np

from edgecomp.compress._weights import Kernel, clusters_of, is_clustered, is_pruned, sparsity_of
from edgecomp.training.codebook import Codebook
from edgecomp.training.projection import Mask, Projection

# Values of two channels that differ by less, relative to the largest of the channel, come from one codebook.
_SAME = 1e-4


def keeping(kernel: Kernel) -> list[Projection]:
    """A projection that keeps zeros, or few values a channel (zero among them, where there are zeros); else none."""
    values = kernel.variable.numpy()
    rows = kernel.channels(values)
    if is_clustered(rows):
        return [_codebook(kernel, values, rows)]
    return [Mask(values != 0)] if is_pruned(values) else []


def told(kernel: Kernel, before: np.ndarray) -> str:
    """What was kept, for the report.

    Args:
        kernel: As it is now.
        before: Its values before the training.
    """
    now = kernel.variable.numpy()
    kept = []
    if is_pruned(before):
        kept.append(f"{100 * sparsity_of(before):.1f} % zeros")
    if is_clustered(kernel.channels(before)):
        kept.append(f"at most {clusters_of(kernel.channels(now))} values a channel")
    return f"; kept: {', '.join(kept)}" if kept else ""


def _codebook(kernel: Kernel, values: np.ndarray, rows: np.ndarray) -> Codebook:
    """The codebook that the kernel has, not one that k-means would find near it."""
    zeros = is_pruned(values)
    peaks = np.abs(rows).max(axis=1, keepdims=True)
    scale = np.where(peaks > 0, peaks, 1).astype(np.float32)
    common = _apart((rows / scale)[rows != 0 if zeros else np.ones_like(rows, bool)])
    own = [np.unique(row[row != 0] if zeros else row) for row in rows]
    most = max(len(item) for item in own)
    if len(common) <= most and common[0] == -1 and common[-1] == 1:
        return _restored(values, kernel.axes, common[np.newaxis], scale, zeros=zeros, shared=True)
    table = np.zeros((len(rows), most), np.float32)
    for row, item in zip(table, own, strict=True):
        # A channel with fewer values has its largest more than once; the surplus stands for nothing.
        row[:] = np.concatenate([item, np.full(most - len(item), item[-1] if len(item) else 0.0)])
    return _restored(values, kernel.axes, table, np.ones_like(scale), zeros=zeros, shared=False)


def _apart(values: np.ndarray) -> np.ndarray:
    """Distinct values, rising, where rounding errors make no difference."""
    ordered = np.sort(values)
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > _SAME) + 1)
    middle = np.array([group.mean() for group in groups], np.float32)
    ends = np.abs(middle) > 1 - _SAME
    return np.where(ends, np.sign(middle), middle).astype(np.float32)


def _restored(
    values: np.ndarray, axes: tuple[int, ...], table: np.ndarray, scale: np.ndarray, *, zeros: bool, shared: bool
) -> Codebook:
    count = table.shape[1] + (1 if zeros else 0)
    book = Codebook(values, axes, max(count, 3 if zeros else 2), shared=shared, keep_zeros=zeros)
    _, _, kept, frozen = book.state()
    book.restore([table, scale, kept, frozen])
    return book
