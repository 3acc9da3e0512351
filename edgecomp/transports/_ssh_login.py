"""Logging in over SSH: strictly verified host keys, no questions, and errors that say what to do next."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace

import asyncssh

from edgecomp.errors import (
    AuthenticationError,
    ConnectError,
    EdgecompError,
    HostKeyError,
    TransportError,
    UsageError,
)
from edgecomp.transports._base import ConnectOptions
from edgecomp.transports._ssh_config import DEFAULT_PORT, Address, Login, parse_address, resolve

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
    """Refuses every host key that is not in known_hosts, and remembers it for the message."""

    def __init__(self) -> None:
        self.refused: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        self.refused = key
        return False


def _trusted_keys(login: Login) -> tuple[Sequence[asyncssh.SSHKey], ...]:
    """Host keys, keys of authorities, revoked keys: those of the host's name only.

    asyncssh would take a key that is listed for the address alone as well, whatever the name; OpenSSH does not.
    """
    port = None if login.port == DEFAULT_PORT else login.port
    return login.known_hosts.match(login.key_name, "", port)[:3]


def _kinds_of_keys(login: Login) -> str | tuple[()]:
    """Kinds of host keys to ask for: those that are known first, then all, so that a changed key can be shown.

    Asked for the known kinds only, a server that has none of them hangs up; () leaves it to the configuration.
    """
    known = _trusted_keys(login)[0]
    if not known or login.has_host_key_algorithms:
        return ()
    return ",".join([name.decode() for key in known for name in key.sig_algorithms] + list(_ALL_KINDS_OF_KEYS))


async def _open(
    login: Login, options: ConnectOptions, tunnel: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    client = _Client()
    agent_keys = [path + ".pub" for path in login.identities or () if os.access(path + ".pub", os.R_OK)]
    try:
        return await asyncssh.connect(
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


def _explain(error: Exception, login: Login, client: _Client, options: ConnectOptions) -> EdgecompError:
    """What went wrong, in one sentence that names host, port and user only, and what to do next."""
    where = login.label
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _explain_host_key(login, client.refused, _trusted_keys(login)[0], error)
    if isinstance(error, asyncssh.PermissionDenied):
        return AuthenticationError(
            f"{where} refused every key that was offered.",
            hint=f"Check that `{login.command}` logs in without a question: the public key belongs into "
            "~/.ssh/authorized_keys there, and a key with a passphrase into the SSH agent (ssh-add).",
        )
    if isinstance(error, asyncssh.KeyImportError | asyncssh.KeyEncryptionError):
        return AuthenticationError(f"The private key for {where} cannot be used: {str(error).rstrip('.')}.")
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
        return ConnectError(f"The jump host cannot reach {where}: {error.reason}.")
    if isinstance(error, asyncssh.Error):
        return ConnectError(f"{where} does not answer like an SSH server: {error.reason.rstrip('.')}.")
    if isinstance(error, OSError):
        return ConnectError(f"{where} cannot be reached: {error.strerror or error}.")
    return UsageError(f"The SSH configuration for {where} cannot be used: {error}.")


def _explain_host_key(
    login: Login, offered: asyncssh.SSHKey | None, known: Iterable[asyncssh.SSHKey], error: asyncssh.Error
) -> TransportError:
    if offered is None:
        return HostKeyError(f"The host key of {login.label} cannot be trusted: {error.reason.rstrip('.')}.")
    shown = _show(offered)
    listed = [_show(key) for key in known]
    if listed:
        name = login.key_name if login.port == DEFAULT_PORT else f"[{login.key_name}]:{login.port}"
        return HostKeyError(
            f"The host key of {login.label} has CHANGED: it shows {shown}, known_hosts has {' and '.join(listed)}.",
            hint="Another machine may be answering in its place. If the device was set up anew, remove the old key "
            f"with `ssh-keygen -R '{name}'` and check the new one.",
        )
    return HostKeyError(
        f"The host key of {login.label} is unknown: {shown}.",
        hint="Compare it with `ssh-keygen -lf` of the device's own /etc/ssh/ssh_host_*_key.pub; if it is the same, "
        f"connect once with `{login.command}`, or add the line that `ssh-keyscan -p {login.port} {login.host}` "
        "prints to known_hosts.",
    )


def _show(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
