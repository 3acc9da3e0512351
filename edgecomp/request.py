"""From the options of a command to the call behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    from edgecomp.data import DataOptions
    from edgecomp.executors.local import Progress
    from edgecomp.matrix_result import MatrixResult
    from edgecomp.refit import RefitResult
    from edgecomp.results import FitResult
    from edgecomp.training.settings import TrainingSettings


def run_fit(options: dict[str, Any], progress: Progress, *, typed: Collection[str] = ()) -> FitResult | MatrixResult:
    """`edgecomp fit`: check every option before any work, then fit, then time the bundles on their hosts.

    Several models give a matrix.

    Args:
        options: Of the command, by name, with defaults.
        progress: Told what takes time.
        typed: Those that the user gave; edgecomp.toml says nothing against them.

    Raises:
        UsageError: Options that contradict each other.
        EdgecompError: See `pipeline.fit` and `matrix.fit_matrix`.
    """
    options, of_devices = with_settings(options, typed)
    profiles = _profiles(options["devices"])
    given = {profile.name: of_devices[name] for name, profile in zip(options["devices"], profiles, strict=True)}
    of_file = {name: of["host"] for name, of in given.items() if "host" in of}
    hosts = {} if options.get("plan_only") else _hosts(options["hosts"], profiles, of_file)
    from edgecomp.data import DataOptions, parse_image_size
    from edgecomp.matrix import fit_matrix
    from edgecomp.pipeline import FitRequest, fit

    for host in sorted(set(hosts.values())):
        # A wrong key or an unknown host is better known before the work than after it.
        progress(f"connecting to {host}", 0, 0)
        connect(host).close()
    models = options["models"]
    is_demo = not models
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
        model=demo.model_path() if is_demo else models[0],
        data=DataOptions(
            source=str(demo.data_path()) if is_demo else options["data"],
            mean=mean,
            std=std,
            calibration_samples=options["calibration_samples"],
            group_key=options["group_key"],
            image_size=None if options["image_size"] is None else parse_image_size(options["image_size"]),
            seed=options["seed"],
        ),
        targets=tuple(
            target_of(profile, options | given[profile.name], hosts.get(profile.name), progress) for profile in profiles
        ),
        out=options["out"],
        metric=options["metric"],
        precisions=tuple(Precision(name) for name in options["precisions"]),
        confident=options["confident"],
        trust_code=options["trust_model_code"],
        custom_objects=options["custom_objects"],
        seed=options["seed"],
        minimize=options["minimize"],
        effort=options["effort"],
        time_limit_s=options["time_limit"],
        settings=training_settings(options),
        unlabelled=_unlabelled(options, mean, std),
        store=options["store_folder"],
        resume=options["resume"],
        jobs=options["jobs"],
        plan_only=options.get("plan_only", False),
    )
    if len(models) > 1:
        return fit_matrix(models, request, progress=progress)
    result = fit(request, progress=progress)
    return result.model_copy(update={"notes": (demo.NOTE, *result.notes)}) if is_demo else result


def run_refit(options: dict[str, Any], progress: Progress, *, typed: Collection[str] = ()) -> RefitResult:
    """`edgecomp refit`. Raises EdgecompError: see `refit.refit`."""
    from edgecomp.data import DataOptions, parse_image_size
    from edgecomp.refit import RefitRequest, refit

    request = RefitRequest(
        bundle=options["bundle"],
        model=options["model"],
        data=DataOptions(
            source=options["data"],
            mean=options["mean"],
            std=options["std"],
            calibration_samples=options["calibration_samples"],
            group_key=options["group_key"],
            image_size=None if options["image_size"] is None else parse_image_size(options["image_size"]),
            seed=options["seed"],
        ),
        out=options["out"],
        effort=options["effort"],
        time_limit_s=options["time_limit"],
        metric=options["metric"] if "metric" in typed else None,
        unlabelled=_unlabelled(options, options["mean"], options["std"]),
        trust_code=options["trust_model_code"],
        custom_objects=options["custom_objects"],
        store=options["store_folder"],
        resume=options["resume"],
        jobs=options["jobs"],
    )
    return refit(request, progress=progress)


def training_settings(options: Mapping[str, Any]) -> TrainingSettings:
    """How to fine-tune, from the options of `training_options`. Raises UsageError."""
    from dataclasses import fields

    from edgecomp.training.settings import TrainingSettings

    return TrainingSettings(**{item.name: options[item.name] for item in fields(TrainingSettings)})


def _unlabelled(options: Mapping[str, Any], mean: Any, std: Any) -> DataOptions | None:
    """More inputs for the teacher; better known to be there before the work than in the middle of it."""
    from edgecomp.data import DataOptions, parse_image_size
    from edgecomp.data.sources import open_source

    if options["unlabelled"] is None:
        return None
    size = None if options["image_size"] is None else parse_image_size(options["image_size"])
    found = DataOptions(source=options["unlabelled"], mean=mean, std=std, image_size=size, seed=options["seed"])
    open_source(found)
    return found


def with_settings(options: dict[str, Any], typed: Collection[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Options of a command together with those of edgecomp.toml, and what it says of each of `options["devices"]`.

    Args:
        options: Of the command, by name: "models", "config", "devices" and what else it has.
        typed: Those that the user gave.

    Raises:
        UsageError: The file is wrong, or there is no device.
    """
    from edgecomp.settings_file import find_settings, merge, of_device

    merged = merge(options, typed, find_settings(options["models"], options["config"]))
    if not merged.options["devices"]:
        raise UsageError(
            "Missing option '--device'.", hint="`edgecomp devices list` shows them; edgecomp.toml may name them, too."
        )
    return merged.options, {name: of_device(merged.devices, name) for name in merged.options["devices"]}


