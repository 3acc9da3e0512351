"""Read a source once: check it, keep it in the run folder, and decide which sample goes into which split."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecomp.data.dataset import Dataset, SplitPlan
from edgecomp.data.options import DataOptions, Progress
from edgecomp.data.sources import SPLITS, UNNAMED, OpenSource, open_source
from edgecomp.data.splits import Seed, class_ids, draw, draw_groups, rest
from edgecomp.data.store import SplitWriter, StoredArray, StoredSplit
from edgecomp.errors import DataError, MissingDataError, UsageError


def prepare_dataset(options: DataOptions, folder: Path, progress: Progress | None = None) -> Dataset:
    """Read, check and split the data that the user named.

    The source is read once and in pieces; `folder` then holds every array in the source's dtype, and any process opens
    them with `Dataset.open(folder)`. Splits that the source does not have are carved:

    - validation: from train, each class in proportion, whole groups where there is a group key; without train
      (or where only test has labels) half of test, disjoint from what is reported as test;
    - calibration: drawn from what is left of train, each class in proportion; absent without train.

    Args:
        options: What the user said.
        folder: Private to this run; made where missing.
        progress: Called after every piece.

    Raises:
        UsageError: The source or the group key does not exist, or a function cannot be imported.
        MissingDataError: There are no test samples.
        DataError: The data is damaged or contradicts itself, or has too few samples.
    """
    source = open_source(options)
    with _whole_or_absent(folder):
        dataset = _prepare(source, options, folder, progress)
        dataset.save()
    return dataset


def prepare_unlabelled(options: DataOptions, folder: Path, progress: Progress | None = None) -> Dataset:
    """Read only the train split of a source, without its labels: more inputs for a teacher to judge.

    Raises:
        UsageError: The source does not exist.
        MissingDataError: It has no training samples.
        DataError: It is damaged, or the folder cannot be written.
    """
    source = open_source(options)
    with _whole_or_absent(folder):
        read = _store(source, options.source, "train", folder, progress)
        if read is None:
            raise MissingDataError(
                f"{options.source}: has no training samples.", hint="Unlabelled inputs are read from x_train or train/."
            )
        stored = {"train": replace(read[0], labels={})}
        plans = {"train": SplitPlan("train", read[0].count)}
        digest = hashlib.sha256(json.dumps(stored["train"].to_json(), sort_keys=True).encode()).hexdigest()
        dataset = Dataset(
            folder, options.source, stored, plans, options.mean, options.std, None, list(source.notes), digest
        )
        dataset.save()
    return dataset


@contextlib.contextmanager
def _whole_or_absent(folder: Path) -> Iterator[None]:
    """Clear the folder of earlier data; if the block fails nothing of its own stays either. Raises DataError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _discard(folder)
        yield
    except OSError as error:
        _discard(folder)
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}.") from error
    except BaseException:
        _discard(folder)
        raise


