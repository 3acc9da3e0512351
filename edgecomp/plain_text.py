"""Text that a device or another program gave us, made fit for a message and a terminal."""

from __future__ import annotations

import re

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")


def one_line(text: str | bytes, *, most_chars: int = 400) -> str:
    """Text on one line and without anything that a terminal obeys.

    Escape sequences go, every other control or formatting character (also those that turn the direction of writing)
    becomes a space, as do line ends; what is not UTF-8 becomes U+FFFD.

    Args:
        text: As it arrived.
        most_chars: More is cut off, with a sign that it was.
    """
    if isinstance(text, bytes):
        # Nothing longer can matter, and some of it may go.
        text = text[: 16 * most_chars].decode(errors="replace")
    text = _ESCAPE_SEQUENCE.sub("", text[: 16 * most_chars])
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"
