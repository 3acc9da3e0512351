"""Which sample goes where: pure, and repeatable by seed."""

from __future__ import annotations

import numpy as np

Seed = int | tuple[int, ...]
"""As numpy's default_rng takes it."""


def class_ids(labels: np.ndarray) -> np.ndarray | None:
    """One class per sample, where labels are classes.

    Args:
        labels: Shape (n,), (n, 1) of whole numbers, or (n, classes) one-hot.

    Returns:
        Shape (n,), int64; None for anything else: fractions, several positions per sample, or whole numbers of which
        more than half occur once only (then they are quantities).
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and is_one_hot(labels):
        return np.asarray(labels.argmax(axis=1), dtype=np.int64)
    if labels.ndim != 1 or not is_integral(labels):
        return None
    ids = labels.astype(np.int64)
    return ids if len(np.unique(ids)) <= len(ids) / 2 else None


def is_integral(values: np.ndarray) -> bool:
    """Whether every value is a whole number, whatever its dtype."""
    return values.dtype.kind in "biu" or bool((values == np.rint(values)).all())


def is_one_hot(values: np.ndarray) -> bool:
    """Whether the last axis, of at least two, holds one 1 and otherwise 0."""
    if values.ndim < 2 or values.shape[-1] < 2:
        return False
    return bool(((values == 0) | (values == 1)).all() and (values.sum(axis=-1, dtype=np.int64) == 1).all())


def draw(count: int, total: int, seed: Seed, classes: np.ndarray | None = None, leave: int = 0) -> np.ndarray:
    """Draw positions without repetition, each class in proportion where classes are given.

    Every class gets at least one where `count` reaches that far.

    Args:
        count: How many, 1 <= count <= total.
        total: Drawn from 0 .. total - 1.
        seed: The same seed gives the same positions.
        classes: Shape (total,), or None for a plain draw.
        leave: So many of every class are not taken, unless `count` needs them.

    Returns:
        Shape (count,), int64, in random order, so that every head of it is a fair sample too.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(total)
    if classes is None:
        return order[:count]
    _, class_of, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    limits = np.maximum(sizes - leave, 0)
    if limits.sum() < count:
        limits = sizes
    shares = _proportional(count, limits, sizes)
    members = [order[class_of[order] == number][:share] for number, share in enumerate(shares)]
    return rng.permutation(np.concatenate(members))


def _proportional(count: int, limits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whole numbers near count * sizes / sizes.sum() that add up to count and stay within limits."""
    quota = count * sizes / sizes.sum()
    least = np.minimum(limits, 1) if count >= len(sizes) else np.zeros_like(limits)
    shares: np.ndarray = np.clip(np.floor(quota).astype(np.int64), least, limits)
    while shares.sum() > count:
        shares[np.where(shares > least, shares - quota, -np.inf).argmax()] -= 1
    while shares.sum() < count:
        shares[np.where(shares < limits, quota - shares, -np.inf).argmax()] += 1
    return shares


def draw_groups(groups: np.ndarray, count: int, seed: Seed) -> np.ndarray:
    """Draw whole groups that together hold about `count` samples; at least one group, never all of them.

    Args:
        groups: Shape (n,); equal values belong together. At least two different ones.
        count: Samples aimed at.
        seed: The same seed gives the same groups.

    Returns:
        Positions of all samples of the groups drawn, int64, in random order.
    """
    rng = np.random.default_rng(seed)
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    chosen: list[int] = []
    held = 0
    for group in rng.permutation(len(sizes)):
        if len(chosen) == len(sizes) - 1:
            break
        if abs(held + sizes[group] - count) < abs(held - count):
            chosen.append(int(group))
            held += int(sizes[group])
    if not chosen:
        chosen.append(int(sizes.argmin()))
    return rng.permutation(np.flatnonzero(np.isin(group_of, chosen)))


def rest(total: int, taken: np.ndarray) -> np.ndarray:
    """The positions 0 .. total - 1 that are not in `taken`, ascending."""
    keep = np.ones(total, dtype=bool)
    keep[taken] = False
    return np.flatnonzero(keep)
