"""Write docs/results.md: what every technique does to four real models, alone and combined.

    python scripts/write_results.py --cache FOLDER [--only TEXT]

Reads models and data from EDGECOMP_DATA (default ../shared/data). Every row is one run of what `edgecomp compress`
runs, kept in FOLDER as JSON, so that an interrupted script goes on where it was. Rows are compared on validation
samples; the test split is scored once for each row and decides nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.compression import CompressionRequest, compress
from edgecomp.data import DataOptions
from edgecomp.delivery import versions
from edgecomp.errors import EdgecompError
from edgecomp.profile import load_profile
from edgecomp.recipe import make_recipe
from edgecomp.report.progress import progress_on_stderr
from edgecomp.training.settings import TrainingSettings

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EDGECOMP_DATA", ROOT.parent / "shared" / "data"))
HAR_MEAN = (-5.1423, -1.8441, 0.4623, -0.0095, -0.0002, 0.0314)
HAR_STD = (5.0414, 6.4378, 4.2962, 1.3490, 1.2518, 1.0536)


@dataclass(frozen=True)
class Subject:
    """A model with its data."""

    title: str
    model: str
    data: DataOptions
    unlabelled: DataOptions | None = None


SUBJECTS = {
    "resnet8": Subject(
        "ResNet8, CIFAR-10",
        "resnet8-cifar10/pretrainedResnet.h5",
        DataOptions(str(DATA / "resnet8-cifar10" / "cifar10_lossless_4k_1k.npz")),
        DataOptions(str(DATA / "cifar10-jpeg" / "cifar10_jpeg_15k_3k.npz")),
    ),
    "fsdd": Subject(
        "DS-CNN, spoken digits",
        "fsdd/fsdd_dscnn.keras",
        DataOptions(str(DATA / "fsdd" / "fsdd_logmel.npz"), mean=(-8.0,), std=(4.0,)),
    ),
    "har": Subject(
        "Conv1D, human activity",
        "har-spsw/har_cnn1d.keras",
        DataOptions(str(DATA / "har-spsw" / "har_spsw_w64.npz"), mean=HAR_MEAN, std=HAR_STD, group_key="subject"),
    ),
    "mnist": Subject(
        "LeNet, MNIST", "mnist/mnist_lenet.keras", DataOptions(str(DATA / "mnist" / "mnist.npz"), mean=(0,), std=(255,))
    ),
}


@dataclass(frozen=True)
class Run:
    """One row: a recipe on a subject for a device."""

    subject: str
    device: str
    techniques: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 12
    learning_rate: float = 1e-3
    unlabelled: bool = False

    @property
    def key(self) -> str:
        """Name of its file in the cache."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"{self.subject}-{self.device}-{'-'.join(self.techniques)}-{digest}"


MCU, PI = "stm32l4r5", "rpi4"
RUNS = [
    # ResNet8 on a microcontroller: every technique alone, then together.
    Run("resnet8", MCU, ("qat",), epochs=6, learning_rate=3e-4),
    Run("resnet8", MCU, ("prune",), {"sparsity": 0.6}),
    Run("resnet8", MCU, ("prune",), {"pattern": "2:4"}),
    Run("resnet8", MCU, ("structured_prune",), {"ratio": 0.3}),
    Run("resnet8", MCU, ("low_rank",), {}),
    Run("resnet8", MCU, ("distill",), {"width": 0.75}),
    Run("resnet8", MCU, ("cluster",), {"num_clusters": 16}),
    Run("resnet8", MCU, ("cluster",), {"num_clusters": 8}),
    Run("resnet8", MCU, ("cluster",), {"num_clusters": 4}),
    Run("resnet8", MCU, ("cluster",), {"mean_bits": 2.6}),
    Run("resnet8", MCU, ("cluster", "qat"), {"num_clusters": 8}),
    Run("resnet8", MCU, ("structured_prune", "cluster", "qat"), {"ratio": 0.3, "num_clusters": 8}),
    Run("resnet8", MCU, ("prune", "cluster", "qat"), {"sparsity": 0.6, "num_clusters": 8}),
    Run("resnet8", MCU, ("cluster", "qat"), {"mean_bits": 2.6}, unlabelled=True),
    # ResNet8 on a Raspberry Pi: work instead of bytes.
    Run("resnet8", PI, ("structured_prune",), {"ratio": 0.25}),
    Run("resnet8", PI, ("structured_prune",), {"ratio": 0.5}, epochs=16),
    # Half of the weight bytes, same answers.
    Run("fsdd", MCU, ("cluster", "qat"), {"mean_bits": 4.1}, epochs=50),
    Run("har", MCU, ("cluster", "qat"), {"num_clusters": 8}, epochs=10, learning_rate=3e-4),
    Run("mnist", MCU, ("cluster", "qat"), {"num_clusters": 8}, epochs=2, learning_rate=3e-4),
]


