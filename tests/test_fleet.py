"""Fleets: the file, and real measurements on several sshd's and a board at once, with faults on some of them."""

import json
import signal
import subprocess
import sys

import pytest

from edgecomp.bench import BenchSettings
from edgecomp.errors import ProfileError, UsageError
from edgecomp.fleet import read_fleet, run_fleet
from edgecomp.fleet.results import merged, read_finished, request_digests, write_fleet_results
from edgecomp.fleet.run import assign
from tests.conftest import missing
from tests.digits_bundle import write_digits_bundle
from tests.sshd import LOCALHOST, CuttingProxy, free_port, missing_tools, running_sshd, wait_until

QUICK = BenchSettings(
    min_seconds=0.0, max_seconds=5.0, min_processes=1, max_processes=1, precision_ratio=0.99, passes=()
)
LINUX = '[targets.one]\nhost = "pi@one"\nprofile = "rpi4"\n'


def write_fleet(folder, text):
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


class TestFile:
    def test_all_keys(self, tmp_path):
        (tmp_path / "fw.bin").write_bytes(b"firmware")
        fleet = read_fleet(write_fleet(tmp_path, LINUX + (
            'tags = ["lab", "arm64"]\npython = "/opt/venv/bin/python"\nwheels = "wheels"\nidentity = "key"\n'
            'before = [["sudo", "-n", "systemctl", "stop", "x"]]\nafter = [["sudo", "-n", "systemctl", "start", "x"]]\n'
            '[targets.board]\nkind = "attached"\nhost = "pi@one"\nprofile = "stm32l4r5"\ntags = ["lab"]\n'
            '[targets.board.attached]\nflash = ["st-flash", "write", "fw.bin", "0x8000000"]\n'
            'run = ["st-flash", "reset"]\nserial = "/dev/ttyACM0"\nbaud = 921600\nfiles = ["fw.bin"]\n'
        )))  # fmt: skip
        assert fleet.targets["one"].before == (("sudo", "-n", "systemctl", "stop", "x"),)
        attachment = fleet.attachment("board")
        assert (attachment.serial, attachment.baud) == ("/dev/ttyACM0", 921600)
        assert attachment.files == {"fw.bin": b"firmware"}
        assert fleet.beside("key") == tmp_path / "key"
        assert list(fleet.tagged(["arm64"]).targets) == ["one"]
        assert list(fleet.tagged(["arm64", "lab"]).targets) == ["one", "board"]
        assert list(fleet.tagged([]).targets) == ["one", "board"]
        with pytest.raises(UsageError, match=r"No target of .* has the tag 'labb'. Did you mean 'lab'"):
            fleet.tagged(["labb"])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "fleet.toml: targets: Field required"),
            ("targets = 3", "fleet.toml: targets: Input should be a valid dictionary"),
            ("[targets]", "fleet.toml: targets: Dictionary should have at least 1 item"),
            ("x = [", "fleet.toml is not TOML"),
            (LINUX + 'nmae = "x"', "fleet.toml: targets.one.nmae: Extra inputs are not permitted"),
            ('[targets.one]\nhost = "pi@one"', "fleet.toml: targets.one.profile: Field required"),
            (LINUX + 'before = [["a"], "rm -rf x"]', "fleet.toml: targets.one.before.1: Input should be a valid tuple"),
            (LINUX + "before = [[]]", "fleet.toml: targets.one.before.0: Tuple should have at least 1 item"),
            (LINUX + 'kind = "attached"', 'targets.one: kind = "attached" and a table .targets'),
            (LINUX + 'kind = "attached"\n[targets.one.attached]', "targets.one.attached: needs run"),
            (LINUX + 'tags = ["a b"]', "fleet.toml: targets.one.tags.0: String should match pattern"),
            ('[targets."-x; id"]\nhost = "a"\nprofile = "rpi4"', "targets.-x; id: String should match pattern"),
        ],
    )  # fmt: skip
    def test_mistakes(self, tmp_path, text, message):
        with pytest.raises(UsageError, match=message):
            read_fleet(write_fleet(tmp_path, text))

    def test_unknown_profile_and_missing_files(self, tmp_path):
        with pytest.raises(ProfileError, match="Unknown device 'rpi44'"):
            read_fleet(write_fleet(tmp_path, LINUX.replace("rpi4", "rpi44")))
        with pytest.raises(UsageError, match=r"absent.toml cannot be read: No such file"):
            read_fleet(tmp_path / "absent.toml")
        board = '[targets.b]\nkind = "attached"\nhost = "h"\nprofile = "stm32l4r5"\n'
        board += '[targets.b.attached]\nserial = "/dev/x"\n'
        fleet = read_fleet(write_fleet(tmp_path, board + 'files = ["absent.bin"]\n'))
        with pytest.raises(UsageError, match=r"targets.b.attached.files: .*absent.bin: No such file"):
            fleet.attachment("b")

    def test_bundle_for_nobody(self, tmp_path):
        fleet = read_fleet(write_fleet(tmp_path, LINUX.replace("rpi4", "rpi5")))
        with pytest.raises(UsageError, match=r"is for rpi4, and no target is one. The targets of .* are: rpi5"):
            assign(fleet, [write_digits_bundle(tmp_path)])


