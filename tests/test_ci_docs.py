"""docs/ci.md: its workflow is one, and its commands have the options that they name."""

import re
import shlex
from pathlib import Path

import pytest

from edgecomp.cli_bench import bench
from tests.conftest import missing

TEXT = (Path(__file__).parent.parent / "docs" / "ci.md").read_text()


@pytest.fixture(scope="module")
def workflow():
    try:
        import yaml
    except ImportError:
        missing("PyYAML is not installed")
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1])


def commands(text):
    return [
        line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip().startswith("edgecomp bench ")
    ]


def read_by_click(command):
    """Values of the options. Raises click's error for one that does not exist."""
    return bench.make_context("bench", shlex.split(command)[2:]).params


def test_the_job(workflow):
    job = workflow["jobs"]["rpi4"]
    assert workflow[True] == {"pull_request": {"paths": ["bundles/**"]}}  # YAML 1.1 reads "on" so.
    assert workflow["permissions"] == {"contents": "read"}
    assert "head.repo.full_name == github.repository" in job["if"]
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])


def test_secrets_go_through_the_environment_alone(workflow):
    """Pasted into a script they could be read as commands."""
    for step in workflow["jobs"]["rpi4"]["steps"]:
        assert "${{" not in step.get("run", "")
        if "secrets." in str(step):
            assert "umask 077" in step["run"]


def test_results_are_kept_and_the_key_is_removed_whatever_happens(workflow):
    *_, remove, upload = workflow["jobs"]["rpi4"]["steps"]
    assert remove["if"] == upload["if"] == "always()"
    assert remove["run"] == 'rm -rf "$RUNNER_TEMP/board"'
    assert upload["with"]["path"].split() == ["baseline.json", "bench.json", "bench.xml"]


def test_its_commands(workflow):
    before, now = (
        read_by_click(step["run"])
        for step in workflow["jobs"]["rpi4"]["steps"]
        if "edgecomp bench" in step.get("run", "")
    )
    assert before["result"] == now["compare"] == Path("baseline.json")
    assert before["threads"] == now["threads"]
    assert (now["max_latency"], now["fail_if_slower"]) == (20.0, 0.05)
    assert (now["result"], now["junit"]) == (Path("bench.json"), Path("bench.xml"))


def test_the_commands_at_the_top():
    before, now = map(read_by_click, commands(TEXT.split("## What is judged")[0]))
    assert before["result"] == now["compare"] == Path("baseline.json")
    assert before["processes"] == 5
