"""`edgecomp probe`: the file that is written, what is refused, and a real device over SSH."""

import json
import os
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgecomp.cost import predict
from edgecomp.devices import check_file
from edgecomp.errors import EdgecompError, NoRuntimeError, ProbeError, TransportError, UsageError
from edgecomp.facts import collect
from edgecomp.graph import read_graph
from edgecomp.probe import Calibrated, name_of, probe
from edgecomp.probe_calibration import calibration
from edgecomp.probed_profile import Stated
from edgecomp.profile import load_profile, read_profile
from edgecomp.transports import connect
from tests.conftest import missing
from tests.recorded_boards import BOARDS, RecordedDevice, board, load_board, without_name
from tests.sshd import missing_tools, running_sshd, wait_until

WITH_PROFILE = [name for name in BOARDS if load_board(name).profile]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestProfile:
    @pytest.mark.parametrize("name", WITH_PROFILE)
    def test_recorded_boards(self, name, here):
        """Written, valid, and with a source for every figure in the file itself."""
        result = probe(board(name), name="mine", out=here / "mine.toml")
        check = check_file(here / "mine.toml")
        assert check.problems == ()
        assert check.profile.extends[0] == load_board(name).profile
        table = tomllib.loads((here / "mine.toml").read_text())
        assert set(table["sources"]) == {item.key for item in result.stated}
        assert all("edgecomp probe of pi@board, 20" in source for source in table["sources"].values())
        assert json.loads(json.dumps(result.to_json()))["extends"] == check.profile.extends[0]

    def test_states_what_differs_only(self, here):
        result = probe(board("rpi4"), name="kitchen", out=here / "kitchen.toml")
        ram = "memory.regions.ram"
        assert [(item.key, item.value) for item in result.stated] == [
            ("cpu.clock_hz", 1_800_000_000),
            (f"{ram}.bytes", 7998380 * 1024),
            (f"{ram}.reserved_bytes", (7998380 - 7501240) * 1024),
        ]
        profile = result.profile
        assert profile.cpu == load_profile("rpi4").cpu.model_copy(update={"clock_hz": 1_800_000_000})
        assert profile.memory.usable_ram_bytes == 7501240 * 1024
        assert profile.source_of("cpu.clock_hz").endswith("cpufreq, cpuinfo_max_freq")

    def test_programs_of_32_bits(self, here):
        """Raspberry Pi OS with 32 bits on a 64-bit kernel: the runtime is that of armv7l."""
        assert probe(board("rpi4_32_bit"), name="b", out=here / "b.toml").profile.cpu.architecture == "armv7l"

    def test_dot_product_of_an_unknown_board(self, here):
        """The generic board has none: with it int8 runs on other kernels, whose costs are another family's."""
        profile = probe(board("rk3588"), name="rock", out=here / "rock.toml").profile
        assert (profile.cpu.core, profile.cpu.cores, profile.cpu.big_cores) == ("cortex-a76", 8, 4)
        assert profile.cost.family == "arm-a-dotprod-xnnpack"

    def test_big_cores_of_a_phone(self, here):
        profile = probe(board("pixel8"), name="phone", out=here / "phone.toml").profile
        assert (profile.kind, profile.cpu.cores, profile.cpu.big_cores) == ("android", 9, 1)

    @pytest.mark.parametrize(
        ("name", "note"),
        [
            ("rpi3b_plus", "No runtime for .tflite files in Python 3.11.2: `edgecomp setup pi@board`."),
            ("rpi3b_plus", "now: under-voltage, throttled; since it was switched on: under-voltage, throttled"),
            ("pixel8", "No Python to benchmark with (no python): `edgecomp setup pi@board`"),
            ("jetson_nano", "A benchmark needs Python 3.7 or newer, that one is 3.6.9"),
            ("rpi4_32_bit", "tflite-runtime computes int8 without XNNPACK"),
            ("epyc_server", "It runs in kvm: timings there depend on what else the host does."),
            ("epyc_server", "The kernel tells no highest clock (no cpufreq)"),
            ("beaglebone", "The device does not tell its clock: linux-arm64's stands."),
            ("rk3588", "linux-arm64 only stands in for want of a nearer profile"),
            ("i7_laptop", "16 threads run on 12 cores; the profile counts cores."),
        ],
    )
    def test_notes(self, name, note, here):
        assert note in "\n".join(probe(board(name), name="b", out=here / "b.toml").notes)

    def test_says_little_and_still_gets_a_profile(self, here):
        """Only uname answers: nothing is stated, and each thing that is missing is said."""
        result = probe(RecordedDevice({"system": "Linux 4.9 aarch64\n"}), name="b", out=here / "b.toml")
        assert (result.match.name, result.stated) == ("linux-arm64", ())
        assert [note.partition(":")[0] for note in result.notes if note.startswith("The device")] == [
            "The device does not tell its cores",
            "The device does not tell its clock",
            "The device does not tell its RAM",
        ]


