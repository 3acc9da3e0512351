"""The part of edgecomp that runs on the device: one file, Python 3.7 or newer, numpy and a TFLite runtime.

    python3 agent.py job.json    measure the model.tflite that lies beside the job, on the inputs of golden.npz

All that it has to say is one JSON object a line on stdout, each starting with MARK: facts, stage, loaded, golden,
samples, and in the end done or error. Nothing else counts, so neither what a shell prints at login nor what a
runtime prints can be taken for a result.
"""

from __future__ import annotations

import gc
import json
import math
import os
import platform
import struct
import sys
import time
import zipfile
from importlib import import_module
from typing import Any, Callable

MARK = b'{"edgecomp": 1, '
# The Interpreter API of each: LiteRT's CompiledModel dies with SIGILL on cores without LSE atomics (Pi 3, Pi 4).
RUNTIMES = (("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime"), ("tensorflow", "tensorflow"))
ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l", "armv7": "armv7l"}
WARM_UP_S = 0.5
MOST_RUNS = 1_000_000
SAMPLES_PER_LINE = 10_000
# One LSB of an 8-bit tensor as a fraction of its range; float outputs are compared in the same unit.
LSB_PER_RANGE = 256
FLOAT_TOLERANCE_LSB = 1e-3 * LSB_PER_RANGE
# Float kernels round differently with and without fused multiply-add: ResNet8 on two x86-64 CPUs under the same
# runtime differed by 9e-8 of the range, while the outputs of its int8 version were equal bit by bit.
FLOAT_ROUNDING_LSB = 1e-5 * LSB_PER_RANGE
MIN_AGREEMENT = 0.95
# Whoever started this process tidies up after it; without them it must not go on.
PARENT = os.getppid()

Say = Callable[..., None]


class AgentError(Exception):
    """Why there is no measurement; `code` tells the host what kind of error it is."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def first_line(error: BaseException) -> str:
    """An exception on one line of reasonable length, without the full stop."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


# --- What the device is ---------------------------------------------------------------------------------------


def parse_cpuinfo(text: str) -> dict[str, Any]:
    """`part_ids` ("CPU part", in order of first sight) and `model` of the text of /proc/cpuinfo."""
    parts: list[str] = []
    names: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if key == "CPU part" and value not in parts:
            parts.append(value)
        if value:
            names.setdefault(key, value)
    # "Model" is the board, "model name" the processor.
    return {"part_ids": parts, "model": names.get("Model") or names.get("model name") or names.get("Hardware")}


def architecture_of(machine: str, pointer_bits: int) -> str:
    """What Python runs as: a 32-bit system on a 64-bit kernel says "aarch64" and is not."""
    name = ARCHITECTURES.get(machine.lower(), machine.lower())
    return {"aarch64": "armv7l", "x86_64": "i686"}.get(name, name) if pointer_bits == 32 else name


def this_architecture() -> str:
    """`architecture_of` this very process."""
    return architecture_of(platform.machine(), struct.calcsize("P") * 8)


