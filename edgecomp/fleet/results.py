"""One file of results for a fleet, written as each target ends, so that an interrupted call can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgecomp.bench.baseline import SCHEMA
from edgecomp.bench.measurement import BenchReport, FailedMeasurement, Measurement
from edgecomp.bench.settings import BenchSettings
from edgecomp.errors import EdgecompError, UsageError
from edgecomp.files import sha256_of, write_atomic
from edgecomp.fleet.run import Assignment

_MEASUREMENTS: TypeAdapter[list[Measurement]] = TypeAdapter(list[Measurement])


class _Fleet(BaseModel):
    model_config = ConfigDict(extra="ignore")

    request: dict[str, str]
    finished: list[str] = Field(description="Targets that need not be visited again.")


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")

    fleet: _Fleet
    measurements: list[dict[str, Any]]


def request_digests(
    assignments: Sequence[Assignment], settings: BenchSettings, threads: Sequence[int]
) -> dict[str, str]:
    """By target, a digest of all that its measurements depend on as far as we choose it."""
    return {
        item.name: sha256_of(
            json.dumps([
                item.target.model_dump(mode="json"),
                [sha256_of(files.model) for files in item.files],
                repr(settings),
                list(threads),
            ]).encode()
        )
        for item in assignments
    }  # fmt: skip


def read_finished(path: Path, digests: Mapping[str, str]) -> dict[str, BenchReport]:
    """What a file of results has of targets that were asked for the same; nothing where there is no such file.

    Targets that failed are not among them: they are visited again.

    Raises:
        UsageError: The file is there, and is none of a fleet.
    """
    if not path.exists():
        return {}
    try:
        plain = json.loads(path.read_bytes())
        found = _File.model_validate(plain)
        measurements = _MEASUREMENTS.validate_python(found.measurements)
    except (OSError, ValueError, ValidationError) as error:
        raise UsageError(
            f"{path} has no results of a fleet to go on from.", hint="Name another file, or leave --resume out."
        ) from error
    reports = {}
    for name in found.fleet.finished:
        mine = tuple(measured for measured in measurements if measured.target == name)
        if mine and found.fleet.request.get(name) == digests.get(name):
            reports[name] = BenchReport(mine)
    return reports


def merged(reports: Mapping[str, BenchReport]) -> BenchReport:
    """The reports of all targets as one."""
    measurements: list[Measurement] = []
    failed: list[FailedMeasurement] = []
    for report in reports.values():
        measurements += report.measurements
        failed += report.failed
    return BenchReport(tuple(measurements), tuple(failed))


def write_fleet_results(
    path: Path, report: BenchReport, reports: Mapping[str, BenchReport], digests: Mapping[str, str]
) -> None:
    """Write what is known so far, whole or not at all.

    Raises:
        EdgecompError: The file cannot be written.
    """
    finished = [name for name, item in reports.items() if item.measurements and not item.failed]
    plain = {**report.to_json(), "schema": SCHEMA, "fleet": {"request": dict(digests), "finished": finished}}
    try:
        write_atomic(path, (json.dumps(plain, indent=2) + "\n").encode())
    except OSError as error:
        raise EdgecompError(f"{path} cannot be written: {error.strerror}.") from error
