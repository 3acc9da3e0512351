"""`module:function`: a function of the user that yields batches.

The contract:

    def batches(split: str):
        if split in ("train", "test"):
            for path in sorted(Path("recordings", split).glob("*.npy")):
                yield load(path)            # x, or the pair (x, y)

It is called as function(split) once each with "train", "validation", "calibration" and "test", and returns an iterable
of batches that comes to an end. None, or no batch at all, means that there is no such split; "test" must exist. A batch
is x, or the pair (x, y):

    x   array of shape (n, *sample shape), n >= 1; or a dict {input name: array} for several inputs
    y   array of shape (n, ...); or a dict {output name: array}; or None for no labels

Batches may differ in n; names, sample shapes and dtypes must stay the same. Values are those before --mean and --std.
All batches are read once, in order, and kept in the run folder. The current folder is on sys.path while the module is
imported and while the batches are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.data.options import DataOptions
from edgecomp.data.sources import SPLITS, UNNAMED, Batch
from edgecomp.data.user_code import current_folder_importable, describe, is_function_spec, load_function
from edgecomp.errors import DataError, UsageError

_CONTRACT = (
    'A batch is an array, or the pair (x, y); "python -m pydoc edgecomp.data.sources.function" has the contract.'
)


class FunctionSource:
    """Reads what a function yields."""

    def accepts(self, source: str) -> bool:
        """A text like "module:function" that is not the name of a file."""
        return is_function_spec(source) and not Path(source).exists()

    def open(self, options: DataOptions) -> OpenFunction:
        """Import the function and ask it for every split, without taking a batch."""
        if options.group_key is not None:
            raise UsageError(
                f"--group-key {options.group_key}: groups are read from an .npz file only, not from a function.",
                hint='Let the function yield its own "validation" split.',
            )
        return OpenFunction(options.source)


class OpenFunction:
    """A function that has been asked for its splits.

    Raises:
        UsageError: The function cannot be imported.
        DataError: It raised an error, or returned something that is not iterable.
    """

    class_names: tuple[str, ...] | None = None

    def __init__(self, spec: str) -> None:
        self.notes: list[str] = []
        self._spec = spec
        function = load_function(spec, "--data")
        self._iterables: dict[str, Iterable[Any]] = {}
        for split in SPLITS:
            try:
                with current_folder_importable():
                    answer = function(split)
            except Exception as error:  # Code of the user's: any error, told as one.
                raise self._failed(split, error) from error
            if answer is None:
                continue
            if not isinstance(answer, Iterable) or isinstance(answer, str | bytes | dict):
                raise DataError(
                    f"{spec}({split!r}) must return batches one after the other, or None for a split that does not "
                    f"exist, got {type(answer).__name__}.",
                    hint=_CONTRACT,
                )
            self._iterables[split] = answer

    def count(self, split: str) -> int | None:  # noqa: ARG002 - The protocol's signature.
        """Never known before reading."""
        return None

    def batches(self, split: str) -> Iterator[Batch] | None:
        """The checked batches of a split; None where the function has none."""
        if split not in self._iterables:
            return None
        batches = self._read(split)
        first = next(batches, None)
        if first is None:
            return None if split != "test" else iter(())
        return _chain(first, batches)

    def _read(self, split: str) -> Iterator[Batch]:
        try:
            with current_folder_importable():
                iterator = iter(self._iterables[split])
        except Exception as error:
            raise self._failed(split, error) from error
        number = 0
        while True:
            try:
                with current_folder_importable():
                    item = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                raise self._failed(split, error) from error
            yield self._batch(item, f"{self._spec}({split!r}), batch {number}")
            number += 1

    def _batch(self, item: object, where: str) -> Batch:
        if isinstance(item, tuple):
            if len(item) != 2:
                raise DataError(f"{where}: a batch must be x or (x, y), got a tuple of {len(item)}.", hint=_CONTRACT)
            inputs, labels = item
        else:
            inputs, labels = item, None
        batch = Batch(_arrays(inputs, where, "x"), {} if labels is None else _arrays(labels, where, "y"))
        if not batch.inputs:
            raise DataError(f"{where}: x is an empty dict.", hint=_CONTRACT)
        counts = {len(array) for array in (*batch.inputs.values(), *batch.labels.values())}
        if len(counts) > 1:
            raise DataError(
                f"{where}: x and y must have the same number of samples, got {sorted(counts)}.", hint=_CONTRACT
            )
        if counts == {0}:
            raise DataError(f"{where}: a batch must have at least one sample, got none.", hint=_CONTRACT)
        return batch

    def _failed(self, split: str, error: Exception) -> DataError:
        return DataError(
            f"{self._spec}({split!r}) raised {describe(error)}.", hint="Correct the function; run it alone."
        )


def _chain(first: Batch, others: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    yield from others


def _arrays(value: object, where: str, letter: str) -> dict[str, np.ndarray]:
    members = value if isinstance(value, dict) else {UNNAMED: value}
    arrays = {}
    for name, member in members.items():
        what = f"{letter} {name!r}" if name != UNNAMED else letter
        if not isinstance(name, str):
            raise DataError(f"{where}: the names of {letter} must be texts, got {name!r}.", hint=_CONTRACT)
        # __array__ lets tensors of other libraries in; lists are refused, as they could mean several inputs.
        if not hasattr(member, "__array__"):
            raise DataError(f"{where}: {what} must be an array, got {type(member).__name__}.", hint=_CONTRACT)
        array = np.asarray(member)
        if array.ndim == 0:
            raise DataError(f"{where}: {what} is a single value.", hint="Its first axis must count the samples.")
        arrays[name] = array
    return arrays


SOURCE = FunctionSource()
