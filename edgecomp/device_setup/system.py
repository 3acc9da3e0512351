"""What the device says of itself, as far as wheels depend on it."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from edgecomp.agent.on_device.machine import architecture_of


class Installed(BaseModel):
    """A private runtime, as `runtime.json` on the device names it.

    Attributes:
        folder: Its name beside `runtime.json`.
        runtime, version: Of the distribution.
        abi, architecture: The Python that it is for.
        own_numpy: It works with the device's own numpy, for want of a wheel.
        wheels: Names of the files that it was made from.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    folder: str = Field(pattern=r"^runtime-\w{1,64}$")
    runtime: str = Field(pattern=r"^[\w.-]{1,64}$")
    version: str = Field(pattern=r"^[\w.+!-]{1,64}$")
    abi: str = Field(pattern=r"^\w{1,64}$")
    architecture: str = Field(pattern=r"^\w{1,64}$")
    own_numpy: bool = False
    wheels: tuple[str, ...] = ()


class DeviceSystem(BaseModel):
    """The Python of a device and what it stands on.

    Attributes:
        python: "3.11.2".
        implementation: "cpython", "pypy".
        abi: Tag in the names of wheels: "cp311", "cp37m", "cp313t" (without the global lock).
        soabi: What extension modules are named by: "cpython-311-arm-linux-gnueabihf"; None where nothing tells.
        machine: As the kernel says.
        pointer_bits: 32 or 64, of the Python: a 32-bit system may run on a 64-bit kernel.
        platform: "linux", "android", "darwin".
        libc: "glibc 2.36", "musl", "bionic", or "" where nothing tells.
        numpy: Version of the numpy that this Python has anyway; None without one.
        folder: Where private runtimes are kept.
        free_bytes: Room there; None where nothing tells.
        current: The private runtime that is there; None if there is none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    python: str = Field(pattern=r"^\d+\.\d+", max_length=40)
    implementation: str = Field(max_length=40)
    abi: str = Field(pattern=r"^cp\d+[a-z]*$")
    soabi: str | None = Field(max_length=100)
    machine: str = Field(pattern=r"^[\w.-]+$", max_length=40)
    pointer_bits: int
    platform: str = Field(max_length=40)
    libc: str = Field(max_length=40)
    numpy: str | None = Field(max_length=40)
    folder: str = Field(max_length=4096)
    free_bytes: int | None
    current: Installed | None

    @property
    def python_version(self) -> tuple[int, int]:
        """Major and minor."""
        major, minor = self.python.split(".")[:2]
        return int(major), int(re.match(r"\d+", minor)[0])  # type: ignore[index]  # Held by the pattern of `python`.

    @property
    def architecture(self) -> str:
        """What Python runs as; "armel" for a 32-bit ARM system without hardware floating point."""
        name = architecture_of(self.machine, self.pointer_bits)
        is_soft = (self.soabi or "").endswith("gnueabi")
        return "armel" if is_soft else name

    @property
    def glibc(self) -> tuple[int, int] | None:
        """Version of the GNU C library; None with another one."""
        match = re.fullmatch(r"glibc (\d+)\.(\d+).*", self.libc)
        return None if match is None else (int(match[1]), int(match[2]))

    def __str__(self) -> str:
        name = {"cpython": "Python"}.get(self.implementation, self.implementation)
        return f"{name} {self.python} on {self.architecture} with {self.libc or 'an unknown libc'}"


_DEBIAN = "On Debian and Raspberry Pi OS: sudo apt install python3."
_OPENWRT = "On OpenWrt: opkg install python3 (but no TFLite runtime has wheels for its musl)."
_ALPINE = "On Alpine: apk add python3 (but no TFLite runtime has wheels for its musl)."
_ANDROID = "On Android: install Termux, then pkg install python (but no TFLite runtime has wheels for Android's libc)."
_OTHER = "If it is there under another name, give that with --python; a relative path starts in the home folder."


def how_to_get_python(os_release: str, is_android: bool) -> str:
    """What to do on a device without Python, by the text of its /etc/os-release; all ways where that is empty."""
    said = dict(re.findall(r'^(ID|ID_LIKE)="?([^"\n]*)"?$', os_release, re.MULTILINE))
    names = f"{said.get('ID', '')} {said.get('ID_LIKE', '')}".split()
    if is_android:
        return f"{_ANDROID} {_OTHER}"
    for family, hint in (("debian", _DEBIAN), ("openwrt", _OPENWRT), ("alpine", _ALPINE)):
        if family in names:
            return f"{hint} {_OTHER}"
    return f"{_DEBIAN} {_OPENWRT} {_ANDROID} {_OTHER}"
