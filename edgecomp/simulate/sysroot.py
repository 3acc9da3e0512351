"""The root file system that programs for aarch64 are run in: what is in it, and whether it is there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgecomp.errors import UsageError

DISTRIBUTION = "bookworm"
PYTHON = "3.11"
MARKER = "edgecomp-sysroot.json"
MAKER = "scripts/make_aarch64_sysroot.py"
_MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28")


@dataclass(frozen=True)
class Runtime:
    """A TFLite runtime of the root file system.

    Attributes:
        folder: Where it lies, relative to the root; goes on Python's search path.
        package: What holds the module `interpreter`.
        requirements: Exact versions: instruction counts belong to them.
        platforms: Tags of the wheels, without the architecture.
    """

    folder: str
    package: str
    requirements: tuple[str, ...]
    platforms: tuple[str, ...] = _MANYLINUX


RUNTIMES = {
    "ai-edge-litert": Runtime("opt/ai-edge-litert", "ai_edge_litert", ("ai-edge-litert==2.3.0", "numpy==2.4.6")),
    "tflite-runtime": Runtime(
        "opt/tflite-runtime",
        "tflite_runtime",
        ("tflite-runtime==2.14.0", "numpy==1.26.4"),
        (*_MANYLINUX, "manylinux_2_34"),
    ),
}


# libstdc++6: of the runtimes' wheels. The rest is what an agent finds on a real board, and its SSH server.
SYSTEM = [
    *("python3", "openssh-server", "openssh-sftp-server", "iproute2", "procps", "libc-bin", "libstdc++6"),
    *("bash", "coreutils", "dash", "sed", "grep", "findutils"),
]


def expected_marker() -> dict[str, list[str]]:
    """What `read_marker` gives of a root file system that is as this edgecomp makes them."""
    return {DISTRIBUTION: SYSTEM} | {name: list(runtime.requirements) for name, runtime in RUNTIMES.items()}


def read_marker(folder: Path) -> dict[str, list[str]] | None:
    """What a root file system was made of, written last; None where there is no complete one."""
    try:
        found = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def check_sysroot(folder: Path, runtime: str) -> None:
    """Hold a root file system against what is to be run in it.

    Raises:
        UsageError: It is not there, not complete, or lacks the runtime.
    """
    hint = f"Make one: python {MAKER} {folder}"
    made_of = read_marker(folder)
    # QEMU says nothing about a program that is not there.
    if made_of is None or not (folder / f"usr/bin/python{PYTHON}").is_file():
        what = "not a root file system for aarch64, or not a complete one" if folder.is_dir() else "not there"
        raise UsageError(f"The sysroot {folder} is {what}.", hint=f"{hint} (in a clone of edgecomp's repository).")
    if made_of.get(runtime) != list(RUNTIMES[runtime].requirements):
        wanted = ", ".join(RUNTIMES[runtime].requirements)
        raise UsageError(
            f"The sysroot {folder} was not made with {wanted}.", hint=f"Make it again: python {MAKER} {folder}"
        )
