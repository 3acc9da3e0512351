"""`edgecomp devices`: list, show, validate, schema, new; and fits for profiles with accelerators and variants."""

import json
import os
import tomllib
import typing
import zipfile

import pytest

from edgecomp import cli
from edgecomp.devices import Filters, Wish, list_devices, nearest
from edgecomp.errors import UsageError
from edgecomp.hardware import Region
from edgecomp.profile import DeviceProfile, Runtime, load_profile, profile_names, read_profile
from tests.conftest import ROOT


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(**filters):
    return [summary.name for summary in list_devices(Filters(**filters))]


class TestList:
    def test_says_of_every_profile_what_the_profile_says(self):
        """The list reads the tables itself, without validating them: it must come to the same figures."""
        listed = {summary.name: summary for summary in list_devices(Filters())}
        assert sorted(listed) == profile_names()
        for name, summary in listed.items():
            profile = load_profile(name)
            assert (summary.ram_bytes, summary.flash_bytes) == (
                profile.memory.usable_ram_bytes,
                profile.memory.usable_flash_bytes,
            )
            assert (summary.kind, summary.runtime, summary.kernels) == (
                profile.kind,
                profile.runtime.name,
                profile.runtime.kernels,
            )
            assert (summary.core, summary.cores, summary.clock_hz) == (
                profile.cpu.core,
                profile.cpu.cores,
                profile.cpu.clock_hz,
            )
            assert (summary.extends, summary.unverified) == (profile.extends, len(profile.unverified))

    def test_a_line_a_profile(self, run_cli):
        lines = run_cli("devices", "list").stdout.splitlines()
        assert " ".join(lines[0].split()) == "name kind processor RAM left flash left runtime unverified"
        assert [line.split()[0] for line in lines[1:]] == profile_names()
        rpi4 = next(line for line in lines if line.startswith("rpi4 "))
        assert " ".join(rpi4.split()) == "rpi4 linux 4x cortex-a72, 1.5 GHz 512.0 MiB no limit litert xnnpack 1"

    def test_json_has_plain_numbers(self, run_cli):
        body = json.loads(run_cli("devices", "list", "--json").stdout)
        assert body["schema"] == "edgecomp.devices/1"
        board = next(item for item in body["devices"] if item["name"] == "stm32l4r5-cmsis-nn")
        assert board["ram_bytes"] == 608 * 1024  # 640 KiB less 32 for stack and firmware
        assert board["extends"] == ["stm32l4r5"]

    @pytest.mark.parametrize(
        ("filters", "some", "others"),
        [
            ({"kind": "ios"}, {"iphone12"}, {"pixel8"}),
            ({"runtime": "ethos-u"}, {"ethos-u55-128", "ethos-u65-512"}, {"cortex-m55"}),
            ({"kernels": "esp-nn"}, {"esp32", "esp32c3", "esp32s3-psram"}, {"rp2040"}),
            ({"core": "M7"}, {"stm32f746", "stm32h743", "stm32h7a3"}, {"stm32l4r5"}),
            ({"features": ("dotprod",)}, {"rpi5", "pixel4", "iphone12"}, {"rpi4"}),
            ({"features": ("dotprod", "i8mm")}, {"pixel8"}, {"rpi5"}),
            # Left for a model, not what the chip has: 640 KiB less 32 KiB.
            ({"min_ram_bytes": 608 * 1024, "core": "m4"}, {"stm32l4r5"}, {"nrf52840"}),
            ({"min_ram_bytes": 608 * 1024 + 1, "core": "m4"}, set(), {"stm32l4r5"}),
            ({"min_flash_bytes": 3 * 2**20, "kind": "mcu"}, {"esp32", "rp2350"}, {"stm32l4r5"}),
            ({"min_flash_bytes": 2**40}, {"rpi4", "pixel4"}, {"rp2350"}),  # no limit is enough for anything
        ],
        # A set is written in another order by every process: the workers of a test run must agree on the names.
        ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
    )
    def test_filters(self, filters, some, others):
        found = set(names(**filters))
        assert some <= found
        assert not others & found

    def test_filters_on_the_command_line(self, run_cli):
        line = "--kind mcu --core m33 --feature dsp --min-ram 500KiB --min-flash 1MiB"
        found = run_cli("devices", "list", *line.split()).stdout.splitlines()[1:]
        assert [row.split()[0] for row in found] == ["stm32u575"]
        assert "No profile has all of that." in run_cli("devices", "list", "--kind", "ios", "--runtime", "tflm").stdout

    def test_a_feature_that_no_profile_has(self, run_cli):
        result = run_cli("devices", "list", "--feature", "dotpord")
        assert result.exit_code == 2
        assert "No profile has the feature 'dotpord'" in result.stderr
        assert "Did you mean 'dotprod'?" in result.stderr

    def test_the_choices_are_those_of_the_schema(self):
        def literal(model, field):
            return typing.get_args(model.model_fields[field].annotation)

        assert literal(DeviceProfile, "kind") == cli.KINDS
        assert literal(Runtime, "name") == cli.RUNTIMES
        assert literal(Runtime, "kernels") == cli.KERNELS
        assert literal(Region, "kind") == ("ram", "flash")


