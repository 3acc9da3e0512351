"""Low-rank factorization against singular values, LiteRT, converted files and hand-computed counts."""

import itertools
import os
import re

import numpy as np
import pytest
from pydantic import ValidationError

from edgecomp.compress import Context, technique
from edgecomp.convert import ENVIRONMENT, to_tflite
from edgecomp.data import DataOptions, prepare_dataset
from edgecomp.errors import CompressionError
from edgecomp.graph import read_graph
from edgecomp.profile import Precision, load_profile
from edgecomp.quantize import QuantizationOptions, Quantizer
from tests.conftest import ROOT

os.environ.update(ENVIRONMENT)
tf = pytest.importorskip("tensorflow")

import tf_keras  # noqa: E402

from edgecomp.compress._factorize import composed, factorize, full_ranks, kept_energy, methods_of  # noqa: E402
from edgecomp.compress._factorize_allocation import by_ratio  # noqa: E402
from edgecomp.compress._factorize_choice import Candidates, Choice, Cost  # noqa: E402
from edgecomp.compress._factorize_cost import Geometry, operators  # noqa: E402
from edgecomp.compress._factorize_moments import Window, draw_patches  # noqa: E402
from edgecomp.compress._footprint import footprint  # noqa: E402
from edgecomp.load import from_tf_keras, load_trainable  # noqa: E402
from edgecomp.training.samples import training_data  # noqa: E402
from edgecomp.training.settings import TrainingSettings  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning")

layers = tf_keras.layers
low_rank = technique("low_rank")
Options = low_rank.Options
DIGITS = ROOT / "calibration_data" / "digits" / "digits.npz"
SHAPES = [(1, 1, 20, 12), (3, 3, 8, 10), (5, 1, 6, 7), (1, 3, 4, 9), (3, 5, 6, 4)]
CASES = [(shape, method) for shape in SHAPES for method in methods_of(np.empty(shape))]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Training data of 8 x 8 digits, with a model made for them."""
    tf_keras.utils.set_random_seed(3)
    x = inputs = layers.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(x)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False, name="second")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = tf_keras.Model(inputs, layers.Dense(10, activation="softmax", name="scores")(x))
    loaded = from_tf_keras(model)
    dataset = prepare_dataset(
        DataOptions(source=str(DIGITS), mean=(0.0,), std=(16.0,)), tmp_path_factory.mktemp("digits")
    )
    bound = dataset.bind(loaded.inputs, loaded.outputs)
    context = Context(training_data(bound), TrainingSettings(epochs=4, batch_size=64, learning_rate=3e-3))
    from edgecomp.training.loop import FineTuning

    FineTuning(context.data, context.settings).run(model, "the model")
    return model, bound, Context(context.data, TrainingSettings(epochs=1, batch_size=64), teacher=model)


def real(name, data_folder, tmp_path):
    """(model, bound data, context) of a real model."""
    model, data, scaling = {
        "resnet8": ("resnet8-cifar10/pretrainedResnet.h5", "resnet8-cifar10/cifar10_lossless_4k_1k.npz", {}),
        "lenet": ("mnist/mnist_lenet.keras", "mnist/mnist.npz", {"mean": (0.0,), "std": (255.0,)}),
    }[name]
    made = load_trainable(str(data_folder / model), trust_code=False)
    loaded = from_tf_keras(made)
    bound = prepare_dataset(DataOptions(source=str(data_folder / data), **scaling), tmp_path).bind(
        loaded.inputs, loaded.outputs
    )
    return made, bound, Context(training_data(bound), TrainingSettings(), teacher=made)


def answers(model, bound):
    """Classes by the model, and the labels, of the test split."""
    split = bound.split("test")
    (inputs,), (labels,) = split.read().values(), split.labels.values()
    return model.predict(inputs, verbose=0, batch_size=250).argmax(1), labels


def macs_of(model):
    return read_graph(to_tflite(from_tf_keras(model), where="the model")).macs


def shipped_bytes(model, bound, device):
    """Of the INT8 file; for a microcontroller of the file that is slimmed for it."""
    data = to_tflite(from_tf_keras(model), where="the model")
    name = read_graph(data).inputs[0].name
    (samples,) = bound.split("calibration").head(20).read().values()
    quantizer = Quantizer(data, [{name: sample[None]} for sample in samples])
    made = quantizer.quantize(QuantizationOptions(Precision.INT8, "int8")).data
    if device != "stm32l4r5":
        return len(made)
    pytest.importorskip("tflite_micro")
    from edgecomp.pack import pack_for_tflm

    return pack_for_tflm(made, {name: samples[:2]}, kinds=()).report.slim.file_bytes


def without_data(model, options, profile=None):
    from edgecomp.compress._factorize_layers import factorized

    return factorized(model, options, profile, None)


def told(made, what):
    """What the layers say that they save."""
    pairs = [re.search(rf"{what} ([\d,]+) -> ([\d,]+)", item.change).groups() for item in made.changes]
    return sum(int(before.replace(",", "")) - int(after.replace(",", "")) for before, after in pairs)


def reasons(made):
    return {item.layer: item.reason for item in made.skipped}


# Factors


def test_the_energy_of_hand_made_singular_values():
    """diag(3, 2, 1): of 9 + 4 + 1 = 14 rank 1 keeps 9, rank 2 keeps 13."""
    kernel = np.diag([3.0, 2.0, 1.0])[None, None]
    np.testing.assert_allclose(kept_energy(kernel, "svd"), [0, 9 / 14, 13 / 14, 1])
    made = composed(factorize(kernel, "svd", (2,)), "svd")
    np.testing.assert_allclose(made[0, 0], np.diag([3.0, 2.0, 0.0]), atol=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_the_error_is_the_norm_of_the_dropped_singular_values(rank, rng):
    """Eckart and Young 1936; numpy's own singular values are the reference."""
    kernel = rng.normal(size=(1, 1, 20, 12))
    dropped = np.linalg.svd(kernel[0, 0], compute_uv=False)[rank:]
    error = composed(factorize(kernel, "svd", (rank,)), "svd") - kernel
    assert np.linalg.norm(error) == pytest.approx(np.linalg.norm(dropped), rel=1e-9)


