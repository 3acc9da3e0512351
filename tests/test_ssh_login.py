"""Logging in over SSH against a real OpenSSH server: what we offer, where we go, and what we say when it fails.

Whom we trust is tested in test_ssh_host_keys.py.
"""

import contextlib
import logging
import shutil
import socket
import struct
import subprocess
import threading
import time
import traceback

import asyncssh
import pytest

from edgecomp.errors import AuthenticationError, ConnectError, HostKeyError, TransportError, UsageError
from edgecomp.transports import _ssh_login, connect
from edgecomp.transports._ssh_config import Address, parse_address
from tests.conftest import missing
from tests.sshd import (
    LOCALHOST,
    SEARCH_PATH,
    CuttingProxy,
    free_port,
    make_key,
    missing_tools,
    running_sshd,
    ssh_keygen,
)

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if missing_tools():
        missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_keys_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("EDGECOMP_SSH_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".ssh").mkdir(parents=True)


@contextlib.contextmanager
def ssh_agent(socket_path, key):
    """A running SSH agent that has one key."""
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_path)], stdout=subprocess.DEVNULL)
    try:
        while not socket_path.exists():
            assert agent.poll() is None
            time.sleep(0.05)
        environment = {"SSH_AUTH_SOCK": str(socket_path), "PATH": SEARCH_PATH}
        subprocess.run(["ssh-add", "-q", str(key)], check=True, env=environment)
        yield str(socket_path)
    finally:
        agent.terminate()
        agent.wait(timeout=10)


def works(target, **options):
    with connect(target, **options) as transport:
        return transport.run(["true"], timeout_s=20).exit_code == 0


class TestKeys:
    def test_wrong_key_is_refused_without_being_shown(self, server, tmp_path):
        wrong = make_key(tmp_path / "wrong")
        with pytest.raises(AuthenticationError) as caught:
            connect(server.target, ssh_config=server.config, identity=wrong)
        assert caught.value.message == f"{server.target} refused every key that was offered."
        assert wrong.read_text().splitlines()[1] not in str(caught.value)

    def test_named_key_is_the_only_one_offered(self, server, tmp_path):
        """The right key lies where it is found by default, and in the configuration."""
        home = tmp_path / "home" / ".ssh"
        shutil.copy(server.identity, home / "id_ed25519")
        with pytest.raises(AuthenticationError, match="refused every key"):
            connect(server.target, ssh_config=server.config, identity=make_key(tmp_path / "wrong"))

    def test_key_with_a_passphrase_asks_nobody(self, server, tmp_path):
        locked = make_key(tmp_path / "locked", passphrase="five words nobody would guess")
        with pytest.raises(AuthenticationError, match=r"refused every key .* \(ssh-add\)"):
            connect(server.target, ssh_config=server.config, identity=locked)

    def test_key_with_a_passphrase_comes_from_the_agent(self, server, tmp_path, monkeypatch):
        locked = tmp_path / "locked"
        for name in ("id", "id.pub"):
            shutil.copy(server.folder / name, locked.with_suffix(".pub" if name.endswith("pub") else ""))
        with ssh_agent(tmp_path / "agent", server.identity) as socket_path:
            ssh_keygen("-q", "-p", "-N", "five words nobody would guess", "-f", str(locked))
            monkeypatch.setenv("SSH_AUTH_SOCK", socket_path)
            assert works(server.target, ssh_config=server.config, identity=locked)

    def test_file_that_is_no_key(self, server, tmp_path):
        (tmp_path / "no-key").write_text("hello")
        with pytest.raises(
            AuthenticationError, match="no-key is not a private key that can be used: Invalid private key"
        ):
            connect(server.target, ssh_config=server.config, identity=tmp_path / "no-key")

    @pytest.mark.parametrize("option", ["identity", "ssh_config", "known_hosts"])
    def test_file_that_is_missing_is_named(self, server, tmp_path, option):
        options = {"ssh_config": server.config, option: tmp_path / "absent"}
        with pytest.raises(UsageError, match=r"absent cannot be read"):
            connect(server.target, **options)