def _profiles(names: tuple[str, ...]) -> list[DeviceProfile]:
    profiles = [load_profile(name) for name in names]
    seen: set[str] = set()
    for profile in profiles:
        if profile.name in seen:
            raise UsageError(f"--device {profile.name} is given twice.")
        seen.add(profile.name)
    return profiles


def _hosts(texts: tuple[str, ...], profiles: list[DeviceProfile], of_file: Mapping[str, str]) -> dict[str, str]:
    """[DEVICE=]TARGET -> target by device. Without DEVICE it is for every device that can be reached by SSH.

    Where no text names a device, edgecomp.toml may.
    """
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
    unreachable = sorted(set(of_file) - set(reachable))
    if unreachable:
        raise UsageError(
            f"devices.{unreachable[0]}.host is of no use: a microcontroller cannot be reached by SSH.",
            hint="Leave it out of edgecomp.toml.",
        )
    return {**of_file, **hosts}


def budget_of(profile: DeviceProfile, options: Mapping[str, Any]) -> Budget:
    """The limits of a device from the options of `limit_options`."""
    return Budget.for_device(
        profile,
        max_accuracy_drop=options["max_accuracy_drop"],
        min_accuracy=options["min_accuracy"],
        max_flips=options["max_flips"],
        max_model_bytes=options["max_model_size"],
        max_ram_bytes=options["max_ram"],
        max_latency_ms=options["max_latency"],
        max_energy_mj=options["max_energy"],
    )


def target_of(profile: DeviceProfile, options: Mapping[str, Any], host: str | None, progress: Progress) -> Target:
    """A device with its limits, and what times a bundle on its host if there is one."""
    budget, io, num_threads = budget_of(profile, options), options["io"] or profile.precisions.io, options["threads"]
    if host is None:
        return Target(profile, budget, io, num_threads=num_threads)

    def measure(bundle: Path) -> Measurement:
        with connect(host) as transport:
            return bench_bundle(
                bundle,
                transport,
                profile=profile,
                python=options["python"],
                num_threads=num_threads,
                progress=progress,
            )

    return Target(profile, budget, io, measure, num_threads)


def run_compress(options: dict[str, Any], progress: Progress) -> CompressionResult:
    """`edgecomp compress`: check every option, then apply the recipe.

    Raises:
        UsageError: Options that contradict each other or are out of range.
        EdgecompError: See `compression.compress`.
    """
    from edgecomp.compression import CompressionRequest, compress
    from edgecomp.data import DataOptions, parse_image_size
    from edgecomp.recipe import make_recipe
    from edgecomp.technique_options import technique_options

    strengths = {str(item.name): options[str(item.name)] for item in technique_options()}
    recipe = make_recipe(
        options["techniques"], {name: value for name, value in strengths.items() if value not in (None, ())}
    )
    settings = training_settings(options)
    shared = {
        "mean": options["mean"],
        "std": options["std"],
        "image_size": None if options["image_size"] is None else parse_image_size(options["image_size"]),
        "seed": options["seed"],
    }
    unlabelled = _unlabelled(options, options["mean"], options["std"])
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
