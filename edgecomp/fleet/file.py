"""fleet.toml: which devices there are, how each is reached, and what it is."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from edgecomp.bench.attached import Attachment
from edgecomp.bench.engines import Engine, EngineName
from edgecomp.errors import UsageError, did_you_mean
from edgecomp.profile import DeviceProfile, load_profile

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Argv = Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Attached(_Table):
    """How a board without a shell is flashed and run from its host; see `bench.attached.Attachment`."""

    flash: Argv | None = None
    run: Argv | None = None
    serial: str | None = None
    baud: int = Field(default=115200, ge=300, le=4_000_000)
    files: tuple[str, ...] = ()
    round_seconds: float = Field(default=120.0, gt=0, le=3600)

    @model_validator(mode="after")
    def _speaks(self) -> _Attached:
        if self.run is None and self.serial is None:
            raise ValueError("needs run (a command) or serial (a port): the board has to say something")
        return self


class Target(_Table):
    """One device.

    Attributes:
        host: As for --host; of a board its host's.
        profile: Name of a profile, or a .toml beside the file.
        kind: "attached" for a board without a shell.
        tags: To choose it by.
        python: On the host.
        engine, benchmark_model: What measures; see `bench.engines.Engine`.
        wheels: Folder of wheels beside the file, to install a runtime from where none works.
        identity, known_hosts: As the options of the same names; files beside the file.
        before, after: Commands that run on the host, argument vectors; `after` whatever happens.
        attached: Of a board.
    """

    host: Annotated[str, StringConstraints(min_length=1)]
    profile: Annotated[str, StringConstraints(min_length=1)]
    kind: Literal["linux", "attached"] = "linux"
    tags: tuple[Annotated[str, StringConstraints(pattern=NAME_PATTERN)], ...] = ()
    python: Annotated[str, StringConstraints(min_length=1)] = "python3"
    engine: EngineName = "auto"
    benchmark_model: Annotated[str, StringConstraints(min_length=1)] | None = None
    wheels: str | None = None
    identity: str | None = None
    known_hosts: str | None = None
    before: tuple[Argv, ...] = ()
    after: tuple[Argv, ...] = ()
    attached: _Attached | None = None

    @model_validator(mode="after")
    def _attached_or_not(self) -> Target:
        if (self.kind == "attached") != (self.attached is not None):
            raise ValueError('kind = "attached" and a table [targets.NAME.attached] go together')
        if self.attached is not None and (self.engine, self.benchmark_model) != ("auto", None):
            raise ValueError("engine and benchmark_model are for devices with an operating system")
        if self.engine == "interpreter" and self.benchmark_model is not None:
            raise ValueError('benchmark_model is of no use to engine = "interpreter"')
        return self

    @property
    def measured_by(self) -> Engine:
        """The engine."""
        return Engine(self.engine, self.benchmark_model)


class _File(_Table):
    targets: dict[Annotated[str, StringConstraints(pattern=NAME_PATTERN)], Target] = Field(min_length=1)


@dataclass(frozen=True)
class Fleet:
    """The targets of a file by name, and the folder that its relative paths start from."""

    path: Path
    targets: dict[str, Target]

    def tagged(self, tags: Sequence[str]) -> Fleet:
        """Those that have one of the tags; all without any.

        Raises:
            UsageError: A tag that no target has.
        """
        known = {tag for target in self.targets.values() for tag in target.tags}
        for tag in tags:
            if tag not in known:
                raise UsageError(f"No target of {self.path} has the tag {tag!r}.", hint=did_you_mean(tag, known))
        if not tags:
            return self
        return Fleet(self.path, {name: item for name, item in self.targets.items() if set(tags) & set(item.tags)})

    def beside(self, name: str) -> Path:
        """A path of the file, which starts where the file lies."""
        return self.path.parent / Path(name).expanduser()

    def profile(self, target: Target) -> DeviceProfile:
        """The profile of a target. Raises ProfileError."""
        own = self.beside(target.profile)
        return load_profile(str(own) if target.profile.endswith(".toml") else target.profile)

    def attachment(self, name: str) -> Attachment:
        """How a board is flashed and run, with its files read.

        Raises:
            UsageError: The target is no board, or a file cannot be read.
        """
        table = self.targets[name].attached
        if table is None:
            raise UsageError(f"{self.path}: targets.{name} is no board.")
        files = {}
        for entry in table.files:
            path = self.beside(entry)
            try:
                files[path.name] = path.read_bytes()
            except OSError as error:
                raise UsageError(f"{self.path}: targets.{name}.attached.files: {path}: {error.strerror}.") from error
        return Attachment(table.flash, table.run, table.serial, table.baud, files, table.round_seconds)


def read_fleet(path: Path) -> Fleet:
    """Read and check a file; nothing is connected to.

    Raises:
        UsageError: It cannot be read, is not TOML, or a key is missing, unknown or has a wrong value: which, and where.
        ProfileError: A target names a profile that does not exist.
    """
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The fleet {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    try:
        fleet = Fleet(path, _File.model_validate(plain).targets)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]") or "the file"
        said = problem["msg"].removeprefix("Value error, ")
        raise UsageError(f"{path}: {where}: {said}.", hint="docs/fleet.md lists the keys.") from error
    for target in fleet.targets.values():
        fleet.profile(target)
    return fleet
