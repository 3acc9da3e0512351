"""What `edgecomp setup` runs on the device: says what it is, and unpacks, tries and removes a private runtime.

Runs from stdin (Python 3.7 or newer, standard library), so nothing is on the disk but the runtime itself. After the
text of the program, stdin brings one line of JSON, {"action": ..., "deadline_s": ..., ...}, and for "install" the
archive. Everything said is one JSON object a line on stdout, each starting with MARK; the last is "done" or "error".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from importlib import import_module
from typing import Any, BinaryIO, cast

from edgecomp.agent.on_device.private_runtime import POINTER, PREFIX, data_folder, read_pointer, this_abi

MARK = b'{"edgecomp": 1, '
PARTIAL = ".partial-"


class InstallerError(Exception):
    """Why it cannot be done; `code` tells the host what kind of problem it is."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.said = dict(more, code=code, message=message)


def say(kind: str, **values: Any) -> None:
    """Write one message to stdout."""
    text = json.dumps(dict(values, type=kind), allow_nan=False)
    sys.stdout.buffer.write(b"\n" + MARK + text[1:].encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


# --- What the device is ---------------------------------------------------------------------------------------


def name_libc() -> str:
    """The C library: "glibc 2.36", "musl", "bionic", or "" where nothing tells."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        name = os.confstr("CS_GNU_LIBC_VERSION")
        if name:
            return name
    if hasattr(sys, "getandroidapilevel"):
        return "bionic"
    is_musl = "musl" in (sysconfig.get_config_var("SOABI") or "") + (sysconfig.get_config_var("HOST_GNU_TYPE") or "")
    return "musl" if is_musl else ""


def own_numpy() -> str | None:
    """The version of the numpy that this Python has anyway."""
    try:
        return str(import_module("importlib.metadata").version("numpy"))  # Python 3.8 and newer.
    except Exception:  # No such module, no numpy, or one without a record.
        try:
            return str(import_module("numpy").__version__)
        except Exception:  # A broken one fails in any way, and is none.
            return None


def free_bytes(folder: str) -> int | None:
    """Room for this user on the file system that the folder is on, or will be on."""
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def tell_facts() -> dict[str, Any]:
    """All that the choice of wheels depends on."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "soabi": sysconfig.get_config_var("SOABI"),
        "abi": this_abi(),
        "machine": platform.machine(),
        "pointer_bits": struct.calcsize("P") * 8,
        "platform": sys.platform,
        "libc": name_libc(),
        "numpy": own_numpy(),
        "folder": data_folder(),
        "free_bytes": free_bytes(data_folder()),
        "current": read_pointer(),
    }


# --- The private folder ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked_folder() -> Iterator[str]:
    """The data folder, which nobody else may change meanwhile; what we make and leave empty is removed again."""
    folder = data_folder()
    made = []
    parent = folder
    while not os.path.isdir(parent) and parent != os.path.dirname(parent):
        made.append(parent)
        parent = os.path.dirname(parent)
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.chmod(folder, 0o700)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_all(folder, PARTIAL)  # Left by somebody who was killed: nobody else holds the lock.
        yield folder
    except BlockingIOError:
        raise InstallerError("busy", "Another setup is at work there.") from None
    finally:
        os.close(descriptor)
        for path in made:
            with contextlib.suppress(OSError):  # Not empty.
                os.rmdir(path)


def remove_all(folder: str, prefix: str, but: str | None = None) -> list[str]:
    """Remove what has a name that begins so; returns the names."""
    names = [name for name in sorted(os.listdir(folder)) if name.startswith(prefix) and name != but]
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)
    return names


