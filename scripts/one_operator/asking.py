"""Put one file to a runtime, in a worker process: a runtime may abort.

The functions whose names start with `ask_` run in the worker.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecomp.errors import WorkerError
from edgecomp.executors.local import Worker

_PATIENCE_S = 20  # A file of one operator takes milliseconds.
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Answer:
    """What a runtime did with a file.

    Attributes:
        runs: It loaded, allocated and ran.
        line: Its own first line where it did not.
        outputs: What it computed.
        delegated: The operators that XNNPACK took.
    """

    runs: bool
    line: str = ""
    outputs: tuple[np.ndarray, ...] = ()
    delegated: tuple[str, ...] = ()


class Asker:
    """A worker that is started anew whenever the runtime took it down."""

    def __init__(self, name: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgecomp-ask-")
        self._messages = Path(self._folder.name) / "messages"
        environment = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        self._worker = Worker(name, Path(self._folder.name) / "log", environment=environment)

    def ask(self, function: str, file: bytes, feeds: list[np.ndarray], **more: str) -> Answer:
        """Put a file to `ask_<function>`."""
        self._messages.unlink(missing_ok=True)
        late = threading.Event()
        watch = threading.Timer(_PATIENCE_S, self._give_up, [late])
        watch.start()
        try:
            answer: Answer = self._worker.call(
                f"{__name__}:ask_{function}", file=file, feeds=feeds, messages=str(self._messages), **more
            )
        except WorkerError as error:
            if late.is_set():
                return Answer(False, f"did not end within {_PATIENCE_S} s")
            line = first_line(self._messages.read_text(errors="replace")) if self._messages.exists() else ""
            death = error.message.partition("(")[2].partition(")")[0] or "an unforeseen error"
            return Answer(False, f"{line or 'no message'} (the process ended: {death})")
        finally:
            watch.cancel()
        return answer

    def _give_up(self, late: threading.Event) -> None:
        late.set()
        self._worker.close()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()
        self._folder.cleanup()


def first_line(text: str) -> str:
    """The first line that a runtime printed about a failure, without what differs from run to run."""
    chatter = ("INFO:", "WARNING:", "Warning: No ", "W0000", "I0000", "E0000")
    lines = [line.strip() for line in text.splitlines()]
    wanted = [line for line in lines if line and not line.startswith(chatter)]
    # Some lines print an address.
    return re.sub(r"-?\d{6,}", "N", wanted[0].removeprefix("ERROR: ").rstrip(".")) if wanted else ""


@contextmanager
def _stderr_to(path: str, *, also_stdout: bool = False) -> Iterator[None]:
    """Native messages go to a file, which is still there when the process is not."""
    numbers = (1, 2) if also_stdout else (2,)
    sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    saved = [os.dup(number) for number in numbers]
    for number in numbers:
        os.dup2(sink, number)
    os.close(sink)
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, old in zip(numbers, saved, strict=True):
            os.dup2(old, number)
            os.close(old)


def _refused(messages: str, error: Exception) -> Answer:
    text = Path(messages).read_text(errors="replace")
    return Answer(False, first_line(text) or first_line(str(error)) or type(error).__name__)


def ask_tflm(file: bytes, feeds: list[np.ndarray], messages: str) -> Answer:
    """TensorFlow Lite Micro: load, allocate, run."""
    from tflite_micro import runtime

    try:
        with _stderr_to(messages):
            interpreter = runtime.Interpreter.from_bytes(file, arena_size=1 << 20)
            for index, value in enumerate(feeds):
                interpreter.set_input(value, index)
            interpreter.invoke()
            # The wheel does not say how many outputs there are; the file does.
            outputs = tuple(np.array(interpreter.get_output(index)) for index in range(output_count(file)))
    except (
        RuntimeError,
        ValueError,
        AttributeError,
    ) as error:  # AttributeError: its scan for variables meets no options.
        return _refused(messages, error)
    return Answer(True, outputs=outputs)


def output_count(file: bytes) -> int:
    """Number of outputs of the first subgraph."""
    from ai_edge_litert import schema_py_generated as schema

    return int(schema.Model.GetRootAs(file, 0).Subgraphs(0).OutputsLength())


def _litert(file: bytes, feeds: list[np.ndarray], messages: str, resolver: str) -> Answer:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = getattr(OpResolverType, resolver)
    try:
        with _stderr_to(messages):
            interpreter = Interpreter(model_content=file, experimental_op_resolver_type=kernels, num_threads=1)
            interpreter.allocate_tensors()
            for detail, value in zip(interpreter.get_input_details(), feeds, strict=True):
                interpreter.set_tensor(detail["index"], value)
            interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        return _refused(messages, error)
    outputs = tuple(interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details())
    return Answer(True, outputs=outputs, delegated=_delegated(interpreter._get_ops_details()))


def _delegated(details: list[dict[str, Any]]) -> tuple[str, ...]:
    """All original operators are listed, and one DELEGATE more for each partition.

    What a partition took is found backwards from its outputs to its inputs.
    """
    partitions = [detail for detail in details if detail["op_name"] == "DELEGATE"]
    makers = {
        int(tensor): detail for detail in details if detail["op_name"] != "DELEGATE" for tensor in detail["outputs"]
    }
    taken: dict[int, str] = {}
    for partition in partitions:
        borders = {int(tensor) for tensor in partition["inputs"]}
        open_tensors = [int(tensor) for tensor in partition["outputs"]]
        while open_tensors:
            tensor = open_tensors.pop()
            if tensor in borders or tensor not in makers:
                continue
            maker = makers[tensor]
            if maker["index"] not in taken:
                taken[maker["index"]] = maker["op_name"]
                open_tensors += [int(item) for item in maker["inputs"]]
    # Without an output (ASSIGN_VARIABLE) there is nothing to start from: it is inside if a partition takes its values.
    taken_in = {int(tensor) for partition in partitions for tensor in partition["inputs"]}
    for detail in details:
        if len(detail["inputs"]) and not len(detail["outputs"]) and detail["op_name"] != "DELEGATE":
            values = int(detail["inputs"][-1])
            if values in taken_in or makers.get(values, {"index": -1})["index"] in taken:
                taken[detail["index"]] = detail["op_name"]
    return tuple(taken[index] for index in sorted(taken))


def ask_litert(file: bytes, feeds: list[np.ndarray], messages: str) -> Answer:
    """LiteRT's built-in kernels, no delegate."""
    return _litert(file, feeds, messages, "BUILTIN_WITHOUT_DEFAULT_DELEGATES")


