"""A measurement of an earlier day, read from its file, and whether one of today can be compared with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgecomp.errors import UsageError
from edgecomp.plain_text import one_line

SCHEMA = "edgecomp.measurement/2"

_HINT = "Write one on the device with: edgecomp bench BUNDLE --host HOST --result FILE"


class MachineFacts(Protocol):
    """What is compared of a machine; `agent.remote.DeviceFacts` has it."""

    @property
    def architecture(self) -> str:
        """Of Python and the runtime."""

    @property
    def cpu_part_ids(self) -> Sequence[str]:
        """Empty on x86."""

    @property
    def cpu_model(self) -> str | None:
        """Board or processor; None if not known."""

    @property
    def kernel(self) -> str:
        """Release of the operating system."""


class Measured(Protocol):
    """What limits and comparisons look at of a measurement."""

    @property
    def device(self) -> str:
        """Name of the profile."""

    @property
    def chosen(self) -> str:
        """Name of the candidate."""

    @property
    def bundle(self) -> str:
        """Path that it came from."""

    @property
    def model_sha256(self) -> str:
        """Of the file that ran."""

    @property
    def num_threads(self) -> int:
        """Of the interpreter."""

    @property
    def on(self) -> str:
        """The machine."""

    @property
    def runtime(self) -> str:
        """Name of the runtime."""

    @property
    def runtime_version(self) -> str | None:
        """None where it does not tell."""

    @property
    def verdict(self) -> str:
        """`valid`, or why not."""

    @property
    def facts(self) -> MachineFacts:
        """The machine."""

    @property
    def processes_us(self) -> Sequence[Sequence[float]]:
        """Microseconds of every inference by fresh process."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    # A baseline may come with a pull request, and what it says ends up on a terminal.
    @field_validator("*", mode="before")
    @classmethod
    def _no_control_characters(cls, value: object) -> object:
        return one_line(value) if isinstance(value, str) else value


class BaselineFacts(_Model):
    """The machine of a baseline."""

    architecture: str
    cpu_part_ids: tuple[str, ...]
    cpu_model: str | None
    kernel: str


class BaselineMeasurement(_Model):
    """One measurement of a baseline, as far as it is compared."""

    device: str
    chosen: str
    bundle: str
    model_sha256: str
    num_threads: int = Field(ge=1)
    on: str
    runtime: str
    runtime_version: str | None
    verdict: str
    facts: BaselineFacts
    processes_us: tuple[Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)], ...] = Field(
        min_length=1
    )


class _File(_Model):
    json_schema: Literal["edgecomp.measurement/2"] = Field(alias="schema")
    measurements: tuple[BaselineMeasurement, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Baseline:
    """What a file of results holds.

    Attributes:
        path: The file.
        measurements: All of them; not every one need be valid.
    """

    path: Path
    measurements: tuple[BaselineMeasurement, ...]

    def counterpart(self, measured: Measured, *, needs_name: bool = False) -> BaselineMeasurement:
        """The measurement that one of today is compared with: same profile, same number of threads, same bundle name.

        The model may be another: that is what is compared. Where there are several, the one from the same host is
        taken, then the one of the candidate of the same name.

        Args:
            measured: Of today.
            needs_name: Several bundles are measured today. If neither side has more than one, its name may change.

        Raises:
            UsageError: There is none, or several, or it is not valid, or it was taken on another kind of machine.
        """
        found = [one for one in self.measurements if _place(one) == _place(measured)]
        if needs_name or len({bundle_name(one) for one in self.measurements}) > 1:
            found = [one for one in found if bundle_name(one) == bundle_name(measured)]
        if not found:
            raise UsageError(
                f"{self.path} has no measurement of {_configuration(measured)}.",
                hint=f"It has {', '.join(sorted({_configuration(one) for one in self.measurements}))}.",
            )
        for name in ("on", "chosen"):
            found = [one for one in found if getattr(one, name) == getattr(measured, name)] or found
        if len(found) > 1:
            raise UsageError(
                f"{self.path} has {len(found)} measurements of {_configuration(measured)} to compare with."
            )
        past = found[0]
        if past.verdict != "valid":
            raise UsageError(
                f"{self.path}: nothing can be compared with its measurement of {_configuration(past)}, "
                f"which is {past.verdict.replace('_', ' ')}.",
                hint=_HINT,
            )
        different = machine_differences(past.facts, measured.facts)
        if different:
            raise UsageError(
                f"{self.path} was measured on another kind of machine: {'; '.join(different)}.", hint=_HINT
            )
        return past


def bundle_name(measured: Measured) -> str:
    """File name of the bundle; a folder and its .zip are the same one."""
    return Path(measured.bundle).name.removesuffix(".zip")


def read_baseline(path: Path) -> Baseline:
    """Read a file that `edgecomp bench --result` (or `--json`) has written.

    Raises:
        UsageError: It cannot be read, is damaged, has another schema, or nothing in it is valid.
    """
    try:
        plain = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"The baseline {path} cannot be read: {error.strerror}.", hint=_HINT) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The baseline {path} is damaged: it is not JSON.", hint=_HINT) from error
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if schema != SCHEMA:
        raise UsageError(f"The baseline {path} has to be {SCHEMA}, its schema is {schema!r}.", hint=_HINT)
    try:
        measurements = _File.model_validate(plain).measurements
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"The baseline {path} is damaged: {where}: {first['msg']}.", hint=_HINT) from error
    if all(one.verdict != "valid" for one in measurements):
        verdicts = ", ".join(sorted({one.verdict for one in measurements}))
        raise UsageError(f"The baseline {path} has no valid measurement ({verdicts}).", hint=_HINT)
    return Baseline(path, measurements)


def machine_differences(past: MachineFacts, now: MachineFacts) -> tuple[str, ...]:
    """In what two machines are of another kind, so that their times are no matter of the model; usually empty."""
    pairs = (
        ("architecture", past.architecture, now.architecture),
        ("CPU parts", " ".join(sorted(past.cpu_part_ids)), " ".join(sorted(now.cpu_part_ids))),
        ("model", past.cpu_model, now.cpu_model),
    )
    return tuple(f"{name} {old or 'unknown'}, now {new or 'unknown'}" for name, old, new in pairs if old != new)


def comparison_notes(past: Measured, now: Measured) -> tuple[str, ...]:
    """What else is not as it was, one sentence each: it may explain a change, and does not forbid the comparison."""
    notes = []
    if past.model_sha256 == now.model_sha256:
        notes.append("It is the very file of the baseline: what changed is not the model.")
    if past.on != now.on:
        notes.append(f"The baseline was measured on {past.on}, another machine of the same kind.")
    runtimes = [f"{one.runtime} {one.runtime_version or ''}".strip() for one in (past, now)]
    if runtimes[0] != runtimes[1]:
        notes.append(f"The runtime was {runtimes[0]} and is {runtimes[1]} now.")
    if past.facts.kernel != now.facts.kernel:
        notes.append(f"The kernel was {past.facts.kernel} and is {now.facts.kernel} now.")
    return tuple(notes)


def _place(measured: Measured) -> tuple[str, int]:
    return measured.device, measured.num_threads


def _configuration(measured: Measured) -> str:
    threads = f"{measured.num_threads} thread{'' if measured.num_threads == 1 else 's'}"
    return f"{bundle_name(measured)} for {measured.device} with {threads}"
