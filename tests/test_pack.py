"""Packed files against the tflite-micro interpreter: equal output by output, as small as stated, refused elsewhere."""

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgecomp.bundle.firmware import model_header
from edgecomp.check import check_operators
from edgecomp.errors import GraphError, MissingDataError, PackingError, RuntimeRefusedError
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, TflmModel, load
from edgecomp.memory import estimate_arena
from edgecomp.pack import PlannedCode, _proof, estimate_packed_bytes, huffman_bits, pack_for_tflm, tflm
from edgecomp.pack.tflm import write_packed
from edgecomp.pack.tflm_lut import find_weights, smallest_codes
from edgecomp.profile import load_profile
from edgecomp.tflite_edit import pack_model, unpack_model
from tests.conftest import ROOT, missing
from tests.pack_models import clustered, digits, kws, resnet8, set_values

SAMPLES = 50


@pytest.fixture(scope="module", autouse=True)
def interpreter():
    if importlib.util.find_spec("tflite_micro") is None:
        missing("tflite-micro has wheels for Linux x86-64 only")


def outputs(data, x):
    model = TflmModel(data)
    return model.run({"x": x})[0]


def named(data, x):
    (spec,) = read_graph(data).inputs
    return {spec.name: x}


class Case:
    """A model, its inputs, and each clustering of it packed once."""

    def __init__(self, data, x):
        self.data, self.x = data, x[:SAMPLES]
        self._packed = {}

    def unpacked(self, values, shared):
        return self.data if values is None else clustered(self.data, values, shared=shared)

    def packed(self, values=None, shared=False):
        if (values, shared) not in self._packed:
            data = self.unpacked(values, shared)
            self._packed[values, shared] = pack_for_tflm(data, named(data, self.x))
        return self._packed[values, shared]


@pytest.fixture(scope="module")
def resnet(data_folder):
    return Case(*resnet8(data_folder))


@pytest.fixture(scope="module")
def speech(data_folder):
    return Case(*kws(data_folder))


@pytest.fixture(scope="module")
def small():
    return Case(*digits())


