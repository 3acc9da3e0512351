"""Everything that can be said of a model and a device before anything is made or measured."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecomp.budget import Budget, Violation
from edgecomp.check import Finding, check_operators
from edgecomp.cost import LatencyEstimate, energy_mj, predict
from edgecomp.errors import ModelError
from edgecomp.flash import FlashReport, flash_report
from edgecomp.graph import Graph, operator_macs, read_graph
from edgecomp.memory import (
    ARENA_MARGIN_RATIO,
    LINUX_MARGIN_RATIO,
    LITERT,
    TFLM,
    estimate_arena,
    estimate_linux_memory,
    plan_memory,
)
from edgecomp.profile import DeviceProfile, load_profile

if TYPE_CHECKING:
    from edgecomp.executors.local import Progress


@dataclass(frozen=True)
class RamReport:
    """RAM that a model needs on a device, estimated, in bytes.

    Attributes:
        needed_bytes: What is held against the limit: TFLM's arena, or what the model adds to a process.
        parts: By name: "head" and "tail" of an arena; "arena", "file" and "packed weights" in a process.
        margin_ratio: How far the estimate may be off.
        peak_rss_bytes: Of a whole Python process on Linux; None for a microcontroller.
        peak_layer: The layer at which most activations are alive.
    """

    needed_bytes: int
    limit_bytes: int | None
    parts: dict[str, int]
    margin_ratio: float
    peak_rss_bytes: int | None
    peak_layer: str
    mode: Literal["estimated"] = "estimated"


@dataclass(frozen=True)
class LayerRow:
    """One operator.

    Attributes:
        live_bytes: Activations alive while it runs.
        latency_ms: Estimated; None without an estimate.
    """

    layer: str
    operator: str
    dtype: str
    output_shape: tuple[int, ...]
    macs: int
    weight_bytes: int
    live_bytes: int
    latency_ms: float | None


@dataclass(frozen=True)
class PreflightReport:
    """One model on one device.

    Attributes:
        status: "fits"; "no_fit" if it runs but breaks a limit; "cannot_run" if an operator is in the way.
        latency: Estimated, with its 90 % interval; None with `latency_unknown` saying why.
        energy_mj: Millijoules of one inference from the profile's active power, estimated; None without one.
    """

    device: str
    status: Literal["fits", "no_fit", "cannot_run"]
    findings: tuple[Finding, ...]
    breaks: tuple[Violation, ...]
    flash: FlashReport
    flash_limit_bytes: int | None
    ram: RamReport
    macs: int
    latency: LatencyEstimate | None
    latency_unknown: str | None
    energy_mj: float | None
    layers: tuple[LayerRow, ...]

    def to_json(self, *, layers: bool) -> dict[str, Any]:
        """Plain values for `json.dumps`; the table of layers only if wanted."""
        plain = asdict(self)
        if not layers:
            plain.pop("layers")
        if plain["latency"] is not None:
            plain["latency"].pop("per_operator", None)
            plain["latency"]["mode"] = "estimated"
        plain["breaks"] = [
            item | {"text": str(broken)} for item, broken in zip(plain["breaks"], self.breaks, strict=True)
        ]
        return plain


def preflight(data: bytes, graph: Graph, profile: DeviceProfile, budget: Budget) -> PreflightReport:
    """Check operators, flash and RAM of a .tflite on a device, and estimate its latency.

    Args:
        data: The file.
        graph: What `read_graph` made of it.
        profile: The device.
        budget: Limits; the accuracy limit is not looked at.
    """
    findings = tuple(check_operators(graph, profile, data=data))
    flash = flash_report(data, graph, runs_tflm=profile.runs_tflm)
    ram = _ram(graph, profile, budget)
    latency, unknown = predict(graph, profile)
    broken = budget.size_violations(model_bytes=flash.on_target_bytes, ram_bytes=ram.needed_bytes)
    if latency is not None and budget.max_latency_ms is not None and latency.low_ms > budget.max_latency_ms:
        # Even the lower end of the interval is too slow; a measurement decides what lies between.
        broken.append(Violation("latency", latency.value_ms, budget.max_latency_ms, "ms"))
    stopped = any(finding.severity == "error" for finding in findings)
    return PreflightReport(
        device=profile.name,
        status="cannot_run" if stopped else "no_fit" if broken else "fits",
        findings=findings,
        breaks=tuple(broken),
        flash=flash,
        flash_limit_bytes=budget.max_model_bytes,
        ram=ram,
        macs=graph.macs,
        latency=latency,
        latency_unknown=unknown,
        energy_mj=None if latency is None else energy_mj(latency, profile),
        layers=_layers(graph, profile, latency),
    )


def _ram(graph: Graph, profile: DeviceProfile, budget: Budget) -> RamReport:
    if profile.runs_tflm:
        arena = estimate_arena(graph)
        parts = {"head": arena.head_bytes, "tail": arena.tail_bytes}
        return RamReport(arena.total_bytes, budget.max_ram_bytes, parts, ARENA_MARGIN_RATIO, None, arena.peak_layer)
    memory = estimate_linux_memory(graph)
    parts = {"arena": memory.arena_bytes, "file": memory.file_bytes, "packed weights": memory.packed_bytes}
    peak = plan_memory(graph, LITERT).peak_layer
    return RamReport(memory.model_bytes, budget.max_ram_bytes, parts, LINUX_MARGIN_RATIO, memory.peak_rss_bytes, peak)


def _layers(graph: Graph, profile: DeviceProfile, latency: LatencyEstimate | None) -> tuple[LayerRow, ...]:
    subgraph = graph.main
    live = plan_memory(graph, TFLM if profile.runs_tflm else LITERT).live_bytes
    times = [None] * len(subgraph.operators) if latency is None else [item[2] for item in latency.per_operator]
    rows = []
    for step, operator in enumerate(subgraph.operators):
        result = subgraph.output(operator)
        constants = [subgraph.tensors[index] for index in operator.inputs if index >= 0]
        rows.append(
            LayerRow(
                layer=subgraph.layer(operator),
                operator=operator.code,
                dtype="" if result is None else result.type,
                output_shape=() if result is None else result.shape,
                macs=operator_macs(subgraph, operator),
                weight_bytes=sum(tensor.data_bytes for tensor in constants),
                live_bytes=live[step],
                latency_ms=times[step] if step < len(times) else None,
            )
        )
    return tuple(rows)


@dataclass(frozen=True)
class CheckResult:
    """One model on several devices."""

    model: str
    notes: tuple[str, ...]
    reports: tuple[PreflightReport, ...]

    @property
    def status(self) -> Literal["fits", "no_fit"]:
        """Whether the model fits every device."""
        return "fits" if all(report.status == "fits" for report in self.reports) else "no_fit"

    def to_json(self, *, layers: bool) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {
            "schema": "edgecomp.check/1",
            "status": self.status,
            "model": self.model,
            "notes": list(self.notes),
            "devices": [report.to_json(layers=layers) for report in self.reports],
        }


def check_model(
    model: Path,
    devices: Sequence[str],
    *,
    trust_code: bool,
    progress: Progress,
    custom_objects: str | None = None,
    max_model_size: int | None = None,
    max_ram: int | None = None,
    max_latency: float | None = None,
) -> CheckResult:
    """`edgecomp check`: read or convert a model once, then look at it for every device.

    Args:
        model: A .tflite, or anything that converts to one.
        devices: Names or paths of profiles.
        trust_code: Accept code in the model file.
        progress: Told what takes time.
        custom_objects: "module" or "module:function" with the classes that the file needs beside Keras's own.
        max_model_size: In bytes; the device's own limit holds in any case, as for `max_ram`.
        max_ram: In bytes.
        max_latency: In milliseconds.

    Raises:
        ProfileError, ModelError: One sentence each.
    """
    profiles = [load_profile(name) for name in devices]
    data, notes = read_model(model, trust_code=trust_code, progress=progress, custom_objects=custom_objects)
    graph = read_graph(data, str(model))
    budgets = [
        Budget.for_device(profile, max_model_bytes=max_model_size, max_ram_bytes=max_ram, max_latency_ms=max_latency)
        for profile in profiles
    ]
    reports = [preflight(data, graph, *pair) for pair in zip(profiles, budgets, strict=True)]
    return CheckResult(str(model), tuple(notes), tuple(reports))


def read_model(
    path: Path, *, trust_code: bool, progress: Progress, custom_objects: str | None = None
) -> tuple[bytes, list[str]]:
    """The .tflite of a model, and notes about it: the file itself, or what a Keras model converts to.

    Raises:
        ModelError: The model cannot be read or converted.
    """
    if path.suffix == ".tflite":
        try:
            return path.read_bytes(), []
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}.") from error
    from edgecomp.convert import ENVIRONMENT
    from edgecomp.executors.local import Worker
    from edgecomp.model import CUSTOM_OBJECTS, identify

    identify(path, trust_code=trust_code, custom_objects=custom_objects)
    custom = {} if custom_objects is None else {CUSTOM_OBJECTS: custom_objects}
    progress("converting to a float .tflite", 0, 0)
    with tempfile.TemporaryDirectory(prefix="edgecomp-") as folder:
        out, log = Path(folder) / "float.tflite", Path(folder) / "tensorflow.log"
        with Worker("TensorFlow", log, environment=ENVIRONMENT | custom | {"TMPDIR": folder}) as worker:
            info = worker.call(
                "edgecomp.convert:convert_to_float_tflite",
                path=str(path.resolve()),
                trust_code=trust_code,
                out_path=str(out),
                # What a device cannot take is a finding here, not an error.
                allow_select_tf=True,
                allow_resource_variables=True,
            )
        data = out.read_bytes()
    graph = read_graph(data)
    note = f"This is the float model; as INT8 its weights take about {graph.weight_bytes // 4:,} bytes: `edgecomp fit`."
    return data, [*info.notes, note]
