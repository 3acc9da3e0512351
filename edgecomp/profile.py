"""Device profiles: what a target is, written as one short TOML file each.

A profile names the chip AND the runtime: on one microcontroller the same model takes four times longer under one
runtime than under another. It holds facts and defaults, never code paths.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from edgecomp.errors import ProfileError, UsageError, did_you_mean
from edgecomp.resources import resource_folder
from edgecomp.units import Drop, parse_bytes, parse_drop


class Precision(StrEnum):
    """How weights and activations are stored; the names are those of TFLite."""

    FLOAT32 = "FLOAT32"
    FLOAT16 = "FLOAT16"
    DYNAMIC_RANGE = "DYNAMIC_RANGE"
    INT8 = "INT8"
    INT16X8 = "INT16X8"
    INT4_WEIGHTS = "INT4_WEIGHTS"
    SELECTIVE = "SELECTIVE"


def _bytes(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_bytes(value)
        except UsageError as error:
            raise ValueError(error.message) from error
    return value


def _drop(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_drop(value)
        except UsageError as error:
            raise ValueError(error.message) from error
    return value


Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
ReservedBytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Cpu(_Table):
    """The processor. `part_ids` are the "CPU part" values of /proc/cpuinfo, empty for a microcontroller."""

    architecture: Literal["aarch64", "armv7l", "x86_64", "armv7em", "armv6m", "armv8m", "xtensa", "riscv32"]
    core: str
    cores: int = Field(gt=0)
    clock_hz: int = Field(gt=0)
    part_ids: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    @field_validator("part_ids")
    @classmethod
    def _hexadecimal(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for part in value:
            if not part.startswith("0x"):
                raise ValueError(f'part ids are written like "0xd08", got {part!r}')
        return value


class Memory(_Table):
    """Bytes on the device and how many of them firmware, operating system and stack already take.

    `flash_bytes` is None where storage is no limit (SD card, phone).
    """

    ram_bytes: Bytes
    reserved_ram_bytes: ReservedBytes = 0
    flash_bytes: Bytes | None = None
    reserved_flash_bytes: ReservedBytes = 0

    @model_validator(mode="after")
    def _reserve_fits(self) -> Memory:
        if self.reserved_ram_bytes >= self.ram_bytes:
            raise ValueError("reserved_ram_bytes leaves no RAM for a model")
        if self.flash_bytes is not None and self.reserved_flash_bytes >= self.flash_bytes:
            raise ValueError("reserved_flash_bytes leaves no flash for a model")
        return self

    @property
    def usable_ram_bytes(self) -> int:
        """RAM left for the model's tensors."""
        return self.ram_bytes - self.reserved_ram_bytes

    @property
    def usable_flash_bytes(self) -> int | None:
        """Flash left for the model file, or None where storage is no limit."""
        return None if self.flash_bytes is None else self.flash_bytes - self.reserved_flash_bytes


class Runtime(_Table):
    """What runs the model.

    `int4_weight_operators` are the operators whose kernels take 4-bit weights. `custom_operators`: whether operators
    outside the builtin set (Select TF operators among them) can run; `dynamic_shapes` and `resource_variables`
    likewise.
    """

    name: Literal["litert", "tflm"]
    delegate: Literal["xnnpack"] | None = None
    int4_weight_operators: tuple[str, ...] = ()
    custom_operators: bool = False
    dynamic_shapes: bool = False
    resource_variables: bool = False


class Precisions(_Table):
    """Post-training precisions in the order in which they are tried.

    `fallback` ones are tried only when every one of `order` breaks a limit, or when they are asked for.
    """

    order: tuple[Precision, ...] = Field(min_length=1)
    fallback: tuple[Precision, ...] = ()
    io: Literal["float32", "int8", "uint8"]

    @model_validator(mode="after")
    def _no_repeats(self) -> Precisions:
        both = self.order + self.fallback
        if len(set(both)) != len(both):
            raise ValueError("a precision is listed twice")
        return self

    @property
    def supported(self) -> tuple[Precision, ...]:
        """All that the device runs, in order."""
        return self.order + self.fallback


class DefaultLimits(_Table):
    """Limits that hold unless the user says otherwise."""

    max_accuracy_drop: Annotated[Drop, BeforeValidator(_drop)] = Drop(0.01)


class DeviceProfile(_Table):
    """One target: chip, memory, runtime and what they can do."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    description: str
    kind: Literal["linux", "android", "mcu"]
    cpu: Cpu
    memory: Memory
    runtime: Runtime
    precisions: Precisions
    limits: DefaultLimits = DefaultLimits()
    sources: dict[str, str] = Field(description="key -> where its figure comes from, or 'unverified'")

    _text: str = PrivateAttr(default="")

    @property
    def text(self) -> str:
        """The file that the profile was read from, word by word."""
        return self._text

    @model_validator(mode="after")
    def _consistent(self) -> DeviceProfile:
        if self.kind == "mcu" and self.memory.flash_bytes is None:
            raise ValueError("memory.flash_bytes is required for a microcontroller")
        return self


def profile_names() -> list[str]:
    """Names of the profiles that ship with edgecomp."""
    return sorted(path.stem for path in resource_folder("device_profiles").glob("*.toml"))


def load_profile(name_or_path: str) -> DeviceProfile:
    """Load a profile by name, or a user's own by path (anything that ends in .toml).

    Raises:
        ProfileError: Unknown name (with the closest one), or a file with a wrong key or value (with file and key).
    """
    if name_or_path.endswith(".toml"):
        return read_profile(Path(name_or_path))
    if name_or_path not in profile_names():
        raise ProfileError(
            f"Unknown device {name_or_path!r}.",
            hint=did_you_mean(name_or_path, profile_names()) + " A path that ends in .toml names your own profile.",
        )
    return read_profile(resource_folder("device_profiles") / f"{name_or_path}.toml")


def read_profile(path: Path) -> DeviceProfile:
    """Read and validate one profile file.

    Raises:
        ProfileError: The file is missing, is not TOML, or a key or value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid TOML: {error}.") from error
    try:
        profile = DeviceProfile.model_validate(table)
    except ValidationError as error:
        raise ProfileError(f"{path}: {_explain(error)}", hint="See docs/profiles.md for every key.") from error
    profile._text = text
    return profile


def _explain(error: ValidationError) -> str:
    sentences = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "the profile"
        if problem["type"] == "extra_forbidden":
            sentences.append(f"unknown key {key}")
        elif problem["type"] == "missing":
            sentences.append(f"{key} is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            got = "" if isinstance(problem["input"], dict | DeviceProfile) else f", got {problem['input']!r}"
            sentences.append(f"{key}: {message}{got}")
    return "; ".join(sentences) + "."
