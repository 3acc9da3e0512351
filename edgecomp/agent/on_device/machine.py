"""What the device is, as far as it bears on a latency."""

from __future__ import annotations

import os
import platform
import struct
import sys
from typing import Any

ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l", "armv7": "armv7l"}


def parse_cpuinfo(text: str) -> dict[str, Any]:
    """`part_ids` ("CPU part", in order of first sight) and `model` of the text of /proc/cpuinfo."""
    parts: list[str] = []
    names: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if key == "CPU part" and value not in parts:
            parts.append(value)
        if value:
            names.setdefault(key, value)
    # "Model" is the board, "model name" the processor.
    return {"part_ids": parts, "model": names.get("Model") or names.get("model name") or names.get("Hardware")}


def architecture_of(machine: str, pointer_bits: int) -> str:
    """What Python runs as: a 32-bit system on a 64-bit kernel says "aarch64" and is not."""
    name = ARCHITECTURES.get(machine.lower(), machine.lower())
    return {"aarch64": "armv7l", "x86_64": "i686"}.get(name, name) if pointer_bits == 32 else name


def this_architecture() -> str:
    """`architecture_of` this very process."""
    return architecture_of(platform.machine(), struct.calcsize("P") * 8)


def read_text(path: str) -> str:
    """A small file, or "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def collect_facts() -> dict[str, Any]:
    """The device, as far as it bears on a latency."""
    info = parse_cpuinfo(read_text("/proc/cpuinfo"))
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "machine": platform.machine(),
        "architecture": this_architecture(),
        "cpu_part_ids": info["part_ids"],
        "cpu_model": read_text("/proc/device-tree/model").strip("\0\n ") or info["model"],
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "executable": sys.executable,
    }
