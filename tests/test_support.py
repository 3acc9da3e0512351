"""What each runtime takes: the tables against the runtimes themselves, and the findings that follow from them."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgecomp.check import check_operators, require_runnable, runnable_precisions
from edgecomp.errors import EdgecompError, GraphError, ModelError, RuntimeRefusedError
from edgecomp.graph import read_graph
from edgecomp.plugins import load_member, member_names
from edgecomp.profile import Precision, load_profile, profile_names
from edgecomp.support import Severity, edgetpu, ethos_u, types_of
from edgecomp.support._ethos_u_rules import _RULES as ETHOS_U_RULES
from edgecomp.support._finding import user_layer
from edgecomp.support._node import nodes
from edgecomp.support._rewrites import nearest
from edgecomp.support._table import load_table
from edgecomp.support._types import HYBRID_OPERATORS, INT8_OPERATORS, INT16_OPERATORS
from edgecomp.support._vela import NpuConfig, npu_config, parse_counts, parse_left, parse_summary, vela_version
from scripts.one_operator import catalogue, tables
from scripts.one_operator.asking import Asker
from scripts.one_operator.build import Node, OneOperator, Tensor, build
from scripts.one_operator.tensors import constant, feature, result
from scripts.one_operator.weighted import weights
from tests.conftest import ROOT, missing

MODELS = ROOT / "tests" / "models"
FLOAT, INT8 = MODELS / "digits_float.tflite", MODELS / "digits_int8.tflite"
MEMBERS = member_names("edgecomp.support")
POINTS = tables.points()


def support(name):
    return load_member("edgecomp.support", name).SUPPORT


def graph_of(operator):
    data = build(operator)
    return read_graph(data), data


def only(findings, severity):
    return [finding for finding in findings if finding.severity == severity]


@pytest.fixture(scope="module")
def micro():
    if importlib.util.find_spec("tflite_micro") is None:
        missing("tflite-micro is not installed")
    with Asker("tflite-micro") as asker:
        yield asker


@pytest.fixture(scope="module")
def lite():
    with Asker("LiteRT") as asker:
        yield asker


@pytest.fixture
def vela():
    if vela_version() is None:
        missing("ethos-u-vela is not installed")


class TestTablesAgainstTheRuntimes:
    """The tables are answers of the runtimes: asked again, they answer the same."""

    @pytest.mark.parametrize(
        ("code", "types", "verdict"),
        [
            ("CONV_2D", "INT8", "runs"),
            ("CONV_2D", "INT8xINT4", "runs"),  # 4-bit weights, one scale per channel
            ("FULLY_CONNECTED", "INT8xINT4", "refuses"),
            ("FULLY_CONNECTED", "INT8xINT4_PER_TENSOR", "runs"),  # one scale for all: the kernel has that case
            ("CONV_2D", "FLOAT32xINT8", "refuses"),  # "Hybrid models are not supported on TFLite Micro."
            ("FULLY_CONNECTED", "INT16", "runs"),
            ("DEQUANTIZE", "FLOAT16->FLOAT32", "refuses"),  # hence no FLOAT16 file runs
            ("DEQUANTIZE", "INT8->FLOAT32", "runs"),  # hence weight-only INT8 does
            ("EMBEDDING_LOOKUP", "FLOAT32xINT8", "wrong"),  # takes the first row's scale for all rows
            ("UNIDIRECTIONAL_SEQUENCE_LSTM", "FLOAT32xINT8_PER_TENSOR", "wrong"),  # NaN
            ("UNIDIRECTIONAL_SEQUENCE_LSTM", "INT8", "runs"),
            ("ADD", "UINT8", "refuses"),
        ],
    )
    def test_tflm_sample(self, micro, lite, code, types, verdict):
        answer, line, _ = tables.tflm_point(micro, lite, (code, types))
        assert answer == verdict
        known = load_table("tflm").verdict(code, types)
        assert (known.status, known.line) == (answer, line)

    def test_tflm_lacks_an_operator(self, micro):
        line = tables.absent_line(micro, "tflm", "TOPK_V2")
        assert line == "Didn't find op for builtin opcode 'TOPK_V2'"
        assert load_table("tflm").verdict("TOPK_V2", "FLOAT32").line == line

    @pytest.mark.parametrize(
        ("code", "types", "taken"),
        [
            ("CONV_2D", "INT8", True),
            ("CONV_2D", "INT16", False),  # INT16X8 is 65 times slower on x86 for want of it
            ("AVERAGE_POOL_2D", "FLOAT32", True),
            ("AVERAGE_POOL_2D", "INT8", False),
            ("MEAN", "INT8", True),
            ("SOFTMAX", "INT8", False),
            ("FULLY_CONNECTED", "FLOAT32xINT8", True),
            ("BATCH_MATMUL", "INT8xINT8", False),
            ("DEQUANTIZE", "FLOAT16->FLOAT32", True),
            ("ASSIGN_VARIABLE", "FLOAT32", True),  # no output: found by the values that the partition takes
        ],
    )
    def test_xnnpack_sample(self, lite, code, types, taken):
        assert (tables.xnnpack_point(lite, (code, types))[0] == "runs") is taken
        assert support("xnnpack").takes(code, types) is taken

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("script", "made"),
        [
            ("make_tflm_support", {"tflm": "make"}),
            ("make_xnnpack_support", {"litert": "make_litert", "xnnpack": "make_xnnpack"}),
        ],
    )
    def test_whole_tables(self, micro, script, made):
        """Seconds, but it starts several hundred interpreters."""
        module = importlib.import_module(f"scripts.{script}")
        for name, function in made.items():
            table = json.loads((tables.FOLDER / f"{name}.json").read_text())
            assert {key: table[key] for key in ("operators", "absent", "not_tried")} == {
                key: value for key, value in getattr(module, function)().items() if key != "custom"
            }

    @pytest.mark.slow
    def test_whole_table_of_vela(self, vela, lite):
        module = importlib.import_module("scripts.make_ethos_u_support")
        families = json.loads((tables.FOLDER / "ethos_u.json").read_text())["families"]
        assert families == module.make()
        with Asker("Vela") as asker:
            u65 = module._family(asker, lite, "ethos-u65-256")
        assert u65 == {key: families["ethos-u55"][key] for key in u65}  # One table for both.

    def test_counts_in_the_docs(self):
        text = (ROOT / "docs" / "operators.md").read_text()
        loaded = {
            name: json.loads((tables.FOLDER / f"{name}.json").read_text()) for name in ("tflm", "litert", "xnnpack")
        }
        runs = {
            name: Counter(kind for entry in table["operators"].values() for kind in entry.get("runs", ()))
            for name, table in loaded.items()
        }
        rows = re.findall(r"^\| ([A-Z0-9x_]+) \| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
        assert len(rows) == 11
        for kind, *counts in rows:
            assert [int(count) for count in counts] == [runs[name][kind] for name in loaded], kind
        absent = {name: sum(map(len, table["absent"].values())) for name, table in loaded.items()}
        untried = sum(map(len, loaded["litert"]["not_tried"].values()))
        assert f"TFLM lacks {absent['tflm']} of the schema's {len(catalogue.operators())} operators" in text
        assert f"LiteRT {absent['litert']}; LiteRT has {untried} that were not tried" in text
        int8, int16 = (
            {code for code, entry in loaded["tflm"]["operators"].items() if kind in entry.get("runs", ())}
            for kind in ("INT8", "INT16")
        )
        assert f"{len(int8 - int16)} operators that run at INT8 refuse INT16" in text
        for table in loaded.values():
            assert table["version"] in text

    def test_tables_name_the_version_that_is_installed(self):
        from importlib.metadata import version

        for name in ("litert", "xnnpack"):
            assert load_table(name).version == version("ai-edge-litert")
        pinned = (ROOT / "pyproject.toml").read_text()
        assert f"tflite-micro=={load_table('tflm').version}" in pinned


class TestOneOperatorFiles:
    def test_every_file_reads_back_to_its_own_key(self):
        """Else a table would answer for other types than those that were asked."""
        for code, types in POINTS:
            graph, _ = graph_of(catalogue.make(code, types))
            keys = [types_of(subgraph, operator) for subgraph, operator in graph.operators() if operator.code == code]
            assert keys == [types], code
        assert len(POINTS) == 807


class TestRewrites:
    @pytest.mark.parametrize("name", ["litert", "tflm", "xnnpack", "edgetpu", "gpu", "ethos_u"])
    def test_a_rewrite_is_itself_supported(self, name):
        """For every point that the runtime does not take: what is suggested instead, it does take."""
        takes, profile = support(name).takes, load_profile("rpi4")
        suggested = 0
        for code, types in POINTS:
            if takes(code, types):
                continue
            graph, data = graph_of(catalogue.make(code, types))
            node = next(item for item in nodes(graph, profile, data, None) if item.code == code)
            for precisions in (("INT8", "FLOAT32", "INT16"), ("INT8",), ("FLOAT32",), ()):
                rewrite = nearest(node, takes, precisions)
                if rewrite is not None:
                    assert all(takes(*made) for made in rewrite.operators), (code, types, rewrite)
                    suggested += 1
        assert suggested > 50

    @pytest.mark.parametrize(
        ("name", "code", "types", "text"),
        [
            ("tflm", "GELU", "FLOAT32", "RELU as the activation"),
            ("tflm", "EXP", "INT8", "keep this layer in float: precision SELECTIVE, or FLOAT32 for the whole model"),
            ("tflm", "CONV_2D", "FLOAT32xINT8", "quantize it: precision INT8"),
            ("tflm", "FULLY_CONNECTED", "INT8xINT4", "one scale for all its 4-bit weights, or 8-bit weights for it"),
            ("tflm", "CONV_2D", "INT16xINT4", "quantize it: precision INT8"),
            ("tflm", "QUANTIZE", "FLOAT32->UINT8", "int8 in place of uint8 in the model"),
            ("tflm", "TILE", "INT8", "CONCATENATION of the tensor with itself"),
            ("tflm", "GATHER", "INT64", "carry these values as FLOAT32 in the model"),
            ("edgetpu", "HARD_SWISH", "INT8", "RELU6 as the activation"),
            ("edgetpu", "CONV_2D", "FLOAT32", "quantize it: precision INT8"),
            ("edgetpu", "GELU", "FLOAT32", "RELU as the activation"),  # once it is quantized
            ("gpu", "MEAN", "FLOAT32", "AVERAGE_POOL_2D with a window of 4x4 (AveragePooling2D((4, 4)))"),
            ("ethos_u", "CONV_2D", "INT8xINT4", "8-bit weights for this operator"),
            ("ethos_u", "SQRT", "INT8", "RSQRT, times the tensor"),
        ],
    )
    def test_examples(self, name, code, types, text):
        graph, data = graph_of(catalogue.make(code, types))
        precisions = {"edgetpu": ("INT8",), "ethos_u": ("INT8",), "gpu": ("FLOAT32",)}
        node = next(item for item in nodes(graph, load_profile("rpi4"), data, None) if item.code == code)
        rewrite = nearest(node, support(name).takes, precisions.get(name, ("INT8", "FLOAT32", "INT16")))
        assert rewrite is not None
        assert rewrite.text == text

    def test_transposed_convolution_where_there_is_none(self):
        """No runtime here lacks it: the rule is held with one that does."""
        graph, data = graph_of(catalogue.make("TRANSPOSE_CONV", "INT8"))
        (node,) = nodes(graph, load_profile("rpi4"), data, None)
        rewrite = nearest(node, lambda code, types: code in ("RESIZE_NEAREST_NEIGHBOR", "CONV_2D"))
        assert rewrite.operators == (("RESIZE_NEAREST_NEIGHBOR", "INT8"), ("CONV_2D", "INT8"))


DEVICES = {"edgetpu": "coral-usb-rpi4", "ethos_u": "ethos-u55-128", "tflm": "stm32l4r5"}


@pytest.mark.parametrize("name", MEMBERS)
class TestContract:
    @pytest.mark.parametrize("file", [FLOAT, INT8], ids=["float", "int8"])
    @pytest.mark.parametrize("precision", [None, *Precision])
    def test_findings_are_in_order_and_complete(self, name, file, precision):
        data = file.read_bytes()
        graph, profile = read_graph(data), load_profile(DEVICES.get(name, "rpi4"))
        # Without the file: Vela is another test's.
        findings = support(name).check(graph, profile, precision=precision)
        assert all(finding.severity in get_args(Severity) for finding in findings)
        assert all(finding.reason and not finding.reason.endswith(".") for finding in findings)
        count = sum(1 for _ in graph.operators())
        assert all(-1 <= finding.position < count for finding in findings)

    def test_fallback_is_a_member(self, name):
        assert support(name).fallback is None or support(name).fallback in MEMBERS

    def test_takes_agrees_with_check(self, name):
        """An INT8 convolution: every runtime has it; a LOCAL_RESPONSE_NORMALIZATION: only LiteRT's own kernels."""
        assert support(name).takes("CONV_2D", "INT8")
        assert support(name).takes("LOCAL_RESPONSE_NORMALIZATION", "FLOAT32") is (name == "litert")
        graph, data = graph_of(catalogue.make("LOCAL_RESPONSE_NORMALIZATION", "FLOAT32"))
        found = support(name).check(graph, load_profile(DEVICES.get(name, "rpi4")), data=data)
        named = [finding for finding in found if finding.operator == "LOCAL_RESPONSE_NORMALIZATION"]
        assert bool(named) is (name != "litert")


