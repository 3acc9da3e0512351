"""`edgecomp setup` over a real SSH server: small wheels by the real pip, real faults; last, the real runtime."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgecomp.agent.on_device.private_runtime as private_runtime
from edgecomp.device_setup import remove_runtime, session, setup_device, wheels
from edgecomp.errors import SetupError, TransportError
from edgecomp.transports import connect
from tests.conftest import missing
from tests.digits_bundle import MODELS
from tests.setup_wheels import INTERPRETER, write_numpy, write_runtime, write_wheel
from tests.sshd import LOCALHOST, CuttingProxy, missing_tools, running_sshd, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.device]  # Minutes, most of it waiting for processes.

TFLITE = "tflite-runtime"
# What a process on the device does first, and then what it sees.
LOOK = """
import json, sys
from edgecomp_agent.private_runtime import add_private_runtime
done = add_private_runtime()
try:
    import tflite_runtime.interpreter as found
    path = found.__file__
except ImportError:
    path = None
print(json.dumps([done, path]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(tmp_path_factory, home):
    if missing_tools():
        missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    with running_sshd(tmp_path_factory.mktemp("sshd"), environment={"HOME": str(home)}) as running:
        yield running


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python with nothing in it, neither pip nor numpy; with a blank in its path."""
    folder = tmp_path_factory.mktemp("device") / "bare $HOME; venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Wheels of a small tflite-runtime and numpy."""
    made = tmp_path_factory.mktemp("wheels")
    write_numpy(made)
    write_runtime(made)
    return made


@pytest.fixture
def device(server, home, monkeypatch):
    """A connection to a device with an empty home folder; nothing half-done may be left in it."""
    monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(server.config))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with connect(server.target) as transport:
        yield transport
    wait_until(lambda: partial_names(home) == [], "no partial folder is left")
    shutil.rmtree(home / ".local", ignore_errors=True)


def put(transport, python, folder):
    """Set the device up with the wheels of a folder; naming the runtime saves asking pip for the other one."""
    return setup_device(transport, python=python, runtime=TFLITE, wheels=folder)


def data_folder(home):
    return home / ".local" / "share" / "edgecomp"


def partial_names(home):
    return [path.name for path in data_folder(home).glob(".partial*")]


def look(python, home, tmp_path):
    """What a process on the device imports: what `add_private_runtime` says, and the file."""
    package = tmp_path / "agent" / "edgecomp_agent"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    for name in ("machine.py", "private_runtime.py"):
        shutil.copy(Path(private_runtime.__file__).with_name(name), package)
    environment = {"HOME": str(home), "PYTHONPATH": str(package.parent), "PATH": os.environ["PATH"]}
    ended = subprocess.run([python, "-c", LOOK], env=environment, capture_output=True, text=True, check=True)
    done, path = json.loads(ended.stdout)
    return done, path


class TestSetup:
    def test_runtime_is_there_and_private(self, device, bare_python, folder, home, tmp_path):
        report = setup_device(device, python=bare_python, wheels=folder)
        assert (report.status, report.runtime, report.version) == ("installed", TFLITE, "2.99.0")
        assert (report.numpy, report.own_numpy, len(report.wheels)) == ("1.26.0", False, 2)
        place = Path(report.folder)
        assert place.parent == data_folder(home)
        assert {path.name for path in place.parent.iterdir()} == {"runtime.json", place.name}
        for path in (place.parent, place, place / "tflite_runtime"):
            assert path.stat().st_mode & 0o777 == 0o700
        assert (place / "tflite_runtime" / "interpreter.py").stat().st_mode & 0o777 == 0o600
        done, path = look(bare_python, home, tmp_path)
        assert done == f"private tflite-runtime 2.99.0 in {place}"
        assert path == str(place / "tflite_runtime" / "interpreter.py")

    def test_second_time_nothing_is_done(self, device, bare_python, folder, home):
        first = put(device, bare_python, folder)
        written = (data_folder(home) / "runtime.json").stat().st_mtime_ns
        again = put(device, bare_python, folder)
        without_wheels = setup_device(device, python=bare_python)  # Asks no index: what is there works.
        assert (again.status, without_wheels.status) == ("unchanged", "unchanged")
        assert again.folder == without_wheels.folder == first.folder
        assert (data_folder(home) / "runtime.json").stat().st_mtime_ns == written

    def test_other_wheels_take_its_place(self, device, bare_python, folder, home, tmp_path):
        put(device, bare_python, folder)
        write_numpy(tmp_path)
        write_runtime(tmp_path, version="2.99.1")
        report = put(device, bare_python, tmp_path)
        assert (report.status, report.version) == ("installed", "2.99.1")
        assert len(list(data_folder(home).glob("runtime-*"))) == 1

    def test_damaged_one_is_put_right(self, device, bare_python, folder, home, tmp_path):
        first = put(device, bare_python, folder)
        (Path(first.folder) / "tflite_runtime" / "interpreter.py").unlink()
        again = put(device, bare_python, folder)
        assert (again.status, again.folder) == ("installed", first.folder)
        assert look(bare_python, home, tmp_path)[1].startswith(first.folder)

    def test_remove(self, device, bare_python, folder, home, tmp_path):
        put(device, bare_python, folder)
        assert remove_runtime(device, python=bare_python).status == "removed"
        assert not data_folder(home).exists()
        assert remove_runtime(device, python=bare_python).status == "absent"
        assert look(bare_python, home, tmp_path) == (None, None)

    def test_what_else_lies_there_stays(self, device, bare_python, folder, home):
        data_folder(home).mkdir(parents=True)
        (data_folder(home) / "notes").write_text("mine")
        put(device, bare_python, folder)
        remove_runtime(device, python=bare_python)
        assert [path.name for path in data_folder(home).iterdir()] == ["notes"]

    def test_command(self, server, device, bare_python, folder, run_cli):
        host = server.target
        made = run_cli("setup", host, "--python", bare_python, "--wheels", folder)
        assert (made.exit_code, f"{host} has tflite-runtime 2.99.0 now, and it works" in made.output) == (0, True)
        again = run_cli("setup", host, "--python", bare_python, "--json", "--identity", server.identity)
        said = json.loads(again.stdout)
        assert (said["schema"], said["status"], said["sent_bytes"]) == ("edgecomp.setup/1", "unchanged", None)
        gone = run_cli("setup", host, "--python", bare_python, "--remove")
        assert f"{host}: the private runtime was removed." in gone.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--remove", "--runtime", TFLITE], "--remove removes every private runtime"),
            (["--runtime", "litert"], "There is no runtime 'litert'"),
            (["--wheels", "/nowhere"], "/nowhere is no folder with wheels"),
            (["--python", "-c"], "--python is a name or a path, got '-c'"),
        ],
    )
    def test_wrong_usage(self, run_cli, arguments, message):
        result = run_cli("setup", "local", *arguments)
        assert (result.exit_code, message in result.output) == (2, True)


