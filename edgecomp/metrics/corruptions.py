"""What sensors and cameras do to inputs: noise, blur, brightness and JPEG for images, noise and gain for signals.

Image corruptions are four of Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (2019, arXiv:1903.12261), at severity 2 of 5. Their constants hold for values from 0 to 1 and are scaled
to the range of the data. Everything here works on stored values, before mean and std are applied: a camera knows
nothing of preprocessing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from PIL import Image

from edgecomp.data import BoundDataset
from edgecomp.data.inputs import BoundInput
from edgecomp.data.splits import class_ids, draw

CLEAN = "clean"
"""The condition that is no corruption."""
SNR_DB = 20.0
GAIN_DB = 3.0
NAMES = ("noise", "blur", "brightness", "jpeg", "gain")
_BLUR_TRUNCATE = 4.0
_BATCH = 64
_PURPOSE = 2
"""Of draws by the seed: 0 and 1 are those of the splits."""


@dataclass(frozen=True)
class Severity:
    """How strong image corruptions are.

    Attributes:
        noise: Standard deviation, as a part of the value range.
        blur: Standard deviation in pixels.
        brightness: Shift, as a part of the value range.
        jpeg: Quality as libjpeg counts it.
    """

    noise: float
    blur: float
    brightness: float
    jpeg: int


# Severity 2 of the authors' make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py, for images of 32, 64 and
# 224 pixels: a blur for the largest leaves nothing of the smallest. Each with the short side below which it holds.
# Under noise of severity 3 ResNet8 falls from 0.88 to 0.21: compression has little left to break there.
_SEVERITIES = (
    (48, Severity(noise=0.06, blur=0.6, brightness=0.1, jpeg=65)),
    (128, Severity(noise=0.08, blur=0.75, brightness=0.2, jpeg=58)),
    (None, Severity(noise=0.12, blur=2.0, brightness=0.2, jpeg=18)),
)


class Kind(StrEnum):
    """What an input is, which decides what can happen to it.

    IMAGE: (height, width, channels) with 1, 3 or 4 channels and values of bytes, or from 0 to 1.
    SIGNAL: any other values along at least one axis before the last, which counts as channels.
    VECTOR: one value per feature.
    CODES: whole numbers that the model takes as such, like token numbers. Nothing happens to them.
    """

    IMAGE = "image"
    SIGNAL = "signal"
    VECTOR = "vector"
    CODES = "codes"


_CORRUPTIONS = {
    Kind.IMAGE: ("noise", "blur", "brightness", "jpeg"),
    Kind.SIGNAL: ("noise", "gain"),
    Kind.VECTOR: ("noise",),
    Kind.CODES: (),
}


@dataclass(frozen=True)
class Values:
    """What is known of the stored values of one input.

    Attributes:
        shape: Of one sample.
        dtype: As stored; whole numbers stay whole.
        low, high: Smallest and largest value of all samples.
        takes_codes: The model's input is whole numbers without a scale.
        mean, std: Of signals and vectors: of each channel (the last axis), shape (channels,). Noise and gain are told
            by them, so that they do the same to data that was normalized before it was stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    low: float
    high: float
    takes_codes: bool = False
    mean: np.ndarray | float = 0.0
    std: np.ndarray | float = 1.0

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers are stored."""
        return self.dtype.kind != "f"

    @property
    def kind(self) -> Kind:
        """See `Kind`."""
        if len(self.shape) == 3 and self.shape[-1] in (1, 3, 4) and self._has_image_range():
            return Kind.IMAGE
        if self.takes_codes or self.dtype.kind == "b":
            return Kind.CODES
        return Kind.SIGNAL if len(self.shape) > 1 else Kind.VECTOR

    def _has_image_range(self) -> bool:
        if self.dtype.kind == "b" or self.low < 0 or self.high > 255 or self.high <= 0:
            return False
        # Fractions that end at 40 are neither of the two scales that images come in: more likely a spectrum.
        return self.is_whole or self.high <= 1 or self.high > 127.5

    @property
    def white(self) -> float:
        """Of images: the value of full light. 255 or, for fractions, 1; whole numbers of fewer bits end at the highest.

        The digits of the demo, for instance, run from 0 to 16.
        """
        if self.high > 127.5:
            return 255.0
        return self.high if self.is_whole else 1.0

    @property
    def severity(self) -> Severity:
        """Of images: by their short side."""
        side = min(self.shape[:2])
        return next(severity for limit, severity in _SEVERITIES if limit is None or side < limit)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Corrupted values as they would be stored: images and whole numbers within their range, the latter rounded."""
        if self.kind is Kind.IMAGE:
            values = np.clip(values, 0, self.white)
        elif self.is_whole:
            values = np.clip(values, self.low, self.high)
        return (np.rint(values) if self.is_whole else values).astype(self.dtype)


