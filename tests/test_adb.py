"""The adb transport with the real adb client: which device is meant, what is said when it cannot be, what is ended.

What every transport promises is tested in test_transports.py, on the same small adbd.
"""

import os
import shutil
import signal
import threading
import time

import pytest

from edgecomp.errors import AuthenticationError, ConnectError, TransportError, UsageError
from edgecomp.transports import _adb_device, adb, connect
from tests.adbd import Adbd, AdbHost, attached_device
from tests.conftest import missing
from tests.sshd import wait_until

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def adb_host(tmp_path_factory):
    if shutil.which("adb") is None:
        missing("adb is not installed (Debian: adb)")
    with AdbHost(tmp_path_factory.mktemp("adb")) as host:
        yield host


@pytest.fixture
def attach(adb_host, tmp_path):
    """Attach devices; they are gone after the test."""
    devices = []

    def attach(**properties):
        device = Adbd(tmp_path, **properties)
        devices.append(device)
        adb_host.attach(device)
        return device

    yield attach
    for device in devices:
        device.vanish()
        adb_host.adb("disconnect", device.serial)


class TestChoice:
    @pytest.mark.slow
    def test_only_device_needs_no_serial(self, attach):
        device = attach()
        with connect("adb://") as transport:
            assert transport.host == f"adb://{device.serial}"
            assert transport.run(["true"], timeout_s=20).exit_code == 0

    @pytest.mark.slow
    def test_no_device(self, adb_host):
        with pytest.raises(ConnectError, match="No Android device is attached") as caught:
            connect("adb://")
        assert "adb connect" in caught.value.hint

    def test_several_devices_are_listed(self, attach):
        serials = sorted([attach().serial, attach().serial])
        with pytest.raises(UsageError, match=f"2 Android devices are attached: {serials[0]}, {serials[1]}") as caught:
            connect("adb://")
        assert caught.value.hint == "Name one: adb://SERIAL."
        with connect(f"adb://{serials[1]}") as transport:
            assert transport.host == f"adb://{serials[1]}"

    def test_adbs_own_variable_names_one_of_several(self, attach, monkeypatch):
        attach()
        monkeypatch.setenv("ANDROID_SERIAL", attach().serial)
        with connect("adb://") as transport:
            assert transport.host.endswith(os.environ["ANDROID_SERIAL"])

    def test_serial_that_is_not_attached(self, attach):
        device = attach()
        with pytest.raises(ConnectError, match=f"There is no Android device R58M12; attached: {device.serial}"):
            connect("adb://R58M12")

    @pytest.mark.parametrize("serial", ["-s", "--help", "a b", "a\tb", "a\nb", "\x1b[31m", "a\u202eb"])
    def test_serials_that_are_none(self, serial):
        with pytest.raises(UsageError, match="An Android device looks like adb://SERIAL, got ") as caught:
            connect(f"adb://{serial}")
        assert caught.value.message.isprintable()

    @pytest.mark.parametrize("serial", ["; id", "$(id)", "'", "*", "a|b"])
    def test_serials_are_no_shell(self, adb_host, serial):
        serial = serial.replace(" ", "")
        with pytest.raises(ConnectError, match="There is no Android device") as caught:
            connect(f"adb://{serial}")
        assert serial in caught.value.message


class TestState:
    def test_unauthorized(self, attach):
        device = attach(state="unauthorized")
        with pytest.raises(AuthenticationError, match=f"adb://{device.serial} has not been told to trust"):
            connect(f"adb://{device.serial}")

    def test_offline(self, attach, monkeypatch):
        monkeypatch.setattr(_adb_device, "_SETTLE_S", 0.5)
        device = attach(state="offline")
        with pytest.raises(ConnectError, match=f"adb://{device.serial} is offline"):
            connect("adb://")

    def test_too_old_to_report_exit_codes(self, attach):
        device = attach(features="cmd")
        with pytest.raises(ConnectError, match="is too old: its adb daemon does not pass on exit codes") as caught:
            connect(f"adb://{device.serial}")
        assert "Android 7" in caught.value.hint

    @pytest.mark.parametrize(
        ("state", "error", "message"),
        [
            ("authorizing", AuthenticationError, "has not been told to trust"),
            ("recovery", ConnectError, "its state is 'recovery'"),
            ("\x1b[2Jrecovery", ConnectError, "its state is 'recovery'"),
            ("no permissions (missing udev rules?); see [http://x]", ConnectError, "cannot be opened by this user"),
        ],
    )
    def test_states_that_need_hardware(self, state, error, message):
        with pytest.raises(error, match=message) as caught:
            _adb_device._check_state("adb://X", state)
        assert caught.value.message.isprintable()
        assert caught.value.hint


