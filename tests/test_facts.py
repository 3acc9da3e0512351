"""Facts: every parser on what real boards print, on foreign text and on nonsense; all of them in one round trip."""

import random
import shlex
import subprocess
import sys

import pytest

from edgecomp.agent.on_device.private_runtime import this_abi
from edgecomp.errors import CommandTimeoutError, TransportError
from edgecomp.facts import FACTS, collect, device_script, facts_of, read_answers
from edgecomp.facts._fact import PYTHON, clean, number, number_list
from edgecomp.facts.cpuinfo import parse_cpuinfo
from edgecomp.facts.figures import figures_of
from edgecomp.facts.memory import Disk, parse_df, parse_meminfo
from edgecomp.facts.processor import features_of, x86_level
from edgecomp.facts.system import Dmi, parse_dmi, parse_libc, parse_os_release, parse_uname
from edgecomp.facts.thermal import parse_throttled, parse_zones
from edgecomp.transports import connect
from tests.recorded_boards import BOARDS, load_board, plain

BY_NAME = {fact.name: fact for fact in FACTS}
RECORDED = [(board, fact) for board in BOARDS for fact in load_board(board).outputs]
CPU = "/sys/devices/system/cpu"
ZONE = "/sys/class/thermal/thermal_zone"


@pytest.fixture
def local():
    with connect("local") as transport:
        yield transport


def figures(board, **outputs):
    """Figures of a recorded board, some of its outputs replaced; None takes one away."""
    texts = load_board(board).outputs | outputs
    return figures_of(facts_of("board", {name: (0, text) for name, text in texts.items() if text is not None}))


class TestRecorded:
    @pytest.mark.parametrize(("board", "fact"), RECORDED)
    def test_parser(self, board, fact):
        recorded = load_board(board)
        assert plain(BY_NAME[fact].parse(recorded.outputs[fact])) == recorded.values[fact]

    @pytest.mark.parametrize("board", BOARDS)
    def test_every_text_has_a_source(self, board):
        recorded = load_board(board)
        assert all(recorded.sources.values())
        assert {"system", "cpuinfo", "memory"} <= set(recorded.outputs)

    def test_every_fact_is_recorded_somewhere(self):
        assert {fact for _, fact in RECORDED} == set(BY_NAME)


