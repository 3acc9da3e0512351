"""Whether this device is one: an emulator's time is no latency, and its clock even reverses orders.

A virtual machine is no emulator: its instructions run on the processor itself. It is told apart, as a fact of its own.
Nothing here depends on the program being called qemu: files that an emulator invents for a process (/proc/self/exe,
/proc/self/cmdline) are held against those that it forgets (/proc/thread-self), and what the kernel's files say of the
processor against what the process was told when it started (the auxiliary vector).
"""

from __future__ import annotations

import os
import struct

from .machine import parse_cpuinfo, read_text, this_architecture

# e_machine of an ELF header. Rosetta, FEX and box64 run x86 programs on aarch64 in the same way as qemu does others.
ELF_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
# Bits of AT_HWCAP of 64-bit Arm, by the names of the line "Features" in /proc/cpuinfo; the kernel prints the one from
# the other, so on a real processor they agree.
HWCAP_NAMES = (
    "fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "cpuid",
    "asimdrdm", "jscvt", "fcma", "lrcpc", "dcpop", "sha3", "sm3", "sm4", "asimddp", "sha512", "sve", "asimdfhm", "dit",
    "uscat", "ilrcpc", "flagm", "ssbs", "sb", "paca", "pacg",
)  # fmt: skip
AT_HWCAP = 16
X86_KEYS = ("vendor_id", "cpu family", "stepping")
VIRTUAL_BOARD = "linux,dummy-virt"
# The generic timer of QEMU's "virt" board, 62.5 MHz, and of newer ones 1 GHz; BogoMIPS is twice that. Cores up to
# Armv8.5 have no timer of 1 GHz; under KVM the timer is that of the host.
EMULATED_BOGOMIPS, NEW_EMULATED_BOGOMIPS = "125.00", "2000.00"
OLD_CORES = ("0xd03", "0xd04", "0xd05", "0xd07", "0xd08", "0xd09", "0xd0a", "0xd0b", "0xd0c", "0xd0d")
# QEMU's invented processor "max", of no vendor.
INVENTED_PART, NO_VENDOR = "0x051", "0x00"
# What a bare cloud machine shares with a virtual one is left out (vendor "Amazon EC2").
VIRTUAL_PRODUCTS = ("qemu", "kvm", "virtualbox", "vmware", "virtual machine", "hvm domu", "google compute engine",
                    "apple virtualization", "parallels", "firecracker", "bochs")  # fmt: skip


def parse_elf_machine(header: bytes) -> str | None:
    """The architecture that a program was built for, from its first 20 bytes; None where it is none, or unknown."""
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    (number,) = struct.unpack("<H" if header[5] == 1 else ">H", header[18:20])
    return ELF_MACHINES.get(number)


def process_signs(architecture: str, own_path: str, real_path: str, real_header: bytes) -> list[str]:
    """A process whose program is really another one, which translates it.

    Args:
        architecture: What this Python was built for.
        own_path: Target of /proc/self/exe, which emulators answer with the program that they emulate.
        real_path: Target of /proc/thread-self/exe, "" where there is none.
        real_header: The first bytes of that file.
    """
    machine = parse_elf_machine(real_header)
    name = os.path.basename(real_path) or "another program"
    if machine is not None and machine != architecture:
        return [f"this process for {architecture} is run by {name}, a program for {machine}"]
    if own_path and real_path and own_path != real_path:
        return [f"this process is run by {name}, not by {os.path.basename(own_path)}"]
    return []


def parse_hwcap(auxv: bytes) -> int | None:
    """AT_HWCAP of /proc/self/auxv of a 64-bit process; None where there is none."""
    for start in range(0, len(auxv) - 15, 16):
        kind, value = struct.unpack_from("=QQ", auxv, start)
        if kind == AT_HWCAP:
            return int(value)
    return None


