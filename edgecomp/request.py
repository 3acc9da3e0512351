"""From the options of a command to the call behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecomp import demo
from edgecomp.bench import Measurement, bench_bundle
from edgecomp.budget import Budget
from edgecomp.candidates import Target
from edgecomp.errors import UsageError
from edgecomp.profile import DeviceProfile, Precision, load_profile
from edgecomp.transports import connect

if TYPE_CHECKING:
    from edgecomp.compression import CompressionResult
    from edgecomp.executors.local import Progress
    from edgecomp.results import FitResult


def run_fit(options: dict[str, Any], progress: Progress) -> FitResult:
    """`edgecomp fit`: check every option before any work, then fit, then time the bundles on their hosts.

    Raises:
        UsageError: Options that contradict each other.
        EdgecompError: See `pipeline.fit`.
    """
    profiles = _profiles(options["devices"])
    hosts = _hosts(options["hosts"], profiles)
    if options["max_latency"] is not None and not hosts:
        raise UsageError(
            "--max-latency is judged by measuring on the device and needs --host.",
            hint="Add --host user@host, or leave the limit out.",
        )
    from edgecomp.data import DataOptions, parse_image_size
    from edgecomp.pipeline import FitRequest, fit

    for host in sorted(set(hosts.values())):
        # A wrong key or an unknown host is better known before the work than after it.
        progress(f"connecting to {host}", 0, 0)
        connect(host).close()
    is_demo = options["model"] is None
    if is_demo and options["data"] is None:
        progress(demo.NOTE, 0, 0)
    if is_demo != (options["data"] is None):
        missing = "MODEL" if is_demo else "--data"
        raise UsageError(
            f"{missing} is missing: a model and its data go together.", hint="Give both, or neither for the demo."
        )
    mean, std = options["mean"], options["std"]
    if is_demo:
        mean, std = mean or demo.MEAN, std or demo.STD
    request = FitRequest(
        model=demo.model_path() if is_demo else options["model"],
        data=DataOptions(
            source=str(demo.data_path()) if is_demo else options["data"],
            mean=mean,
            std=std,
            calibration_samples=options["calibration_samples"],
            group_key=options["group_key"],
            image_size=None if options["image_size"] is None else parse_image_size(options["image_size"]),
            seed=options["seed"],
        ),
        targets=tuple(_target(profile, options, hosts.get(profile.name), progress) for profile in profiles),
        out=options["out"],
        metric=options["metric"],
        precisions=tuple(Precision(name) for name in options["precisions"]),
        confident=options["confident"],
        trust_code=options["trust_model_code"],
        custom_objects=options["custom_objects"],
        seed=options["seed"],
    )
    result = fit(request, progress=progress)
    return result.model_copy(update={"notes": (demo.NOTE, *result.notes)}) if is_demo else result


def _profiles(names: tuple[str, ...]) -> list[DeviceProfile]:
    profiles = [load_profile(name) for name in names]
    seen: set[str] = set()
    for profile in profiles:
        if profile.name in seen:
            raise UsageError(f"--device {profile.name} is given twice.")
        seen.add(profile.name)
    return profiles


def _hosts(texts: tuple[str, ...], profiles: list[DeviceProfile]) -> dict[str, str]:
    """[DEVICE=]TARGET -> target by device. Without DEVICE it is for every device that can be reached by SSH."""
    names = {profile.name for profile in profiles}
    reachable = [profile.name for profile in profiles if profile.kind != "mcu"]
    hosts: dict[str, str] = {}
    for text in texts:
        device, separator, target = text.partition("=")
        if separator and device not in names:
            raise UsageError(f"--host {text}: {device!r} is not among --device {', '.join(sorted(names))}.")
        for name in [device] if separator else reachable:
            if name in hosts:
                raise UsageError(f"--host names {name} twice: {hosts[name]} and {target or text}.")
            hosts[name] = target if separator else text
    if texts and not hosts:
        raise UsageError(
            f"--host is of no use for {', '.join(sorted(names))}: a microcontroller cannot be reached by SSH.",
            hint="Add a --device that can, or leave --host out.",
        )
    return hosts


def _target(profile: DeviceProfile, options: dict[str, Any], host: str | None, progress: Progress) -> Target:
    budget = Budget.for_device(
        profile,
        max_accuracy_drop=options["max_accuracy_drop"],
        max_model_bytes=options["max_model_size"],
        max_ram_bytes=options["max_ram"],
        max_latency_ms=options["max_latency"],
    )
    io = options["io"] or profile.precisions.io
    if host is None:
        return Target(profile, budget, io)

    def measure(bundle: Path) -> Measurement:
        with connect(host) as transport:
            return bench_bundle(
                bundle,
                transport,
                profile=profile,
                python=options["python"],
                num_threads=options["threads"],
                progress=progress,
            )

    return Target(profile, budget, io, measure)


def run_compress(options: dict[str, Any], progress: Progress) -> CompressionResult:
    """`edgecomp compress`: check every option, then apply the recipe.

    Raises:
        UsageError: Options that contradict each other or are out of range.
        EdgecompError: See `compression.compress`.
    """
    from edgecomp.compression import CompressionRequest, compress
    from edgecomp.data import DataOptions, parse_image_size
    from edgecomp.data.sources import open_source
    from edgecomp.recipe import make_recipe
    from edgecomp.technique_options import technique_options
    from edgecomp.training.settings import TrainingSettings

    strengths = {str(item.name): options[str(item.name)] for item in technique_options()}
    recipe = make_recipe(
        options["techniques"], {name: value for name, value in strengths.items() if value not in (None, ())}
    )
    settings = TrainingSettings(
        **{
            name: options[name]
            for name in (
                "epochs", "batch_size", "learning_rate", "patience", "seed", "augment", "loss", "distill_weight",
                "temperature", "feature_layers", "feature_loss", "freeze_batch_norm",
            )
        }
    )  # fmt: skip
    shared = {
        "mean": options["mean"],
        "std": options["std"],
        "image_size": None if options["image_size"] is None else parse_image_size(options["image_size"]),
        "seed": options["seed"],
    }
    unlabelled = None if options["unlabelled"] is None else DataOptions(source=options["unlabelled"], **shared)
    if unlabelled is not None:
        open_source(unlabelled)  # Better known before the work than in the middle of it.
    request = CompressionRequest(
        model=options["model"],
        data=DataOptions(
            source=options["data"],
            calibration_samples=options["calibration_samples"],
            group_key=options["group_key"],
            **shared,
        ),
        recipe=recipe,
        settings=settings,
        out=options["out"],
        profile=None if options["device"] is None else load_profile(options["device"]),
        metric=options["metric"],
        preview=options["preview"],
        unlabelled=unlabelled,
        splits=("validation", "test") if options["on_test"] else ("validation",),
        trust_code=options["trust_model_code"],
        custom_objects=options["custom_objects"],
        seed=options["seed"],
    )
    return compress(request, progress=progress)


def run_bench(options: dict[str, Any], progress: Progress) -> Measurement:
    """`edgecomp bench`.

    Raises:
        BundleError, TransportError, BenchmarkError: One sentence each.
    """
    with connect(options["host"], identity=options["identity"]) as transport:
        return bench_bundle(
            options["bundle"],
            transport,
            python=options["python"],
            num_threads=options["threads"],
            num_runs=options["runs"],
            min_seconds=options["min_seconds"],
            max_seconds=options["max_seconds"],
            progress=progress,
        )
