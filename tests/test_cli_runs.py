"""`edgecomp runs` as its users meet it."""

import json

import pytest

from edgecomp.store import Store
from tests.store_processes import REQUEST, Waiting, keep


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def filled(folder):
    """A store with a run that is done and one whose process died; the name of the first."""
    with Store.open(folder) as store:
        run = store.begin_run(REQUEST | {"budget": None}, "request", "net")
        run.record("candidate", {"name": "INT8 [q]", "drop_pp": None})
        keep(store, "c-1", b"12345", run)
        device = {"device": "rpi4", "status": "fits", "chosen": "INT8", "bundle": "bundles/rpi4.zip"}
        run.finish("done", {"devices": [device]})
    killed_run = """
store = Store.open(folder)
store.begin_run({"model": None, "devices": ["rp2040"]}, "other", "demo")
"""
    with Waiting(killed_run, folder):
        pass
    return run.name


class TestCommands:
    def test_list(self, run_cli, folder, filled):
        lines = run_cli("runs", "list", "--store", folder).stdout.splitlines()
        assert lines[0].split() == ["run", "model", "devices", "status", "when", "duration"]
        assert lines[1].split()[1:4] == ["demo", "rp2040", "interrupted"]
        assert lines[2].startswith(filled)
        assert "net.keras  rpi4, stm32l4r5  done" in lines[2]
        body = json.loads(run_cli("runs", "list", "--store", folder, "--json").stdout)
        assert body["schema"] == "edgecomp.runs/1"
        assert [run["status"] for run in body["runs"]] == ["interrupted", "done"]
        assert body["runs"][0]["model"] is None
        assert body["runs"][1]["devices"] == ["rpi4", "stm32l4r5"]

    def test_show(self, run_cli, folder, filled):
        text = run_cli("runs", "show", filled, "--store", folder).stdout
        for part in ("model: net.keras", "devices: rpi4, stm32l4r5", "candidate  name INT8 [q]", "bundles/rpi4.zip"):
            assert part in text
        assert "budget" not in text
        body = json.loads(run_cli("runs", "show", filled[:-1], "--store", folder, "--json").stdout)
        assert body["schema"] == "edgecomp.run/1"
        assert body["request"] == REQUEST | {"budget": None}
        assert body["events"][0]["value"] == {"name": "INT8 [q]", "drop_pp": None}
        assert body["result"]["devices"][0]["chosen"] == "INT8"
        assert body["used"] == ["c-1"]

    def test_show_of_a_name_that_is_unknown(self, run_cli, folder, filled):
        result = run_cli("runs", "show", "net", "--store", folder)
        assert result.exit_code == 1
        assert "Error: There is no run 'net'." in result.stderr
        assert f"Did you mean {filled}?" in result.stderr

    def test_gc(self, run_cli, folder, filled):
        dry = run_cli("runs", "gc", "--keep", 0, "--dry-run", "--store", folder).stdout
        assert dry.startswith("Would remove 2 runs, 1 result, 1 artifact, 0 training steps: 5 B in ")
        assert "Removed 0 runs" in run_cli("runs", "gc", "--store", folder).stdout
        assert "Removed 0 runs" in run_cli("runs", "gc", "--keep", 0, "--older-than", 1, "--store", folder).stdout
        body = json.loads(run_cli("runs", "gc", "--keep", 1, "--store", folder, "--json").stdout)
        assert body["schema"] == "edgecomp.runs_gc/1"
        assert body["runs"] == [filled]
        assert body["freed_bytes"] == 5
        assert body["dry_run"] is False

    def test_the_environment_names_the_store_and_the_option_wins(self, run_cli, folder, filled, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("EDGECOMP_STORE")
        assert run_cli("runs", "list").stdout == "No runs in .edgecomp.\n"
        monkeypatch.setenv("EDGECOMP_STORE", str(folder))
        assert filled in run_cli("runs", "list").stdout
        assert run_cli("runs", "list", "--store", "other").stdout == "No runs in other.\n"

    def test_without_a_store_nothing_is_made(self, run_cli, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("EDGECOMP_STORE")
        assert json.loads(run_cli("runs", "list", "--json").stdout)["runs"] == []
        assert json.loads(run_cli("runs", "gc", "--json").stdout)["freed_bytes"] == 0
        result = run_cli("runs", "show", "x")
        assert result.exit_code == 1
        assert "Error: There is no store at .edgecomp." in result.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_damaged_store(self, run_cli, folder, filled):
        (folder / "store.db").write_bytes(b"x" * 5000)
        for arguments in (["list"], ["show", "x"], ["gc"]):
            result = run_cli("runs", *arguments, "--store", folder)
            assert result.exit_code == 1
            assert [line for line in result.stderr.splitlines() if line.startswith("Error")] == [
                f"Error: {folder}/store.db is damaged."
            ]
            assert "Traceback" not in result.output
