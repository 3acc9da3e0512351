"""A device that lies: whatever it prints ends in a report or in one sentence, and reaches no terminal as it came.

What a real session says is recorded once and replayed with one thing changed at a time; the worst of it comes from
programs on a real device that the command line talks to.
"""

import copy
import json
import os
import pty
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from edgecomp.agent import remote
from edgecomp.agent.on_device.protocol import MARK
from edgecomp.bench import BenchSettings, bench_bundles
from edgecomp.bench.junit import junit_xml
from edgecomp.errors import EdgecompError
from edgecomp.report.measurement import print_bench
from edgecomp.transports import CommandResult, connect
from tests import bench_device
from tests.bench_device import QUICK_WORDS, Visit, at_most, complaint, program

server = bench_device.server
device = bench_device.device
bundle = bench_device.bundle

ALL_PASSES = BenchSettings(
    min_runs=3, min_seconds=0.0, max_seconds=5.0, min_processes=2, max_processes=2, precision_ratio=0.99,
    passes=("memory", "profile"),
)  # fmt: skip
ESCAPES = "\x1b[31m\x1b]0;owned\x07\r\nnext\u202e\x9b2J\ud800[/dim][bold]"
DEEP = "[" * 100_000
FEW_VALUES = [ESCAPES, 10**400, float("inf"), None, {ESCAPES: 1}, [ESCAPES]]
MANY_VALUES = [
    *FEW_VALUES, "x" * 100_000, "", -(10**400), 2**63, 0, -1, 0.5, 1e308, -1e308, 5e-324, float("nan"), True, [], {},
    {ESCAPES: ESCAPES}, [10**400], [1e308, 1e-308], [[]], DEEP,
]  # fmt: skip


def is_harmless(text):
    """Whether there is nothing in a text that a terminal obeys, but for the ends of lines."""
    return all(line.isprintable() for line in text.split("\n"))


def strings_in(value):
    """Every string of a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value:
            yield from strings_in(item)
        if isinstance(value, dict):
            yield from strings_in(list(value.values()))


def check_json(text):
    """It is JSON (which has no NaN), and harmless even when it is decoded."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    for said in strings_in(json.loads(text, parse_constant=refuse)):
        assert said.isprintable(), said


def check_junit(text):
    assert is_harmless(text.decode())
    for element in ET.fromstring(text).iter():
        for said in (*element.attrib.values(), element.text or ""):
            assert is_harmless(said), said


class Replay:
    """A device that says the given lines."""

    host = "pi@board:22"

    def __init__(self, lines):
        self._lines = lines
        self.removed = []

    def run(self, argv, *, timeout_s, stdin=b"", hold_stdin=False, on_line=None):
        if on_line is None:
            self.removed.append(list(argv))
            return CommandResult(0, b"", b"")
        for line in self._lines:
            on_line(line)
        return CommandResult(0, b"", ESCAPES.encode(errors="replace"))


class Recorder:
    """A real device whose lines are kept."""

    def __init__(self, inner):
        self._inner, self.host, self.lines = inner, inner.host, []

    def run(self, argv, **options):
        hear = options.pop("on_line")

        def keep(line):
            self.lines.append(line)
            hear(line)

        return self._inner.run(argv, on_line=keep, **options)


@pytest.fixture(scope="module")
def messages(bundle):
    """What a device says in a real session of two processes and all passes, with a board's facts filled in."""
    with connect("local") as transport:
        recorder = Recorder(transport)
        bench_bundles([bundle], recorder, threads=(1,), settings=ALL_PASSES, python=sys.executable)
    said = [json.loads(line) for line in recorder.lines if line.startswith(MARK.decode())]
    for message in said:
        if message["type"] == "facts":
            message.update(cpu_part_ids=["0xd08"], emulator_signs=["none"], virtual_machine="x", private_runtime="x")
            message["tried"] = [{"name": "other", "error": "not installed"}]
        if message["type"] == "process":
            for moment in (message["before"], message["after"], *message["during"]):
                moment.update(khz={"0": 1_500_000}, governors=["ondemand"], temperatures_c={"zone": 50.0})
            message.update(quota_periods=1, throttled_before=0, throttled_after=0)
        if message["type"] == "configuration":
            message["limits"].update(max_khz={"0": 1_500_000}, passive_trip_c=80.0)
    assert {message["type"] for message in said} >= {"hello", "facts", "golden", "process", "memory", "profile", "done"}
    return said


