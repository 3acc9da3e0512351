"""Profile files as plain tables: found, read, merged with what they extend, and written as TOML.

Nothing here needs pydantic, so `edgecomp devices list` does not wait for it. What a table may hold is said by
`edgecomp.profile`.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecomp.errors import ProfileError
from edgecomp.resources import resource_folder

Table = dict[str, Any]

# Tables whose numbers are figures: each needs a source.
SOURCED_TABLES = ("cpu", "memory", "npu", "power")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Layer:
    """One file of a chain: where it is, its text and what it states itself."""

    path: Path
    text: str
    table: Table


@dataclass(frozen=True)
class Resolved:
    """A profile with everything that it extends merged into it.

    Attributes:
        layers: The file itself, then what it extends, then what that extends.
        table: The merged table, without `extends` and `without`; constants of a cost file stand in their place.
        cost_path: The file that the cost constants come from; None where the profile holds them, or has none.
    """

    layers: tuple[Layer, ...]
    table: Table
    cost_path: Path | None = None

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.layers[0].path

    @property
    def extends(self) -> tuple[str, ...]:
        """What the file extends, nearest first, by name."""
        return tuple(str(layer.table.get("name", layer.path.stem)) for layer in self.layers[1:])

    @property
    def text(self) -> str:
        """The file word by word, or, where it needs other files, the merged table as TOML that stands alone."""
        others = [*self.extends, *([] if self.cost_path is None else [self.cost_path.name])]
        if not others:
            return self.layers[0].text
        return f"# {self.table.get('name')}, with all that it needs ({', '.join(others)}).\n" + dump_toml(self.table)

    def stated_in(self, key: str) -> Path:
        """The file that states a dotted key; the file itself where none does."""
        if self.cost_path is not None and f"{key}.".startswith("cost.constants."):
            return self.cost_path
        for layer in self.layers:
            if lookup(layer.table, key) is not None:
                return layer.path
        return self.path


def profile_names() -> list[str]:
    """Names of the profiles that ship with edgecomp."""
    return sorted(path.stem for path in resource_folder("device_profiles").glob("*.toml"))


def find_profile(name_or_path: str) -> Path:
    """The file of a shipped profile, or the path of a user's own (anything that ends in .toml).

    Raises:
        ProfileError: Unknown name, with the closest ones.
    """
    if name_or_path.endswith(".toml"):
        return Path(name_or_path)
    if name_or_path not in profile_names():
        raise ProfileError(
            f"Unknown device {name_or_path!r}.",
            hint=f"{_closest(name_or_path)}`edgecomp devices list` shows all {len(profile_names())}; "
            "a path that ends in .toml names your own.",
        )
    return resource_folder("device_profiles") / f"{name_or_path}.toml"


def _closest(name: str) -> str:
    def likeness(known: str) -> float:
        return difflib.SequenceMatcher(a=name, b=known).ratio()

    names = sorted(profile_names(), key=lambda known: (-likeness(known), known))
    return f"Did you mean {names[0]!r}? " if names and likeness(names[0]) >= 0.5 else ""


def read_file(path: Path) -> Layer:
    """Read one file, without what it extends.

    Raises:
        ProfileError: It is missing or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Layer(path, text, tomllib.loads(text))
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid TOML: {error}.") from error


def resolve(layer: Layer) -> Resolved:
    """Merge a file with everything that it extends.

    Raises:
        ProfileError: What it extends is missing, is not TOML, or extends the file again; names the chain.
    """
    layers = [layer]
    while (extends := layers[-1].table.get("extends")) is not None:
        child = layers[-1]
        chain = " -> ".join(str(item.path) for item in layers)
        if not isinstance(extends, str) or not extends:
            raise ProfileError(
                f'{child.path}: extends must be the name of a profile or a path like "./base.toml", got {extends!r}.'
            )
        if extends.endswith(".toml"):
            parent = child.path.parent / extends
            if not parent.is_file():
                raise ProfileError(f"{child.path}: extends {extends!r}, which does not exist: {chain} -> {parent}.")
        elif extends in profile_names():
            parent = resource_folder("device_profiles") / f"{extends}.toml"
        else:
            raise ProfileError(
                f"{child.path}: extends {extends!r}, which is no profile: {chain} -> {extends}.",
                hint=f"{_closest(extends)}A path that ends in .toml names your own.",
            )
        if parent.resolve() in {item.path.resolve() for item in layers}:
            raise ProfileError(f"{child.path}: extends goes in a circle: {chain} -> {parent}.")
        layers.append(read_file(parent))
    table: Table = {}
    cost_path: Path | None = None
    for item in reversed(layers):
        table, (own, path) = _without(table, item), _with_constants(item)
        if "cost" in own:
            # One family or another: what a file says here does not add to what another one said.
            table, cost_path = _dropped(table, "cost"), path
        elif "cost" not in table:
            cost_path = None
        table = merge(table, own)
    table.pop("extends", None)
    table.pop("without", None)
    return Resolved(tuple(layers), table, cost_path)


