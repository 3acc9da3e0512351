"""What the hardware of a device is: its processor, memory, accelerator and power, with the range of every figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from edgecomp.errors import UsageError
from edgecomp.profile_files import arena_region
from edgecomp.units import parse_bytes

_SIZE_PATTERN = r"^\s*([0-9][0-9_]*(\.[0-9]+)?|\.[0-9]+)\s*(([kKmMgG][iI]?)?[bB])?\s*$"


def _between(low: float, high: float, said: str) -> Callable[[object], int | float]:
    """A validator for a number within a range; whole numbers where `low` is one."""
    kinds = int if isinstance(low, int) else (int, float)

    def check(value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise ValueError(f"must be {said}")
        return value

    return check


def _size(least: int) -> Callable[[object], int | float]:
    check = _between(least, 10**12 - 1, f'bytes from {least} to 1 TB, as a number or like "640KiB"')

    def parse(value: object) -> int | float:
        if isinstance(value, str):
            try:
                return check(parse_bytes(value))
            except UsageError as error:
                raise ValueError(error.message.removesuffix(".")) from error
        return check(value)

    return parse


def _size_schema(least: int) -> dict[str, Any]:
    return {
        "anyOf": [
            {"type": "integer", "minimum": least, "maximum": 10**12 - 1},
            {"type": "string", "pattern": _SIZE_PATTERN},
        ]
    }


Bytes = Annotated[int, BeforeValidator(_size(1)), WithJsonSchema(_size_schema(1))]
ReservedBytes = Annotated[int, BeforeValidator(_size(0)), WithJsonSchema(_size_schema(0))]
Count = Annotated[
    int,
    BeforeValidator(_between(1, 256, "a whole number from 1 to 256")),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 256}),
]
Hertz = Annotated[
    int,
    BeforeValidator(_between(10**6, 10**10, "whole hertz from 1000000 (1 MHz) to 10000000000 (10 GHz)")),
    WithJsonSchema({"type": "integer", "minimum": 10**6, "maximum": 10**10}),
]
Milliwatts = Annotated[
    float,
    BeforeValidator(_between(0.01, 1e6, "milliwatts from 0.01 to 1000000")),
    WithJsonSchema({"type": "number", "minimum": 0.01, "maximum": 1e6}),
]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class ProfileTable(BaseModel):
    """A table of a profile: unknown keys are errors, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cpu(ProfileTable):
    """The processor."""

    architecture: Literal[
        "aarch64", "armv7l", "armv6l", "x86_64",
        "armv6m", "armv7em", "armv8m", "armv8.1m", "xtensa", "riscv32",
    ] = Field(description="As `uname -m` prints it, or the architecture of a microcontroller.")  # fmt: skip
    core: Text = Field(description='The core that does the work: "cortex-a72".')
    cores: Count = Field(description="All cores.")
    big_cores: Count = Field(
        default_factory=lambda stated: stated.get("cores", 1),
        description="Cores that a benchmark is pinned to; all of them unless there are smaller ones.",
    )
    clock_hz: Hertz = Field(description="Highest clock of the big cores.")
    part_ids: tuple[Text, ...] = Field(
        default=(), description='"CPU part" values of /proc/cpuinfo; a timing from another part is not this device\'s.'
    )
    features: tuple[Text, ...] = Field(default=(), description="What its arithmetic units can do: neon, dotprod, dsp.")

    @field_validator("part_ids")
    @classmethod
    def _hexadecimal(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for part in value:
            if not part.startswith("0x"):
                raise ValueError(f'part ids are written like "0xd08", got {part!r}')
        return value

    @model_validator(mode="after")
    def _not_more_big_ones(self) -> Cpu:
        if self.big_cores > self.cores:
            raise ValueError(f"big_cores must be from 1 to cores ({self.cores}), got {self.big_cores}")
        return self


class Region(ProfileTable):
    """One run of memory with one kind of address: SRAM, TCM, flash, PSRAM."""

    kind: Literal["ram", "flash"]
    bytes: Bytes = Field(description="All of it.")
    reserved_bytes: ReservedBytes = Field(default=0, description="What firmware, system and stack already take.")
    external: StrictBool = Field(default=False, description="Behind a bus, hence slow: PSRAM, QSPI flash.")

    @model_validator(mode="after")
    def _something_is_left(self) -> Region:
        if self.reserved_bytes >= self.bytes:
            raise ValueError(
                f"reserved_bytes must be from 0 to below bytes ({self.bytes}), got {self.reserved_bytes}: "
                "nothing is left for a model"
            )
        return self

    @property
    def usable_bytes(self) -> int:
        """What is left for a model."""
        return self.bytes - self.reserved_bytes


class Memory(ProfileTable):
    """Regions by name. A region of flash is there only where storage is a limit: not for an SD card or a phone."""

    regions: dict[Name, Region]
    arena: Name | None = Field(
        default=None, description="RAM region of the tensor arena; the largest internal one if left out."
    )

    @model_validator(mode="after")
    def _arena_is_ram(self) -> Memory:
        ram = [name for name, region in self.regions.items() if region.kind == "ram"]
        if not ram:
            raise ValueError('regions needs one of kind "ram"')
        if self.arena is not None and self.arena not in ram:
            raise ValueError(f"arena must name a region of kind ram ({', '.join(ram)}), got {self.arena!r}")
        return self

    @property
    def arena_region(self) -> str:
        """The region that takes the tensor arena, which lies in one piece."""
        ram = {n: (r.usable_bytes, r.external) for n, r in self.regions.items() if r.kind == "ram"}
        return self.arena or arena_region(ram)

    @property
    def usable_ram_bytes(self) -> int:
        """RAM left for the model's tensors, in one piece."""
        return self.regions[self.arena_region].usable_bytes

    @property
    def usable_flash_bytes(self) -> int | None:
        """Flash left for the model file, or None where storage is no limit."""
        flash = [region.usable_bytes for region in self.regions.values() if region.kind == "flash"]
        return sum(flash) if flash else None


class Npu(ProfileTable):
    """An accelerator beside the processor."""

    name: Text = Field(description='"ethos-u55-128", "edgetpu".')
    accelerator_config: Text | None = Field(default=None, description="Vela's --accelerator-config.")
    system_config: Text | None = Field(default=None, description="Vela's --system-config.")
    memory_mode: Text | None = Field(default=None, description="Vela's --memory-mode.")
    sram_bytes: Bytes | None = Field(default=None, description="Memory of its own.")


class Power(ProfileTable):
    """What the device draws."""

    active_mw: Milliwatts = Field(description="While it computes.")
