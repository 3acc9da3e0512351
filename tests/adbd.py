"""A small adbd on loopback, for the real adb client: commands run on this machine, as a phone's would on the phone.

It speaks the transport protocol of AOSP (CNXN, AUTH, OPEN, OKAY, WRTE, CLSE over TCP) and serves "shell,v2": packets
for stdin, stdout, stderr and the exit code. Where AOSP's shell_service.cpp decides something, this does the same: a
session of its own for each command, SIGHUP for its shell alone when the client goes, 128 + N for signal N.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import pytest

from tests.sshd import LOCALHOST, free_port, wait_until

State = Literal["device", "unauthorized", "offline"]

SHELL = "/bin/sh"

_HEADER = struct.Struct("<6I")
_PACKET = struct.Struct("<BI")
_COMMANDS = (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
_CNXN, _AUTH, _OPEN, _OKAY, _WRTE, _CLSE = (int.from_bytes(name, "little") for name in _COMMANDS)
_VERSION = 0x01000001  # From here on the checksum is not looked at.
_MOST_BYTES = 256 * 1024
_AUTH_TOKEN = 1
_TIDY_S = 5.0
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)


class AdbHost:
    """The real adb client with a server of its own: the user's server and keys are not touched.

    Args:
        folder: HOME of the server, for the key that it makes.
    """

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._folder = folder
        self._patch = pytest.MonkeyPatch()

    def adb(self, *arguments: str) -> str:
        """What a call of the client prints."""
        result = subprocess.run(["adb", *arguments], capture_output=True, text=True, timeout=60, check=False)
        return result.stdout + result.stderr

    def attach(self, device: Adbd) -> str:
        """Let the server find a device; returns its serial. One that is offline keeps `adb connect` waiting."""
        if device.state == "offline":
            connecting = subprocess.Popen(["adb", "connect", device.serial], stdout=subprocess.DEVNULL)
            self._connecting.append(connecting)
        else:
            self.adb("connect", device.serial)
        wait_until(lambda: f"{device.serial}\t{device.state}" in self.adb("devices"), f"adb lists {device.serial}")
        return device.serial

    def __enter__(self) -> AdbHost:
        self._connecting: list[subprocess.Popen[bytes]] = []
        self._patch.setenv("ANDROID_ADB_SERVER_PORT", str(self._port))
        self._patch.setenv("HOME", str(self._folder))
        for name in ("ANDROID_SERIAL", "ADB_SERVER_SOCKET", "ADB_VENDOR_KEYS", "EDGECOMP_ADB"):
            self._patch.delenv(name, raising=False)
        # Its log goes into TMPDIR.
        environment = {**os.environ, "TMPDIR": str(self._folder)}
        subprocess.run(["adb", "start-server"], env=environment, capture_output=True, timeout=60, check=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.adb("kill-server")
        for process in self._connecting:
            process.wait(timeout=30)
        self._patch.undo()


@contextlib.contextmanager
def attached_device(folder: Path) -> Iterator[Adbd]:
    """One device, ready, and the only one."""
    folder.joinpath("tmp").mkdir(exist_ok=True)
    with Adbd(folder / "tmp") as device, AdbHost(folder) as host:
        host.attach(device)
        yield device


class Adbd:
    """One device.

    Args:
        tmp: TMPDIR of every command: what is left there was left on the device.
        state: "device" serves; "unauthorized" accepts no key; "offline" accepts connections and says nothing.
        features: What it claims to be able to do.
    """

    def __init__(self, tmp: Path, state: State = "device", features: str = "cmd,shell_v2") -> None:
        self.tmp = tmp
        self.state = state
        self.features = features
        self._listener = socket.create_server((LOCALHOST, 0))
        self._connections: list[_Connection] = []
        self.serial = f"{LOCALHOST}:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def vanish(self) -> None:
        """Like a cable that was pulled: every connection ends, no new one is taken."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=10)
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(_Connection(self, client))

    def __enter__(self) -> Adbd:
        return self

    def __exit__(self, *exception: object) -> None:
        self.vanish()