class TestWhatTheCheckImports:
    def test_no_runtime_and_no_tensorflow(self):
        heavy = ["ai_edge_litert", "tflite_micro", "tensorflow", "ai_edge_quantizer", "ethosu"]
        program = (
            "import sys; from edgecomp.check import check_operators; from edgecomp.graph import read_graph; "
            "from edgecomp.profile import load_profile; "
            f"data = open({str(INT8)!r}, 'rb').read(); graph = read_graph(data); "
            "[check_operators(graph, load_profile(name), data=data) for name in "
            "('rpi4', 'stm32l4r5', 'coral-usb-rpi4', 'ethos-u55-128')]; "
            f"print([name for name in {heavy} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.strip() == "[]"


class TestXnnpack:
    def predicted_and_real(self, data):
        from ai_edge_litert.interpreter import Interpreter

        from scripts.one_operator.asking import _delegated

        graph = read_graph(data)
        found = support("xnnpack").check(graph, load_profile("rpi4"), data=data)
        left = {finding.position for finding in found}
        interpreter = Interpreter(model_content=data)
        interpreter.allocate_tensors()
        predicted = [item.code for number, (_, item) in enumerate(graph.operators()) if number not in left]
        return Counter(predicted), Counter(_delegated(interpreter._get_ops_details()))

    @pytest.mark.parametrize(("file", "taken"), [(FLOAT, 4), (INT8, 3)], ids=["float", "int8"])  # SOFTMAX stays
    def test_prediction_is_what_the_delegate_takes(self, file, taken):
        predicted, real = self.predicted_and_real(file.read_bytes())
        assert predicted == real
        assert predicted.total() == taken

    @pytest.mark.data
    @pytest.mark.parametrize(
        ("name", "taken"),
        [
            ("resnet8-cifar10/pretrainedResnet.tflite", 16),
            ("resnet8-cifar10/pretrainedResnet_quant.tflite", 14),  # AVERAGE_POOL_2D and SOFTMAX stay
            ("dscnn-kws/kws_ref_model_float32.tflite", 13),
            ("dscnn-kws/kws_ref_model.tflite", 11),
        ],
    )
    def test_prediction_on_real_models(self, data_folder, name, taken):
        predicted, real = self.predicted_and_real((data_folder / name).read_bytes())
        assert predicted == real
        assert predicted.total() == taken

    def test_dropped_axes_of_a_slice_need_the_file(self):
        options = schema.StridedSliceOptionsT()
        options.shrinkAxisMask = 2
        made = catalogue.make("STRIDED_SLICE", "FLOAT32")
        graph, data = graph_of(OneOperator("STRIDED_SLICE", made.inputs, made.outputs, options))
        profile = load_profile("rpi4")
        reasons = [finding.reason for finding in support("xnnpack").check(graph, profile, data=data)]
        assert "XNNPACK leaves it to the built-in kernels: it adds or drops an axis" in reasons
        assert [item.operator for item in support("xnnpack").check(graph, profile)] == ["MODEL"]


class TestEdgeTpu:
    PROFILE = "coral-usb-rpi4"

    def chain(self, *codes):
        """A file of unary INT8 operators, one behind the other."""
        tensors = [feature("INT8"), *(result("INT8") for _ in codes)]
        made = [Node(code, [tensors[i]], [tensors[i + 1]]) for i, code in enumerate(codes)]
        last = made[-1]
        return OneOperator(last.code, last.inputs, last.outputs, before=made[:-1])

    def test_everything_behind_the_first_break_runs_on_the_cpu(self):
        graph, data = graph_of(self.chain("RELU", "RELU6", "HARD_SWISH", "RELU", "GELU"))
        profile = load_profile(self.PROFILE)
        assert edgetpu.mapped_prefix(graph, profile, data=data) == 2
        found = check_operators(graph, profile, data=data)
        assert [(item.severity, item.operator, item.position) for item in found] == [
            ("warning", "HARD_SWISH", 2),
            ("warning", "GELU", 4),
            ("info", "MODEL", -1),
        ]
        assert "the first: everything after it runs on the CPU" in found[0].reason
        assert found[0].rewrite == "RELU6 as the activation"
        assert "runs 2 of 5 operators; HARD_SWISH is the first" in found[2].reason
        assert "not verified" in found[2].reason

    def test_float_at_the_borders_breaks_nothing(self):
        tensors = [feature("FLOAT32"), feature("INT8"), feature("INT8"), feature("FLOAT32")]
        before = [Node("QUANTIZE", tensors[:1], tensors[1:2]), Node("RELU", tensors[1:2], tensors[2:3])]
        graph, data = graph_of(OneOperator("DEQUANTIZE", tensors[2:3], tensors[3:], before=before))
        found = check_operators(graph, load_profile(self.PROFILE), data=data)
        assert not only(found, "warning")
        assert edgetpu.mapped_prefix(graph, load_profile(self.PROFILE), data=data) == 1

    def broken(self, operator, *, with_file=True):
        graph, data = graph_of(operator)
        found = support("edgetpu").check(graph, load_profile(self.PROFILE), data=data if with_file else None)
        return [(item.reason, item.rewrite) for item in only(found, "warning")]

    def test_fused_activation_of_a_pooling(self):
        made = catalogue.make("AVERAGE_POOL_2D", "INT8")
        assert self.broken(made) == []
        made.options.fusedActivationFunction = 1  # RELU
        ((reason, rewrite),) = self.broken(made)
        assert "it has a fused activation function" in reason
        assert rewrite == "the activation as a layer of its own behind it"
        assert self.broken(made, with_file=False) == []  # The graph alone does not hold it.

    def test_dilation_that_differs(self):
        made = catalogue.make("CONV_2D", "INT8")
        made.options.dilationHFactor = 2
        assert "its dilation differs in x and y" in self.broken(made)[0][0]

    def test_softmax_of_more_than_one_dimension(self):
        assert "one-dimensional" in self.broken(catalogue.make("SOFTMAX", "INT8"))[0][0]
        flat = OneOperator("SOFTMAX", [feature("INT8", (1, 10))], [result("INT8", (1, 10))], schema.SoftmaxOptionsT())
        assert self.broken(flat) == []

    def test_a_batch_above_one(self):
        batch = OneOperator("RELU", [feature("INT8", (2, 4, 4, 8))], [result("INT8", (2, 4, 4, 8))])
        assert "three dimensions" in self.broken(batch)[0][0]

    def test_mean_over_channels_that_are_no_multiple_of_four(self):
        options = schema.ReducerOptionsT()
        options.keepDims = True
        for channels, expected in ((8, 0), (6, 1)):
            source, target = feature("INT8", (1, 4, 4, channels)), result("INT8", (1, 4, 4, 1))
            broken = self.broken(OneOperator("MEAN", [source, constant([3])], [target], options))
            assert len(broken) == expected
        assert broken[0][1] == "8 channels before it"

    def test_a_rewrite_of_a_rule_is_on_the_list(self):
        from edgecomp.support import _edgetpu_rules

        for code in _edgetpu_rules._RULES:
            assert support("edgetpu").takes(code, "INT8"), code


class TestEthosU:
    PROFILE = "ethos-u55-128"

    def test_sentences_are_vela_s_own(self):
        """Each condition that is held without Vela stands in its report for that operator."""
        text = (ROOT / "edgecomp" / "support" / "_ethos_u_rules.py").read_text()
        quoted = re.findall(r'^_[A-Z0-9_]+ = "(.*)"$', text, re.MULTILINE)
        published = [load_table("ethos_u", family).constraints for family in ("ethos-u55", "ethos-u85")]
        for sentence in quoted:
            assert any(sentence in table.get(code, ()) for table in published for code in ETHOS_U_RULES), sentence
        assert len(quoted) == 11

    @pytest.mark.parametrize(
        ("height", "half", "falls"), [(8, True, False), (16, True, True), (16, False, False), (12, False, True)]
    )
    def test_resize_without_vela(self, height, half, falls):
        """From 4: twice is fine, four times only without half-pixel centres, three times never."""
        options = schema.ResizeBilinearOptionsT()
        options.halfPixelCenters = half
        inputs = [feature("INT8"), constant([height, height])]
        made = OneOperator("RESIZE_BILINEAR", inputs, [result("INT8", (1, height, height, 8))], options)
        graph, data = graph_of(made)
        profile = load_profile(self.PROFILE)
        found = ethos_u.SUPPORT._by_table(nodes(graph, profile, data, None), npu_config(profile))
        assert bool(only(found, "warning")) is falls

    def test_what_the_npu_leaves_must_run_in_tflm(self):
        graph, _ = graph_of(catalogue.make("TOPK_V2", "INT8"))
        found = check_operators(graph, load_profile(self.PROFILE))
        assert [item.severity for item in found if item.operator == "TOPK_V2"] == ["warning", "error"]
        graph, _ = graph_of(catalogue.make("EXP", "FLOAT32"))  # TFLM has it, in float.
        assert not only(check_operators(graph, load_profile(self.PROFILE)), "error")

    def test_defaults_are_vela_s_own_names(self):
        assert npu_config(load_profile("stm32l4r5")) == NpuConfig(
            "ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram"
        )
        assert npu_config(load_profile("ethos-u65-512")).family == "ethos-u65"

    def test_parsers_on_recorded_output(self):
        text = (
            "Warning: No configuration file specified. Using a default of ['vela.ini'].\n\n"
            "Warning (supported operators) operator: TOPK_V2, ofm: 'model/top_k;x'\nReason: Unsupported opType\n\n"
            "CPU operators = 1 (50.0%)\nNPU operators = 1 (50.0%)\n"
        )
        assert parse_left(text) == [("TOPK_V2", "model/top_k;x", "Unsupported opType")]
        assert parse_counts(text) == (1, 1)
        with pytest.raises(RuntimeRefusedError, match="format has changed"):
            parse_counts("")
        summary = (
            "core_clock,inference_time,sram_memory_used,dram_memory_used,on_chip_flash_memory_used,"
            "off_chip_flash_memory_used,nn_macs,cycles_total\n500000000.0,4.562e-06,0.3125,0.0,0.0,2.140625,1300,2281\n"
        )
        report = parse_summary(summary, NpuConfig("ethos-u55-128", "a", "b"), (31, 0), "Vela 5.2.0")
        assert (report.cycles, report.clock_hz, report.macs) == (2281, 500_000_000, 1300)
        assert report.inference_ms == pytest.approx(0.004562)
        assert (report.sram_bytes, report.flash_bytes) == (320, 2192)  # KiB in the file
        with pytest.raises(RuntimeRefusedError, match=r"core_clock|sram_memory_used"):
            parse_summary("network\nx\n", report.config, (0, 0), "Vela")

    def test_vela_on_a_quantized_model(self, vela):
        data = INT8.read_bytes()
        found = check_operators(read_graph(data), load_profile(self.PROFILE), data=data)
        assert [item.severity for item in found] == ["info"]
        assert "4 of 4 operators on the NPU" in found[0].reason
        assert f"estimated by Vela {vela_version()}" in found[0].reason

    def test_the_compiled_file_is_for_the_npu(self, vela):
        run = ethos_u.compile_for_npu(INT8.read_bytes(), load_profile(self.PROFILE))
        codes = [operator.code for _, operator in read_graph(run.data).operators()]
        assert codes == ["ethos-u"]
        assert run.report.macs == 1300  # as Vela counts: 3*3*1*4 * 4*4 + 64*10, and its own of the softmax
        assert (run.report.npu_operators, run.report.cpu_operators, run.left) == (31, 0, ())
        assert not only(check_operators(read_graph(run.data), load_profile(self.PROFILE), data=run.data), "error")

    def test_vela_on_a_float_model(self, vela):
        data = FLOAT.read_bytes()
        found = check_operators(read_graph(data), load_profile(self.PROFILE), data=data)
        warnings = only(found, "warning")
        assert [item.operator for item in warnings] == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]
        assert {item.rewrite for item in warnings} == {"quantize it: precision INT8"}
        assert len({item.reason for item in warnings}) == 1  # no layer's name in it: it groups
        assert not only(found, "error")  # TFLM runs all of it on the processor.

    def test_a_file_that_vela_dies_of(self, vela):
        """4-bit weights: a division by zero in Vela 5.2.0."""
        graph, data = graph_of(catalogue.make("CONV_2D", "INT8xINT4"))
        found = check_operators(graph, load_profile(self.PROFILE), data=data)
        (error,) = only(found, "error")
        assert "Vela refuses the file: it died of SIGFPE" in error.reason
        (warning,) = only(found, "warning")
        assert warning.rewrite == "8-bit weights for this operator"