class TestRefusals:
    def test_macos(self, here):
        with pytest.raises(ProbeError, match="pi@board runs Darwin; a profile can be made of Linux and Android"):
            probe(RecordedDevice({"system": "Darwin 23.1.0 arm64\n"}), name="mac", out=here / "mac.toml")
        assert list(here.iterdir()) == []

    def test_garbage(self, here):
        texts = dict.fromkeys(load_board("rpi4").outputs, "\x1b[2J\x00ÿ garbage: 1\n" * 40)
        with pytest.raises(ProbeError, match=r"pi@board does not say what it is: uname: '. garbage: 1") as error:
            probe(RecordedDevice(texts), name="b", out=here / "b.toml")
        assert str(error.value).isprintable()
        assert list(here.iterdir()) == []

    def test_existing_file(self, here):
        path = here / "b.toml"
        path.write_text("mine")
        device = board("rpi4")
        with pytest.raises(UsageError, match=r"b.toml exists already\. .*--force"):
            probe(device, name="b", out=path)
        assert path.read_text() == "mine"
        assert device.calls == []  # Nobody waits for a device to hear that.
        probe(device, name="b", out=path, force=True)
        assert read_profile(path).extends == ("rpi4",)

    def test_folder_that_takes_no_file(self, here):
        (here / "file").write_text("")
        for folder in (here / "none", here / "file"):
            with pytest.raises(EdgecompError, match=r"b.toml cannot be written: (No such file|Not a directory)"):
                probe(board("rpi4"), name="b", out=folder / "b.toml")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_folder_that_is_read_only(self, here):
        here.chmod(0o500)
        with pytest.raises(EdgecompError, match=r"b\.toml cannot be written: Permission denied"):
            probe(board("rpi4"), name="b", out=here / "b.toml")

    @pytest.mark.parametrize("name", ["", "Kitchen", "a b", "../x", 'a"b', "-a", "a.toml", "x\ny"])
    def test_names(self, name, here):
        with pytest.raises(UsageError, match="lower-case letters"):
            probe(board("rpi4"), name=name, out=here / "b.toml")

    def test_name_of_a_shipped_profile(self, here):
        with pytest.raises(UsageError, match="rpi4 ships with edgecomp"):
            probe(board("rpi4"), name="rpi4", out=here / "b.toml")

    def test_file_of_another_kind(self, here):
        with pytest.raises(UsageError, match=r"ends in \.toml, got '.*b\.json'"):
            probe(board("rpi4"), name="b", out=here / "b.json")

    @pytest.mark.parametrize(
        ("target", "name"),
        [
            ("pi@Kitchen.local:2222", "kitchen-local"),
            ("10.0.0.7", "10-0-0-7"),
            ("pi@[fe80::1]:22", "fe80-1"),
            ("ssh://pi@shelf_3", "shelf-3"),
            ("local", "local"),
            ("pi@rpi4", "rpi4-probed"),
            ("adb://", "device"),
        ],
    )
    def test_names_of_targets(self, target, name):
        assert name_of(target) == name


HOSTILE = (
    'Pi 4"\n[cpu]\ncores = 64\n"""\x1b]0;owned\x07\x1b[31m\u202e\x9b2J\'\'\' \\" # \u2028 {}[]',
    "$(touch hacked) `touch hacked` ; rm -rf /",
    "x" * 100_000,
)


class TestHostileText:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_profile_and_terminal_stay_whole(self, text, here, run_cli, monkeypatch):
        cpuinfo = without_name("rpi4") + f"\nModel : {text}\n"
        packages = f'python 3.11.2\nbits 64\npackage numpy 1.0"\x1b[31m\nlibc {text}\n'
        device = board("rpi4", model=text, cpuinfo=cpuinfo, distribution=f'PRETTY_NAME="{text}"', python=packages)
        device.host = "pi@ki'tc\"hen"
        monkeypatch.setattr("edgecomp.transports.connect", lambda *_, **__: _Open(device))
        result = run_cli("probe", "pi@kitchen", "--out", "b.toml", "--no-calibration")
        assert result.exit_code == 0, result.output
        assert all(line.isprintable() for line in result.output.splitlines())
        written = (here / "b.toml").read_text()
        assert all(line.isprintable() for line in written.splitlines())
        profile = read_profile(here / "b.toml")
        assert (profile.extends, profile.cpu.cores) == (("rpi4",), 4)
        assert [path.name for path in here.iterdir()] == ["b.toml"]


