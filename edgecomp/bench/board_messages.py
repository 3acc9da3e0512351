"""What a board without a shell says, one JSON object a line: docs/attached.md, checked on arrival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from edgecomp.errors import BenchmarkError
from edgecomp.transports import one_line

# What a board says ends up in messages and on a terminal.
Said = Annotated[str, BeforeValidator(lambda value: one_line(value) if isinstance(value, str) else value)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class BoardHello(_Message):
    """What runs: the first thing that a board says in a round.

    Attributes:
        model_sha256: Of the model that the firmware was built with.
        core: As in a profile: "cortex-m4f".
        kernels: "reference", "cmsis-nn", ...; None if not known.
        clock_hz: Needed where times are in cycles.
    """

    type: Literal["hello"]
    model_sha256: Said
    core: Said
    runtime: Said
    runtime_version: Said | None = None
    kernels: Said | None = None
    clock_hz: float | None = Field(default=None, gt=0)


class BoardGolden(_Message):
    """The stored outputs of one golden sample: one flat list for each output."""

    type: Literal["golden"]
    sample: int = Field(ge=0)
    outputs: tuple[tuple[float, ...], ...]


class BoardTime(_Message):
    """One inference: microseconds, or cycles of the clock that "hello" states."""

    type: Literal["time"]
    us: float | None = Field(default=None, gt=0)
    cycles: int | None = Field(default=None, gt=0)


class BoardDone(_Message):
    """The round is over."""

    type: Literal["done"]


class BoardError(_Message):
    """Why the board gives up."""

    type: Literal["error"]
    message: Said


_SAID: TypeAdapter[BoardHello | BoardGolden | BoardTime | BoardDone | BoardError] = TypeAdapter(
    Annotated[BoardHello | BoardGolden | BoardTime | BoardDone | BoardError, Field(discriminator="type")]
)


@dataclass(frozen=True)
class BoardRound:
    """All that a board said from one reset to its "done"."""

    hello: BoardHello
    golden: Mapping[int, BoardGolden]
    samples_us: tuple[float, ...]


def read_round(messages: Sequence[Any], who: str) -> BoardRound:
    """The messages of one round.

    Args:
        messages: Parsed JSON.
        who: The board, for an error that it reports itself.

    Raises:
        BenchmarkError: The board gave up.
        ValueError: Something is missing, or is not what a board says.
    """
    hello: BoardHello | None = None
    golden: dict[int, BoardGolden] = {}
    samples_us: list[float] = []
    for message in messages:
        said = _SAID.validate_python(message)
        if isinstance(said, BoardError):
            raise BenchmarkError(f"{who} gave up: {said.message.rstrip('.')}.")
        if isinstance(said, BoardHello):
            hello = said
        elif isinstance(said, BoardGolden):
            golden[said.sample] = said
        elif isinstance(said, BoardTime):
            samples_us.append(_microseconds(said, hello))
    if hello is None:
        raise ValueError('the board did not say "hello"')
    if not samples_us:
        raise ValueError("the board timed no inference")
    return BoardRound(hello, golden, tuple(samples_us))


def _microseconds(said: BoardTime, hello: BoardHello | None) -> float:
    if said.us is not None:
        return said.us
    if said.cycles is None or hello is None or hello.clock_hz is None:
        raise ValueError('a time has "us", or "cycles" after a "hello" with "clock_hz"')
    return said.cycles / hello.clock_hz * 1e6
