"""Whom we trust: host keys against a real OpenSSH server, and what is added to known_hosts, when, and what is said."""

import os
import re
import stat
import subprocess
import sys
import threading

import asyncssh
import click
import pytest
from click.testing import CliRunner

from edgecomp.cli_options import connection_options
from edgecomp.errors import AuthenticationError, HostKeyError
from edgecomp.transports import connect
from edgecomp.transports._known_hosts import add_known_host, listed_name
from tests.conftest import missing
from tests.sshd import LOCALHOST, fingerprint, make_key, missing_tools, running_sshd, ssh_keygen

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if missing_tools():
        missing(f"{' and '.join(missing_tools())} not installed (Debian: openssh-server, openssh-client)")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home folder without keys and configuration."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("EDGECOMP_SSH_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def trusting(path, server, key, port=None):
    """A known_hosts file at `path` that lists `key` for the server."""
    kind, data, _ = key.with_suffix(".pub").read_text().split()
    path.write_text(f"[{LOCALHOST}]:{port or server.port} {kind} {data}\n")
    return path


def works(target, **options):
    with connect(target, **options) as transport:
        return transport.run(["true"], timeout_s=20).exit_code == 0


class TestHostKeys:
    def test_unknown_key_is_refused_with_its_fingerprint(self, server, tmp_path):
        empty = tmp_path / "known_hosts"
        empty.touch()
        with pytest.raises(HostKeyError) as caught:
            connect(server.target, ssh_config=server.config, known_hosts=empty)
        assert str(caught.value).startswith(
            f"The host key of {server.target} is unknown: ssh-ed25519 {fingerprint(server.host_key)}."
        )
        assert f"ssh-keyscan -p {server.port} {LOCALHOST}" in caught.value.hint
        assert "--accept-new-host-key" in caught.value.hint
        assert empty.read_text() == ""  # Nothing is trusted on first sight.

    def test_changed_key_is_refused_with_both_fingerprints(self, server, tmp_path):
        other = make_key(tmp_path / "other")
        known = trusting(tmp_path / "known_hosts", server, other)
        with pytest.raises(HostKeyError, match="has CHANGED") as caught:
            connect(server.target, ssh_config=server.config, known_hosts=known)
        assert fingerprint(server.host_key) in caught.value.message
        assert fingerprint(other) in caught.value.message
        assert f"ssh-keygen -R '[{LOCALHOST}]:{server.port}'" in caught.value.hint

    def test_key_of_another_kind_is_a_changed_key(self, server, tmp_path):
        """known_hosts has an ECDSA key, the server an Ed25519 key only."""
        known = trusting(tmp_path / "known_hosts", server, make_key(tmp_path / "other", "ecdsa"))
        with pytest.raises(HostKeyError, match=r"has CHANGED: it shows ssh-ed25519 .* known_hosts has ecdsa-sha2"):
            connect(server.target, ssh_config=server.config, known_hosts=known)

    def test_known_kind_of_key_is_preferred(self, server, tmp_path):
        """A server with two keys, of which only the one that is asked for last by default is known."""
        folder = tmp_path / "two"
        folder.mkdir()
        rsa = make_key(folder / "hostkey2", "rsa")
        with running_sshd(folder, extra=[f"HostKey {rsa}"]) as two:
            known = trusting(tmp_path / "known_hosts", two, rsa)
            assert works(two.target, ssh_config=two.config, known_hosts=known)

    def test_revoked_key_is_refused(self, server, tmp_path):
        known = trusting(tmp_path / "known_hosts", server, server.host_key)
        known.write_text(known.read_text() + "@revoked " + known.read_text())
        with pytest.raises(HostKeyError, match="revoked"):
            connect(server.target, ssh_config=server.config, known_hosts=known)

    def test_no_configuration_switches_the_check_off(self, server, tmp_path):
        config = tmp_path / "config"
        config.write_text(
            f"Host *\n IdentityFile {server.identity}\n StrictHostKeyChecking no\n UserKnownHostsFile none\n"
        )
        with pytest.raises(HostKeyError, match="is unknown"):
            connect(server.target, ssh_config=config)

    def test_known_hosts_that_is_missing_trusts_nobody(self, server, tmp_path):
        config = tmp_path / "config"
        config.write_text(f"Host *\n IdentityFile {server.identity}\n UserKnownHostsFile {tmp_path}/absent\n")
        with pytest.raises(HostKeyError, match="is unknown"):
            connect(server.target, ssh_config=config)

    def test_hashed_names_and_damaged_lines_are_read(self, server, tmp_path):
        known = trusting(tmp_path / "known_hosts", server, server.host_key)
        ssh_keygen("-q", "-H", "-f", str(known))
        assert known.read_text().startswith("|1|")
        known.write_text("nonsense\n|1|broken|= ssh-ed25519 AAAA\n" + known.read_text())
        assert works(server.target, ssh_config=server.config, known_hosts=known)


