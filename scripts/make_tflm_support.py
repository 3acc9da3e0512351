"""Write edgecomp/support/tables/tflm.json: what tflite-micro itself says to every operator and types.

    python scripts/make_tflm_support.py

Each point is one file of one operator: it must load, allocate, run, and compute what LiteRT's kernels compute from the
same file. Takes seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.one_operator import tables
from scripts.one_operator.asking import Asker

QUESTION = "Does it load, allocate and run a file of this operator alone, and compute what LiteRT computes from it?"


def make() -> dict[str, object]:
    """The parts of the table."""
    with Asker("tflite-micro") as micro, Asker("LiteRT") as lite:
        parts = tables.gather(
            lambda point: tables.tflm_point(micro, lite, point), lambda code: tables.absent_line(micro, "tflm", code)
        )
        return parts | {"custom": tables.customs(micro, "tflm")}


if __name__ == "__main__":
    tables.write("tflm", "tflite-micro", "scripts/make_tflm_support.py", QUESTION, **make())
