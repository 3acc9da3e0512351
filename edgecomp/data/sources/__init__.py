"""Where samples come from: one file per kind of source, found by its name.

A member module has `SOURCE`, an object with the two methods of `Source`. Adding a kind of source is adding a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgecomp.data.options import DataOptions
from edgecomp.errors import UsageError
from edgecomp.plugins import load_member, member_names

SPLITS = ("train", "validation", "calibration", "test")
UNNAMED = ""
"""Name of an only input or output that the source does not name."""
CHUNK_BYTES = 8 * 2**20
"""About how much of one array is in memory at a time while a source is read."""


@dataclass(frozen=True)
class Batch:
    """Some samples as the source has them, before any preprocessing.

    Attributes:
        inputs: Input name -> shape (n, *sample shape).
        labels: Output name -> shape (n, ...); empty without labels.
        groups: Shape (n,): which samples belong together; None where no group key was given.
    """

    inputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    groups: np.ndarray | None = None


class OpenSource(Protocol):
    """A source whose form has been checked, ready to be read.

    Attributes:
        class_names: Name of every class by its index, or None where the source has no names.
        notes: What the user is told about it; complete once everything has been read.
    """

    class_names: tuple[str, ...] | None
    notes: list[str]

    def count(self, split: str) -> int | None:
        """Samples of a split, or None where that is not known before reading."""

    def batches(self, split: str) -> Iterator[Batch] | None:
        """The samples of one of SPLITS, in batches of any size; None where the source has no such split."""


class Source(Protocol):
    """One kind of source."""

    def accepts(self, source: str) -> bool:
        """Whether --data means this kind; at most one kind says yes."""

    def open(self, options: DataOptions) -> OpenSource:
        """Check the form of a source without reading all of it. Raises DataError, UsageError."""


def open_source(options: DataOptions) -> OpenSource:
    """Open the source that `options.source` means.

    Raises:
        UsageError: No kind of source knows such a text, or there is no such file.
        DataError: The source is there but cannot be used.
    """
    for name in member_names(__name__):
        source: Source = load_member(__name__, name).SOURCE
        if source.accepts(options.source):
            return source.open(options)
    raise UsageError(
        f"--data {options.source}: no such file, folder or function.",
        hint="Give an .npz file, a folder with test/<class>/<images>, or module:function.",
    )
