"""What `edgecomp setup` decides on this machine: runtimes, tags, what pip means, and what of a wheel is sent."""

import ast
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgecomp.agent.on_device import private_runtime
from edgecomp.agent.on_device.private_runtime import abi_tag
from edgecomp.device_setup import installer, trial
from edgecomp.device_setup.archive import pack_wheels, place_of
from edgecomp.device_setup.choice import RUNTIMES, choose_runtimes, platform_tags
from edgecomp.device_setup.system import DeviceSystem, how_to_get_python
from edgecomp.device_setup.wheels import NoWheelError, explain_pip, least_numpy
from edgecomp.errors import SetupError, UsageError

LITERT, TFLITE = "ai-edge-litert", "tflite-runtime"
GNU = {"aarch64": "aarch64-linux-gnu", "armv7l": "arm-linux-gnueabihf", "armv6l": "arm-linux-gnueabihf"}


def system(python="3.11.2", machine="aarch64", libc="glibc 2.36", bits=64, **others):
    """A device; what is not said is as on a Raspberry Pi 4 with Debian 12."""
    digits = "".join(python.split(".")[:2])
    soabi = f"cpython-{digits}{'m' if digits == '37' else ''}-{GNU.get(machine, machine + '-linux-gnu')}"
    values = {
        "python": python, "implementation": "cpython", "soabi": soabi, "machine": machine, "pointer_bits": bits,
        "platform": "linux", "libc": libc, "numpy": None, "folder": "/home/pi/.local/share/edgecomp",
        "free_bytes": 10**9, "current": None,
    } | others  # fmt: skip
    major, minor = (int(part) for part in python.split(".")[:2])
    return DeviceSystem.model_validate({"abi": abi_tag(values["soabi"], (major, minor))} | values)


# Seen with `pip download` in November 2026; the version that pip took is in the comment.
BOARDS = {
    "Pi 4, Debian 12": (system("3.11.2", libc="glibc 2.36"), [LITERT, TFLITE]),  # 2.3.0, 2.14.0
    "Pi 4, Debian 11": (system("3.9.2", libc="glibc 2.31"), [LITERT, TFLITE]),  # 2.1.0, 2.13.0
    "Pi 4, Debian 13": (system("3.13.5", libc="glibc 2.41"), [LITERT]),  # 2.3.0
    "Pi 3, 32 bit, Debian 10": (system("3.7.3", "armv7l", "glibc 2.28", 32), [TFLITE]),  # 2.11.0
    "Pi 3, 32 bit, Debian 11": (system("3.9.2", "armv7l", "glibc 2.31", 32), [TFLITE]),  # 2.13.0
    "Pi 4, 32 bit on a 64-bit kernel": (
        system("3.11.2", "aarch64", "glibc 2.36", 32, soabi="cpython-311-arm-linux-gnueabihf"),
        [TFLITE],  # 2.14.0
    ),
    "Ubuntu 24.04 on ARM": (system("3.12.3", libc="glibc 2.39"), [LITERT]),  # 2.3.0
    "Ubuntu 18.04 with Python 3.10": (system("3.10.1", libc="glibc 2.26"), [LITERT, TFLITE]),  # 1.4.0
    "Python 3.14": (system("3.14.0", libc="glibc 2.41"), [LITERT]),  # 2.3.0
    "newer than any that is known": (system("3.15.0", libc="glibc 2.41"), [LITERT]),  # None yet: pip will say.
    "Python 3.8": (system("3.8.10", libc="glibc 2.31"), [TFLITE]),  # 2.13.0
    "Python 3.11, glibc 2.31 on ARM": (system("3.11.2", libc="glibc 2.31"), [LITERT]),  # 2.14.0 takes 2.34 there
    "PC, glibc 2.17": (system("3.11.2", "x86_64", "glibc 2.17"), [LITERT, TFLITE]),  # 1.4.0, 2.14.0
}  # fmt: skip


