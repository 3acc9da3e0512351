"""All facts of a device in one round trip."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from edgecomp.errors import TransportError
from edgecomp.facts._fact import PYTHON, Fact, clean
from edgecomp.facts.cores import CORES, Cores
from edgecomp.facts.cpuinfo import CPUINFO, CpuInfo
from edgecomp.facts.memory import HOME_DISK, MEMORY, TEMPORARY_DISK, Disk, Memory
from edgecomp.facts.software import BENCHMARK_MODEL, PYTHON_FACT, PYTHONS, Python
from edgecomp.facts.system import (
    BITS,
    DMI,
    LIBC,
    MODEL,
    OS_RELEASE,
    PHONE,
    UNAME,
    VIRTUALIZATION,
    Dmi,
    Libc,
    Phone,
    System,
)
from edgecomp.facts.thermal import THROTTLED, ZONES, Throttling, Zone
from edgecomp.transports import Transport

T = TypeVar("T")

FACTS: tuple[Fact[Any], ...] = (
    UNAME, OS_RELEASE, PHONE, MODEL, DMI, VIRTUALIZATION, CPUINFO, CORES, MEMORY, ZONES, THROTTLED, BITS, LIBC,
    PYTHONS, PYTHON_FACT, BENCHMARK_MODEL, HOME_DISK, TEMPORARY_DISK,
)  # fmt: skip

# The longest that is worth parsing: /proc/cpuinfo of 256 processors has 400 kB.
_MOST_CHARACTERS = 2**20
_NO_COMMAND = 127

# "$1" marks what is ours among whatever else is printed, "$2" is the Python; both come as arguments, not as text.
# Folders where vcgencmd and Android's tools live are not on every search path of a command over SSH.
_HEAD = """\
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin:/opt/vc/bin:/system/bin
export LC_ALL PATH
mark=$1 python=$2
say() { printf '\\n%s %s\\n' "$mark" "$*"; }
"""


@dataclass(frozen=True)
class Facts:
    """What a device says of itself. None: it does not say, and `missing` has the reason.

    Attributes:
        host: What the device is called by who asked.
        date: Of the answer, UTC: "2026-08-01".
        phone: Set on Android only.
        model: Of the device tree; a PC says `dmi` instead.
        userland_bits: Of the programs, which may be 32 on a 64-bit kernel.
        pythons: Interpreters on the search path; `python` is the one that was asked for.
        benchmark_model: Where TFLite's own benchmark program is.
        missing: Name of a fact -> why there is none, one clause.
    """

    host: str
    date: str
    system: System | None
    distribution: str | None
    phone: Phone | None
    model: str | None
    dmi: Dmi | None
    virtualization: str | None
    cpuinfo: CpuInfo | None
    cores: Cores | None
    memory: Memory | None
    temperatures: tuple[Zone, ...] | None
    throttling: Throttling | None
    userland_bits: int | None
    libc: Libc | None
    pythons: Mapping[str, str] | None
    python: Python | None
    benchmark_model: str | None
    home_disk: Disk | None
    temporary_disk: Disk | None
    missing: Mapping[str, str]


def collect(transport: Transport, *, python: str = "python3", timeout_s: float = 60.0) -> Facts:
    """Ask a device for everything, in one command; nothing is written there.

    Args:
        transport: Reaches the device.
        python: The interpreter whose runtimes count.
        timeout_s: For all of it.

    Raises:
        TransportError: The device has no POSIX shell, or the connection was lost.
        CommandTimeoutError: A command there hangs.
    """
    mark = secrets.token_hex(12)
    result = transport.run(
        ["sh", "-s", "--", mark, python], timeout_s=timeout_s, stdin=device_script(FACTS).encode("ascii")
    )
    answers = read_answers(result.stdout.decode(errors="replace"), mark)
    if not answers:
        why = clean(result.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        raise TransportError(
            f"sh on {transport.host} did not run the commands of a probe (exit code {result.exit_code}).",
            hint=f"Its last words: {why!r}" if why else "A probe needs a POSIX shell on the device.",
        )
    return facts_of(transport.host, answers)


def device_script(facts: Sequence[Fact[Any]]) -> str:
    """The commands of all facts for a POSIX shell: the same text for every device, built from constants only."""
    lines = [_HEAD]
    for fact in facts:
        words = ['"$python"' if word == PYTHON else shlex.quote(word) for word in fact.argv]
        # Without a stdin of its own a command would read the rest of the script.
        lines.append(f"say begin {fact.name}\n{' '.join(words)} </dev/null 2>/dev/null\nsay end $?\n")
    return "".join(lines)


def read_answers(text: str, mark: str) -> dict[str, tuple[int, str]]:
    """What the script printed: fact -> exit code and output. What came before, between or after is left out."""
    answers: dict[str, tuple[int, str]] = {}
    for piece in text.split(f"\n{mark} begin ")[1:]:
        name, _, rest = piece.partition("\n")
        output, end, code = rest.partition(f"\n{mark} end ")
        code = code.partition("\n")[0]
        if end and code.isdecimal():
            answers[name] = (int(code[:3]), output[:_MOST_CHARACTERS])
    return answers


def facts_of(host: str, answers: Mapping[str, tuple[int, str]]) -> Facts:
    """Parse what a device printed. A pure function of it, but for the date."""
    missing: dict[str, str] = {}

    def get(fact: Fact[T]) -> T | None:
        code, output = answers.get(fact.name, (-1, ""))
        value = fact.parse(output) if output.strip() else None
        if value is None:
            missing[fact.name] = _why_missing(fact, code, output)
        return value

    return Facts(
        host=clean(host),
        date=datetime.now(UTC).date().isoformat(),
        system=get(UNAME),
        distribution=get(OS_RELEASE),
        phone=get(PHONE),
        model=get(MODEL),
        dmi=get(DMI),
        virtualization=get(VIRTUALIZATION),
        cpuinfo=get(CPUINFO),
        cores=get(CORES),
        memory=get(MEMORY),
        temperatures=get(ZONES),
        throttling=get(THROTTLED),
        userland_bits=get(BITS),
        libc=get(LIBC),
        pythons=get(PYTHONS),
        python=get(PYTHON_FACT),
        benchmark_model=get(BENCHMARK_MODEL),
        home_disk=get(HOME_DISK),
        temporary_disk=get(TEMPORARY_DISK),
        missing=missing,
    )


def _why_missing(fact: Fact[Any], code: int, output: str) -> str:
    if code < 0:
        return "the device did not come to it"
    if output.strip():
        return f"{fact.source}: {clean(output, 60)!r} says nothing of it"
    return f"no {fact.source}" if code in (1, 2, _NO_COMMAND) else f"{fact.source} ended with exit code {code}"
