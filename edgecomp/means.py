"""What the devices of one fit share: the imported model, workers, store, and what was measured once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgecomp.candidates import Shop
from edgecomp.compress import Footprint
from edgecomp.compress._channels.rounding import channel_multiple
from edgecomp.data import DataOptions
from edgecomp.delivery import candidate_files, versions
from edgecomp.errors import EdgecompError, WorkerError
from edgecomp.executors.local import Worker
from edgecomp.intake import Imported
from edgecomp.profile import DeviceProfile
from edgecomp.results import CandidateResult
from edgecomp.store import Run, Store
from edgecomp.training.settings import TrainingSettings

_STAGES, _VARIANTS = "edgecomp.stages:", "edgecomp.variants:"


@dataclass
class Means:
    """What all devices of one fit share.

    Attributes:
        trainers: TensorFlow workers; as many trainings run at once.
        settings: How to fine-tune in full.
        profiles: Of all devices.
        deadline_s: Of the whole fit, in seconds of work, those of interrupted parts included; None: no limit.
    """

    source: Path
    trust_code: bool
    imported: Imported
    shop: Shop
    store: Store
    run: Run
    trainers: Sequence[Worker]
    settings: TrainingSettings
    profiles: Sequence[DeviceProfile]
    unlabelled: DataOptions | None = None
    deadline_s: float | None = None
    seconds_per_epoch: float | None = None
    weights: dict[str, Footprint | None] = field(default_factory=dict)
    sensitivities: dict[str, list[tuple[str, float]]] = field(default_factory=dict)

    def stand_in(self, profile: DeviceProfile) -> DeviceProfile:
        """The device that recipes are applied for in place of another one, so that what is trained can be shared.

        Of all devices of the fit with the same runtime the one whose kernels want the coarsest channel counts:
        multiples are powers of two, so its counts suit the others as well.
        """
        alike = [item for item in self.profiles if item.runtime.name == profile.runtime.name]
        return max(alike, key=lambda item: channel_multiple(item)[0], default=profile)

    def key(self, *parts: Any) -> str:
        """Of a result that depends on these parts, and on model, data, metric, seed and versions."""
        bench = self.shop.bench
        return digest(
            *parts, self.imported.info.sha256, self.imported.data["sha256"], bench.metric, bench.seed, versions()
        )

    def file(self, sha256: str) -> Path:
        """Where the run expects a file; it is brought there if the store has it."""
        path = self.shop.bench.folder / f"{sha256}.tflite"
        if not path.exists() and (stored := self.store.path_of(sha256)) is not None:
            shutil.copyfile(stored, path)
        return path

    def bring(self, result: CandidateResult) -> None:
        """The files of a candidate that the store has, where the run expects them."""
        for path in candidate_files(self.shop, result):
            self.file(path.stem)

    def sensitivity(self, io: str) -> list[tuple[str, float]]:
        """Layers whose rounding to INT8 hurts most, worst first, with the share of the error that each is."""
        if io not in self.sensitivities:
            self.sensitivities[io] = []
            with contextlib.suppress(WorkerError):  # Told to whoever asks why; decides nothing.
                self.sensitivities[io] = self.shop.quantizing.call(
                    _STAGES + "sensitivities", bench=self.shop.bench, io=io, progress=self.shop.progress
                )
        return self.sensitivities[io]

    def left_s(self) -> float | None:
        """Seconds until the time limit; None without one."""
        return None if self.deadline_s is None else self.deadline_s - self.run.elapsed_s()

    def epoch_s(self) -> float:
        """Seconds that a plain epoch takes on this machine, measured once; 0 if that cannot be measured."""
        if self.seconds_per_epoch is None:
            known = self.store.recall(key := self._rate_key())
            if known is None:
                self.shop.progress("timing an epoch", 0, 0)
                try:
                    seconds = self.trainers[0].call(
                        _VARIANTS + "seconds_per_epoch",
                        bench=self.imported.bench,
                        source=self.source,
                        trust_code=self.trust_code,
                        settings=self.settings,
                        unlabelled=self.unlabelled,
                    )
                except EdgecompError:
                    self.seconds_per_epoch = 0.0  # The training itself will say what is wrong.
                    return 0.0
                self.store.remember(key, "rate", known := {"seconds_per_epoch": seconds}, (), 0.0)
            self.seconds_per_epoch = float(known["seconds_per_epoch"])
        return self.seconds_per_epoch

    def _rate_key(self) -> str:
        return self.key("rate", asdict(self.settings))


def digest(*parts: Any) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]
