"""What the kernel's words for a processor mean in those of a profile: names of cores, features, levels of x86-64."""

from __future__ import annotations

from collections.abc import Iterable

_ARM, _QUALCOMM, _NVIDIA, _BROADCOM = "0x41", "0x51", "0x4e", "0x42"

# Linux, arch/arm/include/asm/cputype.h and arch/arm64/include/asm/cputype.h; util-linux, sys-utils/lscpu-arm.c.
_CORES = {
    (_ARM, "0xb76"): "arm1176jzf-s",
    (_ARM, "0xc05"): "cortex-a5",
    (_ARM, "0xc07"): "cortex-a7",
    (_ARM, "0xc08"): "cortex-a8",
    (_ARM, "0xc09"): "cortex-a9",
    (_ARM, "0xc0d"): "cortex-a17",
    (_ARM, "0xc0e"): "cortex-a17",
    (_ARM, "0xc0f"): "cortex-a15",
    (_ARM, "0xd02"): "cortex-a34",
    (_ARM, "0xd03"): "cortex-a53",
    (_ARM, "0xd04"): "cortex-a35",
    (_ARM, "0xd05"): "cortex-a55",
    (_ARM, "0xd06"): "cortex-a65",
    (_ARM, "0xd07"): "cortex-a57",
    (_ARM, "0xd08"): "cortex-a72",
    (_ARM, "0xd09"): "cortex-a73",
    (_ARM, "0xd0a"): "cortex-a75",
    (_ARM, "0xd0b"): "cortex-a76",
    (_ARM, "0xd0c"): "neoverse-n1",
    (_ARM, "0xd0d"): "cortex-a77",
    (_ARM, "0xd0e"): "cortex-a76ae",
    (_ARM, "0xd40"): "neoverse-v1",
    (_ARM, "0xd41"): "cortex-a78",
    (_ARM, "0xd42"): "cortex-a78ae",
    (_ARM, "0xd44"): "cortex-x1",
    (_ARM, "0xd46"): "cortex-a510",
    (_ARM, "0xd47"): "cortex-a710",
    (_ARM, "0xd48"): "cortex-x2",
    (_ARM, "0xd49"): "neoverse-n2",
    (_ARM, "0xd4b"): "cortex-a78c",
    (_ARM, "0xd4c"): "cortex-x1c",
    (_ARM, "0xd4d"): "cortex-a715",
    (_ARM, "0xd4e"): "cortex-x3",
    (_ARM, "0xd4f"): "neoverse-v2",
    (_ARM, "0xd80"): "cortex-a520",
    (_ARM, "0xd81"): "cortex-a720",
    (_ARM, "0xd82"): "cortex-x4",
    (_ARM, "0xd85"): "cortex-x925",
    (_ARM, "0xd87"): "cortex-a725",
    (_BROADCOM, "0x100"): "brahma-b53",
    (_NVIDIA, "0x003"): "denver-2",
    (_NVIDIA, "0x004"): "carmel",
    (_QUALCOMM, "0x800"): "kryo-2xx-gold (cortex-a73)",
    (_QUALCOMM, "0x801"): "kryo-2xx-silver (cortex-a53)",
    (_QUALCOMM, "0x802"): "kryo-3xx-gold (cortex-a75)",
    (_QUALCOMM, "0x803"): "kryo-3xx-silver (cortex-a55)",
    (_QUALCOMM, "0x804"): "kryo-4xx-gold (cortex-a76)",
    (_QUALCOMM, "0x805"): "kryo-4xx-silver (cortex-a55)",
}

# All of the kernel's words on the left are needed for the profile's word on the right.
_ARM_FEATURES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"asimd"}), "neon"),
    (frozenset({"neon"}), "neon"),
    (frozenset({"vfp"}), "vfp"),
    (frozenset({"asimddp"}), "dotprod"),
    (frozenset({"fphp", "asimdhp"}), "fp16"),
    (frozenset({"i8mm"}), "i8mm"),
)
_X86_FEATURES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"avx2"}), "avx2"),
    (frozenset({"fma"}), "fma"),
    (frozenset({"avx512f"}), "avx512"),
    (frozenset({"avx512_vnni"}), "avx512vnni"),
    (frozenset({"avx_vnni"}), "avxvnni"),
)

# The levels of the x86-64 psABI, best first; "abm" is how Linux says LZCNT.
_V2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_LEVELS = (
    ("x86-64-v4", _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86-64-v3", _V3),
    ("x86-64-v2", _V2),
)


def core_name(implementer: str | None, part_id: str | None) -> str | None:
    """Name of an Arm core; None for one that is not listed."""
    return _CORES.get((implementer or _ARM, part_id or ""))


def x86_level(flags: Iterable[str]) -> str:
    """Level of the psABI ("x86-64-v3"): what all of these abilities are enough for."""
    have = set(flags)
    return next((name for name, needed in _LEVELS if needed <= have), "x86-64")


def features_of(flags: Iterable[str]) -> tuple[str, ...]:
    """What the arithmetic units can do, in the words of a profile. A unit with NEON needs no word for its VFP."""
    have = set(flags)
    found = dict.fromkeys(word for needed, word in (*_ARM_FEATURES, *_X86_FEATURES) if needed <= have)
    if "neon" in found:
        found.pop("vfp", None)
    return tuple(found)