class TestFigures:
    """The numbers that a profile gets, told by hand for each board."""

    @pytest.mark.parametrize(
        ("board", "architecture", "core", "cores", "big", "clock_hz", "features"),
        [
            ("rpi_zero_w", "armv6l", "arm1176jzf-s", 1, 1, 1_000_000_000, ("vfp",)),
            ("rpi_zero_2_w", "armv7l", "cortex-a53", 4, 4, 1_200_000_000, ("neon",)),
            ("rpi3b_plus", "aarch64", "cortex-a53", 4, 4, 1_400_000_000, ("neon",)),
            ("rpi4", "aarch64", "cortex-a72", 4, 4, 1_800_000_000, ("neon",)),
            ("rpi4_32_bit", "armv7l", "cortex-a72", 4, 4, 1_800_000_000, ("neon",)),
            ("rpi5", "aarch64", "cortex-a76", 4, 4, 2_400_000_000, ("neon", "dotprod", "fp16")),
            ("jetson_nano", "aarch64", "cortex-a57", 2, 2, 1_479_000_000, ("neon",)),
            ("coral_dev_board", "aarch64", "cortex-a53", 4, 4, 1_500_000_000, ("neon",)),
            ("pixel8", "aarch64", "cortex-x3", 9, 1, 2_914_000_000, ("neon", "dotprod", "fp16", "i8mm")),
            ("rk3588", "aarch64", "cortex-a76", 8, 4, 2_400_000_000, ("neon", "dotprod", "fp16")),
            ("beaglebone", "armv7l", "cortex-a8", 1, 1, None, ("neon",)),
            ("epyc_server", "x86_64", "x86-64-v3", 2, 2, 2_445_406_000, ("avx2", "fma")),
            ("i7_laptop", "x86_64", "x86-64-v3", 12, 4, 5_000_000_000, ("avx2", "fma", "avxvnni")),
        ],
    )
    def test_processor(self, board, architecture, core, cores, big, clock_hz, features):
        found = figures(board)
        values = (found.architecture, found.core, found.cores, found.big_cores, found.clock_hz, found.features)
        assert [figure and figure.value for figure in values] == [architecture, core, cores, big, clock_hz, features]

    def test_fastest_part_comes_first(self):
        assert figures("pixel8").part_ids.value == ("0xd4e", "0xd4d", "0xd46")  # X3, A715, A510.

    def test_same_part_at_half_the_clock_is_a_small_core(self):
        """Eight A53, four of them at 1.2 GHz beside four at 2.0 GHz: only those four are big."""
        clocks = "".join(
            f"{CPU}/cpu{index}/cpufreq/cpuinfo_max_freq:{1200000 if index < 4 else 2000000}\n" for index in range(8)
        )
        cpuinfo = "".join(f"processor : {i}\nCPU implementer : 0x41\nCPU part : 0xd03\n\n" for i in range(8))
        found = figures("rpi4", cores=clocks, cpuinfo=cpuinfo)
        assert (found.cores.value, found.big_cores.value) == (8, 4)

    def test_memory(self):
        found = figures("rpi4")
        assert found.ram_bytes.value == 7998380 * 1024
        assert found.reserved_bytes.value == (7998380 - 7501240) * 1024
        assert "MemAvailable" in found.reserved_bytes.source

    def test_memory_of_an_old_kernel(self):
        """Before Linux 3.14 there is no MemAvailable: free memory and caches stand for it, and it is said."""
        found = figures("beaglebone")
        assert found.reserved_bytes.value == (507428 - 318244 - 14140 - 98480) * 1024
        assert "(MemFree + Buffers + Cached)" in found.reserved_bytes.source

    def test_cores_that_are_switched_off(self):
        assert "2 of 4 processors are switched off; the profile counts the rest." in figures("jetson_nano").notes

    def test_host_of_an_emulator(self):
        """qemu's user emulation shows the host's /proc/cpuinfo: an x86 processor under aarch64 says nothing."""
        x86 = load_board("epyc_server").outputs["cpuinfo"]
        found = figures("rpi4", cpuinfo=x86)
        assert (found.part_ids, found.features, found.core) == (None, None, None)
        assert any("emulator" in note for note in found.notes)

    def test_more_than_a_profile_holds_is_left_out(self):
        found = figures("rpi4", memory="MemTotal: 2147483648 kB\nMemAvailable: 2047483648 kB\n")  # 2 TiB.
        assert found.ram_bytes is None
        assert any("RAM of 2199023255552 is outside" in note for note in found.notes)

    def test_programs_of_another_width_than_the_kernel(self):
        assert figures("rpi4", python=None, userland_bits="32\n").architecture.value == "armv7l"
        assert figures("rpi4", python=None, userland_bits=None).architecture.value == "aarch64"