class TestShow:
    def test_every_value_with_its_source(self, run_cli):
        text = run_cli("devices", "show", "rpi4").stdout
        assert "left for a model: 512.0 MiB of RAM (ram), storage is no limit" in text
        assert "1 value is unverified, marked with ?" in text
        rows = {line.split()[0]: line for line in text.splitlines() if line.startswith(("cpu.", "memory.", "runtime."))}
        assert "1.5 GHz" in rows["cpu.clock_hz"]
        assert "MLPerf Tiny v0.5" in rows["cpu.clock_hz"]
        assert "1, 2, 4 or 8 GB" in rows["memory.regions.ram.bytes"]
        assert rows["memory.regions.ram.reserved_bytes"].split() == [
            "memory.regions.ram.reserved_bytes", "?", "512.0", "MiB", "unverified",
        ]  # fmt: skip
        assert "?" not in rows["runtime.kernels"]

    def test_a_variant_is_shown_merged(self, run_cli):
        text = run_cli("devices", "show", "stm32l4r5-cmsis-nn").stdout
        assert "extends stm32l4r5" in text
        assert "120 MHz" in text
        assert "2.0 MiB" in text

    @pytest.mark.parametrize("name", ["rpi4", "stm32l4r5-cmsis-nn"])
    def test_toml_stands_alone(self, run_cli, here, name):
        text = run_cli("devices", "show", name, "--toml").stdout
        (here / "own.toml").write_text(text.replace(f'name = "{name}"', 'name = "own"'))
        assert read_profile(here / "own.toml").memory == load_profile(name).memory
        assert read_profile(here / "own.toml").extends == ()

    def test_json(self, run_cli):
        body = json.loads(run_cli("devices", "show", "esp32s3-psram", "--json").stdout)
        assert (body["schema"], body["extends"]) == ("edgecomp.device/1", ["esp32s3"])
        assert (body["arena_region"], body["usable_ram_bytes"]) == ("psram", 8 * 2**20)
        assert body["limits"] == {"max_accuracy_drop": "1pp"}
        assert "memory.regions.flash.reserved_bytes" in body["unverified"]


class TestValidate:
    @pytest.fixture
    def files(self, here):
        good = load_profile("rpi4").text.replace('name = "rpi4"', 'name = "good"')
        (here / "good.toml").write_text(good)
        (here / "bad.toml").write_text(good.replace("cores = 4", "cores = 0").replace('"1GiB"', '"0B"'))
        (here / "child.toml").write_text('schema_version = 1\nname = "child"\nextends = "bad.toml"\n')
        return here

    def test_says_what_a_good_file_is(self, files, run_cli):
        result = run_cli("devices", "validate", "good.toml")
        assert result.exit_code == 0
        assert result.stdout == "good.toml: ok: good (linux); unverified: memory.regions.ram.reserved_bytes\n"

    def test_every_problem_of_every_file(self, files, run_cli):
        result = run_cli("devices", "validate", "bad.toml", "good.toml", "child.toml", "nowhere.toml")
        assert result.exit_code == 2
        cores = "  cpu.cores: must be a whole number from 1 to 256, got 0"
        ram = "  memory.regions.ram.bytes: must be bytes from 1 to 1 TB, as a number or like \"640KiB\", got '0B'"
        assert result.stdout.splitlines() == [
            "bad.toml: 2 problems",
            cores,
            ram,
            "good.toml: ok: good (linux); unverified: memory.regions.ram.reserved_bytes",
            "child.toml: 2 problems",
            f"{cores} (in bad.toml)",
            f"{ram} (in bad.toml)",
            "nowhere.toml: 1 problem",
            "  cannot be read: No such file or directory.",
        ]

    def test_json(self, files, run_cli):
        result = run_cli("devices", "validate", "good.toml", "bad.toml", "--json")
        assert result.exit_code == 2
        body = json.loads(result.stdout)
        assert body["schema"] == "edgecomp.device_checks/1"
        good, bad = body["files"]
        assert (good["ok"], good["name"], good["problems"]) == (True, "good", [])
        assert (bad["ok"], bad["name"], len(bad["problems"])) == (False, None, 2)

    def test_needs_a_file(self, run_cli):
        assert run_cli("devices", "validate").exit_code == 2


