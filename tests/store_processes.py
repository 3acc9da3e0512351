"""Processes of their own that work in a store, for the tests of it."""

import subprocess
import sys
import textwrap

REQUEST = {"model": "net.keras", "data": "data.npz", "devices": ["rpi4", "stm32l4r5"]}
HEAD = "import os, sys\nfrom pathlib import Path\nfrom edgecomp.store import Store\nfolder = Path(sys.argv[1])\n"


def python(script, *args, **options):
    """A process of its own that has `store` open at the folder args[0]."""
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(script), *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def ended(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def killed(process):
    process.kill()
    process.communicate(timeout=60)


class Waiting:
    """A process that has printed "ready", and is killed at the end of the block."""

    def __init__(self, script, *args):
        self.process = python(script + "\nprint('ready', flush=True)\nsys.stdin.read()", *args, stdin=subprocess.PIPE)

    def __enter__(self):
        line = self.process.stdout.readline()
        assert line == "ready\n", self.process.stderr.read()
        return self.process

    def __exit__(self, *_):
        killed(self.process)


def keep(store, key, data, run=None):
    """A result with one artifact, used by a run."""
    sha256 = store.put(data)
    store.remember(key, "candidate", {"key": key}, [sha256], 0.5)
    if run is not None:
        run.use(key)
    return sha256