class TestChoice:
    @pytest.mark.parametrize(("device", "names"), BOARDS.values(), ids=BOARDS)
    def test_boards(self, device, names):
        assert [choice.runtime.name for choice in choose_runtimes(device)] == names

    @pytest.mark.parametrize(
        ("device", "message"),
        [
            (
                system("3.11.2", "armv6l", "glibc 2.36", 32),  # Pi Zero W
                "There is no wheel for Python 3.11.2 on armv6l with glibc 2.36: ai-edge-litert has none for armv6l; "
                "tflite-runtime has none for armv6l.",
            ),
            (
                system("3.13.5", "armv7l", "glibc 2.41", 32),
                "ai-edge-litert has none for armv7l; tflite-runtime has none for Python 3.13.",
            ),
            (
                system("3.11.2", "armv7l", "glibc 2.31", 32),
                "tflite-runtime has none for glibc 2.31 (it takes 2.34).",
            ),
            (system("3.12.3", libc="glibc 2.12"), "ai-edge-litert has none for glibc 2.12 (it takes 2.17)"),
            (system("3.11.2", "riscv64"), "ai-edge-litert has none for riscv64"),
            (system(soabi="cpython-311-arm-linux-gnueabi", bits=32), "ai-edge-litert has none for armel"),
            (system("3.12.3", libc="musl"), "There is no wheel for musl (Alpine, OpenWrt): all need glibc."),
            (system("3.12.3", libc="bionic"), "There is no wheel for Android's own libc: all need glibc."),
            (system("3.12.3", libc=""), "There is no wheel for an unknown libc: all need glibc."),
            (system(implementation="pypy"), "No TFLite runtime has wheels for pypy."),
            (system(platform="darwin"), "A private runtime is for Linux devices, this one says 'darwin'."),
            (
                system("3.13.5", soabi="cpython-313t-aarch64-linux-gnu"),
                "There is no wheel for a free-threaded Python (cp313t).",
            ),
        ],
        ids=lambda value: value.split(":")[-1][:40] if isinstance(value, str) else "",
    )
    def test_nothing_fits(self, device, message):
        with pytest.raises(SetupError) as caught:
            choose_runtimes(device)
        assert message in caught.value.message
        assert caught.value.hint

    def test_hint_says_what_exists(self):
        with pytest.raises(SetupError) as caught:
            choose_runtimes(system("3.11.2", "armv6l", bits=32))
        assert caught.value.hint == (
            "Known wheels: ai-edge-litert: aarch64 and x86_64, Python 3.9 to 3.14, glibc 2.17 or newer. "
            "tflite-runtime: aarch64, armv7l and x86_64, Python 3.7 to 3.11, glibc 2.17 or newer, "
            "2.34 on ARM with Python 3.11. Name another Python with --python, or a folder of your own wheels with "
            "--wheels."
        )

    @pytest.mark.parametrize(
        ("device", "wanted", "why"),
        [
            (system(), None, "its int8 kernels are faster than those of tflite-runtime"),
            (system(), TFLITE, "asked for"),
            (system("3.9.2", "armv7l", bits=32), None, "ai-edge-litert has none for armv7l"),
            (system("3.8.10"), None, "ai-edge-litert has none for Python 3.8"),
        ],
    )
    def test_says_why(self, device, wanted, why):
        assert choose_runtimes(device, wanted)[0].why == why

    def test_wanted_runtime_only(self):
        assert [choice.runtime.name for choice in choose_runtimes(system(), TFLITE)] == [TFLITE]
        with pytest.raises(SetupError, match=r"3\.13\.5 .*: tflite-runtime has none for Python 3\.13\. Known"):
            choose_runtimes(system("3.13.5"), TFLITE)

    def test_unknown_runtime(self):
        with pytest.raises(UsageError, match=r"no runtime 'ai-edge-lite'\. Did you mean 'ai-edge-litert'"):
            choose_runtimes(system(), "ai-edge-lite")

    def test_own_wheels_may_be_for_anything(self):
        zero = system("3.11.2", "armv6l", bits=32)
        assert [choice.runtime.name for choice in choose_runtimes(zero, has_own_wheels=True)] == [LITERT, TFLITE]
        assert platform_tags(zero)[-1] == "linux_armv6l"

    def test_tflite_runtime_never_gets_numpy_2(self):
        assert "numpy<2" in next(runtime.requirements for runtime in RUNTIMES if runtime.name == TFLITE)


