"""What a tensor at the border of a model looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: The model's own name for it (signature name where there is one).
        shape: With the batch axis first. 1 for a converted file; None where the size is not fixed.
        dtype: numpy's name, for example "float32".
        scale, zero_point: real = scale * (stored - zero_point); None for a float tensor.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """The shape without the batch axis."""
        return self.shape[1:]

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """Real values -> stored values, saturating; a float tensor only changes dtype."""
        dtype = np.dtype(self.dtype)
        if self.scale is None or self.zero_point is None:
            return real.astype(dtype, copy=False)
        limits = np.iinfo(dtype)
        stored = np.round(real / self.scale) + self.zero_point
        return np.clip(stored, limits.min, limits.max).astype(dtype)

    def dequantize(self, stored: np.ndarray) -> np.ndarray:
        """Stored values -> float32 real values; a tensor without scale is only cast to float32."""
        if self.scale is None or self.zero_point is None:
            return stored.astype(np.float32, copy=False)
        return (np.float32(self.scale) * (stored.astype(np.int32) - self.zero_point)).astype(np.float32)
