"""The command line as its users meet it: help, cold starts, and mistakes answered with one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

import edgecomp
from edgecomp.cli import main
from tests.conftest import ROOT, read_npz

DIGITS = ROOT / "calibration_data" / "digits"


def commands(group=main, path=()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
class TestEveryCommand:
    def test_has_help_for_itself_and_its_options(self, path):
        command = COMMANDS[path]
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{' '.join(path)} {parameter.opts[0]} has no help"

    def test_stands_in_the_docs(self, path):
        text = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
        assert f"edgecomp {' '.join(path)}" in text

    def test_prints_json_when_asked(self, path):
        command = COMMANDS[path]
        if not isinstance(command, click.Group):
            assert "--json" in {option for parameter in command.params for option in parameter.opts}


def test_every_option_of_fit_stands_in_the_docs():
    text = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for parameter in main.commands["fit"].params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in text, f"{parameter.opts[0]} is not documented"


COLD = [
    ["--help"],
    ["fit", "--help"],
    ["devices", "list"],
    ["devices", "show", "rpi4", "--json"],
]


def loaded_modules(code):
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("arguments", COLD, ids=" ".join)
def test_cold_commands_import_nothing_heavy(arguments):
    modules = loaded_modules(f"from edgecomp.cli import main; main({arguments!r})")
    heavy = {"tensorflow", "tf_keras", "keras", "ai_edge_quantizer", "ai_edge_litert", "asyncssh", "numpy", "rich"}
    assert not heavy & modules


def test_bundle_commands_and_bench_import_no_tensorflow():
    modules = loaded_modules(
        "import edgecomp.request, edgecomp.pipeline, edgecomp.bundle.verify, edgecomp.report.terminal"
    )
    assert not {"tensorflow", "tf_keras", "keras", "ai_edge_quantizer"} & modules


def test_the_public_names():
    assert sorted(edgecomp.__all__) == [
        "Budget", "Bundle", "DataOptions", "DeviceProfile", "EdgecompError", "FitRequest", "FitResult", "Graph",
        "MatrixResult", "Measurement", "Precision", "RefitRequest", "Store", "Target", "bench_bundle", "connect", "fit",
        "fit_matrix", "load_profile", "read_bundle", "read_graph", "refit", "verify_bundle",
    ]  # fmt: skip
    for name in edgecomp.__all__:
        assert getattr(edgecomp, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'fti'"):
        _ = edgecomp.fti


def test_importing_edgecomp_is_cheap():
    assert not {"numpy", "click", "pydantic"} & loaded_modules("import edgecomp")


def test_the_schemas_in_docs_are_those_of_the_code():
    sys.path.insert(0, str(ROOT / "scripts"))
    from write_schemas import SCHEMAS, schema_text

    for name, model in SCHEMAS.items():
        assert (ROOT / "docs" / name).read_text() == schema_text(model), "run python scripts/write_schemas.py"


@pytest.fixture
def files(tmp_path):
    """Real files and broken ones, in a folder of their own."""
    data = read_npz(DIGITS / "digits.npz")
    folder = tmp_path / "in"
    folder.mkdir()

    def save(name, **changes):
        arrays = {key: value for key, value in (data | changes).items() if value is not None}
        np.savez(folder / name, **arrays)

    save("good.npz")
    with_nan = data["x_train"].astype(np.float32)
    with_nan[17, 3, 3] = np.nan
    save("nan.npz", x_train=with_nan)
    save("labels.npz", y_test=np.where(np.arange(360) == 5, 10, data["y_test"]))
    save("empty_test.npz", x_test=data["x_test"][:0], y_test=data["y_test"][:0])
    save("shape.npz", **{key: value[:, :7] for key, value in data.items() if key.startswith("x_")})
    save("few.npz", x_calib=None, y_calib=None, x_train=data["x_train"][:150], y_train=data["y_train"][:150])
    shutil.copy(DIGITS / "digits_cnn.keras", folder / "good.keras")
    whole = (folder / "good.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "text.tflite").write_text("this is no flatbuffer at all")
    (folder / "notes.txt").write_text("hello")
    (folder / "settings.toml").write_text('[limits]\nmax_rom = "48KiB"\n[devices.rpi4]\n')
    (folder / "typo.toml").write_text(edgecomp.load_profile("rpi4").text.replace("cores", "coers"))
    return folder


MISTAKES = [
    # (arguments; {} is the folder of the files), exit code, what the sentence says
    ("fit", 2, "Missing option '--device'"),
    ("fit --device rpi", 2, "Did you mean 'rpi4'?"),
    ("fit --device rpi4 --device rpi4", 2, "--device rpi4 is given twice"),
    ("fit --device {}/typo.toml", 2, "unknown key cpu.coers"),
    ("fit --device rpi4 --max-model-size 3parsecs", 2, "Unknown unit 'parsecs'"),
    ("fit --device rpi4 --max-accuracy-drop 1", 2, "'1' needs a unit: pp"),
    ("fit --device rpi4 --max-flips 5", 2, "A share must lie between 0 and 1"),
    ("fit --device rpi4 --max-energy 5ms", 2, "needs a unit of energy"),
    ("fit --device rpi4 --minimize weight", 2, "'weight' is not one of"),
    ("fit --device rpi4 --min-accuracy 85", 2, "--min-accuracy 85 can never be judged: accuracy lies between 0 and 1"),
    ("fit --config {}/nowhere.toml", 2, "nowhere.toml: cannot be read"),
    ("fit --config {}/settings.toml", 2, "settings.toml: unknown key limits.max_rom"),
    ("fit --device esp32s3-psram --max-latency 5ms", 1, "esp32s3-psram: --max-latency cannot be judged"),
    ("fit --device coral-dev-board --max-latency 5ms", 1, "its profile names no cost family"),
    ("fit --device stm32l4r5 --host local", 2, "a microcontroller cannot be reached by SSH"),
    ("fit --device rpi4 --host pixel4=local", 2, "'pixel4' is not among --device rpi4"),
    ("fit {}/good.keras --device rpi4", 2, "--data is missing"),
    ("fit --data {}/good.npz --device rpi4", 2, "MODEL is missing"),
    ("fit {}/good.keras --data {}/good.npz --device rpi4 --mean one", 2, "expected numbers with commas between"),
    ("fit {}/good.keras --data {}/good.npz --device rpi4 --std 0", 2, "--std must be above zero"),
    ("fit {}/good.keras --data {}/good.npz --device rpi4 --metric acuracy", 2, "acuracy"),
    ("fit {}/good.keras --data {}/good.npz --device stm32l4r5 --precision FLOAT16", 2, "runs none of the precisions"),
    ("fit {}/nowhere.keras --data {}/good.npz --device rpi4", 1, "nowhere.keras: no such file"),
    ("fit {}/notes.txt --data {}/good.npz --device rpi4", 1, "unknown kind of model file '.txt'"),
    ("fit {}/text.tflite --data {}/good.npz --device rpi4", 1, "text.tflite"),
    ("fit {}/cut.keras --data {}/good.npz --device rpi4", 1, "cut.keras"),
    ("fit {}/good.keras --data {}/nowhere.npz --device rpi4", 2, "nowhere.npz"),
    ("fit {}/good.keras --data {}/text.tflite --device rpi4", 1, "text.tflite: is not an .npz file"),
    ("fit {}/good.keras --data {}/nan.npz --device rpi4", 1, "sample 17 has NaN"),
    ("fit {}/good.keras --data {}/empty_test.npz --device rpi4", 1, "test"),
    ("fit {}/good.keras --data {}/few.npz --device rpi4", 1, "calibration"),
    ("fit {}/good.keras --data {}/labels.npz --device rpi4", 1, "10"),
    ("fit {}/good.keras --data {}/shape.npz --device rpi4", 1, "(7, 8, 1)"),
    ("fit --device rpi4 --out {}/notes.txt", 1, "Cannot write to the output folder"),
    ("bench {}/notes.txt --host local", 1, "cannot be read as a bundle"),
    ("bundle verify {}/nowhere.zip", 1, "There is no bundle at"),
    ("bundle show {}/good.keras", 1, "is not a bundle: it has no manifest.json"),
    ("devices show esp33", 2, "Unknown device 'esp33'"),
    ("devices shwo rpi4", 2, "No such command 'shwo'"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "sentence"), MISTAKES, ids=[line.replace("{}/", "") for line, *_ in MISTAKES])
def test_a_mistake_gets_one_sentence_and_its_exit_code(files, tmp_path, run_cli, monkeypatch, line, code, sentence):
    monkeypatch.chdir(tmp_path)
    before = sorted(files.iterdir())
    result = run_cli(*line.replace("{}", str(files)).split())
    assert result.exit_code == code, result.output
    error = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    assert len(error) == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert sorted(files.iterdir()) == before
    bundles = tmp_path / "bundles"
    assert not bundles.exists() or list(bundles.iterdir()) == []


def test_ctrl_c_inside_exec_ends_with_130(tmp_path):
    """After it `python -m` would die of the signal at its end, without our exit code. Dataclasses are made so."""
    (tmp_path / "interrupted.py").write_text(
        "from edgecomp.cli import main\n"
        "main.commands['check'].callback = lambda **_: exec('raise KeyboardInterrupt')\n"
        "main(['check', 'model.tflite', '--device', 'rpi4'])\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    paths = os.pathsep.join(map(str, (tmp_path, ROOT)))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "Interrupted.")


def test_with_json_an_error_is_an_object_too(run_cli):
    result = run_cli("fit", "--device", "rpi", "--json")
    body = json.loads(result.stdout)
    assert body["schema"] == "edgecomp.error/1"
    assert body["error"] == "Unknown device 'rpi'."
    assert body["exit_code"] == result.exit_code == 2
    assert "Did you mean 'rpi4'?" in body["hint"]


def test_a_read_only_output_folder(tmp_path, run_cli):
    # Root may write to any ordinary folder, but not make one in /proc.
    folder = tmp_path / "locked" if os.geteuid() else Path("/proc/edgecomp")
    if os.geteuid():
        folder.mkdir(mode=0o500)
    result = run_cli("fit", "--device", "rpi4", "--out", folder)
    assert result.exit_code == 1
    assert f"Cannot write to the output folder {folder}: " in result.stderr


def test_devices_list_names_every_profile(run_cli):
    table = run_cli("devices", "list").stdout
    listed = json.loads(run_cli("devices", "list", "--json").stdout)["devices"]
    for path in (ROOT / "device_profiles").glob("*.toml"):
        assert path.stem in table
        assert path.stem in {item["name"] for item in listed}
