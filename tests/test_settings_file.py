"""edgecomp.toml: what it may hold, and what wins."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

import edgecomp.pipeline
from edgecomp.cli import main
from edgecomp.errors import EdgecompError, UsageError
from edgecomp.objective import Objective
from edgecomp.settings_file import DeviceSettings, FitSettings, LimitSettings, find_settings, load_settings, merge
from edgecomp.units import Drop
from tests.conftest import ROOT

DIGITS = ROOT / "calibration_data" / "digits"


@pytest.fixture
def write(tmp_path):
    def save(text, name="edgecomp.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return save


def example():
    [text] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "config.md").read_text(), re.DOTALL)
    return text


class TestTheExampleOfTheDocs:
    def test_it_is_read_whole(self, write):
        path = write(example())
        settings = load_settings(path)
        table = tomllib.loads(example())
        assert set(settings.fit.stated) == set(table["fit"])
        assert set(settings.limits.stated) == set(table["limits"])
        assert settings.fit.model == (str(path.parent / "model.keras"),)
        assert settings.fit.std == (255.0,)
        assert settings.fit.minimize is Objective.SIZE
        assert settings.limits.max_accuracy_drop == Drop(0.01)
        assert settings.limits.max_flips == pytest.approx(0.02)
        assert settings.limits.max_model_size == 98_304  # 96 * 1024
        assert set(settings.devices) == {"rpi4", "stm32l4r5", str(path.parent / "boards" / "mine.toml")}
        assert settings.devices["stm32l4r5"].stated == {
            "io": "int8", "max_model_size": 49_152, "max_ram": 65_536, "max_energy": 5.0,
        }  # fmt: skip

    def test_fit_has_an_option_for_every_key_of_it(self, write):
        options = {parameter.name: parameter.default for parameter in main.commands["fit"].params}
        merge(options, (), load_settings(write(example())))

    def test_every_key_stands_in_the_docs(self):
        page = (ROOT / "docs" / "config.md").read_text()
        for table in (FitSettings, LimitSettings, DeviceSettings):
            for key in table.model_fields:
                assert f"`{key}`" in page


def test_every_limit_of_the_command_line_has_a_key():
    limits = {item.name for item in main.commands["fit"].params if item.name.startswith(("max_", "min_"))}
    assert limits == set(LimitSettings.model_fields)


MISTAKES = [
    ("[fit]\nmetrc = 'mae'", "unknown key fit.metrc.", "Did you mean 'metric'?"),
    ("[limit]\nmax_ram = '1KiB'", "unknown key limit.", "Did you mean 'limits'?"),
    ("max_ram = '1KiB'", "unknown key max_ram.", "Known: devices, fit, limits"),
    ("limits = 5", "limits must be a table: write [limits].", ""),
    ("[limits]\nmax_ram = '64 parsecs'", "limits.max_ram: Unknown unit 'parsecs' in '64 parsecs'", ""),
    ("[limits]\nmax_latency = 20", 'limits.max_latency: write a time as text, like "20ms", got 20.', ""),
    ("[limits]\nmax_accuracy_drop = '1'", "limits.max_accuracy_drop: '1' needs a unit", ""),
    ("[limits]\nmax_flips = 5", "limits.max_flips: A share must lie between 0 and 1", ""),
    ("[limits]\nmin_accuracy = '85%'", "limits.min_accuracy: write a number, got '85%'.", ""),
    ("[limits]\nhost = 'pi@there'", "unknown key limits.host.", ""),
    ("[fit]\nmean = 'zero'", "fit.mean: write one number, or a list of one per channel, got 'zero'.", ""),
    ("[fit]\nmodel = 5", "fit.model: write one path, or a list of them, got 5.", ""),
    ("[fit]\nmodel = []", "fit.model: write one path, or a list of them, got [].", ""),
    ("[fit]\nmodel = ['a.keras', 5]", "fit.model: write one path, or a list of them, got ['a.keras', 5].", ""),
    ("[fit]\nseed = -1", "fit.seed: ", ""),
    ("[fit]\nseed = true", "fit.seed: ", ""),
    ("[fit]\nminimize = 'weight'", "fit.minimize: ", ""),
    ("[fit]\nprecision = ['INT7']", "fit.precision: ", ""),
    ("[fit]\ntrust_model_code = true", "unknown key fit.trust_model_code.", ""),
    ("[devices.rpi]", "devices.rpi: Unknown device 'rpi'.", "Did you mean 'rpi4'?"),
    ("[devices.rpi4]\nmetric = 'mae'", "unknown key devices.rpi4.metric.", ""),
    ("[devices]\nrpi4 = 1", "devices.rpi4 must be a table: write [devices.rpi4].", ""),
    ("[fit", "not valid TOML", ""),
]


@pytest.mark.parametrize(("text", "sentence", "hint"), MISTAKES, ids=[text.replace("\n", " ") for text, *_ in MISTAKES])
def test_a_mistake_is_told_with_file_and_key(write, text, sentence, hint):
    path = write(text)
    with pytest.raises(UsageError) as caught:
        load_settings(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert sentence in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


def test_it_is_looked_for_next_to_the_model_and_nowhere_else(write, tmp_path, monkeypatch):
    path, other = write("[fit]\nseed = 1"), write("[fit]\nseed = 2", "other.toml")
    monkeypatch.chdir(tmp_path)
    assert find_settings([tmp_path / "model.keras"], None).path == path
    assert find_settings([tmp_path / "model.keras"], other).fit.seed == 2
    assert find_settings([Path("model.keras")], None).fit.seed == 1
    assert find_settings([tmp_path / "deeper" / "model.keras"], None) is None
    assert find_settings([], None) is None
    with pytest.raises(UsageError, match=r"nowhere.toml: cannot be read: No such file"):
        find_settings([], tmp_path / "nowhere.toml")


def test_of_several_models_one_file_holds_for_all(write, tmp_path):
    path = write("[fit]\nseed = 1")
    (tmp_path / "deeper").mkdir()
    models = [tmp_path / "a.keras", tmp_path / "deeper" / "b.keras", tmp_path / "deeper" / ".." / "c.keras"]
    assert find_settings(models, None).path == path
    write("[fit]\nseed = 2", "deeper/edgecomp.toml")
    with pytest.raises(UsageError, match=r"different files with options: .*Say with --config which one") as caught:
        find_settings(models, None)
    assert str(tmp_path / "deeper" / "edgecomp.toml") in str(caught.value)
    assert find_settings(models, path).fit.seed == 1


def test_one_model_or_a_list_of_them(write, tmp_path):
    settings = load_settings(write('[fit]\nmodel = ["a.keras", "b/c.h5"]'))
    assert settings.fit.model == (str(tmp_path / "a.keras"), str(tmp_path / "b" / "c.h5"))
    merged = merge({"models": (), "devices": ()}, (), settings)
    assert merged.options["models"] == (tmp_path / "a.keras", tmp_path / "b" / "c.h5")
    typed = merge({"models": (Path("d.keras"),), "devices": ()}, ("models",), settings)
    assert typed.options["models"] == (Path("d.keras"),)


def test_an_option_that_the_command_has_not_is_an_error(write):
    settings = load_settings(write("[fit]\nepochs = 3"))
    with pytest.raises(UsageError, match=r"fit\.epochs: this command has no --epochs"):
        merge({"devices": ()}, (), settings)


def test_functions_are_no_paths(write):
    assert load_settings(write("[fit]\ndata = 'mine:images'")).fit.data == "mine:images"


@pytest.fixture
def requests(monkeypatch):
    """Requests that `edgecomp fit` makes, which are not carried out."""
    made = []

    def refuse(request, progress):
        made.append(request)
        raise EdgecompError("enough")

    monkeypatch.setattr(edgecomp.pipeline, "fit", refuse)
    return made


FILE = """
[fit]
model = "model.keras"
data = "data.npz"
mean = 0
std = [16]
seed = 3
out = "out"
minimize = "ram"
io = "int8"

