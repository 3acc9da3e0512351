"""Pythons and runtimes on the device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgecomp.agent.on_device.private_runtime import DATA_FOLDER, POINTER, abi_tag
from edgecomp.facts._fact import PYTHON, Fact, clean

RUNTIMES = ("ai-edge-litert", "tflite-runtime", "tensorflow")
"""Packages that can run a .tflite, best first."""

# Python 3.7. Nothing is imported that could crash: versions are read, not the packages themselves.
_SCRIPT = f"""
import json, os, platform, struct, sys, sysconfig
from importlib.util import find_spec
try:
    from importlib.metadata import version
except ImportError:
    from pkg_resources import get_distribution
    def version(name):
        return get_distribution(name).version
print("python", platform.python_version())
print("bits", struct.calcsize("P") * 8)
print("libc", *platform.libc_ver())
for module, names in (
    ("ai_edge_litert", ["ai-edge-litert", "ai-edge-litert-nightly"]),
    ("tflite_runtime", ["tflite-runtime", "tflite-runtime-nightly"]),
    ("tensorflow", ["tensorflow", "tensorflow-cpu", "tensorflow-aarch64", "tf-nightly"]),
    ("numpy", ["numpy"]),
):
    if find_spec(module) is None:
        continue
    for name in names:
        try:
            print("package", names[0], version(name))
            break
        except Exception:
            pass
    else:
        print("package", names[0], "?")
print("soabi", sysconfig.get_config_var("SOABI"))
try:
    with open(os.path.join(os.path.expanduser({DATA_FOLDER!r}), {POINTER!r})) as stream:
        said = json.load(stream)
    print("private", said["runtime"], said["version"], said["abi"])
except Exception:
    pass
"""


@dataclass(frozen=True)
class Python:
    """The interpreter that a benchmark would use.

    Attributes:
        bits: Of a pointer: 32 for a 32-bit system on a 64-bit kernel.
        libc: Name and version of the C library that it was linked with; None where it does not tell.
        packages: Package -> version, of the runtimes and numpy; None for one that is there without saying its version.
        private: Package and version that `edgecomp setup` has put there for this Python; None where it has not.
    """

    version: str
    bits: int
    libc: tuple[str, str] | None
    packages: Mapping[str, str | None]
    private: tuple[str, str] | None = None

    @property
    def runtimes(self) -> dict[str, str | None]:
        """Packages that can run a .tflite -> version, the one that a benchmark uses first."""
        own: dict[str, str | None] = {name: self.packages[name] for name in RUNTIMES if name in self.packages}
        return own if self.private is None else {self.private[0]: self.private[1], **own}


def parse_python(text: str) -> Python | None:
    """What `_SCRIPT` prints; None if it did not come to its second line."""
    version: str | None = None
    bits: int | None = None
    libc: tuple[str, str] | None = None
    packages: dict[str, str | None] = {}
    soabi, private = "", ("", "", "")
    for line in text.splitlines():
        match clean(line).split(" "):
            case ["python", found] if re.fullmatch(r"[0-9]+\.[0-9]+.*", found):
                version = found
            case ["bits", ("32" | "64") as found]:
                bits = int(found)
            case ["libc", name, found]:
                libc = (name, found)
            case ["package", name, found] if name in (*RUNTIMES, "numpy"):
                packages[name] = None if found == "?" else found
            case ["soabi", found]:
                soabi = found
            case ["private", name, found, abi] if name in RUNTIMES:
                private = (name, found, abi)
    if version is None or bits is None:
        return None
    is_for_it = private[2] == abi_tag(soabi, major_minor(version))
    return Python(version, bits, libc, packages, private[:2] if is_for_it else None)


def major_minor(version: str) -> tuple[int, int]:
    """The first two numbers of a Python's version."""
    major, minor = re.findall("[0-9]{1,4}", version)[:2]
    return int(major), int(minor)


def parse_pythons(text: str) -> dict[str, str] | None:
    """Lines "python3.11 Python 3.11.2" -> {"python3.11": "3.11.2"}; None if there is none."""
    found = re.findall(r"^(python3(?:\.[0-9]{1,2})?) Python ([0-9]+\.[0-9]+[^\s]{0,20})$", text, re.MULTILINE)
    return {name: clean(version, 24) for name, version in found} or None


def parse_path(text: str) -> str | None:
    """An absolute path on the first line."""
    first = clean(text.partition("\n")[0], 200)
    return first if first.startswith("/") else None


PYTHON_FACT = Fact("python", (PYTHON, "-c", _SCRIPT), parse_python, "python")
PYTHONS = Fact(
    "pythons",
    (
        "sh",
        "-c",
        "for name in python3 python3.7 python3.8 python3.9 python3.10 python3.11 python3.12 python3.13 python3.14; do "
        'command -v "$name" >/dev/null && echo "$name $("$name" --version 2>&1)"; done; true',
    ),
    parse_pythons,
    "python3 --version",
)
BENCHMARK_MODEL = Fact(
    "benchmark_model", ("sh", "-c", "command -v benchmark_model"), parse_path, "benchmark_model on the search path"
)
