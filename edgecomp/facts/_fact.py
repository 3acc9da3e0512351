"""What a fact is: a command for the device, and a pure parser of what it prints.

Everything that a device prints is foreign text. It is parsed here, once, into numbers, known words and text that is
safe to show and to store.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from edgecomp.plain_text import one_line

T = TypeVar("T")

PYTHON: Final = "\0python"
"""In a fact's command: the interpreter that the user names."""


@dataclass(frozen=True)
class Fact(Generic[T]):
    """One thing to ask a device.

    Attributes:
        name: Of the fact, in results and recorded outputs.
        argv: The command; constant but for `PYTHON`. It gets no stdin, and what it says on stderr is dropped.
        parse: stdout -> value; None where the text does not tell. Never raises.
        source: Where the value comes from, as people write it: "/proc/meminfo"; "no ..." is said where it is missing.
    """

    name: str
    argv: tuple[str, ...]
    parse: Callable[[str], T | None]
    source: str


def clean(text: str, most: int = 120) -> str:
    """Foreign text on one line, without anything that a terminal obeys, cut to `most` characters."""
    return one_line(text, most_chars=most)


def cleaned(text: str) -> str | None:
    """`clean`, as a parser: None where nothing is left."""
    return clean(text) or None


def number(text: str) -> int | None:
    """A whole number of at most 15 digits; None for anything else."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else None


def number_list(text: str) -> tuple[int, ...]:
    """Linux' lists of processors: "0-2,5" -> (0, 1, 2, 5). What makes no sense is left out."""
    found: set[int] = set()
    for part in text[:1000].replace(" ", ",").split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
        if match:
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))
