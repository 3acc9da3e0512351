"""What the machine and its operating system call themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecomp.facts._fact import Fact, clean, cleaned


@dataclass(frozen=True)
class System:
    """The kernel: name ("Linux"), release and machine ("aarch64"), which is not what programs run as."""

    name: str
    release: str
    machine: str


def parse_uname(text: str) -> System | None:
    """The line of `uname -srm`; None unless it has three words."""
    words = clean(text).split(" ")
    return System(*words) if len(words) == 3 else None


def parse_os_release(text: str) -> str | None:
    """Name of the distribution: PRETTY_NAME of /etc/os-release, else NAME."""
    pairs = {key: value.strip().strip("\"'") for key, _, value in (line.partition("=") for line in text.splitlines())}
    return cleaned(pairs.get("PRETTY_NAME") or pairs.get("NAME") or "")


@dataclass(frozen=True)
class Phone:
    """What Android says of the phone; each part None where it does not."""

    model: str | None
    manufacturer: str | None
    soc: str | None
    release: str | None


def parse_phone(text: str) -> Phone | None:
    """Lines "ro.product.model=Pixel 8"; None if this is no Android."""
    pairs = {key: clean(value) or None for key, value in re.findall(r"^(ro\.[a-z.]+)=(.*)$", text, re.MULTILINE)}
    release = pairs.get("ro.build.version.release")
    if release is None:
        return None
    return Phone(
        pairs.get("ro.product.model"), pairs.get("ro.product.manufacturer"), pairs.get("ro.soc.model"), release
    )


def parse_model(text: str) -> str | None:
    """The device tree's model, which ends with a zero byte."""
    return cleaned(text.partition("\0")[0])


@dataclass(frozen=True)
class Libc:
    """The C library, "glibc" or "musl", and its version."""

    name: str
    version: str


def parse_libc(text: str) -> Libc | None:
    """What `ldd --version` prints, on stdout or stderr; None for a library that is neither glibc nor musl."""
    first, _, rest = text.partition("\n")
    if first.startswith("musl libc"):
        name, version = "musl", rest.partition("\n")[0].removeprefix("Version ")
    elif first.startswith("ldd (") and "glibc" in first.lower().replace("gnu libc", "glibc"):
        name, version = "glibc", first.rpartition(") ")[2]
    else:
        return None
    return Libc(name, version.strip()) if re.fullmatch(r"[0-9][0-9.]{0,15}", version.strip()) else None


def parse_bits(text: str) -> int | None:
    """Width of a word of the programs there, 32 or 64."""
    return int(text) if text.strip() in ("32", "64") else None


@dataclass(frozen=True)
class Dmi:
    """What the firmware of a PC says of maker and product; each None where it is silent or has a placeholder."""

    vendor: str | None
    product: str | None


_PLACEHOLDERS = ("to be filled", "system product", "system manufacturer", "default string", "not specified", "none")


def parse_dmi(text: str) -> Dmi | None:
    """Lines of `grep -H` on /sys/class/dmi/id; None if they say nothing."""
    pairs = {key: clean(value) for key, value in re.findall(r"^/sys/class/dmi/id/(\w+):(.*)$", text, re.MULTILINE)}
    known = {key: text for key, text in pairs.items() if text and not text.lower().startswith(_PLACEHOLDERS)}
    return Dmi(known.get("sys_vendor"), known.get("product_name")) if known else None


def parse_virtualization(text: str) -> str | None:
    """The word of `systemd-detect-virt`: "none", "kvm", "qemu", "docker"."""
    return clean(text, 40) if re.fullmatch(r"[a-z0-9-]+", text.strip()) else None


UNAME = Fact("system", ("uname", "-srm"), parse_uname, "uname")
OS_RELEASE = Fact("distribution", ("cat", "/etc/os-release"), parse_os_release, "/etc/os-release")
PHONE = Fact(
    "phone",
    (
        "sh",
        "-c",
        "command -v getprop >/dev/null || exit 127; for key in ro.product.model ro.product.manufacturer ro.soc.model "
        'ro.build.version.release; do echo "$key=$(getprop "$key")"; done',
    ),
    parse_phone,
    "getprop",
)
MODEL = Fact(
    "model",
    ("sh", "-c", "cat /proc/device-tree/model || cat /sys/firmware/devicetree/base/model"),
    parse_model,
    "device tree",
)
LIBC = Fact("libc", ("sh", "-c", "ldd --version 2>&1"), parse_libc, "ldd")
BITS = Fact("userland_bits", ("getconf", "LONG_BIT"), parse_bits, "getconf LONG_BIT")
DMI = Fact(
    "dmi", ("grep", "-H", "", "/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name"), parse_dmi, "DMI"
)
VIRTUALIZATION = Fact("virtualization", ("systemd-detect-virt",), parse_virtualization, "systemd-detect-virt")
