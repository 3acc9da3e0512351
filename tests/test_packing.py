"""Which file a fit ships for TFLM: slimmed always, coded where it would not fit otherwise."""

import importlib
import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest

from edgecomp import packing, stages
from edgecomp.budget import Budget
from edgecomp.bundle.verify import verify_bundle
from edgecomp.candidates import Target, tflm_available
from edgecomp.data import DataOptions
from edgecomp.errors import PackingError, RuntimeRefusedError
from edgecomp.files import sha256_of
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, TflmModel, load
from edgecomp.packing import ship_for_tflm
from edgecomp.preflight import preflight
from edgecomp.profile import Precision, load_profile
from edgecomp.quantize import QuantizationOptions
from edgecomp.tflite_edit import pack_model, unpack_model
from tests.conftest import ROOT, missing, read_npz
from tests.digits_bundle import MODELS
from tests.pack_models import clustered, k_means
from tests.whole_fits import chosen_of, fit

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning")

DIGITS = ROOT / "calibration_data" / "digits"


@pytest.fixture(scope="module", autouse=True)
def interpreter():
    if not tflm_available():
        missing("tflite-micro has wheels for Linux x86-64 only")


def call(function, **arguments):
    """What a worker does, in this process."""
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)(**arguments)


@pytest.fixture
def shop(tmp_path):
    """The embedded digits model and data in a run folder."""
    bench = stages.Workbench(tmp_path, "accuracy", 0)
    stages.prepare_data(bench, DataOptions(str(DIGITS / "digits.npz"), std=(16.0,)))
    model = (MODELS / "digits_float.tflite").read_bytes()
    bench.float_model.write_bytes(model)
    micro = SimpleNamespace(call=call)
    yield SimpleNamespace(bench=bench.with_model(read_graph(model)), micro=micro, once=lambda _key, make: make())
    for cached in (stages.bound_data, stages._quantizer):
        cached.cache_clear()


def target(device="stm32l4r5", **limits):
    profile = load_profile(device)
    return Target(profile, Budget.for_device(profile, **limits), "int8")


def made(shop, precision=Precision.INT8):
    return stages.make_candidate(shop.bench, QuantizationOptions(precision, "int8"))


def few_values(shop, count=8):
    """The INT8 file with so many values in all of a tensor."""
    data = clustered(made(shop).path.read_bytes(), count, shared=True)
    return stages._store(shop.bench, data, "by hand", ())


def answers(path, count=60):
    images = read_npz(DIGITS / "digits.npz")["x_test"][:count].astype(np.float32) / 16
    return TflmModel(path.read_bytes()).run({"x": images})[0]


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT16X8, Precision.FLOAT32, Precision.INT4_WEIGHTS])
def test_slimmed_in_every_precision(shop, precision):
    plain = made(shop, precision)
    shipped = ship_for_tflm(shop, target(), plain, coded=False)
    assert shipped.reason is None
    assert shipped.packing.kinds == ()
    assert shipped.packing.unpacked_sha256 == plain.sha256
    assert shipped.packing.unpacked_bytes == plain.model_bytes
    assert shipped.packing.proven_samples == 100
    assert shipped.packing.plain_bytes == shipped.model_bytes < plain.model_bytes
    data = shipped.path.read_bytes()
    assert (len(data), sha256_of(data), shipped.path.stem) == (shipped.model_bytes, shipped.sha256, shipped.sha256)
    assert np.array_equal(answers(shipped.path), answers(plain.path))
    micro = TflmModel(data)
    micro.run({"x": np.zeros((1, 8, 8, 1), np.float32)})
    assert shipped.arena_bytes == micro.arena_bytes()["total"]


def test_coded_where_it_is_asked_for(shop):
    plain = few_values(shop)
    slim, coded = (ship_for_tflm(shop, target(), plain, coded=coded) for coded in (False, True))
    assert slim.packing.kinds == ()
    assert set(coded.packing.kinds) <= {"LUT", "HUFFMAN", "PRUNE"} != set()
    assert coded.packing.plain_bytes == slim.model_bytes > coded.model_bytes
    assert np.array_equal(answers(coded.path), answers(plain.path))


