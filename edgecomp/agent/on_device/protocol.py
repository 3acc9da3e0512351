"""What the agent says, and why it gives up: one JSON object a line, each starting with MARK.

Nothing else on stdout counts, so neither what a shell prints at login nor what a runtime prints can be taken for a
result.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

MARK = b'{"edgecomp": 1, '

Say = Callable[..., None]


class AgentError(Exception):
    """Why there is no measurement; `code` tells the host what kind of error it is."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def first_line(error: BaseException) -> str:
    """An exception on one line of reasonable length, without the full stop."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def open_protocol() -> Say:
    """Take stdout for messages; everything that libraries print goes to stderr from now on."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    protocol.write(b"\n")  # Whatever was printed before this file ran may lack its newline.

    def say(kind: str, **values: Any) -> None:
        text = json.dumps(dict(values, type=kind), allow_nan=False)
        protocol.write(MARK + text[1:].encode("ascii") + b"\n")
        protocol.flush()

    return say