class TestTags:
    def test_each_manylinux_up_to_the_devices_glibc(self):
        tags = platform_tags(system(libc="glibc 2.31"))
        assert tags[0] == "manylinux_2_31_aarch64"  # Best first: 2.32 would not run there.
        assert tags[14] == "manylinux_2_17_aarch64"
        assert tags[15:] == ("manylinux2014_aarch64", "linux_aarch64")

    def test_intel_has_older_ones(self):
        tags = platform_tags(system(machine="x86_64", libc="glibc 2.14"))
        assert "manylinux_2_5_x86_64" in tags
        assert tags[-3:] == ("manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64")

    @pytest.mark.parametrize("libc", ["musl", "bionic", ""])
    def test_no_glibc_no_manylinux(self, libc):
        assert not any("manylinux" in tag for tag in platform_tags(system(libc=libc)))

    @pytest.mark.parametrize(
        ("soabi", "version", "tag"),
        [
            ("cpython-311-aarch64-linux-gnu", (3, 11), "cp311"),
            ("cpython-37m-arm-linux-gnueabihf", (3, 7), "cp37m"),  # Until 3.7 with m for pymalloc.
            ("cpython-313t-x86_64-linux-gnu", (3, 13), "cp313t"),
            (None, (3, 9), "cp39"),
        ],
    )
    def test_abi(self, soabi, version, tag):
        assert abi_tag(soabi, version) == tag

    def test_facts_that_cannot_be(self):
        for wrong in ({"python": "x"}, {"machine": "a b"}, {"abi": "cp311; rm"}, {"folder": None}):
            with pytest.raises(ValueError, match="validation error"):
                system(**wrong) if "python" not in wrong else DeviceSystem.model_validate(wrong)


class TestPip:
    """Pip's own words, as they were printed."""

    @pytest.mark.parametrize(
        ("said", "kind", "message"),
        [
            (
                "ERROR: Could not find a version that satisfies the requirement numpy<2 (from versions: none)\n"
                "ERROR: No matching distribution found for numpy<2",
                NoWheelError,
                "There is no wheel of numpy for Python 3.11.2 on aarch64 with glibc 2.36 in the package index.",
            ),
            (
                "WARNING: Retrying (Retry(total=1, connect=None, read=None, redirect=None, status=None)) after "
                "connection broken by 'NewConnectionError(...)': /simple/ai-edge-litert/\n"
                "ERROR: No matching distribution found for ai-edge-litert",
                SetupError,
                "pip cannot reach the package index.",
            ),
            ("/usr/bin/python3: No module named pip", SetupError, "has no pip, which is to choose the wheels."),
            (
                "ERROR: Wheel 'tflite-runtime' located at /w/tflite_runtime-2.14.0-x.whl is invalid.",
                SetupError,
                "A wheel is damaged: tflite-runtime.",
            ),
            (
                "ERROR: HTTP error 403 while getting https://me:secret@example.org/x.whl.",
                SetupError,
                "pip could not get the wheels of ai-edge-litert: HTTP error 403 while getting <URL>.",
            ),
            ("", SetupError, "pip could not get the wheels of ai-edge-litert: nothing."),
        ],
        ids=["no match", "no network", "no pip", "invalid", "password", "silence"],
    )
    def test_what_it_means(self, said, kind, message):
        error = explain_pip(said, "ai-edge-litert", system(), None)
        assert type(error) is kind
        assert message in error.message
        assert "secret" not in str(error)

    def test_folder_without_a_wheel_says_which_is_wanted(self, tmp_path):
        error = explain_pip("No matching distribution found for numpy<2", "numpy", system(), tmp_path)
        assert "numpy-VERSION-cp311-cp311-manylinux_2_36_aarch64.whl" in error.hint

    @pytest.mark.parametrize(
        ("line", "least"),
        [("numpy (>=1.19.2)", "1.19.2"), ("numpy >=1.23.2", "1.23.2"), ("numpy>=1.23.2", "1.23.2"), ("tqdm", None)],
    )
    def test_numpy_that_a_wheel_asks_for(self, tmp_path, line, least):
        """The first three are those of tflite-runtime 2.11, 2.14 and of ai-edge-litert 2.3."""
        path = write_wheel(tmp_path, "a-1.0-py3-none-any.whl", {"a-1.0.dist-info/METADATA": f"Requires-Dist: {line}\n"})
        assert least_numpy(path) == least