@pytest.mark.data
class TestResNet8:
    """98,496 bytes as MLPerf Tiny ships it, 77,360 of them weights."""

    # Bytes of the packed file, and how the large tensors are coded. With a table for each channel indices alone take
    # 19,340 / 29,010 / 38,680 bytes and tables 1,384 / 2,768 / 5,536.
    @pytest.mark.parametrize(
        ("values", "shared", "limit", "kind"),
        [(4, False, 27_500, "LUT"), (8, False, 38_500, "LUT"), (8, True, 35_200, "HUFFMAN")],
        ids=["2-bit", "3-bit", "8-values-in-all"],
    )
    def test_clustered(self, resnet, values, shared, limit, kind):
        packed = resnet.packed(values, shared)
        data = resnet.unpacked(values, shared)
        assert len(packed.data) == packed.report.after.file_bytes <= limit
        # The interpreter here, not the packer's own comparison.
        assert np.array_equal(outputs(packed.data, resnet.x), outputs(data, resnet.x))
        rows = sorted(packed.report.tensors, key=lambda row: row.elements)
        assert {row.kind for row in rows[-3:]} == {kind}
        assert all(row.after_bytes < row.before_bytes for row in rows if row.kind)
        assert all((row.reason is None) == (row.kind is not None) for row in rows)
        assert packed.report.samples == SAMPLES

    def test_without_clustering_only_entropy_is_saved(self, resnet):
        report = resnet.packed().report
        # 83,076 bytes without what TFLM never reads; int8 weights have 7.3 bits of entropy.
        assert report.slim.file_bytes <= 83_200
        assert report.slim.file_bytes - report.after.file_bytes >= 4_000
        assert {row.kind for row in report.tensors} <= {"HUFFMAN", None}
        assert all(row.reason == "it would not get smaller" for row in report.tensors if row.kind is None)

    def test_report_adds_up(self, resnet):
        report = resnet.packed(8, True).report
        parts = report.parts
        total = parts.streams + parts.tables + parts.plain + parts.biases + parts.scales + parts.structure
        assert total == report.after.file_bytes
        # 346 channels: a bias and a scale of 4 bytes each, and the scales of the activations.
        assert parts.biases == 4 * 346
        assert 4 * 337 <= parts.scales <= 4 * 346 + 100
        assert parts.streams + parts.tables == sum(row.after_bytes for row in report.tensors)
        assert parts.structure <= 4_000

    def test_arena_and_time_are_measured(self, resnet):
        report = resnet.packed(4).report
        before, after = report.before, report.after
        # Weights of a layer lie in the arena while they are read, the largest 36,864 bytes, beside its activations.
        assert before.arena_head_bytes == 49_152
        assert 49_152 < after.arena_head_bytes <= 55_000
        assert report.slim.arena_head_bytes == 49_152
        assert after.arena_total_bytes > after.arena_head_bytes
        assert before.ms > 0
        assert after.ms < 3 * before.ms
        assert report.runtime.startswith("tflite-micro ")

    def test_arena_is_estimated_as_it_is(self, resnet):
        for values, shared in ((4, False), (8, True)):
            report, graph = resnet.packed(values, shared).report, read_graph(resnet.packed(values, shared).data)
            estimate = estimate_arena(graph, word_bytes=8)
            assert estimate.head_bytes == report.after.arena_head_bytes
            assert estimate.total_bytes == pytest.approx(report.after.arena_total_bytes, rel=0.005)

    def test_packed_file_goes_through_the_rest(self, resnet):
        plain, graph = read_graph(resnet.data), read_graph(resnet.packed(8, True).data)
        assert graph.macs == plain.macs == 12_501_632
        assert graph.is_for_tflm_only
        assert not plain.is_for_tflm_only
        assert [(spec.shape[1:], spec.dtype, spec.scale) for spec in graph.inputs] == [
            (spec.shape[1:], spec.dtype, spec.scale) for spec in plain.inputs
        ]
        assert check_operators(graph, load_profile("nrf52840")) == []
        errors = [item for item in check_operators(graph, load_profile("linux-x86-64")) if item.severity == "error"]
        assert {item.operator for item in errors} == {"TFLM_DECODE"}

    def test_firmware_registers_decode(self, resnet):
        """TFLM's resolver has AddDecode() for it; without it the interpreter would not find TFLM_DECODE."""
        data = resnet.packed(8, True).data
        header = model_header(data, read_graph(data), arena_bytes=1, title="test").decode()
        assert "  resolver.AddDecode();" in header
        assert "MicroMutableOpResolver<6>" in header  # ADD, AVERAGE_POOL_2D, CONV_2D, FULLY_CONNECTED, SOFTMAX, DECODE

    @pytest.mark.parametrize("kernels", [family for family in KernelFamily if family is not KernelFamily.TFLM])
    def test_litert_says_why_it_does_not_run_it(self, resnet, kernels):
        for data in (resnet.packed(8, True).data, write_packed(resnet.data, {})):
            with pytest.raises(RuntimeRefusedError, match="packed for TensorFlow Lite Micro; LiteRT does not run it"):
                load(data, kernels)

    def test_a_limit_of_the_arena_is_kept(self, resnet):
        data = resnet.unpacked(8, True)
        limit = estimate_arena(read_graph(data)).total_bytes + 1_500
        packed = pack_for_tflm(data, named(data, resnet.x[:5]), arena_limit_bytes=limit)
        assert estimate_arena(read_graph(packed.data)).total_bytes <= limit
        left = [row for row in packed.report.tensors if row.kind is None]
        assert 0 < len(left) < 10
        assert {row.reason for row in left} == {f"decoding it would take the arena above {limit:,} bytes"}

    def test_one_scale_gets_one_table(self, resnet):
        """Its DECODE has no channels to step through: a table for each would be read wrongly."""
        last = [row for row in resnet.packed(8, True).report.tensors if row.channels == 1]
        assert [(row.elements, row.tables) for row in last] == [(640, 1)]

    def test_two_operators_with_the_same_weights(self, resnet):
        """Each gets a DECODE of its own, so that the weights need not live in between."""
        model = unpack_model(resnet.unpacked(4, False), "test")
        first, second = (model.subgraphs[0].operators[index] for index in (1, 2))
        second.inputs = np.array([second.inputs[0], first.inputs[1], second.inputs[2]], np.int32)
        data = pack_model(model)
        packed = pack_for_tflm(data, named(data, resnet.x[:10]))
        assert np.array_equal(outputs(packed.data, resnet.x[:10]), outputs(data, resnet.x[:10]))
        graph = read_graph(packed.data)
        decoded = [index for item in graph.main.operators if item.code == "TFLM_DECODE" for index in item.outputs]
        assert len(decoded) == len(set(decoded)) == 10
        assert len(packed.report.tensors) == 9


