"""What gives an emulator away, sign by sign, on the text of files; and that real processors are not suspected."""

import os
import platform
import struct
import subprocess
import sys

import pytest

from edgecomp.agent.on_device.emulation import (
    HWCAP_NAMES,
    board_signs,
    cpuinfo_signs,
    emulator_signs,
    parse_elf_machine,
    parse_hwcap,
    parse_value,
    process_signs,
    virtual_machine,
    virtual_machine_of,
)

# A Raspberry Pi 4 under its own kernel.
PI4 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

Hardware\t: BCM2835
Revision\t: c03112
Model\t\t: Raspberry Pi 4 Model B Rev 1.2
"""
# Its AT_HWCAP: bits 0 (fp), 1 (asimd), 2 (evtstrm), 7 (crc32), 11 (cpuid).
PI4_HWCAP = 0x887
X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu sse2
"""


# A Cortex-A76 of QEMU 7.2, qemu-system-aarch64 -M virt, and its AT_HWCAP, as Linux 6.1 showed them there.
EMULATED_A76 = """processor\t: 0
BogoMIPS\t: 125.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
EMULATED_A76_HWCAP = 0x119FFF


def elf(machine, order="<"):
    mark = 1 if order == "<" else 2
    return b"\x7fELF\x02" + bytes([mark, 1]) + bytes(9) + struct.pack(f"{order}HH", 2, machine)


def auxv(*pairs):
    return b"".join(struct.pack("=QQ", *pair) for pair in pairs)


@pytest.mark.parametrize(
    ("header", "machine"),
    [
        (elf(183), "aarch64"),
        (elf(62), "x86_64"),
        (elf(40), "armv7l"),
        (elf(183, ">"), "aarch64"),
        (elf(8), None),  # MIPS: known to ELF, not to us.
        (elf(183)[:19], None),
        (b"#!/bin/sh\n# a script of some length", None),
        (b"", None),
    ],
)
def test_the_machine_of_a_program(header, machine):
    assert parse_elf_machine(header) == machine


def test_a_program_for_another_machine_runs_this_process():
    signs = process_signs("aarch64", "/usr/bin/python3.11", "/usr/bin/qemu-aarch64-static", elf(62))
    assert signs == ["this process for aarch64 is run by qemu-aarch64-static, a program for x86_64"]
    # It needs no name that gives it away.
    assert process_signs("aarch64", "/usr/bin/python3.11", "", elf(62)) != []


def test_another_program_for_the_same_machine_runs_this_process():
    signs = process_signs("aarch64", "/usr/bin/python3.11", "/opt/qemu-aarch64", elf(183))
    assert signs == ["this process is run by qemu-aarch64, not by python3.11"]


@pytest.mark.parametrize(
    ("own", "real", "header"),
    [
        ("/usr/bin/python3.11", "/usr/bin/python3.11", elf(183)),
        ("/usr/bin/python3.11", "", b""),  # A kernel older than 3.17, or a /proc that hides it.
        ("", "", b""),  # No /proc at all.
    ],
)
def test_a_process_that_runs_itself_is_not_suspected(own, real, header):
    assert process_signs("aarch64", own, real, header) == []


def test_hwcap_of_the_auxiliary_vector():
    assert parse_hwcap(auxv((6, 4096), (16, PI4_HWCAP), (0, 0))) == PI4_HWCAP
    assert parse_hwcap(auxv((6, 4096), (0, 0))) is None
    assert parse_hwcap(auxv((16, PI4_HWCAP))[:12]) is None  # Cut off.
    assert parse_hwcap(b"") is None


def test_names_of_hwcap_are_at_their_bits():
    """As in the kernel's uapi/asm/hwcap.h."""
    assert [HWCAP_NAMES.index(name) for name in ("fp", "crc32", "atomics", "asimddp", "sve", "pacg")] == [
        0,
        7,
        8,
        20,
        22,
        31,
    ]


def test_values_of_cpuinfo():
    assert parse_value(PI4, "Model") == "Raspberry Pi 4 Model B Rev 1.2"
    assert parse_value(PI4, "BogoMIPS") == "108.00"
    assert parse_value(PI4, "flags") is None
    assert parse_value("Features\t: \n", "Features") == ""


def test_a_raspberry_pi_is_not_suspected():
    assert cpuinfo_signs("aarch64", PI4, PI4_HWCAP) == []
    assert board_signs(PI4, "raspberrypi,4-model-b\0brcm,bcm2711\0") == []
    assert virtual_machine_of(PI4, "raspberrypi,4-model-b\0brcm,bcm2711\0", ["", "", ""], "") is None