class TestNewHostKeys:
    """`accept_new_host_key`: an unknown key is added and said, once; nothing else is let through."""

    def accept(self, target, **options):
        """Log in, accepting; returns what was said."""
        said = []
        assert works(target, accept_new_host_key=True, notify=said.append, **options)
        return said

    def line(self, server, name=None):
        kind, key, _ = server.host_key.with_suffix(".pub").read_text().split()
        return f"{name or f'[{LOCALHOST}]:{server.port}'} {kind} {key}\n"

    def test_unknown_key_is_added_and_said_and_trusted_from_then_on(self, server, tmp_path):
        known = tmp_path / "new" / "known_hosts"
        options = {"ssh_config": server.config, "known_hosts": known}
        assert self.accept(server.target, **options) == [
            f"The host key of {server.target} was unknown and is trusted from now on: "
            f"ssh-ed25519 {fingerprint(server.host_key)}, in {known}."
        ]
        assert known.read_text() == self.line(server)
        assert stat.S_IMODE(known.stat().st_mode) == 0o600
        assert stat.S_IMODE(known.parent.stat().st_mode) == 0o700
        assert works(server.target, **options)  # Strictly, without the option.
        assert self.accept(server.target, **options) == []  # Known by now: nothing is added or said.
        assert known.read_text() == self.line(server)

    def test_openssh_reads_what_was_added(self, server, tmp_path):
        known = tmp_path / "known_hosts"
        self.accept(server.target, ssh_config=server.config, known_hosts=known)
        options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}"]
        command = ["ssh", "-F", str(server.config), *(f"-o{option}" for option in options)]
        command += ["-p", str(server.port), f"{server.user}@{LOCALHOST}", "true"]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0

    def test_without_a_caller_that_listens_it_goes_to_stderr(self, server, tmp_path, capfd):
        connect(
            server.target,
            ssh_config=server.config,
            known_hosts=tmp_path / "known_hosts",
            accept_new_host_key=True,
        ).close()
        assert fingerprint(server.host_key) in capfd.readouterr().err

    def test_first_file_of_the_configuration_takes_it(self, server, tmp_path):
        config = tmp_path / "config"
        config.write_text(
            f"Host *\n IdentityFile {server.identity}\n UserKnownHostsFile {tmp_path}/first {tmp_path}/second\n"
        )
        (tmp_path / "second").write_text("# nothing yet\n")
        self.accept(server.target, ssh_config=config)
        assert (tmp_path / "first").read_text() == self.line(server)
        assert (tmp_path / "second").read_text() == "# nothing yet\n"
        (tmp_path / "first").rename(tmp_path / "second")
        assert self.accept(server.target, ssh_config=config) == []  # A key in any of them is known.

    def test_users_own_file_is_the_default(self, server, tmp_path, home):
        self.accept(server.target, identity=server.identity)
        assert (home / ".ssh" / "known_hosts").read_text() == self.line(server)
        assert stat.S_IMODE((home / ".ssh").stat().st_mode) == 0o700

    def test_alias_of_the_configuration_is_the_name(self, server, tmp_path):
        config = tmp_path / "config"
        config.write_text(
            f"Host board\n HostName {LOCALHOST}\n Port {server.port}\n User {server.user}\n HostKeyAlias the-board\n"
            f" IdentityFile {server.identity}\n UserKnownHostsFile {tmp_path}/known_hosts\n"
        )
        self.accept("board", ssh_config=config)
        assert (tmp_path / "known_hosts").read_text() == self.line(server, "the-board")  # As OpenSSH: without a port.
        assert works("board", ssh_config=config)

    def test_jump_host_is_added_as_well(self, server, tmp_path):
        known = tmp_path / "known_hosts"
        with running_sshd(tmp_path / "inner") as inner:
            config = tmp_path / "config"
            config.write_text(
                f"Host inner\n HostName {LOCALHOST}\n Port {inner.port}\n IdentityFile {inner.identity}\n"
                f" ProxyJump {server.target}\nHost *\n IdentityFile {server.identity}\n UserKnownHostsFile {known}\n"
            )
            said = self.accept("inner", ssh_config=config)
            assert [text.split()[4] for text in said] == [server.target, f"{inner.user}@{LOCALHOST}:{inner.port}"]
            assert known.read_text() == self.line(server) + self.line(inner)
            assert works("inner", ssh_config=config)

    def test_changed_key_stays_an_error(self, server, tmp_path):
        known = trusting(tmp_path / "known_hosts", server, make_key(tmp_path / "other"))
        before = known.read_bytes()
        with pytest.raises(HostKeyError, match="has CHANGED"):
            connect(server.target, ssh_config=server.config, known_hosts=known, accept_new_host_key=True)
        assert known.read_bytes() == before

    @pytest.mark.parametrize("name", ["the host's", "any"])
    def test_revoked_key_stays_an_error(self, server, tmp_path, name):
        known = tmp_path / "known_hosts"
        known.write_text("@revoked " + self.line(server, "*" if name == "any" else None))
        before = known.read_bytes()
        with pytest.raises(HostKeyError, match="revoked"):
            connect(server.target, ssh_config=server.config, known_hosts=known, accept_new_host_key=True)
        assert known.read_bytes() == before

    def test_other_port_of_a_known_machine_is_new(self, server, tmp_path):
        """As with OpenSSH: boards behind one address are told apart by port."""
        other = make_key(tmp_path / "other")
        known = tmp_path / "known_hosts"
        known.write_text(f"{LOCALHOST} {other.with_suffix('.pub').read_text()}")
        with pytest.raises(HostKeyError, match="is unknown"):
            connect(server.target, ssh_config=server.config, known_hosts=known)
        self.accept(server.target, ssh_config=server.config, known_hosts=known)
        assert known.read_text().endswith("\n" + self.line(server))

    def test_certificate_of_an_authority_that_nobody_knows_hides_no_key(self, tmp_path):
        folder = tmp_path / "certified"
        folder.mkdir()
        authority = make_key(tmp_path / "authority")
        make_key(folder / "hostkey")
        ssh_keygen("-q", "-s", str(authority), "-h", "-I", "board", str(folder / "hostkey.pub"))
        with running_sshd(folder, extra=[f"HostCertificate {folder}/hostkey-cert.pub"]) as certified:
            options = {"ssh_config": certified.config, "known_hosts": tmp_path / "known_hosts"}
            self.accept(certified.target, **options)
            (tmp_path / "known_hosts").write_text(f"@cert-authority * {(tmp_path / 'authority.pub').read_text()}")
            assert works(certified.target, **options)

    def test_nothing_is_added_where_nobody_may_log_in(self, server, tmp_path):
        known = tmp_path / "known_hosts"
        with pytest.raises(AuthenticationError):
            connect(
                server.target,
                ssh_config=server.config,
                known_hosts=known,
                identity=make_key(tmp_path / "wrong"),
                accept_new_host_key=True,
            )
        assert not known.exists()

    def test_file_that_cannot_be_written_is_one_sentence(self, server, tmp_path):
        known = tmp_path / "known_hosts"
        known.touch(0o400)
        if os.geteuid() == 0:  # Root writes anyway; nobody writes there.
            known = "/proc/known_hosts"
        self.check_refused(server, known, re.escape(fingerprint(server.host_key)))

    def test_folder_that_is_a_file_is_one_sentence(self, server, tmp_path):
        (tmp_path / "file").touch()
        self.check_refused(server, tmp_path / "file" / "known_hosts", "cannot be added to .*/file/known_hosts: ")

    def test_device_file_is_no_known_hosts(self, server):
        self.check_refused(server, "/dev/null", "cannot be added to /dev/null: it is not a file")

    def check_refused(self, server, known, message):
        config = server.folder / "refused_config"
        config.write_text(f"Host *\n IdentityFile {server.identity}\n UserKnownHostsFile {known}\n")
        said = []
        with pytest.raises(HostKeyError, match=message) as caught:
            connect(server.target, ssh_config=config, accept_new_host_key=True, notify=said.append)
        assert "\n" not in str(caught.value)
        assert said == []

    def test_configuration_without_a_file_is_one_sentence(self, server, tmp_path):
        config = tmp_path / "config"
        config.write_text(f"Host *\n IdentityFile {server.identity}\n UserKnownHostsFile none\n")
        with pytest.raises(HostKeyError, match="the SSH configuration has no known_hosts file"):
            connect(server.target, ssh_config=config, accept_new_host_key=True)

    def test_options_of_the_command_line(self, server, tmp_path):
        @click.command()
        @connection_options
        def log_in(**options):
            works(server.target, ssh_config=server.config, **options)

        known = tmp_path / "known_hosts"
        arguments = ["--known-hosts", str(known), "--identity", str(server.identity), "--connect-timeout", "10s"]
        known.touch()
        refused = CliRunner().invoke(log_in, arguments)
        assert "--accept-new-host-key" in refused.exception.hint
        assert CliRunner().invoke(log_in, [*arguments, "--accept-new-host-key"]).exit_code == 0
        assert known.read_text() == self.line(server)