[limits]
max_ram = "100KiB"
max_latency = "20ms"
max_flips = 0.5

[devices.stm32l4r5]
max_ram = "50KiB"
io = "uint8"

[devices.rpi4]
"""


class TestWhatWins:
    @pytest.fixture
    def ask(self, tmp_path, run_cli, requests):
        (tmp_path / "edgecomp.toml").write_text(FILE)

        def run(*arguments):
            result = run_cli("fit", *arguments)
            assert "enough" in result.stderr, result.output
            request = requests.pop()
            return request, {target.profile.name: target for target in request.targets}

        return run

    def test_the_file_goes_over_the_defaults_and_its_devices_over_the_rest_of_it(self, ask, tmp_path):
        request, targets = ask("--config", tmp_path / "edgecomp.toml")
        assert request.model == tmp_path / "model.keras"
        assert request.data.source == str(tmp_path / "data.npz")
        assert (request.data.mean, request.data.std, request.seed) == ((0.0,), (16.0,), 3)
        assert (request.out, request.minimize) == (tmp_path / "out", Objective.RAM)
        assert list(targets) == ["stm32l4r5", "rpi4"]
        assert targets["stm32l4r5"].budget.max_ram_bytes == 50 * 1024
        assert targets["rpi4"].budget.max_ram_bytes == 100 * 1024
        assert {name: target.io for name, target in targets.items()} == {"stm32l4r5": "uint8", "rpi4": "int8"}
        for target in targets.values():
            assert target.budget.max_latency_ms == 20
            assert target.budget.max_flips == 0.5
            assert target.budget.max_accuracy_drop == Drop(0.01)  # the profile's

    def test_the_command_line_goes_over_everything(self, ask, tmp_path):
        typed = ("--max-ram", "70KiB", "--io", "float32", "--seed", "0", "--out", "mine", "--minimize", "accuracy-drop")
        request, targets = ask(tmp_path / "model.h5", *typed)
        assert request.model == tmp_path / "model.h5"
        assert (request.seed, request.out) == (0, Path("mine"))  # 0 is the default, but it was typed
        assert request.minimize is Objective.ACCURACY_DROP
        assert [target.budget.max_ram_bytes for target in targets.values()] == [70 * 1024] * 2
        assert [target.io for target in targets.values()] == ["float32"] * 2

    def test_device_picks_and_adds(self, ask, tmp_path):
        _, targets = ask(tmp_path / "model.keras", "--device", "pixel4", "--device", "stm32l4r5")
        assert list(targets) == ["pixel4", "stm32l4r5"]
        assert targets["pixel4"].budget.max_ram_bytes == 100 * 1024
        assert targets["stm32l4r5"].budget.max_ram_bytes == 50 * 1024

    def test_a_profile_of_ones_own_by_its_path(self, ask, tmp_path, monkeypatch):
        shutil.copy(ROOT / "device_profiles" / "rpi4.toml", tmp_path / "mine.toml")
        with (tmp_path / "edgecomp.toml").open("a") as file:
            file.write('[devices."mine.toml"]\nmax_ram = "9KiB"\n')
        monkeypatch.chdir(tmp_path)
        _, targets = ask("model.keras", "--device", "./mine.toml")
        assert targets["rpi4"].budget.max_ram_bytes == 9 * 1024

    def test_hosts(self, ask, tmp_path, monkeypatch):
        path, tried = tmp_path / "edgecomp.toml", []

        class Connection:
            def close(self):
                pass

        def connect(host):
            tried.append(host)
            return Connection()

        monkeypatch.setattr("edgecomp.request.connect", connect)
        path.write_text(f'{FILE}host = "pi@file"\n')
        _, targets = ask("--config", path)
        assert tried == ["pi@file"]
        assert targets["rpi4"].measure is not None
        assert targets["stm32l4r5"].measure is None
        ask("--config", path, "--host", "rpi4=pi@typed")
        assert tried == ["pi@file", "pi@typed"]


def test_a_host_for_a_microcontroller_is_a_mistake(write, run_cli):
    result = run_cli("fit", "--config", write('[devices.stm32l4r5]\nhost = "local"\n'))
    assert result.exit_code == 2
    assert "devices.stm32l4r5.host is of no use: a microcontroller cannot be reached by SSH" in result.stderr


def test_without_a_device_anywhere(write, run_cli):
    result = run_cli("fit", "--config", write("[limits]\n"))
    assert result.exit_code == 2
    assert "Missing option '--device'" in result.stderr


@pytest.mark.slow
def test_a_fit_from_a_file_alone(write, run_cli, tmp_path):
    shutil.copy(DIGITS / "digits_cnn.keras", tmp_path / "model.keras")
    shutil.copy(DIGITS / "digits.npz", tmp_path / "data.npz")
    text = '[fit]\ndata = "data.npz"\nmean = 0\nstd = 16\nout = "out"\nprecision = ["INT8"]\n[limits]\n'
    write(f'{text}min_accuracy = 0.9\nmax_flips = "5%"\n[devices.rpi4]\nmax_latency = "1s"\n')
    result = run_cli("fit", tmp_path / "model.keras", "--json")
    assert result.exit_code == 0, result.stderr
    [device] = json.loads(result.stdout)["devices"]
    assert device["limits"] == {
        "max_accuracy_drop": None, "min_accuracy": 0.9, "max_flips": 0.05, "max_model_bytes": None,
        "max_ram_bytes": 536_870_912, "max_latency_ms": 1000.0, "max_energy_mj": None,
    }  # fmt: skip
    assert Path(device["bundle"]).parent == tmp_path / "out"
    again = run_cli("fit", tmp_path / "model.keras", "--min-accuracy", "1", "--json")
    assert again.exit_code == 3
    [broken] = json.loads(again.stdout)["devices"][0]["candidates"][0]["breaks"]
    assert broken["limit"] == "accuracy"
    assert re.fullmatch(r"accuracy 0\.\d+, 0\.\d+ below the 1 asked for", broken["text"])
