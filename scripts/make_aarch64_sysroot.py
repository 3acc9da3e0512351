"""Make a root file system for aarch64: Python, an SSH server and two TFLite runtimes.

    python scripts/make_aarch64_sysroot.py FOLDER

For `edgecomp simulate --sysroot FOLDER`, and for the emulated board of the slow tests. No program of the foreign
architecture is run: packages are unpacked (mmdebstrap), wheels are put beside them (pip). Takes about a minute; does
nothing where FOLDER is complete and holds these very versions. Needs mmdebstrap and arch-test (Debian, Ubuntu).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edgecomp.errors import EdgecompError, UsageError
from edgecomp.simulate.sysroot import DISTRIBUTION, MARKER, PYTHON, RUNTIMES, SYSTEM, expected_marker, read_marker

LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# What maintainer scripts would have written: they are programs of the foreign architecture.
ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
}
FOLDERS = ("dev", "etc/ssh", "proc", "root", "run/sshd", "sys", "tmp")


def find_mirror() -> str:
    """The Debian mirror of this machine's own apt sources. Raises UsageError."""
    if shutil.which("apt-get") is not None:
        command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            origin, component, address = line.split(" ", 2)
            if (origin, component) == ("Debian", "main") and "security" not in address:
                return address
    raise UsageError(
        "This machine's apt sources name no Debian mirror.",
        hint="Run `apt-get update`, or give one with --mirror.",
    )


def run(command: list[str], environment: dict[str, str]) -> None:
    """A command that must succeed; what it printed is the reason if it does not. Raises EdgecompError."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise EdgecompError(
            f"{Path(command[0]).name} failed with exit code {done.returncode}: {' / '.join(lines[-3:])}"
        )


def unpack_system(folder: Path, scratch: Path, mirror: str) -> None:
    """The packages, their files only."""
    tarball = scratch / "system.tar"
    command = ["mmdebstrap", "--quiet", "--architectures=arm64", "--variant=extract", f"--include={','.join(SYSTEM)}"]
    # Nothing of it is run in the new system, so nothing has to be mounted there, nor unmounted after a kill.
    command += ["--skip=chroot/mount", '--aptopt=Apt::Install-Recommends "false"']
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    run([*command, DISTRIBUTION, str(tarball), mirror], {"TMPDIR": str(scratch)})
    run(["tar", "-xf", str(tarball), "-C", str(folder), "--exclude=./dev/*", "--no-same-owner"], {})
    tarball.unlink()
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in ACCOUNTS.items():
        (folder / name).write_text(text)
    (folder / "root").chmod(0o700)
    (folder / "tmp").chmod(0o1777)


def install_runtime(folder: Path, scratch: Path, name: str) -> None:
    """One runtime with numpy, from wheels; this machine's pip puts them there."""
    runtime = RUNTIMES[name]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(folder / runtime.folder), "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", PYTHON, "--abi", f"cp{PYTHON.replace('.', '')}"]
    for platform in runtime.platforms:
        command += ["--platform", f"{platform}_aarch64"]
    run([*command, *runtime.requirements], {"TMPDIR": str(scratch)})


def compile_modules(folder: Path) -> None:
    """Byte code for the modules, if this Python is of their version: emulated, that takes 5 s at every start."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        return
    places = [str(folder / f"usr/lib/python{PYTHON}"), *(str(folder / runtime.folder) for runtime in RUNTIMES.values())]
    # Not all modules compile: some are there to test that.
    command = [sys.executable, "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash", *places]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def make(folder: Path, mirror: str | None) -> bool:
    """Make the root file system, unless it is there; returns whether anything was made. Raises EdgecompError."""
    if read_marker(folder) == expected_marker():
        return False
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UsageError(
            f"{folder} holds something else, and would be replaced.", hint="Name a folder that is new or empty."
        )
    missing = [tool for tool in ("mmdebstrap", "arch-test", "tar") if shutil.which(tool) is None]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} not found.",
            hint=f"Install: apt-get install --no-install-recommends {' '.join(missing)}",
        )
    mirror = mirror or find_mirror()
    folder.parent.mkdir(parents=True, exist_ok=True)
    root = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    root.mkdir()
    try:
        scratch = root / "scratch"
        scratch.mkdir()
        unpack_system(root, scratch, mirror)
        for name in RUNTIMES:
            install_runtime(root, scratch, name)
        compile_modules(root)
        shutil.rmtree(scratch)
        (root / MARKER).write_text(json.dumps(expected_marker(), indent=2) + "\n")
        # Not synced to disk like a bundle: 9,000 files that can be made again.
        shutil.rmtree(folder, ignore_errors=True)
        root.rename(folder)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return True


def main() -> int:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="made, or replaced if this script made it with other versions")
    parser.add_argument("--mirror", help="Debian mirror; default: that of this machine's apt sources")
    arguments = parser.parse_args()
    try:
        is_new = make(arguments.folder.resolve(), arguments.mirror)
    except EdgecompError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{arguments.folder}: {'made' if is_new else 'complete, nothing to do'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