def test_float_weights_are_not_coded(shop):
    shipped = ship_for_tflm(shop, target(), made(shop, Precision.FLOAT32), coded=True)
    assert (shipped.packing.kinds, shipped.reason) == ((), "weights are not coded: none has 8 bits")


def test_coded_where_the_slimmed_file_is_too_large(shop):
    plain = few_values(shop)
    slim, coded = (ship_for_tflm(shop, target(), plain, coded=coded) for coded in (False, True))
    for limit, want in (
        (slim.model_bytes, slim),
        (slim.model_bytes - 1, coded),
        (coded.model_bytes, coded),
        (coded.model_bytes - 1, coded),  # does not fit either, and is the nearest
    ):
        assert ship_for_tflm(shop, target(max_model_bytes=limit), plain, coded=False) == want


def test_decoding_keeps_to_the_ram(shop):
    plain = few_values(shop)
    slim, coded = (ship_for_tflm(shop, target(), plain, coded=coded) for coded in (False, True))
    assert coded.arena_bytes > slim.arena_bytes
    kept = ship_for_tflm(shop, target(max_ram_bytes=slim.arena_bytes), plain, coded=True)
    assert kept.sha256 == slim.sha256
    assert kept.reason.startswith("weights are not coded: ")
    for limit in range(slim.arena_bytes, coded.arena_bytes + 512, 256):
        assert ship_for_tflm(shop, target(max_ram_bytes=limit), plain, coded=True).arena_bytes <= limit


def test_other_runtimes_get_the_file_as_it_was_made(shop):
    plain = made(shop)
    for device in ("rpi4", "ethos-u55-128"):
        shipped = ship_for_tflm(shop, target(device), plain, coded=True)
        assert (shipped.sha256, shipped.packing, shipped.reason) == (plain.sha256, None, None)


def test_without_tflite_micro_nothing_is_packed(shop, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plain = made(shop)
    shipped = ship_for_tflm(shop, target(), plain, coded=True)
    assert (shipped.sha256, shipped.packing, shipped.arena_bytes) == (plain.sha256, None, None)
    assert shipped.reason == "tflite-micro, which proves packed files equal, is not installed here"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PackingError("The file carries a memory plan.", hint="Pack before."), "The file carries a memory plan"),
        (RuntimeRefusedError("TFLM stops."), "TFLM stops"),
    ],
)
def test_what_cannot_be_packed_stays_as_it_is(shop, monkeypatch, error, reason):
    def refuse(function, **arguments):
        raise error

    plain = made(shop)
    monkeypatch.setattr(shop.micro, "call", refuse)
    shipped = ship_for_tflm(shop, target(), plain, coded=True)
    assert (shipped.sha256, shipped.packing, shipped.reason) == (plain.sha256, None, reason)


def test_what_is_not_equal_stays_as_it_is(shop, monkeypatch):
    from edgecomp.pack import tflm

    # A slimmer that breaks the file: other weights.
    monkeypatch.setattr(
        tflm, "slim", lambda model: [setattr(buffer, "data", _zeros(buffer)) for buffer in model.buffers]
    )
    plain = made(shop)
    shipped = ship_for_tflm(shop, target(), plain, coded=True)
    assert (shipped.sha256, shipped.packing) == (plain.sha256, None)
    assert "outputs are not equal" in shipped.reason


def _zeros(buffer):
    return None if buffer.data is None else np.zeros_like(np.asarray(buffer.data))


def test_samples_of_the_proof_go_by_the_work():
    # ResNet8 has 12.5 M MACs, a MobileNet 300 M, the digits model 0.1 M.
    assert [packing._samples(macs) for macs in (0, 100_000, 12_500_000, 300_000_000)] == [100, 100, 32, 16]


def test_a_packed_file_has_an_estimate_above_that_of_the_plain_one(shop):
    plain = few_values(shop)
    coded = ship_for_tflm(shop, target(), plain, coded=True)
    aim = target()
    reports = []
    for path in (plain.path, coded.path):
        data = path.read_bytes()
        reports.append(preflight(data, read_graph(data), aim.profile, aim.budget))
    before, after = reports
    assert after.status == "fits"
    assert after.latency.value_ms > before.latency.value_ms
    assert after.latency.high_ms / after.latency.low_ms > before.latency.high_ms / before.latency.low_ms
    assert "DECODE: counted from TFLM's source, not fitted." in after.latency.notes
    assert not any("DECODE" in note for note in before.latency.notes)