def strength(name: str, values: Values) -> str:
    """How strong a corruption is, in words with units."""
    if values.kind is not Kind.IMAGE:
        return {
            "noise": f"Gaussian, {SNR_DB:g} dB below the variance of each channel",
            "gain": f"-{GAIN_DB:g} to {GAIN_DB:g} dB for each sample, around the mean of each channel",
        }[name]
    severity = values.severity
    return {
        "noise": f"Gaussian, standard deviation {severity.noise:g} of the value range",
        "blur": f"Gaussian, standard deviation {severity.blur:g} pixels",
        "brightness": f"{severity.brightness:g} of the value range brighter",
        "jpeg": f"quality {severity.jpeg}",
    }[name]


def corrupt(name: str, x: np.ndarray, values: Values, rng: np.random.Generator) -> np.ndarray:
    """Corrupt the samples of one input.

    Args:
        name: One of NAMES; where it does not apply to this kind of input, the samples come back as they are.
        x: Stored values, shape (n, *sample shape).
        values: What is known of them.
        rng: For noise and gain.

    Returns:
        The same shape and dtype. A fourth channel of an image (alpha, depth) stays as it is.
    """
    kind = values.kind
    if name not in _CORRUPTIONS[kind]:
        return x
    work = x.astype(np.float64 if x.dtype.itemsize > 4 else np.float32)
    if kind is Kind.IMAGE:
        color = work[..., :3]
        severity, white = values.severity, values.white
        if name == "noise":
            color = add_noise(color, severity.noise * white, rng)
        elif name == "blur":
            color = gaussian_blur(color, severity.blur)
        elif name == "brightness":
            color = brighten(color, severity.brightness * white, white)
        else:
            color = jpeg(color, severity.jpeg, white)
        changed = values.stored(np.concatenate([color, work[..., 3:]], axis=-1))
        changed[..., 3:] = x[..., 3:]
        return changed
    if name == "noise":
        return values.stored(add_noise(work, values.std * 10 ** (-SNR_DB / 20), rng))
    return values.stored(scale_samples(work, values.mean, rng))


