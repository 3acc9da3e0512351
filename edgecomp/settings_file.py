"""edgecomp.toml: options, limits and devices in a file beside the model. The command line wins; docs/config.md.

What it says of single devices stays apart (`Merged.devices`), because it goes over what holds for all of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from edgecomp.data.user_code import is_function_spec
from edgecomp.errors import ProfileError, UsageError, did_you_mean
from edgecomp.objective import Objective
from edgecomp.profile_files import find_profile
from edgecomp.units import Drop, parse_bytes, parse_drop, parse_mj, parse_ms, parse_seconds, parse_share

FILE_NAME = "edgecomp.toml"


def _text_of(what: str, example: str, parse: Any, *, bare: bool = False) -> BeforeValidator:
    """The same text as on the command line; `bare` numbers only where they need no unit."""

    def read(value: object) -> Any:
        if bare and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise ValueError(f"write {what} as text, like {example}")
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(str(error).rstrip(".")) from error

    return BeforeValidator(read)


def _channels(value: object) -> tuple[float, ...]:
    parts: list[Any] = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    if any(isinstance(part, bool) for part in parts):
        raise ValueError("write numbers")
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError("write one number, or a list of one per channel") from None


def _models(value: object) -> tuple[str, ...]:
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError("write one path, or a list of them")
    return tuple(paths)


def _objective(text: str) -> Objective:
    known = {str(item).replace("_", "-"): item for item in Objective}
    if text not in known:
        raise UsageError(did_you_mean(text, known))
    return known[text]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("write a number")
    return float(value)


_Drop = Annotated[Drop, _text_of("a drop", '"1pp"', parse_drop)]
_Bytes = Annotated[int, _text_of("a size", '"48KiB"', parse_bytes, bare=True)]
_Ms = Annotated[float, _text_of("a time", '"20ms"', parse_ms)]
_Mj = Annotated[float, _text_of("an energy", '"5mJ"', parse_mj)]
_Share = Annotated[float, _text_of("a share", '"2%"', parse_share, bare=True)]
_Seconds = Annotated[float, _text_of("a duration", '"25m"', parse_seconds)]
_Channels = Annotated[tuple[float, ...], BeforeValidator(_channels)]
_Models = Annotated[tuple[str, ...], BeforeValidator(_models)]
_Objective = Annotated[Objective, _text_of("an objective", '"size"', _objective)]
_Number = Annotated[float, BeforeValidator(_number)]
_Count = Annotated[StrictInt, Field(ge=1)]
_Io = Literal["float32", "int8", "uint8"]
_Precision = Literal["FLOAT32", "FLOAT16", "DYNAMIC_RANGE", "INT8", "INT16X8", "INT4_WEIGHTS", "SELECTIVE"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def stated(self) -> dict[str, Any]:
        """What the file says, by key."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


_T = TypeVar("_T", bound=_Table)


class LimitSettings(_Table):
    """[limits]: for every device."""

    max_accuracy_drop: _Drop | None = None
    min_accuracy: _Number | None = None
    max_flips: _Share | None = None
    max_model_size: _Bytes | None = None
    max_ram: _Bytes | None = None
    max_latency: _Ms | None = None
    max_energy: _Mj | None = None


class DeviceSettings(LimitSettings):
    """[devices.NAME]: limits of one device, and how it is reached."""

    host: StrictStr | None = None
    io: _Io | None = None


class FitSettings(_Table):
    """[fit]: options of the command, with underscores; those that may be repeated are lists."""

    model: _Models | None = None
    data: StrictStr | None = None
    unlabelled: StrictStr | None = None
    out: StrictStr | None = None
    mean: _Channels | None = None
    std: _Channels | None = None
    image_size: StrictStr | None = None
    metric: StrictStr | None = None
    calibration_samples: _Count | None = None
    group_key: StrictStr | None = None
    seed: Annotated[StrictInt, Field(ge=0)] | None = None
    confident: StrictBool | None = None
    minimize: _Objective | None = None
    precision: tuple[_Precision, ...] | None = None
    io: _Io | None = None
    custom_objects: StrictStr | None = None
    python: StrictStr | None = None
    threads: Annotated[StrictInt, Field(ge=1, le=64)] | None = None
    effort: Literal["quick", "standard", "thorough"] | None = None
    time_limit: _Seconds | None = None
    epochs: _Count | None = None
    batch_size: _Count | None = None
    learning_rate: Annotated[_Number, Field(gt=0)] | None = None
    patience: _Count | None = None
    augment: tuple[Literal["flip", "shift", "noise"], ...] | None = None
    loss: StrictStr | None = None
    distill_weight: Annotated[_Number, Field(ge=0, le=1)] | None = None
    temperature: Annotated[_Number, Field(gt=0)] | None = None
    feature_layer: tuple[StrictStr, ...] | None = None
    feature_loss: Literal["mse", "cosine"] | None = None
    freeze_batch_norm: StrictBool | None = None


class SettingsFile(_Table):
    """A whole edgecomp.toml, paths resolved against its folder.

    Attributes:
        devices: By name, or by the path of a profile of the user's own.
    """

    path: Path
    fit: FitSettings = FitSettings()
    limits: LimitSettings = LimitSettings()
    devices: dict[str, DeviceSettings] = Field(default_factory=dict)


