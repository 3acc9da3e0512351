"""Boards that cannot be had here: what their commands print, from public sources, and a stand-in that says it again."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from edgecomp.facts import FACTS
from edgecomp.transports import CommandResult

FOLDER = Path(__file__).parent / "boards"
BOARDS = sorted(path.stem for path in FOLDER.glob("*.toml"))


@dataclass(frozen=True)
class Board:
    """One file of tests/boards.

    Attributes:
        profile: What a probe must extend; None where it must refuse.
        is_known: Whether that profile is of this board or its processor.
        outputs: Name of a fact -> what its command prints.
        values: Name of a fact -> what the parser must make of it, as plain values.
        sources: Name of a fact -> where the output is from.
    """

    profile: str | None
    is_known: bool
    outputs: dict[str, str]
    values: dict[str, Any]
    sources: dict[str, str]


def load_board(name: str) -> Board:
    table = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    records = {record["fact"]: record for record in table["record"]}
    assert len(records) == len(table["record"]), f"{name}: a fact is recorded twice"
    return Board(
        profile=table.get("profile"),
        is_known=table["is_known"],
        outputs={fact: record["output"] for fact, record in records.items()},
        values={fact: record["value"] for fact, record in records.items()},
        sources={fact: record["source"] for fact, record in records.items()},
    )


def plain(value: Any) -> Any:
    """A parsed value as the files write it: without what is None, flags as one text, "?" for an unknown version."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {key: item for key, item in asdict(value).items() if item is not None}
        for key, item in value.items():
            value[key] = " ".join(item) if key == "flags" else plain(item)
        return value
    if isinstance(value, dict):
        return {key: "?" if item is None else plain(item) for key, item in value.items() if key != "core_key" or item}
    if isinstance(value, list | tuple):
        return [
            plain({key: part for key, part in item.items() if part is not None} if isinstance(item, dict) else item)
            for item in value
        ]
    return value


class RecordedDevice:
    """Stands in for a board: answers the commands of a probe with what was recorded, those without with "not found"."""

    def __init__(self, outputs: dict[str, str], host: str = "pi@board") -> None:
        self.host = host
        self.outputs = outputs
        self.calls: list[list[str]] = []

    def run(self, argv, *, timeout_s, stdin=b"", hold_stdin=False, on_line=None):
        self.calls.append(list(argv))
        shell, option, end, mark, _python = argv
        assert (shell, option, end) == ("sh", "-s", "--")
        said = ["Welcome to this board!\n"]
        for fact in FACTS:
            output, code = (self.outputs[fact.name], 0) if fact.name in self.outputs else ("", 127)
            said.append(f"\n{mark} begin {fact.name}\n{output}\n{mark} end {code}\n")
        return CommandResult(0, "".join(said).encode(errors="surrogateescape"), b"")


def board(name, **outputs):
    """A recorded board, some of its outputs replaced; None takes one away."""
    texts = load_board(name).outputs | outputs
    return RecordedDevice({fact: text for fact, text in texts.items() if text is not None})


def without_name(name: str) -> str:
    """/proc/cpuinfo of a board, but for what the board calls itself."""
    return re.sub(r"(?m)^(Hardware|Model).*$", "", load_board(name).outputs["cpuinfo"])
