"""Time by operator: the table of LiteRT's profiler, and the profiler itself in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgecomp.agent.on_device.operators import check_version, parse_summary
from edgecomp.agent.on_device.protocol import AgentError
from edgecomp.graph import read_graph
from tests.conftest import ROOT

MODELS = Path(__file__).parent / "models"
RECORDED = Path(__file__).parent / "recorded"
PROGRAM = """
import json, sys
from edgecomp.agent.on_device.operators import profile_operators
from edgecomp.agent.on_device.protocol import AgentError
try:
    print(json.dumps(profile_operators(sys.argv[1], int(sys.argv[2]))))
except AgentError as error:
    print(json.dumps({"code": error.code, "message": error.message}))
"""


def run_profiler(model: Path, num_threads: int = 1) -> subprocess.CompletedProcess[str]:
    """In a fresh process, as on a device."""
    command = [sys.executable, "-c", PROGRAM, str(model), str(num_threads)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)


def profile(model: Path, num_threads: int = 1) -> dict:
    return json.loads(run_profiler(model, num_threads).stdout)


def outside_delegate(profiled: dict) -> dict[str, int]:
    """Nodes by type that LiteRT itself ran."""
    found = profiled["operators"]
    return {item["type"]: item["nodes"] for item in found if not item["type"].startswith("Delegate/")}


def test_recorded_summary():
    """ResNet8 int8, 100 runs; the expected figures are from the "Total(us)" column, which the parser does not read."""
    found = parse_summary((RECORDED / "litert_profile_resnet8_int8.txt").read_text(), runs=100)
    assert found["operators_ms"] == pytest.approx(0.6604, rel=1e-4)  # 66,040 us in all.
    convolutions = found["operators"][0]
    assert convolutions["type"] == "Delegate/Convolution (NHWC, QC8) IGEMM"
    assert convolutions["nodes"] == 9  # ResNet8 has nine CONV_2D.
    assert convolutions["ms"] == pytest.approx(0.63533, rel=1e-4)  # 63,533 us: 70.59 us each, not 0.071 ms.
    assert sum(item["ratio"] for item in found["operators"]) == pytest.approx(1)
    assert sum(item["nodes"] for item in found["operators"]) == 20  # "20 nodes observed"
    assert outside_delegate(found) == {"AVERAGE_POOL_2D": 1, "SOFTMAX": 1}
    assert found["containers"] == []
    times = [item["ms"] for item in found["operators"]]
    assert times == sorted(times, reverse=True)


def test_containers_do_not_count_twice():
    """A WHILE takes as long as what it repeats."""
    text = """
====================================== Summary by node type ======================================
        [Node type]    [count]   [avg ms]    [avg %]    [cdf %]   [mem KB] [times called]
              WHILE          1      0.600    60.000%    60.000%      0.000             10
    FULLY_CONNECTED          1      0.030    30.000%    90.000%      0.000            100
                ADD          2      0.005    10.000%   100.000%      0.000            200