class TestKnownHostsFile:
    """What is in the file stays in it."""

    def key(self, folder, name="key"):
        return asyncssh.read_public_key(f"{make_key(folder / name)}.pub")

    def test_lines_that_are_there_stay_and_a_torn_one_stays_alone(self, tmp_path):
        known = tmp_path / "known_hosts"
        known.write_bytes(b"# mine\nboard ssh-ed25519 AAA")  # A crash, or an editor, left out the newline.
        add_known_host(known, "other", self.key(tmp_path))
        lines = known.read_bytes().splitlines()
        assert lines[:2] == [b"# mine", b"board ssh-ed25519 AAA"]
        assert lines[2].startswith(b"other ssh-ed25519 ")
        assert known.read_bytes().endswith(b"\n")

    def test_link_stays_a_link(self, tmp_path):
        (tmp_path / "real").write_text("")
        (tmp_path / "known_hosts").symlink_to(tmp_path / "real")
        add_known_host(tmp_path / "known_hosts", "board", self.key(tmp_path))
        assert (tmp_path / "known_hosts").is_symlink()
        assert (tmp_path / "real").read_text().startswith("board ")

    def test_many_at_a_time_lose_nothing_and_repeat_nothing(self, tmp_path):
        """16 devices of a fleet, each added twice at the same moment: 16 lines."""
        key = self.key(tmp_path)
        start = threading.Barrier(32)

        def add(name):
            start.wait()
            add_known_host(tmp_path / "known_hosts", name, key)

        threads = [threading.Thread(target=add, args=(f"board{index // 2}",)) for index in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        names = [line.split()[0] for line in (tmp_path / "known_hosts").read_text().splitlines()]
        assert sorted(names) == sorted(f"board{index}" for index in range(16))

    def test_full_disk_loses_no_line(self, tmp_path):
        """A limit of file size stands in for the disk: after 10 bytes of the new line there is no room."""
        known = tmp_path / "known_hosts"
        before = b"x" * 4000 + b"\n"
        known.write_bytes(before)
        code = (
            "import asyncssh, pathlib, resource, signal, sys\n"
            "from edgecomp.transports._known_hosts import add_known_host\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (4011, 4011))\n"
            "try: add_known_host(pathlib.Path(sys.argv[1]), 'board', asyncssh.read_public_key(sys.argv[2]))\n"
            "except OSError as error: print(error.strerror)\n"
        )
        key = make_key(tmp_path / "key")
        result = subprocess.run(
            [sys.executable, "-c", code, str(known), f"{key}.pub"], check=True, capture_output=True, text=True
        )
        assert result.stdout == "No space left on device\n"
        assert known.read_bytes() == before + b"board ssh-"
        add_known_host(known, "other", self.key(tmp_path, "other"))
        assert known.read_bytes().splitlines()[2].startswith(b"other ssh-ed25519 ")


@pytest.mark.parametrize(
    ("host", "port", "alias", "name"),
    [
        ("board", 22, None, "board"),
        ("board", 2222, None, "[board]:2222"),
        ("::1", 22, None, "::1"),
        ("::1", 2222, None, "[::1]:2222"),
        ("10.0.0.5", 2222, "board", "board"),
    ],
)
def test_names_are_openssh_names(host, port, alias, name):
    assert listed_name(host, port, alias) == name
