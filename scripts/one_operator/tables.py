"""From the answers of a runtime to its table, and from there to edgecomp/support/tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

import numpy as np

from scripts.one_operator import catalogue
from scripts.one_operator.asking import ROOT, Answer, Asker
from scripts.one_operator.build import build, feeds

FOLDER = ROOT / "edgecomp" / "support" / "tables"
_NO_FILE = "no valid minimal file is known"
_ABSENT = "Didn't find op"
_LATEST_VERSION = 20  # Of any operator; the highest in the schema of 2026 is 14.

# How far outputs may lie from LiteRT's: rounding differs between kernels, by a step or two of the stored type.
_STEPS = {"int8": 2, "uint8": 2, "int16": 4}
_FLOAT_RATIO = 1e-3

_ORDER = ("runs", "refuses", "wrong", "unproven")

Point = tuple[str, str]


def points(wanted: Iterable[Point] | None = None) -> list[Point]:
    """Every (operator, types), or those wanted."""
    return (
        list(wanted)
        if wanted is not None
        else [(code, kind) for code in catalogue.operators() for kind in catalogue.types(code)]
    )


def ask(asker: Asker, runtime: str, point: Point, **more: str) -> Answer:
    """Put the file of one point to one runtime."""
    made = catalogue.make(*point)
    return asker.ask(runtime, build(made), feeds(made), **more)


def difference(answer: Answer, other: Answer) -> str | None:
    """How two outputs differ, or None where they agree up to rounding."""
    for left, right in zip(answer.outputs, other.outputs, strict=True):
        if left.shape != right.shape or left.dtype != right.dtype:
            return f"gives {left.dtype} {left.shape}, LiteRT {right.dtype} {right.shape}"
        if left.size == 0:
            continue
        apart = np.abs(left.astype(np.complex128) - right.astype(np.complex128)).max()
        floating = np.issubdtype(left.dtype, np.inexact)
        allowed = _FLOAT_RATIO * max(float(np.abs(right).max()), 1.0) if floating else _STEPS.get(str(left.dtype), 0)
        if not apart <= allowed:  # NaN is no agreement either.
            return f"computes something else than LiteRT: {apart:.3g} apart"
    return None


def tflm_point(micro: Asker, lite: Asker, point: Point) -> tuple[str, str, bool]:
    """What tflite-micro does with one point.

    Returns:
        "runs", "refuses" or "wrong"; the line that says why; whether a LiteRT kernel ran the same file, which proves it
        valid.
    """
    answer = ask(micro, "tflm", point)
    others = [other for other in (ask(lite, runtime, point) for runtime in ("litert", "reference")) if other.runs]
    if not answer.runs:
        return "refuses", answer.line, bool(others)
    apart = [difference(answer, other) for other in others]
    if apart and None not in apart:
        return "wrong", str(apart[0]), True
    return "runs", "", bool(others)


def litert_point(lite: Asker, point: Point) -> tuple[str, str, bool]:
    """What LiteRT's built-in kernels do with one point; see `tflm_point`."""
    answer = ask(lite, "litert", point)
    return "runs" if answer.runs else "refuses", answer.line, answer.runs


def xnnpack_point(lite: Asker, point: Point) -> tuple[str, str, bool]:
    """Whether XNNPACK takes one point; see `tflm_point`."""
    answer = ask(lite, "xnnpack", point)
    if point[0] in answer.delegated:
        return "runs", "", True
    return "refuses", "not delegated" if answer.runs else answer.line, answer.runs


def vela_point(asker: Asker, point: Point, accelerator: str) -> tuple[str, str, bool]:
    """Whether Vela puts one point on the NPU; see `tflm_point`."""
    answer = ask(asker, "vela", point, accelerator=accelerator)
    return "runs" if answer.runs else "refuses", answer.line, True