class TestCheck:
    def custom(self, name):
        return OneOperator(f"CUSTOM:{name}", [Tensor("FLOAT32", (1, 4))], [Tensor("FLOAT32", (1, 4))])

    @pytest.mark.parametrize(
        ("name", "device", "stopped"),
        [
            ("FlexErf", "stm32l4r5", "tflm has no Select TensorFlow operators"),
            ("FlexErf", "rpi4", "litert has no Select TensorFlow operators"),
            ("Nonsense", "rpi4", "a custom operator that litert does not have"),
            ("TFLM_DECODE", "stm32l4r5", None),  # of TFLM's own compressor
            ("TFLM_DECODE", "ethos-u55-128", None),  # falls to TFLM
            ("TFLM_DECODE", "rpi4", "a custom operator that litert does not have"),
            ("TFLite_Detection_PostProcess", "rpi4", None),
            ("ethos-u", "ethos-u55-128", None),
            ("ethos-u", "stm32l4r5", "a custom operator that tflm does not have"),
            ("edgetpu-custom-op", "coral-usb-rpi4", None),
        ],
    )
    def test_custom_operators(self, name, device, stopped):
        graph, _ = graph_of(self.custom(name))
        errors = only(check_operators(graph, load_profile(device)), "error")
        assert [item.reason for item in errors] == ([] if stopped is None else [stopped])
        if stopped:
            assert errors[0].rewrite == "replace the layer by one that converts to builtin operators"

    def test_variables(self):
        graph, _ = graph_of(catalogue.make("READ_VARIABLE", "FLOAT32"))
        errors = only(check_operators(graph, load_profile("stm32l4r5")), "error")
        assert [item.operator for item in errors] == ["VAR_HANDLE", "ASSIGN_VARIABLE", "READ_VARIABLE"]
        assert errors[0].rewrite == "pass the state in as an input and out as an output"
        assert not only(check_operators(graph, load_profile("rpi4")), "error")

    def test_dynamic_range_does_not_run_in_tflm(self):
        kernel = weights("INT8", (6, 32), 0)
        made = OneOperator(
            "FULLY_CONNECTED",
            [feature("FLOAT32", (1, 32)), kernel, Tensor("FLOAT32", (6,), np.zeros(6))],
            [result("FLOAT32", (1, 6))],
            schema.FullyConnectedOptionsT(),
        )
        graph, data = graph_of(made)
        (error,) = check_operators(graph, load_profile("stm32l4r5"), data=data)
        assert (error.severity, error.operator, error.rewrite) == (
            "error",
            "FULLY_CONNECTED",
            "quantize it: precision INT8",
        )
        assert "Input type: FLOAT32 with filter type: INT8 not supported" in error.reason  # TFLM's own line
        assert not only(check_operators(graph, load_profile("rpi4"), data=data), "error")

    def test_xnnpack_is_looked_at_where_the_profile_says_so(self):
        graph, data = graph_of(catalogue.make("CONV_2D", "INT16"))
        found = check_operators(graph, load_profile("rpi4"), data=data)
        assert [item.severity for item in found] == ["warning", "info"]
        assert "XNNPACK" in found[0].reason
        assert check_operators(graph, load_profile("coral-usb-rpi4"), data=data)[-1].reason.startswith("the Edge TPU")

    def test_an_operator_of_a_later_version(self):
        made = catalogue.make("CONV_2D", "FLOAT32")
        newer = OneOperator(made.code, made.inputs, made.outputs, made.options, version=99)
        (error,) = only(check_operators(graph_of(newer)[0], load_profile("rpi4")), "error")
        assert "version 99 of the operator, ai-edge-litert 2.3.0 knows 1 to 8" in error.reason

    def test_precisions_of_a_float_model(self):
        """FLOAT16 weights need a DEQUANTIZE that TFLM does not have, 4-bit FULLY_CONNECTED is refused: both known."""
        graph, profile = read_graph(FLOAT.read_bytes()), load_profile("stm32l4r5")
        wide = profile.model_copy(
            update={
                "runtime": profile.runtime.model_copy(update={"int4_weight_operators": ("CONV_2D", "FULLY_CONNECTED")}),
                "precisions": profile.precisions.model_copy(update={"order": tuple(Precision), "fallback": ()}),
            }
        )
        assert list(runnable_precisions(graph, wide)) == [
            Precision.FLOAT32,
            Precision.INT8,
            Precision.INT16X8,
            Precision.SELECTIVE,
        ]
        # With CONV_2D alone, as the shipped profile says, 4-bit weights run.
        assert Precision.INT4_WEIGHTS in runnable_precisions(graph, profile)

    def test_a_fit_stops_only_where_no_precision_runs(self):
        profile = load_profile("stm32l4r5")
        assert require_runnable(read_graph(FLOAT.read_bytes()), profile) == []
        graph, _ = graph_of(catalogue.make("GELU", "FLOAT32"))
        with pytest.raises(ModelError, match=r"cannot run on stm32l4r5: GELU .*does not have this operator") as error:
            require_runnable(graph, profile)
        assert error.value.hint == "Would pass: RELU as the activation. Or choose another device."
        # In float on an Edge TPU it would crawl; as INT8, which is what a fit makes, it flies.
        notes = require_runnable(read_graph(FLOAT.read_bytes()), load_profile("coral-usb-rpi4"))
        assert [item.severity for item in notes] == ["info"]

    def test_4_bit_operators_of_the_profiles_that_ship_run(self):
        for name in profile_names():
            runtime = load_profile(name).runtime
            for code in runtime.int4_weight_operators:
                assert support(runtime.name.replace("-", "_")).takes(code, "INT8xINT4"), (name, code)

    def test_every_profile_that_ships_has_its_table(self):
        graph = read_graph(INT8.read_bytes())
        for name in profile_names():
            assert not only(check_operators(graph, load_profile(name)), "error"), name


