"""Arm's Vela as a command: run it on a file, read what it says. It is an optional extra, never imported here."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgecomp.errors import RuntimeRefusedError

if TYPE_CHECKING:
    from edgecomp.profile import DeviceProfile

_PACKAGE = "ethos-u-vela"
_LONGEST_S = 600  # Large models take minutes; on some files Vela never ends.
_KIB = 1024

# Vela's own defaults by family, named: it warns where they are left to it.
_DEFAULTS = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "ethos-u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
_DEFAULT_ACCELERATOR = "ethos-u55-128"


@dataclass(frozen=True)
class NpuConfig:
    """What Vela compiles for: its own names."""

    accelerator_config: str
    system_config: str
    memory_mode: str

    @property
    def family(self) -> str:
        """The accelerator without its number of multipliers: "ethos-u55"."""
        return self.accelerator_config.rpartition("-")[0]


@dataclass(frozen=True)
class EthosUReport:
    """What Vela estimates: a model of the NPU, not a measurement.

    Attributes:
        inference_ms: Of what runs on the NPU; operators left to the CPU add theirs.
        sram_bytes, dram_bytes, on_chip_flash_bytes, off_chip_flash_bytes: Memory that the NPU's part uses.
        npu_operators, cpu_operators: After Vela's own rewriting of the graph, hence not those of the file.
        estimated_by: Who says so, for a table.
    """

    config: NpuConfig
    cycles: int
    clock_hz: int
    inference_ms: float
    macs: int
    sram_bytes: int
    dram_bytes: int
    on_chip_flash_bytes: int
    off_chip_flash_bytes: int
    npu_operators: int
    cpu_operators: int
    estimated_by: str

    @property
    def flash_bytes(self) -> int:
        """Flash in all."""
        return self.on_chip_flash_bytes + self.off_chip_flash_bytes


@dataclass(frozen=True)
class VelaRun:
    """One run.

    Attributes:
        data: The compiled .tflite, with the NPU's part as custom operator "ethos-u".
        left: Operators left to the CPU: (operator, name of its output, reason).
    """

    data: bytes
    report: EthosUReport
    left: tuple[tuple[str, str, str], ...]


def npu_config(profile: DeviceProfile) -> NpuConfig:
    """The NPU of a profile; what it leaves open is Vela's own default for that family."""
    npu = profile.npu
    accelerator = (npu.accelerator_config if npu is not None else None) or _DEFAULT_ACCELERATOR
    system, memory = _DEFAULTS.get(accelerator.rpartition("-")[0], _DEFAULTS["ethos-u55"])
    stated = (None, None) if npu is None else (npu.system_config, npu.memory_mode)
    return NpuConfig(accelerator, stated[0] or system, stated[1] or memory)


def vela_version() -> str | None:
    """The version that is installed, or None."""
    if find_spec("ethosu") is None:
        return None
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:
        return None


def run_vela(data: bytes, config: NpuConfig) -> VelaRun:
    """Compile a file for an NPU.

    Raises:
        RuntimeRefusedError: Vela is not installed, stops, dies or does not end.
    """
    installed = vela_version()
    if installed is None:
        raise RuntimeRefusedError("Vela is not installed.", hint=f"pip install {_PACKAGE}")
    with tempfile.TemporaryDirectory(prefix="edgecomp-vela-") as name:
        folder = Path(name)
        model, out = folder / "model.tflite", folder / "out"
        model.write_bytes(data)
        command = [
            *(sys.executable, "-m", "ethosu.vela", str(model), "--output-dir", str(out)),
            *("--accelerator-config", config.accelerator_config),
            *("--system-config", config.system_config),
            *("--memory-mode", config.memory_mode),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_LONGEST_S, check=False, cwd=folder
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeRefusedError(f"Vela did not end within {_LONGEST_S} s.") from error
        text = done.stdout + done.stderr
        compiled = out / "model_vela.tflite"
        summary = next(out.glob("model_summary_*.csv"), None) if out.is_dir() else None
        if done.returncode != 0 or summary is None or not compiled.is_file():
            raise RuntimeRefusedError(f"Vela refuses the file: {_refusal(text, done.returncode)}.")
        counts = parse_counts(text)
        report = parse_summary(summary.read_text(encoding="utf-8"), config, counts, f"Vela {installed}")
        return VelaRun(compiled.read_bytes(), report, tuple(parse_left(text)))


def _refusal(text: str, code: int) -> str:
    """Vela's own line about it, else how the process ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Warning: No ")]
    named = [line for line in lines if "rror" in line]
    if named:
        return named[-1].rstrip(".")[:300]
    return f"it died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


_LEFT = re.compile(
    r"^Warning \(supported operators\) operator: (?P<operator>\S+?),? +(?:ofm|tensor)?:? ?'(?P<name>.*)'\s*\n"
    r"Reason: (?P<reason>.*)$",
    re.MULTILINE,
)


def parse_left(text: str) -> list[tuple[str, str, str]]:
    """The operators left to the CPU, from Vela's output: (operator, name of its output, reason)."""
    return [(match["operator"], match["name"], match["reason"].strip()) for match in _LEFT.finditer(text)]


def parse_counts(text: str) -> tuple[int, int]:
    """Operators on the NPU and on the CPU, from "NPU operators = 31 (100.0%)".

    Raises:
        RuntimeRefusedError: The lines are missing: the format has changed.
    """
    found = {who: int(count) for who, count in re.findall(r"^(NPU|CPU) operators = (\d+)", text, re.MULTILINE)}
    if found.keys() != {"NPU", "CPU"}:
        raise RuntimeRefusedError("Vela's output names no number of operators: its format has changed.")
    return found["NPU"], found["CPU"]


def parse_summary(text: str, config: NpuConfig, counts: tuple[int, int], estimated_by: str) -> EthosUReport:
    """Vela's summary, a CSV of one row: seconds, KiB and cycles.

    Raises:
        RuntimeRefusedError: A column is missing: the format has changed.
    """
    rows = list(csv.DictReader(text.splitlines()))
    try:
        row = rows[0]
        memory = {
            kind: round(float(row[f"{kind}_memory_used"]) * _KIB)
            for kind in ("sram", "dram", "on_chip_flash", "off_chip_flash")
        }
        return EthosUReport(
            config=config,
            cycles=int(float(row["cycles_total"])),
            clock_hz=int(float(row["core_clock"])),
            inference_ms=float(row["inference_time"]) * 1000,
            macs=int(float(row["nn_macs"])),
            sram_bytes=memory["sram"],
            dram_bytes=memory["dram"],
            on_chip_flash_bytes=memory["on_chip_flash"],
            off_chip_flash_bytes=memory["off_chip_flash"],
            npu_operators=counts[0],
            cpu_operators=counts[1],
            estimated_by=estimated_by,
        )
    except (IndexError, KeyError, ValueError) as error:
        raise RuntimeRefusedError(f"Vela's summary has no {error}: its format has changed.") from error