def read_text(path: str) -> str:
    """A small file, or "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def collect_facts() -> dict[str, Any]:
    """The device, as far as it bears on a latency."""
    info = parse_cpuinfo(read_text("/proc/cpuinfo"))
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "machine": platform.machine(),
        "architecture": this_architecture(),
        "cpu_part_ids": info["part_ids"],
        "cpu_model": read_text("/proc/device-tree/model").strip("\0\n ") or info["model"],
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "executable": sys.executable,
    }


# --- The runtime ----------------------------------------------------------------------------------------------


def install_hint() -> str:
    """Which runtime this Python can have."""
    pip = f"On the device: {sys.executable} -m pip install"
    if sys.version_info < (3, 10) or this_architecture() == "armv7l":
        return f"{pip} tflite-runtime 'numpy<2'"
    return f"{pip} ai-edge-litert (where there is none for that system: tflite-runtime 'numpy<2')"


def import_numpy() -> Any:
    """The module. Raises AgentError."""
    try:
        return import_module("numpy")
    except ImportError as error:
        message = f"No TFLite runtime works in {sys.executable}, not even numpy ({first_line(error)})."
        raise AgentError("no-runtime", message, install_hint()) from error


def version_of(distribution: str, module: Any) -> str | None:
    """The installed version, or None where nothing tells."""
    try:
        return str(import_module("importlib.metadata").version(distribution))  # Python 3.8 and newer.
    except Exception:  # Not there, or installed under another name.
        version = getattr(module, "__version__", None)
        return None if version is None else str(version)


def load_runtime(distribution: str, package: str, numpy_version: str) -> tuple[Any, str | None]:
    """The Interpreter class and the version of one runtime. Raises ImportError, or AgentError for numpy 2."""
    root = import_module(package)
    version = version_of(distribution, root)
    if package == "tflite_runtime" and int(numpy_version.split(".")[0]) >= 2:
        # It imports, and fails with "_ARRAY_API not found" only when a model is loaded.
        message = f"tflite-runtime {version or ''} needs numpy below 2, and the device has numpy {numpy_version}."
        raise AgentError("numpy", message, f"On the device: {sys.executable} -m pip install 'numpy<2'")
    holder = root.lite if package == "tensorflow" else import_module(f"{package}.interpreter")
    return holder.Interpreter, version


def open_model(path: str, num_threads: int, numpy_version: str, say: Say) -> dict[str, Any]:
    """Load a model with the first runtime that works.

    Returns:
        `interpreter` with its tensors allocated, `runtime`, `version`, `init_ms`, and `tried`: why the runtimes
        before it were passed over.

    Raises:
        AgentError: No runtime works, or the one that does refuses the model.
    """
    tried: list[dict[str, str]] = []
    refusal: AgentError | None = None
    for distribution, package in RUNTIMES:
        say("stage", name=f"loading the model with {distribution}")
        try:
            create, version = load_runtime(distribution, package, numpy_version)
            start_ns = time.perf_counter_ns()
            interpreter = create(model_path=path, num_threads=num_threads)
            interpreter.allocate_tensors()
            init_ms = (time.perf_counter_ns() - start_ns) / 1e6
        except (ValueError, RuntimeError) as error:
            raise AgentError("model", f"{distribution} does not load this model: {first_line(error)}.") from error
        except AgentError as error:
            refusal = error
            tried.append({"name": distribution, "error": error.message})
        except Exception as error:  # A broken installation fails in any way; the next may work.
            is_absent = isinstance(error, ModuleNotFoundError) and error.name == package
            tried.append({"name": distribution, "error": "not installed" if is_absent else first_line(error)})
        else:
            found = {"runtime": distribution, "version": version, "init_ms": init_ms, "tried": tried}
            return dict(found, interpreter=interpreter)
    if refusal is not None:
        raise refusal
    broken = [f"{item['name']}: {item['error']}" for item in tried if item["error"] != "not installed"]
    why = f" ({'; '.join(broken)})" if broken else ""
    raise AgentError("no-runtime", f"No TFLite runtime works in {sys.executable}{why}.", install_hint())


def delegate_coverage(interpreter: Any) -> dict[str, int] | None:
    """How many operators a delegate took over; None where the runtime does not tell.

    After allocation the list of operators holds all the original ones plus one DELEGATE a partition. Those that a
    partition replaced are found by walking back from its outputs to its inputs.

    Returns:
        `delegated` of `total` operators, in so many `partitions`.
    """
    try:
        operators = interpreter._get_ops_details()
    except Exception:  # A private method: absent in old runtimes, and free to change.
        return None
    original = [item for item in operators if item["op_name"] != "DELEGATE"]
    partitions = [item for item in operators if item["op_name"] == "DELEGATE"]
    producers = {int(tensor): index for index, item in enumerate(original) for tensor in item["outputs"]}
    taken: set[int] = set()
    for partition in partitions:
        borders = {int(tensor) for tensor in partition["inputs"]}
        waiting = [int(tensor) for tensor in partition["outputs"]]
        while waiting:
            tensor = waiting.pop()
            index = producers.get(tensor)
            if tensor in borders or index is None or index in taken:
                continue
            taken.add(index)
            waiting += [int(item) for item in original[index]["inputs"]]
    return {"delegated": len(taken), "total": len(original), "partitions": len(partitions)}


def kernel_family(coverage: dict[str, int] | None) -> str | None:
    """The kernels that computed the outputs, by the names of the manifest; None where that is not known."""
    if coverage is None:
        return None
    return "LITERT_XNNPACK" if coverage["delegated"] else "LITERT_BUILTIN"


def is_quantized(np: Any, detail: Any) -> bool:
    """Whether a tensor holds integers that stand for real values."""
    scales = detail.get("quantization_parameters", {}).get("scales", ())
    return np.dtype(detail["dtype"]).kind in "iu" and len(scales) > 0


def is_float_arithmetic(np: Any, interpreter: Any) -> bool:
    """Whether no tensor of the model is quantized."""
    try:
        return not any(is_quantized(np, item) for item in interpreter.get_tensor_details())
    except Exception:  # A runtime that cannot describe a tensor (4-bit weights): then it is no float model.
        return False


# --- Golden outputs -------------------------------------------------------------------------------------------


def is_enough(agreeing: int, total: int) -> bool:
    """At least 95 %, or all but one: among a few samples a single one would already be more than 5 %."""
    return agreeing >= max(1, min(MIN_AGREEMENT * total, total - 1))


def differences_lsb(np: Any, expected: Any, actual: Any) -> Any:
    """Largest absolute difference of each sample, shape (n,): in stored units, or 1/256 of a float golden's range."""
    difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    if expected.dtype.kind == "f":
        span = float(np.max(expected) - np.min(expected)) or float(np.max(np.abs(expected))) or 1.0
        difference = difference * (LSB_PER_RANGE / span)
    largest = difference.reshape(len(difference), -1).max(axis=1)
    return np.where(np.isfinite(largest), largest, np.inf)


