"""Everything that edgecomp raises on purpose.

    EdgecompError                 1
    +-- UsageError                2  an option or argument cannot be used
    |   +-- ProfileError          2  a device profile is unknown or wrong
    +-- ModelError                1  the model cannot be read, rebuilt or converted
    |   +-- GraphError            1  a .tflite file is damaged
    +-- DataError                 1  the data cannot be used with this model
    |   +-- MissingDataError      1  something needs data that was not given
    +-- QuantizationError         1  one candidate could not be made
    +-- PackingError              1  a file cannot be packed for its runtime
    +-- RuntimeRefusedError       1  the target's runtime does not run this file
    +-- WorkerError               1  a worker process raised something unforeseen, or died
    +-- BundleError               1  a bundle cannot be written, or does not verify
    +-- StoreError                1  the store of runs cannot be used, or does not hold what was asked for
    +-- TransportError            1  a device could not be reached or a command failed
    |   +-- ConnectError          1  refused, no route, timed out
    |   +-- HostKeyError          1  the host key is unknown or has changed
    |   +-- AuthenticationError   1  the host refused our key
    |   +-- CommandTimeoutError   1  a command on the device did not end in time
    +-- BenchmarkError            1  the benchmark could not be run on the device
    |   +-- DeviceBusyError       1  another measurement runs there
    |   +-- NoPythonError         1  there is no Python that the agent runs in
    |   +-- NoRuntimeError        1  no TFLite runtime works there
    +-- ProbeError                1  what a device says of itself is not enough for a profile
    +-- SetupError                1  a runtime could not be put onto a device
    +-- SimulationError           1  the emulator is missing, or the model does not run in it

The number is the exit code of the command line. Two codes are results, not errors: 3, nothing meets the
budget; 4, a measurement was taken but cannot be trusted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_FIT = 3
EXIT_UNTRUSTED = 4
EXIT_INTERRUPTED = 130


class EdgecompError(Exception):
    """Base of every expected error: one sentence, and what to do next.

    Attributes:
        message: One sentence: what, where, the value received, what is allowed.
        hint: What to do next, or None where the message says it all.
        exit_code: Exit code of the command line.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions travel from worker processes; the default would drop the hint.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[EdgecompError], message: str, hint: str | None) -> EdgecompError:
    return cls(message, hint=hint)


class UsageError(EdgecompError):
    """An option or an argument cannot be used."""

    exit_code = EXIT_USAGE


class ProfileError(UsageError):
    """A device profile is unknown or wrong."""


class ModelError(EdgecompError):
    """The model cannot be read, rebuilt or converted."""


class GraphError(ModelError):
    """A .tflite file is damaged or not a .tflite file."""


class DataError(EdgecompError):
    """The data cannot be used with this model."""


class MissingDataError(DataError):
    """Something needs data that was not given."""


class QuantizationError(EdgecompError):
    """One candidate could not be made; the others go on."""


class TrainingError(EdgecompError):
    """Fine-tuning cannot start, or its loss is no longer a number."""


class CompressionError(EdgecompError):
    """A technique cannot be applied to the model: nothing in it that it could change, or an option out of range."""


class PackingError(EdgecompError):
    """A file cannot be packed for its runtime; it can ship as it is."""


class RuntimeRefusedError(EdgecompError):
    """The runtime of the target does not load, allocate or run this file."""


class WorkerError(EdgecompError):
    """A worker process raised something unforeseen, or died."""


class BundleError(EdgecompError):
    """A bundle cannot be written, or does not verify."""


class StoreError(EdgecompError):
    """The store of runs cannot be opened, read or written, or does not hold what was asked for."""


class TransportError(EdgecompError):
    """A device could not be reached, or a command on it failed."""


class ConnectError(TransportError):
    """The host refused the connection, has no route, or did not answer in time."""


class HostKeyError(TransportError):
    """The key of the host is unknown or has changed."""


class AuthenticationError(TransportError):
    """The host refused every key that was offered."""


class CommandTimeoutError(TransportError):
    """A command on the device did not end in time."""


class BenchmarkError(EdgecompError):
    """The benchmark could not be run on the device."""


class NoPythonError(BenchmarkError):
    """There is no Python on the device, or one that is too old for the agent."""


class NoRuntimeError(BenchmarkError):
    """No TFLite runtime works in the Python of the device."""


class DeviceBusyError(BenchmarkError):
    """Another measurement runs on the device, and did not end in time."""


class ProbeError(EdgecompError):
    """What a device says of itself is not enough for a profile, or contradicts itself."""


class SetupError(EdgecompError):
    """A TFLite runtime could not be put onto a device, or removed from it."""


class SimulationError(EdgecompError):
    """The emulator or one of its parts is missing, or the model does not run in it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The closest known spelling as a sentence, followed by all that is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    closest = f"Did you mean {close[0]!r}? " if close else ""
    return f"{closest}Known: {', '.join(names) or 'none'}."
