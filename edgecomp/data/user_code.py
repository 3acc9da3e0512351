"""Functions that the user names as "module:function"."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from edgecomp.errors import UsageError, did_you_mean

_SPEC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_function_spec(text: str) -> bool:
    """Whether a text has the form "module:function" or "package.module:function"."""
    return _SPEC.fullmatch(text) is not None


@contextlib.contextmanager
def current_folder_importable() -> Iterator[None]:
    """The current folder comes first on sys.path inside the block."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def load_function(spec: str, option: str) -> Callable[..., Any]:
    """Import what "module:function" names; the current folder is searched first.

    Args:
        spec: For example "my_data:batches".
        option: The option it was given to, for messages.

    Raises:
        UsageError: The module cannot be imported, has no such name, or the name is not a function.
    """
    if not is_function_spec(spec):
        raise UsageError(f'{option} must look like "module:function", got {spec!r}.')
    module_name, _, name = spec.partition(":")
    module = load_module(module_name, option, spec)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = "has no function" if function is None else "has no function but a value called"
        raise UsageError(f"{option} {spec}: {module_name} {what} {name!r}.", hint=did_you_mean(name, known))
    return function  # type: ignore[no-any-return]


def load_module(module_name: str, option: str, spec: str | None = None) -> ModuleType:
    """Import a module of the user's; the current folder is searched first.

    Raises:
        UsageError: It cannot be imported.
    """
    spec = spec or module_name
    name = spec.rpartition(":")[2]
    importlib.invalidate_caches()
    try:
        with current_folder_importable():
            return importlib.import_module(module_name)
    # A user's module runs any code at all when it is imported, so it can fail in any way at all.
    except (Exception, SystemExit) as error:
        hint = "Modules are looked for in the current folder and in the installed packages."
        if isinstance(error, ModuleNotFoundError) and name == "py":
            hint = 'Write "module:function", without ".py".'
        raise UsageError(
            f"{option} {spec}: importing {module_name} failed: {describe(error)}.",
            hint=hint,
        ) from error


def describe(error: BaseException) -> str:
    """`ValueError: first line of its text`, for one sentence about an error of the user's code."""
    text = str(error).strip().splitlines()
    return type(error).__name__ + (f": {text[0].rstrip('.')}" if text else "")