@pytest.mark.data
class TestDepthwise:
    """The channels of a depthwise convolution are its last axis: the decoder steps through them at every value."""

    @pytest.mark.parametrize(("values", "shared"), [(8, False), (16, True)], ids=["3-bit", "16-values-in-all"])
    def test_clustered(self, speech, values, shared):
        packed = speech.packed(values, shared)
        expected = outputs(speech.unpacked(values, shared), speech.x)
        assert np.array_equal(outputs(packed.data, speech.x), expected)
        # 53,936 bytes, of them 22,016 weights; slimmed 29,296.
        assert len(packed.data) <= {8: 20_300, 16: 19_600}[values]

    def test_a_table_for_each_of_64_channels_of_9_weights_is_no_gain(self, speech):
        rows = [row for row in speech.packed(8, False).report.tensors if row.elements == 576]
        assert len(rows) == 4
        assert {row.reason for row in rows} == {"it would not get smaller"}

    def test_forced_codes_of_depthwise_weights_are_equal(self, speech):
        """All of them as LUT by channel, gain or not."""
        from edgecomp.pack._codes import lut_by_channel

        data = speech.unpacked(8, False)
        weights = [item for item in find_weights(unpack_model(data, "test")) if item.axis == 3]
        packed = write_packed(data, {item.key: lut_by_channel(item.values, 3) for item in weights})
        assert len(weights) == 4
        assert np.array_equal(outputs(packed, speech.x[:20]), outputs(data, speech.x[:20]))


class TestKinds:
    @pytest.mark.parametrize("kind", ["LUT", "HUFFMAN", "PRUNE"])
    def test_each_alone_is_exact(self, small, kind):
        """The dense layer of the digits with 90 % zeros and 3 other values: every code makes it smaller."""
        model = unpack_model(small.data, "test")
        (dense,) = [item for item in find_weights(model) if item.values.size == 640]
        values = np.where(np.abs(dense.values) > np.quantile(np.abs(dense.values), 0.9), np.sign(dense.values) * 90, 0)
        set_values(model, dense.key[1], values.astype(np.int8))
        data = pack_model(model)
        packed = pack_for_tflm(data, named(data, small.x), kinds=[kind])
        (row,) = [row for row in packed.report.tensors if row.elements == 640]
        assert row.kind == kind
        assert row.bits <= {"LUT": 2, "HUFFMAN": 1.4, "PRUNE": 1.9}[kind]
        assert np.array_equal(outputs(packed.data, small.x), outputs(data, small.x))
        assert len(set(map(bytes, outputs(data, small.x)))) > 10  # Not one answer for all.

    def test_none_only_slims(self, small):
        packed = pack_for_tflm(small.data, named(small.data, small.x), kinds=())
        assert packed.report.after == packed.report.slim
        assert packed.report.after.file_bytes == len(packed.data) < 1_800  # 3,368 bytes before.
        assert packed.report.after.arena_head_bytes == packed.report.before.arena_head_bytes
        assert {row.kind for row in packed.report.tensors} == {None}

    def test_tensors_share_a_huffman_table_where_that_is_smaller(self):
        rng = np.random.default_rng(0)
        one, other = (np.round(rng.normal(0, 1.2, 3000)).astype(np.int8) for _ in range(2))
        strange = (np.round(rng.normal(0, 1.2, 3000)) * 9 + 64).astype(np.int8)
        weights = [weights_of(index, values) for index, values in enumerate((one, other, strange))]
        codes = smallest_codes(weights, ["HUFFMAN"])
        headers = [codes[0, index].ancillary for index in range(3)]
        assert headers[0] == headers[1] != headers[2]