class TestConfiguration:
    def test_alias_port_user_and_identity(self, server, tmp_path):
        config = tmp_path / "config"
        config.write_text(
            f"Host board\n HostName {LOCALHOST}\n Port {server.port}\n User {server.user}\n"
            f" IdentityFile {server.identity}\n IdentityFile {tmp_path}/absent\n"
            f" UserKnownHostsFile {tmp_path}/absent {server.known_hosts}\n"
        )
        with connect("board", ssh_config=config) as transport:
            assert transport.host == server.target  # Where it really is, not its alias.

    def test_the_users_own_files_are_the_default(self, server, tmp_path):
        home = tmp_path / "home" / ".ssh"
        shutil.copy(server.known_hosts, home / "known_hosts")
        shutil.copy(server.identity, home / "id_ed25519")
        assert works(server.target)
        (home / "config").write_text(f"Host *\n HostKeyAlias other\n UserKnownHostsFile {home}/known_hosts\n")
        with pytest.raises(HostKeyError, match="is unknown"):
            connect(server.target)  # The configuration is read: the key is known for the address, not for the alias.

    def test_environment_names_the_configuration(self, server, monkeypatch):
        monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(server.config))
        assert works(server.target)

    def test_configuration_of_the_environment_that_is_missing(self, server, monkeypatch, tmp_path):
        monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(tmp_path / "absent"))
        with pytest.raises(UsageError, match="EDGECOMP_SSH_CONFIG"):
            connect(server.target)

    def test_configuration_that_is_nonsense(self, server, tmp_path):
        config = tmp_path / "config"
        config.write_text("Host *\n Port many\n")
        with pytest.raises(UsageError, match=r"line 2: Invalid Port integer value: many"):
            connect(server.target, ssh_config=config)

    def test_pseudo_terminal_and_command_of_the_configuration_are_ignored(self, server, tmp_path):
        """Either would mix other bytes into what a command prints."""
        config = tmp_path / "config"
        config.write_text(server.config.read_text() + "  RequestTTY force\n  RemoteCommand echo other\n")
        with connect(server.target, ssh_config=config) as transport:
            assert transport.run(["printf", "a\\n"], timeout_s=20).stdout == b"a\n"

    def test_jump_host_is_used_and_verified(self, server, tmp_path):
        with running_sshd(tmp_path / "inner") as inner:
            config = tmp_path / "config"
            config.write_text(
                f"Host inner\n HostName {LOCALHOST}\n Port {inner.port}\n IdentityFile {inner.identity}\n"
                f" UserKnownHostsFile {inner.known_hosts}\n ProxyJump {server.target}\n" + server.config.read_text()
            )
            assert works("inner", ssh_config=config)
            config.write_text(config.read_text().replace(str(server.known_hosts), str(tmp_path / "absent")))
            with pytest.raises(HostKeyError, match=f"host key of {server.target} is unknown"):
                connect("inner", ssh_config=config)

    def test_jump_hosts_in_a_circle(self, server, tmp_path):
        config = tmp_path / "config"
        config.write_text("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
        with pytest.raises(ConnectError, match="more than 5 jump hosts"):
            connect("a", ssh_config=config)


class TestUnreachable:
    def test_refused_port(self, server):
        port = free_port()
        with pytest.raises(ConnectError, match=rf"{LOCALHOST}:{port} refuses connections on port {port}"):
            connect(f"{server.user}@{LOCALHOST}:{port}", ssh_config=server.config)

    def test_name_of_no_host(self, server):
        with pytest.raises(ConnectError, match="there is no host of that name"):
            connect("no-such-host.invalid", ssh_config=server.config)

    @pytest.mark.parametrize(
        ("greeting", "hangs_up", "message"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, "does not answer like an SSH server"),
            (b"220 mail\r\n", False, "did not answer within 1 s"),
            (b"SSH-1.5-old\r\n", False, "does not answer like an SSH server"),
            (b"SSH-2.0-x\r\n" + b"\xff" * 100, False, "does not answer like an SSH server"),
            (b"", False, "did not answer within 1 s"),
            (b"", True, "does not answer like an SSH server"),
        ],
    )
    def test_port_of_another_service(self, server, greeting, hangs_up, message):
        with answering(greeting, hangs_up) as port, pytest.raises(ConnectError, match=message):
            connect(f"{LOCALHOST}:{port}", ssh_config=server.config, connect_timeout_s=1)

    @pytest.mark.parametrize("fault", ["cut", "go_silent"])
    def test_lost_connection_is_noticed(self, server, fault, monkeypatch):
        """A line that was cut at once, a cable that was pulled after three keep-alive intervals (0.6 s here)."""
        monkeypatch.setattr(_ssh_login, "KEEPALIVE_INTERVAL_S", 0.2)
        with CuttingProxy(server.port) as proxy:
            server.trust(proxy.port)
            with connect(f"{server.user}@{LOCALHOST}:{proxy.port}", ssh_config=server.config) as transport:
                start = time.monotonic()
                with pytest.raises(TransportError, match=rf"connection to .*:{proxy.port} was lost"):
                    transport.run(
                        ["sh", "-c", "echo started; exec cat"],
                        timeout_s=600,
                        hold_stdin=True,
                        on_line=lambda _: getattr(proxy, fault)(),
                    )
                assert time.monotonic() - start < 300  # Noticed, rather than waited for to the time limit.
                with pytest.raises(TransportError, match="was lost"):
                    transport.run(["true"], timeout_s=20)

    def test_closed_transport_says_so(self, server):
        transport = connect(server.target, ssh_config=server.config)
        transport.close()
        with pytest.raises(TransportError, match="is closed"):
            transport.run(["true"], timeout_s=20)