class TestProjection:
    def test_operators_are_those_that_ai_edge_quantizer_quantizes(self):
        """Read from its source: importing it takes seconds."""
        folder = Path(importlib.util.find_spec("ai_edge_quantizer").origin).parent
        text = (folder / "default_policy.py").read_text()
        policy = json.loads(re.search(r'DEFAULT_JSON_POLICY = """(.*?)"""', text, re.DOTALL)[1])["ops_per_config"]

        def operators(config):
            names = {"CONV_2D_TRANSPOSE": "TRANSPOSE_CONV"}
            return {names.get(name, name) for name in policy[config]} - {"INPUT", "OUTPUT"}

        assert operators("static_wi8_ai8") == INT8_OPERATORS
        assert operators("static_wi8_ai16") == INT16_OPERATORS
        assert operators("dynamic_wi8_afp32") == HYBRID_OPERATORS

    def test_what_int8_makes_of_a_float_model(self):
        """The same types as the INT8 file of that model has."""
        profile = load_profile("stm32l4r5")
        made = nodes(read_graph(FLOAT.read_bytes()), profile, None, Precision.INT8)
        real = nodes(read_graph(INT8.read_bytes()), profile, None, None)
        assert [(node.code, node.types) for node in made] == [(node.code, node.types) for node in real]

    def test_an_operator_that_stays_in_float_is_wrapped(self):
        graph, _ = graph_of(catalogue.make("ELU", "FLOAT32"))
        (node,) = nodes(graph, load_profile("stm32l4r5"), None, Precision.INT16X8)
        assert node.types == "FLOAT32"
        assert node.around == (("DEQUANTIZE", "INT16->FLOAT32"), ("QUANTIZE", "FLOAT32->INT16"))

    def test_what_the_quantizer_leaves_in_float_falls_to_the_cpu(self):
        """No precision helps: the rewrite is another operator, one that the quantizer has."""
        graph, _ = graph_of(catalogue.make("LEAKY_RELU", "FLOAT32"))
        reasons = {
            "coral-usb-rpi4": "not on the Edge TPU's list of operators",
            "ethos-u55-128": "falls to the CPU: the quantizer leaves this operator in float",  # Vela has it at INT8.
        }
        for device, reason in reasons.items():
            (warning,) = only(check_operators(graph, load_profile(device), precision=Precision.INT8), "warning")
            assert warning.reason.startswith(reason)
            assert warning.rewrite == "RELU as the activation"