def weights_of(index, values):
    from edgecomp.pack.tflm_lut import Weights

    return Weights((0, index), f"w{index}", values, 0, 1)


class TestSlim:
    def test_what_goes_and_what_stays(self, small):
        model = unpack_model(write_packed(small.data, {}), "test")
        subgraph = model.subgraphs[0]
        assert not model.signatureDefs
        assert not model.metadata
        assert not any(tensor.name for tensor in subgraph.tensors)
        before = read_graph(small.data)
        after = read_graph(write_packed(small.data, {}))
        # The RESHAPE before FULLY_CONNECTED goes, with its result and its shape.
        assert [item.code for item in before.main.operators] == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]
        assert [item.code for item in after.main.operators] == ["CONV_2D", "FULLY_CONNECTED", "SOFTMAX"]
        assert len(after.main.tensors) == len(before.main.tensors) - 2
        kept = [item for item in before.main.operators if item.code != "RESHAPE"]
        for old, new in zip(kept, after.main.operators, strict=True):
            for one, other in zip(old.inputs[1:], new.inputs[1:], strict=True):
                left, right = before.main.tensors[one], after.main.tensors[other]
                assert (left.shape, left.type, left.data_bytes) == (right.shape, right.type, right.data_bytes)
                assert right.type == "INT32" or left.scales == right.scales

    def test_float_files_too(self, small):
        data = (ROOT / "tests" / "models" / "digits_float.tflite").read_bytes()
        packed = pack_for_tflm(data, named(data, small.x))
        assert len(packed.data) < len(data) - 1_000  # 4,792 bytes, of them 2,800 weights and biases.
        assert packed.report.tensors == ()
        assert np.array_equal(outputs(packed.data, small.x), outputs(data, small.x))

    def test_reshape_that_something_else_reads_stays(self, small):
        """As the output of the model: its shape is what callers see."""
        model = unpack_model(small.data, "test")
        subgraph = model.subgraphs[0]
        subgraph.operators = subgraph.operators[:2]
        subgraph.outputs = subgraph.operators[1].outputs
        model.signatureDefs = None
        data = pack_model(model)
        graph = read_graph(write_packed(data, {}))
        assert [(item.code, len(item.inputs)) for item in graph.main.operators] == [("CONV_2D", 3), ("RESHAPE", 1)]
        assert graph.outputs[0].shape == (1, 64)
        assert np.array_equal(outputs(write_packed(data, {}), small.x), outputs(data, small.x))

    def test_old_operator_codes_are_understood(self, small):
        """Files of before 2020 have the number in a byte."""
        model = unpack_model(small.data, "test")
        for code in model.operatorCodes:
            code.deprecatedBuiltinCode, code.builtinCode = code.builtinCode, 0
        data = pack_model(model)
        assert write_packed(data, {}) == write_packed(small.data, {})

    def test_own_memory_plan_is_refused(self, small):
        model = unpack_model(small.data, "test")
        model.metadata = [schema.MetadataT(name=b"OfflineMemoryAllocation", buffer=0)]
        with pytest.raises(PackingError, match="memory plan of its own"):
            write_packed(pack_model(model), {})

    def test_weights_behind_the_flatbuffer_are_brought_in(self, small):
        """TFLM takes them for missing and answers without a complaint; LiteRT finds them there."""
        model = unpack_model(small.data, "test")
        (dense,) = [item for item in find_weights(model) if item.values.size == 640]
        buffer = model.buffers[model.subgraphs[0].tensors[dense.key[1]].buffer]
        weights, buffer.data = bytes(buffer.data), None
        buffer.offset, buffer.size = 2, len(weights)
        head = len(pack_model(model))
        buffer.offset = head
        data = pack_model(model) + weights
        assert len(data) == head + 640
        packed = pack_for_tflm(data, named(data, small.x))
        assert packed.report.reason is None
        assert np.array_equal(outputs(packed.data, small.x), outputs(small.data, small.x))


