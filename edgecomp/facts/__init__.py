"""Facts of a device: each one command and a pure parser of what it prints; `collect` asks for all at once."""

from __future__ import annotations

from edgecomp.facts.collect import FACTS, Facts, collect, device_script, facts_of, read_answers

__all__ = ["FACTS", "Facts", "collect", "device_script", "facts_of", "read_answers"]