def _discard(folder: Path) -> None:
    """Remove what a former or a failed call has left."""
    for pattern in ("dataset.json", "[xy]_*.npy", "positions_*.npy"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _prepare(source: OpenSource, options: DataOptions, folder: Path, progress: Progress | None) -> Dataset:
    stored: dict[str, StoredSplit] = {}
    groups: dict[str, np.ndarray] = {}
    for split in SPLITS[::-1]:  # test first: without it nothing else needs to be read.
        read = _store(source, options.source, split, folder, progress)
        if read is not None:
            stored[split], group = read
            if group is not None:
                groups[split] = group
    _require_same_form(options.source, stored)
    splitter = _Splitter(options, folder, stored, groups)
    splitter.run()
    return Dataset(
        folder=folder,
        source=options.source,
        stored=stored,
        plans={name: splitter.plans[name] for name in SPLITS if name in splitter.plans},
        mean=options.mean,
        std=options.std,
        class_names=source.class_names,
        notes=source.notes + splitter.notes,
        sha256=_digest(options, stored, splitter),
    )


def _store(
    source: OpenSource, name: str, split: str, folder: Path, progress: Progress | None
) -> tuple[StoredSplit, np.ndarray | None] | None:
    batches = source.batches(split)
    total = source.count(split)
    if batches is None and split == "test":
        raise MissingDataError(
            f"{name}: has no test samples.",
            hint='Every result is reported on them: add x_test, a folder test/<class>, or batches for "test".',
        )
    if batches is None:
        return None
    writer = SplitWriter(folder, split, name)
    with contextlib.ExitStack() as stack:
        stack.callback(writer.abort)
        for batch in batches:
            writer.append(batch)
            if progress is not None:
                progress(f"reading {split}", writer.count, total)
        if writer.count == 0:
            hint = "Every result is reported on the test split." if split == "test" else "Fill it, or leave it out."
            raise DataError(f"{name}: the {split} split is empty.", hint=hint)
        return writer.close()


def _require_same_form(source: str, stored: dict[str, StoredSplit]) -> None:
    """Every split must have the test split's names, kinds of numbers and sample shapes."""
    for split, entry in stored.items():
        for letter, arrays, reference in (
            ("x", entry.inputs, stored["test"].inputs),
            ("y", entry.labels, stored["test"].labels),
        ):
            if letter == "y" and not (arrays and reference):
                continue
            if arrays.keys() != reference.keys():
                shown = [", ".join(name or "no name" for name in names) for names in (arrays, reference)]
                raise DataError(f"{source}: the names of {letter} are {shown[0]} in {split} and {shown[1]} in test.")
            for name, array in arrays.items():
                expected = reference[name]
                if _form(array) != _form(expected):
                    what = letter if name == UNNAMED else f"{letter} {name!r}"
                    raise DataError(
                        f"{source}: {what} is {_described(array)} in {split} and {_described(expected)} in test.",
                        hint="All splits must be prepared in the same way.",
                    )


def _form(array: StoredArray) -> tuple[object, ...]:
    kind = np.dtype(array.dtype).kind
    shape = array.sample_shape[:-1] if array.sample_shape[-1:] == (1,) else array.sample_shape
    return shape, "f" if kind == "f" else "i"


def _described(array: StoredArray) -> str:
    return f"{np.dtype(array.dtype).name} of shape {array.sample_shape}"


class _Splitter:
    """Carves what the source does not have; results are in `plans` and `notes`."""

    def __init__(
        self, options: DataOptions, folder: Path, stored: dict[str, StoredSplit], groups: dict[str, np.ndarray]
    ) -> None:
        self._options = options
        self._folder = folder
        self._stored = stored
        self._groups = groups
        self._classes = {split: self._class_ids(split) for split in stored}
        self.positions: dict[str, np.ndarray] = {}
        self.plans = {split: SplitPlan(split, entry.count) for split, entry in stored.items()}
        self.notes: list[str] = []

    def run(self) -> None:
        test, train = self._stored["test"], self._stored.get("train")
        if "validation" in self._stored:
            self._limit_validation()
        elif train is None:
            self._carve("test", "there are no training samples")
        elif test.labels and not train.labels:
            self._carve("test", "the training samples have no labels")
        else:
            self._carve("train", None)
        if "calibration" not in self._stored and train is not None:
            self._draw_calibration()
        if not any(entry.labels for entry in self._stored.values()):
            self.notes.append("There are no labels: only agreement with the float model and output SNR are reported.")
        self._note_shared_groups()

    def _limit_validation(self) -> None:
        total, limit = self._stored["validation"].count, self._options.max_validation_samples
        count = total if limit is None else min(total, limit)
        # Drawn even where all are taken: samples sorted by class would make every head of them unfair.
        self._set("validation", "validation", draw(count, total, self._seed(0), self._classes["validation"]))
        if count < total:
            self.notes.append(f"Validation: {count:,} of the {total:,} samples given, drawn by seed.")

    def _carve(self, origin: str, reason: str | None) -> None:
        options, total = self._options, self._stored[origin].count
        limit = options.max_validation_samples or total
        wanted = min(total // 2 if reason else round(total * options.validation_fraction), limit)
        if total < 2:
            raise DataError(
                f"{options.source}: {total} {origin} sample cannot be split into validation and {origin}.",
                hint="Give more samples, or a validation split of its own.",
            )
        wanted = min(max(wanted, 1), total - 1)
        classes, groups = self._classes[origin], self._groups.get(origin)
        if options.group_key is not None and groups is None:
            raise UsageError(
                f"--group-key {options.group_key}: {options.source} has no {options.group_key}_{origin}.",
                hint=f"Validation is carved from {origin}, so its samples need groups; or give x_val.",
            )
        if groups is None:
            taken = draw(wanted, total, self._seed(0), classes, leave=1)
            how = "drawn by seed" if classes is None else "each class in proportion"
            remaining = rest(total, taken)
        else:
            taken, remaining, how = self._carve_groups(groups, wanted, limit)
        self._set("validation", origin, taken)
        self._set(origin, origin, remaining)
        because = f", as {reason}" if reason else ""
        self.notes.append(
            f"Validation: {len(taken):,} of the {total:,} {origin} samples{because} ({how}); "
            f"{len(remaining):,} remain for {origin}."
        )

    def _carve_groups(self, groups: np.ndarray, wanted: int, limit: int) -> tuple[np.ndarray, np.ndarray, str]:
        found = len(np.unique(groups))
        if found < 2:
            raise DataError(
                f"{self._options.source}: --group-key {self._options.group_key} has one value only, {groups[0]!s}.",
                hint="At least two groups are needed to keep validation and training apart.",
            )
        members = draw_groups(groups, wanted, self._seed(0))
        taken = members[:limit]
        number = len(np.unique(groups[members]))
        how = f"{number} of {found} groups of {self._options.group_key}, whole"
        if len(taken) < len(members):
            how += f"; {len(members) - len(taken):,} more samples of them are not used"
        return taken, rest(len(groups), members), how

    def _draw_calibration(self) -> None:
        options, train = self._options, self.plans["train"]
        positions = self.positions.get("train", np.arange(train.count))
        if options.calibration_samples > train.count:
            raise DataError(
                f"{options.source}: {options.calibration_samples:,} calibration samples were asked for, but there are "
                f"only {train.count:,} training samples beside validation.",
                hint=f"Ask for {train.count:,} or fewer with --calibration-samples, or add x_calib.",
            )
        classes = self._classes["train"]
        among = None if classes is None else classes[positions]
        drawn = positions[draw(options.calibration_samples, train.count, self._seed(1), among)]
        self._set("calibration", "train", drawn)

    def _note_shared_groups(self) -> None:
        values = {split: self._groups[origin] for split, origin in self._origins() if origin in self._groups}
        for split, groups in values.items():
            values[split] = np.unique(groups if split not in self.positions else groups[self.positions[split]])
        for left, right in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if left in values and right in values:
                shared = np.intersect1d(values[left], values[right])
                if len(shared):
                    self.notes.append(
                        f"The {left} and {right} samples have {self._options.group_key} in common ({len(shared):,}, "
                        f"such as {shared[0]!s}): results on {right} flatter the model."
                    )

    def _origins(self) -> list[tuple[str, str]]:
        return [(split, plan.stored) for split, plan in self.plans.items()]

    def _set(self, split: str, origin: str, positions: np.ndarray) -> None:
        file = f"positions_{split}.npy"
        np.save(self._folder / file, positions.astype(np.int64))
        self.positions[split] = positions
        self.plans[split] = SplitPlan(origin, len(positions), file)

    def _class_ids(self, split: str) -> np.ndarray | None:
        """Classes by the first labels that are classes, or None."""
        for entry in self._stored[split].labels.values():
            if len(entry.sample_shape) <= 1:
                ids = class_ids(entry.open(self._folder))
                if ids is not None:
                    return ids
        return None

    def _seed(self, purpose: int) -> Seed:
        return (self._options.seed, purpose)


def _digest(options: DataOptions, stored: dict[str, StoredSplit], splitter: _Splitter) -> str:
    digest = hashlib.sha256()
    forms = {name: entry.to_json() for name, entry in sorted(stored.items())}
    digest.update(json.dumps([forms, options.mean, options.std], sort_keys=True).encode())
    for split, plan in sorted(splitter.plans.items()):
        digest.update(f"{split} {plan.stored} {plan.count}".encode())
        if split in splitter.positions:
            digest.update(splitter.positions[split].astype("<i8").tobytes())
    return digest.hexdigest()