@contextlib.contextmanager
def answering(greeting, hangs_up):
    """A port that greets everyone and says nothing more."""
    listener = socket.create_server((LOCALHOST, 0))
    accepted = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                accepted.append(client)
                client.sendall(greeting)
                if hangs_up:
                    client.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for client in accepted:
            client.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("board", Address("board")),
        ("pi@board", Address("board", "pi")),
        ("pi@board:2222", Address("board", "pi", 2222)),
        ("[::1]", Address("::1")),
        ("pi@[fe80::1%eth0]:22", Address("fe80::1%eth0", "pi", 22)),
        ("a@b@board", Address("board", "a@b")),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pi@", "A host looks like"),
        ("@board", "A host looks like"),
        (":22", "A host looks like"),
        ("-oProxyCommand=x", "A host looks like"),
        ("-l@board", "A host looks like"),
        ("my board", "A host looks like"),
        ("[::1", "A host looks like"),
        ("[::1]22", "A host looks like"),
        ("::1", "in brackets"),
        ("board:", "A port is a number from 1 to 65535, got ''"),
        ("board:0", "got '0'"),
        ("board:65536", "got '65536'"),
        ("board:ssh", "got 'ssh'"),
        ("board:²", "got '²'"),
    ],
)
def test_addresses_that_are_none(text, message):
    with pytest.raises(UsageError, match=message):
        parse_address(text)


def disconnect(reason):
    """The greeting of a server that says goodbye at once (RFC 4253, section 11.1): nothing is encrypted yet."""
    text = reason.encode()
    payload = bytes([1]) + struct.pack(">II", 2, len(text)) + text + struct.pack(">I", 0)
    padding = 8 - (len(payload) + 5) % 8 + 8
    packet = struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)
    return b"SSH-2.0-x\r\n" + packet


@pytest.mark.parametrize(
    "greeting",
    [
        disconnect("\x1b[31mgo away\x1b]0;owned\x07\r\n\u202enow"),
        b"SSH-1.5-\x1b[31mold\x07\r\n",
        b"\x1b[2J\x1b[31m\r\n" * 5000,
        b"SSH-2.0-" + b"\x1b" * 100_000,
    ],
    ids=["goodbye", "version", "banner", "long version"],
)
def test_what_a_hostile_server_says_is_harmless(server, greeting):
    with answering(greeting, True) as port, pytest.raises(ConnectError) as caught:
        connect(f"{LOCALHOST}:{port}", ssh_config=server.config, connect_timeout_s=5)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600


def test_nothing_that_is_secret_is_said(server, tmp_path, caplog, capfd, monkeypatch):
    """Every way to fail with a key, with the library's log at its most talkative: no line of a key, no passphrase."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(asyncssh.logging.SSHLogger, "_debug_level", 2)
    passphrase = "five words nobody would guess"
    wrong = make_key(tmp_path / "wrong")
    locked = make_key(tmp_path / "locked", passphrase=passphrase)
    damaged = tmp_path / "damaged"
    damaged.write_text("\n".join(wrong.read_text().splitlines()[:3]))
    other = make_key(tmp_path / "other", "rsa")
    config = tmp_path / "config"
    config.write_text(server.config.read_text() + f"  # {passphrase}\n")
    failures = []
    for options in (
        {"identity": wrong},
        {"identity": locked},
        {"identity": damaged},
        {"identity": other},
        {"identity": server.identity, "known_hosts": tmp_path / "wrong.pub"},
    ):
        try:
            connect(server.target, ssh_config=config, **options).close()
        except TransportError as error:
            failures.append("".join(traceback.format_exception(error)) + repr(error) + str(error))
    assert len(failures) == 5
    assert "auth" in caplog.text.lower()  # The log is there to be looked at.
    said = "\n".join([*failures, caplog.text, *capfd.readouterr()])
    assert passphrase not in said
    for key in (wrong, locked, other, server.identity):
        for line in key.read_text().splitlines()[1:-1]:
            assert line not in said, f"a line of {key.name}"
