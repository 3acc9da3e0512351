"""The tables: what a runtime said to each operator and types. Small JSON files, read once and only if needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Status = Literal["runs", "refuses", "wrong", "absent", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What a runtime does with an operator and types.

    Attributes:
        status: "wrong": it runs, but computes something else than LiteRT. "unknown": nobody asked.
        line: The runtime's own line where it does not run.
    """

    status: Status
    line: str = ""


class Table:
    """One table.

    Attributes:
        runtime, version: Who was asked: the package and its version, "" for published rules.
        customs: Custom operators that it has.
        constraints: Published conditions by operator; "" for those that hold for all.
    """

    def __init__(self, content: dict[str, Any], head: dict[str, Any]) -> None:
        self.runtime: str = head.get("runtime", "")
        self.version: str = head.get("version", "")
        self.customs = frozenset(content.get("custom", ()))
        self.constraints: dict[str, list[str]] = content.get("constraints", {})
        self._operators: dict[str, Any] = content["operators"]
        self._absent = {code: line for line, codes in content.get("absent", {}).items() for code in codes}

    @property
    def asked(self) -> str:
        """Who was asked, for a sentence."""
        return f"{self.runtime} {self.version}"

    def operators(self) -> list[str]:
        """Operators with an entry of their own."""
        return list(self._operators)

    def verdict(self, code: str, types: str) -> Verdict:
        """What is known about an operator with these types."""
        if code in self._absent:
            return Verdict("absent", self._absent[code].replace("{operator}", code))
        entry = self._operators.get(code)
        if entry is None:
            return Verdict("unknown")
        for key in _alternatives(types):
            if key in entry.get("runs", ()):
                return Verdict("runs")
            for line, kinds in entry.get("wrong", {}).items():
                if key in kinds:
                    return Verdict("wrong", line)
            for line, kinds in entry.get("refuses", {}).items():
                if key in kinds:
                    return Verdict("refuses", line)
        return Verdict("unknown")

    def takes(self, code: str, types: str) -> bool:
        """Whether it is known to run."""
        return self.verdict(code, types).status == "runs"

    def versions(self, code: str) -> tuple[int, int] | None:
        """Lowest and highest version of an operator that the runtime knows, if it tells them apart."""
        found = self._operators.get(code, {}).get("versions")
        return None if not found else (found[0], found[1])


def _alternatives(types: str) -> tuple[str, ...]:
    """Where only the other granularity of the weights was asked, its answer stands in."""
    if "x" not in types:
        return (types,)
    single = types.removesuffix("_PER_TENSOR")
    return (types, f"{single}_PER_TENSOR" if single == types else single)


@cache
def load_table(name: str, family: str | None = None) -> Table:
    """The table `name`, of one member of a family of devices where it holds several."""
    text = files("edgecomp.support").joinpath("tables", f"{name}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return Table(content if family is None else content["families"][family], content)
