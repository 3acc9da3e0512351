"""Measurements and checks as JUnit XML, which CI systems show beside the tests.

One test suite a device; a test case for each measurement (an error where it cannot be trusted, or was not taken) and
for each check (a failure where the limit is missed, skipped where it could not be judged). The figures are properties
of the suite: the place that every reader of the format knows.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from edgecomp.bench.limits import LimitCheck
from edgecomp.bench.measurement import BenchReport, FailedMeasurement, Measurement
from edgecomp.errors import EdgecompError
from edgecomp.files import write_atomic
from edgecomp.plain_text import one_line

_MOST_CHARS = 2000
_FIGURES = ("p50_ms", "low_ms", "high_ms", "num_processes")
_OF_INFERENCES = ("p90_ms", "p99_ms", "min_ms", "mad_ms", "num_samples")


def write_junit(path: Path, report: BenchReport) -> None:
    """Write `junit_xml` whole or not at all.

    Raises:
        EdgecompError: The file cannot be written.
    """
    try:
        write_atomic(path, junit_xml(report))
    except OSError as error:
        raise EdgecompError(f"{path} cannot be written: {error.strerror}.") from error


def junit_xml(report: BenchReport) -> bytes:
    """A report as an XML document in UTF-8. Whatever names a device gave, it is well-formed: controls are left out."""
    root = ET.Element("testsuites", {"name": "edgecomp bench"})
    suites: dict[tuple[str, str], ET.Element] = {}

    def suite_of(item: Measurement | FailedMeasurement | LimitCheck) -> ET.Element:
        place = (item.device, item.on)
        if place not in suites:
            suites[place] = ET.SubElement(root, "testsuite", {"name": _text(f"{item.device} on {item.on}")})
            # The format wants the properties first.
            ET.SubElement(suites[place], "properties")
        return suites[place]

    for measurement in report.measurements:
        _add_measurement(suite_of(measurement), measurement)
    for failed in report.failed:
        _add_failed(suite_of(failed), failed)
    for check in report.checks:
        _add_check(suite_of(check), check)
    for suite in suites.values():
        _count(suite, suite.findall("testcase"))
    _count(root, root.iter("testcase"))
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _add_measurement(suite: ET.Element, measurement: Measurement) -> None:
    name = _configuration(measurement)
    figures = (*_FIGURES, *_OF_INFERENCES) if measurement.has_single_times else _FIGURES
    values = {figure: getattr(measurement.timing, figure) for figure in figures} | {
        "verdict": measurement.verdict,
        "model_sha256": measurement.model_sha256,
        "runtime": f"{measurement.runtime} {measurement.runtime_version or ''}".strip(),
        "kernel": measurement.facts.kernel,
        "cpu_model": measurement.facts.cpu_model,
        "mode": measurement.mode,
    }
    properties = suite[0]
    for figure, value in values.items():
        if value is not None:
            ET.SubElement(properties, "property", {"name": _text(f"{name}: {figure}"), "value": _text(str(value))})
    seconds = sum(map(sum, measurement.processes_us)) / 1e6
    case = _add_case(suite, f"{name}: measurement", measurement.device, seconds)
    if not measurement.is_valid:
        _add_outcome(case, "error", measurement.verdict, "; ".join(measurement.reasons) or measurement.verdict)
    timing = measurement.timing
    tail = f", p90 {timing.p90_ms:.4g} ms" if measurement.has_single_times else ""
    told = ET.SubElement(case, "system-out")
    told.text = _text(
        f"p50 {timing.p50_ms:.4g} ms [{timing.low_ms:.4g}, {timing.high_ms:.4g}]{tail} "
        f"(measured, {measurement.counted}): {measurement.verdict}"
    )


def _add_failed(suite: ET.Element, failed: FailedMeasurement) -> None:
    threads = "" if failed.num_threads is None else f", {_threads(failed.num_threads)}"
    case = _add_case(suite, f"{Path(failed.bundle).name}{threads}: measurement", failed.device)
    _add_outcome(case, "error", "failed", failed.error if failed.hint is None else f"{failed.error} {failed.hint}")


def _add_check(suite: ET.Element, check: LimitCheck) -> None:
    case = _add_case(suite, f"{_configuration(check)}: {check.name}", check.device)
    if check.passed is None:
        _add_outcome(case, "skipped", check.name, check.sentence)
    elif not check.passed:
        _add_outcome(case, "failure", check.name, check.sentence)
    told = ET.SubElement(case, "system-out")
    told.text = "\n".join(map(_text, (check.sentence, *check.notes)))


def _add_case(suite: ET.Element, name: str, device: str, seconds: float = 0.0) -> ET.Element:
    attributes = {"name": _text(name), "classname": _text(f"edgecomp.{device}"), "time": f"{seconds:.3f}"}
    return ET.SubElement(suite, "testcase", attributes)


def _add_outcome(case: ET.Element, tag: str, kind: str, message: str) -> None:
    outcome = ET.SubElement(case, tag, {"message": _text(message)})
    if tag != "skipped":  # It has no type in the format.
        outcome.set("type", kind)
        outcome.text = _text(message)


def _count(element: ET.Element, cases: Iterable[ET.Element]) -> None:
    """Set the totals that the format asks of a suite, and of all suites."""
    listed = list(cases)
    element.set("tests", str(len(listed)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        if element.tag == "testsuite" or tag != "skipped":
            element.set(attribute, str(sum(case.find(tag) is not None for case in listed)))
    element.set("time", f"{sum(float(case.attrib['time']) for case in listed):.3f}")


def _configuration(item: Measurement | LimitCheck) -> str:
    return f"{Path(item.bundle).name}, {item.chosen}, {_threads(item.num_threads)}"


def _threads(num_threads: int) -> str:
    return "1 thread" if num_threads == 1 else f"{num_threads} threads"


def _text(text: str) -> str:
    return one_line(text, most_chars=_MOST_CHARS)