def add_noise(x: np.ndarray, sigma: np.ndarray | float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of a standard deviation that broadcasts against the last axis."""
    noise = rng.standard_normal(x.shape, dtype=np.float32) * sigma
    return np.asarray(x + noise.astype(x.dtype))


def gaussian_blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Convolve with a Gaussian of `sigma` pixels, cut off after 4 of them; pixels beyond the edge repeat the edge.

    Args:
        x: Shape (n, height, width, channels), floating point.
        sigma: Above 0.
    """
    count, height, width, channels = x.shape
    # Two matrix products: several times faster than one pass over the images for each tap.
    rows = _blur_matrix(height, sigma).astype(x.dtype) @ x.reshape(count, height, width * channels)
    by_channel = np.moveaxis(rows.reshape(x.shape), 2, 3)
    return np.moveaxis(by_channel @ _blur_matrix(width, sigma).T.astype(x.dtype), 3, 2)


def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    """Shape (size, size): what every pixel of a line contributes to every other; rows have the sum 1."""
    radius = int(_BLUR_TRUNCATE * sigma + 0.5)
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    for row in range(size):
        np.add.at(matrix[row], np.clip(row + taps, 0, size - 1), weights)
    return matrix


def brighten(x: np.ndarray, shift: float, white: float) -> np.ndarray:
    """Raise the value of HSV (the largest channel of a pixel) by `shift`, at most to `white`; hue and saturation stay.

    Args:
        x: Shape (..., channels) from 0 to `white`, floating point; one channel is simply raised.
        shift: In the unit of x.
        white: Full light.
    """
    value = x.max(axis=-1, keepdims=True)
    raised = np.minimum(value + x.dtype.type(shift), x.dtype.type(white))
    # A black pixel has no hue: it becomes grey.
    factor = raised / np.where(value > 0, value, 1)
    return np.asarray(np.where(value > 0, x * factor, raised), dtype=x.dtype)


def jpeg(x: np.ndarray, quality: int, white: float) -> np.ndarray:
    """Compress every image as JPEG and decode it again, with Pillow's defaults (chroma at half resolution).

    Args:
        x: Shape (n, height, width, 1 or 3) from 0 to `white`, floating point: mapped to bytes and back.
        quality: 1 to 95.
        white: Full light.
    """
    pixels = np.rint(np.clip(x / white, 0, 1) * 255).astype(np.uint8)
    decoded = np.empty_like(pixels)
    for index, picture in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as image:
            decoded[index] = np.asarray(image).reshape(picture.shape)
    return np.asarray(decoded * (white / 255), dtype=x.dtype)


def scale_samples(x: np.ndarray, center: np.ndarray | float, rng: np.random.Generator) -> np.ndarray:
    """Multiply the distance from `center` by -GAIN_DB to GAIN_DB decibels, uniform, another gain for every sample."""
    factors = 10 ** (rng.uniform(-GAIN_DB, GAIN_DB, size=len(x)) / 20)
    return np.asarray(center + (x - center) * factors.reshape(-1, *[1] * (x.ndim - 1)), dtype=x.dtype)


class Corruptor:
    """Some samples of a split, under one corruption after the other.

    Attributes:
        positions: Which samples of the split: drawn by seed, each class in proportion, in ascending order.
        split: These samples.
        names: The corruptions that apply to at least one input, in a fixed order.
    """

    def __init__(self, bound: BoundDataset, split: str, max_samples: int, seed: int) -> None:
        whole = bound.split(split)
        classes = [class_ids(values) for values in (whole.labels or {}).values()]
        known = next((ids for ids in classes if ids is not None), None)
        self.positions = np.sort(draw(min(max_samples, whole.count), whole.count, (seed, _PURPOSE), known))
        self.split = whole.take(self.positions)
        self._inputs = bound.bound_inputs
        self._values = {name: self._describe(bound, entry) for name, entry in self._inputs.items()}
        self._seed = seed
        self.names = tuple(
            name for name in NAMES if any(name in _CORRUPTIONS[values.kind] for values in self._values.values())
        )

    def strength(self, name: str) -> str:
        """How strong a corruption is, in words with units; by input where that differs."""
        texts = {
            key: strength(name, values) for key, values in self._values.items() if name in _CORRUPTIONS[values.kind]
        }
        if len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return "; ".join(f"{key}: {text}" for key, text in texts.items())

    def batches(self, name: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches as `Split.batches` gives them, corrupted before mean and std; the seed and the size decide them."""
        rng = np.random.default_rng((self._seed, NAMES.index(name)))
        for batch in self.split.stored_batches(batch_size):
            corrupted = {key: corrupt(name, x, self._values[key], rng) for key, x in batch.items()}
            yield {key: self._inputs[key].apply(x) for key, x in corrupted.items()}

    def _describe(self, bound: BoundDataset, entry: BoundInput) -> Values:
        arrays = {name: stored.inputs[entry.stored_name] for name, stored in bound.dataset.stored.items()}
        values = Values(
            shape=entry.sample_shape,
            dtype=np.dtype(arrays[bound.dataset.plans[self.split.name].stored].dtype),
            low=min(array.low for array in arrays.values()),
            high=max(array.high for array in arrays.values()),
            takes_codes=entry.spec.scale is None and np.dtype(entry.spec.dtype).kind != "f",
        )
        if values.kind in (Kind.SIGNAL, Kind.VECTOR):
            mean, std = self._moments(entry.spec.name, values.shape[-1] if values.shape else 1)
            return replace(values, mean=mean, std=std)
        return values

    def _moments(self, key: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel of an input over the samples, shape (channels,) each."""
        count, center = 0, np.zeros(channels)
        total = squares = np.zeros(channels)
        for batch in self.split.stored_batches(_BATCH):
            rows = batch[key].reshape(-1, channels).astype(np.float64)
            # Around the first mean: squares of values far from 0 would lose their last digits.
            center = center if count else rows.mean(axis=0)
            rows -= center
            count, total, squares = count + len(rows), total + rows.sum(axis=0), squares + (rows**2).sum(axis=0)
        mean = total / count
        return center + mean, np.sqrt(np.maximum(squares / count - mean**2, 0))