def gather(ask_point: Callable[[Point], tuple[str, str, bool]], bare: Callable[[str], str]) -> dict[str, Any]:
    """The parts of a table: the operators asked, those absent, those that could not be tried.

    Args:
        ask_point: Answers one point.
        bare: The runtime's line about an operator without options: enough to know that it has never heard of it.
    """
    operators: dict[str, Any] = {}
    absent: dict[str, list[str]] = {}
    untried: list[str] = []
    for code in catalogue.operators():
        line = bare(code)
        if line:
            absent.setdefault(line.replace(f"'{code}'", "'{operator}'"), []).append(code)
        elif not catalogue.types(code):
            untried.append(code)
        else:
            entry: dict[str, Any] = {}
            for kind in catalogue.types(code):
                verdict, line, proven = ask_point((code, kind))
                add(entry, kind, verdict, line)
                if not proven:
                    entry.setdefault("unproven", []).append(kind)
            operators[code] = {key: entry[key] for key in _ORDER if key in entry}
    return {"operators": operators, "absent": absent, "not_tried": {_NO_FILE: untried}}


def add(entry: dict[str, Any], kind: str, verdict: str, line: str) -> None:
    """Enter one answer: types that run in a list, the others below the line that says why; what was left out, not."""
    if verdict == "runs":
        entry.setdefault("runs", []).append(kind)
    elif verdict != "not_tried":
        entry.setdefault(verdict, {}).setdefault(line, []).append(kind)


def absent_line(asker: Asker, runtime: str, code: str) -> str:
    """The runtime's line where it does not know an operator at all, in any version; else ""."""
    line = ""
    for number in (1, 2):
        line = asker.ask(runtime, build(catalogue.bare(code, number)), []).line
        if not line.startswith(_ABSENT):
            return ""
    return line.partition(" version ")[0]


def unknown_to_vela(asker: Asker, code: str, accelerator: str) -> str:
    """Vela's line where no file can put an operator on the NPU; else ""."""
    line = asker.ask("vela", build(catalogue.bare(code, kind="INT8")), [], accelerator=accelerator).line
    return line if line == "Unsupported opType" else ""


def versions(asker: Asker, code: str) -> list[int]:
    """Lowest and highest version of an operator that LiteRT knows; empty if none."""
    known = []
    for number in range(1, _LATEST_VERSION):
        line = asker.ask("litert", build(catalogue.bare(code, number)), []).line
        if not line.startswith(_ABSENT):
            known.append(number)
        elif known:
            break
    return [known[0], known[-1]] if known else []


def customs(asker: Asker, runtime: str) -> list[str]:
    """Which custom operators a runtime has, of those that are known anywhere."""
    unknown = re.compile("Failed to get registration|unresolved custom op|Select TensorFlow op")
    return [
        name
        for name in catalogue.CUSTOMS
        if not unknown.search(asker.ask(runtime, build(catalogue.bare(f"CUSTOM:{name}")), []).line)
    ]


def write(name: str, runtime: str, made_by: str, question: str, **parts: Any) -> None:
    """Write one table: a line for each operator, so that a change of the runtime reads as a diff."""
    head = {"runtime": runtime, "version": version(runtime), "made_by": made_by, "question": question}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(render(head | parts) + "\n", encoding="utf-8")
    print(f"{name}: {counts(parts)}")


def write_families(name: str, runtime: str, made_by: str, question: str, families: dict[str, dict[str, Any]]) -> None:
    """Write a table of several members of a family of devices."""
    head = {"runtime": runtime, "version": version(runtime), "made_by": made_by, "question": question}
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = render(head | {"families": families}, levels=4)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    for family, parts in families.items():
        print(f"{family}: {counts(parts)}")


def render(value: Any, depth: int = 0, levels: int = 2) -> str:
    """JSON with a line for each key of the outer levels."""
    if depth == levels or not isinstance(value, dict) or not value:
        return json.dumps(value)
    pad = "  " * (depth + 1)
    lines = [f"{pad}{json.dumps(key)}: {render(item, depth + 1, levels)}" for key, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"


def counts(parts: dict[str, Any]) -> str:
    """How many points and operators there are of each kind."""
    entries = parts["operators"].values()
    runs = sum(len(entry.get("runs", ())) for entry in entries)
    refused = sum(len(kinds) for entry in entries for kinds in entry.get("refuses", {}).values())
    wrong = sum(len(kinds) for entry in entries for kinds in entry.get("wrong", {}).values())
    absent = sum(map(len, parts["absent"].values()))
    untried = sum(map(len, parts["not_tried"].values()))
    return (
        f"{runs} points run, {refused} refuse, {wrong} compute something else; "
        f"{absent} operators absent, {untried} not tried"
    )
