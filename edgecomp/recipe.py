"""Recipes: which techniques, how strong, in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from edgecomp.compress import ORDER, TechniqueOptions, technique, technique_names
from edgecomp.errors import UsageError


@dataclass(frozen=True)
class RecipeStep:
    """One technique and its strengths."""

    technique: str
    options: TechniqueOptions

    def __str__(self) -> str:
        told = ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self._said()
        )
        return f"{self.technique}({told})"

    def _said(self) -> list[tuple[str, Any]]:
        """Options that were set, or the first one, so that something is said of every step."""
        table = self.options.model_dump()
        said = [(name, table[name]) for name in table if name in self.options.model_fields_set]
        return said or list(table.items())[:1]


@dataclass(frozen=True)
class Recipe:
    """Steps in the order in which techniques compose."""

    steps: tuple[RecipeStep, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.steps))

    @property
    def slug(self) -> str:
        """For names of files: the techniques, and a digest of everything."""
        digest = hashlib.sha256(repr([(step.technique, step.options.model_dump()) for step in self.steps]).encode())
        return "-".join(step.technique for step in self.steps) + "-" + digest.hexdigest()[:8]


def options_of(name: str) -> type[TechniqueOptions]:
    """The options of a technique. Raises UsageError."""
    return technique(name).Options


def make_recipe(names: Sequence[str], values: Mapping[str, Any]) -> Recipe:
    """The recipe of some techniques, sorted into the order in which they compose.

    Args:
        names: Techniques, in any order, each at most once.
        values: Option -> value, as the user set them.

    Raises:
        UsageError: An unknown technique, one that is named twice, an option of a technique that is not among them, or a
            value out of range.
    """
    for name in names:
        technique(name)
        if names.count(name) > 1:
            raise UsageError(f"--technique {name} is given twice.")
    owners = {field: name for name in technique_names() for field in options_of(name).model_fields}
    for field in values:
        owner = owners.get(field)
        if owner not in names:
            raise UsageError(
                f"{option_name(field)} belongs to {owner}, which is not in the recipe ({', '.join(names)}).",
                hint=f"Add --technique {owner}, or leave the option out.",
            )
    steps = []
    for name in sorted(names, key=ORDER.index):
        own = {field: value for field, value in values.items() if owners[field] == name}
        try:
            steps.append(RecipeStep(name, options_of(name)(**own)))
        except ValidationError as error:
            raise UsageError(f"{name}: {_sentence(error)}.", hint="See `edgecomp compress --help`.") from error
    return Recipe(tuple(steps))


def option_name(field: str) -> str:
    """`num_clusters` -> `--num-clusters`."""
    return "--" + field.replace("_", "-")


def _sentence(error: ValidationError) -> str:
    parts = []
    for problem in error.errors(include_url=False):
        where = option_name(str(problem["loc"][0])) if problem["loc"] else "options"
        text = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {text[0].lower()}{text[1:]}, got {problem['input']!r}")
    return "; ".join(parts)
