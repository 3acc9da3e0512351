"""The options of every technique as options of the command line, made from their fields."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

import click
from pydantic.fields import FieldInfo

from edgecomp.compress import technique_names
from edgecomp.recipe import option_name, options_of


def technique_options() -> list[click.Option]:
    """One option a field, named after it; without a value it is left out, so that the technique's default holds."""
    return [
        _option(name, field, info)
        for name in technique_names()
        for field, info in options_of(name).model_fields.items()
    ]


def _option(technique: str, field: str, info: FieldInfo) -> click.Option:
    kind, several = _kind(info.annotation)
    default = "" if info.default is None or several else f" Default: {_shown(info.default)}."
    name = option_name(field)
    if kind is bool:
        name = f"{name}/--no-{name.removeprefix('--')}"
    return click.Option(
        [name, field],
        type=None if kind is bool else kind,
        multiple=several,
        default=None,
        help=f"[{technique}] {info.description}{default}",
    )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """A click type for an annotation, and whether the option is repeatable."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return click.Choice([str(value) for value in arguments]), False
    if origin in (types.UnionType, typing.Union):
        return _kind(next(item for item in arguments if item is not type(None)))
    if origin is tuple:
        return _kind(arguments[0])[0], True
    return annotation, False
