"""Count the instructions of an inference: a process in the emulator, and a second one to see that it is repeatable."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import edgecomp.agent
from edgecomp.agent.reports import DelegateCoverage
from edgecomp.bundle.reader import read_bundle
from edgecomp.bundle.writer import UNPACKED_NAME
from edgecomp.errors import ModelError, SimulationError, UsageError, did_you_mean
from edgecomp.files import sha256_of
from edgecomp.graph import read_graph
from edgecomp.simulate.cores import CORES, cpuinfo_text, write_cpu_files
from edgecomp.simulate.counter import CLASSES, Emulator, build_plugin, find_emulator
from edgecomp.simulate.sysroot import PYTHON, RUNTIMES, check_sysroot

REPEATS = 2
_GUEST = Path(__file__).with_name("guest.py")
# Python runs the byte code of a loop ten times before it is as fast as it gets; a slow model is not run so often.
_RUNS = 8
_PLAN = {"warm_up_runs": 12, "warm_up_s": 5.0, "runs": _RUNS, "least_runs": 2, "most_s": 60.0}
_TIMEOUT_S = 3600.0
# Of the root file system; what is not in it is looked for on the host.
_LINKS = ("bin", "etc", "lib", "opt", "sbin", "usr")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Subject:
    """A model and what it is fed.

    Attributes:
        model: The .tflite.
        samples: A golden.npz, or None: then all inputs are zero.
        inputs: The same in words.
    """

    path: Path
    model: bytes
    samples: bytes | None
    inputs: str


@dataclass(frozen=True)
class Simulation:
    """Instructions that an aarch64 core executes for one inference, on one thread.

    Attributes:
        instructions: Median over the runs of both processes, without what the loop around them executes.
        by_run: Those runs, by process.
        relative_difference: Of the two processes' medians.
        dot_product: How many of the instructions are SDOT, UDOT and the like.
        int8_matrix: How many are SMMLA and the like.
        half_precision: How many compute with 16-bit floats.
        delegate: Operators that XNNPACK took over; None where the runtime does not tell.
        is_float: No tensor of the model is quantized.
    """

    model: str
    model_sha256: str
    inputs: str
    cpu: str
    runtime: str
    runtime_version: str | None
    emulator: str
    instructions: int
    dot_product: int
    int8_matrix: int
    half_precision: int
    by_run: tuple[tuple[int, ...], ...]
    relative_difference: float
    kernel_family: str | None
    delegate: DelegateCoverage | None
    is_float: bool
    mode: Literal["simulated"] = "simulated"
    unit: Literal["instructions"] = "instructions"

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        delegate = None if self.delegate is None else self.delegate.model_dump(mode="json")
        return {"schema": "edgecomp.simulation/1", **vars(self), "delegate": delegate}


def read_subject(path: Path) -> Subject:
    """A .tflite, or the model of a bundle with its golden inputs.

    Raises:
        ModelError: The file cannot be read, or is no .tflite.
        BundleError: See `read_bundle`.
    """
    if path.is_dir() or path.suffix == ".zip":
        bundle = read_bundle(path)
        # A model that is packed for a microcontroller comes with one that computes the same and runs here.
        model = bundle.files.get(UNPACKED_NAME, bundle.files["model.tflite"])
        samples = bundle.files["golden.npz"]
        inputs = f"{min(_RUNS, len(bundle.golden()['input_0']))} golden samples of the bundle"
    else:
        try:
            model = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
        samples, inputs = None, "zeros"
    read_graph(model, str(path))
    return Subject(path, model, samples, inputs)


def simulate(
    path: Path, *, cpu: str, sysroot: Path, runtime: str = "ai-edge-litert", progress: Progress | None = None
) -> Simulation:
    """Count the instructions of one inference on a core.

    Args:
        path: A .tflite, or a bundle (folder or .zip).
        cpu: A name of `CORES`.
        sysroot: Made by scripts/make_aarch64_sysroot.py.
        runtime: A name of `RUNTIMES`.
        progress: Told what takes time: what, how much of it is done, how much there is.

    Raises:
        UsageError: An unknown core or runtime, or no such root file system.
        ModelError, BundleError: See `read_subject`.
        SimulationError: A tool is missing, or the runtime does not run the model.
    """
    for kind, name, names in (("core", cpu, CORES), ("runtime", runtime, RUNTIMES)):
        if name not in names:
            raise UsageError(f"unknown {kind} {name!r}.", hint=did_you_mean(name, names))
    subject = read_subject(path)
    check_sysroot(sysroot, runtime)
    emulator = find_emulator(cpu)
    plugin = build_plugin(emulator)
    found = []
    with tempfile.TemporaryDirectory(prefix="edgecomp-simulate-") as folder:
        for number in range(REPEATS):
            if progress is not None:
                progress(f"counting on {cpu}", number, REPEATS)
            work = Path(folder) / str(number)
            work.mkdir()
            job = _prepare(work, subject, cpu, sysroot.resolve(), runtime)
            found.append(_count(emulator, plugin, cpu, work, job))
    return _summary(subject, cpu, runtime, emulator, found)


def _prepare(work: Path, subject: Subject, cpu: str, sysroot: Path, runtime: str) -> dict[str, Any]:
    """Everything that the process in the emulator needs; returns its job."""
    view = work / "view"
    for name in _LINKS:
        (view / name).parent.mkdir(exist_ok=True)
        (view / name).symlink_to(sysroot / name)
    (view / "proc").mkdir()
    (view / "proc" / "cpuinfo").write_text(cpuinfo_text(CORES[cpu]))
    write_cpu_files(CORES[cpu], view / "sys")
    (work / "model.tflite").write_bytes(subject.model)
    if subject.samples is not None:
        (work / "golden.npz").write_bytes(subject.samples)
    job = {
        "model": str(work / "model.tflite"),
        "samples": None if subject.samples is None else str(work / "golden.npz"),
        "runtime": runtime,
        "package": RUNTIMES[runtime].package,
        "runtime_folder": f"/{RUNTIMES[runtime].folder}",
        "agent_folder": str(Path(edgecomp.agent.__file__).resolve().parent),
        "answer": str(work / "answer.json"),
        **_PLAN,
    }
    (work / "job.json").write_text(json.dumps(job))
    return job


def _count(emulator: Emulator, plugin: Path, cpu: str, work: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run one process in the emulator: the guest's answer, with `runs`, the counts of each run by class.

    Raises:
        SimulationError: The process died, or the runtime refused the model.
    """
    environment = {
        "EDGECOMP_COUNTS": str(work / "counts.txt"),
        # Idle threads of numpy spin, which made counts differ by 8 %.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    view = work / "view"
    # Options of QEMU end at a comma, unless it is doubled.
    command = [emulator.path, "-cpu", cpu, "-L", str(view), "-plugin", str(plugin).replace(",", ",,")]
    command += [str(view / f"usr/bin/python{PYTHON}"), "-s", "-S", str(_GUEST), str(work / "job.json")]
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SimulationError(f"The emulator did not end within {_TIMEOUT_S:g} s.") from error
    except OSError as error:
        raise SimulationError(f"{emulator.path} cannot be run: {error.strerror}.") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise SimulationError(f"{job['runtime']} died of {name} on the emulated {cpu}.")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1].strip().rstrip(".")[:300] if lines else f"exit code {done.returncode}"
        raise SimulationError(f"The process in the emulator failed: {reason}.")
    answer: dict[str, Any] = json.loads(Path(job["answer"]).read_text())
    if "error" in answer:
        raise SimulationError(f"{job['runtime']} does not run this model: {answer['error']}.")
    return answer | {"runs": runs_of((work / "counts.txt").read_text(), *answer["counted"])}