class TestPassedOver:
    """A private runtime that this process must not import; it says why."""

    @pytest.fixture
    def place(self, device, bare_python, folder):
        return Path(put(device, bare_python, folder).folder)

    def test_other_python(self, place, bare_python, home, tmp_path):
        pointer = json.loads((place.parent / "runtime.json").read_text())
        (place.parent / "runtime.json").write_text(json.dumps(pointer | {"abi": "cp27"}))
        done, path = look(bare_python, home, tmp_path)
        assert done.startswith("private tflite-runtime 2.99.0 passed over: it is for cp27 on ")
        assert path is None

    def test_others_may_write_into_it(self, place, bare_python, home, tmp_path):
        place.chmod(0o777)
        assert look(bare_python, home, tmp_path) == (
            f"private tflite-runtime 2.99.0 passed over: somebody else may write into {place}",
            None,
        )

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{", '{"folder": 3}', '{"folder": "../../evil", "runtime": "a", "version": "1", "abi": "", '
         '"architecture": ""}'],
    )  # fmt: skip
    def test_pointer_that_makes_no_sense(self, place, bare_python, home, tmp_path, text):
        (place.parent / "runtime.json").write_text(text)
        assert look(bare_python, home, tmp_path) == (None, None)


class TestRuntimeThatDoesNotWork:
    @pytest.mark.parametrize(
        ("interpreter", "message"),
        [
            ("raise ImportError('libfoo.so.1: cannot open shared object file')", "not work there: libfoo.so.1: cannot"),
            ("import os; os.kill(os.getpid(), 4)", "killed by signal SIGILL, an instruction that this CPU does not"),
            (
                "import os, sys; print('Illegal thing', file=sys.stderr); os._exit(3)",
                "exit code 3; its last words: 'Ill",
            ),
            (INTERPRETER.replace("0.5", "0.25"), r"it computes \[\[30.25, 1.0\]\] instead of \[\[30.5, 1.0\]\]"),
            ("raise RuntimeError('\\x1b[31mred\\n' * 1000)", "not work there: red red"),
        ],
        ids=["library", "SIGILL", "exit", "wrong", "hostile"],
    )
    def test_is_not_left_there(self, device, bare_python, home, tmp_path, interpreter, message):
        write_numpy(tmp_path)
        write_runtime(tmp_path, interpreter=interpreter)
        with pytest.raises(SetupError, match=message) as caught:
            put(device, bare_python, tmp_path)
        assert "\x1b" not in str(caught.value)
        assert not (home / ".local").exists()

    def test_the_one_before_stays(self, device, bare_python, folder, home, tmp_path):
        first = put(device, bare_python, folder)
        write_numpy(tmp_path)
        write_runtime(tmp_path, interpreter="raise ImportError('broken')")
        with pytest.raises(SetupError, match=r"tflite-runtime 2\.99\.0 does not work there: broken\. It was removed"):
            put(device, bare_python, tmp_path)
        assert look(bare_python, home, tmp_path)[1].startswith(first.folder)

    def test_library_that_is_missing_has_its_hint(self, device, bare_python, tmp_path):
        write_numpy(tmp_path)
        write_runtime(tmp_path, interpreter="raise ImportError('libfoo.so.1: cannot open shared object file: No such')")
        with pytest.raises(SetupError) as caught:
            put(device, bare_python, tmp_path)
        assert "has libfoo.so.1" in caught.value.hint


