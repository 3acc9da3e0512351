"""A "Raspberry Pi 4 Model B" that is not there: aarch64 programs under QEMU, behind a real OpenSSH server.

Real aarch64 Python, wheels and sshd; what Linux tells of processor, clock and temperature comes from files that a test
can write while something runs there. Needs root, for a mount and a process namespace of its own: with the last process
in them everything is unmounted, even if the tests are killed. Its times mean nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecomp.simulate.cores import CORES, NUM_CORES, cpuinfo_text, write_cpu_files
from edgecomp.simulate.sysroot import MAKER, PYTHON, RUNTIMES, expected_marker, read_marker
from tests.conftest import ROOT, missing
from tests.sshd import LOCALHOST, Sshd, children_of, free_port, make_key, missing_tools, wait_until

CORE = "cortex-a72"
MODEL = "Raspberry Pi 4 Model B Rev 1.2"
QEMU = "qemu-aarch64-static"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
# The header of a 64-bit little-endian Arm program, and which of its bits count (the type is program or library).
MAGIC = rb"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
SHARED = ("bin", "lib", "opt", "sbin", "usr")
NODES = ("full", "null", "random", "tty", "urandom", "zero")
VCGENCMD = '#!/bin/sh\nif [ "$1" = get_throttled ]; then exec cat /run/throttled; fi\nexit 1\n'


@dataclass(frozen=True)
class Aarch64Board(Sshd):
    """The running board, and how to make it hot, slow or badly powered. Paths are those of this machine.

    Attributes:
        process: Ends with the board; the folder, the port and the keys are as for any `Sshd`.
    """

    user = "root"

    @property
    def root(self) -> Path:
        """Its root file system."""
        return self.folder / "root"

    @property
    def tmp(self) -> Path:
        """Its /tmp: what is left there was left on the device."""
        return self.root / "tmp"

    @property
    def sysfs(self) -> Path:
        """Its /sys."""
        return self.root / "sys"

    def python(self, runtime: str) -> str:
        """Its Python that has a runtime: "ai-edge-litert" or "tflite-runtime"."""
        return f"/srv/{runtime}/bin/python3"

    def set_temperature(self, degrees_c: float) -> None:
        """Of the processor's only zone."""
        (self.sysfs / "class/thermal/thermal_zone0/temp").write_text(f"{round(degrees_c * 1000)}\n")

    def set_frequency(self, khz: int) -> None:
        """The current one, of every core."""
        self._write_of_cores("cpufreq/scaling_cur_freq", str(khz))

    def set_governor(self, name: str) -> None:
        """Of every core."""
        self._write_of_cores("cpufreq/scaling_governor", name)

    def governors(self) -> list[str]:
        """Of every core, as they are now."""
        return [path.read_text().strip() for path in self._of_cores("cpufreq/scaling_governor")]

    def set_throttled(self, bits: int) -> None:
        """What `vcgencmd get_throttled` answers: 0x1 is too little voltage now, 0x4 throttled now."""
        (self.root / "run/throttled").write_text(f"throttled={bits:#x}\n")

    def _of_cores(self, name: str) -> list[Path]:
        return [self.sysfs / f"devices/system/cpu/cpu{number}" / name for number in range(NUM_CORES)]

    def _write_of_cores(self, name: str, text: str) -> None:
        for path in self._of_cores(name):
            path.write_text(text + "\n")


def find_sysroot() -> Path:
    """The root file system for aarch64; a test that lacks it, or what else the board needs, is skipped or fails."""
    sysroot = Path(os.environ.get("EDGECOMP_AARCH64_SYSROOT", ROOT / ".cache" / "aarch64-sysroot"))
    if read_marker(sysroot) != expected_marker():
        missing(f"there is no aarch64 root file system at {sysroot} (make it: python {MAKER} {sysroot})")
    return sysroot.resolve()


def _check_machine() -> None:
    if os.geteuid() != 0:
        missing("the emulated board needs root")
    tools = [*missing_tools(), *(name for name in (QEMU, "mount", "unshare") if shutil.which(name) is None)]
    if tools:
        missing(f"{', '.join(tools)} not installed (Debian: openssh-server openssh-client qemu-user-static)")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        missing("this system allows no namespaces, which the emulated board needs")


@contextlib.contextmanager
def _foreign_programs() -> Iterator[None]:
    """Let the kernel start aarch64 programs with QEMU. The entry is our own: others may have one, or add one later."""
    is_mounted = (BINFMT / "register").exists()
    if not is_mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    entry = BINFMT / f"edgecomp-test-{os.getpid()}-{os.urandom(4).hex()}"
    interpreter = os.fsencode(shutil.which(QEMU) or "")
    try:
        # F: QEMU is opened now, and needs not be seen from within the board.
        (BINFMT / "register").write_bytes(b":%s:M::%s:%s:%s:F" % (entry.name.encode(), MAGIC, MASK, interpreter))
        try:
            yield
        finally:
            entry.write_text("-1")
    finally:
        if not is_mounted:
            subprocess.run(["umount", str(BINFMT)], check=False)


