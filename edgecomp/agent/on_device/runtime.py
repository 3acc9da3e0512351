"""The first TFLite runtime that works here, and what it says of the kernels that it uses."""

from __future__ import annotations

import contextlib
import sys
import time
from importlib import import_module
from typing import Any

from .machine import this_architecture
from .protocol import AgentError, Say, first_line

# The Interpreter API of each: LiteRT's CompiledModel dies with SIGILL on cores without LSE atomics (Pi 3, Pi 4).
RUNTIMES = (("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime"), ("tensorflow", "tensorflow"))


def install_hint() -> str:
    """Which runtime this Python can have."""
    pip = f"On the device: {sys.executable} -m pip install"
    if sys.version_info < (3, 9) or this_architecture() == "armv7l":
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


def load_any_runtime(numpy_version: str) -> bool:
    """Whether a runtime could be imported: then its own memory is there before the model's."""
    for distribution, package in RUNTIMES:
        with contextlib.suppress(Exception):  # `open_model` tells why.
            load_runtime(distribution, package, numpy_version)
            return True
    return False


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
        except MemoryError:
            raise
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
