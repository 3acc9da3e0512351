"""model_data.h, compiled and read back by a C++ program."""

import shutil
import subprocess

import pytest

from edgecomp.bundle.firmware import model_header, resolver_method
from edgecomp.graph import read_graph
from tests.conftest import ROOT, missing

PROGRAM = """
#include <cstdio>
#include "model_data.h"
struct Resolver {
  void AddConv2D() { std::puts("CONV_2D"); }
  void AddFullyConnected() { std::puts("FULLY_CONNECTED"); }
  void AddReshape() { std::puts("RESHAPE"); }
  void AddSoftmax() { std::puts("SOFTMAX"); }
};
int main() {
  Resolver resolver;
  edgecomp_model::AddOperators(resolver);
  std::printf("%zu %d\\n", edgecomp_model::kArenaBytes, (int)((unsigned long)edgecomp_model::kModel % 16));
  std::fwrite(edgecomp_model::kModel, 1, edgecomp_model::kModelBytes, stderr);
}
"""


@pytest.mark.parametrize(
    ("operator", "method"),
    [  # As micro_mutable_op_resolver.h declares them.
        ("CONV_2D", "AddConv2D"), ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"), ("FULLY_CONNECTED", "AddFullyConnected"),
        ("MAX_POOL_2D", "AddMaxPool2D"), ("RELU6", "AddRelu6"), ("HARD_SWISH", "AddHardSwish"), ("SVDF", "AddSvdf"),
        ("BATCH_TO_SPACE_ND", "AddBatchToSpaceNd"), ("L2_NORMALIZATION", "AddL2Normalization"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"), ("PADV2", "AddPadV2"),
    ],
)  # fmt: skip
def test_operators_are_called_as_tflm_calls_them(operator, method):
    assert resolver_method(operator) == method


def test_the_header_compiles_and_holds_the_model(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        missing("there is no C++ compiler")
    data = (ROOT / "tests" / "models" / "digits_int8.tflite").read_bytes()
    (tmp_path / "model_data.h").write_bytes(model_header(data, read_graph(data), arena_bytes=2048, title="digits"))
    (tmp_path / "main.cc").write_text(PROGRAM)
    arguments = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "main", tmp_path / "main.cc"]
    subprocess.run([compiler, *arguments], check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    operators, rest = done.stdout.decode().rstrip().rsplit("\n", 1)
    # Every operator of the model and no other: a firmware pays flash for each that it registers.
    assert operators.split() == ["CONV_2D", "FULLY_CONNECTED", "RESHAPE", "SOFTMAX"]
    assert rest == "2048 0"
    assert done.stderr == data