def parse_value(cpuinfo: str, name: str) -> str | None:
    """What the first line of this name in /proc/cpuinfo says; None where there is none."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def cpuinfo_signs(architecture: str, cpuinfo: str, hwcap: int | None) -> list[str]:
    """A /proc/cpuinfo that tells of another processor than this process runs on."""
    if architecture.startswith(("aarch64", "arm")):
        keys = {line.partition(":")[0].strip() for line in cpuinfo.splitlines()}
        if keys.issuperset(X86_KEYS):
            return [f"/proc/cpuinfo describes an x86 processor, but this process is for {architecture}"]
    features = parse_value(cpuinfo, "Features")
    if architecture != "aarch64" or features is None or hwcap is None:
        return []
    told = {name for bit, name in enumerate(HWCAP_NAMES) if hwcap >> bit & 1}
    written = set(HWCAP_NAMES).intersection(features.split())
    if told == written:
        return []
    parts = [(told - written, "lacks"), (written - told, "claims")]
    text = " and ".join(f"{verb} {', '.join(sorted(names))}" for names, verb in parts if names)
    return [f"/proc/cpuinfo {text}, against what this process was told of its processor"]


def board_signs(cpuinfo: str, compatible: str) -> list[str]:
    """A whole machine that is emulated: processors that nobody makes, or the timer of an emulated board.

    Args:
        cpuinfo: Text of /proc/cpuinfo.
        compatible: Text of /proc/device-tree/compatible, "" where there is none.
    """
    info = parse_cpuinfo(cpuinfo)
    parts = info["part_ids"]
    if "QEMU TCG CPU" in (info["model"] or ""):
        return [f"the processor calls itself {info['model']}"]
    if INVENTED_PART in parts and parse_value(cpuinfo, "CPU implementer") == NO_VENDOR:
        return [f"the processor is QEMU's own, of no vendor (CPU part {INVENTED_PART})"]
    speed = parse_value(cpuinfo, "BogoMIPS")
    is_old = bool(parts) and all(part in OLD_CORES for part in parts)
    if VIRTUAL_BOARD in compatible and (speed == EMULATED_BOGOMIPS or (speed == NEW_EMULATED_BOGOMIPS and is_old)):
        return [f'the board is "{VIRTUAL_BOARD}" with the timer of an emulator (BogoMIPS {speed})']
    return []


def virtual_machine_of(cpuinfo: str, compatible: str, dmi: list[str], hypervisor: str) -> str | None:
    """What shows that this is a virtual machine; None where nothing does.

    Args:
        cpuinfo: Text of /proc/cpuinfo.
        compatible: Text of /proc/device-tree/compatible, "" where there is none.
        dmi: Texts of /sys/class/dmi/id: vendor, product.
        hypervisor: Text of /sys/hypervisor/type, "" where there is none.
    """
    for text in dmi:
        if any(name in text.lower() for name in VIRTUAL_PRODUCTS):
            return f"hardware that calls itself {text.strip()[:60]}"
    if VIRTUAL_BOARD in compatible:
        return f'device tree of "{VIRTUAL_BOARD}"'
    if hypervisor.strip():
        return f"hypervisor {hypervisor.strip()[:20]}"
    flags = parse_value(cpuinfo, "flags") or ""
    return "hypervisor flag of the processor" if "hypervisor" in flags.split() else None


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _head(path: str, length: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(length)
    except OSError:
        return b""


def emulator_signs() -> list[str]:
    """Everything that shows that this process, or the whole machine, is emulated; empty on a real one."""
    architecture = this_architecture()
    cpuinfo = read_text("/proc/cpuinfo")
    real = "/proc/thread-self/exe"
    signs = process_signs(architecture, _link("/proc/self/exe"), _link(real), _head(real, 20))
    signs += cpuinfo_signs(architecture, cpuinfo, parse_hwcap(_head("/proc/self/auxv", 4096)))
    return signs + board_signs(cpuinfo, read_text("/proc/device-tree/compatible"))


def virtual_machine() -> str | None:
    """What shows that this is a virtual machine; None where nothing does."""
    dmi = [read_text("/sys/class/dmi/id/" + name) for name in ("sys_vendor", "product_name", "board_vendor")]
    compatible = read_text("/proc/device-tree/compatible")
    return virtual_machine_of(read_text("/proc/cpuinfo"), compatible, dmi, read_text("/sys/hypervisor/type"))
