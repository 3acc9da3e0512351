"""Which engine measures: the Python agent where it can run, else a `benchmark_model` that is on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgecomp.agent.remote import Progress
from edgecomp.bench.measurement import BenchReport
from edgecomp.bench.native import PLACES, find_benchmark_model
from edgecomp.bench.native_measurement import bench_native
from edgecomp.bench.runner import THREADS, bench_bundles
from edgecomp.bench.scores import Evaluation
from edgecomp.bench.settings import BenchSettings
from edgecomp.errors import BenchmarkError, NoPythonError, NoRuntimeError, UsageError
from edgecomp.profile import DeviceProfile
from edgecomp.transports import Transport

EngineName = Literal["auto", "interpreter", "benchmark_model"]

_COPY_ONE = (
    "copy a benchmark_model built for the device there, and name its path (--benchmark-model): docs/bench-engines.md"
)


@dataclass(frozen=True)
class Engine:
    """What measures.

    Attributes:
        name: "interpreter" is the Python agent; "auto" takes it too, and `benchmark_model` where the device has no
            Python or no runtime works there.
        benchmark_model: Name or path of the program on the device; None to look for it.
    """

    name: EngineName = "auto"
    benchmark_model: str | None = None

    def __post_init__(self) -> None:
        if self.name == "interpreter" and self.benchmark_model is not None:
            raise UsageError("A path of benchmark_model is of no use to the engine interpreter.", hint="Leave one out.")

    def check(self, settings: BenchSettings, *, scores: bool) -> None:
        """Refuse what the engine cannot do.

        Args:
            settings: What is asked for.
            scores: A score on the device, too.

        Raises:
            UsageError: Which options, and what to do.
        """
        options = _of_the_agent(settings, scores) if self.name == "benchmark_model" else None
        if options is not None:
            raise UsageError(f"{_only_times(options)}.", hint="Leave it out, or choose the engine interpreter.")


def bench_with(
    engine: Engine,
    bundles: Sequence[Path],
    transport: Transport,
    *,
    profile: DeviceProfile | None = None,
    python: str = "python3",
    threads: Sequence[int] = THREADS,
    settings: BenchSettings | None = None,
    evaluation: Evaluation | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure bundles on a device with an engine; see `runner.bench_bundles` for the rest.

    Raises:
        UsageError: The engine cannot do what is asked for.
        BenchmarkError: There is neither a Python that works nor a `benchmark_model`, or see `bench_bundles`.
        EdgecompError: See `bench_bundles` and `bench_native`.
    """
    settings = settings or BenchSettings()
    engine.check(settings, scores=evaluation is not None)

    def natively(program: str, notes: Sequence[str] = ()) -> BenchReport:
        return bench_native(
            bundles, transport, program, profile=profile, threads=threads, settings=settings, notes=notes,
            progress=progress,
        )  # fmt: skip

    if engine.name == "benchmark_model":
        program = find_benchmark_model(transport, engine.benchmark_model)
        if program is None:
            raise BenchmarkError(
                f"There is no benchmark_model on {transport.host}, neither on the search path nor at {PLACES[-1]}.",
                hint=f"{_COPY_ONE[0].upper()}{_COPY_ONE[1:]}.",
            )
        return natively(program)
    try:
        return bench_bundles(
            bundles, transport, profile=profile, python=python, threads=threads, settings=settings,
            evaluation=evaluation, progress=progress,
        )  # fmt: skip
    except (NoPythonError, NoRuntimeError) as error:
        if engine.name == "interpreter":
            raise
        program = find_benchmark_model(transport, engine.benchmark_model)
        if program is None:
            raise _neither(error, transport.host) from error
        options = _of_the_agent(settings, evaluation is not None)
        if options is not None:
            raise type(error)(
                f"{error.message} {_only_times(options)}.", hint="Leave it out, or put a runtime there: edgecomp setup."
            ) from error
        return natively(program, (f"Timed by benchmark_model instead of the Python agent. {error.message}",))


def _neither(error: BenchmarkError, host: str) -> BenchmarkError:
    """Both ways out, where there is nothing to measure with."""
    first = f"Run `edgecomp setup {host}`"
    if isinstance(error, NoPythonError):
        first = "Install Python 3.7 or newer there, or name one with --python, for `edgecomp setup` to add a runtime"
    return type(error)(f"{error.message} There is no benchmark_model either.", hint=f"{first}; or {_COPY_ONE}.")


def _of_the_agent(settings: BenchSettings, scores: bool) -> str | None:
    """Options that only the Python agent can follow; None for none."""
    asked = {
        "--accuracy": scores,
        "--operators": "profile" in settings.passes,
        "--set-governor": settings.governor is not None,
    }
    return " and ".join(name for name, is_asked in asked.items() if is_asked) or None


def _only_times(options: str) -> str:
    return f"benchmark_model only times a model: {options} {'need' if ' and ' in options else 'needs'} the Python agent"
