"""edgecomp: fit a trained model to a phone, a Raspberry Pi or a microcontroller, with proof.

    import edgecomp

    request = edgecomp.FitRequest(model, data, targets, out)
    result = edgecomp.fit(request)

Names are loaded when they are first used: importing edgecomp imports neither TensorFlow nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecomp.bench import Measurement, bench_bundle
    from edgecomp.budget import Budget
    from edgecomp.bundle.reader import Bundle, read_bundle
    from edgecomp.bundle.verify import verify_bundle
    from edgecomp.candidates import Target
    from edgecomp.data import DataOptions
    from edgecomp.errors import EdgecompError
    from edgecomp.graph import Graph, read_graph
    from edgecomp.matrix import fit_matrix
    from edgecomp.matrix_result import MatrixResult
    from edgecomp.pipeline import FitRequest, fit
    from edgecomp.profile import DeviceProfile, Precision, load_profile
    from edgecomp.refit import RefitRequest, refit
    from edgecomp.results import FitResult
    from edgecomp.store import Store
    from edgecomp.transports import connect

_HOMES = {
    "Budget": "budget",
    "Bundle": "bundle.reader",
    "DataOptions": "data",
    "DeviceProfile": "profile",
    "EdgecompError": "errors",
    "FitRequest": "pipeline",
    "FitResult": "results",
    "Graph": "graph",
    "MatrixResult": "matrix_result",
    "Measurement": "bench",
    "Precision": "profile",
    "RefitRequest": "refit",
    "Store": "store",
    "Target": "candidates",
    "bench_bundle": "bench",
    "connect": "transports",
    "fit": "pipeline",
    "fit_matrix": "matrix",
    "load_profile": "profile",
    "read_bundle": "bundle.reader",
    "read_graph": "graph",
    "refit": "refit",
    "verify_bundle": "bundle.verify",
}

__all__ = [
    "Budget",
    "Bundle",
    "DataOptions",
    "DeviceProfile",
    "EdgecompError",
    "FitRequest",
    "FitResult",
    "Graph",
    "MatrixResult",
    "Measurement",
    "Precision",
    "RefitRequest",
    "Store",
    "Target",
    "bench_bundle",
    "connect",
    "fit",
    "fit_matrix",
    "load_profile",
    "read_bundle",
    "read_graph",
    "refit",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgecomp' has no attribute {name!r}")
    return getattr(import_module(f"edgecomp.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
