"""Taking a model and its data in: both read at once, bound together, converted and compared on real inputs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edgecomp.bundle.writer import require_writable
from edgecomp.convert import ENVIRONMENT
from edgecomp.data import DataOptions
from edgecomp.executors.limits import MEMORY_BYTES, worker_bytes
from edgecomp.executors.local import Progress, Worker
from edgecomp.graph import Graph, read_graph
from edgecomp.model import CUSTOM_OBJECTS, ModelInfo, identify
from edgecomp.profile import DeviceProfile
from edgecomp.stages import DataFacts, Workbench

_STAGES = "edgecomp.stages:"
_COMPARED_SAMPLES = 16


class Request(Protocol):
    """What every command that works on a model and its data is told."""

    @property
    def model(self) -> Path:
        """Path of the model."""

    @property
    def data(self) -> DataOptions:
        """Where the data is."""

    @property
    def metric(self) -> str:
        """As the user wrote it."""

    @property
    def seed(self) -> int:
        """Of every draw."""

    @property
    def trust_code(self) -> bool:
        """Accept code in the model file."""

    @property
    def custom_objects(self) -> str | None:
        """Where the model's own classes are."""

    @property
    def out(self) -> Path:
        """Folder for the results."""


@dataclass(frozen=True)
class Workers:
    """One process each for what must not meet.

    Attributes:
        training: TensorFlow: import, conversion, training.
        quantizing: ai-edge-quantizer and LiteRT.
        micro: tflite-micro, apart because it aborts on some files.
        more_training: For trainings side by side; started when they are first used.
    """

    training: Worker
    quantizing: Worker
    micro: Worker
    more_training: tuple[Worker, ...] = ()


def _start_workers(stack: ExitStack, folder: Path, custom_objects: str | None, jobs: int) -> Workers:
    """One worker each for TensorFlow, ai-edge-quantizer and tflite-micro; their logs outlive them if one failed."""
    logs = Path(tempfile.mkdtemp(prefix="edgecomp-logs-"))
    # What libraries leave in the folder for temporary files goes with the run.
    temporary = {"TMPDIR": str(folder)}
    custom = {} if custom_objects is None else {CUSTOM_OBJECTS: custom_objects}
    memory = {MEMORY_BYTES: str(worker_bytes(jobs))}
    tensorflow = ENVIRONMENT | temporary | custom | memory
    more = [Worker("TensorFlow", logs / f"tensorflow-{job}.log", environment=tensorflow) for job in range(2, jobs + 1)]
    training = Worker("TensorFlow", logs / "tensorflow.log", environment=tensorflow)
    quantizing = Worker("quantization", logs / "quantization.log", environment=temporary)
    micro = Worker("tflite-micro", logs / "tflite-micro.log", environment=temporary)
    workers = [training, quantizing, micro, *more]

    def clear_logs() -> None:
        if not any(worker.has_failed for worker in workers):
            shutil.rmtree(logs, ignore_errors=True)

    stack.callback(clear_logs)
    for worker in workers:
        stack.enter_context(worker)
    return Workers(training, quantizing, micro, tuple(more))


@dataclass(frozen=True)
class Imported:
    """The model and the data, held against each other, and the workers that know them."""

    workers: Workers
    bench: Workbench
    info: ModelInfo
    graph: Graph
    facts: DataFacts
    data: dict[str, Any]


def take_in(
    stack: ExitStack, request: Request, profiles: Sequence[DeviceProfile], report: Progress, jobs: int = 1
) -> Imported:
    """Read model and data, bind them, convert the model to a float .tflite and compare the two on real inputs.

    Args:
        stack: Ends the workers and removes the run folder.
        request: What the user asks for.
        profiles: Devices that must take the float file.
        report: Told what takes time.
        jobs: TensorFlow workers.

    Raises:
        ModelError, DataError, UsageError: One of them cannot be used, or they do not fit each other.
        BundleError: The folder for the results cannot be written to.
    """
    identify(request.model, trust_code=request.trust_code, custom_objects=request.custom_objects)
    require_writable(request.out)
    folder = Path(tempfile.mkdtemp(prefix="edgecomp-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    workers = _start_workers(stack, folder, request.custom_objects, jobs)
    bench = Workbench(folder, request.metric, request.seed)
    trust_code, options = request.trust_code, request.data
    report("reading model and data", 0, 0)
    path = str(request.model.resolve())
    with ThreadPoolExecutor(1) as thread:
        opened = thread.submit(workers.training.call, "edgecomp.convert:inspect", path=path, trust_code=trust_code)
        try:
            data = workers.quantizing.call(_STAGES + "prepare_data", bench=bench, options=options, progress=report)
        except BaseException:
            workers.training.close()  # Ends the other half too: nobody will look at it.
            raise
        workers.quantizing.preload("ai_edge_quantizer.quantizer")
        info: ModelInfo = opened.result()
    bench = replace(bench, inputs=info.inputs, outputs=info.outputs)
    workers.quantizing.call(_STAGES + "bind_data", bench=bench)
    samples = bench.folder / "samples.npz"
    workers.quantizing.call(
        _STAGES + "save_samples", bench=bench, path=samples, split="validation", count=_COMPARED_SAMPLES
    )
    report("converting to a float .tflite", 0, 0)
    runtimes = [profile.runtime for profile in profiles]
    info = workers.training.call(
        "edgecomp.convert:convert_to_float_tflite",
        path=path,
        trust_code=trust_code,
        out_path=str(bench.float_model),
        samples_path=str(samples),
        allow_select_tf=all(runtime.custom_operators for runtime in runtimes),
        allow_resource_variables=all(runtime.resource_variables for runtime in runtimes),
    )
    graph = read_graph(bench.float_model.read_bytes(), "The converted model")
    bench = replace(bench, inputs=graph.inputs, outputs=graph.outputs)
    facts = workers.quantizing.call(_STAGES + "bind_data", bench=bench)
    return Imported(workers, bench, info, graph, facts, data)
