"""What a device is, as far as a shell can tell: the facts of a measurement that takes no Python there."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from edgecomp.agent.on_device.emulation import board_signs, cpuinfo_signs, parse_elf_machine, virtual_machine_of
from edgecomp.agent.on_device.machine import ARCHITECTURES, architecture_of, parse_cpuinfo
from edgecomp.agent.reports import DeviceFacts
from edgecomp.bench.native_device import SHORT_S
from edgecomp.facts import device_script, read_answers
from edgecomp.facts._fact import Fact, number_list
from edgecomp.facts.cores import CORES
from edgecomp.facts.system import BITS, MODEL, PHONE, UNAME
from edgecomp.transports import Transport

RUNTIME = "benchmark_model"

_CPUINFO = Fact("cpuinfo", ("cat", "/proc/cpuinfo"), str, "/proc/cpuinfo")
_COMPATIBLE = Fact("compatible", ("cat", "/proc/device-tree/compatible"), str, "device tree")
_DMI = Fact(
    "dmi", ("sh", "-c", "cd /sys/class/dmi/id && cat sys_vendor product_name board_vendor"), str, "/sys/class/dmi/id"
)
_HYPERVISOR = Fact("hypervisor", ("cat", "/sys/hypervisor/type"), str, "/sys/hypervisor")
_ALLOWED = Fact("allowed", ("grep", "Cpus_allowed_list", "/proc/self/status"), str, "/proc/self/status")
_TASKSET = Fact("taskset", ("sh", "-c", "command -v taskset"), str, "taskset")
_FACTS = (UNAME, BITS, MODEL, PHONE, CORES, _CPUINFO, _COMPATIBLE, _DMI, _HYPERVISOR, _ALLOWED, _TASKSET)

# Programs for these run on those without being translated.
_RUNS_ON = {("armv7l", "aarch64"), ("i686", "x86_64")}
_HEADER_BYTES = 20


@dataclass(frozen=True)
class NativeDevice:
    """A device without Python.

    Attributes:
        facts: The machine; its kernels are not known before a model was run.
        speeds: Of the cores that may be used: capacity (of 1024) and highest frequency in kHz, 0 where not told.
        can_bind: It has `taskset`.
    """

    facts: DeviceFacts
    speeds: Mapping[int, tuple[int, int]]
    can_bind: bool


def read_device(transport: Transport, program: str) -> NativeDevice:
    """Ask a device what it is; nothing is written there.

    Args:
        transport: Reaches the device.
        program: Path of the program that is going to be measured with: what it was built for is what counts.

    Raises:
        CommandTimeoutError, TransportError: See `Transport.run`.
    """
    mark = secrets.token_hex(12)
    script = device_script(_FACTS).encode("ascii")
    result = transport.run(["sh", "-s", "--", mark, ""], timeout_s=SHORT_S, stdin=script)
    header = transport.run(["head", "-c", str(_HEADER_BYTES), program], timeout_s=SHORT_S).stdout
    return parse_device(read_answers(result.stdout.decode(errors="replace"), mark), header)


def parse_device(answers: Mapping[str, tuple[int, str]], header: bytes) -> NativeDevice:
    """The facts of what a device answered.

    Args:
        answers: Exit code and output by name of a fact.
        header: The first bytes of the program.
    """

    def said(fact: Fact[str]) -> str:
        return answers.get(fact.name, (1, ""))[1].strip("\0\n ")

    system = UNAME.parse(answers.get(UNAME.name, (1, ""))[1])
    machine = "unknown" if system is None else system.machine
    built_for = parse_elf_machine(header)
    bits = BITS.parse(answers.get(BITS.name, (1, ""))[1]) or 64
    architecture = built_for or architecture_of(machine, bits)
    cpuinfo, compatible, info = said(_CPUINFO), said(_COMPATIBLE), parse_cpuinfo(said(_CPUINFO))
    phone = PHONE.parse(answers.get(PHONE.name, (1, ""))[1])
    speeds = _speeds(answers, said(_ALLOWED))
    facts = DeviceFacts(
        machine=machine,
        architecture=architecture,
        cpu_part_ids=tuple(info["part_ids"]),
        cpu_model=MODEL.parse(answers.get(MODEL.name, (1, ""))[1]) or (phone and phone.model) or info["model"],
        cores=len(speeds) or None,
        system="unknown" if system is None else system.name,
        kernel="unknown" if system is None else system.release,
        python=None,
        numpy=None,
        runtime=RUNTIME,
        runtime_version=None,
        kernel_family=None,
        tried=(),
        emulator_signs=(
            *_program_signs(built_for, ARCHITECTURES.get(machine, machine)),
            *cpuinfo_signs(architecture, cpuinfo, None),
            *board_signs(cpuinfo, compatible),
        ),
        virtual_machine=virtual_machine_of(cpuinfo, compatible, said(_DMI).splitlines(), said(_HYPERVISOR)),
    )
    return NativeDevice(facts, speeds, can_bind=answers.get(_TASKSET.name, (1, ""))[0] == 0)


def _program_signs(built_for: str | None, machine: str) -> list[str]:
    """A program for another processor, which somebody must be translating."""
    if built_for is None or built_for == machine or (built_for, machine) in _RUNS_ON:
        return []
    return [f"{RUNTIME} is a program for {built_for}, and the machine is {machine}"]


def _speeds(answers: Mapping[str, tuple[int, str]], allowed: str) -> dict[int, tuple[int, int]]:
    cores = CORES.parse(answers.get(CORES.name, (1, ""))[1])
    usable = number_list(allowed.rpartition(":")[2])
    if cores is None:
        return dict.fromkeys(usable, (0, 0))
    told = {core.number: (core.capacity or 0, (core.max_hz or 0) // 1000) for core in cores.cores}
    online = cores.online or tuple(told) or usable
    return {core: told.get(core, (0, 0)) for core in online if not usable or core in usable}