def as_lines(messages):
    return [(MARK.decode() + json.dumps(one)[1:]).replace(f'"{DEEP}"', DEEP) for one in plain(messages)]


def plain(messages):
    """Without the mark, which comes first in a line."""
    return [{name: value for name, value in one.items() if name != "edgecomp"} for one in messages]


def places(value, path=()):
    """Paths to every value inside of a JSON value; of a list only to the first two items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from places(inner, (*path, name))


def changed(message, path, value):
    """A copy with another value at a path; without it for `...`."""
    copied = copy.deepcopy(message)
    holder = copied
    for name in path[:-1]:
        holder = holder[name]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return copied


def check(lines, bundle, capsys):
    """Whatever comes of these lines is a clean report, or one clean sentence; returns which."""
    replay = Replay(lines)
    try:
        report = bench_bundles([bundle], replay, threads=(1,), settings=ALL_PASSES, progress=check_progress)
        check_json(json.dumps(report.to_json()))
        check_junit(junit_xml(report))
        print_bench(report)
        assert is_harmless(capsys.readouterr().out)
        return report
    except EdgecompError as caught:
        error = caught
    finally:
        # What is executed on the device is ours, and the folder has the name of one.
        assert all(argv[:3] == ["rm", "-rf", "--"] for argv in replay.removed)
        assert all(re.fullmatch(r"(/[^/]+)+/edgecomp-agent-[a-z0-9_]+", argv[3]) for argv in replay.removed)
    assert str(error).isprintable()
    assert len(str(error)) < 1200
    return error


def check_progress(what, *_):
    assert what.isprintable()
    assert len(what) < 500


class TestOneThingChanged:
    def test_nothing_changed(self, messages, bundle, capsys):
        report = check(as_lines(messages), bundle, capsys)
        assert report.measurements[0].golden.ok

    @pytest.mark.parametrize("values", [FEW_VALUES, pytest.param(MANY_VALUES, marks=pytest.mark.slow)])
    @pytest.mark.parametrize(
        "kind",
        ["hello", "configuration", "round", "stage", "facts", "loaded", "golden", "samples", "process", "memory",
         "profile", "done", "closed"],
    )  # fmt: skip
    def test_values(self, messages, bundle, capsys, kind, values):
        """Every value of a message replaced by everything hostile, and left out."""
        number = next(number for number, one in enumerate(messages) if one["type"] == kind)
        for path in places({name: value for name, value in messages[number].items() if name != "edgecomp"}):
            for value in (*values, ...):
                with at_most(30):
                    said = [*messages[:number], changed(messages[number], path, value), *messages[number + 1 :]]
                    check(as_lines(said), bundle, capsys)

    @pytest.mark.parametrize("how", ["left out", "said twice", "said last"])
    def test_messages(self, messages, bundle, capsys, how):
        for number, one in enumerate(messages):
            others = [*messages[:number], *messages[number + 1 :]]
            said = {"left out": others, "said twice": [one, *messages], "said last": [*others, one]}[how]
            check(as_lines(said), bundle, capsys)

    def test_errors(self, messages, bundle, capsys):
        """Of the session, of its first pass and of a later one."""
        fault = {"type": "error", "code": "device", "message": "x", "hint": "y", "exit_code": 1, "stage": "z"}
        for code in ("device", "crash", "no-runtime", ESCAPES):
            for more in ({}, {"configuration": 0, "pass": "golden"}, {"configuration": 0, "pass": ESCAPES}):
                for name in ("message", "hint", "exit_code", "stage"):
                    for value in (ESCAPES, 10**400, None, float("inf")):
                        said = [*messages[:-2], {**fault, **more, "code": code, name: value}, *messages[-2:]]
                        assert check(as_lines(said), bundle, capsys)


def say(text):
    """Shell that prints one message of the protocol, `text` being what follows the mark."""
    return f"cat <<'END'\n{MARK.decode()}{text}\nEND\n"


OWNED = r"\u001b[31m\u001b]0;owned\u0007\r\nnext\u202e"
# What a program prints in place of the agent, and how the sentence begins or goes on.
PROGRAMS = {
    "escapes": (r"printf '\033[2J\033]0;owned\007\033[31mlogin: \n'; exit 1", "it printed 'login:'"),
    "escapes on stderr": (r"printf '\033[31m\033]0;owned\007oops\r\n' >&2; exit 1", "Its last words: 'oops'"),
    "no UTF-8": (r"printf '\377\376\000\200\n\303\n'; exit 1", "does not speak the agent's protocol; it printed"),
    "no JSON": (say('"type": '), "does not speak the agent's protocol: Expecting value"),
    "nested without end": (say('"type": "x", "a": ' + DEEP), "does not speak the agent's protocol: maximum recursion"),
    "infinite number": (say('"type": "x", "configuration": Infinity}'), "protocol: cannot convert float infinity"),
    "hostile error": (
        say(f'"type": "error", "code": "x", "message": "{OWNED}gone", "hint": "{OWNED}help"}}'), "next gone\nnext help"
    ),
    "hostile crash": (
        say(f'"type": "error", "code": "crash", "exit_code": -99999, "stage": "{OWNED}"}}'), "signal 99999, while next"
    ),
    "huge line": ("yes | tr -d '\\n' | head -c 90000000", "printed more than 64 MiB and was stopped"),
    "huge message": (
        f"printf '{MARK.decode()}\"type\": \"x\", \"a\": \"'; yes | tr -d '\\n' | head -c 9000000; echo '\"}}'",
        "it sent a message of 9000037 characters",
    ),
    "hostile stages": (
        say(f'"type": "stage", "configuration": 0, "name": "{OWNED}[/dim][bold"}}') * 3,
        "did not run the agent (exit code 0)",
    ),
}  # fmt: skip


@pytest.mark.device
class TestPrograms:
    """In the place of the device's Python."""

    @pytest.mark.parametrize("name", PROGRAMS)
    def test_one_sentence(self, device, bundle, tmp_path, run_cli, name):
        body, said = PROGRAMS[name]
        python = program(tmp_path / "python", f"cat >/dev/null & {body}")
        with at_most(60):
            words = ["--python", python, "--result", tmp_path / "r.json", "--junit", tmp_path / "r.xml", "--json"]
            result = run_cli("bench", bundle, "--host", device.target, *words)
        assert result.exit_code == 1
        assert is_harmless(result.stderr)
        assert said in complaint(result.stderr)
        check_json(result.stdout)
        assert not (tmp_path / "r.json").exists()
        assert not (tmp_path / "r.xml").exists()

    def test_nothing_is_ever_said(self, device, bundle, tmp_path, run_cli, monkeypatch):
        """Ended by the time limit of the call: 1 s here, beside 20 s in which a device that is late may tidy up."""
        monkeypatch.setattr(remote, "_GRACE_S", 0.5)
        python = program(tmp_path / "python", "exec cat >/dev/null")
        with at_most(60):
            result = run_cli(
                "bench", bundle, "--host", device.target, "--python", python, "--timeout", "1s", "--wait", "1s"
            )
        assert result.exit_code == 1
        assert f"{python} did not end on {device.target} within 2.5 s." in complaint(result.stderr)

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("yes | tr -d '\\n'", "printed more than 64 MiB"),
            ("cat /dev/urandom", "does not speak the agent's protocol"),
            ("yes 'x' >&2", "printed more than 64 MiB"),
            (f'yes \'{MARK.decode()}"type": "x"}}\'', "it said more than 16 MiB beside samples"),
            (
                f'yes \'{MARK.decode()}"type": "loaded", "configuration": 0, "a": [{"[], " * 200}[]]}}\'',
                "it said more than 16 MiB beside samples",
            ),
            (
                f'echo \'{MARK.decode()}"type": "round", "configuration": 0}}\'; '
                f'yes \'{MARK.decode()}"type": "samples", "configuration": 0, "unit": "us", '
                f'"values": [{"1.5, " * 200}1]}}\'',
                "it sent more than 10000000 samples",
            ),
        ],
        ids=["a line", "noise", "stderr", "messages", "messages that are kept", "samples"],
    )
    @pytest.mark.slow
    def test_memory_is_bounded(self, device, bundle, tmp_path, body, said):
        """Of the process that listens: 2 GiB of address space for all of it, of which Python and numpy take 0.5."""
        python = program(tmp_path / "python", body)
        with (
            at_most(100),
            Visit(
                tmp_path, bundle, "--host", device.target, "--python", python, address_space_bytes=2 * 2**30
            ) as visit,
        ):
            assert visit.exit_code() == 1, visit.err
        assert said in complaint(visit.err)
        assert is_harmless(visit.err)

    def test_terminal(self, device, bundle, tmp_path):
        """On a terminal the progress is drawn with markup, which a device must not be able to add to."""
        body, said = PROGRAMS["hostile stages"]
        python = program(tmp_path / "python", body)
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "edgecomp", "bench", str(bundle), "--host", device.target, "--python", python]
        with at_most(60), subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs) as process:
            os.close(theirs)
            shown = b""
            try:
                while data := os.read(ours, 1 << 16):
                    shown += data
            except OSError:  # So ends a terminal that nobody has open any more.
                pass
        os.close(ours)
        assert process.returncode == 1
        assert said.encode() in b" ".join(shown.split())
        assert b"Traceback" not in shown
        assert b"\x1b]0;" not in shown