class TestOwnNumpy:
    """32-bit ARM: tflite-runtime has wheels, numpy has none, and Debian has a package of it."""

    @pytest.fixture
    def python_with_numpy(self, tmp_path, request):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
        site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
        shutil.unpack_archive(write_numpy(tmp_path / "own", request.param), site, "zip")
        return str(tmp_path / "venv" / "bin" / "python")

    @pytest.mark.parametrize("python_with_numpy", ["1.24.2"], indirect=True)
    def test_is_used_where_there_is_no_wheel(self, device, python_with_numpy, tmp_path):
        write_runtime(tmp_path / "wheels")
        report = put(device, python_with_numpy, tmp_path / "wheels")
        assert (report.status, report.numpy, report.own_numpy, len(report.wheels)) == ("installed", "1.24.2", True, 1)

    @pytest.mark.parametrize(
        ("python_with_numpy", "message"),
        [("1.19.5", "needs numpy 1.23.2 or newer, and the device has 1.19.5"), ("2.2.4", "needs numpy below 2")],
        indirect=["python_with_numpy"],
    )
    def test_must_be_one_that_fits(self, device, python_with_numpy, tmp_path, message):
        write_runtime(tmp_path / "wheels")
        with pytest.raises(SetupError, match=message):
            put(device, python_with_numpy, tmp_path / "wheels")


