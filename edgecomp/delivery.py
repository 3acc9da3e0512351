"""From a chosen candidate to a bundle: the test score, the golden samples, the manifest, the files."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgecomp.budget import Budget, Values
from edgecomp.bundle.firmware import model_header
from edgecomp.bundle.manifest import Golden, Manifest, PlanStep, Preprocessing, TensorEntry
from edgecomp.bundle.writer import UNPACKED_NAME, bundle_name, file_entries, runner_script, write_bundle
from edgecomp.candidates import Shop, Target, decision_kernels, evaluate, judged, tflm_available, with_scores
from edgecomp.graph import read_graph
from edgecomp.inference import KernelFamily, runtime_version
from edgecomp.judging import energy_of, values_of
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
        fit: Options of the fit that a refit repeats.
    """

    source: dict[str, str]
    data_sha256: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    seed: int
    versions: dict[str, str]
    fit: dict[str, Any]


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
        "max_accuracy_drop": None if budget.max_accuracy_drop is None else str(budget.max_accuracy_drop),
        "min_accuracy": budget.min_accuracy,
        "max_flips": budget.max_flips,
        "max_model_bytes": budget.max_model_bytes,
        "max_ram_bytes": budget.max_ram_bytes,
        "max_latency_ms": budget.max_latency_ms,
        "max_energy_mj": budget.max_energy_mj,
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
    unpacked = unpacked_path(shop, chosen)
    model = candidate_path(shop, chosen) if kernels is KernelFamily.TFLM else unpacked
    robustness, more = measure_robustness(shop, target.profile, model, kernels, provenance.class_names, unpacked)
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
    graph, unpacked = read_graph(files["model.tflite"]), unpacked_path(shop, candidate).read_bytes()
    if candidate.packing is not None:
        files[UNPACKED_NAME] = unpacked
    if profile.runs_tflm:
        # The recording allocator counts a little less than the smallest arena that works: room for it, in whole KiB.
        arena_bytes = ((candidate.arena_bytes or 0) + _ARENA_ROOM_BYTES + 1023) // 1024 * 1024
        title = f"{provenance.source['name']} as {candidate.name} for {profile.name}"
        files["model_data.h"] = model_header(files["model.tflite"], graph, arena_bytes=arena_bytes, title=title)
    names = read_graph(unpacked)  # A packed file has no names.
    manifest = Manifest(
        device=profile.name,
        chosen=candidate.name,
        source=provenance.source | {"data_sha256": provenance.data_sha256},
        files=file_entries(files),
        inputs=tuple(TensorEntry.of(spec) for spec in names.inputs),
        outputs=tuple(TensorEntry.of(spec) for spec in names.outputs),
        preprocessing=Preprocessing(mean=provenance.mean, std=provenance.std),
        class_names=provenance.class_names,
        metrics=candidate.model_dump(
            mode="json",
            exclude={
                "status": True,
                "reason": True,
                "seconds": True,
                "latency_ms": True,
                "energy_mj": True,
                "recipe": {"train_seconds"},
            },
        ),
        limits=describe_limits(target.budget),
        fit=provenance.fit,
        golden=golden,
        plan=tuple(PlanStep(name=item.name, status=item.status, reason=item.reason) for item in results),
        seed=provenance.seed,
        versions=provenance.versions,
    )
    return write_bundle(out, bundle_name(provenance.source["name"], profile.name), manifest, files)


def candidate_path(shop: Shop, candidate: CandidateResult) -> Path:
    """Where the file of a candidate is during the fit."""
    return shop.bench.folder / f"{candidate.sha256}.tflite"


def unpacked_path(shop: Shop, candidate: CandidateResult) -> Path:
    """Where the file is that LiteRT runs: the candidate's own, or what a packed one was made from."""
    digest = candidate.sha256 if candidate.packing is None else candidate.packing.unpacked_sha256
    return shop.bench.folder / f"{digest}.tflite"


def candidate_files(shop: Shop, candidate: CandidateResult) -> list[Path]:
    """The files that a candidate cannot do without; none if it could not be made."""
    if candidate.sha256 is None:
        return []
    return list(dict.fromkeys((candidate_path(shop, candidate), unpacked_path(shop, candidate))))


def time_candidate(shop: Shop, target: Target, candidate: CandidateResult, provenance: Provenance) -> CandidateResult:
    """Time a candidate that meets the other limits on the target's host; hold it against those of latency and energy.

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
        p90=measured.timing.p90_ms,
        on=measured.on if measured.is_profile_device else f"{measured.on} ({measured.label})",
        is_profile_device=measured.is_profile_device,
        golden_ok=measured.golden is not None and measured.golden.ok,
        verdict=measured.verdict,
        reasons=measured.reasons,
        num_threads=measured.num_threads,
        runs=measured.runs,
    )
    candidate = candidate.model_copy(update={"latency_ms": latency})
    if not latency.is_trusted:
        return candidate
    energy = energy_of(latency, target.profile)
    energy_mj = None if energy is None else energy.value
    values = Values(latency_ms=latency.value, energy_mj=energy_mj, estimated=frozenset({"energy"}))
    candidate, broken = candidate.model_copy(update={"energy_mj": energy}), target.budget.violations(values)
    return judged(candidate, broken) if broken else candidate


def _test(shop: Shop, target: Target, chosen: CandidateResult) -> tuple[CandidateResult, KernelFamily, list[str]]:
    """The chosen candidate on the test split, in the target's own kernels where that is possible."""
    model = unpacked_path(shop, chosen)
    kernels, notes = decision_kernels(target.profile), []
    if chosen.packing_note is not None:
        notes.append(f"packing {chosen.name} for TFLM: {chosen.packing_note}")
    if target.profile.runs_tflm:
        seconds = _tflm_seconds(shop, candidate_path(shop, chosen))
        if seconds is None:
            notes.append("tflite-micro is not installed here: test score from LiteRT's kernels, arena estimated")
        elif seconds > _TFLM_TEST_SECONDS:
            which = "" if chosen.packing is None else ", which run the unpacked file"
            notes.append(
                f"the test split would take {seconds:.0f} s in tflite-micro: scored with LiteRT's kernels{which}"
            )
        else:
            kernels, model = KernelFamily.TFLM, candidate_path(shop, chosen)
    comparison = evaluate(shop, model, kernels, "test")
    result = with_scores(chosen, comparison, "test", kernels, shop.metric_is_ratio)
    result = result.model_copy(update={"validation_accuracy": chosen.accuracy})
    float_score = None if comparison.float_score is None else comparison.float_score.value
    values = values_of(result, float_score, confident=False, higher_is_better=target.budget.higher_is_better)
    for item in replace(target.budget, flattery=0.0).violations(values):
        if not item.is_resource:
            notes.append(
                f"on the test split: {item}; validation met this limit, so the choice stands, and the number is "
                "reported as it is"
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