@pytest.mark.parametrize(
    ("os_release", "is_android", "first"),
    [
        (
            'ID=raspbian\nID_LIKE=debian\nVERSION_ID="12"',
            False,
            "On Debian and Raspberry Pi OS: sudo apt install python3",
        ),
        ("NAME=Debian\nID=debian\n", False, "On Debian and Raspberry Pi OS"),
        ('ID="openwrt"\nID_LIKE="lede openwrt"\n', False, "On OpenWrt: opkg install python3"),
        ("ID=alpine\n", False, "On Alpine: apk add python3"),
        ("", True, "On Android: install Termux"),
        ("", False, "On Debian and Raspberry Pi OS: sudo apt install python3. On OpenWrt: opkg"),
    ],
)
def test_how_to_get_python(os_release, is_android, first):
    hint = how_to_get_python(os_release, is_android)
    assert hint.startswith(first)
    assert "--python" in hint


@pytest.mark.parametrize("module", [installer, private_runtime, trial], ids=lambda module: module.__name__)
def test_what_runs_on_the_device_takes_python_3_7(module):
    """Syntax of 3.7, and nothing but the standard library and what is sent along; the runtime is imported by name."""
    tree = ast.parse(Path(module.__file__).read_text(), feature_version=(3, 7))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [item.name for item in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names) | {"edgecomp"}


def write_wheel(folder, name, members):
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, content in members.items():
            wheel.writestr(member, content)
    return path


class TestArchive:
    def names(self, archive):
        with tarfile.open(fileobj=io.BytesIO(archive.data)) as packed:
            return packed.getnames()

    def test_one_tree_of_all_wheels(self, tmp_path):
        first = write_wheel(tmp_path, "b-1-py3-none-any.whl", {"b/__init__.py": "x = 1", "b-1.dist-info/RECORD": ""})
        second = write_wheel(
            tmp_path,
            "a-1-py3-none-any.whl",
            {"a-1.data/platlib/a.py": "y", "a-1.data/scripts/a": "#!python", "a-1.data/headers/a.h": ""},
        )
        archive = pack_wheels([first, second])
        assert self.names(archive) == ["a.py", "b-1.dist-info/RECORD", "b/__init__.py"]
        assert archive.tree_bytes == 2 * 4096  # Two blocks with something in them; an empty file has none.

    def test_library_that_ends_the_process_is_left_out(self, tmp_path):
        name = "ai_edge_litert/libLiteRtWebGpuAccelerator.so"
        archive = pack_wheels([write_wheel(tmp_path, "a-1-py3-none-any.whl", {name: "x", "ai_edge_litert/b.so": ""})])
        assert (self.names(archive), archive.dropped) == (["ai_edge_litert/b.so"], (name,))

    def test_same_wheels_same_name(self, tmp_path):
        members = {"b.py": "1", "a.py": "2"}
        once = pack_wheels([write_wheel(tmp_path, "a-1-py3-none-any.whl", members)])
        again = pack_wheels([write_wheel(tmp_path, "a-1-py3-none-any.whl", dict(reversed(members.items())))])
        assert (once.digest, once.data) == (again.digest, again.data)
        other = pack_wheels([write_wheel(tmp_path, "a-1-py3-none-any.whl", members | {"b.py": "3"})])
        assert other.digest != once.digest

    @pytest.mark.parametrize(
        "name", ["../evil", "/etc/passwd", "a/../../evil", "a\\b", "C:/evil", "a//b", "./a", "a-1.data/purelib/../../x"]
    )
    def test_paths_that_lead_out(self, name):
        with pytest.raises(SetupError, match="is no proper wheel: it holds"):
            place_of(name, "evil.whl")

    def test_wheel_that_leads_out_is_not_packed(self, tmp_path):
        with pytest.raises(SetupError, match=r"evil-1-py3-none-any\.whl is no proper wheel: it holds '\.\./evil'"):
            pack_wheels([write_wheel(tmp_path, "evil-1-py3-none-any.whl", {"../evil": ""})])

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
    def test_damaged_wheel(self, tmp_path, damage):
        path = write_wheel(tmp_path, "a-1-py3-none-any.whl", {"a.py": "abc" * 1000})
        data = bytearray(path.read_bytes())
        data[45] ^= 0xFF  # Within the compressed content of the first member.
        path.write_bytes({"cut": data[:60], "flipped": data, "empty": b""}[damage])
        with pytest.raises(SetupError, match=r"A wheel is damaged: a-1-py3-none-any\.whl\. Remove it"):
            pack_wheels([path])
