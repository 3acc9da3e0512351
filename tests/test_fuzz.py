"""Hostile and damaged .tflite files: an error, never a crash, a hang or memory without bound."""

import subprocess
import sys

import pytest

from tests.conftest import DATA, ROOT

FILES = [*sorted((ROOT / "tests" / "models").glob("*.tflite")), *sorted(DATA.glob("*/*.tflite"))]


def fuzz(count, seed):
    """Run in a process of its own, with its memory bounded; every input has 2 s."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fuzz_graph.py", str(count), str(seed), *FILES],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read, refused = (int(word) for word in done.stdout.split() if word.isdigit())
    assert read + refused == count
    # Both ways are taken: mutations that miss everything, or hit everything, would test nothing.
    assert read > count // 10
    assert refused > count // 10


def test_two_thousand_mutations():
    fuzz(2_000, seed=0)


@pytest.mark.slow
def test_twenty_four_thousand_mutations():
    for seed in range(1, 5):
        fuzz(6_000, seed)