# Hands everything on between the host and a real agent, with this appended to every string that it says.
IN_THE_MIDDLE = """
import json, subprocess, sys
MARK, OWNED = b'{"edgecomp": 1, ', "\\x1b[31m\\x1b]0;owned\\x07\\r\\nnext\\u202e"
def spoiled(value, name=""):
    if isinstance(value, str):
        return value if name in ("type", "rule", "unit", "data", "pass", "code") else value + OWNED
    if isinstance(value, list):
        return [spoiled(item) for item in value]
    if isinstance(value, dict):
        keys = {key: key + OWNED if name in ("khz", "max_khz", "temperatures_c") else key for key in value}
        return {keys[key]: spoiled(item, key) for key, item in value.items()}
    return value
child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.PIPE)
for line in child.stdout:
    if line.startswith(MARK):
        message = json.loads(line)
        if message["type"] == "facts":
            message.update(cpu_part_ids=["0xd08"], emulator_signs=["none"])
        message.pop("edgecomp")
        line = MARK + json.dumps(spoiled(message))[1:].encode() + b"\\n"
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
sys.exit(child.wait())
"""


@pytest.mark.device
@pytest.mark.parametrize("as_json", [True, False], ids=["JSON", "text"])
def test_every_string_of_a_real_session_is_hostile(device, bundle, tmp_path, run_cli, as_json):
    """The folder, too: the host removes nothing of that name, and the keeper has removed its own."""
    (tmp_path / "middle.py").write_text(IN_THE_MIDDLE)
    python = program(tmp_path / "python", f'exec {sys.executable} {tmp_path / "middle.py"} "$@"')
    words = [*QUICK_WORDS, "--python", python, "--result", tmp_path / "r.json", "--junit", tmp_path / "r.xml"]
    result = run_cli("bench", bundle, "--host", device.target, *words, *(["--json"] if as_json else []))
    assert result.exit_code == 4, result.output
    assert is_harmless(result.stderr)
    assert is_harmless(result.stdout)
    assert "next" in result.stdout  # What is left of it.
    check_json((tmp_path / "r.json").read_text())
    check_junit((tmp_path / "r.xml").read_bytes())
    if as_json:
        check_json(result.stdout)