@dataclass(frozen=True)
class Merged:
    """Options after the file was heard.

    Attributes:
        options: For all devices, by the names that commands use.
        devices: What holds for one device and goes over `options`: limits, "io" and "host".
    """

    options: dict[str, Any]
    devices: dict[str, dict[str, Any]]


# Where a command's name for an option is not the key.
_NAMES = {"model": "models", "precision": "precisions", "feature_layer": "feature_layers"}


def find_settings(models: Sequence[Path], config: Path | None) -> SettingsFile | None:
    """The file that was named, else the edgecomp.toml next to the models, else None.

    Raises:
        UsageError: It cannot be read, or holds something that it must not; or there are several.
    """
    if config is not None:
        return load_settings(config)
    beside = [path for model in models if (path := model.parent / FILE_NAME).is_file()]
    if len({path.resolve() for path in beside}) > 1:
        raise UsageError(
            f"The models have different files with options: {', '.join(map(str, dict.fromkeys(beside)))}.",
            hint="Say with --config which one holds for all of them.",
        )
    return load_settings(beside[0]) if beside else None


def load_settings(path: Path) -> SettingsFile:
    """Read a file.

    Raises:
        UsageError: One sentence with the file and the key, for the first thing that is wrong.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}.") from error
    sections: dict[str, type[_Table]] = {"fit": FitSettings, "limits": LimitSettings, "devices": DeviceSettings}
    for name, section in table.items():
        if name not in sections:
            raise UsageError(f"{path}: unknown key {name}.", hint=did_you_mean(name, sections))
        if not isinstance(section, dict):
            raise UsageError(f"{path}: {name} must be a table: write [{name}].")
    devices = {
        _device(path, name): _section(path, f"devices.{name}", DeviceSettings, body)
        for name, body in table.get("devices", {}).items()
    }
    fit = _section(path, "fit", FitSettings, table.get("fit", {}))
    limits = _section(path, "limits", LimitSettings, table.get("limits", {}))
    return SettingsFile(path=path, fit=_resolved(fit, path.parent), limits=limits, devices=devices)


def _section(path: Path, name: str, kind: type[_T], body: object) -> _T:
    if not isinstance(body, dict):
        raise UsageError(f"{path}: {name} must be a table: write [{name}].")
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = f"{name}.{'.'.join(str(part) for part in problem['loc'] if isinstance(part, str) and part in body)}"
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(str(problem["loc"][0]), kind.model_fields)
            raise UsageError(f"{path}: unknown key {key}.", hint=hint) from error
        message = problem["msg"].removeprefix("Value error, ")
        raise UsageError(f"{path}: {key}: {message}, got {problem['input']!r}.") from error


def _device(path: Path, name: str) -> str:
    if name.endswith(".toml"):
        return str(path.parent / name)
    try:
        find_profile(name)
    except ProfileError as error:
        raise UsageError(f"{path}: devices.{name}: {error.message}", hint=error.hint) from error
    return name


def _resolved(fit: FitSettings, folder: Path) -> FitSettings:
    """Paths relative to the file; module:function stays as it is."""
    paths: dict[str, Any] = {
        key: str(folder / value)
        for key, value in fit.stated.items()
        if key in ("data", "unlabelled", "out") and not is_function_spec(value)
    }
    if fit.model is not None:
        paths["model"] = tuple(str(folder / model) for model in fit.model)
    return fit.model_copy(update=paths)


def merge(options: Mapping[str, Any], typed: Collection[str], settings: SettingsFile | None) -> Merged:
    """Options of a command with what the file adds to them.

    Args:
        options: All of the command, by its own names, with their defaults.
        typed: Names of those that stood on the command line: the file says nothing against them.
        settings: The file, if there is one.

    Raises:
        UsageError: The file states an option that the command does not have.
    """
    if settings is None:
        return Merged(dict(options), {})
    merged = dict(options)
    for table, section in (("fit", settings.fit), ("limits", settings.limits)):
        for key, value in section.stated.items():
            name = _NAMES.get(key, key)
            if name not in options:
                raise UsageError(f"{settings.path}: {table}.{key}: this command has no --{key.replace('_', '-')}.")
            if name not in typed:
                merged[name] = _paths(key, value)
    if "devices" not in typed:
        merged["devices"] = tuple(settings.devices)
    devices = {
        name: {key: value for key, value in section.stated.items() if key not in typed}
        for name, section in settings.devices.items()
    }
    return Merged(merged, devices)


def _paths(key: str, value: Any) -> Any:
    """The value of a key as the command line gives it."""
    if key == "model":
        return tuple(map(Path, value))
    return Path(value) if key == "out" else value


def of_device(devices: Mapping[str, dict[str, Any]], name_or_path: str) -> dict[str, Any]:
    """What `Merged.devices` says of a device, named as on the command line; a path may be written in any way."""
    if name_or_path in devices or not name_or_path.endswith(".toml"):
        return devices.get(name_or_path, {})
    path = Path(name_or_path).resolve()
    return next((value for key, value in devices.items() if key.endswith(".toml") and Path(key).resolve() == path), {})
