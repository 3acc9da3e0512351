"""A private folder, the device's lock and a watched program, by a shell alone: what a device without Python has.

Shell texts are constants; what comes from outside is an argument of theirs. They are for any POSIX shell, tried with
dash, bash, busybox, and mksh with toybox, which Android has. mksh keeps descriptors that `exec` opened from programs.

The lock is the keeper's own file (see `agent.keeper`) where the device has `flock`, so that either keeps the other
waiting. A process in the background holds it: it goes when the folder goes, and takes both away at the time limit.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from edgecomp.agent.keeper import LOCK_NAME
from edgecomp.errors import BenchmarkError, DeviceBusyError, TransportError
from edgecomp.plain_text import one_line
from edgecomp.transports import CommandResult, Transport

PREFIX = "edgecomp-native-"
SHORT_S = 30.0

_BUSY = 75
_MOST_BYTES = 2**20
_MOST_LINE = 1000

# Android has no /tmp. What a lost connection left there goes after a day, when nobody can be using it.
_MAKE_FOLDER = (
    'for folder in "$TMPDIR" /tmp /data/local/tmp; do [ -n "$folder" ] && [ -w "$folder" ] && break; done; '
    f'find "$folder" -maxdepth 1 -name "{PREFIX}*" -mtime +0 -exec rm -rf {{}} + 2>/dev/null; '
    f'mktemp -d "$folder/{PREFIX}XXXXXXXX"'
)
# A lock is let go of by its name: whoever comes next makes another file, and does not mind who still has this one open.
_RELEASE = '{ read -r lock <"$folder/held" && rm -rf -- "$lock"; rm -rf -- "$folder"; } 2>/dev/null'
_HOLD = (
    'folder=$1 left=$2; while [ -d "$folder" ] && [ "$left" -gt 0 ]; do sleep 1 9>&-; left=$((left - 1)); done; '
    + _RELEASE
)
# Arguments: the folder, seconds to wait, seconds to hold, the text that holds. Where there is no `flock` a folder is
# the lock, with the time when it ends, and a keeper's file counts as long as the process in it lives.
_TAKE = f"""
folder=$1 most=$2 limit=$3 hold=$4 dir=${{1%/*}} waited=0 apart=
command -v setsid >/dev/null && apart=setsid
start() {{
    echo "$lock" >"$folder/held"
    $apart sh -c "$hold" sh "$folder" "$limit" </dev/null >/dev/null 2>&1 &
}}
claim() {{
    [ ! -h "$lock" ] && flock -n 9 && [ "$lock" -ef /proc/self/fd/9 ] || return 1
    start
    echo $! >&9
    return 0
}}
take() {{
    pid=
    {{ read -r pid <"$dir/{LOCK_NAME}"; }} 2>/dev/null
    if command -v flock >/dev/null; then
        lock=$dir/{LOCK_NAME}
        ( claim ) 9<>"$lock" || {{ [ -e "$lock" ] && ( claim ) 9<"$lock"; }}
        return
    fi
    [ -n "$pid" ] && [ -d "/proc/$pid" ] && return 1
    lock=$dir/{PREFIX}lock now=$(date +%s)
    read -r until pid <"$lock/until" && [ "$now" -gt "$until" ] && mv "$lock" "$folder/expired"
    mkdir "$lock" || return 1
    start
    echo "$((now + limit)) $!" >"$lock/until"
}}
until take 2>/dev/null; do
    # Whoever does not listen any more does not want the lock.
    echo "${{pid:-?}}" || exit 1
    [ "$waited" -lt "$most" ] || exit {_BUSY}
    sleep 1
    waited=$((waited + 1))
done
"""
# Runs the rest of the arguments. The end of stdin means that the host is gone: then the program is ended, and the
# lock and the folder $1 are removed, for nobody else will.
_RUN = (
    'folder=$1; shift; exec 3<&0; "$@" </dev/null 3<&- & child=$!; '
    f"{{ cat <&3; kill -9 $child; {_RELEASE}; }} >/dev/null 2>&1 & watch=$!; "
    "exec 3<&-; wait $child; code=$?; kill $watch 2>/dev/null; exit $code"
)
_FOLDER = re.compile(rf"/[^\x00-\x1f]*/{PREFIX}[A-Za-z0-9]+")


@contextlib.contextmanager
def locked_folder(
    transport: Transport, *, wait_s: float, limit_s: float, tell: Callable[[str, int, int], None]
) -> Iterator[str]:
    """A private folder (mode 0700) on the device and its lock; both are let go of whatever happens.

    Args:
        transport: Reaches the device.
        wait_s: How long to wait for another measurement.
        limit_s: After this long the device lets go by itself.
        tell: Called with (what, 0, 0) while it waits.

    Raises:
        BenchmarkError: The device has no place for a folder, or cannot lock.
        DeviceBusyError: Another measurement did not end in time.
        CommandTimeoutError, TransportError: See `Transport.run`.
    """
    result = transport.run(["sh", "-c", _MAKE_FOLDER], timeout_s=SHORT_S)
    folder = result.stdout.decode(errors="replace").rstrip("\n")
    # The name comes from the device, and it is going to be removed.
    if result.exit_code != 0 or not _FOLDER.fullmatch(folder) or ".." in PurePosixPath(folder).parts:
        raise BenchmarkError(
            f"{transport.host} made no folder for temporary files.",
            hint=last_words(result) or "It takes mktemp there; TMPDIR may name a folder that can be written.",
        )
    try:
        _take_lock(transport, folder, wait_s, limit_s, tell)
        yield folder
    finally:
        with contextlib.suppress(TransportError):
            transport.run(["sh", "-c", f"folder=$1; {_RELEASE}", "sh", folder], timeout_s=SHORT_S)


def run_watched(transport: Transport, folder: str, command: list[str], timeout_s: float) -> CommandResult:
    """Run a program that ends with the connection, and leaves neither folder nor lock then.

    Raises:
        CommandTimeoutError, TransportError: See `Transport.run`.
    """
    return transport.run(["sh", "-c", _RUN, "sh", folder, *command], timeout_s=timeout_s, hold_stdin=True)


def text_of(result: CommandResult) -> str:
    """Both outputs of a command, no more of them than matters."""
    parts = [part[-_MOST_BYTES:].decode(errors="replace") for part in (result.stdout, result.stderr)]
    return "\n".join(line[:_MOST_LINE] for part in parts for line in part.splitlines())


def last_words(result: CommandResult) -> str | None:
    """A hint of what went wrong: the last line of a command."""
    lines = [line for line in text_of(result).splitlines() if line.strip() and not line.startswith("INFO: ")]
    return f"Its last words: {one_line(lines[-1])!r}" if lines else None


def _take_lock(
    transport: Transport, folder: str, wait_s: float, limit_s: float, tell: Callable[[str, int, int], None]
) -> None:
    holders: list[str] = []

    def waiting(line: str) -> None:
        holders.append(one_line(line, most_chars=20))
        if len(holders) == 1 and wait_s >= 1:
            tell(f"waiting for another measurement (process {holders[0]})", 0, 0)

    arguments = [folder, str(math.floor(wait_s)), str(math.ceil(limit_s)), _HOLD]
    result = transport.run(["sh", "-c", _TAKE, "sh", *arguments], timeout_s=1.2 * wait_s + SHORT_S, on_line=waiting)
    if result.exit_code == _BUSY:
        raise DeviceBusyError(
            f"{transport.host}: Another measurement is running there (process {holders[-1] if holders else '?'}), and "
            f"did not end within {wait_s:g} s.",
            hint="Wait for it, or give it more time with --wait.",
        )
    if result.exit_code != 0:
        raise BenchmarkError(f"{transport.host} does not let measurements take turns.", hint=last_words(result))
