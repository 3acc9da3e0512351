"""Make edgecomp/device_setup/trial.tflite: the smallest model that tells whether a runtime computes.

    python scripts/make_trial_model.py

One FULLY_CONNECTED of version 1 in float32, which every runtime of the last years takes: y = W x + b with
W = [[1, 2, 3, 4], [-1, 0, 0, 1]] and b = [0.5, -2]. All numbers are exact in binary, whatever kernel adds them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgecomp.tflite_build import Node, Tensor, build_model

PATH = Path(__file__).resolve().parent.parent / "edgecomp" / "device_setup" / "trial.tflite"


def main() -> None:
    """Write the file."""
    weights = np.array([[1, 2, 3, 4], [-1, 0, 0, 1]], np.float32)
    bias = np.array([0.5, -2], np.float32)
    inputs = (
        Tensor("FLOAT32", (1, 4)),
        Tensor("FLOAT32", (2, 4), data=weights),
        Tensor("FLOAT32", (2,), data=bias),
    )
    node = Node("FULLY_CONNECTED", inputs, [Tensor("FLOAT32", (1, 2))], schema.FullyConnectedOptionsT())
    PATH.write_bytes(build_model([node]))


if __name__ == "__main__":
    main()
