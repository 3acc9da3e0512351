"""Which runtime a device can have: pure functions of what the device says.

ai-edge-litert comes first: its int8 kernels go through XNNPACK and use the dot-product instructions of newer cores,
those of tflite-runtime do not. tflite-runtime ended with 2.14 and needs numpy 1, but it alone has wheels for 32-bit
ARM and for Python 3.7 and 3.8. Which version it is to be is left to pip, which sees what the index has today.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgecomp.device_setup.system import DeviceSystem
from edgecomp.errors import SetupError, UsageError, did_you_mean

Version = tuple[int, int]


@dataclass(frozen=True)
class Runtime:
    """A distribution with wheels, and what they are for.

    Attributes:
        name: Of the distribution; `package` is what is imported.
        requirements: For pip.
        architectures: That there are wheels for.
        oldest_python, newest_python: That there are wheels for.
        is_finished: There will be no wheels for a newer Python.
        least_glibc: With any Python; `glibc_of_newest` on ARM with the newest one.
        needs_only_numpy: No other package, so that the numpy of the system is enough.
    """

    name: str
    package: str
    requirements: tuple[str, ...]
    architectures: tuple[str, ...]
    oldest_python: Version
    newest_python: Version
    is_finished: bool
    least_glibc: Version
    glibc_of_newest: Version
    needs_only_numpy: bool

    def refusal(self, system: DeviceSystem) -> str | None:
        """Why there is no wheel, as the end of "it has none for ..."; None where there may be one."""
        if system.architecture not in self.architectures:
            return system.architecture
        python = system.python_version
        if python < self.oldest_python or (self.is_finished and python > self.newest_python):
            return f"Python {_dotted(python)}"
        is_newest_on_arm = python == self.newest_python and system.architecture != "x86_64"
        least = self.glibc_of_newest if is_newest_on_arm else self.least_glibc
        if system.glibc is not None and system.glibc < least:
            return f"glibc {_dotted(system.glibc)} (it takes {_dotted(least)})"
        return None

    @property
    def wheels(self) -> str:
        """What there are wheels for, in words."""
        *first, last = self.architectures
        newest = "" if self.glibc_of_newest == self.least_glibc else f", {_dotted(self.glibc_of_newest)} on ARM "
        newest += f"with Python {_dotted(self.newest_python)}" if newest else ""
        return (
            f"{self.name}: {', '.join(first)} and {last}, Python {_dotted(self.oldest_python)} to "
            f"{_dotted(self.newest_python)}, glibc {_dotted(self.least_glibc)} or newer{newest}"
        )


RUNTIMES = (
    # 1.4 was the last to take glibc older than 2.27, with Python 3.9 to 3.12; 2.1 the last for Python 3.9.
    Runtime(
        "ai-edge-litert", "ai_edge_litert", ("ai-edge-litert",), ("aarch64", "x86_64"), (3, 9), (3, 14), False,
        (2, 17), (2, 17), False,
    ),
    # 2.11 was the last for Python 3.7, 2.13 the last for ARM with glibc older than 2.34. Built for numpy 1.
    Runtime(
        "tflite-runtime", "tflite_runtime", ("tflite-runtime", "numpy<2"), ("aarch64", "armv7l", "x86_64"), (3, 7),
        (3, 11), True, (2, 17), (2, 34), True,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A runtime to try, and why not the one before it."""

    runtime: Runtime
    why: str


def choose_runtimes(
    system: DeviceSystem, wanted: str | None = None, *, has_own_wheels: bool = False
) -> tuple[Choice, ...]:
    """The runtimes that may have wheels for a device, best first.

    Args:
        system: The device.
        wanted: Name of the only one to consider.
        has_own_wheels: The user brings wheels, maybe self-made: nothing is ruled out by what is published.

    Raises:
        UsageError: There is no runtime of that name.
        SetupError: None has wheels for the device; the sentence says what stands in the way and what there is.
    """
    names = [runtime.name for runtime in RUNTIMES]
    if wanted is not None and wanted not in names:
        raise UsageError(f"There is no runtime {wanted!r}.", hint=did_you_mean(wanted, names))
    considered = [runtime for runtime in RUNTIMES if wanted in (None, runtime.name)]
    if system.platform not in ("linux", "android"):
        raise SetupError(
            f"A private runtime is for Linux devices, this one says {system.platform!r}.",
            hint="Install ai-edge-litert there with pip.",
        )
    if system.implementation != "cpython":
        raise SetupError(
            f"No TFLite runtime has wheels for {system.implementation}.", hint="Name a CPython with --python."
        )
    if has_own_wheels:
        return tuple(Choice(runtime, "from your own wheels") for runtime in considered)
    _check_published(system)
    found: list[Choice] = []
    refusals: list[str] = []
    for runtime in considered:
        refusal = runtime.refusal(system)
        if refusal is None:
            found.append(Choice(runtime, _why(runtime, wanted, refusals)))
        else:
            refusals.append(f"{runtime.name} has none for {refusal}")
    if not found:
        raise SetupError(f"There is no wheel for {system}: {'; '.join(refusals)}.", hint=what_exists())
    return tuple(found)


def platform_tags(system: DeviceSystem) -> tuple[str, ...]:
    """Tags of wheels that run on the device, best first: each manylinux up to its glibc, then plain Linux.

    A wheel with a plain Linux tag (piwheels, self-made) promises nothing about its glibc; the trial on the device
    shows whether it runs.
    """
    name = system.architecture
    tags: list[str] = []
    if system.glibc is not None:
        # Before 2.17 there were wheels for x86 only; 2014, 2010 and 1 are other names for 2.17, 2.12 and 2.5.
        oldest = 5 if name in ("x86_64", "i686") else 17
        tags += [f"manylinux_2_{minor}_{name}" for minor in range(system.glibc[1], oldest - 1, -1)]
        tags += [
            f"{alias}_{name}"
            for alias, minor in (("manylinux2014", 17), ("manylinux2010", 12), ("manylinux1", 5))
            if oldest <= minor <= system.glibc[1]
        ]
    elif system.libc == "musl":
        tags += [f"musllinux_1_{minor}_{name}" for minor in (2, 1)]
    return (*tags, f"linux_{name}")


def what_exists() -> str:
    """Which wheels there are, and what to do without."""
    known = ". ".join(runtime.wheels for runtime in RUNTIMES)
    return f"Known wheels: {known}. Name another Python with --python, or a folder of your own wheels with --wheels."


def _check_published(system: DeviceSystem) -> None:
    """What no published wheel is for. Raises SetupError."""
    if system.abi.endswith("t"):
        raise SetupError(
            f"There is no wheel for a free-threaded Python ({system.abi}).", hint="Name a usual one with --python."
        )
    if system.glibc is None:
        name = {"musl": "musl (Alpine, OpenWrt)", "bionic": "Android's own libc"}.get(system.libc, "an unknown libc")
        # See docs/bench-engines.md.
        hint = f"{what_exists()} A native benchmark_model can be timed there without any of them."
        raise SetupError(f"There is no wheel for {name}: all need glibc.", hint=hint)


def _why(runtime: Runtime, wanted: str | None, refusals: list[str]) -> str:
    if wanted is not None:
        return "asked for"
    if runtime is RUNTIMES[0]:
        return "its int8 kernels are faster than those of tflite-runtime"
    return refusals[0] if refusals else f"no version of {RUNTIMES[0].name} fits"


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