class TestDamagedFiles:
    def test_no_traceback(self):
        """Random bytes of real files are changed: what still reads as a graph is checked, or refused as damaged."""
        generator = np.random.default_rng(11)
        points = [
            ("SPLIT", "INT8"),
            ("MEAN", "INT8"),
            ("PAD", "INT8"),
            ("ARG_MAX", "INT8"),
            ("RESIZE_BILINEAR", "INT8"),
        ]
        sources = [INT8.read_bytes(), *(graph_of(catalogue.make(*point))[1] for point in points)]
        profiles = [load_profile(name) for name in ("rpi4", "stm32l4r5", "coral-usb-rpi4", "ethos-u55-128")]
        checked = 0
        for source in sources:
            for _ in range(150):
                data = bytearray(source)
                for place in generator.integers(8, len(data), 3):
                    data[place] = generator.integers(0, 256)
                try:
                    graph = read_graph(bytes(data))
                except EdgecompError:
                    continue
                for profile in profiles:
                    found = nodes(graph, profile, bytes(data), None)
                    try:
                        if profile.runtime.name == "ethos-u":
                            ethos_u.SUPPORT._by_table(found, npu_config(profile))  # Vela is not what is tried here.
                        else:
                            check_operators(graph, profile, data=bytes(data))
                    except GraphError:
                        continue
                    checked += 1
        assert checked > 300