@pytest.fixture
def bundle(tmp_path):
    return write_digits_bundle(tmp_path)


def target(name, server, python=sys.executable, port=None, extra=""):
    host = f"{server.user}@{LOCALHOST}:{port or server.port}"
    return (
        f'[targets.{name}]\nhost = "{host}"\nprofile = "rpi4"\npython = "{python}"\n'
        f'identity = "{server.identity}"\nknown_hosts = "{server.known_hosts}"\n{extra}'
    )


@pytest.fixture
def servers(tmp_path_factory):
    """Three devices, each with a folder for temporary files of its own; nothing may be left in them."""
    if missing_tools():
        missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    with (
        running_sshd(tmp_path_factory.mktemp("a")) as a,
        running_sshd(tmp_path_factory.mktemp("b")) as b,
        running_sshd(tmp_path_factory.mktemp("c")) as c,
    ):
        yield a, b, c
        for server in (a, b, c):
            wait_until(lambda: list(server.tmp.iterdir()) == [], "nothing is left on the device")  # noqa: B023


@pytest.mark.device
class TestMeasuring:
    def test_one_fault_costs_the_others_nothing(self, servers, bundle, tmp_path):
        """One device is fine, one's host key has changed, one has no Python, one's port is closed."""
        a, b, c = servers
        changed = tmp_path / "known_hosts"
        changed.write_text(
            f"[{LOCALHOST}]:{b.port} {' '.join(a.host_key.with_suffix('.pub').read_text().split()[:2])}\n"
        )
        text = (
            target("fine", a)
            + target("impostor", b).replace(str(b.known_hosts), str(changed))
            + target("bare", c, python="no-python")
            + target("off", c, port=free_port())
        )
        fleet = read_fleet(write_fleet(tmp_path, text))
        reports = run_fleet(fleet, assign(fleet, [bundle]), threads=(1,), settings=QUICK)
        assert list(reports) == ["fine", "impostor", "bare", "off"]
        (measured,) = reports["fine"].measurements
        assert (measured.target, measured.golden.ok) == ("fine", True)
        errors = {name: reports[name].failed[0].error for name in ("impostor", "bare", "off")}
        assert "CHANGED" in errors["impostor"]
        assert errors["bare"].startswith("There is no no-python on")
        assert errors["off"].endswith("(tried 3 times).")
        assert "refuses connections" in errors["off"]

    @pytest.mark.slow
    def test_what_the_network_broke_is_tried_again(self, servers, bundle, tmp_path):
        a, *_ = servers
        cuts = []
        with CuttingProxy(a.port) as proxy:
            a.trust(proxy.port)
            fleet = read_fleet(write_fleet(tmp_path, target("shaky", a, port=proxy.port)))

            def cut_once(_name, what, *_):
                if what == "measuring" and not cuts:
                    cuts.append(what)
                    proxy.cut()

            reports = run_fleet(fleet, assign(fleet, [bundle]), threads=(1,), settings=QUICK, progress=cut_once)
        assert cuts == ["measuring"]
        assert reports["shaky"].measurements[0].golden.ok

    @pytest.mark.slow
    def test_commands_before_and_after(self, servers, bundle, tmp_path):
        """Argument vectors: what looks like shell is an argument. `after` runs although the measurement failed."""
        a, b, _ = servers
        log = tmp_path / "log; touch x"
        say = f"""["{sys.executable}", "-c", "import sys; open(sys.argv[1], 'a').write(sys.argv[2])", "{log}", "%s"]"""
        commands = f"before = [{say % 'before $(id) '}]\nafter = [{say % 'after'}]\n"
        fleet = read_fleet(write_fleet(tmp_path, target("one", a, python="no-python", extra=commands)))
        run_fleet(fleet, assign(fleet, [bundle]), threads=(1,), settings=QUICK)
        assert log.read_text() == "before $(id) after"
        fleet = read_fleet(write_fleet(tmp_path, target("two", b, extra='before = [["false"]]\n')))
        reports = run_fleet(fleet, assign(fleet, [bundle]), threads=(1,), settings=QUICK)
        assert reports["two"].failed[0].error.endswith("false failed (exit code 1).")

    @pytest.mark.slow
    def test_two_names_of_one_device_take_turns(self, servers, bundle, tmp_path):
        """The lock is the device's, not the name's: the second waits, and both are measured."""
        a, *_ = servers
        fleet = read_fleet(write_fleet(tmp_path, target("one", a) + target("two", a)))
        said = []
        settings = BenchSettings(
            min_seconds=1.0, max_seconds=5.0, min_processes=1, max_processes=1, precision_ratio=0.99, passes=()
        )
        reports = run_fleet(
            fleet, assign(fleet, [bundle]), threads=(1,), settings=settings,
            progress=lambda name, what, *_: said.append(what),
        )  # fmt: skip
        assert all(report.measurements for report in reports.values())
        assert any(what.startswith("waiting for another measurement (process") for what in said)

    def test_command_line(self, servers, bundle, tmp_path, run_cli):
        """One table, one file; what failed is visited again with --resume, what is done is not."""
        a, b, _ = servers
        path = write_fleet(tmp_path, target("one", a, extra='tags = ["lab"]\n') + target("two", b, python="no-python"))
        result = tmp_path / "results.json"
        options = ("--fleet", path, "--threads", 1, "--min-seconds", 0, "--processes", 1, "--max-processes", 1)
        first = run_cli("bench", bundle, *options, "--result", result, "--junit", tmp_path / "junit.xml")
        assert first.exit_code == 1, first.output
        assert "There is no no-python" in first.stdout
        assert json.loads(result.read_text())["fleet"]["finished"] == ["one"]
        assert (tmp_path / "junit.xml").read_text().count("<testcase") == 2
        path.write_text(path.read_text().replace("no-python", sys.executable))
        second = run_cli("bench", bundle, *options, "--result", result, "--resume")
        assert second.exit_code == 4, second.output  # All measured; this machine is no Raspberry Pi.
        assert "one: " not in second.stderr
        assert "two: measuring" in second.stderr
        assert {item["target"] for item in json.loads(result.read_text())["measurements"]} == {"one", "two"}
        tagged = run_cli("bench", bundle, *options, "--tag", "lab", "--json")
        assert [item["target"] for item in json.loads(tagged.stdout)["measurements"]] == ["one"]

    @pytest.mark.slow
    def test_interrupted(self, servers, bundle, tmp_path):
        """Ctrl-C: exit code 130, both devices are clean within seconds (the fixture looks)."""
        a, b, _ = servers
        path = write_fleet(tmp_path, target("one", a) + target("two", b))
        command = [
            sys.executable, "-m", "edgecomp", "bench", str(bundle), "--fleet", str(path), "--min-seconds", "60",
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            waiting = {"one", "two"}
            for line in process.stderr:
                waiting -= {name for name in waiting if f"{name}: measuring" in line}
                if not waiting:
                    break
            process.send_signal(signal.SIGINT)
            process.stderr.read()
            assert process.wait(timeout=60) == 130


class TestResults:
    @pytest.mark.parametrize(
        "text", ["", "{}", '{"fleet": {}, "measurements": []}', '{"fleet": 3, "measurements": [1]}', "\x00"]
    )
    def test_file_that_is_none(self, tmp_path, text):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(UsageError, match=r"has no results of a fleet to go on from"):
            read_finished(tmp_path / "r.json", {})

    @pytest.mark.device
    def test_other_settings_are_measured_again(self, servers, bundle, tmp_path):
        a, *_ = servers
        fleet = read_fleet(write_fleet(tmp_path, target("one", a)))
        assignments = assign(fleet, [bundle])
        reports = run_fleet(fleet, assignments, threads=(1,), settings=QUICK)
        digests = request_digests(assignments, QUICK, (1,))
        write_fleet_results(tmp_path / "r.json", merged(reports), reports, digests)
        again = read_finished(tmp_path / "r.json", digests)
        assert again["one"].to_json() == reports["one"].to_json()
        assert read_finished(tmp_path / "r.json", request_digests(assignments, QUICK, (1, 4))) == {}
        assert read_finished(tmp_path / "absent.json", digests) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name one --host, or a --fleet of several"),
        (["--host", "local", "--fleet", "f.toml"], "Name one --host, or a --fleet of several"),
        (["--host", "local", "--tag", "x"], "--tag goes with --fleet"),
        (["--host", "local", "--resume"], "--resume goes with --fleet"),
        (["--fleet", "absent.toml"], "The fleet absent.toml cannot be read: No such file"),
    ],
)
def test_options_that_contradict_each_other(run_cli, words, message):
    result = run_cli("bench", "b.zip", *words)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output
