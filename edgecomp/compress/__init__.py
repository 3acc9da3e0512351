"""Compression techniques, one file each: a tf_keras model goes in, a smaller one comes out."""

from __future__ import annotations

from typing import cast

from edgecomp.compress._base import (
    ORDER,
    Compressed,
    Context,
    Footprint,
    LayerChange,
    Skipped,
    Technique,
    TechniqueOptions,
)
from edgecomp.plugins import load_member, member_names

__all__ = [
    "ORDER",
    "Compressed",
    "Context",
    "Footprint",
    "LayerChange",
    "Skipped",
    "Technique",
    "TechniqueOptions",
    "technique",
    "technique_names",
]


def technique_names() -> list[str]:
    """All techniques, in the order in which they compose."""
    return sorted(member_names(__name__), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def technique(name: str) -> Technique:
    """The technique of that name.

    Raises:
        UsageError: There is none.
    """
    return cast(Technique, load_member(__name__, name))
