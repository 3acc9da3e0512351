"""From a chosen candidate to a bundle: the test score, the golden samples, the manifest, the files."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgecomp.budget import Budget, Violation
from edgecomp.bundle.firmware import model_header
from edgecomp.bundle.manifest import Golden, Manifest, PlanStep, Preprocessing, TensorEntry
from edgecomp.bundle.writer import file_entries, runner_script, write_bundle
from edgecomp.candidates import Shop, Target, decision_kernels, evaluate, judged, tflm_available, with_scores
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, runtime_version
from edgecomp.profile import DeviceProfile
from edgecomp.results import CandidateResult, DeviceResult, Latency
from edgecomp.robustness import measure_robustness

# TFLM's reference kernels take long on large models: above this the test score comes from LiteRT, and says so.
_TFLM_TEST_SECONDS = 180.0

_ARENA_ROOM_BYTES = 512
_COMPILERS = {"ethos-u": "Arm's Vela (pip install ethos-u-vela)", "edgetpu": "Google's edgetpu_compiler"}

_TOOLS = (
    "edgecomp",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "tensorflow",
    "tf-keras",
    "tflite-micro",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class Provenance:
    """Where a bundle comes from.

    Attributes:
        source: Name, kind and sha256 of the model that was given.
        mean, std: Preprocessing of the data.
    """

    source: dict[str, str]
    data_sha256: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    seed: int
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Version of everything that had a hand in the result."""
    found = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # tflite-micro is not there on every platform.
    return found


def describe_limits(budget: Budget) -> dict[str, float | str | None]:
    """Limits by name, null where there is none."""
    return {
        "max_accuracy_drop": str(budget.max_accuracy_drop),
        "max_model_bytes": budget.max_model_bytes,
        "max_ram_bytes": budget.max_ram_bytes,
        "max_latency_ms": budget.max_latency_ms,
    }


def deliver(
    shop: Shop, target: Target, results: list[CandidateResult], provenance: Provenance, out: Path
) -> DeviceResult:
    """Evaluate the chosen candidate on test, once, and write its bundle.

    Raises:
        BundleError: The bundle cannot be written; nothing is left behind.
    """
    index = next(i for i, result in enumerate(results) if result.status == "chosen")
    shop.progress(f"{target.profile.name}: test split, once", 0, 0)
    chosen, kernels, notes = _test(shop, target, results[index])
    robustness, more = measure_robustness(
        shop, target.profile, candidate_path(shop, chosen), kernels, provenance.class_names
    )
    chosen = chosen.model_copy(update={"robustness": robustness})
    notes += more
    results = [*results[:index], chosen, *results[index + 1 :]]
    if (compiler := _COMPILERS.get(target.profile.runtime.name)) is not None:
        notes.append(f"model.tflite runs on the CPU as it is: compile it with {compiler} for the accelerator")
    archive, digest = write_candidate(shop, target, chosen, results, provenance, out)
    return DeviceResult(
        device=target.profile.name,
        status="fits",
        chosen=chosen.name,
        bundle=str(archive),
        bundle_sha256=digest,
        limits=describe_limits(target.budget),
        candidates=tuple(results),
        notes=tuple(notes),
    )


def write_candidate(
    shop: Shop,
    target: Target,
    candidate: CandidateResult,
    results: list[CandidateResult],
    provenance: Provenance,
    out: Path,
) -> tuple[Path, str]:
    """Write the bundle of one candidate; returns the path and the sha256 of its .zip. Raises BundleError."""
    profile = target.profile
    kernels = KernelFamily.TFLM if profile.runs_tflm and tflm_available() else decision_kernels(profile)
    files, golden = _files(shop, profile, candidate_path(shop, candidate), kernels)
    graph = read_graph(files["model.tflite"])
    if profile.runs_tflm:
        # The recording allocator counts a little less than the smallest arena that works: room for it, in whole KiB.
        arena_bytes = ((candidate.arena_bytes or 0) + _ARENA_ROOM_BYTES + 1023) // 1024 * 1024
        title = f"{provenance.source['name']} as {candidate.name} for {profile.name}"
        files["model_data.h"] = model_header(files["model.tflite"], graph, arena_bytes=arena_bytes, title=title)
    manifest = Manifest(
        device=profile.name,
        chosen=candidate.name,
        source=provenance.source | {"data_sha256": provenance.data_sha256},
        files=file_entries(files),
        inputs=tuple(TensorEntry.of(spec) for spec in graph.inputs),
        outputs=tuple(TensorEntry.of(spec) for spec in graph.outputs),
        preprocessing=Preprocessing(mean=provenance.mean, std=provenance.std),
        class_names=provenance.class_names,
        metrics=candidate.model_dump(mode="json", exclude={"status", "reason", "seconds", "latency_ms"}),
        limits=describe_limits(target.budget),
        golden=golden,
        plan=tuple(PlanStep(name=item.name, status=item.status, reason=item.reason) for item in results),
        seed=provenance.seed,
        versions=provenance.versions,
    )
    stem = Path(provenance.source["name"]).stem
    return write_bundle(out, f"{stem}-{profile.name}", manifest, files)


