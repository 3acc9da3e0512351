"""A real OpenSSH server on loopback, with keys, port and configuration of its own; and a proxy that can cut the line.

Works as root and as an ordinary user (who can then log in as themselves only). Nothing outside the given folder is
read or written, except /run/sshd, which sshd wants to exist when root starts it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
LOCALHOST = "127.0.0.1"


def missing_tools() -> list[str]:
    """Names of the programs that are not installed (Debian: openssh-server, openssh-client)."""
    return [name for name in ("sshd", "ssh-keygen") if shutil.which(name, path=SEARCH_PATH) is None]


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new private key; the public one is beside it, with .pub."""
    tool = shutil.which("ssh-keygen", path=SEARCH_PATH)
    assert tool is not None
    subprocess.run([tool, "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)], check=True)
    return path


def ssh_keygen(*arguments: str) -> str:
    """What ssh-keygen prints."""
    tool = shutil.which("ssh-keygen", path=SEARCH_PATH)
    assert tool is not None
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def fingerprint(key: Path) -> str:
    """What ssh-keygen shows for the public half of a key."""
    return ssh_keygen("-lf", f"{key}.pub").split()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Sshd:
    """A running server and what a client needs to log in.

    Attributes:
        folder: Everything that belongs to it.
        config: OpenSSH client configuration that names the identity and the known_hosts file.
        tmp: The device's folder for temporary files: what is left there was left on the device.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    user = getpass.getuser()

    @property
    def target(self) -> str:
        return f"{self.user}@{LOCALHOST}:{self.port}"

    @property
    def host_key(self) -> Path:
        return self.folder / "hostkey"

    @property
    def identity(self) -> Path:
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def tmp(self) -> Path:
        return self.folder / "tmp"

    def trust(self, port: int) -> None:
        """Add the host key under another port of loopback (that of a proxy)."""
        kind, key, _ = (self.host_key.with_suffix(".pub")).read_text().split()
        with self.known_hosts.open("a") as stream:
            stream.write(f"[{LOCALHOST}]:{port} {kind} {key}\n")


def _write_files(folder: Path, port: int, environment: Mapping[str, str], extra: Sequence[str]) -> None:
    for name in ("hostkey", "id"):
        if not (folder / name).exists():
            make_key(folder / name)
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "authorized_keys").write_text((folder / "id.pub").read_text())
    variables = {"TMPDIR": str(folder / "tmp")} | dict(environment)
    (folder / "sshd_config").write_text(
        "\n".join(
            [
                f"Port {port}",
                f"ListenAddress {LOCALHOST}",
                f"HostKey {folder}/hostkey",
                "PidFile none",
                f"AuthorizedKeysFile {folder}/authorized_keys",
                "StrictModes no",
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                "UsePAM no",
                "PermitRootLogin prohibit-password",
                "Subsystem sftp internal-sftp",
                "SetEnv " + " ".join(f'{name}="{value}"' for name, value in variables.items()),
                *extra,
            ]
        )
        + "\n"
    )
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/id\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
        "  GlobalKnownHostsFile /dev/null\n"
    )


@contextlib.contextmanager
def running_sshd(
    folder: Path, environment: Mapping[str, str] | None = None, extra: Sequence[str] = ()
) -> Iterator[Sshd]:
    """Start a server in a folder; it is ended with the block, its sessions too.

    Args:
        folder: Keys, configuration and log; made if it is missing.
        environment: Of every session, besides TMPDIR.
        extra: Lines for sshd_config.
    """
    program = shutil.which("sshd", path=SEARCH_PATH)
    assert program is not None, "sshd is missing (Debian: openssh-server)"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    _write_files(folder, port, environment or {}, extra)
    # A full path is what sshd itself demands: it starts itself again for every connection.
    command = [program, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "sshd.log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    server = Sshd(folder, port, process)
    try:
        _wait_until_listening(server)
        server.trust(port)
        yield server
    finally:
        for child in children_of(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        process.terminate()
        process.wait(timeout=10)


def _wait_until_listening(server: Sshd) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((LOCALHOST, server.port), timeout=1):
            return
        if server.process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError("sshd did not start: " + (server.folder / "sshd.log").read_text())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait up to half a minute for something that happens in another process."""
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within 30 s: {what}")


def children_of(pid: int) -> list[int]:
    """Process ids of the direct children."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class CuttingProxy:
    """Hands bytes between a client and a server, until told to cut the line, or to go silent without closing it.

    Args:
        target_port: Of the server, on loopback.
        cut_after_bytes: Cut it when the client has sent more than so many, over all connections.
        silent_after_bytes: Go silent then.
    """

    def __init__(
        self, target_port: int, *, cut_after_bytes: int | None = None, silent_after_bytes: int | None = None
    ) -> None:
        self._target_port = target_port
        self._left_bytes = cut_after_bytes if silent_after_bytes is None else silent_after_bytes
        self._at_the_limit = self.cut if silent_after_bytes is None else self.go_silent
        self._listener = socket.create_server((LOCALHOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._is_silent = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Close every connection at once."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def go_silent(self) -> None:
        """Hand nothing on any more, like a cable that was pulled: not even that one end has closed the connection."""
        self._is_silent.set()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=10)
        for end in self._sockets:
            end.close()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((LOCALHOST, self._target_port))
            self._sockets += [client, server]
            for source, sink, is_counted in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._hand_on, args=(source, sink, is_counted), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _hand_on(self, source: socket.socket, sink: socket.socket, is_counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_counted and self._left_bytes is not None:
                    self._left_bytes -= len(data)
                    if self._left_bytes < 0:
                        self._at_the_limit()
                if not self._is_silent.is_set():
                    sink.sendall(data)
        if not self._is_silent.is_set():
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)
