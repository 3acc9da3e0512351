"""Write edgecomp/support/tables/ethos_u.json: which operators and types Arm's Vela puts on the NPU.

    python scripts/make_ethos_u_support.py

Needs ethos-u-vela. Each point is one file of one operator; the constraints are those of `vela --supported-ops-report`.
What is kept serves machines without Vela: with it, the user's own file is put to it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.one_operator import tables
from scripts.one_operator.asking import Asker

QUESTION = "Does Vela put a file of this operator alone on the NPU?"
# Vela states one set of constraints for Ethos-U55 and U65, another for U85; the number of MACs changes none of them.
FAMILIES = {"ethos-u55": "ethos-u55-128", "ethos-u85": "ethos-u85-256"}
_TYPES_NO_NPU_HAS = ("FLOAT32", "FLOAT16", "COMPLEX64")
_TYPES_NPUS_ARE_FOR = ("INT8", "UINT8", "INT16")


def make() -> dict[str, Any]:
    """The parts of the table, by family."""
    report = _report()
    with Asker("Vela") as asker, Asker("LiteRT") as lite:
        return {
            family: _family(asker, lite, accelerator) | {"constraints": constraints(report, _title(family))}
            for family, accelerator in FAMILIES.items()
        }


def _family(asker: Asker, lite: Asker, accelerator: str) -> dict[str, Any]:
    def point(item: tables.Point) -> tuple[str, str, bool]:
        if item[1].startswith(_TYPES_NO_NPU_HAS):
            return "refuses", "Ethos-U computes with integers only", True
        # On files that no runtime takes (LOGISTIC of booleans) Vela may loop for ever: nobody will have one.
        if not item[1].startswith(_TYPES_NPUS_ARE_FOR) and not tables.litert_point(lite, item)[2]:
            return "not_tried", "", False
        return tables.vela_point(asker, item, accelerator)

    parts = tables.gather(point, lambda code: tables.unknown_to_vela(asker, code, accelerator))
    for entry in parts["operators"].values():
        entry.pop("unproven", None)
    return parts


def _title(family: str) -> str:
    return "Ethos-U85 TFLite" if family == "ethos-u85" else "Ethos-U55 and Ethos-U65 TFLite"


def _report() -> str:
    with tempfile.TemporaryDirectory() as folder:
        vela = str(Path(sys.executable).with_name("vela"))
        subprocess.run([vela, "--supported-ops-report"], cwd=folder, check=True, capture_output=True)
        return (Path(folder) / "SUPPORTED_OPS.md").read_text(encoding="utf-8")


def constraints(report: str, title: str) -> dict[str, list[str]]:
    """What a family's sections of the report state: operator (or "" for all) -> sentences."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^##+ ", report, flags=re.MULTILINE):
        heading, _, body = section.partition("\n")
        name = re.fullmatch(rf"{title} (\S+) Constraints", heading.strip())
        if name:
            operator = "" if name[1] == "Generic" else name[1]
            lines = [line for line in body.splitlines() if line.lstrip().startswith("- ")]
            found[operator] = [line.rstrip().replace("- ", "", 1) for line in lines]
    return found


if __name__ == "__main__":
    tables.write_families("ethos_u", "ethos-u-vela", "scripts/make_ethos_u_support.py", QUESTION, make())
