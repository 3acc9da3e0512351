"""Fit the cost model to benchmarks/published_latencies.toml and write device_profiles/cost_families/*.toml.

    python scripts/fit_cost_families.py

Takes seconds. What has no rows of its own is derived here, by ratios that are stated beside it, and gets a wide
interval.
"""

from __future__ import annotations

import math
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cost_fit import Fit, Problem, family_of
from benchmarks.cost_leave_out import family_sd, interval
from benchmarks.cost_rows import Graphs, Row, read_graphs, read_rows
from edgecomp.cost import estimate
from edgecomp.cost_families import Core, CostFamily, Derived, Dtype
from edgecomp.profile_files import dump_toml

TARGET = Path(__file__).resolve().parent.parent / "device_profiles" / "cost_families"

# TinyEngine's README, STM32H743: milliseconds with CMSIS-NN and with X-CUBE-AI 7.3, model by model.
CMSIS_NN_AND_X_CUBE_AI = ((53, 32), (97, 57), (478, 269), (51, 35), (103, 63), (642, 351), (770, 414), (380, 205))

# LiteRT 2.3.0 with XNNPACK on a server with AVX-512 VNNI that reports 2.6 GHz; one thread, medians, milliseconds.
X86_HZ = 2_600_000_000
X86_MS: dict[Dtype, dict[str, float]] = {
    "float32": {"ic": 0.255, "vww": 0.203, "mobilenet-v1": 11.2, "mobilenet-v2": 6.89, "mobilenet-v3-large": 5.66},
    "int8": {"ic": 0.078, "kws": 0.043, "vww": 0.125, "mobilenet-v1": 3.94, "mobilenet-v2": 3.2},
}

