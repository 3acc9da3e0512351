"""Timing on a device: several fresh processes, under watch, with a verdict on whether the figures can be trusted."""

from __future__ import annotations

from edgecomp.agent.reports import DelegateCoverage, DeviceFacts, GoldenCheck
from edgecomp.bench.measurement import BenchReport, FailedMeasurement, Measurement
from edgecomp.bench.runner import ALL_BIG_CORES, bench_bundle, bench_bundles, read_benchmark_files
from edgecomp.bench.session import ModelTiming, time_models
from edgecomp.bench.settings import BenchSettings
from edgecomp.bench.statistics import median_interval_ms, percentile_ms
from edgecomp.bench.verdict import Verdict, profile_mismatches

__all__ = [
    "ALL_BIG_CORES",
    "BenchReport",
    "BenchSettings",
    "DelegateCoverage",
    "DeviceFacts",
    "FailedMeasurement",
    "GoldenCheck",
    "Measurement",
    "ModelTiming",
    "Verdict",
    "bench_bundle",
    "bench_bundles",
    "median_interval_ms",
    "percentile_ms",
    "profile_mismatches",
    "read_benchmark_files",
    "time_models",
]