class TestNoWheels:
    def test_folder_without_the_right_one(self, device, bare_python, tmp_path):
        write_wheel(tmp_path, "tflite_runtime", "2.99.0", {}, tag="cp27-cp27m-linux_s390x")
        with pytest.raises(
            SetupError,
            match=r"There is no wheel of tflite-runtime for Python .* in .*\. It looks for tflite_runtime-VERSION",
        ):
            put(device, bare_python, tmp_path)

    def test_damaged_wheel(self, device, bare_python, tmp_path):
        write_numpy(tmp_path)
        path = write_runtime(tmp_path, ballast_bytes=50_000)
        data = bytearray(path.read_bytes())
        data[20_000] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(SetupError, match=r"A wheel is damaged: tflite_runtime-2\.99\.0"):
            put(device, bare_python, tmp_path)

    def test_no_network(self, device, bare_python, monkeypatch):
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{LOCALHOST}:9/simple")
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(SetupError, match="pip cannot reach the package index"):
            setup_device(device, python=bare_python)

    def test_no_pip_on_this_machine(self, device, bare_python, folder, monkeypatch):
        monkeypatch.setattr(wheels.sys, "executable", bare_python)
        with pytest.raises(SetupError, match=r"has no pip, .* -m ensurepip"):
            put(device, bare_python, folder)


class TestNoPython:
    @pytest.mark.parametrize(
        ("python", "message"),
        [
            (
                "no-such-python",
                "There is no no-such-python on .*If it is there under another name, give that with --py",
            ),
            ("true", r"true on .* is no Python that answers \(exit code 0\)"),
            ("echo", "echo on .* is no Python that answers .* Its last words: '-c import sys"),
        ],
    )
    def test_programs_that_are_none(self, device, python, message):
        with pytest.raises(SetupError, match=message):
            setup_device(device, python=python)

    def test_too_old(self, device, tmp_path):
        """A real Python that takes itself for an older one."""
        old = tmp_path / "old"
        old.write_text(
            f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 6, 9); code = sys.argv.pop(2); '
            'sys.argv.pop(1); exec(code)" "$@"\n'
        )
        old.chmod(0o755)
        with pytest.raises(
            SetupError, match=r"is too old: Python 3\.7 or newer is needed, this is 3\.6\. Name a newer"
        ):
            setup_device(device, python=str(old))

    @pytest.mark.parametrize(
        "line",
        [
            "x\n" + "more\n" * 2000,
            "nonsense",
            '"type": "done"}',
            '"type": "done", "python": "rm -rf"}',
            '"type": "error"}',
            "[" * 100_000,
        ],
        ids=["noise", "no JSON", "empty", "wrong", "no message", "deep"],
    )
    def test_hostile_answers(self, device, tmp_path, line):
        program = tmp_path / "python"
        (tmp_path / "line").write_text('{"edgecomp": 1, ' + line + "\n")
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/line\n")
        program.chmod(0o755)
        with pytest.raises(SetupError, match=r"does not speak our protocol: (?!None)\w"):
            setup_device(device, python=str(program))