def execute(run: Run, cache: Path) -> dict[str, Any]:
    """The row of a run, from the cache if it is there."""
    path = cache / f"{run.key}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    subject = SUBJECTS[run.subject]
    out = cache / run.key
    started = time.monotonic()
    request = CompressionRequest(
        model=DATA / subject.model,
        data=subject.data,
        recipe=make_recipe(run.techniques, run.options),
        settings=TrainingSettings(epochs=run.epochs, learning_rate=run.learning_rate),
        out=out,
        profile=load_profile(run.device),
        unlabelled=subject.unlabelled if run.unlabelled else None,
        splits=("validation", "test"),
    )
    with progress_on_stderr() as progress:
        result = compress(request, progress=progress)
    row = result.to_json()
    row["minutes"] = (time.monotonic() - started) / 60
    if run.device == PI:
        row["latency_ratio"] = latency_ratio(result.before[1].path, result.after[1].path)
    shutil.rmtree(out, ignore_errors=True)
    path.write_text(json.dumps(row, indent=1))
    return row


def latency_ratio(plain: Path, made: Path) -> float:
    """Median time of the second file over that of the first: LiteRT, XNNPACK, one thread, this host, taking turns."""
    from ai_edge_litert.interpreter import Interpreter

    pair = [Interpreter(str(path), num_threads=1) for path in (plain, made)]
    for interpreter in pair:
        interpreter.allocate_tensors()
    times: list[list[float]] = [[], []]
    for turn in range(400):
        for interpreter, sink in zip(pair, times, strict=True):
            started = time.perf_counter()
            interpreter.invoke()
            if turn >= 50:
                sink.append(time.perf_counter() - started)
    return float(np.median(times[1]) / np.median(times[0]))


def score(entry: dict[str, Any], split: str) -> str:
    """A score, to three digits."""
    return f"{entry['scores'][split]['value']:.3f}"


def render(rows: list[tuple[Run, dict[str, Any]]]) -> str:
    """The page."""
    lines = [
        "# Results",
        "",
        "Written by `scripts/write_results.py`. Scores are accuracy, measured on this machine: packed files in",
        "tflite-micro, the others in LiteRT. Rows are to be compared on validation samples; test was scored once for",
        "each row and decided nothing. ResNet8's validation samples are among the images that it was trained on (there",
        "are no others here), so every row scores higher on them than on test. Agreement: share of test samples with",
        "the float model's answer. Unlabelled: 15,000 more images without labels. Minutes: the whole run, scoring",
        f"included, on {platform.machine()} with {os.cpu_count()} cores that did other work too.",
        "Seed 0.",
        "",
    ]
    for name, subject in SUBJECTS.items():
        for device in (MCU, PI):
            chosen = [(run, row) for run, row in rows if run.subject == name and run.device == device]
            if chosen:
                lines += [f"## {subject.title}: {device}", "", *(_pi_table if device == PI else _mcu_table)(chosen), ""]
    known = ", ".join(f"{name} {value}" for name, value in sorted(versions().items()))
    return "\n".join([*lines, f"Versions: {known}.", ""])


