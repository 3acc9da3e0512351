"""What every test may use: the models and data of EDGECOMP_DATA, the command line, and the rule about skips."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from click.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EDGECOMP_DATA", ROOT.parent / "shared" / "data"))
REQUIRED = os.environ.get("EDGECOMP_REQUIRE_DEVICES") == "1"

# The same examples every time: a change is not refused for a fault that it does not have. To look for new ones:
# pytest -m hypothesis --hypothesis-profile search
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("search", derandomize=False)
hypothesis.settings.load_profile("same")


def missing(what: str) -> None:
    """Skip for want of something, or fail where CI says that everything must be there."""
    if REQUIRED:
        pytest.fail(f"EDGECOMP_REQUIRE_DEVICES=1, but {what}")
    pytest.skip(what)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, which is closed: left to the garbage collector it warns in some later test."""
    with np.load(path) as stored:
        return dict(stored)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, the tests of one file run in one process: what its fixtures made is made once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def store_folder(tmp_path_factory) -> Path:
    """Every fit of the tests keeps its work here, not in the folder that tests are run in."""
    folder = tmp_path_factory.mktemp("store")
    os.environ["EDGECOMP_STORE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real models and data."""
    if not DATA.is_dir():
        missing(f"there are no models and data at {DATA} (set EDGECOMP_DATA)")
    return DATA


@pytest.fixture(scope="session")
def planned(tmp_path_factory):
    """The digits planned and fitted into 5 KiB, with training: for all that ask what was done."""
    from tests.planned_fits import plan_and_fit

    return plan_and_fit(tmp_path_factory.mktemp("planned"))


@pytest.fixture
def run_cli():
    """Call `edgecomp ARGS` in this process."""
    from edgecomp.cli import main

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args])

    return run