class TestProgram:
    def test_no_adb(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("EDGECOMP_ADB", raising=False)
        with pytest.raises(ConnectError, match="adb is not installed") as caught:
            connect("adb://")
        assert "EDGECOMP_ADB" in caught.value.hint

    def test_variable_that_names_no_program(self, monkeypatch, tmp_path):
        (tmp_path / "adb").write_text("")  # Not executable.
        monkeypatch.setenv("EDGECOMP_ADB", str(tmp_path / "adb"))
        with pytest.raises(UsageError, match=r"/adb \(from EDGECOMP_ADB\) is not a program"):
            connect("adb://")

    def test_variable_names_another_adb(self, attach, monkeypatch, tmp_path):
        device = attach()
        (tmp_path / "my adb").symlink_to(shutil.which("adb"))
        monkeypatch.setenv("EDGECOMP_ADB", str(tmp_path / "my adb"))
        monkeypatch.setenv("PATH", "/nowhere")
        with connect(f"adb://{device.serial}") as transport:
            assert transport.run(["/bin/true"], timeout_s=20).exit_code == 0

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("sleep 60", r"`adb start-server` did not end within 1 s"),
            ("printf '* daemon not running\\n\\033[31merror: \\033]0;x\\007cannot bind\\n' >&2; exit 1", "cannot bind"),
            ("exit 3", "`adb start-server` failed: it did not say why"),
        ],
    )
    def test_adb_that_does_not_work(self, monkeypatch, tmp_path, script, message):
        program = tmp_path / "adb"
        program.write_text(f"#!/bin/sh\n{script.replace('sleep', 'exec sleep')}\n")
        program.chmod(0o755)
        monkeypatch.setenv("EDGECOMP_ADB", str(program))
        with pytest.raises(ConnectError, match=message) as caught:
            connect("adb://", connect_timeout_s=1)
        assert caught.value.message.isprintable()


