"""`edgecomp compress`: one recipe on one model, and what it is worth before and after, on validation data."""

from __future__ import annotations

import json
import shutil
import time
import zlib
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgecomp.candidates import Split, accuracy_of, decision_kernels, tflm_available
from edgecomp.convert import Io as ConverterIo
from edgecomp.data import DataOptions
from edgecomp.delivery import versions
from edgecomp.errors import EdgecompError, ModelError, QuantizationError, WorkerError
from edgecomp.executors.local import Progress, silent
from edgecomp.files import atomic_folder, sha256_of_path, write_atomic
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily
from edgecomp.intake import Imported, take_in
from edgecomp.pack import Packed
from edgecomp.profile import DeviceProfile, Precision
from edgecomp.quantize import QuantizationOptions
from edgecomp.recipe import Recipe
from edgecomp.results import Accuracy, Interval
from edgecomp.scoring import Comparison
from edgecomp.sparse_inference import with_sparse_kernels
from edgecomp.stages import MadeFile, Workbench
from edgecomp.training.settings import TrainingSettings
from edgecomp.variants import Variant, VariantRequest

_STAGES = "edgecomp.stages:"
_SCORING = "edgecomp.scoring:"


@dataclass(frozen=True)
class CompressionRequest:
    """What the user asks for.

    Attributes:
        model: Path of the model.
        recipe: Techniques in order.
        profile: The device, or None: then LiteRT on a Linux machine stands for it, and nothing is packed.
        out: Folder that gets a folder with the results.
        io: Type of inputs and outputs of the integer file.
        preview: Train nothing.
        unlabelled: More inputs for the teacher to judge.
        splits: Where to score: validation always; test when asked for, since choosing by it spoils it.
    """

    model: Path
    data: DataOptions
    recipe: Recipe
    settings: TrainingSettings
    out: Path
    profile: DeviceProfile | None = None
    io: ConverterIo = "int8"
    metric: str = "accuracy"
    preview: bool = False
    unlabelled: DataOptions | None = None
    splits: tuple[Split, ...] = ("validation",)
    trust_code: bool = False
    custom_objects: str | None = None
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out / f"{self.model.stem}-{self.recipe.slug}"


@dataclass(frozen=True)
class FileResult:
    """One .tflite file: bytes, work, and scores by split.

    Attributes:
        name: "float32", "int8", "packed" or "sparse", of the model as it was or compressed.
        compressed_bytes: After zlib, as an over-the-air update would be.
        macs: Multiply-accumulates of one inference.
        arena_bytes: Measured in tflite-micro on this machine; None for other runtimes and float files.
        scores: Split -> score of the metric, measured on this machine.
        agreement: Split -> share of samples with the answer of the float model as it was given.
    """

    name: str
    path: Path
    model_bytes: int
    compressed_bytes: int
    macs: int
    arena_bytes: int | None
    scores: dict[str, Accuracy]
    agreement: dict[str, Interval]


@dataclass(frozen=True)
class CompressionResult:
    """What came out.

    Attributes:
        before, after: Files of the model as it was given, and of what the recipe made.
        variant: The steps.
        packed: Report of the packers; None where nothing was packed.
        folder: Where the files are.
        notes: Sentences for the reader.
    """

    model: str
    device: str | None
    recipe: str
    metric: str
    before: tuple[FileResult, ...]
    after: tuple[FileResult, ...]
    variant: Variant
    packed: Packed | None
    folder: Path
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": "edgecomp.compression/1",
            "model": self.model,
            "device": self.device,
            "recipe": self.recipe,
            "metric": self.metric,
            "folder": str(self.folder),
            "before": [_file_json(item) for item in self.before],
            "after": [_file_json(item) for item in self.after],
            "steps": [asdict(step) for step in self.variant.steps],
            "packing": None if self.packed is None else asdict(self.packed.report),
            "notes": list(self.notes),
            "versions": versions(),
            "seconds": self.seconds,
        }


def _file_json(item: FileResult) -> dict[str, Any]:
    return {
        "name": item.name,
        "file": item.path.name,
        "model_bytes": item.model_bytes,
        "compressed_bytes": item.compressed_bytes,
        "macs": item.macs,
        "arena_bytes": item.arena_bytes,
        "arena_mode": None if item.arena_bytes is None else "simulated",
        "scores": {split: score.model_dump() for split, score in item.scores.items()},
        "agreement": {split: value.model_dump() for split, value in item.agreement.items()},
    }


