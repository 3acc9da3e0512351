"""Which host an SSH target means, with the user's own OpenSSH configuration applied.

asyncssh reads ~/.ssh/config, but three of its defaults are not OpenSSH's: "UserKnownHostsFile none" switches
verification off, a known_hosts or identity file that does not exist is an error, and jump hosts are opened with
those same defaults. So the files and the jumps are resolved here and handed over explicitly.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import asyncssh
from asyncssh.config import SSHClientConfig, SSHConfig

from edgecomp.errors import AuthenticationError, UsageError
from edgecomp.transports._base import ConnectOptions
from edgecomp.transports._known_hosts import DEFAULT_PORT, listed_name, read_known_hosts

CONFIG_VARIABLE = "EDGECOMP_SSH_CONFIG"
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
# A ProxyCommand may hand host and user to a shell, and a fleet.toml may come from anybody; OpenSSH refuses them too.
_NO_SHELL = frozenset("'`\"$;&<>|(){},")


@dataclass(frozen=True)
class Address:
    """Where to log in as the user wrote it; None where the configuration decides."""

    host: str
    user: str | None = None
    port: int | None = None


def parse_address(text: str) -> Address:
    """`Address` of "[user@]host[:port]"; an IPv6 address stands in brackets.

    Raises:
        UsageError: No host, a port that is none, or a bare IPv6 address.
    """
    user, at, rest = text.rpartition("@")
    host, port = rest, ""
    if rest.startswith("["):
        host, bracket, port = rest[1:].partition("]")
        has_port = port.startswith(":")
        is_wrong = not bracket or (port and not has_port)
        port = port[1:]
    else:
        host, colon, port = rest.partition(":")
        has_port = bool(colon)
        is_wrong = False
        if ":" in port:
            raise UsageError(f"{text!r}: write an IPv6 address in brackets, like [::1]:22.")
    is_wrong = is_wrong or not host or host.startswith("-") or "\\" in host
    is_wrong = is_wrong or any(char in _NO_SHELL or char.isspace() or not char.isprintable() for char in text)
    if is_wrong or (at and (not user or user.startswith("-"))):
        raise UsageError(f"A host looks like [user@]host[:port], got {text!r}.")
    if has_port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise UsageError(f"A port is a number from 1 to 65535, got {port!r} in {text!r}.")
    return Address(host, user or None, int(port) if has_port else None)


@dataclass(frozen=True)
class Login:
    """Everything needed to log in, with the configuration applied.

    Attributes:
        alias: The host as the user wrote it.
        listed_name: The name under which known_hosts lists the host.
        other_listed_name: The name that OpenSSH looks for where that one is not listed; None where there is none.
        new_keys_path: Where a new host key is added; None where the configuration forbids it.
        has_host_key_algorithms: The configuration says which kinds of host keys to ask for.
        jumps: Hosts to go through, in order, as the configuration writes them.
        identities: Private keys to offer; None for the user's default ones.
        is_only_these: Offer no other key of the SSH agent.
    """

    alias: str
    host: str
    port: int
    user: str
    listed_name: str
    other_listed_name: str | None
    config_paths: tuple[str, ...]
    known_hosts: asyncssh.SSHKnownHosts
    new_keys_path: Path | None
    identities: tuple[str, ...] | None
    is_only_these: bool
    has_host_key_algorithms: bool
    jumps: tuple[str, ...]

    @property
    def label(self) -> str:
        """The host in messages and results: user@host:port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"

    @property
    def command(self) -> str:
        """What a person types to log in."""
        return f"ssh -p {self.port} {self.user}@{self.host}"


def resolve(address: Address, options: ConnectOptions) -> Login:
    """Apply the configuration to an address.

    Raises:
        UsageError: A file that the caller named is missing, or the configuration cannot be understood.
        AuthenticationError: The key that the caller named is none.
    """
    _check_files(options)
    paths = _config_paths(options)
    try:
        config = SSHClientConfig.load(
            None, list(paths), False, False, False, getpass.getuser(), address.user or (), address.host,
            address.port or (),
        )  # fmt: skip
    except (ValueError, asyncssh.Error, OSError) as error:
        raise UsageError(f"The SSH configuration cannot be used: {error}.") from error
    host = str(config.get("Hostname", address.host))
    identities = [str(options.identity)] if options.identity else config.get("IdentityFile")
    user_files, global_files = _known_hosts_paths(config, options)
    port = int(str(config.get("Port", DEFAULT_PORT)))
    alias = config.get("HostKeyAlias")
    jumps = config.get("ProxyJump")
    return Login(
        alias=address.host,
        host=host,
        port=port,
        user=str(config.get("User") or getpass.getuser()),
        listed_name=listed_name(host, port, str(alias) if alias else None),
        other_listed_name=None if alias or port == DEFAULT_PORT else host,
        config_paths=paths,
        known_hosts=read_known_hosts(_existing([*user_files, *global_files])),
        new_keys_path=Path(user_files[0]).expanduser() if user_files else None,
        identities=tuple(_existing(identities)) if isinstance(identities, list) else None,
        is_only_these=options.identity is not None or bool(config.get("IdentitiesOnly")),
        has_host_key_algorithms=config.get("HostKeyAlgorithms") is not None,
        jumps=tuple(str(jumps).split(",")) if jumps else (),
    )


def _config_paths(options: ConnectOptions) -> tuple[str, ...]:
    if options.ssh_config is not None:
        return (str(options.ssh_config),)
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        if not os.access(named, os.R_OK):
            raise UsageError(f"{named} (from {CONFIG_VARIABLE}) cannot be read.")
        return (named,)
    return tuple(_existing(["~/.ssh/config"]))


def _check_files(options: ConnectOptions) -> None:
    for path in (options.ssh_config, options.known_hosts, options.identity):
        is_to_be_made = path is options.known_hosts and options.accept_new_host_key
        if path is not None and not os.access(path, os.R_OK) and (path.exists() or not is_to_be_made):
            raise UsageError(f"{path} cannot be read.")
    if options.identity is not None:
        _check_identity(options.identity)


def _check_identity(path: Path) -> None:
    """A key with a passphrase passes: the agent may have it."""
    try:
        asyncssh.read_private_key(path)
    except asyncssh.KeyImportError as error:
        if "passphrase" not in str(error).lower():
            raise AuthenticationError(f"{path} is not a private key that can be used: {error}.") from error


def _known_hosts_paths(config: SSHConfig, options: ConnectOptions) -> tuple[list[str], list[str]]:
    """The user's files, the first of which takes new keys, and those of the system."""
    if options.known_hosts is not None:
        return [str(options.known_hosts)], []
    users = config.get("UserKnownHostsFile", list(_USER_KNOWN_HOSTS))
    systems = config.get("GlobalKnownHostsFile", list(_GLOBAL_KNOWN_HOSTS))
    # "none" is an empty list.
    return cast(list[str], users), cast(list[str], systems)


def _existing(paths: Iterable[object]) -> list[str]:
    """Those that can be read, with ~ expanded; OpenSSH passes over the others too."""
    expanded = [os.path.expanduser(str(path)) for path in paths]
    return [path for path in expanded if os.path.isfile(path) and os.access(path, os.R_OK)]