class TestCommands:
    def test_device_that_vanishes_is_noticed_at_once(self, attach):
        """The adb client ends with exit code 0 then, as if the command had."""
        device = attach()
        with connect(f"adb://{device.serial}") as transport:
            start = time.monotonic()
            with pytest.raises(TransportError, match=rf"The connection to adb://{device.serial} was lost\."):
                transport.run(
                    ["sh", "-c", "echo started; exec cat"],
                    timeout_s=600,
                    hold_stdin=True,
                    on_line=lambda _: device.vanish(),
                )
            assert time.monotonic() - start < 300  # Noticed, rather than waited for to the time limit.
            with pytest.raises(TransportError, match=r"was lost: device .*(offline|not found)"):
                transport.run(["true"], timeout_s=20)

    def test_device_that_vanishes_during_a_put_keeps_no_part(self, attach, tmp_path):
        """5 of 9 bytes have been sent when the link breaks: on the device that looks like the end of the file."""
        device = attach()
        (tmp_path / "there").mkdir()
        part, file = tmp_path / "there" / "part", tmp_path / "there" / "file"

        def vanish_in_mid_put():
            wait_until(part.exists, "the put has begun")
            device.vanish()

        watcher = threading.Thread(target=vanish_in_mid_put)
        watcher.start()
        command = ["sh", "-c", adb._PUT, "sh", str(part), str(file), "9"]
        with connect(f"adb://{device.serial}") as transport, pytest.raises(TransportError, match="was lost"):
            transport.run(command, timeout_s=60, stdin=b"12345", hold_stdin=True)
        watcher.join()
        wait_until(lambda: not part.exists(), "the part is removed")
        assert not file.exists()

    def test_late_command_gets_sigterm_and_may_clean_up(self, attach, tmp_path):
        """It reads no stdin: only a signal tells it. The adb client passes none on."""
        device = attach()
        script = 'trap "echo tidy >\\"$0\\"; exit" TERM; echo ready; while :; do sleep 0.1; done'
        with connect(f"adb://{device.serial}") as transport, pytest.raises(TransportError, match="within 1 s"):
            transport.run(["sh", "-c", script, str(tmp_path / "note")], timeout_s=1)
        assert (tmp_path / "note").read_text() == "tidy\n"

    def test_command_that_minds_no_sigterm_is_killed(self, attach, monkeypatch):
        monkeypatch.setattr(adb, "STOP_GRACE_S", 0.6)
        device = attach()
        lines = []
        with connect(f"adb://{device.serial}") as transport, pytest.raises(TransportError, match="within 1 s"):
            transport.run(
                ["sh", "-c", 'trap "" TERM HUP; echo $$; while :; do sleep 0.1; done'],
                timeout_s=1,
                on_line=lines.append,
            )
        wait_until(lambda: not _adb_device.os.path.exists(f"/proc/{lines[0]}"), "the command is gone")

    @pytest.mark.parametrize(
        ("argv", "exit_code"), [(["exit", "3"], 3), (["exec", "sh", "-c", "exit 4"], 4), (["kill", "-9", "0"], 137)]
    )
    def test_commands_that_end_their_shell(self, attach, argv, exit_code):
        """They must not look like a lost device."""
        with connect(f"adb://{attach().serial}") as transport:
            assert transport.run(argv, timeout_s=20).exit_code == exit_code

    def test_stderr_is_the_commands_own(self, attach):
        """The words that mark begin and end are gone, whatever surrounds them."""
        with connect(f"adb://{attach().serial}") as transport:
            result = transport.run(["printf", "x\\ny"], timeout_s=20)
            assert (result.stdout, result.stderr) == (b"x\ny", b"")
            assert transport.run(["sh", "-c", "printf 'no newline' >&2"], timeout_s=20).stderr == b"no newline"

    def test_paths_with_leading_dashes(self, attach, tmp_path):
        """Relative to the folder where commands start, which here is the root folder: so it is only read."""
        with connect(f"adb://{attach().serial}") as transport:
            with pytest.raises(TransportError, match=r"-n was not read on .*: No such file"):
                transport.get("-n")
            with pytest.raises(TransportError, match=r"--help/x was not written on .*: No such file"):
                transport.put(b"x", "--help/x")

    def test_full_disk_says_so(self, attach, tmp_path):
        """/dev/full stands in for it: the temporary file is made a link to it before it is filled."""
        part = tmp_path / "part"
        command = adb._PUT.replace("&& cat", '&& ln -sf /dev/full "$1" && cat')
        with connect(f"adb://{attach().serial}") as transport:
            result = transport.run(
                ["sh", "-c", command, "sh", str(part), str(tmp_path / "file"), "1"], timeout_s=20, stdin=b"x"
            )
            error = transport._file_error("file was not written", result)
        assert "No space left on device" in error.message
        assert "`df` on the device" in error.hint
        assert list(tmp_path.iterdir()) == []

    def test_closed_transport_says_so(self, attach):
        transport = connect(f"adb://{attach().serial}")
        transport.close()
        with pytest.raises(TransportError, match="is closed"):
            transport.run(["true"], timeout_s=20)

    def test_temporary_folder_is_the_devices(self, tmp_path):
        """As a phone's adbd sets it: /data/local/tmp there."""
        if shutil.which("adb") is None:
            missing("adb is not installed (Debian: adb)")
        with attached_device(tmp_path) as device, connect("adb://") as transport:
            assert transport.run(["sh", "-c", 'echo "$TMPDIR"'], timeout_s=20).stdout.decode().strip() == str(
                device.tmp
            )


def test_signals_are_known_by_number():
    """128 + N for every signal that can end the shell; 255, which the adb client may use, is none of them."""
    assert all(128 + number in adb._KILLED for number in signal.Signals)
    assert 255 not in adb._KILLED


@pytest.mark.parametrize(
    ("stderr", "pid"),
    [
        (b"", None),
        (b"error: closed\n", None),
        (b"word 123", None),  # Its end may be missing.
        (b"word 123\n", 123),
        (b"noise\nword 123\nrest", 123),
        (b"word x\n", None),
        (b"word 1\n", None),  # `kill -TERM -1` would end everything.
        (b"word 0\n", None),
        (b"word -5\n", None),
    ],
)
def test_only_a_shell_is_signalled(stderr, pid):
    assert adb._Marks("word", stderr).pid == pid
