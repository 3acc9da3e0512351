"""Ways to reach a device. One file each: a module with `TRANSPORT(address, options)`, which returns a `Transport`.

A target is "local", "[user@]host[:port]" (over SSH; an IPv6 address in brackets), or "NAME://ADDRESS" for the
transport in NAME.py: "adb://SERIAL", or "adb://" for the only Android device.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from edgecomp.errors import UsageError
from edgecomp.plain_text import one_line
from edgecomp.plugins import load_member
from edgecomp.transports._base import (
    CommandResult,
    ConnectOptions,
    LineCallback,
    NoticeCallback,
    Transport,
    say_on_stderr,
)

__all__ = ["CommandResult", "ConnectOptions", "LineCallback", "NoticeCallback", "Transport", "connect", "one_line"]


def connect(
    target: str,
    *,
    ssh_config: Path | None = None,
    known_hosts: Path | None = None,
    identity: Path | None = None,
    connect_timeout_s: float = 15.0,
    accept_new_host_key: bool = False,
    notify: NoticeCallback = say_on_stderr,
) -> Transport:
    """Reach a device; nothing is ever asked of the user.

    Args:
        target: "local", "[user@]host[:port]", "ssh://..." or "NAME://ADDRESS".
        ssh_config: Instead of ~/.ssh/config (or of the file that EDGECOMP_SSH_CONFIG names).
        known_hosts: The only file of trusted host keys, instead of those that the configuration names.
        identity: The only private key to offer.
        connect_timeout_s: For connection, key exchange and login together.
        accept_new_host_key: Trust the key of a host (or jump host) that is not in known_hosts, and add it to the
            first file of the user's. A key that has changed or is revoked stays an error.
        notify: Told about each key that was added, with its fingerprint, maybe from another thread; by default it is
            written to stderr.

    Raises:
        UsageError: The target cannot be understood, or a named file cannot be read.
        ConnectError: No such host, refused, no route, no answer in time, or no SSH server.
        HostKeyError: The host's key is unknown, not the one that is known, or cannot be added.
        AuthenticationError: The host refused every key, a key file cannot be used, or a phone has not been told to
            trust this computer.
    """
    scheme, separator, address = target.partition("://")
    if not separator:
        scheme, address = ("local", "") if target == "local" else ("ssh", target)
    if not target.strip() or (separator and not scheme):
        raise UsageError(f'A target is "local", "[user@]host[:port]" or "adb://SERIAL", got {target!r}.')
    options = ConnectOptions(ssh_config, known_hosts, identity, connect_timeout_s, accept_new_host_key, notify)
    return cast(Transport, load_member("edgecomp.transports", scheme).TRANSPORT(address, options))