def _mcu_table(rows: list[tuple[Run, dict[str, Any]]]) -> list[str]:
    head = "| recipe | file | zlib | arena | validation | test | agreement | unlabelled | epochs | minutes |"
    plain = {item["name"]: item for item in rows[0][1]["before"]}["int8"]
    table = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    table.append(
        f"| none (INT8) | {plain['model_bytes']:,} B | {plain['compressed_bytes']:,} B | {plain['arena_bytes']:,} B | "
        f"{score(plain, 'validation')} | {score(plain, 'test')} | {_percent(plain)} | | | |"
    )
    best = _pareto([row for _, row in rows])
    for run, row in sorted(rows, key=lambda pair: -_last(pair[1])["model_bytes"]):
        item = _last(row)
        recipe = f"**{row['recipe']}**" if id(row) in best else row["recipe"]
        table.append(
            f"| {recipe} | {item['model_bytes']:,} B | {item['compressed_bytes']:,} B | {item['arena_bytes']:,} B | "
            f"{score(item, 'validation')} | {score(item, 'test')} | {_percent(item)} | "
            f"{'yes' if run.unlabelled else ''} | {run.epochs} | {row['minutes']:.1f} |"
        )
    table += ["", "Bold: no other row is both smaller and better on validation. Arena: simulated, 64-bit structures."]
    weights = [_weight_bytes(row) for _, row in rows]
    if all(weights) and len(rows) == 1:
        before, after = weights[0] or (0, 0)
        table += ["", f"Weights: {before:,} B -> {after:,} B, tables included ({after / before:.2f} times)."]
    return table


def _pi_table(rows: list[tuple[Run, dict[str, Any]]]) -> list[str]:
    table = [
        "| recipe | MACs | file | latency against INT8 | validation | test | agreement | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    plain = rows[0][1]["before"][1]
    table.append(
        f"| none (INT8) | {plain['macs'] / 1e6:.2f} M | {plain['model_bytes']:,} B | 1 | "
        f"{score(plain, 'validation')} | {score(plain, 'test')} | {_percent(plain)} | |"
    )
    for _, row in rows:
        item = _last(row)
        macs = f"{item['macs'] / 1e6:.2f} M ({item['macs'] / plain['macs']:.2f})"
        table.append(
            f"| {row['recipe']} | {macs} | {item['model_bytes']:,} B | {row['latency_ratio']:.2f} | "
            f"{score(item, 'validation')} | {score(item, 'test')} | {_percent(item)} | {row['minutes']:.1f} |"
        )
    return [*table, "", "Latency: measured on this host, one thread, both files taking turns; not on the device."]


def _last(row: dict[str, Any]) -> dict[str, Any]:
    return dict(row["after"][-1])


def _percent(item: dict[str, Any]) -> str:
    return f"{100 * item['agreement']['test']['value']:.1f} %"


def _weight_bytes(row: dict[str, Any]) -> tuple[int, int] | None:
    if row["packing"] is None:
        return None
    tensors = row["packing"]["tensors"]
    return sum(item["before_bytes"] for item in tensors), sum(item["after_bytes"] for item in tensors)


def _pareto(rows: list[dict[str, Any]]) -> set[int]:
    """The ids of rows that no other row beats in size and validation score."""

    def values(row: dict[str, Any]) -> tuple[int, float]:
        return _last(row)["model_bytes"], _last(row)["scores"]["validation"]["value"]

    def beats(left: dict[str, Any], right: dict[str, Any]) -> bool:
        (size, good), (other_size, other_good) = values(left), values(right)
        return size <= other_size and good >= other_good and (size, good) != (other_size, other_good)

    return {id(row) for row in rows if not any(beats(other, row) for other in rows)}


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the rows")
    parser.add_argument("--only", default="", help="run only rows with this in their name; the page has all that exist")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    rows = []
    for run in RUNS:
        if arguments.only not in run.key and not (arguments.cache / f"{run.key}.json").exists():
            continue
        print(run.key, file=sys.stderr)
        try:
            rows.append((run, execute(run, arguments.cache)))
        except EdgecompError as error:
            print(f"{run.key}: {error}", file=sys.stderr)
    (ROOT / "docs" / "results.md").write_text(render(rows))


if __name__ == "__main__":
    main()
