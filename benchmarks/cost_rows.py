"""Published latencies, and the operators of the models that they are of."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from edgecomp.cost_families import Dtype
from edgecomp.cost_work import OperatorWork

_HERE = Path(__file__).resolve().parent
ROWS = _HERE / "published_latencies.toml"
GRAPHS = _HERE / "reference_graphs.json"

# Same kernels on two cores: what is relative is the same.
_KERNELS = {"cortex-m4-cmsis-nn": "cmsis-nn", "cortex-m33-cmsis-nn": "cmsis-nn"}
# Groups whose models do not fit into the caches.
_WITH_BANDWIDTH = ("xnnpack", "dotprod")

Graphs = dict[tuple[str, str], list[OperatorWork]]


@dataclass(frozen=True)
class Row:
    """One published latency."""

    board: str
    runtime: str
    group: str
    family: str
    core: str
    clock_hz: float
    threads: int
    bar: bool
    source: str
    model: str
    dtype: Dtype
    ms: float

    @property
    def kernels(self) -> str:
        """Rows with the same ones share what is relative."""
        return _KERNELS.get(self.family, self.family) if self.group == "open-mcu" else self.group

    @property
    def system(self) -> tuple[str, str]:
        """Board and runtime, whatever the number of threads."""
        return self.board, self.runtime

    @property
    def speed_key(self) -> tuple[str, ...]:
        """Rows with the same key share cycles per MAC."""
        return ("cycles_per_mac", self.board, self.runtime, self.dtype)

    @property
    def bandwidth_key(self) -> tuple[str, ...] | None:
        """Rows with the same key share cycles per byte."""
        return ("cycles_per_byte", self.board) if self.group in _WITH_BANDWIDTH else None


def read_rows(path: Path = ROWS) -> list[Row]:
    """Every published latency."""
    rows = []
    for board in tomllib.loads(path.read_text(encoding="utf-8"))["board"]:
        for dtype in ("float32", "int8"):
            rows += [
                Row(
                    board["name"], board["runtime"], board["group"], board["family"], board["core"],
                    board["clock_hz"], board.get("threads", 1), board["bar"], board["source"], model, dtype, float(ms),
                )
                for model, ms in board.get(dtype, {}).items()
            ]  # fmt: skip
    return rows


def read_graphs(path: Path = GRAPHS) -> Graphs:
    """Model and dtype -> its operators."""
    table = json.loads(path.read_text(encoding="utf-8"))
    columns = table.pop("columns")
    graphs = {}
    for key, rows in table.items():
        model, dtype = key.rsplit(" ", 1)
        graphs[model, dtype] = [
            OperatorWork(layer=f"operator {index}", dtype=dtype, **dict(zip(columns, row, strict=True)))
            for index, row in enumerate(rows)
        ]
    return graphs
