"""What each runtime runs: one file per runtime or delegate, found by its name.

A member offers `SUPPORT` (see `Support`): `check` names every operator of a model that the runtime does not take, why,
and the nearest change to the model that it would take. What a runtime takes stands in a table that was made by asking
the runtime itself, where that can be done, and from its published rules where it cannot; docs/operators.md says which.

Nothing here imports a runtime: a table is a small JSON file, read when it is needed.
"""

from edgecomp.support._finding import Finding, Severity, Support
from edgecomp.support._types import types_of

__all__ = ["Finding", "Severity", "Support", "types_of"]
