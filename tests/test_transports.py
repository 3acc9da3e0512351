"""The contract that every transport keeps: one class, run for each file in edgecomp/transports."""

import contextlib
import os
import shutil
import sys
import time

import pytest

from edgecomp.errors import CommandTimeoutError, TransportError, UsageError
from edgecomp.plugins import member_names
from edgecomp.transports import _base, connect
from tests.adbd import attached_device
from tests.conftest import missing
from tests.sshd import missing_tools, running_sshd

NAMES = member_names("edgecomp.transports")


@contextlib.contextmanager
def device_for(name, folder):
    """(target, options of `connect`) of a device behind a transport."""
    if name == "local":
        yield "local", {}
    elif name == "ssh":
        if missing_tools():
            missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
        with running_sshd(folder) as server:
            yield server.target, {"ssh_config": server.config}
    elif name == "adb":
        if shutil.which("adb") is None:
            missing("adb is not installed (Debian: adb)")
        with attached_device(folder) as device:
            yield f"adb://{device.serial}", {}
    else:
        # A new transport is tested without editing this file: name a device for it.
        variable = f"EDGECOMP_TEST_TARGET_{name.upper()}"
        if variable not in os.environ:
            missing(f"there is no device for the {name} transport (set {variable})")
        yield os.environ[variable], {}