def count_argmax(np: Any, expected: Any, actual: Any) -> tuple[int, int] | None:
    """(how many argmaxes over the last axis agree, how many there are); None where there is nothing to choose from.

    Saturated outputs tie, so an argmax agrees where either side's choice is also a largest value of the other.
    """
    if expected.ndim < 2 or expected.shape[-1] < 2:
        return None
    ours = np.argmax(actual, axis=-1)[..., None]
    theirs = np.argmax(expected, axis=-1)[..., None]
    agrees = np.take_along_axis(expected, ours, -1)[..., 0] == expected.max(axis=-1)
    agrees |= np.take_along_axis(actual, theirs, -1)[..., 0] == actual.max(axis=-1)
    return int(agrees.sum()), int(agrees.size)


def compare_output(np: Any, expected: Any, actual: Any, allowed_lsb: float | None, is_exact: bool) -> dict[str, Any]:
    """One output of shape (n, ...) against the golden one.

    Args:
        np: The numpy module.
        expected: The golden output.
        actual: The device's, of the same shape and dtype.
        allowed_lsb: Largest difference allowed; None for labels, where how far apart two of them are means nothing.
        is_exact: Every sample has to be within it, rather than `is_enough` of them.

    Returns:
        `equal`, `difference_lsb` and `agreement` (None where there is no such figure), `allowed_lsb`, and `problem`.
    """
    equal = bool(np.array_equal(expected, actual))
    distance: float | None = None
    problem: str | None = None
    counts: tuple[int, int] | None = (int((expected == actual).sum()), int(expected.size))
    if allowed_lsb is not None:
        differences = differences_lsb(np, expected, actual)
        distance, total = float(differences.max()), len(differences)
        counts = count_argmax(np, expected, actual)
        beyond = int((differences > allowed_lsb).sum())
        if beyond and (is_exact or not is_enough(total - beyond, total)):
            problem = (
                f"{beyond} of {total} samples differ by more than {allowed_lsb:.4g} LSB, at most by {distance:.4g}"
            )
    if problem is None and counts and not is_enough(*counts):
        problem = f"only {counts[0]} of {counts[1]} {'values' if allowed_lsb is None else 'argmaxes'} agree"
    return {
        "equal": equal,
        "difference_lsb": distance,
        "allowed_lsb": allowed_lsb,
        "agreement": None if counts is None else counts[0] / counts[1],
        "problem": problem,
    }


def compare_golden(np: Any, pairs: Any, is_float: bool, is_exact: bool, tolerance_lsb: float) -> dict[str, Any]:
    """Compare the outputs of the device with the golden ones.

    Args:
        np: The numpy module.
        pairs: For each output (expected, actual, is_quantized), arrays of shape (n, ...).
        is_float: The model computes in float, so its outputs must be within 1/1000 of their range.
        is_exact: Same kernel family, runtime, version and architecture as the golden outputs were made with: they
            must be equal, but for the rounding of float arithmetic, which is the CPU's.
        tolerance_lsb: Allowed difference where the kernels are others, for all but a few samples: softmax amplifies
            what the layers before it rounded (int8 ResNet8, XNNPACK against LiteRT's own kernels, 1,000 images: half
            of them at most 1 LSB apart, 3.5 % more than 32, one 87, with the accuracy unchanged).

    Returns:
        `ok`, `rule` ("exact" or "tolerance"), `equal`, `max_difference_lsb` with the `tolerance_lsb` that held for
        it, `argmax_agreement` (all None where no output has them), `samples`, and `message`: the first thing that
        is wrong.
    """
    rows = []
    for expected, actual, quantized in pairs:
        allowed: float | None = 0.0 if is_exact else tolerance_lsb
        if expected.dtype.kind == "f" and is_float:
            allowed = FLOAT_ROUNDING_LSB if is_exact else FLOAT_TOLERANCE_LSB
        elif expected.dtype.kind != "f" and not quantized and not is_exact:
            allowed = None
        rows.append(compare_output(np, expected, actual, allowed, is_exact))
    measured = [row for row in rows if row["difference_lsb"] is not None]
    worst = max(measured, key=lambda row: float(row["difference_lsb"])) if measured else None
    agreements = [row["agreement"] for row in rows if row["agreement"] is not None]
    problems = [
        f"Output {index} is not the golden one: {row['problem']}." for index, row in enumerate(rows) if row["problem"]
    ]
    return {
        "ok": not problems,
        "rule": "exact" if is_exact else "tolerance",
        "equal": all(row["equal"] for row in rows),
        # JSON has no infinity: an output that is not a number has no difference either.
        "max_difference_lsb": worst["difference_lsb"] if worst and math.isfinite(worst["difference_lsb"]) else None,
        "tolerance_lsb": worst["allowed_lsb"] if worst else None,
        "argmax_agreement": min(agreements) if agreements else None,
        "samples": len(pairs[0][0]),
        "message": problems[0] if problems else None,
    }


