"""Logging in over SSH: strictly verified host keys, no questions, and errors that say what to do next."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import replace

import asyncssh

from edgecomp.errors import (
    AuthenticationError,
    ConnectError,
    EdgecompError,
    HostKeyError,
    UsageError,
)
from edgecomp.plain_text import one_line
from edgecomp.transports._base import ConnectOptions
from edgecomp.transports._known_hosts import add_known_host
from edgecomp.transports._ssh_config import Address, Login, parse_address, resolve

# Two answers missed at this interval and the link is dead: noticed after 9 s.
KEEPALIVE_INTERVAL_S = 3
KEEPALIVE_COUNT = 2
_MOST_JUMPS = 5
_ALL_KINDS_OF_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp*", "rsa-sha2-*")


async def log_in(
    address: Address, options: ConnectOptions, tunnel: asyncssh.SSHClientConnection | None = None, depth: int = 0
) -> tuple[Login, list[asyncssh.SSHClientConnection]]:
    """Connect to a host, through its jump hosts where the configuration names any.

    Returns:
        What was logged in to, and the connections that were opened on the way, the host's own last.

    Raises:
        ConnectError, HostKeyError, AuthenticationError, UsageError: See `edgecomp.transports.connect`.
    """
    login = resolve(address, options)
    opened: list[asyncssh.SSHClientConnection] = []
    try:
        if tunnel is None and login.jumps:
            if depth == _MOST_JUMPS:
                raise ConnectError(f"{login.label} is behind more than {_MOST_JUMPS} jump hosts: is ProxyJump a loop?")
            # As with OpenSSH, the key named for the device is not offered to the hosts on the way.
            hop_options = replace(options, identity=None)
            for jump in login.jumps:
                hop = parse_address(jump.removeprefix("ssh://"))
                _, connections = await log_in(hop, hop_options, tunnel, depth + 1)
                opened += connections
                tunnel = connections[-1]
        opened.append(await _open(login, options, tunnel))
    except BaseException:
        close_all(opened)
        raise
    return login, opened


def close_all(connections: Sequence[asyncssh.SSHClientConnection]) -> None:
    """Close connections, the last one first: the others carry it."""
    for connection in reversed(connections):
        connection.close()


class _Client(asyncssh.SSHClient):
    """Decides about a host key that is not in known_hosts, and remembers it for what is said.

    Args:
        accepts_new: Accept one key, the same one whenever the keys are exchanged anew.
    """

    def __init__(self, accepts_new: bool) -> None:
        self._accepts_new = accepts_new
        self.accepted: asyncssh.SSHKey | None = None
        self.refused: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        if self._accepts_new and self.accepted in (None, key):
            self.accepted = key
            return True
        self.refused = key
        return False


_Keys = tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]


def _listed_keys(login: Login, name: str) -> _Keys:
    """Host keys, keys of authorities, revoked keys: those of the host's name only.

    asyncssh would take a key that is listed for the address alone as well, whatever the name; OpenSSH does not.
    """
    return login.known_hosts.match(name, "", None)[:3]


def _trusted_keys(login: Login) -> _Keys:
    """As OpenSSH has it: a key of the bare host is good for another port of it while that port has none of its own."""
    keys, authorities, revoked = _listed_keys(login, login.listed_name)
    if login.other_listed_name is not None and not keys and not authorities:
        keys, authorities, others = _listed_keys(login, login.other_listed_name)
        revoked = [*revoked, *others]
    return keys, authorities, revoked


def _kinds_of_keys(login: Login) -> str | tuple[()]:
    """Kinds of host keys to ask for: those that are known first, then all, so that a changed key can be shown.

    Asked for the known kinds only, a server that has none of them hangs up; () leaves it to the configuration. Nobody
    asks for certificates unless an authority is known: one that cannot be checked would hide the plain key.
    """
    known, authorities, _ = _trusted_keys(login)
    if login.has_host_key_algorithms or (authorities and not known):
        return ()
    return ",".join([name.decode() for key in known for name in key.sig_algorithms] + list(_ALL_KINDS_OF_KEYS))


async def _open(
    login: Login, options: ConnectOptions, tunnel: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    client = _Client(options.accept_new_host_key and not _listed_keys(login, login.listed_name)[0])
    agent_keys = [path + ".pub" for path in login.identities or () if os.access(path + ".pub", os.R_OK)]
    try:
        connection = await asyncssh.connect(
            login.alias,
            login.port,
            username=login.user,
            tunnel=tunnel,
            config=list(login.config_paths),
            client_factory=lambda: client,
            known_hosts=lambda *_: _trusted_keys(login),
            server_host_key_algs=_kinds_of_keys(login),
            client_keys=() if login.identities is None else list(login.identities),
            ignore_encrypted=True,  # Nobody is asked for a passphrase; the agent may have the key.
            agent_path=None if login.is_only_these and not agent_keys else (),
            agent_identities=agent_keys if login.is_only_these and agent_keys else None,
            preferred_auth="publickey",
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            pkcs11_provider=None,
            agent_forwarding=False,
            x11_forwarding=False,
            request_pty=False,
            command=None,
            connect_timeout=options.connect_timeout_s,
            login_timeout=options.connect_timeout_s + 5,  # The other limit is the one that shows.
            keepalive_interval=KEEPALIVE_INTERVAL_S,
            keepalive_count_max=KEEPALIVE_COUNT,
        )
    except (OSError, ValueError, asyncssh.Error) as error:
        raise _explain(error, login, client, options) from error
    if client.accepted is not None:
        try:
            _trust(login, client.accepted, options)
        except BaseException:
            connection.close()
            raise
    return connection


def _trust(login: Login, key: asyncssh.SSHKey, options: ConnectOptions) -> None:
    """Add a key that was accepted to known_hosts, now that its owner has proven to have it, and say so."""
    path = login.new_keys_path
    if path is None:
        raise HostKeyError(
            f"The host key of {login.label} is unknown ({_show(key)}) and cannot be added: the SSH configuration has "
            "no known_hosts file.",
            hint="Name one with --known-hosts, or in place of `UserKnownHostsFile none`.",
        )
    try:
        add_known_host(path, login.listed_name, key)
    except OSError as error:
        raise HostKeyError(
            f"The host key of {login.label} is unknown ({_show(key)}) and cannot be added to {path}: "
            f"{error.strerror or error}.",
            hint="Make the file writable, or name another one with --known-hosts.",
        ) from error
    options.notify(f"The host key of {login.label} was unknown and is trusted from now on: {_show(key)}, in {path}.")


def _explain(error: Exception, login: Login, client: _Client, options: ConnectOptions) -> EdgecompError:
    """What went wrong, in one sentence that names host, port and user only, and what to do next."""
    where = login.label
    # Some of it the other side wrote.
    reason = one_line(getattr(error, "reason", None) or str(error)).rstrip(".")
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _explain_host_key(login, client.refused, error)
    if isinstance(error, asyncssh.PermissionDenied):
        return AuthenticationError(
            f"{where} refused every key that was offered.",
            hint=f"Check that `{login.command}` logs in without a question: the public key belongs into "
            "~/.ssh/authorized_keys there, and a key with a passphrase into the SSH agent (ssh-add).",
        )
    if isinstance(error, asyncssh.KeyImportError | asyncssh.KeyEncryptionError):
        return AuthenticationError(f"The private key for {where} cannot be used: {reason}.")
    if isinstance(error, TimeoutError):
        return ConnectError(
            f"{where} did not answer within {options.connect_timeout_s:g} s.",
            hint="Is it on, in this network, and an SSH server?",
        )
    if isinstance(error, socket.gaierror):
        return ConnectError(f"{where}: there is no host of that name.", hint="Check the name, or use the address.")
    if isinstance(error, ConnectionRefusedError) or f"Errno {errno.ECONNREFUSED}]" in str(error):
        return ConnectError(
            f"{where} refuses connections on port {login.port}.", hint="Does an SSH server run there, on that port?"
        )
    if isinstance(error, asyncssh.ChannelOpenError):
        return ConnectError(f"The jump host cannot reach {where}: {reason}.")
    if isinstance(error, asyncssh.Error):
        return ConnectError(f"{where} does not answer like an SSH server: {reason}.")
    if isinstance(error, OSError):
        return ConnectError(f"{where} cannot be reached: {error.strerror or error}.")
    return UsageError(f"The SSH configuration for {where} cannot be used: {reason}.")


def _explain_host_key(login: Login, offered: asyncssh.SSHKey | None, error: asyncssh.Error) -> HostKeyError:
    if offered is None:
        return HostKeyError(f"The host key of {login.label} cannot be trusted: {one_line(error.reason.rstrip('.'))}.")
    listed = [_show(key) for key in _listed_keys(login, login.listed_name)[0]]
    if listed:
        return HostKeyError(
            f"The host key of {login.label} has CHANGED: it shows {_show(offered)}, known_hosts has "
            f"{' and '.join(listed)}.",
            hint="Another machine may be answering in its place. If the device was set up anew, remove the old key "
            f"with `ssh-keygen -R '{login.listed_name}'` and check the new one.",
        )
    return HostKeyError(
        f"The host key of {login.label} is unknown: {_show(offered)}.",
        hint="Compare it with `ssh-keygen -lf` of the device's own /etc/ssh/ssh_host_*_key.pub; if it is the same, add "
        f"it to known_hosts with --accept-new-host-key, or connect once with `{login.command}`, or add the line that "
        f"`ssh-keyscan -p {login.port} {login.host}` prints.",
    )


def _show(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
