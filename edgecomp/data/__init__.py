"""The data of a run: read once, split, checked against a model, fed in batches.

dataset = prepare_dataset(DataOptions("data.npz"), folder)      # once, in the main process
bound = Dataset.open(folder).bind(model_inputs, model_outputs)  # in any process
for batch in bound.split("validation").batches(64): ...
"""

from __future__ import annotations

from edgecomp.data.binding import BoundDataset, Split
from edgecomp.data.dataset import Dataset
from edgecomp.data.labels import LabelKind
from edgecomp.data.lint import Finding, lint_calibration
from edgecomp.data.options import DataOptions, Progress, parse_channel_values, parse_image_size
from edgecomp.data.prepare import prepare_dataset, prepare_unlabelled

__all__ = [
    "BoundDataset",
    "DataOptions",
    "Dataset",
    "Finding",
    "LabelKind",
    "Progress",
    "Split",
    "lint_calibration",
    "parse_channel_values",
    "parse_image_size",
    "prepare_dataset",
    "prepare_unlabelled",
]
