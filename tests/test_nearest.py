"""Which shipped profile a device is, or is nearest to, and why."""

import pytest

from edgecomp.errors import ProbeError
from edgecomp.facts import facts_of
from edgecomp.facts.figures import figures_of
from edgecomp.nearest import nearest_profile
from tests.recorded_boards import BOARDS, RecordedDevice, board, load_board, without_name

WITH_PROFILE = [name for name in BOARDS if load_board(name).profile]

# The emulated device that benchmarks are tried on: no device tree, its name at the end of /proc/cpuinfo.
EMULATED_PI_4 = {
    "system": "Linux 6.1.0-50-arm64 aarch64\n",
    "cpuinfo": "".join(
        f"processor\t: {index}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
        for index in range(4)
    )
    + "Hardware\t: BCM2835\nRevision\t: c03112\nModel\t\t: Raspberry Pi 4 Model B Rev 1.2\n",
    "cores": "".join(
        f"/sys/devices/system/cpu/cpu{index}/cpufreq/{name}:{value}\n"
        for index in range(4)
        for name, value in (("cpuinfo_max_freq", 1500000), ("scaling_governor", "ondemand"))
    ),
    "memory": "MemTotal: 2023456 kB\nMemAvailable: 1723456 kB\n",
}


def match(device):
    return nearest_profile(
        figures_of(facts_of(device.host, {name: (0, text) for name, text in device.outputs.items()}))
    )


class TestNearest:
    @pytest.mark.parametrize("name", WITH_PROFILE)
    def test_recorded_boards(self, name):
        found = match(board(name))
        assert (found.name, found.is_known) == (load_board(name).profile, load_board(name).is_known)

    def test_emulated_raspberry_pi_4(self):
        found = match(RecordedDevice(EMULATED_PI_4))
        assert (found.name, found.is_known) == ("rpi4", True)
        assert found.because == (
            "it calls itself 'Raspberry Pi 4 Model B Rev 1.2' (/proc/cpuinfo)",
            "CPU part 0xd08 and 4 cores like rpi4",
        )

    def test_by_processor_alone(self):
        """A board that says no name: part and cores are enough."""
        found = match(board("rpi4", model=None, cpuinfo=EMULATED_PI_4["cpuinfo"].partition("Hardware")[0]))
        assert (found.name, found.is_known) == ("rpi4", True)
        assert found.because == ("CPU part 0xd08 and 4 cores like rpi4",)

    @pytest.mark.parametrize(
        ("model", "profile"),
        [
            ("Raspberry Pi 400 Rev 1.0", "rpi4"),
            ("Raspberry Pi Compute Module 4 Rev 1.1", "rpi4"),
            ("Raspberry Pi 4", "rpi4"),
            ("raspberry pi 4 model b", "rpi4"),
        ],
    )
    def test_names(self, model, profile):
        found = match(board("rpi4", model=model))
        assert found.name == profile
        assert model in found.because[0]

    def test_name_is_whole_words(self):
        """A Pixel 8a is no Pixel 8, though its processor is; "Raspberry Pi 4" does not begin "Raspberry Pi 40"."""
        found = match(board("rpi4", model="Raspberry Pi 40", cpuinfo=EMULATED_PI_4["cpuinfo"].partition("Hardware")[0]))
        assert found.because == ("CPU part 0xd08 and 4 cores like rpi4",)

    def test_name_against_the_processor(self):
        """A board that calls itself a Pi 4 and has the cores of a Pi 5: the processor counts."""
        found = match(board("rpi5", model="Raspberry Pi 4 Model B", cpuinfo=without_name("rpi5")))
        assert found.name == "rpi5"

    def test_of_several_with_that_processor_the_nearest(self):
        """Cortex-A53 with four cores is in two boards: RAM and clock decide."""
        slow = load_board("le_potato").outputs["cores"].replace("1512000", "1000000")
        small = board("le_potato", cores=slow, memory="MemTotal: 500000 kB\nMemAvailable: 300000 kB\n")
        assert match(small).name == "rpi-zero-2-w"
        assert "nearer than rpi-zero-2-w in cores, clock and RAM" in match(board("le_potato")).because

    def test_edge_tpu_only_by_its_name(self):
        """The processor of the Coral Dev Board is in others too: without the name nothing speaks for an Edge TPU."""
        assert match(board("coral_dev_board")).name == "coral-dev-board"
        assert match(board("coral_dev_board", model=None)).name == "rpi3b-plus"

    def test_unknown_board(self):
        found = match(board("rk3588"))
        assert not found.is_known
        assert found.because[:2] == ("no profile is of 'Radxa ROCK 5B'", "none has CPU part 0xd0b, 0xd05")

    def test_unknown_phone(self):
        """Dimensity 700: parts of no phone that ships, so the nearest of phones, not a Linux board."""
        cpuinfo = load_board("pixel8").outputs["cpuinfo"].replace("0xd4e", "0xd44")
        found = match(board("pixel8", phone="ro.product.model=SM-X\nro.build.version.release=13\n", cpuinfo=cpuinfo))
        assert not found.is_known
        assert found.table["kind"] == "android"

    def test_armv6_board_stays_armv6(self):
        """Without NEON: a profile of a 64-bit board would promise kernels that it cannot run."""
        cpuinfo = load_board("rpi_zero_w").outputs["cpuinfo"].replace("0xb76", "0xb36")
        assert match(board("rpi_zero_w", model="Toradex", cpuinfo=cpuinfo)).name == "rpi-zero-w"

    @pytest.mark.parametrize(("machine", "sentence"), [("riscv64", "linux on riscv64"), ("mips", "linux on mips")])
    def test_no_profile_for_the_architecture(self, machine, sentence):
        with pytest.raises(ProbeError, match=f"No profile that ships is for {sentence}"):
            match(board("visionfive2", system=f"Linux 6.5.0 {machine}\n"))
