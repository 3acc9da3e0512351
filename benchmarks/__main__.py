"""Run the benchmarks, each in a process of its own, and print one table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.figures import ROOT, Report, machine, say, table

# The shortest times first, before the others have warmed the machine up.
_NAMES = (
    "start_up", "check_model", "agent_overhead", "int8_candidate", "sparse_inference", "fine_tuning", "whole_fit",
)  # fmt: skip


def run_one(name: str) -> Report:
    """The report of one benchmark."""
    say(f"== {name}")
    before = machine()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json"], cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode:
        return Report(name, before, problem=f"failed: exit code {done.returncode}, see above")
    return Report.from_json(json.loads(done.stdout))


def main() -> int:
    """Run what was asked for; 1 if anything failed to run, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(_NAMES)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print a JSON list with the raw samples")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(_NAMES))
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(_NAMES)}")
    reports = [run_one(name) for name in options.names or _NAMES]
    print(json.dumps([report.to_json() for report in reports], indent=2) if options.json else table(reports))
    return 1 if any((report.problem or "").startswith("failed") for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