class _Connection:
    """The link to one adb server, with all the streams on it."""

    def __init__(self, device: Adbd, link: socket.socket) -> None:
        self.device = device
        self._link = link
        self._streams: dict[int, _Shell] = {}
        self._write_lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        header = _HEADER.pack(command, first, second, len(data), 0, command ^ 0xFFFFFFFF)
        with contextlib.suppress(OSError), self._write_lock:
            self._link.sendall(header + data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        try:
            while (header := self._read(_HEADER.size)) is not None:
                command, first, second, length, _, _ = _HEADER.unpack(header)
                data = self._read(length)
                if data is None:
                    break
                self._handle(command, first, second, data)
        finally:
            for stream in list(self._streams.values()):
                stream.hang_up()
            deadline = time.monotonic() + _TIDY_S
            for stream in list(self._streams.values()):
                stream.join(deadline)
            self._link.close()

    def _read(self, count: int) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self._link.recv(count - len(data))
            except OSError:
                return None
            if not piece:
                return None
            data += piece
        return bytes(data)

    def _handle(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == _CNXN and self.device.state == "device":
            banner = f"device::ro.product.name=loopback;ro.product.model=Loopback;features={self.device.features}"
            self.send(_CNXN, _VERSION, _MOST_BYTES, banner.encode())
        elif command in (_CNXN, _AUTH) and self.device.state == "unauthorized":
            self.send(_AUTH, _AUTH_TOKEN, 0, os.urandom(20))
        elif command == _OPEN:
            self._open(first, data.rstrip(b"\0").decode())
        elif command in (_WRTE, _OKAY, _CLSE) and second in self._streams:
            stream = self._streams[second]
            if command == _WRTE:
                stream.incoming.put(data)
            elif command == _OKAY:
                stream.may_send.release()
            else:
                stream.hang_up()

    def _open(self, peer: int, service: str) -> None:
        kind, _, command = service.partition(":")
        number = len(self._streams) + 1
        if not kind.startswith("shell,v2"):
            self.send(_CLSE, 0, peer)
            return
        self.send(_OKAY, number, peer)
        self._streams[number] = _Shell(self, number, peer, command)


class _Shell:
    """One command: its packets come and go over one stream."""

    def __init__(self, connection: _Connection, number: int, peer: int, command: str) -> None:
        self._connection = connection
        self._ids = (number, peer)
        self.incoming: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.may_send = threading.Semaphore(1)  # A stream waits for OKAY after each WRTE.
        self._is_gone = threading.Event()
        self._process = subprocess.Popen(
            [SHELL, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "TMPDIR": str(connection.device.tmp)},
        )
        outputs = [
            threading.Thread(target=self._pass_output, args=(kind, stream), daemon=True)
            for kind, stream in ((_STDOUT, self._process.stdout), (_STDERR, self._process.stderr))
        ]
        threads = [
            threading.Thread(target=self._pass_input, daemon=True),
            threading.Thread(target=self._finish, args=(outputs,), daemon=True),
        ]
        self._threads = outputs + threads
        for thread in self._threads:
            thread.start()

    def hang_up(self) -> None:
        """The client is gone: SIGHUP for the shell, and nobody listens any more."""
        if not self._is_gone.is_set():
            self._is_gone.set()
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGHUP)
            self.may_send.release()
            self.may_send.release()
            self.incoming.put(None)

    def join(self, deadline: float) -> None:
        """Let it tidy up until then; what is left of it is killed, so that no test leaves a process behind."""
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join(timeout=10)

    def _send(self, kind: int, data: bytes) -> bool:
        self.may_send.acquire()
        if self._is_gone.is_set():
            return False
        self._connection.send(_WRTE, *self._ids, _PACKET.pack(kind, len(data)) + data)
        return True

    def _pass_output(self, kind: int, stream: IO[bytes]) -> None:
        with stream:
            while (data := stream.read(1 << 15)) and self._send(kind, data):
                pass

    def _pass_input(self) -> None:
        pending = bytearray()
        stdin = self._process.stdin
        with contextlib.suppress(OSError), stdin:
            while (data := self.incoming.get()) is not None:
                pending += data
                while len(pending) >= _PACKET.size:
                    kind, length = _PACKET.unpack_from(pending)
                    if len(pending) < _PACKET.size + length:
                        break
                    packet = pending[_PACKET.size : _PACKET.size + length]
                    del pending[: _PACKET.size + length]
                    if kind == _STDIN:
                        _write_all(stdin, packet)
                    elif kind == _CLOSE_STDIN:
                        stdin.close()
                self._connection.send(_OKAY, *self._ids)

    def _finish(self, outputs: list[threading.Thread]) -> None:
        for thread in outputs:
            thread.join()
        code = self._process.wait()
        if self._send(_EXIT, bytes([code if code >= 0 else 128 - code])):
            self._connection.send(_CLSE, *self._ids)
        self._is_gone.set()
        self.incoming.put(None)


def _write_all(stream: IO[bytes], data: bytes) -> None:
    if stream.closed:
        return
    while data:
        data = data[stream.write(data) :]