def _with_constants(layer: Layer) -> tuple[Table, Path | None]:
    """The layer's table with the constants of its cost file in their place, so that it needs no file; and that file."""
    cost = layer.table.get("cost")
    if not isinstance(cost, dict) or "file" not in cost:
        return layer.table, None
    name = cost["file"]
    if not isinstance(name, str) or not name:
        raise ProfileError(f'{layer.path}: cost.file must be a path like "board.cost.toml", got {name!r}.')
    if others := sorted({"family", "constants"} & set(cost)):
        raise ProfileError(f"{layer.path}: cost must have one of family, file and constants, got file, {others[0]}.")
    path = layer.path.parent / name
    if not path.is_file():
        raise ProfileError(
            f"{layer.path}: cost.file names {name!r}, which does not exist: {path}.",
            hint="Keep it beside the profile, or calibrate the device again.",
        )
    rest = {key: value for key, value in cost.items() if key != "file"}
    table = layer.table | {"cost": rest | {"constants": read_file(path).table}}
    sources = table.get("sources")
    if isinstance(sources, dict) and "cost.file" in sources:
        table["sources"] = {"cost.constants" if key == "cost.file" else key: text for key, text in sources.items()}
    return table, path


def _without(parent: Table, layer: Layer) -> Table:
    """The parent's table without what the layer drops, and without the sources of that."""
    dropped = layer.table.get("without", [])
    if not isinstance(dropped, list) or not all(isinstance(key, str) for key in dropped):
        raise ProfileError(f'{layer.path}: without must list dotted keys like ["cost"], got {dropped!r}.')
    table = _merge(parent, {})
    for key in dropped:
        outer, _, last = key.rpartition(".")
        holder = lookup(table, outer) if outer else table
        if not isinstance(holder, dict) or last not in holder:
            raise ProfileError(f"{layer.path}: without has {key!r}, which what it extends does not state.")
        del holder[last]
        table = _dropped(table, key)
    return table


def _dropped(table: Table, key: str) -> Table:
    """The table without one at its top, and without the sources of a dotted key."""
    sources = table.get("sources")
    table = {name: value for name, value in table.items() if name != key}
    if isinstance(sources, dict):
        table["sources"] = {k: text for k, text in sources.items() if k != key and not k.startswith(f"{key}.")}
    return table


def merge(parent: Table, child: Table) -> Table:
    """The child's values over the parent's, table by table; a list is replaced as a whole.

    A figure keeps the source of the file that states it, unless the child names its key in its own sources: where
    the other file's source would cover it after the merge, the merged table names the figure itself.
    """
    merged = _merge(parent, child)
    sources = merged.get("sources")
    if isinstance(sources, dict):
        stated = {key for key, _ in leaves(child)} | set(child.get("sources", {}))
        for key, _ in leaves(merged):
            owner = child if key in stated else parent
            own = source_of(owner.get("sources", {}), key)
            if own is not None and source_of(sources, key) != own:
                sources[key] = own
    return merged


def _merge(parent: Table, child: Table) -> Table:
    merged = {key: _merge(value, {}) if isinstance(value, dict) else value for key, value in parent.items()}
    for key, value in child.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in the tables of a profile, but for its sources."""
    for key, value in table.items():
        if isinstance(value, dict):
            if prefix or key != "sources":
                yield from leaves(value, f"{prefix}{key}.")
        elif prefix:
            yield f"{prefix}{key}", value


def lookup(table: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    value: Any = table
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def source_of(sources: object, key: str) -> str | None:
    """The source that covers a dotted key: its own, else that of the nearest table around it, else None."""
    if not isinstance(sources, Mapping):
        return None
    while key:
        if isinstance(text := sources.get(key), str):
            return text
        key = key.rpartition(".")[0]
    return None


def is_unverified(source: str | None) -> bool:
    """Whether a source says that nobody checked."""
    return source is not None and source.strip().lower().startswith("unverified")


def unsourced(table: Table) -> list[tuple[str, Any]]:
    """Figures that no source of the same table covers: dotted key and value."""
    return [
        (key, value)
        for key, value in leaves(table)
        if key.partition(".")[0] in SOURCED_TABLES and _is_figure(key, value)
        if not (source_of(table.get("sources"), key) or "").strip()
    ]


def _is_figure(key: str, value: object) -> bool:
    # Sizes may be written as text: "640KiB".
    return (isinstance(value, int | float) and not isinstance(value, bool)) or key.endswith("bytes")


def arena_region(usable: Mapping[str, tuple[int, bool]]) -> str:
    """Which RAM region takes the tensor arena, which lies in one piece: the largest internal one, else the largest.

    Args:
        usable: Region -> bytes left in it, and whether it is external. Not empty.
    """
    return max(usable, key=lambda name: (not usable[name][1], usable[name][0]))


def dump_toml(table: Table) -> str:
    """TOML that `tomllib` reads back as the same table, the same text for the same table.

    Takes what profiles hold: strings, numbers, booleans, lists of those, and tables.
    """
    parts = []
    for header, values in toml_tables(table):
        lines = [f"[{header}]"] if header else []
        lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in values.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def toml_tables(table: Table, header: str = "") -> Iterator[tuple[str, Table]]:
    """Every table as its header and the values that are not tables themselves; tables that need no header are left out.

    The values at the top have the header "".
    """
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    children = {key: value for key, value in table.items() if isinstance(value, dict)}
    if values or (header and not children):
        yield header, values
    for key, value in children.items():
        yield from toml_tables(value, f"{header}.{toml_key(key)}" if header else toml_key(key))


def toml_key(key: str) -> str:
    """A key, quoted where it must be."""
    return key if _BARE_KEY.fullmatch(key) else _toml_string(key)


def toml_value(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    raise TypeError(f"a profile holds no {type(value).__name__}")


def _toml_string(text: str) -> str:
    # JSON's escapes are TOML's, except that TOML wants DEL escaped too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