def ask_vela(file: bytes, feeds: list[np.ndarray], messages: str, accelerator: str) -> Answer:  # noqa: ARG001
    """Arm's Vela: does it put every operator of the file on the NPU? It runs nothing: the feeds are left."""
    from ethosu.vela import vela

    folder = Path(messages).parent
    model = folder / "model.tflite"
    model.write_bytes(file)
    try:
        with _stderr_to(messages, also_stdout=True):
            vela.main([str(model), "--accelerator-config", accelerator, "--output-dir", str(folder / "vela")])
    except (Exception, SystemExit) as error:  # Its own errors have no common base.
        return Answer(False, f"Vela stops: {_rule(' '.join(str(error).split()))}")
    text = Path(messages).read_text(errors="replace")
    reasons = [line.removeprefix("Reason: ") for line in text.splitlines() if line.startswith("Reason: ")]
    if reasons or "CPU operators = 0 " not in text:
        return Answer(False, _rule(reasons[0]) if reasons else "left to the CPU without a reason")
    return Answer(True)


def _rule(reason: str) -> str:
    """A reason without the names of our own tensors."""
    return re.sub(r" (\([^()]* (in|out) \d+\)|'[^']* (in|out) \d+')", "", reason)


def ask_reference(file: bytes, feeds: list[np.ndarray], messages: str) -> Answer:
    """LiteRT's reference kernels."""
    return _litert(file, feeds, messages, "BUILTIN_REF")


def ask_xnnpack(file: bytes, feeds: list[np.ndarray], messages: str) -> Answer:
    """LiteRT as it comes: with XNNPACK."""
    return _litert(file, feeds, messages, "AUTO")