class _Open:
    """A device in place of a connection."""

    def __init__(self, device):
        self._device = device

    def __enter__(self):
        return self._device

    def __exit__(self, *exception):
        pass


class TestCalibration:
    """What is measured on the device goes into the same profile, or nothing is written at all."""

    def test_adds_to_the_profile(self, here):
        seen = []

        def calibrate(transport, facts, profile):
            seen.append((transport.host, facts.python.version, profile.name, profile.cost.family))
            stated = (Stated("power.active_mw", 3500, "measured on the board"),)
            return Calibrated(stated, {"b.cost.toml": b"x = 1\n"}, ("Measured.",), {"error_ratio": 0.05})

        result = probe(board("rpi4"), name="b", out=here / "b.toml", calibrate=calibrate)
        assert seen == [("pi@board", "3.11.2", "b", "arm-a-xnnpack")]
        assert read_profile(here / "b.toml").power.active_mw == 3500
        assert (here / "b.cost.toml").read_bytes() == b"x = 1\n"
        assert result.notes[-1] == "Measured."
        assert result.to_json()["calibration"] == {"error_ratio": 0.05}

    def test_that_fails_leaves_nothing(self, here):
        def calibrate(*_):
            raise TransportError("The connection to pi@board was lost.")

        with pytest.raises(TransportError, match="was lost"):
            probe(board("rpi4"), name="b", out=here / "b.toml", calibrate=calibrate)
        assert list(here.iterdir()) == []

    def test_overwrites_nothing(self, here):
        (here / "b.cost.toml").write_text("mine")
        with pytest.raises(UsageError, match=r"b.cost.toml exists already"):
            probe(
                board("rpi4"), name="b", out=here / "b.toml",
                calibrate=lambda *_: Calibrated((), {"b.cost.toml": b""}, (), {}),
            )  # fmt: skip
        assert [path.name for path in here.iterdir()] == ["b.cost.toml"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if missing_tools():
        missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def device(server, monkeypatch):
    """The server; a probe must leave nothing behind there."""
    monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(server.config))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield server
    wait_until(lambda: list(server.tmp.iterdir()) == [], "the device's folder for temporary files is empty")


@pytest.mark.device
class TestOverSsh:
    def test_this_machine(self, device, here, run_cli):
        result = run_cli("probe", device.target, "--python", sys.executable, "--no-calibration")
        assert result.exit_code == 0, result.output
        profile = read_profile(here / "127-0-0-1.toml")
        architecture = os.uname().machine
        assert profile.cpu.architecture == architecture
        if architecture == "x86_64":
            assert profile.extends == ("linux-x86-64",)
        total_kib = int(re.search(r"MemTotal: +([0-9]+)", Path("/proc/meminfo").read_text())[1])
        assert profile.memory.regions["ram"].bytes == total_kib * 1024
        assert "127-0-0-1.toml extends" in result.stdout
        assert "ai-edge-litert" in result.stdout

    def test_json(self, device, here, run_cli):
        result = run_cli(
            "probe", device.target, "--name", "mine", "--python", sys.executable, "--json", "--no-calibration"
        )
        body = json.loads(result.stdout)
        assert (body["schema"], body["path"], body["name"]) == ("edgecomp.probe/1", "mine.toml", "mine")
        assert body["facts"]["system"]["name"] == "Linux"
        assert body["facts"]["missing"]["throttling"] == "no vcgencmd"
        assert {item["key"] for item in body["stated"]} >= {"memory.regions.ram.bytes"}
        assert check_file(here / "mine.toml").problems == ()

    def test_without_a_runtime(self, device, here, run_cli):
        result = run_cli("probe", device.target, "--out", "b.toml", "--python", "no-such-python", "--no-calibration")
        assert result.exit_code == 0
        assert "No Python to benchmark with (no python): `edgecomp setup" in result.stdout
        assert check_file(here / "b.toml").problems == ()

    def test_existing_file(self, device, here, run_cli):
        (here / "b.toml").write_text("mine")
        result = run_cli("probe", device.target, "--out", "b.toml", "--no-calibration")
        assert result.exit_code == 2
        assert "b.toml exists already" in result.stderr
        assert (here / "b.toml").read_text() == "mine"
        assert run_cli("probe", device.target, "--out", "b.toml", "--force", "--no-calibration").exit_code == 0

    def test_same_facts_as_without_a_network(self, device):
        with connect(device.target) as remote, connect("local") as local:
            assert lasting_facts(remote) == lasting_facts(local)

    def test_device_with_a_greeting_and_nothing_else(self, tmp_path, monkeypatch, here, run_cli):
        """A login that may run one program only, as on appliances: one sentence, no file."""
        if missing_tools():
            missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
        with running_sshd(tmp_path / "sshd", extra=["ForceCommand echo Welcome"]) as limited:
            monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(limited.config))
            result = run_cli("probe", limited.target, "--out", "b.toml", "--no-calibration")
        assert result.exit_code == 1
        assert "did not run the commands of a probe (exit code 0)" in result.stderr
        assert not (here / "b.toml").exists()