# --- Measuring ------------------------------------------------------------------------------------------------


def load_golden(np: Any, path: str) -> dict[str, Any]:
    """Arrays of golden.npz by name. Raises AgentError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise AgentError("golden", f"The golden samples cannot be read: {first_line(error)}.") from error


class Model:
    """An allocated interpreter, and the golden samples that it is fed in turn."""

    def __init__(self, np: Any, interpreter: Any, golden: Any) -> None:
        self.outputs = interpreter.get_output_details()
        self.invoke = interpreter.invoke
        self._interpreter = interpreter
        inputs = interpreter.get_input_details()
        wanted = [f"input_{i}" for i in range(len(inputs))] + [f"output_{i}" for i in range(len(self.outputs))]
        missing = [name for name in wanted if name not in golden]
        if missing:
            raise AgentError("golden", f"The golden samples lack {', '.join(missing)}, which the model has.")
        arrays = {name: golden[name] for name in wanted}
        counts = {len(array) if array.ndim else 0 for array in arrays.values()}
        if len(counts) != 1 or 0 in counts:
            raise AgentError("golden", "The golden inputs and outputs are not of the same number of samples.")
        self.count = counts.pop()
        self.expected = [arrays[f"output_{i}"] for i in range(len(self.outputs))]
        self._feeds = [self._prepare(np, item, arrays[f"input_{i}"]) for i, item in enumerate(inputs)]

    def _prepare(self, np: Any, detail: Any, samples: Any) -> tuple[int, Any]:
        """Tensor index and samples of shape (n, *shape of the tensor); a tensor without a fixed size is resized."""
        name, index = detail["name"], int(detail["index"])
        shape = tuple(int(size) for size in detail["shape"])
        signature = [int(size) for size in detail.get("shape_signature", shape)]
        if -1 in signature[1:] and len(signature) == samples.ndim:
            shape = (1, *samples.shape[1:])
            self._interpreter.resize_tensor_input(index, shape)
            self._interpreter.allocate_tensors()
        if samples.dtype != np.dtype(detail["dtype"]) or int(np.prod(shape)) != samples[0].size:
            takes, given = np.dtype(detail["dtype"]).name, samples.dtype.name
            raise AgentError(
                "golden",
                f"Input {name} takes {takes} of shape {shape}, the golden one is {given} of {samples.shape[1:]}.",
            )
        return index, samples.reshape((len(samples), *shape))

    def feed(self, number: int) -> None:
        """Set the inputs to sample `number` (modulo how many there are)."""
        for index, samples in self._feeds:
            self._interpreter.set_tensor(index, samples[number % self.count])

    def read(self) -> list[Any]:
        """Copies of the outputs, shaped like one golden sample each."""
        found = []
        for index, detail in enumerate(self.outputs):
            golden = self.expected[index]
            value = self._interpreter.get_tensor(detail["index"])
            if value.size != golden[0].size or value.dtype != golden.dtype:
                raise AgentError(
                    "golden",
                    f"Output {detail['name']} is {value.dtype.name} of shape {value.shape}, the golden one "
                    f"{golden.dtype.name} of {golden.shape[1:]}.",
                )
            found.append(value.reshape(golden.shape[1:]))
        return found


def check_golden(np: Any, model: Model, interpreter: Any, job: Any, is_exact: bool) -> dict[str, Any]:
    """Run the golden samples, as many as fit into the time limit but at least one, and compare."""
    deadline = time.perf_counter() + job["max_seconds"]
    found: list[list[Any]] = []
    for number in range(model.count):
        model.feed(number)
        model.invoke()
        found.append(model.read())
        if time.perf_counter() > deadline:
            break
    pairs = [
        (model.expected[i][: len(found)], np.stack([outputs[i] for outputs in found]), is_quantized(np, detail))
        for i, detail in enumerate(model.outputs)
    ]
    return compare_golden(np, pairs, is_float_arithmetic(np, interpreter), is_exact, job["tolerance_lsb"])


def time_runs(model: Model, num_runs: int, min_seconds: float, max_seconds: float) -> list[float]:
    """Microseconds of each inference; setting the inputs is not counted.

    Goes on until there are `num_runs` runs and `min_seconds` have passed, but not beyond `max_seconds`.
    """
    values: list[float] = []
    clock = time.perf_counter_ns
    begin_ns = clock()
    gc.disable()  # A collection in mid-run would be counted as inference.
    try:
        while len(values) < MOST_RUNS:
            model.feed(len(values))
            start_ns = clock()
            model.invoke()
            end_ns = clock()
            values.append((end_ns - start_ns) / 1000)
            elapsed_s = (end_ns - begin_ns) / 1e9
            if elapsed_s >= max_seconds or (len(values) >= num_runs and elapsed_s >= min_seconds):
                break
            if os.getppid() != PARENT:
                raise AgentError("orphan", "The process that started the measurement is gone.")
    finally:
        gc.enable()
    return values


def measure(job: Any, folder: str, say: Say) -> None:
    """Load the model of a folder, compare its outputs with the golden ones, time it.

    Args:
        job: `num_threads`, `num_runs`, `min_seconds`, `max_seconds`, `tolerance_lsb`, and `made_with`: what the
            golden outputs were made with (`kernel_family`, `runtime`, `runtime_version`, `architecture`).
        folder: Holds model.tflite and golden.npz.
        say: Takes the messages.

    Raises:
        AgentError: There is no measurement, and why.
    """
    facts = collect_facts()
    np = import_numpy()
    opened = open_model(os.path.join(folder, "model.tflite"), job["num_threads"], np.__version__, say)
    interpreter = opened["interpreter"]
    coverage = delegate_coverage(interpreter)
    ours = {
        "kernel_family": kernel_family(coverage),
        "runtime": opened["runtime"],
        "runtime_version": opened["version"],
        "architecture": facts["architecture"],
    }
    say("facts", **dict(facts, **ours, numpy=np.__version__, tried=opened["tried"]))
    golden = load_golden(np, os.path.join(folder, "golden.npz"))
    try:
        model = Model(np, interpreter, golden)
        model.feed(0)
        start_ns = time.perf_counter_ns()
        model.invoke()
        first_ms = (time.perf_counter_ns() - start_ns) / 1e6
        say("loaded", init_ms=opened["init_ms"], first_ms=first_ms, delegate=coverage)
        say("stage", name="comparing outputs")
        is_exact = None not in ours.values() and job["made_with"] == ours
        say("golden", **check_golden(np, model, interpreter, job, is_exact))
        say("stage", name="warming up")
        time_runs(model, 1, WARM_UP_S, job["max_seconds"])
        say("stage", name="measuring")
        values = time_runs(model, job["num_runs"], job["min_seconds"], job["max_seconds"])
    except (ValueError, RuntimeError) as error:
        raise AgentError("model", f"{opened['runtime']} does not run this model: {first_line(error)}.") from error
    for start in range(0, len(values), SAMPLES_PER_LINE):
        say("samples", unit="us", values=values[start : start + SAMPLES_PER_LINE])
    say("done", runs=len(values))


def main(job_path: str) -> int:
    """Measure, with every message on stdout and everything that libraries print on stderr; returns the exit code."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    protocol.write(b"\n")  # Whatever was printed before this file ran may lack its newline.

    def say(kind: str, **values: Any) -> None:
        text = json.dumps(dict(values, type=kind), allow_nan=False)
        protocol.write(MARK + text[1:].encode("ascii") + b"\n")
        protocol.flush()

    try:
        with open(job_path, encoding="utf-8") as stream:
            job = json.load(stream)
        measure(job, os.path.dirname(os.path.abspath(job_path)), say)
    except AgentError as error:
        say("error", code=error.code, message=error.message, hint=error.hint)
        return 1
    except MemoryError:
        say("error", code="memory", message="The device has not enough memory for this model.", hint=None)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