def compress(request: CompressionRequest, *, progress: Progress | None = None) -> CompressionResult:
    """Apply a recipe, convert, quantize, pack for TFLM where the device runs it, and score every file.

    A run that was killed or interrupted leaves OUT/NAME.unfinished; the same request then goes on from there.

    Raises:
        EdgecompError: The model or data cannot be used, a technique finds nothing to do, or training fails; nothing is
            left behind, but for the work of a run whose worker died.
    """
    started = time.monotonic()
    report = progress or silent
    unfinished = request.folder.with_name(request.folder.name + ".unfinished")
    try:
        result = _compress(request, report, unfinished, started)
    except WorkerError:
        raise
    except EdgecompError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(unfinished, ignore_errors=True)
    return result


def _compress(request: CompressionRequest, report: Progress, unfinished: Path, started: float) -> CompressionResult:
    with ExitStack() as stack:
        imported = take_in(stack, request, [] if request.profile is None else [request.profile], report)
        if not imported.info.is_trainable:
            raise ModelError(
                f"{request.model}: cannot be compressed by {request.recipe.steps[0].technique}: "
                f"{imported.info.training_unavailable_reason}.",
                hint="`edgecomp fit` applies everything that needs no training to it.",
            )
        variant: Variant = imported.workers.training.call(
            "edgecomp.variants:make_variant",
            bench=imported.bench,
            request=VariantRequest(
                source=request.model.resolve(),
                trust_code=request.trust_code,
                recipe=request.recipe,
                settings=request.settings,
                profile=request.profile,
                preview=request.preview,
                unlabelled=request.unlabelled,
                steps=unfinished.resolve(),
            ),
            progress=report,
        )
        return _Scoring(request, imported, report).result(variant, started)