def runs_of(text: str, num_empty: int, num_runs: int) -> list[dict[str, int]]:
    """What the counter wrote -> the instructions of each run by class, without those of the loop around it.

    Args:
        text: A line a mark: one at the start, then two for each empty run, then two for each run of the model.
        num_empty: Runs of nothing.
        num_runs: Runs of the model.

    Raises:
        SimulationError: There are not so many marks.
    """
    marks = [[int(word) for word in line.split()] for line in text.splitlines()]
    if len(marks) != 1 + 2 * (num_empty + num_runs) or any(len(mark) != len(CLASSES) for mark in marks):
        raise SimulationError(f"The counter saw {len(marks)} marks, not {1 + 2 * (num_empty + num_runs)}.")
    pairs = list(zip(marks[1::2], marks[2::2], strict=True))
    costs = [dict(zip(CLASSES, (b - a for a, b in zip(*pair, strict=True)), strict=True)) for pair in pairs]
    empty = {name: statistics.median_low([cost[name] for cost in costs[:num_empty]]) for name in CLASSES}
    return [{name: cost[name] - empty[name] for name in CLASSES} for cost in costs[num_empty:]]


def _summary(subject: Subject, cpu: str, runtime: str, emulator: Emulator, found: list[dict[str, Any]]) -> Simulation:
    by_process = [[run["instructions"] for run in answer["runs"]] for answer in found]
    medians = [statistics.median(values) for values in by_process]
    every_run = [run for answer in found for run in answer["runs"]]
    of_class = {name: round(statistics.median([run[name] for run in every_run])) for name in CLASSES}
    answer = found[0]
    coverage = answer["delegate"]
    return Simulation(
        model=os.fspath(subject.path),
        model_sha256=sha256_of(subject.model),
        inputs=subject.inputs,
        cpu=cpu,
        runtime=runtime,
        runtime_version=answer["runtime_version"],
        emulator=f"QEMU {emulator.version}",
        **of_class,
        by_run=tuple(tuple(values) for values in by_process),
        relative_difference=(max(medians) - min(medians)) / max(medians),
        kernel_family=answer["kernel_family"],
        delegate=None if coverage is None else DelegateCoverage.model_validate(coverage),
        is_float=answer["is_float"],
    )