def test_spatial_takes_the_singular_values_of_height_by_width(rng):
    """Jaderberg et al.: rows (height, in), columns (width, out)."""
    kernel = rng.normal(size=(3, 5, 6, 4))
    values = np.linalg.svd(kernel.transpose(0, 2, 1, 3).reshape(18, 20), compute_uv=False)
    np.testing.assert_allclose(kept_energy(kernel, "spatial")[1:], (values**2).cumsum() / (values**2).sum())


@pytest.mark.parametrize(("shape", "method"), CASES)
@pytest.mark.parametrize("with_data", [False, True])
def test_full_ranks_give_the_kernel_back(shape, method, with_data, rng):
    kernel, moments = rng.normal(size=shape), skewed_moments(shape, rng)[0] if with_data else None
    factors = factorize(kernel, method, full_ranks(kernel, method), moments)
    np.testing.assert_allclose(composed(factors, method), kernel, atol=1e-9)


def skewed_moments(shape, rng):
    size = int(np.prod(shape[:3]))
    x = rng.normal(size=(4 * size, size)) @ rng.normal(size=(size, size))
    return x.T @ x / len(x), x


@pytest.mark.parametrize(("shape", "method"), CASES)
def test_factors_are_fitted_to_the_outputs(shape, method, rng):
    """The energy told is the one that the samples see, and fewer errors are made than by the weights alone."""
    kernel = rng.normal(size=shape)
    moments, x = skewed_moments(shape, rng)
    ranks = tuple(max(1, rank // 2) for rank in full_ranks(kernel, method))

    def lost(factors):
        wanted = x @ kernel.reshape(x.shape[1], -1)
        return np.sum((x @ composed(factors, method).reshape(x.shape[1], -1) - wanted) ** 2) / np.sum(wanted**2)

    error = lost(factorize(kernel, method, ranks, moments))
    assert error < lost(factorize(kernel, method, ranks))
    assert 1 - kept_energy(kernel, method, moments)[ranks] == pytest.approx(error, rel=0.02)  # 0.1 % of ridge.


def test_inputs_that_never_change_leave_the_weights(rng):
    """Behind a dead layer all moments are zero."""
    kernel = rng.normal(size=(3, 3, 2, 5))
    for method in methods_of(kernel):
        np.testing.assert_array_equal(
            kept_energy(kernel, method, np.zeros((18, 18))), kept_energy(kernel, method), strict=True
        )
        ranks = full_ranks(kernel, method)
        np.testing.assert_allclose(
            composed(factorize(kernel, method, ranks, np.zeros((18, 18))), method), kernel, atol=1e-9
        )


def test_channels_between_factors_have_equal_norms(rng):
    """Per-tensor activations: no channel may be tiny beside the others on one side only."""
    for method in ("svd", "spatial"):
        first, second = factorize(rng.normal(size=(3, 3, 8, 10)), method, (4,))
        before = np.linalg.norm(first.reshape(-1, 4), axis=0)
        after = np.linalg.norm(np.moveaxis(second, 2, 0).reshape(4, -1), axis=1)
        np.testing.assert_allclose(before, after)


WINDOWS = [
    ("same", (1, 1), (1, 1)), ("same", (2, 2), (1, 1)), ("same", (2, 1), (1, 1)), ("same", (1, 1), (2, 2)),
    ("valid", (1, 1), (1, 1)), ("valid", (3, 2), (1, 1)), ("valid", (1, 1), (1, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("padding", "strides", "dilation"), WINDOWS)
def test_patches_are_those_that_a_convolution_meets(padding, strides, dilation, rng):
    """A patch times the kernel is an output of tf_keras's own layer."""
    values = rng.normal(size=(2, 9, 8, 3)).astype(np.float32)
    conv = layers.Conv2D(5, (3, 2), padding=padding, strides=strides, dilation_rate=dilation, use_bias=False)
    outputs = conv(values).numpy().reshape(2, -1, 5)
    patches = draw_patches(values, Window((3, 2), strides, dilation, padding), rng).reshape(2, -1, 18)
    made = patches @ conv.kernel.numpy().reshape(18, 5)
    distance = np.abs(made[:, :, None] - outputs[:, None]).max(axis=3)
    assert distance.min(axis=2).max() < 1e-5
    assert len(np.unique(distance.argmin(axis=2))) > outputs.shape[1] // 3  # From all over the place.


# Layers

LAYERS = {
    "dense": (lambda: layers.Dense(32, activation="tanh"), (40,)),
    "dense-no-bias": (lambda: layers.Dense(32, use_bias=False), (40,)),
    "dense-on-sequences": (lambda: layers.Dense(32, activation="relu"), (6, 40)),
    "1x1": (lambda: layers.Conv2D(32, 1, activation="relu"), (6, 7, 24)),
    "1x1-strides": (lambda: layers.Conv2D(32, 1, strides=2), (7, 6, 24)),
    "same": (lambda: layers.Conv2D(20, 3, padding="same", activation="relu"), (9, 8, 16)),
    "valid-no-bias": (lambda: layers.Conv2D(20, 3, use_bias=False), (9, 8, 16)),
    "same-strides": (lambda: layers.Conv2D(20, (3, 5), padding="same", strides=2), (9, 8, 16)),
    "valid-strides": (lambda: layers.Conv2D(20, (5, 3), strides=(2, 3), activation="relu6"), (11, 12, 16)),
    "same-dilation": (lambda: layers.Conv2D(20, 3, padding="same", dilation_rate=2), (9, 8, 16)),
    "valid-dilation": (lambda: layers.Conv2D(20, 3, dilation_rate=(1, 2)), (9, 9, 16)),
    "row": (lambda: layers.Conv2D(20, (1, 5), padding="same", strides=(2, 1)), (6, 12, 16)),
    "column": (lambda: layers.Conv2D(20, (5, 1), activation="relu"), (12, 6, 16)),
    "conv1d-same": (lambda: layers.Conv1D(20, 5, padding="same", strides=2, activation="relu"), (13, 16)),
    "conv1d-valid": (lambda: layers.Conv1D(20, 5, dilation_rate=2), (13, 16)),
    "conv1d-causal": (lambda: layers.Conv1D(20, 5, padding="causal", use_bias=False), (13, 16)),
}


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker2"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_of_low_rank_is_given_back_exactly(kind, method, rng):
    """A kernel that is a product of thin factors has the whole of its energy at a low rank: outputs are equal."""
    make, shape = LAYERS[kind]
    inputs = layers.Input(shape)
    model = tf_keras.Model(inputs, make()(inputs))
    layer = model.layers[1]
    thin_kernel(layer, method, rng)
    made = without_data(model, Options(low_rank_energy=1.0, low_rank_method=method))
    assert len(made.changes) == 1, made.skipped
    assert len(made.model.layers) > 2
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    np.testing.assert_allclose(made.model(x), model(x), atol=1e-5)
    assert made.model.layers[-1].name == layer.name  # So that features can be compared with the teacher's.


def thin_kernel(layer, method, rng):
    """Give a layer a random bias and a kernel of rank 3 in the sense of a method."""
    shape = tuple(layer.kernel.shape)
    height, width = (*shape[:-2], 1, 1)[:2]
    inputs, outputs = shape[-2:]
    if height * width > 1 and width > 1 and method == "spatial":
        kernel = np.einsum("hir,rwo->hwio", normal(rng, height, inputs, 3), normal(rng, 3, width, outputs))
    elif height * width > 1 and method == "tucker2":
        kernel = np.einsum(
            "ir,hwrs,so->hwio", normal(rng, inputs, 3), normal(rng, height, width, 3, 3), normal(rng, 3, outputs)
        )
    else:
        kernel = np.einsum("hwir,ro->hwio", normal(rng, height, width, inputs, 3), normal(rng, 3, outputs))
    layer.kernel.assign(0.1 * kernel.reshape(shape))
    if layer.use_bias:
        layer.bias.assign(normal(rng, outputs))


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def test_macs_and_bytes_of_every_form_by_hand():
    """A 3 x 3 convolution 16 -> 32, strides 2, on 10 x 8: 5 x 4 outputs. Without a profile: weights and 4 B a bias."""
    geometry = Geometry((3, 3, 16, 32), (((10, 8), (5, 4)),), is_dense=False, has_bias=True)
    counts = {
        method: (
            sum(part.macs for part in operators(geometry, method, ranks)),
            sum(part.file_bytes(None) for part in operators(geometry, method, ranks)),
        )
        for method, ranks in [(None, ()), ("svd", (8,)), ("spatial", (8,)), ("tucker2", (4, 8))]
    }
    assert counts == {
        None: (20 * 4608, 4608 + 128),
        "svd": (20 * (1152 + 256), 1152 + 256 + 32 + 128),
        # Three rows of the input first, at 5 of 10 heights and all 8 columns.
        "spatial": (40 * 384 + 20 * 768, 384 + 768 + 32 + 128),
        "tucker2": (80 * 64 + 20 * (288 + 256), 64 + 288 + 256 + 16 + 32 + 128),
    }


@pytest.fixture(scope="module")
def by_method(digits):
    model, _, context = digits
    methods = ("auto", "svd", "spatial", "tucker2")
    return {
        name: low_rank.preview(model, Options(low_rank_ratio=0.6, low_rank_method=name), context) for name in methods
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", ["svd", "spatial", "tucker2"])
def test_the_counts_told_are_those_of_the_converted_file(method, digits, by_method):
    made = by_method[method]
    whole, left = footprint(digits[0], None), footprint(made.model, None)
    assert left.macs == macs_of(made.model)
    assert whole.macs - left.macs == told(made, "MACs")
    assert left.macs <= 0.6 * whole.macs
    assert left.weight_bytes <= 0.6 * whole.weight_bytes


def test_auto_keeps_more_than_any_single_method(by_method):
    kept = {}
    for method, made in by_method.items():
        energies = [float(re.search(r"([\d.]+) % of the energy", item.change)[1]) / 100 for item in made.changes]
        kept[method] = np.prod(energies)
    assert kept["auto"] >= max(kept.values()) - 2e-3  # Energies are told to 0.1 %.


def test_a_ratio_is_spent_nearly_as_well_as_can_be(rng):
    """All combinations of 4 layers with 6 choices each are the reference."""
    for _ in range(20):
        made = [random_candidates(rng) for _ in range(4)]
        chosen, reasons = by_ratio(dict(enumerate(made)), Cost(100, 100), 0.6)
        assert chosen.keys() | reasons.keys() == {0, 1, 2, 3}
        best = 0.0
        for places in itertools.product(range(6), repeat=4):
            picked = {index: made[index].choices[place - 1] for index, place in enumerate(places) if place}
            if max(left_of(made, picked)) <= 0.6:
                best = max(best, np.prod([choice.energy for choice in picked.values()]))
        assert max(left_of(made, chosen)) <= 0.6
        assert np.prod([choice.energy for choice in chosen.values()]) > 0.9 * best


def random_candidates(rng):
    whole = Cost(*rng.integers(500, 5000, 2).tolist())
    shares, energies = np.sort(rng.random((5, 2)), axis=0), np.sort(rng.uniform(0.5, 1, 5))
    choices = [
        Choice("svd", (1,), (9,), energy, whole, Cost(whole.macs * macs, whole.file_bytes * size))
        for (macs, size), energy in zip(shares.tolist(), energies.tolist(), strict=True)
    ]
    return Candidates(whole, tuple(choices))


def left_of(made, chosen):
    """Fractions of MACs and bytes, with 100 of each elsewhere."""
    costs = [chosen[index].after if index in chosen else item.whole for index, item in enumerate(made)]
    return [
        (100 + sum(getattr(cost, field) for cost in costs)) / (100 + sum(getattr(item.whole, field) for item in made))
        for field in ("macs", "file_bytes")
    ]


def test_an_energy_is_kept_by_every_layer(digits):
    model, _, context = digits
    made = low_rank.preview(model, Options(low_rank_energy=0.9), context)
    assert [item.layer for item in made.changes] == ["first", "second", "scores"]
    assert all(float(re.search(r"([\d.]+) % of the energy", item.change)[1]) >= 90 for item in made.changes)


def test_the_bias_takes_care_of_the_mean(digits):
    """The layer alone, at a third of its rank: its outputs move, their means do not."""
    model, _, context = digits
    made = low_rank.preview(model, Options(low_rank_energy=0.5, low_rank_method="svd", min_rank=10), context)
    assert [item.layer for item in made.changes] == ["second"]
    x = next(iter(context.data.train.batches(1000)))[0][0]
    before, after = (
        tf_keras.Model(item.inputs, item.get_layer("second").output)(x).numpy() for item in (folded(model), made.model)
    )
    spread = before.std()
    assert np.abs(after - before).mean() > 0.1 * spread
    assert np.abs((after - before).mean((0, 1, 2))).max() < 0.03 * spread


def folded(model):
    from edgecomp.keras_fold import fold_batch_norm

    return fold_batch_norm(model)


# Devices


@pytest.mark.parametrize(("device", "rank"), [(None, 9), ("rpi4", 16), ("stm32f746", 12)])
def test_ranks_are_what_kernels_like(device, rank, digits):
    """9 of 32 would do; XNNPACK computes 8 channels at a time, CMSIS-NN adds up 4 products at a time."""
    model, _, context = digits
    profile = None if device is None else load_profile(device)
    options = Options(low_rank_energy=0.8, low_rank_method="svd", min_rank=9)
    made = low_rank.preview(model, options, Context(context.data, context.settings, profile=profile))
    assert made.changes[0].layer == "second"
    assert f"svd of rank {rank} of 32" in made.changes[0].change


def test_a_layer_that_would_be_slower_is_left(rng):
    """64 x 64 at rank 16 is half of the MACs: worth it at 60 cycles each, not where calling an operator costs more."""
    inputs = layers.Input((64,))
    model = tf_keras.Model(inputs, layers.Dense(64, name="dense")(inputs))
    model.layers[1].kernel.assign(normal(rng, 64, 16) @ normal(rng, 16, 64))
    options = Options(low_rank_energy=1.0)
    slow = without_data(model, options, load_profile("stm32l4r5")).changes[0].change
    assert "MACs 4,096 -> 2,048" in slow
    assert "estimated" in slow
    with pytest.raises(
        CompressionError, match=r"dense: nothing is gained by svd of rank 16 of 64.*estimated"
    ) as caught:
        without_data(model, options, load_profile("rpi4"))
    before, after = re.search(r"estimated (\S+) -> (\S+) ms", caught.value.message).groups()
    assert float(after) > float(before)


def test_operators_count_on_a_device(rng):
    """24 x 16 at rank 4: 384 -> 160 weights, but a further operator takes 160 B slimmed, or 296 B, and its scales."""
    inputs = layers.Input((24,))
    model = tf_keras.Model(inputs, layers.Dense(16, name="dense")(inputs))
    model.layers[1].kernel.assign(normal(rng, 24, 4) @ normal(rng, 4, 16))
    options = Options(low_rank_energy=1.0)
    assert "bytes 448 -> 240" in without_data(model, options).changes[0].change  # 16 and 20 biases.
    for device, figures in (("stm32l4r5", "bytes 712 -> 664, estimated"), ("rpi4", "bytes 1,280 -> 1,400, estimated")):
        with pytest.raises(CompressionError, match=f"nothing is gained by svd of rank 4 of 16.*{figures}"):
            without_data(model, options, load_profile(device))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "ratio", "before", "most"), [("rpi4", 0.35, 53_832, 17_500), ("stm32l4r5", 0.25, 49_200, 14_500)]
)
def test_bytes_told_are_those_of_the_int8_file(device, ratio, before, most, data_folder, tmp_path):
    """LeNet: what is saved, from the files themselves, where 97 % of the answers stay."""
    model, bound, context = real("lenet", data_folder, tmp_path)
    context = Context(context.data, context.settings, profile=load_profile(device))
    made = low_rank.preview(model, Options(low_rank_ratio=ratio), context)
    whole, left = (shipped_bytes(item, bound, device) for item in (model, made.model))
    assert whole == pytest.approx(before, rel=0.01)
    assert whole - left == pytest.approx(told(made, "bytes"), abs=200)  # Names and alignment.
    assert left < most
    assert np.mean(answers(model, bound)[0] == answers(made.model, bound)[0]) > 0.97


# Models


def test_layers_that_stay_are_told_why(rng):
    x = inputs = layers.Input((8, 8, 16))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(16, 3, groups=4, padding="same", name="grouped")(x)
    x = layers.SeparableConv2D(16, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(16, 3, padding="same", name="transposed")(x)
    x = layers.Conv2D(16, 3, padding="same", name="pruned")(x)
    x = layers.Conv2D(16, 3, padding="same", name="clustered")(x)
    x = layers.Conv2D(16, 3, padding="same", name="zero")(x)
    x = layers.Conv2D(16, 3, padding="same", name="thin")(x)
    x = layers.Conv2D(16, 3, padding="same", name="fat")(x)
    model = tf_keras.Model(inputs, layers.Dense(2, name="last")(layers.Flatten()(x)))
    layer = {item.name: item for item in model.layers}
    layer["pruned"].kernel.assign(layer["pruned"].kernel * (rng.random((3, 3, 16, 16)) < 0.5))
    layer["clustered"].kernel.assign(rng.integers(1, 9, (3, 3, 16, 16)))
    layer["zero"].kernel.assign(tf.zeros((3, 3, 16, 16)))
    thin_kernel(layer["thin"], "svd", rng)
    made = without_data(model, Options(low_rank_energy=0.999))
    assert [item.layer for item in made.changes] == ["thin"]
    why = reasons(made)
    assert list(why) == [
        "depthwise", "grouped", "separable", "transposed", "pruned", "clustered", "zero", "fat", "last",
    ]  # fmt: skip
    assert why["grouped"] == "its channels are in 4 groups, which are factors already"
    assert re.fullmatch(r"(49|50|51) % of its weights are zero, and its factors would have none", why["pruned"])
    assert why["zero"] == "its weights are all zero"
    assert why["fat"].startswith("nothing is gained by spatial of rank 4")
    assert "MACs 147,456 ->" in why["fat"]  # 64 positions of 2,304 weights.
    assert why["last"] == "no rank below the full one keeps 99.9 % of its energy"


def test_nested_and_shared_layers(rng):
    shared = layers.Dense(32, name="shared")
    base = tf_keras.Sequential([layers.Input((32,)), layers.Dense(32, activation="relu", name="inner")], name="base")
    left, right = layers.Input((32,), name="left"), layers.Input((32,), name="right")
    model = tf_keras.Model([left, right], layers.Add()([shared(base(left)), shared(right)]))
    thin_kernel(shared, "svd", rng)
    before = [values.copy() for values in model.get_weights()]
    made = without_data(model, Options(low_rank_energy=1.0))
    assert [item.layer for item in made.changes] == ["shared"]
    assert "MACs 2,048 -> 384" in made.changes[0].change  # Called twice: 2 * 1,024 -> 2 * 3 * 64.
    x = [normal(rng, 4, 32), normal(rng, 4, 32)]
    np.testing.assert_allclose(made.model(x), model(x), atol=1e-5)
    assert sum(layer.name.startswith("shared") for layer in made.model.layers) == 2  # One pair for both calls.
    assert made.model.input_names == ["left", "right"]
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


def test_training_recovers_what_a_preview_loses(digits):
    model, bound, context = digits
    options = Options(low_rank_ratio=0.2)
    scores = {}
    for name, made in (
        ("preview", low_rank.preview(model, options, context)),
        (
            "apply",
            low_rank.apply(model, options, Context(context.data, TrainingSettings(epochs=4, batch_size=64), model)),
        ),
    ):
        found, labels = answers(made.model, bound)
        scores[name] = np.mean(found == labels)
    assert scores["apply"] > scores["preview"] + 0.02


def test_low_rank_of_a_student(digits):
    """The order of composition: distill, then low_rank."""
    model, _, context = digits
    student = technique("distill").preview(model, technique("distill").Options(width=0.5), context).model
    made = low_rank.preview(student, Options(low_rank_ratio=0.6), context)
    assert macs_of(made.model) <= 0.6 * macs_of(student) < 0.3 * macs_of(model)
    assert low_rank.estimate(student, Options(low_rank_ratio=0.6), None).macs == pytest.approx(
        macs_of(made.model), rel=0.15
    )


@pytest.mark.parametrize(
    "options",
    [
        {"low_rank_energy": 0.0}, {"low_rank_energy": 1.5}, {"low_rank_ratio": 0.0}, {"low_rank_ratio": 1.0},
        {"low_rank_method": "qr"}, {"min_rank": 0}, {"rank": 4},
    ],
    ids=str,
)  # fmt: skip
def test_bad_options_are_refused(options):
    with pytest.raises(ValidationError):
        Options(**options)


def test_a_ratio_that_cannot_be_reached_is_told(digits):
    model, _, context = digits
    with pytest.raises(CompressionError, match=r"0\.05 of the model cannot be reached: .* leave 0\.\d\d of its MACs"):
        low_rank.preview(model, Options(low_rank_ratio=0.05), context)
    with pytest.raises(CompressionError, match=r"0\.5 of the model cannot be reached"):
        low_rank.preview(model, Options(low_rank_ratio=0.5, min_rank=16), context)


@pytest.mark.slow
def test_resnet8_in_one_shot(data_folder, tmp_path):
    """1,000 CIFAR-10 images, float 0.881; 0.794 at 0.65 of MACs and bytes, where factors of the weights are lost."""
    model, bound, context = real("resnet8", data_folder, tmp_path)
    made = low_rank.preview(model, Options(low_rank_ratio=0.65), context)
    found, labels = answers(made.model, bound)
    assert np.mean(found == labels) > 0.77
    blind, _ = answers(without_data(model, Options(low_rank_ratio=0.65)).model, bound)
    assert np.mean(blind == labels) < np.mean(found == labels) - 0.1
    assert macs_of(made.model) <= 0.65 * 12_501_632