class CheckedReader:
    """The archive as it arrives: hands out so many bytes and digests them."""

    def __init__(self, stdin: BinaryIO, size_bytes: int) -> None:
        self._stdin = stdin
        self._left = size_bytes
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end of the archive."""
        wanted = min(size, self._left, 1 << 16)
        data = self._stdin.read(wanted)
        if len(data) < wanted:
            raise InstallerError("cut", "The runtime did not arrive whole.")
        self._left -= len(data)
        self.digest.update(data)
        return data


def unpack(reader: CheckedReader, sha256: str, target: str) -> None:
    """Write the files of the archive below `target`, private to this user, and check that all is as it was sent."""
    try:
        with tarfile.open(fileobj=cast(BinaryIO, reader), mode="r|gz") as archive:
            for member in archive:
                parts = member.name.split("/")
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or not all(parts) or {".", ".."} & set(parts):
                    raise InstallerError("damaged", f"The archive holds {member.name!r}, which is no plain file.")
                path = os.path.join(target, *parts)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "xb") as stream:
                    shutil.copyfileobj(content, stream, 1 << 16)
        while reader.read(1 << 16):
            pass
    except (tarfile.TarError, EOFError) as error:
        raise InstallerError("damaged", f"The runtime did not arrive as it was sent: {error}.") from error
    if reader.digest.hexdigest() != sha256:
        raise InstallerError("damaged", "The runtime did not arrive as it was sent.")


def try_runtime(folder: str, trial: dict[str, Any]) -> dict[str, Any]:
    """Run the trial in a process of its own: its answer, and how it ended."""
    command = [sys.executable, "-B", "-c", trial["program"], json.dumps(dict(trial["job"], folder=folder))]
    try:
        ended = subprocess.run(
            command, cwd=folder, input=bytes.fromhex(trial["model"]), capture_output=True,
            timeout=trial["timeout_s"], check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": "it did not end within {:g} s".format(trial["timeout_s"])}
    answer: dict[str, Any] = {}
    for line in ended.stdout.splitlines():
        if line.startswith(MARK):
            answer = json.loads(line.decode("ascii"))
    # Links on the way to the home folder are no difference.
    is_own = os.path.realpath(str(answer.pop("from", ""))).startswith(os.path.realpath(folder) + os.sep)
    if "values" in answer and not is_own:
        answer = {"error": "another installation of the runtime was imported in its place"}
    words = [line for line in ended.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return dict(answer, exit_code=ended.returncode, last_words=words[-1][:300] if words else "")


def write_pointer(folder: str, pointer: dict[str, Any]) -> None:
    """Name the current runtime: whole or not at all."""
    descriptor, path = tempfile.mkstemp(prefix=PARTIAL, dir=folder)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump(pointer, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(path, os.path.join(folder, POINTER))
    except BaseException:
        os.unlink(path)
        raise


def install(header: dict[str, Any], stdin: BinaryIO) -> dict[str, Any]:
    """Unpack under a temporary name, try it there, and only then make it the current one."""
    with locked_folder() as folder:
        room = free_bytes(folder)
        if room is not None and room < header["needed_bytes"]:
            raise InstallerError("disk", "Not enough room.", free_bytes=room)
        partial = tempfile.mkdtemp(prefix=PARTIAL, dir=folder)
        try:
            unpack(CheckedReader(stdin, header["archive_bytes"]), header["archive_sha256"], partial)
            os.sync()  # One call for a thousand files: each synced by itself takes minutes on an SD card.
            trial = try_runtime(partial, header["trial"])
            if trial.get("values") == header["trial"]["output"]:
                final = os.path.join(folder, header["pointer"]["folder"])
                if os.path.isdir(final):  # It did not work any more, or there would be no need for this one.
                    os.rename(final, partial + "-old")
                os.rename(partial, final)
                write_pointer(folder, header["pointer"])
                remove_all(folder, PREFIX, but=header["pointer"]["folder"])
        finally:
            remove_all(folder, PARTIAL)
    return {"trial": trial}


def check(header: dict[str, Any], _stdin: BinaryIO) -> dict[str, Any]:
    """Try the current runtime."""
    pointer = read_pointer()
    if pointer is None:
        raise InstallerError("absent", "There is no private runtime.")
    return {"trial": try_runtime(os.path.join(data_folder(), pointer["folder"]), header["trial"])}


def remove(_header: dict[str, Any], _stdin: BinaryIO) -> dict[str, Any]:
    """Remove every private runtime; the pointer first, so that no process finds half of one."""
    if not os.path.isdir(data_folder()):
        return {"removed": []}
    with locked_folder() as folder:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, POINTER))
        names = remove_all(folder, PREFIX)
        left = [name for name in names if os.path.exists(os.path.join(folder, name))]
        if left:
            raise InstallerError("left", f"{os.path.join(folder, left[0])} cannot be removed.")
        with contextlib.suppress(OSError):  # Something else lies there.
            os.rmdir(folder)
    return {"removed": names}


def ask(_header: dict[str, Any], _stdin: BinaryIO) -> dict[str, Any]:
    """Say what the device is; what a visit that was killed has left is removed."""
    if os.path.isdir(data_folder()):
        with contextlib.suppress(InstallerError, OSError), locked_folder():
            pass
    return tell_facts()


ACTIONS = {"ask": ask, "check": check, "install": install, "remove": remove}


def main() -> int:
    """From the first byte of stdin to the last message; returns the exit code."""
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, lambda *_: sys.exit(1))
    stdin = sys.stdin.buffer
    try:
        header = json.loads(stdin.readline().decode("utf-8"))
        signal.alarm(math.ceil(header["deadline_s"]))  # A link that died never says so.
        answer = ACTIONS[header["action"]](header, stdin)
    except InstallerError as problem:
        with contextlib.suppress(OSError):  # Nobody listens any more.
            say("error", **problem.said)
        return 1
    except OSError as error:
        code = "disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "device"
        with contextlib.suppress(OSError):
            say(
                "error",
                code=code,
                message=f"{error.strerror or error}.",
                path=str(error.filename or ""),
                free_bytes=free_bytes(data_folder()),
            )
        return 1
    say("done", **answer)
    return 0