class TestSchema:
    def test_is_the_one_in_docs(self, run_cli):
        text = run_cli("devices", "schema").stdout
        assert text == (ROOT / "docs" / "device-profile.schema.json").read_text()
        assert run_cli("devices", "schema", "--json").stdout == text

    def test_asks_a_file_that_extends_another_for_its_name_only(self):
        schema = DeviceProfile.model_json_schema()
        assert schema["required"] == ["schema_version", "name"]
        assert schema["if"] == {"not": {"required": ["extends"]}}
        assert {"cpu", "memory", "runtime", "precisions", "sources"} <= set(schema["then"]["required"])
        assert schema["then"]["properties"]["cpu"]["required"] == ["architecture", "core", "cores", "clock_hz"]
        assert schema["then"]["properties"]["npu"] == {"required": ["name"]}
        assert not any("required" in table for table in schema["$defs"].values())

    def test_knows_the_ranges(self):
        cpu = DeviceProfile.model_json_schema()["$defs"]["Cpu"]["properties"]
        assert (cpu["clock_hz"]["minimum"], cpu["clock_hz"]["maximum"]) == (10**6, 10**10)
        assert (cpu["cores"]["minimum"], cpu["cores"]["maximum"]) == (1, 256)

    def test_knows_no_other_keys(self):
        tables = [table for table in DeviceProfile.model_json_schema()["$defs"].values() if table["type"] == "object"]
        assert len(tables) == 9  # cpu, memory, region, runtime, npu, power, cost, precisions, limits
        assert all(table["additionalProperties"] is False for table in tables)

    def test_every_key_of_a_file_is_in_it(self):
        schema = DeviceProfile.model_json_schema()
        assert set(schema["properties"]) == {*DeviceProfile.model_fields, "extends", "without"}


