"""A model and the samples that it is fed."""

from __future__ import annotations

import zipfile
from typing import Any

from .protocol import AgentError, first_line


def load_arrays(np: Any, path: str) -> dict[str, Any]:
    """Arrays of an .npz by name. Raises AgentError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise AgentError("golden", f"The golden samples cannot be read: {first_line(error)}.") from error


class Model:
    """An allocated interpreter, and the samples that it is fed in turn.

    Attributes:
        expected: The golden outputs, each of shape (n, ...); empty without `has_outputs`.
        count: How many samples there are.
    """

    def __init__(self, np: Any, interpreter: Any, arrays: Any, has_outputs: bool = True) -> None:
        self.outputs = interpreter.get_output_details()
        self.invoke = interpreter.invoke
        self._interpreter = interpreter
        inputs = interpreter.get_input_details()
        wanted = [f"input_{i}" for i in range(len(inputs))]
        wanted += [f"output_{i}" for i in range(len(self.outputs))] if has_outputs else []
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise AgentError("golden", f"The golden samples lack {', '.join(missing)}, which the model has.")
        arrays = {name: arrays[name] for name in wanted}
        counts = {len(array) if array.ndim else 0 for array in arrays.values()}
        if len(counts) != 1 or 0 in counts:
            raise AgentError("golden", "The golden inputs and outputs are not of the same number of samples.")
        self.count = counts.pop()
        self.expected = [arrays[f"output_{i}"] for i in range(len(self.outputs))] if has_outputs else []
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
            value = self._interpreter.get_tensor(detail["index"])
            if not self.expected:
                found.append(value.copy())
                continue
            golden = self.expected[index]
            if value.size != golden[0].size or value.dtype != golden.dtype:
                raise AgentError(
                    "golden",
                    f"Output {detail['name']} is {value.dtype.name} of shape {value.shape}, the golden one "
                    f"{golden.dtype.name} of {golden.shape[1:]}.",
                )
            found.append(value.reshape(golden.shape[1:]))
        return found


class ZeroInputs:
    """A model without samples: its inputs stay as they are, all zero."""

    def __init__(self, np: Any, interpreter: Any) -> None:
        self.invoke = interpreter.invoke
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))

    def feed(self, number: int) -> None:
        """Nothing changes."""
