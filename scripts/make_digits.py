"""Write calibration_data/digits/digits.npz from the copy of the UCI handwritten digits that scikit-learn ships.

    python scripts/make_digits.py

Needs scikit-learn (the `dev` extra). The split is drawn once with a fixed seed, stratified by digit, so running it
again writes the same arrays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FOLDER = Path(__file__).resolve().parent.parent / "calibration_data" / "digits"
SIZES = {"test": 360, "val": 237, "calib": 200}  # The remaining 1,000 are for training.


def main() -> None:
    """Split and write."""
    digits = load_digits()
    x = digits.images.astype(np.uint8)[..., np.newaxis]  # (1797, 8, 8, 1), pixel values 0..16
    y = digits.target.astype(np.uint8)
    arrays = {}
    for name, size in SIZES.items():
        x, x_part, y, y_part = train_test_split(x, y, test_size=size, stratify=y, random_state=0)
        arrays[f"x_{name}"], arrays[f"y_{name}"] = x_part, y_part
    arrays |= {"x_train": x, "y_train": y}
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / "digits.npz", **arrays)
    print({name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main()
