"""Synthetic measurements with a known truth: times of a board, and whole measurements around them."""

from dataclasses import replace

import numpy as np

from edgecomp.agent.reports import DeviceFacts
from edgecomp.bench.measurement import Measurement
from edgecomp.bench.statistics import timing_statistics

TRUE_US = 10_000.0


def board(rng, processes, *, between, slowdown=0.0, samples=50, within=0.01, shared=0.0):
    """Times of a model whose median is TRUE_US * (1 + slowdown), by process.

    Args:
        rng: numpy Generator.
        processes: How many.
        between: Standard deviation of what a process as a whole is off by, relative: 0.005 on a quiet board.
        slowdown: 0.05 is 5 %.
        samples: Of each process.
        within: Relative spread of the body; besides, one inference in 20 is late by a fifth on average. Both have been
            taken off the median again, so that it is the truth.
        shared: What each process is off by besides, by round; one number or an array of `processes`.
    """
    late = np.where(rng.random((processes, samples)) < 0.05, rng.exponential(0.2, (processes, samples)), 0.0)
    noise = rng.lognormal(0.0, within, (processes, samples)) + late
    offsets = np.exp(rng.normal(0.0, between, processes) + shared)
    return (TRUE_US * (1 + slowdown) / tail_median(within) * offsets[:, None] * noise).tolist()


_MEDIANS = {}


def tail_median(within):
    """Median of the noise of `board`, found once with many samples."""
    if within not in _MEDIANS:
        rng, count = np.random.default_rng(0), 2_000_000
        late = np.where(rng.random(count) < 0.05, rng.exponential(0.2, count), 0.0)
        _MEDIANS[within] = float(np.median(rng.lognormal(0.0, within, count) + late))
    return _MEDIANS[within]


FACTS = DeviceFacts(
    machine="aarch64", architecture="aarch64", cpu_part_ids=("0xd08",), cpu_model="Raspberry Pi 4 Model B Rev 1.4",
    cores=4, system="Linux", kernel="6.1.21", python="3.11.2", numpy="1.26.4", runtime="ai-edge-litert",
    runtime_version="2.3.0", kernel_family="LITERT_XNNPACK", tried=(),
)  # fmt: skip


def measurement(processes_us=((10_000.0, 10_100.0, 9_900.0),) * 3, *, facts=None, **changes):
    """A valid measurement of a Raspberry Pi 4, with some fields of your own; `facts` replaces some of the machine's."""
    usual = Measurement(
        device="rpi4", chosen="INT8", bundle="bundles/digits-rpi4.zip", model_sha256="ab" * 32, on="pi@board-1",
        num_threads=1, verdict="valid", reasons=(), mismatches=(), timing=timing_statistics(processes_us),
        init_ms=1.5, first_ms=12.0, processes_us=tuple(map(tuple, processes_us)), golden=None, delegate=None,
        memory=None, profile=None, score=None, facts=FACTS.model_copy(update=facts or {}), steady=None, conditions=(),
        notes=(), when="2025-05-01T12:00:00+00:00",
    )  # fmt: skip
    return replace(usual, **changes)
