"""A shelf of devices: named in a fleet.toml, measured side by side, one measurement at a time on each."""

from __future__ import annotations

from edgecomp.fleet.file import Fleet, Target, read_fleet
from edgecomp.fleet.run import run_fleet

__all__ = ["Fleet", "Target", "read_fleet", "run_fleet"]