@pytest.fixture(scope="class", params=NAMES)
def transport(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with device_for(request.param, folder) as (target, options), connect(target, **options) as opened:
        yield opened


def has_ended(pid):
    """Whether a process is gone, or goes within some seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.device
class TestContract:
    """What `Transport` promises."""

    def test_exit_code_and_both_outputs_come_back(self, transport):
        result = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"], timeout_s=20)
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n")

    def test_arguments_arrive_as_they_are(self, transport):
        hostile = [
            "a b",
            "'",
            '"',
            "$(id)",
            "`id`",
            "; id",
            "&& id",
            "| id",
            "> x",
            "*",
            "~",
            "\\",
            "\n",
            "",
            "é",
            "-n",
        ]
        result = transport.run(["printf", "%s\\0", *hostile], timeout_s=20)
        assert result.stdout.decode().split("\0")[:-1] == hostile

    def test_leading_dashes_are_arguments(self, transport):
        assert transport.run(["cat", "--", "-n"], timeout_s=20).exit_code == 1  # No file of that name, no option.

    def test_a_command_that_does_not_exist_is_exit_code_127(self, transport):
        assert transport.run(["no-such-command-here"], timeout_s=20).exit_code == 127

    def test_a_signal_is_128_and_its_number(self, transport):
        assert transport.run(["sh", "-c", "kill -9 $$"], timeout_s=20).exit_code == 137

    def test_bytes_pass_unchanged_in_both_directions(self, transport):
        data = bytes(range(256)) * 8192  # 2 MiB: more than any pipe or window holds, so neither side may wait.
        assert transport.run(["cat"], timeout_s=60, stdin=data).stdout == data

    def test_a_command_may_leave_its_stdin_unread(self, transport):
        assert transport.run(["true"], timeout_s=20, stdin=bytes(1 << 20)).exit_code == 0

    def test_lines_arrive_while_the_command_runs(self, transport, tmp_path):
        """The command goes on only after its first line was seen: lines that came at the end would be too late."""
        flag = tmp_path / "seen"
        script = 'echo first; until [ -e "$0" ]; do sleep 0.05; done; printf "second\\r\\nlast"'
        lines = []

        def on_line(line):
            lines.append(line)
            flag.touch()

        transport.run(["sh", "-c", script, str(flag)], timeout_s=20, on_line=on_line)
        assert lines == ["first", "second", "last"]

    def test_a_command_that_takes_too_long_is_ended(self, transport):
        lines = []
        with pytest.raises(CommandTimeoutError, match=r"sh did not end on .* within 1 s"):
            # It minds its stdin, as a command must that is to end where no signals are passed on.
            transport.run(
                ["sh", "-c", "echo $$; exec cat"], timeout_s=1, hold_stdin=True, on_line=lambda line: lines.append(line)
            )
        assert has_ended(int(lines[0]))

    def test_an_error_of_the_callback_ends_the_command(self, transport):
        lines = []

        def on_line(line):
            lines.append(line)
            raise LookupError("enough")

        with pytest.raises(LookupError, match="enough"):
            transport.run(["sh", "-c", "echo $$; exec cat"], timeout_s=60, hold_stdin=True, on_line=on_line)
        assert has_ended(int(lines[0]))

    def test_stdin_that_is_held_ends_with_the_command(self, transport):
        result = transport.run(["head", "-c", "3"], timeout_s=20, stdin=b"abc", hold_stdin=True)
        assert result.stdout == b"abc"

    @pytest.mark.parametrize("endless", [["yes"], ["cat", "/dev/zero"]], ids=["lines", "no newline"])
    def test_endless_output_is_stopped(self, transport, endless, monkeypatch):
        monkeypatch.setattr(_base, "MAX_OUTPUT_BYTES", 1 << 20)
        with pytest.raises(TransportError, match="printed more than 1 MiB"):
            transport.run(endless, timeout_s=60, on_line=len)

    def test_the_device_works_on_after_all_that(self, transport):
        assert transport.run(["true"], timeout_s=20).exit_code == 0

    def test_a_file_goes_there_and_back(self, transport, tmp_path):
        path = tmp_path / "with 'quotes' and spaces"
        data = bytes(range(256)) * 1024
        transport.put(b"what was there before", str(path))
        transport.put(data, str(path))
        assert transport.get(str(path)) == data
        assert path.stat().st_mode & 0o777 == 0o600  # A model may be a secret.
        assert [item.name for item in tmp_path.iterdir()] == [path.name]

    def test_files_that_cannot_be_are_one_sentence(self, transport, tmp_path):
        absent = str(tmp_path / "absent" / "file")
        with pytest.raises(TransportError, match=r"absent/file .* No such file"):
            transport.get(absent)
        with pytest.raises(TransportError, match=r"absent/file .* No such file"):
            transport.put(b"x", absent)

    def test_a_failed_put_leaves_nothing(self, transport, tmp_path):
        (tmp_path / "folder").mkdir()
        with pytest.raises(TransportError, match="folder"):
            transport.put(b"x", str(tmp_path / "folder"))
        assert [item.name for item in tmp_path.iterdir()] == ["folder"]

    @pytest.mark.parametrize(
        "name",
        [
            "a b",
            "it's",
            '"q"',
            "; touch x",
            "$(touch x)",
            "`touch x`",
            "-n",
            "--help",
            "*",
            "~",
            "\\",
            "a\nb",
            "é",
            "|x&",
        ],
    )
    def test_names_of_files_are_no_shell(self, transport, tmp_path, name):
        transport.put(b"data", str(tmp_path / name))
        assert transport.get(str(tmp_path / name)) == b"data"
        assert [item.name for item in tmp_path.iterdir()] == [name]

    def test_leading_dash_of_a_path_is_no_option(self, transport):
        with pytest.raises(TransportError, match=r"^--version .* No such file"):
            transport.get("--version")

    @pytest.mark.parametrize("word", ["a\0b", "half \ud800 pair"])
    def test_words_that_no_system_takes(self, transport, word):
        for call in (lambda: transport.run(["echo", word], timeout_s=20), lambda: transport.get(word)):
            with pytest.raises(UsageError, match="is UTF-8 text without NUL") as caught:
                call()
            assert caught.value.message.isprintable()
        with pytest.raises(UsageError, match="is UTF-8 text without NUL"):
            transport.put(b"", word)

    def test_command_without_words(self, transport):
        with pytest.raises(UsageError, match="got no words"):
            transport.run([], timeout_s=20)

    def test_messages_hold_nothing_that_a_terminal_obeys(self, transport, tmp_path):
        hostile = tmp_path / "\x1b[31m\x1b]0;x\x07red\u202e\nnext"
        hostile.write_text("#!/bin/sh\nexec cat\n")
        hostile.chmod(0o700)
        calls = [
            lambda: transport.get(f"{hostile}.absent"),
            lambda: transport.put(b"", f"{hostile}.absent/x"),
            lambda: transport.run([str(hostile)], timeout_s=0.5, hold_stdin=True),
        ]
        for call in calls:
            with pytest.raises(TransportError) as caught:
                call()
            assert caught.value.message.isprintable()

    def test_output_that_is_no_text_arrives_as_lines(self, transport):
        lines = []
        script = r"printf '\377\376\n\033[31mred\000\n\303\251\n'"
        result = transport.run(["sh", "-c", script], timeout_s=20, on_line=lines.append)
        assert lines == ["\ufffd\ufffd", "\x1b[31mred\0", "é"]
        assert result.stdout == b"\xff\xfe\n\x1b[31mred\0\n\xc3\xa9\n"

    def test_file_without_end_is_not_read(self, transport, monkeypatch):
        for module in (_base, sys.modules[type(transport).__module__]):
            monkeypatch.setattr(module, "MAX_FILE_BYTES", 1 << 20, raising=False)
        with pytest.raises(TransportError, match=r"/dev/zero on .* holds more than 1 MiB"):
            transport.get("/dev/zero")


@pytest.mark.parametrize("name", NAMES)
def test_closing_twice_is_harmless(name, tmp_path):
    with device_for(name, tmp_path) as (target, options):
        transport = connect(target, **options)
        transport.close()
        transport.close()


def test_local_command_takes_what_it_started_with_it(tmp_path):
    """A command in a session of its own: the sleep it left behind must not outlive it."""
    with connect("local") as transport:
        result = transport.run(["sh", "-c", "sleep 60 & echo $!"], timeout_s=20)
    assert has_ended(int(result.stdout))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "A target is"),
        ("  ", "A target is"),
        ("://x", "A target is"),
        ("lcoal://x", "Did you mean 'local'"),
        ("local://x", 'The target of this machine is "local"'),
    ],
)
def test_targets_that_name_no_device(target, message):
    with pytest.raises(UsageError, match=message):
        connect(target)