Timings (microseconds): count=4 curr=10000
"""
    found = parse_summary(text, runs=10)
    assert found["containers"] == ["WHILE"]
    assert found["operators_ms"] == pytest.approx(0.4)  # 40 % of 10,000 us in ten runs.
    assert [(item["type"], item["nodes"], item["ratio"]) for item in found["operators"]] == [
        ("FULLY_CONNECTED", 1, pytest.approx(0.75)),
        ("ADD", 2, pytest.approx(0.25)),
    ]


@pytest.mark.parametrize(
    "text", ["", "nonsense\n" * 3, "== Summary by node type ==\n\nTimings (microseconds): count=0 curr=0"]
)
def test_no_table_is_an_error(text):
    with pytest.raises(ValueError, match="no times by operator"):
        parse_summary(text, runs=1)


@pytest.mark.parametrize("version", ["2.3.0", "2.3.1"])
def test_checked_version(version):
    check_version(version)


@pytest.mark.parametrize("version", [None, "2.2.0", "2.4.0", "2.30.1", "2.3.0.dev20260101", "1.4.0"])
def test_unknown_version_is_refused(version):
    """The C API is not stable: a call with the wrong arguments would end the process."""
    with pytest.raises(AgentError, match=r"ai-edge-litert 2\.3") as caught:
        check_version(version)
    assert caught.value.code == "profile"
    assert (version or "unknown version") in caught.value.message


def test_resnet8_int8(data_folder):
    """XNNPACK takes 14 of 16 nodes; AVERAGE_POOL_2D and SOFTMAX are left to LiteRT."""
    path = data_folder / "resnet8-cifar10" / "pretrainedResnet_quant.tflite"
    found = profile(path)
    graph = read_graph(path.read_bytes())
    assert len(graph.main.operators) - 14 == sum(outside_delegate(found).values()) == 2
    assert outside_delegate(found) == {"AVERAGE_POOL_2D": 1, "SOFTMAX": 1}
    nodes = {item["type"].split(" (")[0]: item["nodes"] for item in found["operators"]}
    assert nodes["Delegate/Convolution"] == 9
    assert nodes["Delegate/Add"] == 3
    assert nodes["Delegate/Fully Connected"] == 1
    assert found["engine"] == "litert-profiler"
    assert found["inputs"] == "zeros"
    assert found["runs"] >= 50
    assert sum(item["ratio"] for item in found["operators"]) == pytest.approx(1)
    assert sum(item["ms"] for item in found["operators"]) == pytest.approx(found["operators_ms"])
    assert found["total_ms"] - found["operators_ms"] == pytest.approx(found["unaccounted_ms"])
    # Twelve million multiplications take some time on any machine, and the convolutions take nearly all of it.
    assert found["operators"][0]["type"].startswith("Delegate/Convolution")
    assert found["operators_ms"] > 0.01


def test_digits_int8_on_two_threads():
    found = profile(MODELS / "digits_int8.tflite", num_threads=2)
    graph = read_graph((MODELS / "digits_int8.tflite").read_bytes())
    left = outside_delegate(found)
    assert left == {"SOFTMAX": 1}
    assert sum(left.values()) < len(graph.main.operators)
    assert sum(item["ratio"] for item in found["operators"]) == pytest.approx(1)
    assert found["runs"] >= 50


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\x1c\x00\x00\x00TFL3" + bytes(100)], ids=["empty", "text", "header"]
)
def test_broken_model_is_one_sentence(tmp_path, content):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    found = profile(path)
    assert found["code"] == "profile"
    assert found["message"].startswith("LiteRT cannot profile this model: LiteRtCreate")


def test_truncated_model_is_one_sentence(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes((MODELS / "digits_int8.tflite").read_bytes()[:2000])
    assert profile(path)["message"].startswith("LiteRT cannot profile this model: ")


def test_no_gpu_library_is_loaded():
    """libLiteRtWebGpuAccelerator.so ends a process on a Cortex-A53 or A72 (no LSE atomics) as soon as it is loaded."""
    said = run_profiler(MODELS / "digits_int8.tflite").stderr
    assert "XNNPACK CPU accelerator registered" in said  # So LiteRT does say what it registers.
    assert "GPU accelerator" not in said


def test_input_without_a_fixed_size_is_refused(tmp_path):
    """It would be profiled with size 1, which is no inference of this model; a batch of any size is fine."""
    for signature, is_refused in (([-1, 8, 8, 1], False), ([-1, -1, 8, 1], True)):
        model = schema.ModelT.InitFromPackedBuf((MODELS / "digits_int8.tflite").read_bytes(), 0)
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = signature
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        path = tmp_path / "model.tflite"
        path.write_bytes(builder.Output())
        found = profile(path)
        assert ("Input 0 has no fixed size" in found.get("message", "")) is is_refused