class TestLayers:
    @pytest.mark.parametrize(
        ("code", "name", "layer"),
        [
            ("CONV_2D", "model/act/Relu;model/bn/FusedBatchNormV3;model/conv/BiasAdd;model/conv_2/Conv2D", "conv"),
            ("FULLY_CONNECTED", "sequential/dense/MatMul;sequential/dense/BiasAdd", "dense"),
            ("ADD", "model/activation_2/Relu;model/add/add", "activation_2"),
            ("MEAN", "model/block/pool/Mean", "block/pool"),
            ("RELU", "my_tensor", "my_tensor"),
        ],
    )  # fmt: skip
    def test_names_that_converters_give(self, code, name, layer):
        graph = read_graph(FLOAT.read_bytes())
        subgraph = graph.main
        operator = subgraph.operators[0]
        tensors = list(subgraph.tensors)
        tensors[operator.outputs[0]] = replace(tensors[operator.outputs[0]], name=name)
        assert user_layer(replace(subgraph, tensors=tuple(tensors)), replace(operator, code=code)) == layer

    def test_an_output_without_a_name_is_told_by_what_feeds_it(self):
        graph = read_graph(FLOAT.read_bytes())
        subgraph = graph.main
        assert subgraph.layer(subgraph.operators[-1]) == "StatefulPartitionedCall:0"
        assert user_layer(subgraph, subgraph.operators[-1]) == "output after dense"
