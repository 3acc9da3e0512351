"""Steps of recipes as they were done, each in a folder that outlives the run: later runs start from there."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgecomp.compress import Footprint, LayerChange, Skipped
from edgecomp.files import write_atomic

_REPORT, _MODEL, _INT8 = "step.json", "model.h5", "int8.tflite"


@dataclass(frozen=True)
class StepReport:
    """What one step of a recipe did.

    Attributes:
        step: The technique with its options, in words.
        before, after: What the model weighed.
        epochs: Trained; None for a preview.
        best_epoch: Whose weights were kept, from 1; 0: those before the training, which no epoch bettered; None for a
            preview.
        start_loss: On the validation samples, before the training; None for a preview, or where it was no number.
        validation_losses: After every epoch.
        train_seconds: Measured on this machine; None for a preview.
        seconds: Of the whole step, without what an interrupted run had done.
        resumed_epochs: Of `epochs`, those that an interrupted run had done; `epochs` if it had done the whole step.
    """

    step: str
    technique: str
    before: Footprint
    after: Footprint
    changes: tuple[LayerChange, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    epochs: int | None
    best_epoch: int | None
    start_loss: float | None
    validation_losses: tuple[float, ...]
    train_seconds: float | None
    seconds: float
    resumed_epochs: int = 0


@dataclass(frozen=True)
class Done:
    """A finished step: the tf_keras model, its int8 file where there is one, what is told about it."""

    model: Any
    int8: bytes | None
    report: StepReport

    def save(self, folder: Path, *, trust_code: bool) -> Done:
        """Write it; returns it as it is read again. The report comes last: with it the step counts as finished."""
        save_keras(self.model, folder / _MODEL)
        if self.int8 is not None:
            write_atomic(folder / _INT8, self.int8)
        write_atomic(folder / _REPORT, TypeAdapter(StepReport).dump_json(self.report))
        return replace(self, model=_open_keras(folder / _MODEL, trust_code=trust_code))

    @classmethod
    def load(cls, folder: Path, *, trust_code: bool) -> Done | None:
        """The step as an earlier run has finished it; None if it has not."""
        try:
            report = TypeAdapter(StepReport).validate_json((folder / _REPORT).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        int8 = None
        with contextlib.suppress(FileNotFoundError):
            int8 = (folder / _INT8).read_bytes()
        report = replace(report, resumed_epochs=report.epochs or 0, seconds=0.0)
        return cls(_open_keras(folder / _MODEL, trust_code=trust_code), int8, report)


def save_keras(model: Any, path: Path) -> None:
    """Write a tf_keras model as .h5, whole or not at all."""
    partial = path.with_suffix(".partial.h5")
    with warnings.catch_warnings():
        # tf_keras advises its other format, which Keras 3 cannot open.
        warnings.simplefilter("ignore")
        model.save(partial, include_optimizer=False)
    write_atomic(path, partial.read_bytes())
    partial.unlink()


def _open_keras(path: Path, *, trust_code: bool) -> Any:
    from edgecomp.load import reopen

    return reopen(path, trust_code=trust_code)