class TestParsers:
    def test_old_arm_kernels_name_the_part_once(self):
        text = "Processor\t: ARMv7 Processor rev 2 (v7l)\nprocessor\t: 0\n\nprocessor\t: 1\n\nFeatures\t: vfp neon\n"
        info = parse_cpuinfo(text + "CPU implementer\t: 0x41\nCPU part\t: 0xc09\nHardware\t: sun5i\n")
        assert [item.part_id for item in info.processors] == ["0xc09", "0xc09"]
        assert (info.flags, info.board) == (("neon", "vfp"), "sun5i")

    def test_flags_are_those_that_all_processors_have(self):
        text = "processor : 0\nFeatures : asimd asimddp\n\nprocessor : 1\nFeatures : asimd\n"
        assert parse_cpuinfo(text).flags == ("asimd",)

    def test_lists_of_processors(self):
        assert number_list("0-2,5") == (0, 1, 2, 5)
        assert number_list("0 1 x 9-7") == (0, 1)
        assert number_list("0-99999") == ()

    @pytest.mark.parametrize("text", ["", "1e3", "0x10", "\u0661\u0662", "9" * 5000, "1 2"])
    def test_no_number(self, text):
        assert number(text) is None

    def test_throttling(self):
        """0x50005: bits 0 and 2 now, 16 and 18 since boot."""
        found = parse_throttled("throttled=0x50005\n")
        assert found.now == found.since_boot == ("under-voltage", "throttled")
        assert str(parse_throttled("throttled=0x80000")) == "since it was switched on: soft temperature limit"
        assert str(parse_throttled("throttled=0x0")) == "none since it was switched on"
        assert parse_throttled("VCHI initialization failed") is None

    def test_temperatures(self):
        types = "".join(f"{ZONE}{index}/type:z{index}\n" for index in range(5))
        values = "".join(f"{ZONE}{index}/temp:{value}\n" for index, value in enumerate([48312, 48, -274000, 0]))
        # Millidegrees; whole degrees of some drivers; a sensor that sleeps; freezing; one that gives no answer.
        assert [zone.temperature_c for zone in parse_zones(types + values)] == [48.312, 48.0, None, 0.0, None]

    def test_disks(self):
        head = "Filesystem 1024-blocks Used Available Capacity Mounted on\n"
        assert parse_df(head + "/dev/my disk 100 40 60 40% /mnt/a b\n") == Disk(60 * 1024, "/mnt/a b")
        assert parse_df(head + "overlay 100 120 -20 100% /\n") == Disk(0, "/")
        assert parse_df(head) is None

    @pytest.mark.parametrize(
        ("text", "libc"),
        [
            ("ldd (GNU libc) 2.34\n", ("glibc", "2.34")),
            ("ldd (Ubuntu GLIBC 2.35-0ubuntu3.8) 2.35\nCopyright\n", ("glibc", "2.35")),
            ("musl libc (aarch64)\nVersion 1.2.4\nDynamic Program Loader\n", ("musl", "1.2.4")),
            ("ldd: unrecognized option\n", None),
            ("musl libc (aarch64)\n", None),
        ],
    )
    def test_c_libraries(self, text, libc):
        found = parse_libc(text)
        assert (found and (found.name, found.version)) == libc

    def test_placeholders_of_firmware_are_no_name(self):
        lines = ["/sys/class/dmi/id/sys_vendor:To be filled by O.E.M.", "/sys/class/dmi/id/product_name:NUC7i5BNH"]
        assert parse_dmi("\n".join(lines)) == Dmi(None, "NUC7i5BNH")
        assert parse_dmi(lines[0]) is None

    def test_distribution_without_a_pretty_name(self):
        assert parse_os_release("NAME=Buildroot\nID=buildroot\n") == "Buildroot"
        assert parse_os_release("ID=x\n") is None

    def test_uname_of_many_words_is_no_answer(self):
        assert parse_uname("uname: invalid option -- 's'\n") is None

    def test_memory_without_a_total(self):
        assert parse_meminfo("MemTotal: lots\n") is None
        assert parse_meminfo("MemTotal: 1000 kB\n").available_bytes is None
        # A container's view can be inconsistent: no more is free than there is.
        assert parse_meminfo("MemTotal: 1000 kB\nMemAvailable: 4000 kB\n").available_bytes == 1000 * 1024

    def test_levels_of_x86(self):
        flags = set(load_board("epyc_server").outputs["cpuinfo"].split())
        assert x86_level(flags) == "x86-64-v3"
        assert x86_level(flags - {"avx2"}) == "x86-64-v2"
        assert x86_level(flags | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}) == "x86-64-v4"
        assert x86_level([]) == "x86-64"

    def test_half_precision_needs_scalars_and_vectors(self):
        assert features_of({"asimd", "fphp"}) == ("neon",)
        assert features_of({"asimd", "fphp", "asimdhp"}) == ("neon", "fp16")


