"""The model and data that edgecomp uses when it is given neither: UCI handwritten digits."""

from __future__ import annotations

from pathlib import Path

from edgecomp.resources import resource_folder

NOTE = "No MODEL was given: this is the embedded demo, a small CNN on the UCI handwritten digits."
MEAN = (0.0,)
STD = (16.0,)  # Pixel values are 0..16.


def model_path() -> Path:
    """A small residual CNN, Keras 3, made by scripts/train_digits.py."""
    return resource_folder("calibration_data") / "digits" / "digits_cnn.keras"


def data_path() -> Path:
    """1,797 images of 8 x 8 pixels, made by scripts/make_digits.py."""
    return resource_folder("calibration_data") / "digits" / "digits.npz"
