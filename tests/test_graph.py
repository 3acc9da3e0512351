"""graph.py against the schema and the interpreter that ai-edge-litert ships."""

import random

import numpy as np
import pytest

from edgecomp.errors import GraphError
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, load
from edgecomp.memory import TFLM, plan_memory
from edgecomp.tflite_schema import BUILTIN_OPERATORS, TENSOR_TYPES
from tests.conftest import DATA, read_npz

MODELS = sorted(path.relative_to(DATA).as_posix() for path in DATA.glob("*/*.tflite"))
RESNET8 = "resnet8-cifar10/pretrainedResnet_quant.tflite"
KWS = "dscnn-kws/kws_ref_model.tflite"


def test_tables_equal_the_published_schema():
    from ai_edge_litert import schema_py_generated as schema

    def members(enum):
        return {number: name for name, number in vars(enum).items() if not name.startswith("_")}

    assert dict(enumerate(BUILTIN_OPERATORS)) == members(schema.BuiltinOperator)
    assert {number: name for number, (name, _, _) in TENSOR_TYPES.items()} == members(schema.TensorType)


@pytest.mark.data
@pytest.mark.parametrize("name", MODELS)
class TestAgainstTheInterpreter:
    def test_borders(self, data_folder, name):
        from ai_edge_litert.interpreter import Interpreter

        data = (data_folder / name).read_bytes()
        graph = read_graph(data)
        interpreter = Interpreter(model_content=data)
        for specs, details in (
            (graph.inputs, interpreter.get_input_details()),
            (graph.outputs, interpreter.get_output_details()),
        ):
            for spec, detail in zip(specs, details, strict=True):
                assert spec.dtype == np.dtype(detail["dtype"]).name
                assert spec.sample_shape == tuple(detail["shape"][1:])
                scale, zero_point = detail["quantization"]
                assert (spec.scale or 0.0, spec.zero_point or 0) == (scale, zero_point)

    def test_operators(self, data_folder, name):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        data = (data_folder / name).read_bytes()
        # The reference resolver adds no delegate, whose nodes would be listed too.
        interpreter = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        listed = [detail["op_name"] for detail in interpreter._get_ops_details()]
        assert [operator.code for _, operator in read_graph(data).operators()] == listed


@pytest.mark.data
def test_macs_are_those_of_the_published_models(data_folder):
    # MLPerf Tiny: 12.50 M and 2.66 M multiply-accumulates.
    assert read_graph((data_folder / RESNET8).read_bytes()).macs == 12_501_632
    assert read_graph((data_folder / KWS).read_bytes()).macs == 2_656_768


@pytest.fixture(scope="module")
def model(data_folder):
    return (data_folder / RESNET8).read_bytes()


class TestDamagedFiles:
    def test_a_text_file_is_named_as_what_it_is_not(self):
        with pytest.raises(GraphError, match=r"notes\.tflite is not a \.tflite file: bytes 4 to 8 are b'o th'"):
            read_graph(b"hello there, this is text", "notes.tflite")

    def test_an_empty_file(self):
        with pytest.raises(GraphError, match=r"is not a \.tflite file"):
            read_graph(b"")

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file(self, model, part):
        with pytest.raises(GraphError, match="is damaged"):
            read_graph(model[: int(len(model) * part)])

    def test_random_damage_is_an_error_or_harmless(self, model):
        generator = random.Random(0)
        # The tables lie at the end of the file, where damage matters most.
        for _ in range(500):
            damaged = bytearray(model)
            for _ in range(generator.randint(1, 8)):
                damaged[generator.randrange(len(model) * 4 // 5, len(model))] = generator.randrange(256)
            try:
                plan_memory(read_graph(bytes(damaged)), TFLM)
            except GraphError:
                continue


@pytest.mark.data
def test_kernel_families_agree_on_answers(data_folder):
    data = (data_folder / RESNET8).read_bytes()
    images = read_npz(data_folder / "resnet8-cifar10" / "cifar10_lossless_4k_1k.npz")["x_test"][:50]
    inputs = {"input_1_int8": images.astype(np.float32)}
    reference = load(data, KernelFamily.LITERT_REFERENCE).run(inputs)[0].astype(int)
    for kernels in (KernelFamily.LITERT_XNNPACK, KernelFamily.LITERT_BUILTIN, KernelFamily.TFLM):
        outputs = load(data, kernels).run(inputs)[0].astype(int)
        # Softmax amplifies what the layers before it rounded: within 64 LSB for all but one in twenty.
        assert (np.abs(outputs - reference).max(axis=1) <= 64).sum() >= 48
        # Two near ties may fall either way.
        assert (outputs.argmax(1) == reference.argmax(1)).sum() >= 48
