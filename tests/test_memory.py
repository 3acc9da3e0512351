"""The memory planner against the two runtimes that it stands for, and against what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecomp.errors import GraphError
from edgecomp.graph import Graph, Operator, Subgraph, Tensor, read_graph
from edgecomp.inference import TflmModel
from edgecomp.memory import LITERT, LITERT_BUILTIN, TFLM, estimate_arena, plan_memory, shrink_to_32_bit
from tests.conftest import DATA, ROOT, read_npz

# ai-edge-quantizer calibrates that way and LiteRT warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning")

# kws_ref_model_float32.tflite is dynamic-range quantized: TFLM refuses it, and LiteRT's hybrid kernels keep buffers of
# their own.
FILES = [
    *(path for path in sorted(DATA.glob("*/*.tflite")) if path.name != "kws_ref_model_float32.tflite"),
    *sorted((ROOT / "tests" / "models").glob("*.tflite")),
]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def data(request):
    return request.param.read_bytes()


@pytest.fixture(scope="module")
def made(data_folder):
    """ResNet8 in the precisions that give an operator buffers of its own, or other structures."""
    from edgecomp.profile import Precision
    from edgecomp.quantize import QuantizationOptions, Quantizer

    folder = data_folder / "resnet8-cifar10"
    source = _with_signature((folder / "pretrainedResnet.tflite").read_bytes())
    images = read_npz(folder / "cifar10_lossless_4k_1k.npz")["x_train"][:10].astype(np.float32)
    (name,) = (spec.name for spec in read_graph(source).inputs)
    quantizer = Quantizer(source, [{name: image[np.newaxis]} for image in images])
    return {
        precision: quantizer.quantize(
            QuantizationOptions(Precision(precision), "int8", int4_operators=("CONV_2D",))
        ).data
        for precision in ("INT8", "INT16X8", "INT4_WEIGHTS")
    }


def _with_signature(data):
    """As importing the file does it."""
    import tempfile
    from pathlib import Path

    from edgecomp.convert import convert_to_float_tflite

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source.tflite", Path(folder) / "float.tflite"
        source.write_bytes(data)
        convert_to_float_tflite(str(source), trust_code=False, out_path=str(out))
        return out.read_bytes()


def tflm_arena(data):
    pytest.importorskip("tflite_micro", reason="wheels exist for Linux x86-64 only")
    model = TflmModel(data)
    model.run({spec.name: np.zeros((1, *spec.sample_shape), np.float32) for spec in model.graph.inputs})
    return model.graph, model.arena_bytes()


def litert_extent(data, resolver):
    """Bytes between the first and the last address that LiteRT gave a tensor without data of its own."""
    from ai_edge_litert.interpreter import Interpreter

    graph = read_graph(data)
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    spans = []
    for detail in interpreter.get_tensor_details():
        index = detail["index"]
        if index < len(graph.main.tensors) and graph.main.tensors[index].is_constant:
            continue
        view = interpreter.tensor(index)()
        start = view.__array_interface__["data"][0]
        spans.append((start, start + view.nbytes))
    return graph, max(end for _, end in spans) - min(start for start, _ in spans)


class TestAgainstTflm:
    def test_head_is_exact_and_the_whole_within_five_percent(self, data):
        graph, arena = tflm_arena(data)
        estimate = estimate_arena(graph, word_bytes=8)
        assert estimate.head_bytes == arena["head"]
        assert estimate.total_bytes == pytest.approx(arena["total"], rel=0.05)

    @pytest.mark.data
    @pytest.mark.parametrize("precision", ["INT8", "INT16X8", "INT4_WEIGHTS"])
    def test_buffers_of_running_operators_are_planned_too(self, made, precision):
        graph, arena = tflm_arena(made[precision])
        estimate = estimate_arena(graph, word_bytes=8)
        assert estimate.head_bytes == arena["head"]
        assert estimate.total_bytes == pytest.approx(arena["total"], rel=0.02)

    @pytest.mark.data
    def test_a_32_bit_core_needs_less(self, made):
        graph, arena = tflm_arena(made["INT8"])
        # A model of 22 nodes took 30,256 bytes in the 64-bit build and 28,084 on a Cortex-M4: 99 bytes a node less.
        saved = arena["total"] - shrink_to_32_bit(arena["total"], graph)
        assert 60 < saved / len(graph.main.operators) < 120
        assert estimate_arena(graph).total_bytes == pytest.approx(arena["total"] - saved, rel=0.01)


class TestAgainstLiteRt:
    def test_reference_kernels(self, data):
        from ai_edge_litert.interpreter import OpResolverType

        graph, extent = litert_extent(data, OpResolverType.BUILTIN_REF)
        assert plan_memory(graph, LITERT).head_bytes == pytest.approx(extent, abs=64)

    @pytest.mark.data
    def test_built_in_kernels_lay_out_their_patches(self, data_folder):
        from ai_edge_litert.interpreter import OpResolverType

        model = (data_folder / "resnet8-cifar10" / "pretrainedResnet.tflite").read_bytes()
        graph, extent = litert_extent(model, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
        # 208,896 of activations, and 32 * 32 patches of 3 * 3 * 16 floats.
        assert extent == 208_896 + 589_824
        assert plan_memory(graph, LITERT_BUILTIN).head_bytes == extent


@st.composite
def graphs(draw):
    """Chains with branches: every operator reads one or two earlier tensors and writes one."""
    count = draw(st.integers(1, 12))
    sizes = draw(st.lists(st.integers(1, 400), min_size=count + 1, max_size=count + 1))
    tensors = tuple(
        Tensor(index, f"t{index}", (size,), (), "INT8", 0, False, (), ()) for index, size in enumerate(sizes)
    )
    operators = tuple(
        Operator(
            step, draw(st.sampled_from(["ADD", "RESHAPE", "CONV_2D"])), 1, False,
            tuple(draw(st.lists(st.integers(0, step), min_size=1, max_size=2))), (step + 1,),
        )
        for step in range(count)
    )  # fmt: skip
    return Graph(0, (Subgraph(tensors, operators, (0,), (count,)),), (), (), False)


@settings(max_examples=200, deadline=None)
@given(graphs(), st.sampled_from([TFLM, LITERT, LITERT_BUILTIN]))
def test_what_every_plan_must_hold(graph, rules):
    plan = plan_memory(graph, rules)
    for index, left in enumerate(plan.allocations):
        assert left.offset_bytes % rules.alignment_bytes == 0
        for right in plan.allocations[:index]:
            if left.first <= right.last and right.first <= left.last:
                assert (
                    left.offset_bytes + left.size_bytes <= right.offset_bytes
                    or right.offset_bytes + right.size_bytes <= left.offset_bytes
                )
    assert plan.lower_bound_bytes == max(plan.live_bytes) <= plan.head_bytes
    largest = max(tensor.size_bytes for tensor in graph.main.tensors)
    assert plan.head_bytes >= largest


def test_a_reshape_that_changes_the_size_has_memory_of_its_own():
    """No runtime takes such a file, but check reads it: 1 byte -> 1 -> 129, each in steps of 64."""
    tensors = tuple(Tensor(i, f"t{i}", (size,), (), "INT8", 0, False, (), ()) for i, size in enumerate((1, 1, 129, 1)))
    codes = ("ADD", "RESHAPE", "ADD")
    operators = tuple(Operator(i, code, 1, False, (i,), (i + 1,)) for i, code in enumerate(codes))
    plan = plan_memory(Graph(0, (Subgraph(tensors, operators, (0,), (3,)),), (), (), False), LITERT)
    assert plan.live_bytes == (128, 64 + 64 + 192, 64 + 192 + 64)  # The input is kept to the end.


def test_the_layer_of_the_peak_is_named():
    # 100 -> 300 -> 10 bytes: the first operator has 112 + 304 alive (aligned to 16), the second 304 + 16.
    sizes = (100, 300, 10)
    tensors = tuple(Tensor(i, f"layer{i}", (size,), (), "INT8", 0, False, (), ()) for i, size in enumerate(sizes))
    operators = tuple(Operator(i, "CONV_2D", 1, False, (i,), (i + 1,)) for i in range(2))
    plan = plan_memory(Graph(0, (Subgraph(tensors, operators, (0,), (2,)),), (), (), False), TFLM)
    assert plan.live_bytes == (112 + 304, 304 + 16)
    assert plan.peak_layer == "layer1"
    assert plan.head_bytes == 416


def test_more_activations_than_any_device_runs_is_an_error():
    tensors = tuple(Tensor(i, "t", (1,), (), "INT8", 0, False, (), ()) for i in range(5001))
    operators = tuple(Operator(i, "RELU", 1, False, (i,), (i + 1,)) for i in range(5000))
    with pytest.raises(GraphError, match="5001 activations, more than the 4000"):
        plan_memory(Graph(0, (Subgraph(tensors, operators, (0,), (5000,)),), (), (), False), TFLM)
