"""Write edgecomp/support/tables/litert.json and xnnpack.json: what LiteRT runs, and what XNNPACK takes of it.

    python scripts/make_xnnpack_support.py

Each point is one file of one operator, asked on this machine's CPU. Takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.one_operator import tables
from scripts.one_operator.asking import Asker

RUNS = "Do LiteRT's built-in kernels load, allocate and run a file of this operator alone?"
DELEGATES = "Does XNNPACK, as LiteRT applies it by default, take this operator from a file of it alone?"


def make_litert() -> dict[str, object]:
    """The parts of LiteRT's table, with the versions of each operator that it knows."""
    with Asker("LiteRT") as lite:
        parts = _gather(lite, tables.litert_point)
        for code, entry in parts["operators"].items():
            entry["versions"] = tables.versions(lite, code)
        return parts | {"custom": tables.customs(lite, "litert")}


def make_xnnpack() -> dict[str, object]:
    """The parts of XNNPACK's table."""
    with Asker("LiteRT") as lite:
        return _gather(lite, tables.xnnpack_point)


def _gather(lite: Asker, point: Callable[[Asker, tables.Point], tuple[str, str, bool]]) -> dict[str, Any]:
    parts = tables.gather(lambda item: point(lite, item), lambda code: tables.absent_line(lite, "litert", code))
    for entry in parts["operators"].values():
        entry.pop("unproven", None)  # The kernels asked are the reference: nobody else could prove a file.
    return parts


if __name__ == "__main__":
    tables.write("litert", "ai-edge-litert", "scripts/make_xnnpack_support.py", RUNS, **make_litert())
    tables.write("xnnpack", "ai-edge-litert", "scripts/make_xnnpack_support.py", DELEGATES, **make_xnnpack())