def _make_root(root: Path, sysroot: Path, folder: Path) -> None:
    """All that is the board's own; the rest is mounted into it."""
    for name in (*SHARED, "dev", "proc", "root/.ssh", "run/sshd", "srv", "sys", "tmp", "var/empty"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copytree(sysroot / "etc", root / "etc", symlinks=True)
    (root / "root").chmod(0o700)
    (root / "root/.ssh").chmod(0o700)
    (root / "tmp").chmod(0o1777)
    for name in NODES:
        (root / "dev" / name).touch()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (root / "dev" / name).symlink_to(f"/proc/self/fd/{number}")
    (root / "dev/fd").symlink_to("/proc/self/fd")
    for name, runtime in RUNTIMES.items():
        venv = root / "srv" / name
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python3").symlink_to(f"/usr/bin/python{PYTHON}")
        (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        (venv / f"lib/python{PYTHON}").mkdir(parents=True)
        (venv / f"lib/python{PYTHON}/site-packages").symlink_to(f"/{runtime.folder}")
    (root / "srv/bin").mkdir()
    (root / "srv/bin/vcgencmd").write_text(VCGENCMD)
    (root / "srv/bin/vcgencmd").chmod(0o755)
    zone = root / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    write_cpu_files(CORES[CORE], root / "sys")
    for name, text in {"type": "cpu-thermal", "temp": "48312", "trip_point_0_type": "passive"}.items():
        (zone / name).write_text(text + "\n")
    (zone / "trip_point_0_temp").write_text("80000\n")
    trailer = ["Hardware\t: BCM2835", "Revision\t: c03112", f"Model\t\t: {MODEL}"]
    # The crypto extensions of the core are not in this chip.
    text = cpuinfo_text(CORES[CORE], trailer).replace(" aes pmull sha1 sha2", "")
    (folder / "cpuinfo").write_text(text)


def _write_login(root: Path, folder: Path, port: int) -> None:
    for name in ("hostkey", "id"):
        make_key(folder / name)
    shutil.copy(folder / "hostkey", root / "etc/ssh/ssh_host_ed25519_key")
    shutil.copy(folder / "id.pub", root / "root/.ssh/authorized_keys")
    lines = [
        f"Port {port}",
        f"ListenAddress {LOCALHOST}",
        "HostKey /etc/ssh/ssh_host_ed25519_key",
        "PidFile none",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UsePAM no",
        "Subsystem sftp internal-sftp",
        f"SetEnv QEMU_CPU={CORE} PATH=/srv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    (root / "etc/ssh/sshd_config").write_text("\n".join(lines) + "\n")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/id\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n"
        "  GlobalKnownHostsFile /dev/null\n"
    )


@contextlib.contextmanager
def running_board(folder: Path) -> Iterator[Aarch64Board]:
    """Start the board in a folder; with the block it ends, with all that runs there, and its files are removed."""
    sysroot = find_sysroot()
    _check_machine()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    root = folder / "root"
    _make_root(root, sysroot, folder)
    _write_login(root, folder, port)
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, __file__]
    with _foreign_programs():
        log = (folder / "board.log").open("wb")
        process = subprocess.Popen(
            [*command, json.dumps([str(root), str(sysroot), str(folder / "cpuinfo")])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        board = Aarch64Board(folder, port, process)
        try:
            wait_until(lambda: process.poll() is not None or _listens(port), "the board's sshd listens")
            assert process.poll() is None, f"the board did not start: {(folder / 'board.log').read_text()}"
            board.trust(port)
            board.set_throttled(0)
            yield board
        finally:
            # The first process in the namespace: with it all others end, before this one hears of it.
            for child in children_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.terminate()
            process.wait(timeout=30)
            log.close()
            shutil.rmtree(root)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOCALHOST, port), timeout=1):
        return True
    return False


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _become_board(root: str, sysroot: str, cpuinfo: str) -> None:
    """In the new namespaces: mount what the board consists of, and turn into its sshd."""
    for name in SHARED:
        _mount("--bind", f"{sysroot}/{name}", f"{root}/{name}")
        _mount("-o", "remount,ro,bind", f"{root}/{name}")
    for name in NODES:
        _mount("--bind", f"/dev/{name}", f"{root}/dev/{name}")
    _mount("-t", "proc", "proc", f"{root}/proc")
    _mount("--bind", cpuinfo, f"{root}/proc/cpuinfo")
    os.chroot(root)
    os.chdir("/")
    os.execve(
        "/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "QEMU_CPU": CORE}
    )


if __name__ == "__main__":
    _become_board(*json.loads(sys.argv[1]))