@pytest.mark.slow
class TestFit:
    """Through the command line."""

    def float_model(self, folder):
        """The float digits model with 8 values in each weight tensor: its INT8 channels have 8 values each."""
        model = unpack_model((MODELS / "digits_float.tflite").read_bytes(), "test")
        for tensor in model.subgraphs[0].tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) >= 1024 and tensor.type == 0:
                values = np.frombuffer(bytes(data), np.float32)
                step = np.abs(values).max() / 127
                grid = k_means(np.round(values / step).astype(np.int8), 8)
                model.buffers[tensor.buffer].data = np.frombuffer((grid * np.float32(step)).tobytes(), np.uint8)
        path = folder / "few.tflite"
        path.write_bytes(pack_model(model))
        return path

    def run(self, folder, model, *limits):
        data = DIGITS / "digits.npz"
        arguments = ("--device", "stm32l4r5", "--std", "16", "--precision", "INT8", "--max-accuracy-drop", "100pp")
        return fit(folder, model, "--data", data, *arguments, *limits)

    def test_coded_only_under_a_limit_of_size(self, tmp_path):
        model = self.float_model(tmp_path)
        code, body = self.run(tmp_path, model)
        assert code == 0, body
        slim = chosen_of(body, "stm32l4r5")
        assert slim["packing"]["kinds"] == []
        code, body = self.run(tmp_path, model, "--max-model-size", f"{slim['model_bytes'] - 1}B")
        assert code == 0, body
        coded = chosen_of(body, "stm32l4r5")
        assert coded["packing"]["kinds"]
        assert coded["packing"]["plain_bytes"] == slim["model_bytes"] > coded["model_bytes"]
        assert coded["packing"]["unpacked_sha256"] == slim["packing"]["unpacked_sha256"]
        assert coded["accuracy"]["value"] == slim["accuracy"]["value"]
        assert coded["accuracy"]["kernels"] == coded["robustness"]["kernels"] == "TFLM"
        folder = tmp_path / "bundles" / "few-stm32l4r5"
        shipped = (folder / "model.tflite").read_bytes()
        assert (len(shipped), sha256_of(shipped)) == (coded["model_bytes"], coded["sha256"])
        assert sha256_of((folder / "unpacked.tflite").read_bytes()) == coded["packing"]["unpacked_sha256"]
        assert "resolver.AddDecode();" in (folder / "model_data.h").read_text()
        assert verify_bundle(folder).max_difference_lsb == 0

    def test_the_bundle_of_a_slimmed_file(self, tmp_path, monkeypatch):
        code, body = fit(tmp_path, "--device", "stm32l4r5")
        assert code == 0, body
        chosen = chosen_of(body, "stm32l4r5")
        assert chosen["packing"]["kinds"] == []
        folder = tmp_path / "bundles" / "digits_cnn-stm32l4r5"
        assert chosen["model_bytes"] == (folder / "model.tflite").stat().st_size
        assert chosen["packing"]["unpacked_bytes"] == (folder / "unpacked.tflite").stat().st_size
        assert chosen["model_bytes"] < 0.75 * chosen["packing"]["unpacked_bytes"]  # 8,060 and 12,272 bytes
        assert np.array_equal(answers(folder / "model.tflite"), answers(folder / "unpacked.tflite"))
        manifest = json.loads((folder / "manifest.json").read_text())
        assert [item["name"] for item in manifest["inputs"]] == [
            "image"
        ]  # not "tensor 0": the packed file has no names
        assert "AddDecode" not in (folder / "model_data.h").read_text()
        assert verify_bundle(folder).kernels == "TFLM"

        # Elsewhere there is no tflite-micro, and LiteRT takes the unpacked file.
        def elsewhere(data, kernels, **options):
            if kernels is KernelFamily.TFLM:
                raise ModuleNotFoundError
            return load(data, kernels, **options)

        monkeypatch.setattr("edgecomp.bundle.verify.load", elsewhere)
        assert verify_bundle(folder).kernels == "LITERT_REFERENCE"