class _Scoring:
    """The files of one run: made, measured, and copied to the user's folder."""

    def __init__(self, request: CompressionRequest, imported: Imported, report: Progress) -> None:
        self._request, self._imported, self._report = request, imported, report
        self._workers = imported.workers
        self._notes: list[str] = []

    def result(self, variant: Variant, started: float) -> CompressionResult:
        """Everything, with the files in place."""
        request = self._request
        before = self._files(self._imported.bench, request.model.resolve(), None)
        after = self._files(variant.bench, variant.keras_path, variant.int8_path)
        sparse = self._sparse(variant.bench)
        packed = self._pack(after)
        if sparse is not None:
            after = (*after, sparse)
        if packed is not None:
            path = variant.bench.variant_folder / "packed.tflite"
            write_atomic(path, packed.data)
            after = (*after, self._file("packed", path, len(packed.data), after[-1].macs))
        target = request.folder
        result = CompressionResult(
            model=str(request.model),
            device=None if request.profile is None else request.profile.name,
            recipe=str(request.recipe),
            metric=self._imported.facts.metric_name,
            before=tuple(replace(item, path=target / f"original.{item.name}.tflite") for item in before),
            after=tuple(replace(item, path=target / f"model.{item.name}.tflite") for item in after),
            variant=variant,
            packed=packed,
            folder=target,
            notes=(*self._imported.facts.notes, *self._imported.info.notes, *self._notes),
            seconds=round(time.monotonic() - started, 2),
        )
        try:
            with atomic_folder(target) as staged:
                for files, stem in ((before, "original"), (after, "model")):
                    for item in files:
                        shutil.copyfile(item.path, staged / f"{stem}.{item.name}.tflite")
                shutil.copyfile(variant.keras_path, staged / "model.h5")
                (staged / "report.json").write_text(json.dumps(result.to_json(), indent=2) + "\n")
        except OSError as error:
            raise EdgecompError(f"{target}: cannot be written: {error.strerror or error}.") from error
        return result

    def _files(self, bench: Workbench, source: Path, trained: Path | None) -> tuple[FileResult, ...]:
        """The float file of a model and its int8 file: `trained`, or quantized after training."""
        self._report("quantizing and scoring", 0, 0)
        graph = read_graph(bench.float_model.read_bytes())
        files = [self._file("float32", bench.float_model, graph.file_bytes, graph.macs)]
        if trained is None and not self._imported.facts.has_calibration:
            self._notes.append("There is no int8 file: the data has neither x_calib nor x_train to calibrate with.")
            return tuple(files)
        path = trained if trained is not None else self._quantize(bench, source).path
        return (*files, self._file("int8", path, path.stat().st_size, graph.macs))

    def _quantize(self, bench: Workbench, source: Path) -> MadeFile:
        request = self._request
        try:
            made: MadeFile = self._workers.quantizing.call(
                _STAGES + "make_candidate", bench=bench, options=QuantizationOptions(Precision.INT8, request.io)
            )
        except QuantizationError as error:
            self._notes.append(f"TensorFlow's converter made the int8 file: {error.message}")
            made = self._workers.training.call(
                _STAGES + "make_candidate_with_converter",
                bench=bench,
                source=source,
                trust_code=request.trust_code,
                io=request.io,
            )
        return made

    @property
    def _kernels(self) -> KernelFamily:
        profile = self._request.profile
        return KernelFamily.LITERT_XNNPACK if profile is None else decision_kernels(profile)

    def _file(self, name: str, path: Path, model_bytes: int, macs: int) -> FileResult:
        """Scores on every split asked for; packed files run in TFLM alone."""
        profile = self._request.profile
        kernels = KernelFamily.TFLM if name == "packed" else self._kernels
        scores: dict[str, Accuracy] = {}
        same: dict[str, Interval] = {}
        for split in self._request.splits:
            comparison = self._compare(path, kernels, split)
            score = accuracy_of(comparison.score, comparison.samples, split, kernels)
            if score is not None:
                scores[split] = score
            if comparison.agreement is not None:
                same[split] = Interval(**vars(comparison.agreement))
        arena = None
        if profile is not None and profile.runs_tflm and name != "float32" and tflm_available():
            arena = self._workers.micro.call(_SCORING + "arena_in_tflm", bench=self._imported.bench, model=path)
        return FileResult(
            name=name,
            path=path,
            model_bytes=model_bytes,
            compressed_bytes=len(zlib.compress(path.read_bytes(), 9)),
            macs=macs,
            arena_bytes=arena,
            scores=scores,
            agreement=same,
        )

    def _compare(self, path: Path, kernels: KernelFamily, split: Split) -> Comparison:
        bench, workers = self._imported.bench, self._workers
        worker = workers.micro if kernels is KernelFamily.TFLM else workers.quantizing
        shared: dict[str, Any] = {"bench": bench, "split": split, "progress": self._report}
        reference = workers.quantizing.call(
            _SCORING + "predict", model=bench.float_model, kernels=KernelFamily.LITERT_XNNPACK, **shared
        )
        # Outputs are kept by the name of the file, which two float files share.
        unique = bench.folder / f"{sha256_of_path(path)}.tflite"
        if not unique.exists():
            shutil.copyfile(path, unique)
        outputs = worker.call(_SCORING + "predict", model=unique, kernels=kernels, **shared)
        comparison: Comparison = workers.quantizing.call(
            _SCORING + "compare", bench=bench, candidate=outputs, reference=reference, split=split
        )
        return comparison

    def _sparse(self, bench: Workbench) -> FileResult | None:
        """The float file with its zeros left out, where the device's kernels then skip them."""
        profile = self._request.profile
        if profile is None or not any(step.technique == "prune" for step in self._request.recipe.steps):
            return None
        data, inference = with_sparse_kernels(bench.float_model.read_bytes(), profile)
        if not inference.is_used:
            return None  # The technique's own notes say why.
        path = bench.variant_folder / "sparse.tflite"
        write_atomic(path, data)
        return self._file("sparse", path, len(data), read_graph(bench.float_model.read_bytes()).macs)

    def _pack(self, files: tuple[FileResult, ...]) -> Packed | None:
        """The last file packed for TFLM; None for other runtimes, or where tflite-micro cannot prove it equal."""
        profile = self._request.profile
        if profile is None or profile.runtime.name != "tflm" or files[-1].name != "int8":
            return None
        if not tflm_available():
            self._notes.append("Not packed: the tflite-micro interpreter, which proves packed files equal, is missing.")
            return None
        packed: Packed = self._workers.micro.call(
            _STAGES + "pack_for_tflm",
            bench=self._imported.bench,
            model=files[-1].path,
            arena_limit_bytes=profile.memory.usable_ram_bytes,
        )
        return packed