def lasting_facts(transport):
    """What does not change by the second."""
    facts = collect(transport, python=sys.executable)
    return facts.system, facts.cpuinfo.flags, facts.cores, facts.memory.total_bytes, facts.libc, facts.python


class TestTimingForCalibration:
    """What becomes of it, with stand-ins for the timing; the fit itself is tested in test_calibration.py."""

    def calibrated(self, monkeypatch, tmp_path, time_models):
        monkeypatch.setattr("edgecomp.probe_calibration.time_models", time_models)
        with connect("local") as transport:
            run = calibration(tmp_path / "b.toml", sys.executable, 0.0)
            return run(transport, collect(transport, python=sys.executable), load_profile("linux-x86-64"))

    def test_without_a_runtime_the_profile_is_written_all_the_same(self, monkeypatch, tmp_path):
        def none(*_, **__):
            raise NoRuntimeError("local: No TFLite runtime works.")

        found = self.calibrated(monkeypatch, tmp_path, none)
        assert (found.stated, found.files, found.report) == ((), {}, None)
        assert found.notes == ("Not calibrated: no TFLite runtime works there. `edgecomp setup local` brings one.",)

    def test_times_of_an_emulator_are_none(self, monkeypatch, tmp_path):
        facts = SimpleNamespace(emulator_signs=("run by qemu-aarch64-static",))
        timed = SimpleNamespace(processes_us=((1.0,),), facts=facts, verdict="wrong_device")
        found = self.calibrated(monkeypatch, tmp_path, lambda _transport, models, **_: dict.fromkeys(models, timed))
        assert found.report is None
        assert (
            "Not calibrated: an emulator, whose times are no latencies (run by qemu-aarch64-static)." in found.notes[0]
        )

    def test_microcontrollers_are_not_timed(self, monkeypatch, tmp_path):
        with connect("local") as transport:
            run = calibration(tmp_path / "b.toml", sys.executable, 0.0)
            found = run(transport, collect(transport, python=sys.executable), load_profile("stm32l4r5"))
        assert found.notes == ("Not calibrated: its runtime is tflm, and only LiteRT is timed.",)

    def test_file_beside_that_is_there_is_told_before_anything_is_asked(self, run_cli, tmp_path):
        (tmp_path / "b.cost.toml").write_text("")
        result = run_cli("probe", "pi@nowhere", "--out", tmp_path / "b.toml")
        assert result.exit_code == 2
        assert "b.cost.toml exists already" in result.stderr


@pytest.mark.slow
def test_this_machine_calibrated(run_cli, tmp_path):
    """56 generated models timed here for real. Too noisy a machine says so, and has a profile all the same."""
    out = tmp_path / "here.toml"
    result = run_cli("probe", "local", "--out", out, "--python", sys.executable, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    profile = load_profile(str(out))
    if found["calibration"] is None:
        assert any("The calibration cannot be trusted" in note for note in found["notes"])
        assert profile.cost.family == "x86-64-xnnpack"
        return
    assert found["calibration"]["num_models"] == 56
    assert out.with_name("here.cost.toml").is_file()
    graph = read_graph((Path(__file__).parent / "models" / "digits_int8.tflite").read_bytes())
    estimate, _ = predict(graph, profile)
    assert estimate.low_ms < estimate.value_ms < estimate.high_ms
    assert estimate.family == profile.cost.constants.name
