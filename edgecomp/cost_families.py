"""Kernel cost constants: what an operator costs in cycles, by family of kernels and by core.

A family is one set of kernels (TFLM's reference kernels, CMSIS-NN, XNNPACK, ...), written as one TOML file in
device_profiles/cost_families; adding a file adds a family. docs/cost-model.md says where the numbers come from.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgecomp.errors import ProfileError, did_you_mean
from edgecomp.profile_files import read_file
from edgecomp.resources import resource_folder

if TYPE_CHECKING:
    from edgecomp.profile import DeviceProfile

Dtype = Literal["float32", "int8", "int16x8", "int4", "dynamic_range"]
Kind = Literal["pointwise", "convolution", "depthwise", "dense"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Deviation = Annotated[float, Field(ge=0, le=3)]
Multiple = Annotated[int, Field(ge=1, le=64)]
Text = Annotated[str, Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ByKind(_Table):
    """A number for each kind of operator that multiplies and accumulates."""

    pointwise: float = Field(ge=0, allow_inf_nan=False)
    convolution: float = Field(ge=0, allow_inf_nan=False)
    depthwise: float = Field(ge=0, allow_inf_nan=False)
    dense: float = Field(ge=0, allow_inf_nan=False)

    def of(self, kind: Kind) -> float:
        """The number of one kind."""
        return float(getattr(self, kind))


class Core(_Table):
    """One processor core under the kernels of a family."""

    cycles_per_mac: dict[Dtype, Positive] = Field(min_length=1, description="Of a pointwise convolution, by dtype.")
    sd: dict[Dtype, Deviation] = Field(
        default={}, description="By dtype: of ln(cycles), where the figure is not fitted to rows of this core."
    )
    bytes_per_second: Positive | None = Field(
        default=None, description="Memory bandwidth of its boards; none where memory never was the limit."
    )
    threads: tuple[Multiple, ...] = Field(default=(1,), min_length=1, description="Of the rows that it was fitted to.")


class Derived(_Table):
    """A dtype of which there are no rows: `factor` times the cycles of `like`, with an `sd` of its own."""

    like: Dtype
    factor: Positive
    sd: Deviation
    because: Text


class Interval(_Table):
    """How far off predictions are; every deviation is one of ln(latency)."""

    quantile: Positive = Field(description="Deviations from the middle to either end of the 90 % interval.")
    residual_sd: Positive = Field(description="Of models that the fit had not seen.")
    board_sd: Deviation = Field(description="Between boards that have the same core.")
    other_core_sd: Deviation = Field(description="Added for a core that is not listed.")
    external_flash_sd: Deviation = Field(description="Added where weights are read from flash behind a bus.")
    thread_sd: Deviation = Field(description="Added for each doubling or halving from the threads of the rows.")
    kind_sd: ByKind = Field(description="How well the relative cost of each kind is known.")


class Calls(_Table):
    """What an inference costs beside the work of its operators, as timed on the very board."""

    delegate: Literal["xnnpack"] | None = Field(default=None, description="Whose runs of operators count.")
    inference_cycles: NotNegative = Field(description="Of any inference.")
    partition_cycles: NotNegative = Field(description="Of handing a run of operators to the delegate.")
    operator_cycles: NotNegative = Field(description="Of calling one that the delegate takes.")
    left_cycles: NotNegative = Field(description="Of calling one that it leaves to the runtime's own kernels.")

    @property
    def in_order(self) -> tuple[float, float, float, float]:
        """As `cost_measured.CALLS` lists them."""
        return self.inference_cycles, self.partition_cycles, self.operator_cycles, self.left_cycles


class Measured(_Table):
    """The operators of one dtype, as timed on the very board; edgecomp.cost_measured says how they are counted."""

    output_multiple: Multiple = Field(description="Output channels are computed in groups of so many.")
    channel_multiple: Multiple = Field(description="Input channels are added up in groups of so many.")
    cycles_per_mac: ByKind
    cycles_per_output: ByKind
    cycles_per_tap: NotNegative = Field(description="Of a convolution: one position of the kernel for one output.")
    cycles_per_element: dict[Text, NotNegative] = Field(description='By operator; "other" for those not listed.')
    cycles_per_result: dict[Text, NotNegative] = Field(default={}, description="By operator: besides, of one output.")
    sd: Deviation = Field(description="Of ln(latency), of networks that the fit had not seen.")

    @model_validator(mode="after")
    def _has_others(self) -> Self:
        if "other" not in self.cycles_per_element:
            raise ValueError('cycles_per_element must have "other"')
        return self

    def constant(self, key: tuple[str, ...]) -> float:
        """By what is counted: "mac" or "output" with a kind, "tap", "element" or "result" with an operator."""
        if key[0] == "tap":
            return self.cycles_per_tap
        if key[0] in ("mac", "output"):
            by_kind = self.cycles_per_mac if key[0] == "mac" else self.cycles_per_output
            return by_kind.of(cast(Kind, key[1]))
        if key[0] == "element":
            return self.cycles_per_element.get(key[1], self.cycles_per_element["other"])
        return self.cycles_per_result.get(key[1], 0.0)


class Correction(_Table):
    """What measurements of real models say of the estimates of a dtype."""

    factor: Positive = Field(description="Estimates are multiplied by it.")
    width: Positive = Field(description="The standard deviation of ln(latency), too.")
    num_models: Annotated[int, Field(ge=1)] = Field(description="Measured models that it rests on.")


class CostFamily(_Table):
    """The constants of one family of kernels; edgecomp.cost says how they are put together."""

    schema_version: Literal[1]
    name: Text
    description: Text
    basis: Literal["rows", "vendor rows", "analogy", "calibration"] = Field(
        description="Fitted to public rows of this runtime, to those of a vendor's runtime, taken from elsewhere, or "
        "timed on the very board."
    )
    folds_constants: bool = Field(description="Operators on constants are computed once, when the model is loaded.")
    overhead_cycles: Positive = Field(description="Of calling one operator.")
    parallel_loss: Positive | None = Field(
        default=None, description="n threads do the work of n / (1 + loss * (n - 1)); none: the runtime has one thread."
    )
    relative: ByKind = Field(description="One multiply-accumulate; pointwise = 1.")
    macs_per_output: ByKind = Field(description="Starting and writing one output, in multiply-accumulates.")
    macs_per_element: Positive = Field(description="One element of any other operator (ADD, pooling), likewise.")
    output_multiple: Multiple = Field(description="Output channels are computed in groups of so many.")
    reduction_multiple: Multiple = Field(description="Products of one output are added up in groups of so many.")
    default_core: Text = Field(description="Stands in for a core that is not listed.")
    cores: dict[Text, Core] = Field(description='"cortex-a53", or "cortex-a53:armv7l" for one architecture only.')
    derived: dict[Dtype, Derived] = {}
    missing: dict[Dtype, Text] = Field(default={}, description="Why there is no estimate for a dtype.")
    calls: Calls | None = Field(default=None, description="Goes with `measured`.")
    measured: dict[Dtype, Measured] = Field(
        default={}, description="By dtype: in place of what the tables above say of its operators."
    )
    interval: Interval
    corrections: dict[Dtype, Correction] = Field(default={}, description="By dtype, from measured models.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.default_core not in self.cores:
            raise ValueError(f"default_core must be one of {', '.join(self.cores)}, got {self.default_core!r}")
        stated = set(self.cores[self.default_core].cycles_per_mac)
        for dtype, derived in self.derived.items():
            if derived.like not in stated or dtype in stated:
                raise ValueError(f"derived.{dtype} must be like a dtype of {self.default_core}, and not one itself")
        if bool(self.measured) != (self.calls is not None):
            raise ValueError("calls and measured go together")
        if odd := sorted(set(self.measured) - stated):
            raise ValueError(f"measured must name dtypes of {self.default_core}, got {', '.join(odd)}")
        if self.measured and (odd := sorted(stated - set(self.measured))):
            raise ValueError(f"measured must have every dtype of {self.default_core}, without {', '.join(odd)}")
        if both := (stated | set(self.derived)) & set(self.missing):
            raise ValueError(f"missing must not name what has constants, got {', '.join(sorted(both))}")
        return self

    def core(self, name: str, architecture: str) -> tuple[Core, bool]:
        """The entry of a core, and whether it is its own; one for the architecture goes before one for all."""
        for key in sorted(self.cores, key=lambda item: (":" not in item, -len(item))):
            core, _, only = key.partition(":")
            if core in name.lower() and only in ("", architecture):
                return self.cores[key], True
        return self.cores[self.default_core], False


def family_names() -> list[str]:
    """Names of the families that ship with edgecomp."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def family_of(profile: DeviceProfile) -> tuple[CostFamily | None, str | None]:
    """The constants of a device.

    Returns:
        The family and None; or None and one clause that says why there is none.
    """
    if profile.cost is None:
        return None, f"the profile {profile.name} names no cost family"
    if profile.cost.constants is not None:
        return profile.cost.constants, None
    name = profile.cost.family
    if name not in family_names():
        return None, f"there are no constants for its kernels ({name})"
    return load_family(name), None


@lru_cache(maxsize=32)
def load_family(name: str) -> CostFamily:
    """Load a family by name.

    Raises:
        ProfileError: Unknown name (with the closest one), or a file with a wrong key or value (with file and key).
    """
    if name not in family_names():
        raise ProfileError(f"Unknown cost family {name!r}.", hint=did_you_mean(name, family_names()))
    return read_family(_folder() / f"{name}.toml")


def read_family(path: Path) -> CostFamily:
    """Read and validate one file.

    Raises:
        ProfileError: It cannot be read, is not TOML, or a key is missing, unknown or has a wrong value.
    """
    table = read_file(path).table
    try:
        family = CostFamily.model_validate(table)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise ProfileError(f"{path}: {key}: {problem['msg'].removeprefix('Value error, ')}.") from error
    if family.name != path.stem:
        raise ProfileError(f"{path}: name must be {path.stem!r}, like the file, got {family.name!r}.")
    return family


def _folder() -> Path:
    return resource_folder("device_profiles") / "cost_families"