class TestForeignText:
    def test_is_safe_to_print(self):
        text = "\x1b]0;owned\x07Pi\x1b[31m 4\x00\r\n\u202emodel\u200b\x9b2J"
        assert clean(text).isprintable()
        assert clean(text).startswith("Pi 4")

    def test_is_cut(self):
        assert len(clean("x" * 10**6)) <= 120

    @pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
    def test_parsers_never_raise(self, fact):
        """Nonsense made of what each parser looks for, seeded; a value or None is all that may come of it."""
        source = random.Random(fact.name)
        words = ["processor", "CPU part", ":", "=", "\n", "\n\n", "0x41", "-1", "9" * 30, "\x1b[31m", "\0", "%", "/"]
        words += [" kB", "MemTotal", f"{CPU}/cpu1/cpufreq/cpuinfo_max_freq", "bits 64", "throttled=0x", "python"]
        words += ["package numpy", "private ai-edge-litert", "libc", "ldd (GLIBC) ", "musl libc", "Version ", "1.2"]
        for board, name in RECORDED:
            if name == fact.name:
                words += load_board(board).outputs[name].split()[:200]
        for _ in range(300):
            fact.parse("".join(source.choice([word, f"{word} "]) for word in source.choices(words, k=40)))

    @pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
    def test_parsers_take_a_long_line(self, fact):
        """A megabyte without a line end, of what makes regular expressions try everything: no hours of work."""
        for part in (" ", "ldd (", "1 ", "a=", "\x1b[", ":", "0-9999,", "% /"):
            fact.parse(part * (2**20 // len(part)))


class TestCollect:
    def test_is_one_command(self, local):
        calls = []

        class Counting:
            host = "here"

            def run(self, argv, **options):
                calls.append(argv)
                return local.run(argv, **options)

        facts = collect(Counting(), python=sys.executable)
        assert len(calls) == 1
        assert facts.host == "here"

    def test_this_machine(self, local):
        facts = collect(local, python=sys.executable)
        uname = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
        assert facts.system.machine == uname
        assert facts.python.version == ".".join(str(part) for part in sys.version_info[:3])
        assert facts.python.packages["ai-edge-litert"] is not None
        assert facts.home_disk.free_bytes > 0
        assert set(facts.missing) <= set(BY_NAME)
        assert all(getattr(facts, name) is None for name in facts.missing)

    def test_script_is_the_same_for_everybody(self):
        """What the user names comes as an argument; it must not be able to become a command."""
        script = device_script(FACTS)
        assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
        assert PYTHON not in script
        for fact in FACTS:
            assert all(word == PYTHON or shlex.quote(word) in script for word in fact.argv)

    @pytest.mark.parametrize(
        "python", ["no such python", "$(touch hacked)", "; touch hacked", "-x", "'", "`touch hacked`"]
    )
    def test_hostile_names_of_an_interpreter(self, local, tmp_path, monkeypatch, python):
        monkeypatch.chdir(tmp_path)
        facts = collect(local, python=python)
        assert facts.python is None
        assert facts.missing["python"] == "no python"
        assert facts.system is not None
        assert list(tmp_path.iterdir()) == []

    def test_private_runtime(self, local, tmp_path, monkeypatch):
        """What `edgecomp setup` has put there counts, if it is for this Python."""
        folder = tmp_path / ".local" / "share" / "edgecomp"
        folder.mkdir(parents=True)
        monkeypatch.setenv("HOME", str(tmp_path))
        pointer = '{"runtime": "tflite-runtime", "version": "2.14.0", "abi": "ABI"}'
        (folder / "runtime.json").write_text(pointer.replace("ABI", this_abi()))
        python = collect(local, python=sys.executable).python
        assert python.private == ("tflite-runtime", "2.14.0")
        assert next(iter(python.runtimes)) == "tflite-runtime"
        (folder / "runtime.json").write_text(pointer.replace("ABI", "cp27mu"))
        assert collect(local, python=sys.executable).python.private is None

    def test_answers_keep_their_lines(self):
        text = "hello\n\nM begin a\none\ntwo\n\nM end 0\n\nM begin b\n\nM end 127\n\nM begin c\ncut off"
        assert read_answers(text, "M") == {"a": (0, "one\ntwo\n"), "b": (127, "")}

    def test_output_cannot_speak_for_another_fact(self):
        """A model that prints marks of a fact: without the random word they are just text."""
        answers = read_answers("\nM begin model\nPi\n\nX begin cpuinfo\nfake\nX end 0\n\nM end 0\n", "M")
        assert list(answers) == ["model"]

    def test_missing_has_a_reason(self):
        facts = facts_of("board", {"memory": (0, "nonsense\x1b[31m"), "throttling": (127, ""), "cpuinfo": (137, "")})
        assert facts.missing["memory"] == "/proc/meminfo: 'nonsense' says nothing of it"
        assert facts.missing["throttling"] == "no vcgencmd"
        assert facts.missing["cpuinfo"] == "/proc/cpuinfo ended with exit code 137"
        assert facts.missing["system"] == "the device did not come to it"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A device with nothing on its search path but sh and what the test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(folder))

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


class TestFaults:
    """Real processes, on a search path that lacks or fakes them."""

    def test_no_command_at_all(self, local, tools):
        facts = collect(local)
        assert facts.system is None
        assert facts.missing["system"] == "no uname"
        assert facts.missing["cpuinfo"] == "no /proc/cpuinfo"

    def test_garbage(self, local, tools):
        tools("uname", "printf '\\033[31m\\377\\376'")
        tools("cat", 'n=0; while [ $n -lt 2000 ]; do echo "a: $n b=c"; n=$((n+1)); done')
        facts = collect(local)
        assert (facts.system, facts.memory, facts.cpuinfo) == (None, None, None)
        assert facts.missing["system"].isprintable()

    def test_no_shell(self, local, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(TransportError, match=r"sh on local did not run the commands of a probe \(exit code 127\)"):
            collect(local)

    def test_command_that_hangs(self, local, tools):
        tools("uname", "exec /bin/sleep 600")
        with pytest.raises(CommandTimeoutError, match="sh did not end on this machine within 1 s"):
            collect(local, timeout_s=1)

    def test_shell_that_ends_half_way(self, local, tools):
        """What came before it still counts."""
        tools("uname", "echo Linux 6.1 aarch64")
        tools("cat", 'kill -TERM "$PPID"')
        facts = collect(local)
        assert facts.system.machine == "aarch64"
        assert facts.missing["memory"] == "the device did not come to it"
