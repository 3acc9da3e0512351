"""The compact writer of FlatBuffers: what is read back, where it lies, and what a strict reader says of it."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgecomp.flatbuffer import Buffer
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, LiteRtModel
from edgecomp.pack._layout import lay_out
from edgecomp.pack._tree import TreeBuilder
from edgecomp.pack.tflm_slim import write
from edgecomp.tflite_edit import unpack_model
from tests.conftest import DATA, ROOT
from tests.pack_models import resnet8

FILES = [*sorted(DATA.glob("*/*.tflite")), *sorted((ROOT / "tests" / "models").glob("*.tflite"))]


def same(left, right, where="model"):
    """Compare two object trees field by field; an absent list and an empty one are the same."""
    if isinstance(left, (list, np.ndarray)) or isinstance(right, (list, np.ndarray)):
        left, right = (() if side is None else side for side in (left, right))
        assert len(left) == len(right), where
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            same(one, other, f"{where}[{number}]")
    elif hasattr(left, "__dict__"):
        assert type(left) is type(right), where
        for name in vars(left):
            same(getattr(left, name), getattr(right, name), f"{where}.{name}")
    else:
        assert left == right or (left != left and right != right), where


@pytest.mark.data
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_is_read_back(path):
    """Nothing left out: another order of the same parts, which alone saves the copies and the padding."""
    data = path.read_bytes()
    written = write(unpack_model(data, "test"))
    same(unpack_model(data, "test"), unpack_model(written, "test"))
    assert len(written) < len(data)


@pytest.mark.data
def test_a_strict_reader_takes_it(data_folder):
    """LiteRT runs FlatBuffers' own verifier over a file before it trusts an offset in it, then computes the same."""
    data, images = resnet8(data_folder)
    written = write(unpack_model(data, "test"))
    inputs = {"x": images[:3]}
    expected = LiteRtModel(data, KernelFamily.LITERT_REFERENCE).run(inputs)[0]
    assert np.array_equal(LiteRtModel(written, KernelFamily.LITERT_REFERENCE).run(inputs)[0], expected)


@pytest.mark.data
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_where_data_lies(path):
    """Constant data at multiples of 16 as the schema says, 64-bit zero points at 8, other vectors at 4."""
    data = write(unpack_model(path.read_bytes(), "test"))
    model = schema.Model.GetRootAs(data, 0)
    places = []
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            places.append(address(data, buffer.DataAsNumpy()))
            assert places[-1] % 16 == 0
    assert places
    subgraph = model.Subgraphs(0)
    for index in range(subgraph.TensorsLength()):
        tensor = subgraph.Tensors(index)
        quantization = tensor.Quantization()
        if quantization is not None and quantization.ZeroPointLength():
            assert address(data, quantization.ZeroPointAsNumpy()) % 8 == 0
            assert address(data, quantization.ScaleAsNumpy()) % 4 == 0
        if tensor.ShapeLength():
            assert address(data, tensor.ShapeAsNumpy()) % 4 == 0


def address(data, view):
    """Where in the file a vector's elements start."""
    return view.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).__array_interface__["data"][0]


def test_64_bit_fields_lie_at_multiples_of_8():
    """A few tables of different sizes before it, so that it cannot lie well by luck each time."""
    for ahead in range(5):
        tree = TreeBuilder(16)
        model = schema.ModelT(version=3, subgraphs=[], operatorCodes=[], description="x" * ahead)
        model.buffers = [schema.BufferT(), schema.BufferT(offset=77, size=2**40)]
        data = lay_out(tree, model.Pack(tree), b"TFL3")
        table = list(Buffer(data, "test").root().tables(4))[1]
        assert (table.scalar_u64(1), table.scalar_u64(2)) == (77, 2**40)
        assert {table._field(1) % 8, table._field(2) % 8} == {0}


def test_equal_parts_are_written_once():
    """A thousand tensors of one shape: one table and one shape, and 4 bytes each in the list."""
    subgraph = schema.SubGraphT(tensors=[schema.TensorT(shape=[1, 2, 3], type=9) for _ in range(1000)])
    tree = TreeBuilder(16)
    model = schema.ModelT(version=3, subgraphs=[subgraph], buffers=[schema.BufferT()])
    data = lay_out(tree, model.Pack(tree), b"TFL3")
    assert len(data) < 4000 + 150
    assert unpack_model(data, "test").subgraphs[0].tensors[999].shape.tolist() == [1, 2, 3]


def test_a_list_within_another_is_not_written_again():
    """A vector is its length and its elements: that of the shape [16] is the end of that of [8, 1, 1, 16]."""

    def size(*shapes):
        tree = TreeBuilder(16)
        tensors = [schema.TensorT(shape=list(shape)) for shape in shapes]
        subgraph = schema.SubGraphT(tensors=tensors)
        model = schema.ModelT(version=3, subgraphs=[subgraph], buffers=[schema.BufferT()])
        data = lay_out(tree, model.Pack(tree), b"TFL3")
        assert [tensor.shape.tolist() for tensor in unpack_model(data, "test").subgraphs[0].tensors] == list(
            map(list, shapes)
        )
        return len(data)

    # Nothing differs but those 8 bytes.
    assert size((8, 1, 1, 16), (16,)) + 8 == size((8, 1, 1, 16), (17,))


def test_numbers_and_names_read_by_our_own_reader():
    data = (ROOT / "tests" / "models" / "digits_int8.tflite").read_bytes()
    graph, written = read_graph(data), read_graph(write(unpack_model(data, "test")))
    assert written.main == graph.main
    assert written.inputs == graph.inputs
