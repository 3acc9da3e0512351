"""`fit` against limits of latency and energy: by an estimate, or by a timing on a host (here this machine)."""

import json
import os
import sys

import pytest

from edgecomp.profile import load_profile
from tests.conftest import ROOT
from tests.whole_fits import chosen_of, fit, run


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory):
    """The embedded demo without limits of time or energy."""
    devices = ("--device", "rpi4", "--device", "stm32l4r5")
    return fit(tmp_path_factory.mktemp("unlimited"), *devices, "--precision", "INT8")[1]


class TestTiming:
    """`fit --host`: here the host is this machine, which is no Raspberry Pi."""

    def profile(self, folder, name, *changes):
        """--device of a Raspberry Pi 4 that has no estimate: only a timing can judge its latency."""
        text = (ROOT / "device_profiles" / "rpi4.toml").read_text()
        for old, new in (('name = "rpi4"', f'name = "{name}"'), ('[cost]\nfamily = "arm-a-xnnpack"\n', ""), *changes):
            assert old in text
            text = text.replace(old, new)
        (folder / f"{name}.toml").write_text(text)
        return f"--device={name}.toml"

    @pytest.mark.slow
    def test_a_timing_from_another_machine_is_labelled(self, tmp_path):
        code, body = fit(tmp_path, "--device", "rpi4", "--host", "local", "--python", sys.executable)
        assert code == 0
        latency = chosen_of(body, "rpi4")["latency_ms"]
        assert latency["mode"] == "measured"
        assert latency["runs"] >= 50
        assert latency["low"] <= latency["value"] <= latency["high"]
        assert latency["golden_ok"]
        assert not latency["is_profile_device"]
        assert "not the profile's device" in latency["on"]

    @pytest.mark.slow
    def test_it_is_never_held_against_the_limit_of_the_device(self, tmp_path):
        # A nanosecond: any timing would break it, if it counted.
        arguments = (
            self.profile(tmp_path, "there"),
            "--host",
            "local",
            "--python",
            sys.executable,
            "--max-latency",
            "0.001us",
        )
        code, body = fit(tmp_path, *arguments)
        assert body["status"] == "fits"
        assert chosen_of(body, "there")["breaks"] == []
        assert code == 4  # a measurement was taken but cannot be trusted for this limit

    @pytest.mark.slow
    @pytest.mark.parametrize(("verdict", "code"), [("valid", 3), ("noisy", 4)])
    def test_only_a_valid_timing_judges(self, tmp_path, monkeypatch, run_cli, verdict, code):
        """The verdict is a stand-in, for no test can make this machine quiet. A nanosecond is what no timing meets."""
        reasons = () if verdict == "valid" else ("a stand-in",)
        monkeypatch.setattr("edgecomp.bench.runner.judge", lambda *_, **__: (verdict, reasons))
        monkeypatch.chdir(tmp_path)
        here = self.profile(tmp_path, "here", ('"aarch64"', f'"{os.uname().machine}"'), ('["0xd08"]', "[]"))
        asked = ("--precision", "INT8", "--precision", "FLOAT32", "--max-latency", "0.001us")
        result = run_cli("fit", here, "--host", "local", "--python", sys.executable, *asked, "--json")
        assert result.exit_code == code, result.output
        made = [
            item for item in json.loads(result.stdout)["devices"][0]["candidates"] if item["latency_ms"] is not None
        ]
        assert {item["latency_ms"]["verdict"] for item in made} == {verdict}
        if verdict == "valid":
            assert all(item["breaks"][0]["limit"] == "latency" for item in made)
            assert {item["name"] for item in made} >= {"INT8", "FLOAT32"}
        else:
            assert made[0]["breaks"] == []

    @pytest.mark.slow
    def test_an_estimate_rejects_before_the_timing_only_with_its_whole_interval(self, tmp_path, unlimited):
        asked = ("--precision", "INT8")
        estimate = chosen_of(unlimited, "rpi4")["estimated_latency_ms"]
        assert estimate["low"] < estimate["value"] < estimate["high"]
        assert (estimate["mode"], estimate["family"]) == ("estimated", "arm-a-xnnpack")
        host = ("--host", "local", "--python", sys.executable)
        for limit_ms, timed in ((0.9 * estimate["low"], False), (1.01 * estimate["low"], True)):
            limit = ("--max-latency", f"{1000 * limit_ms:.6f}us")
            _, body = fit(tmp_path, "--device", "rpi4", *asked, *limit, *host)
            int8 = body["devices"][0]["candidates"][0]
            assert (int8["latency_ms"] is not None) == timed
            assert int8["status"] == ("chosen" if timed else "rejected")
        assert int8["breaks"] == []  # the timing was of another machine

    @pytest.mark.parametrize(
        ("option", "factor", "fits"), [("latency", 1.01, True), ("latency", 0.99, False), ("energy", 0.99, False)]
    )
    @pytest.mark.slow
    def test_without_a_host_the_estimate_decides(self, tmp_path, unlimited, option, factor, fits):
        asked = ("--device", "stm32l4r5", "--precision", "INT8")
        made = chosen_of(unlimited, "stm32l4r5")
        key, unit = {"latency": ("estimated_latency_ms", "ms"), "energy": ("energy_mj", "mJ")}[option]
        assert made["energy_mj"]["value"] / made["estimated_latency_ms"]["value"] == pytest.approx(
            load_profile("stm32l4r5").power.active_mw / 1000
        )
        limit = factor * made[key]["value"]
        code, body = fit(tmp_path, *asked, f"--max-{option}", f"{limit:.9f}{unit}")
        int8 = body["devices"][0]["candidates"][0]
        assert code == (0 if fits else 3)
        assert [item["limit"] for item in int8["breaks"]] == ([] if fits else [option])
        if not fits:
            assert f"{unit} estimated, " in int8["reason"]

    def test_an_unreachable_host_is_told_before_the_work(self, tmp_path):
        done = run(tmp_path, "fit", "--device", "rpi4", "--host", "127.0.0.1:1")
        assert done.returncode == 1
        assert "127.0.0.1:1" in done.stderr
        assert "reading model" not in done.stderr
        assert not (tmp_path / "bundles").exists()

    def test_the_bundle_is_kept_when_its_timing_fails(self, tmp_path):
        code, body = fit(tmp_path, "--device", "rpi4", "--host", "local", "--python", "/nowhere/python3")
        assert code == 1
        device = body["devices"][0]
        assert device["status"] == "fits"
        assert "could not be timed" in device["error"]
        assert (tmp_path / device["bundle"]).is_file()