class TestWhatIsNotProven:
    def test_a_tensor_that_does_not_come_out_equal_stays_and_says_so(self, small, monkeypatch):
        data = small.unpacked(4, True)
        real = tflm.smallest_codes

        def one_wrong(weights, kinds):
            codes = real(weights, kinds)
            (key,) = codes
            wrong = codes[key].encoded[:-1] + bytes([codes[key].encoded[-1] ^ 0xFF])
            return {key: type(codes[key])(codes[key].kind, codes[key].bits, 1, wrong, codes[key].ancillary)}

        monkeypatch.setattr(tflm, "smallest_codes", one_wrong)
        packed = pack_for_tflm(data, named(data, small.x))
        (row,) = [row for row in packed.report.tensors if row.elements == 640]
        assert row.kind is None
        assert row.reason.startswith("coded as LUT, ")
        assert row.reason.endswith("outputs are not equal")
        assert packed.data == write_packed(data, {})

    def test_only_the_guilty_stays(self, resnet, monkeypatch):
        """A header that TFLM refuses, on one of ten tensors."""
        data = resnet.unpacked(4, False)
        real = tflm.smallest_codes

        def one_refused(weights, kinds):
            codes = real(weights, kinds)
            key = next(iter(codes))
            bad = bytes([99]) + codes[key].ancillary[1:]
            return codes | {key: type(codes[key])("LUT", 2, 16, codes[key].encoded, bad)}

        monkeypatch.setattr(tflm, "smallest_codes", one_refused)
        packed = pack_for_tflm(data, named(data, resnet.x[:3]))
        reasons = [row.reason for row in packed.report.tensors]
        assert reasons[0] == "coded as LUT, TFLM refuses the file: unsupported decode type 99"
        assert reasons[1:] == [None] * 9

    def test_a_slimmed_file_that_is_not_equal_comes_back_as_it_was(self, small, monkeypatch):
        other = unpack_model(small.data, "test")
        (dense,) = [item for item in find_weights(other) if item.values.size == 640]
        set_values(other, dense.key[1], -dense.values)
        wrong = pack_model(other)
        monkeypatch.setattr(tflm, "write_packed", lambda data, codes: wrong)
        packed = pack_for_tflm(small.data, named(small.data, small.x))
        assert packed.data == small.data
        assert packed.report.reason == "without what TFLM never reads, 50 of 50 outputs are not equal"
        assert packed.report.after == packed.report.before
        assert {row.reason for row in packed.report.tensors} == {"the file stays as it was"}

    def test_where_tflite_micro_is_missing(self, small, monkeypatch):
        monkeypatch.setattr(_proof.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(PackingError, match="not installed here") as caught:
            pack_for_tflm(small.data, named(small.data, small.x))
        assert "Linux x86-64" in caught.value.hint

    def test_no_inputs_no_proof(self, small):
        with pytest.raises(MissingDataError, match="real inputs"):
            pack_for_tflm(small.data, named(small.data, small.x[:0]))
        with pytest.raises(PackingError, match="has 1 inputs, 2 were given"):
            pack_for_tflm(small.data, {"a": small.x, "b": small.x})

    def test_a_file_that_tflm_does_not_run(self, small):
        model = unpack_model(small.data, "test")
        model.operatorCodes.append(schema.OperatorCodeT(builtinCode=32, customCode="Nobody"))
        model.subgraphs[0].operators[-1].opcodeIndex = len(model.operatorCodes) - 1
        model.subgraphs[0].operators[-1].builtinOptions = None
        data = pack_model(model)
        with pytest.raises(RuntimeRefusedError, match="TFLM refuses the file"):
            pack_for_tflm(data, named(small.data, small.x))

    def test_damaged_file(self, small):
        with pytest.raises(GraphError):
            pack_for_tflm(small.data[:1000], named(small.data, small.x))

    def test_data_of_two_tensors_stays(self, small):
        """One buffer for two tensors: coding one of them would save nothing."""
        model = unpack_model(small.data, "test")
        (dense,) = [item for item in find_weights(model) if item.values.size == 640]
        subgraph = model.subgraphs[0]
        twin = schema.TensorT(shape=[10, 64], type=9, buffer=subgraph.tensors[dense.key[1]].buffer, name=b"twin")
        subgraph.tensors.append(twin)
        (found,) = [item for item in find_weights(model) if item.values.size == 640]
        assert found.reason == "another tensor shares its data"
        assert smallest_codes([found]) == {}

    def test_a_shape_that_does_not_fit_the_data(self, small):
        model = unpack_model(small.data, "test")
        (dense,) = [item for item in find_weights(model) if item.values.size == 640]
        model.subgraphs[0].tensors[dense.key[1]].shape = np.array([10, 63], np.int32)
        (found,) = [item for item in find_weights(model) if item.values.size == 640]
        assert found.reason == "it has 640 values for a shape of (10, 63)"
        model.subgraphs[0].tensors[dense.key[1]].shape = np.array([10, 64], np.int32)
        model.subgraphs[0].tensors[dense.key[1]].quantization.quantizedDimension = 7
        (found,) = [item for item in find_weights(model) if item.values.size == 640]
        assert found.reason == "its channels are axis 7, and DECODE takes the first or the last"
        assert found.values_per_channel == len(found.counts)


@pytest.mark.data
class TestEstimate:
    """The closed form against files that were written."""

    @pytest.mark.parametrize("case", ["resnet", "speech"])
    @pytest.mark.parametrize(("values", "shared"), [(4, False), (8, False), (16, False), (4, True), (8, True)])
    def test_within_one_percent(self, request, case, values, shared):
        case = request.getfixturevalue(case)
        data = case.unpacked(values, shared)
        weights = find_weights(unpack_model(data, "test"))
        bits = math.log2(values)
        planned = {
            item.key[1]: PlannedCode(bits, "LUT", values, shared=shared or item.channels == 1) for item in weights
        }
        written = len(write_packed(data, smallest_codes(weights, ["LUT"])))
        assert estimate_packed_bytes(read_graph(data), planned) == pytest.approx(written, rel=0.01)

    def test_huffman_and_mixed(self, resnet):
        data = resnet.unpacked(8, True)
        weights = find_weights(unpack_model(data, "test"))
        codes = smallest_codes(weights)
        planned = {}
        for item in weights:
            kind = codes[item.key].kind
            bits = huffman_bits(item.counts) if kind == "HUFFMAN" else 3
            planned[item.key[1]] = PlannedCode(bits, kind, len(item.counts), shared=True)
        assert {code.kind for code in codes.values()} == {"LUT", "HUFFMAN"}
        written = len(write_packed(data, codes))
        assert estimate_packed_bytes(read_graph(data), planned) == pytest.approx(written, rel=0.01)

    def test_nothing_coded(self, resnet, speech):
        for case in (resnet, speech):
            written = len(write_packed(case.data, {}))
            assert estimate_packed_bytes(read_graph(case.data), {}) == pytest.approx(written, rel=0.01)

    def test_a_code_that_does_not_pay_is_not_used(self, resnet):
        graph = read_graph(resnet.data)
        planned = {index: PlannedCode(7.9) for index in range(len(graph.main.tensors))}
        assert estimate_packed_bytes(graph, planned) == estimate_packed_bytes(graph, {})


def test_asking_for_a_size_needs_no_heavy_library():
    code = "import sys, edgecomp.pack; edgecomp.pack.estimate_packed_bytes; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ai_edge_litert", "tflite_micro", "tensorflow", "ai_edge_quantizer"} & set(result.stdout.split())