NO_DYNAMIC_RANGE = "TFLM does not run dynamic-range models"
NO_INT16X8 = (
    "XNNPACK takes no 16-bit activations and there are no figures for the kernels that run instead; "
    "on an x86-64 they took 65 times as long as INT8"
)


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Geometric mean of first / second."""
    return math.exp(statistics.fmean(math.log(first / second) for first, second in pairs))


def with_speed(
    family: CostFamily,
    name: str,
    graphs: Graphs,
    ms: Mapping[str, float],
    dtype: Dtype,
    clock_hz: float,
    threads: int = 1,
) -> Core:
    """The core with the cycles per MAC that meet some latencies best (their geometric mean)."""
    core = family.cores[name]
    speeds = dict(core.cycles_per_mac) | {dtype: core.cycles_per_mac.get(dtype, 1.0)}
    for _ in range(30):  # Overhead and bandwidth do not scale with the speed: go there in steps.
        core = core.model_copy(update={"cycles_per_mac": dict(speeds)})
        pairs = []
        for model, published in ms.items():
            found, reason = estimate(graphs[model, dtype], family, core, clock_hz, threads)
            if found is None:
                raise ValueError(reason)
            pairs.append((published, found.value_ms))
        speeds[dtype] *= ratio(pairs)
    return core


def times(core: Core, factors: Mapping[Dtype, float], sd: float) -> Core:
    """A core by analogy: so many times the cycles of another one."""
    return core.model_copy(update={
        "cycles_per_mac": {dtype: core.cycles_per_mac[dtype] * factor for dtype, factor in factors.items()},
        "sd": dict.fromkeys(factors, sd),
    })  # fmt: skip


def without_external_flash(family: CostFamily) -> CostFamily:
    """No further width for external flash: it plays no part, or the rows were taken with it."""
    return family.model_copy(update={"interval": family.interval.model_copy(update={"external_flash_sd": 0.0})})


class Group:
    """A fit of all rows of one group."""

    def __init__(self, name: str, rows: Sequence[Row], graphs: Graphs) -> None:
        self.rows = [row for row in rows if row.group == name]
        self.fit: Fit = Problem(self.rows, graphs).fit()
        self._graphs = graphs

    def family(self, name: str, **more: Any) -> CostFamily:
        """One family of the group."""
        rows = [row for row in self.rows if row.family == name]
        sd = family_sd(self.rows, self._graphs, rows[0])
        return family_of(self.fit, rows, interval(sd)).model_copy(update={"name": name, **more})


def microcontrollers(rows: Sequence[Row], graphs: Graphs) -> dict[str, tuple[CostFamily, str]]:
    """Families of TFLM."""
    opened, hale = Group("open-mcu", rows, graphs), Group("hale", rows, graphs)
    of = {(row.group, row.board, row.model): row.ms for row in rows}
    float_ratio = ratio([
        (row.ms, of["hale", row.board, row.model]) for row in rows if row.group == "hale-float"
    ])  # fmt: skip
    no_float_rows = (
        f"there are no public figures of TFLM's float kernels; HALE's take {float_ratio:.1f} times as long as its INT8"
    )
    guess = "a guess: no public figures"

    def derived(float_factor: float, int16_factor: float) -> dict[Dtype, Derived]:
        return {
            "float32": Derived(like="int8", factor=float_factor, sd=0.45, because=no_float_rows),
            "int16x8": Derived(like="int8", factor=int16_factor, sd=0.4, because=guess),
            "int4": Derived(like="int8", factor=1.3, sd=0.4, because=f"weights are unpacked first; {guess}"),
        }

    missing: dict[Dtype, str] = {"dynamic_range": NO_DYNAMIC_RANGE}
    reference = opened.family(
        "cortex-m4-reference", description="TFLM with its reference kernels on Cortex-M4",
        derived=derived(1.2, 1.5), missing=missing,
    )  # fmt: skip
    m4 = opened.family(
        "cortex-m4-cmsis-nn", description="CMSIS-NN on Cortex-M4", derived=derived(2.2, 1.4), missing=missing
    )
    m33 = opened.family(
        "cortex-m33-cmsis-nn", description="CMSIS-NN on Cortex-M33", derived=derived(2.2, 1.4), missing=missing
    )
    helium = opened.family(
        "cortex-m-helium", description="CMSIS-NN with Helium (MVE) on Cortex-M85 and M55",
        derived={key: value for key, value in derived(1.0, 2.0).items() if key != "float32"},
        missing=missing | {"float32": "there are no public figures of float kernels on Helium"},
    )  # fmt: skip
    m85 = helium.cores["cortex-m85"]
    helium = helium.model_copy(update={"cores": {"cortex-m85": m85, "cortex-m55": times(m85, {"int8": 1.4}, 0.35)}})

    x_cube_ai = next(row for row in rows if row.group == "x-cube-ai")
    over_x_cube_ai = ratio(CMSIS_NN_AND_X_CUBE_AI)
    wanted = {row.model: row.ms * over_x_cube_ai for row in rows if row.group == "x-cube-ai"}
    m7 = m4.model_copy(update={
        "name": "cortex-m7-cmsis-nn", "description": "CMSIS-NN on Cortex-M7", "basis": "vendor rows",
        "default_core": "cortex-m7",
        "cores": {"cortex-m7": times(
            with_speed(m4, "cortex-m4", graphs, wanted, "int8", x_cube_ai.clock_hz), {"int8": 1.0}, 0.25
        )},
    })  # fmt: skip

    both: dict[str, dict[str, float]] = {"HALE": {}, "CMSIS-NN": {}}
    for row in rows:
        if row.board == "NUCLEO-L4R5ZI" and row.runtime in ("HALE", "microTVM + CMSIS-NN"):
            both[row.runtime.removeprefix("microTVM + ")][row.model] = row.ms
    over_hale = ratio([(ms, both["HALE"][model]) for model, ms in both["CMSIS-NN"].items()])
    m0plus = hale.family(
        "cortex-m0plus", description="TFLM with plain C kernels on Cortex-M0+", basis="vendor rows",
        derived={key: value for key, value in derived(1.0, 1.5).items() if key != "float32"},
        missing=missing | {"float32": "there are no public figures of float arithmetic without an FPU"},
    )  # fmt: skip
    slower = math.sqrt(over_hale)
    m0plus = m0plus.model_copy(
        update={"cores": {"cortex-m0plus": times(m0plus.cores["cortex-m0plus"], {"int8": slower}, 0.35)}}
    )

    esp = without_external_flash(m4).model_copy(update={
        "name": "esp32-esp-nn", "description": "TFLM with ESP-NN", "basis": "analogy",
        "derived": {}, "default_core": "lx7",
        "missing": missing | dict.fromkeys(("float32", "int16x8", "int4"), "there are no public figures for ESP-NN"),
        "cores": {row.core: times(
            with_speed(m4, "cortex-m4", graphs, {row.model: row.ms}, "int8", row.clock_hz), {"int8": 1.0}, 0.35
        ) for row in rows if row.group == "esp"},
    })  # fmt: skip

    fitted = "Boards of the fit: NUCLEO-L4R5ZI (TFLM 2.3.1; microTVM), nRF5340-DK, EK-RA6M4, EK-RA8D1. "
    return {
        family.name: (family, text)
        for family, text in (
            (reference, fitted + "Speed: NUCLEO-L4R5ZI with TFLM 2.3.1, MLPerf Tiny v0.5 (int8)."),
            (m4, fitted + "Speed: NUCLEO-L4R5ZI with microTVM and CMSIS-NN, MLPerf Tiny v1.1 (int8)."),
            (m33, fitted + "Speed: geometric mean of nRF5340-DK (microTVM, v1.1) and EK-RA6M4 (TFLM, v0.7) (int8)."),
            (helium, fitted + "Speed: EK-RA8D1 with TFLM, MLPerf Tiny v1.2 (int8). cortex-m55: a guess, 1.4 times the "
             "cycles of the wider cortex-m85."),
            (m7, "BY ANALOGY. Everything but the speed: the CMSIS-NN fit. Speed: NUCLEO-H7A3ZI-Q with X-CUBE-AI 7.3, "
             f"MLPerf Tiny v1.1, times {over_x_cube_ai:.2f}, which is CMSIS-NN over X-CUBE-AI 7.3 in TinyEngine's "
             "table for an STM32H743 (eight models, 1.46 to 1.86)."),
            (m0plus, "BY ANALOGY. Fitted to HALE on six boards, MLPerf Tiny v1.2 (int8); speed: NUCLEO-G0B1RE times "
             f"{slower:.2f}. On a Cortex-M4 CMSIS-NN takes {over_hale:.2f} times as long as HALE; without SIMD less of "
             "that advantage is left, how much is a guess."),
            (esp, "BY ANALOGY. One row a chip (person_detection, espressif/esp-tflite-micro) gives the speed; the "
             "rest is the CMSIS-NN fit."),
        )
    }  # fmt: skip


def linux(rows: Sequence[Row], graphs: Graphs) -> dict[str, tuple[CostFamily, str]]:
    """Families of XNNPACK."""
    group = Group("xnnpack", rows, graphs)
    measured = "2.5 times INT8 on an x86-64, ResNet8"
    more: dict[str, Any] = {
        "derived": {
            "int4": Derived(like="int8", factor=2.5, sd=0.5, because=measured),
            "dynamic_range": Derived(like="int8", factor=1.2, sd=0.4, because="a guess: no public figures"),
        },
        "missing": {"int16x8": NO_INT16X8},
    }
    arm = without_external_flash(
        group.family("arm-a-xnnpack", description="XNNPACK on ARMv8.0 and ARMv7 with NEON, no dot product", **more)
    )
    armv6 = without_external_flash(
        group.family("armv6-xnnpack", description="XNNPACK on ARMv6, no NEON", parallel_loss=None, **more)
    )
    cores = arm.cores
    a72, a72_32, a53_32, a73 = (
        cores[name] for name in ("cortex-a72", "cortex-a72:armv7l", "cortex-a53:armv7l", "cortex-a73")
    )
    of_64_bit = {dtype: a72.cycles_per_mac[dtype] / a72_32.cycles_per_mac[dtype] for dtype in a72.cycles_per_mac}
    int8 = a73.cycles_per_mac["float32"] * a72.cycles_per_mac["int8"] / a72.cycles_per_mac["float32"]
    arm = arm.model_copy(update={
        "default_core": "cortex-a72",
        "cores": {name: cores[name] for name in ("cortex-a7", "cortex-a53:armv7l", "cortex-a72:armv7l", "cortex-a72")}
        | {
            "cortex-a53": times(a53_32, of_64_bit, 0.15),
            "cortex-a57": times(a72, dict.fromkeys(a72.cycles_per_mac, 1.0), 0.25),
            "cortex-a73": a73.model_copy(
                update={"cycles_per_mac": dict(a73.cycles_per_mac) | {"int8": int8}, "sd": {"int8": 0.35}}
            ),
        },
    })  # fmt: skip

    pixel4 = [row for row in rows if row.group == "dotprod"]
    a76 = a72.model_copy(update={"bytes_per_second": 8e9})  # Four threads, like the rows of a72.
    for dtype in ("float32", "int8"):
        staged = arm.model_copy(update={"cores": {"cortex-a76": a76}, "default_core": "cortex-a76"})
        ms = {row.model: row.ms for row in pixel4 if row.dtype == dtype}
        a76 = with_speed(staged, "cortex-a76", graphs, ms, dtype, pixel4[0].clock_hz, pixel4[0].threads)
    same: dict[Dtype, float] = {"float32": 1.0, "int8": 1.0}
    dotprod = arm.model_copy(update={
        "name": "arm-a-dotprod-xnnpack", "description": "XNNPACK on ARMv8.2 with dot product", "basis": "analogy",
        "default_core": "cortex-a76",
        "cores": {
            "cortex-a76": times(a76, same, 0.35),
            "cortex-x3": times(a76, {"float32": 0.5, "int8": 0.5}, 0.45),
            "firestorm": times(a76, {"float32": 0.5, "int8": 0.5}, 0.45),
        },
    })  # fmt: skip

    vnni = a72.model_copy(update={"bytes_per_second": 2e10, "threads": (1,)})
    for dtype, ms in X86_MS.items():
        staged = arm.model_copy(update={"cores": {"x86-64-v4": vnni}, "default_core": "x86-64-v4"})
        vnni = with_speed(staged, "x86-64-v4", graphs, ms, dtype, X86_HZ)
    x86 = arm.model_copy(update={
        "name": "x86-64-xnnpack", "description": "XNNPACK on x86-64", "basis": "analogy", "default_core": "x86-64-v3",
        "output_multiple": 16,
        "cores": {
            "x86-64-v4": times(vnni, same, 0.4),
            "x86-64-v3": times(vnni, {"float32": 1.5, "int8": 3.0}, 0.5),
        },
    })  # fmt: skip
    pooled = (
        "Boards of the fit: Raspberry Pi Zero W, 2, 3+, 4 (32 and 64 bit), 2022-02-08, and Pixel, Pixel 2, Pixel 3a, "
        "2020-03-27, google/XNNPACK README.md. "
    )
    return {
        family.name: (family, text)
        for family, text in (
            (arm, pooled + "By analogy, with an sd: cortex-a53 in 64 bit (the 32-bit rows of a Raspberry Pi 3+ times "
             "64 over 32 bit of a Raspberry Pi 4), cortex-a57 (as cortex-a72), INT8 of cortex-a73."),
            (armv6, pooled + "Speed: Raspberry Pi Zero W."),
            (dotprod, "BY ANALOGY. Everything but the speed: the XNNPACK fit. Speed: EfficientNet-Lite0 and Lite4 on a "
             "Pixel 4 with four threads (tensorflow/tpu), by TFLite's own kernels of early 2020. Bandwidth: a guess. "
             "cortex-x3, firestorm: half the cycles, as they have four NEON pipes instead of two."),
            (x86, "BY ANALOGY. Everything but the speed: the XNNPACK fit. Speed of x86-64-v4: one server with AVX-512 "
             "VNNI, LiteRT 2.3.0, one thread. x86-64-v3 (AVX2, no VNNI): a guess, 1.5 times (float) and 3 times (int8) "
             "the cycles. Bandwidth: a guess."),
        )
    }  # fmt: skip


def rounded(value: Any) -> Any:
    """Without empty tables, and four significant digits: more would say more than the rows do."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items() if item != {}}
    if isinstance(value, float) and value:
        short = float(f"{value:.4g}")
        return int(short) if short >= 1e6 else short
    return value


def main() -> None:
    """Fit and write."""
    rows, graphs = read_rows(), read_graphs()
    TARGET.mkdir(exist_ok=True)
    for name, (family, text) in (microcontrollers(rows, graphs) | linux(rows, graphs)).items():
        comment = textwrap.wrap(
            f"Written by scripts/fit_cost_families.py from benchmarks/published_latencies.toml. {text}",
            width=118, break_on_hyphens=False,
        )  # fmt: skip
        table = rounded(family.model_dump(mode="json", exclude_none=True))
        CostFamily.model_validate(table)
        text = "".join(f"# {line}\n" for line in comment) + dump_toml(table)
        (TARGET / f"{name}.toml").write_text(text, encoding="utf-8")
        print(TARGET / f"{name}.toml")


if __name__ == "__main__":
    main()