class TestNew:
    def test_the_nearest_profile(self):
        kib = 1024
        assert nearest(Wish(core="cortex-m33", ram_bytes=512 * kib, flash_bytes=1024 * kib)) == "nrf5340"
        assert nearest(Wish(kind="mcu", ram_bytes=320 * kib, flash_bytes=1024 * kib)) == "stm32f746"
        assert nearest(Wish(core="cortex-m4", ram_bytes=640 * kib)) == "stm32l4r5"  # and no variant of it
        assert nearest(Wish(kind="ios")) == "iphone12"
        assert nearest(Wish(kind="linux", core="cortex-a76")) == "rpi5"

    def test_writes_a_short_file_that_is_valid(self, here, run_cli):
        result = run_cli("devices", "new", "mine", "--core", "cortex-m33", "--ram", "256KiB", "--flash", "1MiB")
        assert result.exit_code == 0
        assert "Wrote mine.toml, which extends nrf5340" in result.stdout
        text = (here / "mine.toml").read_text()
        assert tomllib.loads(text) == {
            "schema_version": 1,
            "name": "mine",
            "extends": "nrf5340",
            "description": "mine, started from nrf5340",
            "memory": {"regions": {"sram": {"bytes": "256KiB"}}},  # its flash has 1 MiB already
            "sources": {"memory.regions.sram.bytes": "unverified"},
        }
        assert '# kernels = "cmsis-nn"' in text.splitlines()
        profile = load_profile("./mine.toml")
        assert profile.memory.usable_ram_bytes == (256 - 64) * 1024
        assert "memory.regions.sram.bytes" in profile.unverified

    @pytest.mark.parametrize("start", profile_names())
    def test_any_profile_can_be_started_from_and_its_comments_are_its_values(self, here, run_cli, start):
        assert run_cli("devices", "new", "mine", "--from", start).exit_code == 0
        path = here / "mine.toml"
        mine, parent = read_profile(path), load_profile(start)
        same = {"name", "description", "sources"}
        assert mine.model_dump(exclude=same) == parent.model_dump(exclude=same)
        # Uncommented, the comments are the parent's own values; only their sources have to be added.
        lines = [line.removeprefix("# ") for line in path.read_text().splitlines()[1:]]
        lines = [line for line in lines if not line.startswith(("without", '"cpu.clock_hz"'))]
        lines += [f'"{key}" = "x"' for key in ("cpu", "memory", "npu", "power") if getattr(parent, key) is not None]
        path.write_text("\n".join(lines))
        assert read_profile(path).table["memory"] == parent.table["memory"]
        assert read_profile(path).model_dump(exclude=same) == parent.model_dump(exclude=same)

    def test_from_your_own_file(self, here, run_cli):
        assert run_cli("devices", "new", "first", "--kind", "ios").exit_code == 0
        assert run_cli("devices", "new", "second", "--from", "first.toml", "--ram", "6GB").exit_code == 0
        second = read_profile(here / "second.toml")
        assert second.extends == ("first", "iphone12")
        assert second.memory.regions["ram"].bytes == 6 * 10**9

    def test_flash_for_a_device_without_any(self, here, run_cli):
        result = run_cli("devices", "new", "mine", "--from", "rpi4", "--flash", "8MiB", "--json")
        assert json.loads(result.stdout) == {"schema": "edgecomp.device_file/1", "path": "mine.toml", "extends": "rpi4"}
        assert load_profile("mine.toml").memory.usable_flash_bytes == 8 * 2**20

    MISTAKES = [  # noqa: RUF012
        ("mine", "Nothing is known of the new device. Say what it is like"),
        ("Mine --kind mcu", "A name has lower-case letters, digits, - and _, and no .toml; got 'Mine'"),
        ("mine.toml --kind mcu", "got 'mine.toml'"),
        ("rpi4 --kind mcu", "rpi4 ships with edgecomp: choose another name"),
        ("mine --from rpi44", "Unknown device 'rpi44'. Did you mean 'rpi4'?"),
        ("mine --from nowhere.toml", "nowhere.toml: cannot be read"),
        ("mine --from stm32l4r5 --ram 16KiB", "reserved_bytes must be from 0 to below bytes (16384), got 32768"),
        ("mine --from rpi4 --kind mcu", 'memory.regions needs one of kind "flash"'),
    ]

    @pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
    def test_a_mistake_writes_nothing(self, here, run_cli, line, sentence):
        result = run_cli("devices", "new", *line.split())
        assert result.exit_code == 2
        assert sentence in " ".join(result.stderr.split())
        assert list(here.iterdir()) == []

    def test_never_overwrites(self, here, run_cli):
        (here / "mine.toml").write_text("precious")
        result = run_cli("devices", "new", "mine", "--kind", "mcu")
        assert result.exit_code == 2
        assert "mine.toml exists already." in result.stderr
        assert (here / "mine.toml").read_text() == "precious"
        assert [path.name for path in here.iterdir()] == ["mine.toml"]  # and no temporary file

    def test_whole_or_not_at_all(self, here, run_cli, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "link", full)
        result = run_cli("devices", "new", "mine", "--kind", "mcu")
        assert result.exit_code == 1
        assert "mine.toml cannot be written: No space left on device." in result.stderr
        assert list(here.iterdir()) == []

    def test_several_regions_of_flash(self, here):
        from edgecomp.devices import template

        table = tomllib.loads(load_profile("stm32l4r5").text)
        table["memory"]["regions"]["qspi"] = {"kind": "flash", "bytes": "8MiB"}
        with pytest.raises(UsageError, match=r"--flash 1\.0 MiB: stm32l4r5 has 2 regions of flash"):
            template("mine", table, "stm32l4r5", Wish(flash_bytes=2**20))


def fit(run_cli, here, *devices):
    words = [word for name in devices for word in ("--device", name)]
    result = run_cli("fit", *words, "--json")
    assert result.exit_code == 0, result.output
    return {device["device"]: device for device in json.loads(result.stdout)["devices"]}


@pytest.mark.slow
def test_fits_for_accelerators_and_variants(here, run_cli):
    """The Ethos-U runs what TFLM gives it, so the file is checked in TFLM; the Edge TPU hangs on LiteRT."""
    results = fit(run_cli, here, "coral-usb-rpi4", "ethos-u55-256", "stm32l4r5-x-cube-ai", "esp32s3-psram")
    for name, device in results.items():
        chosen = next(item for item in device["candidates"] if item["status"] == "chosen")
        assert chosen["name"] == "INT8"
        assert chosen["io"] == "int8"
        assert (chosen["tflm"] is not None) == (name != "coral-usb-rpi4")
        # The bundle's profile stands alone, with the figures of what it extends.
        with zipfile.ZipFile(device["bundle"]) as archive:
            table = tomllib.loads(archive.read("profile.toml").decode())
        assert DeviceProfile.model_validate(table).model_dump() == load_profile(name).model_dump()
    assert results["esp32s3-psram"]["limits"]["max_ram_bytes"] == 8 * 2**20


@pytest.mark.slow
def test_every_profile_can_be_fitted(here, run_cli):
    assert {device["status"] for device in fit(run_cli, here, *profile_names()).values()} == {"fits"}
