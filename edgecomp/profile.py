"""Device profiles: what a target is, written as one short TOML file each.

A profile names the chip AND the runtime: on one microcontroller the same model takes four times longer under one
runtime than under another. It holds facts and defaults, never code paths. How files are found and what `extends`
means stands in `edgecomp.profile_files`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    StrictBool,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from edgecomp.cost_families import CostFamily
from edgecomp.errors import ProfileError, UsageError
from edgecomp.hardware import Cpu, Memory, Name, Npu, Power, ProfileTable, Region, Text
from edgecomp.profile_files import (
    Layer,
    Resolved,
    dump_toml,
    find_profile,
    is_unverified,
    leaves,
    lookup,
    profile_names,
    read_file,
    resolve,
    source_of,
    unsourced,
)
from edgecomp.units import Drop, parse_drop

__all__ = [
    "Cost", "Cpu", "DefaultLimits", "DeviceProfile", "Memory", "Npu", "Power", "Precision", "Precisions", "Region",
    "Runtime", "explain", "load_profile", "profile_names", "read_profile", "validate_profile",
]  # fmt: skip

_KERNELS = {
    "litert": ("xnnpack", "builtin", "reference", "vendor"),
    "edgetpu": ("xnnpack", "builtin", "reference", "vendor"),
    "tflm": ("reference", "cmsis-nn", "helium-cmsis-nn", "esp-nn", "vendor"),
    "ethos-u": ("reference", "cmsis-nn", "helium-cmsis-nn", "esp-nn", "vendor"),
}


class Precision(StrEnum):
    """How weights and activations are stored; the names are those of TFLite."""

    FLOAT32 = "FLOAT32"
    FLOAT16 = "FLOAT16"
    DYNAMIC_RANGE = "DYNAMIC_RANGE"
    INT8 = "INT8"
    INT16X8 = "INT16X8"
    INT4_WEIGHTS = "INT4_WEIGHTS"
    SELECTIVE = "SELECTIVE"


def _drop(value: object) -> Drop:
    if isinstance(value, Drop):
        return value
    if not isinstance(value, str):
        raise ValueError('write it like "1pp" (percentage points) or "2%" (of the float value), from 0 to 100')
    try:
        return parse_drop(value)
    except UsageError as error:
        raise ValueError(error.message.removesuffix(".")) from error


AccuracyDrop = Annotated[
    Drop,
    BeforeValidator(_drop),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\s*[0-9.]+\s*(pp|%)\s*$"}),
]


class Runtime(ProfileTable):
    """What runs the model."""

    name: Literal["litert", "tflm", "edgetpu", "ethos-u"]
    kernels: Literal["xnnpack", "builtin", "reference", "cmsis-nn", "helium-cmsis-nn", "esp-nn", "vendor"] = Field(
        description="Whose kernels compute; for an accelerator, what it leaves to the CPU."
    )
    vendor_name: Text | None = Field(default=None, description='With kernels = "vendor": X-CUBE-AI, HALE, ...')
    int4_weight_operators: tuple[Text, ...] = Field(default=(), description="Their kernels take 4-bit weights.")
    custom_operators: StrictBool = Field(default=False, description="Runs Select TF and custom operators.")
    dynamic_shapes: StrictBool = Field(default=False, description="Takes shapes that are not fixed.")
    resource_variables: StrictBool = Field(default=False, description="Takes variables.")

    @model_validator(mode="after")
    def _kernels_fit(self) -> Runtime:
        if self.kernels not in _KERNELS[self.name]:
            raise ValueError(f"kernels of {self.name} must be {', '.join(_KERNELS[self.name])}, got {self.kernels!r}")
        if (self.kernels == "vendor") != (self.vendor_name is not None):
            raise ValueError('vendor_name is for kernels = "vendor", and only for those')
        return self

    @property
    def delegate(self) -> Literal["xnnpack"] | None:
        """What LiteRT hands its nodes to."""
        return "xnnpack" if self.kernels == "xnnpack" else None


class Cost(ProfileTable):
    """Where its latency estimate comes from: a family that ships, or constants of its own."""

    family: Text | None = Field(default=None, description="Name of the table of kernel costs.")
    # A machine writes them: editors need not know every key.
    constants: Annotated[CostFamily, WithJsonSchema({"type": "object"})] | None = Field(
        default=None, description="Kernel costs of the very board, as a calibration found them; or see `file`."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Cost:
        if (self.family is None) == (self.constants is None):
            both = "none of them" if self.family is None else "family, constants"
            raise ValueError(f"cost must have one of family, file and constants, got {both}")
        return self


class Precisions(ProfileTable):
    """Post-training precisions in the order in which they are tried."""

    order: tuple[Precision, ...] = Field(min_length=1, description="Tried in this order.")
    fallback: tuple[Precision, ...] = Field(
        default=(), description="Tried only when every one of `order` breaks a limit, or when asked for."
    )
    io: Literal["float32", "int8", "uint8"] = Field(description="Default type of inputs and outputs.")

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


class DefaultLimits(ProfileTable):
    """Limits that hold unless the user says otherwise."""

    max_accuracy_drop: AccuracyDrop = Drop(0.01)


class DeviceProfile(ProfileTable):
    """One target: chip, memory, runtime and what they can do."""

    schema_version: Literal[1]
    name: Name
    description: Text
    kind: Literal["linux", "android", "ios", "mcu"]
    models: tuple[Text, ...] = Field(
        default=(), description="What such a device calls itself; the beginning of that is enough."
    )
    cpu: Cpu
    memory: Memory
    runtime: Runtime
    npu: Npu | None = None
    power: Power | None = None
    cost: Cost | None = None
    precisions: Precisions
    limits: DefaultLimits = DefaultLimits()
    sources: dict[str, Text] = Field(
        description='Dotted key, or the table around it -> where the figure comes from, or "unverified".'
    )

    _text: str = PrivateAttr(default="")
    _extends: tuple[str, ...] = PrivateAttr(default=())

    @property
    def text(self) -> str:
        """TOML that stands alone: the file word by word, or, where it extends another, all that they say together."""
        return self._text or dump_toml(self.table)

    @property
    def extends(self) -> tuple[str, ...]:
        """What the file extends, nearest first; empty for one that stands alone."""
        return self._extends

    @property
    def table(self) -> dict[str, Any]:
        """What the profile states, as plain values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def with_constants(self, constants: CostFamily) -> DeviceProfile:
        """The same device, whose latency is estimated from these constants."""
        sources = {key: text for key, text in self.sources.items() if key.partition(".")[0] != "cost"}
        copy = self.model_copy(update={"cost": Cost(constants=constants), "sources": sources})
        copy._text = ""  # What the file says is no longer all of it.
        return copy

    @property
    def runs_tflm(self) -> bool:
        """Whether TensorFlow Lite Micro runs the model: alone, or what an Ethos-U leaves to the processor."""
        return self.runtime.name in ("tflm", "ethos-u")

    @property
    def unverified(self) -> tuple[str, ...]:
        """Dotted keys whose source says that nobody checked."""
        return tuple(key for key, _ in leaves(self.table) if is_unverified(self.source_of(key)))

    def to_json(self) -> dict[str, Any]:
        """Plain values: all keys, those left out with their defaults, and what follows from them."""
        return {
            "schema": "edgecomp.device/1",
            **self.model_dump(mode="json"),
            "extends": list(self.extends),
            "arena_region": self.memory.arena_region,
            "usable_ram_bytes": self.memory.usable_ram_bytes,
            "usable_flash_bytes": self.memory.usable_flash_bytes,
            "unverified": list(self.unverified),
        }

    def source_of(self, key: str) -> str | None:
        """Where the value at a dotted key comes from: its own source, else that of the table around it."""
        return source_of(self.sources, key)

    @model_validator(mode="after")
    def _consistent(self) -> DeviceProfile:
        if self.kind == "mcu" and self.memory.usable_flash_bytes is None:
            raise ValueError('memory.regions needs one of kind "flash" for a microcontroller')
        if self.runtime.name in ("edgetpu", "ethos-u") and self.npu is None:
            raise ValueError(f"npu is missing: runtime {self.runtime.name} needs it")
        known = self.model_dump(mode="json")
        for key in self.sources:
            if lookup(known, key) is None:
                raise ValueError(f"sources has {key!r}, which is no key of the profile")
        missing = unsourced(self.table)
        if missing:
            raise ValueError("; ".join(_needs_source(key) for key, _ in missing))
        return self

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON Schema of a profile file. One that extends another may state any part of any table."""
        schema = super().model_json_schema(*args, **kwargs)
        tables = schema["$defs"]
        alone: dict[str, Any] = {"required": schema["required"], "properties": {}}
        for key, value in schema["properties"].items():
            reference = next((item["$ref"] for item in [value, *value.get("anyOf", [])] if "$ref" in item), "")
            table = tables.get(reference.rpartition("/")[2], {})
            if "required" in table:
                alone["properties"][key] = {"required": table.pop("required")}
        region = {"additionalProperties": {"required": tables["Region"].pop("required")}}
        alone["properties"]["memory"]["properties"] = {"regions": region}
        tables["Cost"]["properties"]["file"] = {
            "type": "string",
            "description": "Path from here of a file with `constants`; they are read, the path is not kept.",
        }
        own = {
            "schema_version": schema["properties"]["schema_version"],
            "extends": {"type": "string", "description": "What it starts from: a profile's name, or a path from here."},
            "without": {
                "type": "array",
                "items": {"type": "string"},
                "description": 'Dotted keys of that which do not hold: ["cost", "memory.regions.psram"].',
            },
        }
        return schema | {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "properties": own | schema["properties"],
            "required": ["schema_version", "name"],
            "if": {"not": {"required": ["extends"]}},
            "then": alone,
        }


def load_profile(name_or_path: str) -> DeviceProfile:
    """Load a profile by name, or a user's own by path (anything that ends in .toml).

    Raises:
        ProfileError: Unknown name (with the closest one), or a file with a wrong key or value (with file and key).
    """
    return read_profile(find_profile(name_or_path))


def read_profile(path: Path) -> DeviceProfile:
    """Read and validate one profile file, with what it extends.

    Raises:
        ProfileError: A file is missing, is not TOML, or a key or value is wrong.
    """
    return validate_profile(read_file(path))


def validate_profile(layer: Layer) -> DeviceProfile:
    """The profile of a file that has been read.

    Raises:
        ProfileError: Every problem of the file, and of what it extends.
    """
    resolved = resolve(layer)
    profile, problems = explain(resolved)
    if profile is None:
        raise ProfileError(f"{layer.path}: {'; '.join(problems)}.", hint="See docs/profiles.md for every key.")
    return profile


def explain(resolved: Resolved) -> tuple[DeviceProfile | None, list[str]]:
    """The profile, or None and every problem: key, value, what is allowed, and the file if it is an extended one."""
    problems = []
    for layer in resolved.layers:
        found = [f"{key} is missing" for key in ("schema_version", "name") if key not in layer.table]
        if len(resolved.layers) > 1:
            # Each file answers for its own figures: a parent's source says nothing of what the child states.
            found += [_needs_source(key) for key, _ in unsourced(layer.table)]
        problems += found if layer.path == resolved.path else [f"{text} (in {layer.path})" for text in found]
    name = resolved.layers[0].table.get("name")
    if name is not None and name in resolved.extends:
        problems.append(f"name must differ from what it extends, got {name!r}")
    try:
        profile = DeviceProfile.model_validate(resolved.table)
    except ValidationError as error:
        problems += [text for text in _sentences(error, resolved) if text not in problems]
        return None, problems
    if problems:
        return None, problems
    profile._text = resolved.text
    profile._extends = resolved.extends
    return profile, []


def _needs_source(key: str) -> str:
    return f'{key} has no source: add "{key}" to [sources], saying where it comes from, or "unverified"'


def _in_file(text: str, key: str, resolved: Resolved) -> str:
    path = resolved.stated_in(key)
    return text if path == resolved.path else f"{text} (in {path})"


def _sentences(error: ValidationError, resolved: Resolved) -> list[str]:
    sentences = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "default_factory_not_called":
            continue  # Another key is wrong, and has a sentence of its own.
        if problem["type"] == "extra_forbidden":
            text = f"unknown key {key}"
        elif problem["type"] == "missing":
            text = f"{key} is missing"
        elif isinstance(problem["input"], dict | BaseModel):
            text = f"{key}: {message}" if key else message
        else:
            text = f"{key}: {message}, got {problem['input']!r}"
        sentences.append(_in_file(text, key, resolved) if key else text)
    return sentences