@contextlib.contextmanager
def small_disk(path, size, *options):
    """A file system of its own; it takes root."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        missing("a small file system cannot be mounted (it takes root)")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


class TestDisk:
    @pytest.fixture
    def big(self, tmp_path):
        write_numpy(tmp_path / "big")
        write_runtime(tmp_path / "big", ballast_bytes=3 * 2**20)
        return tmp_path / "big"

    def test_too_small_is_known_before(self, device, bare_python, big, home):
        with small_disk(home / ".local", "2m"):
            with pytest.raises(
                SetupError, match=r"The disk .* is full: the runtime needs 7\.0 MiB \(2\.0 MiB are free\)"
            ):
                put(device, bare_python, big)
            assert list((home / ".local").iterdir()) == []

    def test_full_while_unpacking(self, device, bare_python, big, home, monkeypatch):
        monkeypatch.setattr(session, "_SPARE_BYTES", -(10**9))  # Somebody else takes the room meanwhile.
        with small_disk(home / ".local", "2m"):
            with pytest.raises(SetupError, match=r"The disk of the home folder is full: .* Nothing was left there"):
                put(device, bare_python, big)
            assert list((home / ".local").iterdir()) == []

    def test_read_only(self, device, bare_python, folder, home):
        with (
            small_disk(home / ".local", "2m", "ro"),
            pytest.raises(SetupError, match=r"cannot be used: Read-only file"),
        ):
            put(device, bare_python, folder)

    def test_no_home_at_all(self, server, bare_python, folder, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        with running_sshd(tmp_path / "sshd", environment={"HOME": str(tmp_path / "file")}) as other:
            monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(other.config))
            with (
                connect(other.target) as transport,
                pytest.raises(SetupError, match=r"cannot be used: Not a directory"),
            ):
                put(transport, bare_python, folder)


class TestInterruptions:
    def test_connection_cut_while_sending(self, server, device, bare_python, home, tmp_path):
        write_numpy(tmp_path)
        write_runtime(tmp_path, ballast_bytes=8 * 2**20)
        with CuttingProxy(server.port, cut_after_bytes=4 * 2**20) as proxy:
            server.trust(proxy.port)
            target = f"{server.user}@{LOCALHOST}:{proxy.port}"
            with connect(target) as transport, pytest.raises(TransportError, match="was lost"):
                put(transport, bare_python, tmp_path)
        wait_until(lambda: not (home / ".local").exists(), "the device has removed all that it made")

    def test_what_a_killed_visit_left_goes_with_the_next(self, device, bare_python, home):
        (data_folder(home) / ".partial-abc" / "numpy").mkdir(parents=True)
        (data_folder(home) / ".partial-file").write_text("{")
        assert remove_runtime(device, python=bare_python).status == "absent"
        assert not data_folder(home).exists()

    def test_two_at_a_time(self, device, bare_python, folder, home):
        data_folder(home).mkdir(parents=True)
        descriptor = os.open(data_folder(home), os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(SetupError, match=r"Another setup is at work there\. Wait for it"):
                put(device, bare_python, folder)
        finally:
            os.close(descriptor)

    def test_changed_on_the_way(self, device, bare_python, folder, home, monkeypatch):
        pack = session.Archive.sha256.fget
        monkeypatch.setattr(session.Archive, "sha256", property(lambda self: pack(self)[::-1]))
        with pytest.raises(SetupError, match=r"The runtime did not arrive as it was sent\. Try again"):
            put(device, bare_python, folder)
        assert not (home / ".local").exists()


@pytest.mark.slow
def test_real_runtime_from_the_index(device, bare_python, home, tmp_path):
    """A Python without anything gets ai-edge-litert for this very machine, and runs a real int8 model with it."""
    try:
        report = setup_device(device, python=bare_python)
    except SetupError as error:
        if "cannot reach the package index" in error.message:
            missing("pip cannot reach a package index")
        raise
    assert (report.status, report.runtime, report.own_numpy) == ("installed", "ai-edge-litert", False)
    assert report.dropped == ("ai_edge_litert/libLiteRtWebGpuAccelerator.so",)
    done, _ = look(bare_python, home, tmp_path)
    assert done == f"private ai-edge-litert {report.version} in {report.folder}"
    run = (
        "import sys; from edgecomp_agent.private_runtime import add_private_runtime; add_private_runtime()\n"
        "from ai_edge_litert.interpreter import Interpreter\n"
        f"model = Interpreter(model_path={str(MODELS / 'digits_int8.tflite')!r}); model.allocate_tensors()\n"
        "model.invoke(); print(model.get_output_details()[0]['shape'].tolist())"
    )
    environment = {"HOME": str(home), "PYTHONPATH": str(tmp_path / "agent"), "PATH": os.environ["PATH"]}
    ended = subprocess.run([bare_python, "-c", run], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[1, 10]"
    assert setup_device(device, python=bare_python).status == "unchanged"