def test_names_that_are_newer_than_ours_are_no_sign():
    newer = PI4.replace("cpuid", "cpuid afp rpres")
    assert cpuinfo_signs("aarch64", newer, PI4_HWCAP | 1 << 40) == []


def test_the_cpuinfo_of_the_host_shows_through():
    assert cpuinfo_signs("aarch64", X86, 0x8FB) == [
        "/proc/cpuinfo describes an x86 processor, but this process is for aarch64"
    ]
    assert cpuinfo_signs("armv7l", X86, None) != []
    assert cpuinfo_signs("x86_64", X86, 0) == []


def test_a_cpuinfo_of_another_processor():
    # QEMU's Cortex-A72 has the crypto extensions (bits 3 to 6) and no event stream (bit 2).
    (sign,) = cpuinfo_signs("aarch64", PI4, 0x8FB)
    assert sign.startswith("/proc/cpuinfo lacks aes, pmull, sha1, sha2 and claims evtstrm,")


@pytest.mark.parametrize("hwcap", [None, PI4_HWCAP])
def test_a_32_bit_process_is_told_other_bits(hwcap):
    """AT_HWCAP of armv7l counts other features, and the kernel writes those of 64-bit into /proc/cpuinfo for some."""
    assert cpuinfo_signs("armv7l", PI4, hwcap) == []


def test_a_machine_that_is_emulated_as_a_whole():
    compatible = "linux,dummy-virt\0"
    assert board_signs(EMULATED_A76, compatible) == [
        'the board is "linux,dummy-virt" with the timer of an emulator (BogoMIPS 125.00)'
    ]
    assert (
        board_signs(PI4.replace("108.00", "2000.00"), compatible) != []
    )  # Since QEMU 9: 1 GHz, which no Cortex-A72 has.
    assert board_signs(EMULATED_A76, "") == []
    # A real kernel runs there: its files agree with each other, and a program is run by itself.
    assert cpuinfo_signs("aarch64", EMULATED_A76, EMULATED_A76_HWCAP) == []
    invented = PI4.replace("0xd08", "0x051").replace("CPU implementer\t: 0x41", "CPU implementer\t: 0x00")
    assert board_signs(invented, "") == ["the processor is QEMU's own, of no vendor (CPU part 0x051)"]
    tcg = X86.replace("AMD EPYC", "QEMU TCG CPU version 2.5+")
    assert board_signs(tcg, "") == ["the processor calls itself QEMU TCG CPU version 2.5+"]


def test_a_virtual_machine_is_no_emulator():
    compatible = "linux,dummy-virt\0"
    # Under KVM the timer is the host's: 54 MHz of a Raspberry Pi 4, 1 GHz of an Armv9 server (Neoverse V2).
    assert board_signs(PI4, compatible) == []
    assert board_signs(PI4.replace("0xd08", "0xd4f").replace("108.00", "2000.00"), compatible) == []
    assert virtual_machine_of(PI4, compatible, [], "") == 'device tree of "linux,dummy-virt"'


@pytest.mark.parametrize(
    ("cpuinfo", "dmi", "hypervisor", "told"),
    [
        (X86, ["QEMU\n", "Standard PC (Q35 + ICH9, 2009)\n"], "", "hardware that calls itself QEMU"),
        (X86, ["Microsoft Corporation\n", "Virtual Machine\n"], "", "hardware that calls itself Virtual Machine"),
        (X86.replace("sse2", "sse2 hypervisor"), [""], "", "hypervisor flag of the processor"),
        (X86, [""], "xen\n", "hypervisor xen"),
        (X86, ["Amazon EC2\n", "c7g.metal\n"], "", None),
        (X86, ["LENOVO\n", "21HDCTO1WW\n"], "", None),
        ("", ["", ""], "", None),
    ],
)
def test_what_shows_a_virtual_machine(cpuinfo, dmi, hypervisor, told):
    assert virtual_machine_of(cpuinfo, "", dmi, hypervisor) == told


def test_this_machine_is_no_emulator():
    """A virtual machine it may be: that is another fact."""
    assert emulator_signs() == []
    assert virtual_machine() is None or isinstance(virtual_machine(), str)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_programs_of_this_machine_are_for_it():
    with open("/proc/thread-self/exe", "rb") as stream:
        assert parse_elf_machine(stream.read(20)) == platform.machine()
    assert os.readlink("/proc/self/exe") == os.readlink("/proc/thread-self/exe")
    shown = subprocess.run(["cat", "/proc/self/auxv"], capture_output=True, check=True).stdout
    assert parse_hwcap(shown) is not None
