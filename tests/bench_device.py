"""A device behind a real SSH server, and real `edgecomp bench` processes that visit it: for the tests of the runner.

A module takes the fixtures that it needs by name: `server = bench_device.server`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecomp.bench import BenchSettings
from tests.conftest import missing
from tests.digits_bundle import write_digits_bundle
from tests.sshd import missing_tools, running_sshd, wait_until

ONCE = BenchSettings(
    min_seconds=0.0, max_seconds=5.0, min_processes=1, max_processes=1, precision_ratio=0.99, passes=()
)
QUICK = {"settings": ONCE, "python": sys.executable}
# As long as no test lasts.
LONG = BenchSettings(min_seconds=600.0, max_seconds=600.0, min_processes=100, max_processes=100)
ENDLESS = {"settings": LONG, "python": sys.executable}

# The same on the command line.
QUICK_WORDS = (
    "--python", sys.executable, "--threads", 1, "--runs", 5, "--min-seconds", 0, "--max-seconds", 5, "--processes", 1,
    "--max-processes", 1, "--precision", "90%",
)  # fmt: skip
ENDLESS_WORDS = (
    "--python", sys.executable, "--threads", 1, "--min-seconds", 600, "--max-seconds", 600, "--processes", 100,
    "--max-processes", 100,
)  # fmt: skip

# The golden outputs are made by the LiteRT of this Python: the device has the same, or an older relative.
DEVICE_PYTHONS = {
    "ai-edge-litert": "EDGECOMP_DEVICE_PYTHON_LITERT",
    "tflite-runtime": "EDGECOMP_DEVICE_PYTHON_TFLITE_RUNTIME",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if missing_tools():
        missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def device(server, monkeypatch):
    """The server; what the test did there must leave nothing behind, neither files nor processes."""
    monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(server.config))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield server
    wait_until_clean(server)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_digits_bundle(tmp_path_factory.mktemp("bundles"))


def wait_until_clean(server) -> None:
    """Nothing of a measurement is left: no file, no process."""
    wait_until(lambda: list(server.tmp.iterdir()) == [], "the device's folder for temporary files is empty")
    wait_until(lambda: working_in(server.tmp) == [], "no process works in it")


def working_in(folder: Path) -> list[int]:
    """Ids of processes whose working folder is below `folder`, even if it was removed since: agent and passes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "cwd").startswith(f"{folder}/"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def interpreter_of(runtime: str) -> str:
    """The Python of this machine that has one runtime and no other."""
    variable = DEVICE_PYTHONS[runtime]
    if variable not in os.environ:
        missing(f"there is no Python with {runtime} (set {variable}; `make device-venvs` makes one)")
    return os.environ[variable]


def program(path: Path, body: str) -> str:
    """A shell script that the device takes for its Python; returns its path."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail a test that takes longer: a fault that hangs is a fault."""

    def ring(*_: object) -> None:
        raise AssertionError(f"this took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Visit:
    """A real `edgecomp bench` of this checkout, in a process of its own.

    Args:
        folder: For what it says.
        words: Its arguments.
        address_space_bytes: Of the process; None for what the system gives.
        variables: For its environment.
    """

    def __init__(self, folder: Path, *words: object, address_space_bytes: int | None = None, **variables: str) -> None:
        self._out, self._err = (folder / f"{secrets.token_hex(4)}.{name}" for name in ("out", "err"))
        command = [sys.executable, "-m", "edgecomp", "bench", *map(str, words)]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **variables},
                preexec_fn=lambda: _prepare(address_space_bytes),
            )  # fmt: skip

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_for(self, words: str) -> None:
        """Until it says these words on stderr."""
        wait_until(lambda: words in self.err or self.process.poll() is not None, f"{words!r} is said")
        assert words in self.err

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def exit_code(self) -> int:
        """Its end is waited for."""
        return self.process.wait(timeout=60)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()


def _prepare(address_space_bytes: int | None) -> None:
    # Whoever runs the tests in the background ignores it, and so would the children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if address_space_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))


def complaint(stderr: str) -> str:
    """What a command says beside its progress: one sentence, and maybe a line of what to do next."""
    lines = [line for line in stderr.splitlines() if not line.startswith("[")]
    assert len(lines) in (1, 2), stderr
    assert lines[0].startswith("Error: "), stderr
    return "\n".join(lines)
