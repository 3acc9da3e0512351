"""The state of a training run between two epochs, in one file: what a killed run is taken up from."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.files import write_atomic
from edgecomp.training.samples import Samples
from edgecomp.training.settings import TrainingSettings

_META = "meta"
# Raised where what is saved changes its meaning: a state of another form is not taken up.
_FORM = 2


@dataclass(frozen=True)
class Saved:
    """A state as it was saved: all variables, then the best weights.

    Attributes:
        validation_losses: The first is that before the training.
        best_place: Of the best weights, among the validation losses.
    """

    arrays: list[np.ndarray]
    losses: list[float]
    validation_losses: list[float]
    best_place: int | None
    best: list[np.ndarray]
    seconds: float


def fingerprint(technique: str, model: Any, samples: Samples, settings: TrainingSettings) -> str:
    """Digest of all that a run depends on: a state of another run must not be taken up."""
    digest = hashlib.sha256()
    shapes = [(variable.name, tuple(variable.shape)) for variable in model.variables]
    digest.update(json.dumps([_FORM, technique, asdict(settings), samples.count, shapes], default=str).encode())
    for variable in model.variables:
        digest.update(variable.numpy().tobytes())
    for item in samples.labels.values():
        digest.update(np.ascontiguousarray(item.values).tobytes())
    for values in next(samples.batches(1).as_numpy_iterator())[0]:
        digest.update(values.tobytes())
    return digest.hexdigest()


class Checkpoint:
    """One file, replaced as a whole after every epoch. With no path nothing is kept."""

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._key = key

    def load(self) -> Saved | None:
        """The state of this very run; None where there is none, or only one of another run."""
        if self._path is None or not self._path.exists():
            return None
        with np.load(self._path, allow_pickle=False) as stored:
            meta = json.loads(str(stored[_META]))
            if meta["key"] != self._key:
                return None
            arrays = [stored[f"a{number}"] for number in range(meta["arrays"])]
            best = [stored[f"b{number}"] for number in range(meta["best"])]
        return Saved(arrays, meta["losses"], meta["validation_losses"], meta["best_place"], best, meta["seconds"])

    def save(
        self,
        arrays: list[np.ndarray],
        losses: list[float],
        validation_losses: list[float],
        best: tuple[int, list[np.ndarray]] | None,
        seconds: float,
    ) -> None:
        """Replace the file."""
        if self._path is None:
            return
        kept = [] if best is None else best[1]
        meta = {
            "key": self._key,
            "arrays": len(arrays),
            "best": len(kept),
            "losses": losses,
            "validation_losses": validation_losses,
            "best_place": None if best is None else best[0],
            "seconds": seconds,
        }
        named = {f"a{number}": values for number, values in enumerate(arrays)}
        named |= {f"b{number}": values for number, values in enumerate(kept)}
        sink = io.BytesIO()
        np.savez(sink, **{_META: np.array(json.dumps(meta))}, **named)  # type: ignore[arg-type]  # As in stages.py.
        write_atomic(self._path, sink.getvalue())

    def remove(self) -> None:
        """The run has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
