"""Families whose members are files: the name of the file is the name of the member."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from edgecomp.errors import UsageError, did_you_mean


def member_names(package: str) -> list[str]:
    """Names of the modules in a package, sorted; those that start with an underscore are not members."""
    root = importlib.import_module(package)
    return sorted(info.name for info in pkgutil.iter_modules(root.__path__) if not info.name.startswith("_"))


def load_member(package: str, name: str) -> ModuleType:
    """Import one member by name.

    Raises:
        UsageError: No such member; the message names the closest spelling.
    """
    names = member_names(package)
    if name not in names:
        family = package.rpartition(".")[2]
        raise UsageError(f"There is no {name!r} in {family}.", hint=did_you_mean(name, names))
    return importlib.import_module(f"{package}.{name}")
