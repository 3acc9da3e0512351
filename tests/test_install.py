"""What `pip install .` gives, without the checkout in sight."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_installed_package_fits_the_demo_in_an_empty_folder(tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    # The dependencies are those of this environment; edgecomp itself comes from the wheel alone.
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, ROOT],
        check=True,
        capture_output=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import edgecomp; print(edgecomp.__file__)"],
        cwd=empty, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site))
    done = subprocess.run(
        [sys.executable, "-m", "edgecomp", "fit", "--device", "rpi4", "--json"],
        cwd=empty, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["status"] == "fits"
    assert body["model"]["path"].startswith(str(site))
    assert (empty / "bundles" / "digits_cnn-rpi4.zip").is_file()
