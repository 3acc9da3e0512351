"""The cores that are simulated, and the files in which Linux describes them.

The cpuinfo library of LiteRT reads /proc/cpuinfo and /sys/devices/system/cpu to choose kernels. Where those of an x86
host show through it crashes, and where there are none XNNPACK is silently not used: it is shown those of the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_V82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
NUM_CORES = 4


@dataclass(frozen=True)
class Core:
    """A core that QEMU emulates under its own name.

    Attributes:
        part: "CPU part" of /proc/cpuinfo, implementer Arm.
        features: Its line "Features".
        level_1_kib: Each of its two caches.
        level_2_kib: What boards with it usually have. XNNPACK makes its tiles by it.
        shares_level_2: One for all cores.
    """

    part: str
    features: str
    level_1_kib: int
    level_2_kib: int
    shares_level_2: bool


CORES = {
    "cortex-a35": Core("0xd04", _V8, 32, 512, shares_level_2=True),
    "cortex-a53": Core("0xd03", _V8, 32, 512, shares_level_2=True),
    "cortex-a57": Core("0xd07", _V8, 32, 2048, shares_level_2=True),
    "cortex-a72": Core("0xd08", _V8, 32, 1024, shares_level_2=True),
    "cortex-a76": Core("0xd0b", _V82, 64, 512, shares_level_2=False),
    "neoverse-n1": Core("0xd0c", _V82, 64, 1024, shares_level_2=False),
}


def cpuinfo_text(core: Core, trailer: Sequence[str] = ()) -> str:
    """What Linux would write into /proc/cpuinfo.

    Args:
        core: All the cores are this one.
        trailer: Lines after those of the cores: of a Raspberry Pi "Hardware", "Revision", "Model".
    """
    blocks = [
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {core.features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {core.part}\nCPU revision\t: 3\n\n"
        for number in range(NUM_CORES)
    ]
    return "".join([*blocks, *(f"{line}\n" for line in trailer)])


def write_cpu_files(core: Core, sysfs: Path, max_khz: int = 1_500_000, min_khz: int = 600_000) -> None:
    """Fill a folder that stands in for /sys with what it holds of the cores.

    Args:
        core: All the cores are this one.
        sysfs: The folder.
        max_khz: Highest frequency of every core, and its current one.
        min_khz: Lowest frequency of every core.
    """
    everyone = f"0-{NUM_CORES - 1}\n"
    files = dict.fromkeys(("possible", "present", "online"), everyone)
    files["kernel_max"] = f"{NUM_CORES - 1}\n"
    for number in range(NUM_CORES):
        files |= {
            f"cpu{number}/cpufreq/cpuinfo_max_freq": f"{max_khz}\n",
            f"cpu{number}/cpufreq/cpuinfo_min_freq": f"{min_khz}\n",
            f"cpu{number}/cpufreq/scaling_cur_freq": f"{max_khz}\n",
            f"cpu{number}/cpufreq/scaling_governor": "ondemand\n",
            f"cpu{number}/topology/physical_package_id": "0\n",
            f"cpu{number}/topology/core_id": f"{number}\n",
            f"cpu{number}/topology/core_siblings_list": everyone,
            f"cpu{number}/topology/package_cpus_list": everyone,
            f"cpu{number}/topology/cluster_cpus_list": everyone,
            f"cpu{number}/topology/thread_siblings_list": f"{number}\n",
        }
        alone = f"{number}\n"
        caches = [
            ("Data", 1, core.level_1_kib, alone),
            ("Instruction", 1, core.level_1_kib, alone),
            ("Unified", 2, core.level_2_kib, everyone if core.shares_level_2 else alone),
        ]
        for index, (kind, level, size_kib, sharers) in enumerate(caches):
            cache = f"cpu{number}/cache/index{index}"
            files |= {f"{cache}/type": f"{kind}\n", f"{cache}/level": f"{level}\n", f"{cache}/size": f"{size_kib}K\n"}
            files[f"{cache}/shared_cpu_list"] = sharers
    for name, text in files.items():
        path = sysfs / "devices" / "system" / "cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