def candidate_path(shop: Shop, candidate: CandidateResult) -> Path:
    """Where the file of a candidate is during the fit."""
    return shop.bench.folder / f"{candidate.sha256}.tflite"


def time_candidate(shop: Shop, target: Target, candidate: CandidateResult, provenance: Provenance) -> CandidateResult:
    """Time a candidate that meets every other limit on the target's host, and hold it against the latency limit.

    A timing from a machine that is not the profile's device, or with wrong outputs, is reported and judges nothing.

    Raises:
        TransportError, BenchmarkError: The host could not be reached or the benchmark could not run.
    """
    if target.measure is None:
        return candidate
    archive, _ = write_candidate(shop, target, candidate, [], provenance, shop.bench.folder / "timed")
    measured = target.measure(archive)
    latency = Latency(
        value=measured.p50_ms,
        low=measured.low_ms,
        high=measured.high_ms,
        mode="measured",
        p90=measured.p90_ms,
        on=measured.on if measured.is_profile_device else f"{measured.on} ({measured.label})",
        is_profile_device=measured.is_profile_device,
        golden_ok=measured.golden.ok,
        num_threads=measured.num_threads,
        runs=measured.runs,
    )
    candidate = candidate.model_copy(update={"latency_ms": latency})
    limit_ms = target.budget.max_latency_ms
    if limit_ms is None or not latency.is_trusted or latency.value <= limit_ms:
        return candidate
    return judged(candidate, [Violation("latency", latency.value, limit_ms, "ms")])


def _test(shop: Shop, target: Target, chosen: CandidateResult) -> tuple[CandidateResult, KernelFamily, list[str]]:
    """The chosen candidate on the test split, in the target's own kernels where that is possible."""
    model = candidate_path(shop, chosen)
    kernels, notes = decision_kernels(target.profile), []
    if target.profile.runs_tflm:
        seconds = _tflm_seconds(shop, model)
        if seconds is None:
            notes.append("tflite-micro is not installed here: test score from LiteRT's kernels, arena estimated")
        elif seconds > _TFLM_TEST_SECONDS:
            notes.append(f"the test split would take {seconds:.0f} s in tflite-micro: scored with LiteRT's kernels")
        else:
            kernels = KernelFamily.TFLM
    comparison = evaluate(shop, model, kernels, "test")
    result = with_scores(chosen, comparison, "test", kernels, shop.metric_is_ratio)
    result = result.model_copy(update={"validation_accuracy": chosen.accuracy})
    limit = target.budget.max_accuracy_drop
    if comparison.drop is not None and comparison.float_score is not None:
        drop = comparison.drop.value / (abs(comparison.float_score.value) or 1.0 if limit.is_relative else 1.0)
        if drop > limit.amount + 1e-9:
            notes.append(
                f"on the test split the drop is {100 * drop:.2f} {'%' if limit.is_relative else 'pp'}, above the "
                f"{limit} limit that it met on validation: the choice stands, the number is reported as it is"
            )
    return result, kernels, notes


def _tflm_seconds(shop: Shop, model: Path) -> float | None:
    """How long the test split would take in tflite-micro, from a few samples; None if it is not installed."""
    if not tflm_available():
        return None
    seconds: float = shop.micro.call("edgecomp.scoring:estimate_seconds", bench=shop.bench, model=model, split="test")
    return seconds


def _files(shop: Shop, profile: DeviceProfile, model: Path, kernels: KernelFamily) -> tuple[dict[str, bytes], Golden]:
    golden_path = shop.bench.folder / f"golden-{profile.name}.npz"
    worker = shop.micro if kernels is KernelFamily.TFLM else shop.quantizing
    samples: int = worker.call(
        "edgecomp.scoring:save_golden", bench=shop.bench, model=model, kernels=kernels, path=golden_path
    )
    runtime, runtime_release = runtime_version(kernels)
    files: dict[str, Any] = {
        "model.tflite": model.read_bytes(),
        "golden.npz": golden_path.read_bytes(),
        "profile.toml": profile.text.encode(),
        "run_model.py": runner_script(),
    }
    golden = Golden(
        kernel_family=kernels,
        runtime=runtime,
        runtime_version=runtime_release,
        architecture=platform.machine(),
        samples=samples,
    )
    return files, golden
