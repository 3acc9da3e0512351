"""The TFLite runtime that `edgecomp setup` has put on this device, and how a process gets at it.

It is a folder of unpacked wheels below ~/.local/share/edgecomp. A folder on sys.path is all that an import needs:
neither pip nor venv must be there, and nothing that belongs to the system is touched. `runtime.json` beside it names
the current one and the Python that it is for.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from typing import Any

from .machine import this_architecture

DATA_FOLDER = os.path.join("~", ".local", "share", "edgecomp")
POINTER = "runtime.json"
PREFIX = "runtime-"


def data_folder() -> str:
    """Where private runtimes are, whether or not it exists."""
    return os.path.expanduser(DATA_FOLDER)


def abi_tag(soabi: str | None, version: tuple[int, int]) -> str:
    """The tag in the names of wheels: "cp311", "cp37m", "cp313t" of "cpython-311-...", "cpython-37m-...", ..."""
    parts = (soabi or "").split("-")
    if parts[0] == "cpython" and len(parts) > 1:
        return "cp" + parts[1]
    return f"cp{version[0]}{version[1]}"


def this_abi() -> str:
    """`abi_tag` of the running Python."""
    return abi_tag(sysconfig.get_config_var("SOABI"), (sys.version_info[0], sys.version_info[1]))


def read_pointer() -> dict[str, Any] | None:
    """What `runtime.json` says: "folder", "runtime", "version", "abi", "architecture"; None where there is no more."""
    try:
        with open(os.path.join(data_folder(), POINTER), encoding="utf-8") as stream:
            said = json.load(stream)
        names = ("folder", "runtime", "version", "abi", "architecture")
        if not all(isinstance(said[name], str) for name in names):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    folder = said["folder"]
    is_ours = folder.startswith(PREFIX) and folder == os.path.basename(folder)
    return said if is_ours and os.path.isdir(os.path.join(data_folder(), folder)) else None


def why_passed_over(pointer: dict[str, Any]) -> str | None:
    """What speaks against importing from the private folder, or None."""
    found = (this_abi(), this_architecture())
    if (pointer["abi"], pointer["architecture"]) != found:
        return "it is for {} on {}, this Python is {} on {}".format(pointer["abi"], pointer["architecture"], *found)
    for path in (data_folder(), os.path.join(data_folder(), pointer["folder"])):
        status = os.stat(path)
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            return "somebody else may write into " + path
    return None


def add_private_runtime() -> str | None:
    """Let this process import the private runtime before any other; to be called before numpy is imported.

    It goes to the front of sys.path even where the interpreter has a runtime of its own: whoever has run
    `edgecomp setup` wants that one, until `edgecomp setup --remove`.

    Returns:
        None where there is none; else what was done, in words: which runtime is used, or why it is passed over.
    """
    pointer = read_pointer()
    if pointer is None:
        return None
    name = "{} {}".format(pointer["runtime"], pointer["version"])
    problem = why_passed_over(pointer)
    if problem is not None:
        return f"private {name} passed over: {problem}"
    path = os.path.join(data_folder(), pointer["folder"])
    if path not in sys.path:
        sys.path.insert(0, path)
    return f"private {name} in {path}"
