"""How the fit that made a bundle has read its data and judged, for whoever does the same again."""

from __future__ import annotations

from dataclasses import replace

from edgecomp.bundle.manifest import Manifest
from edgecomp.data import DataOptions


def data_as_fitted(options: DataOptions, manifest: Manifest) -> DataOptions:
    """Data as the fit read it: preprocessing that the options do not state is the bundle's, and the seed in any case.

    Raises:
        UsageError: The options and the manifest do not go together.
    """
    pre = manifest.preprocessing
    return replace(options, mean=options.mean or pre.mean, std=options.std or pre.std, seed=manifest.seed)


def fitted_metric(manifest: Manifest) -> str:
    """What candidates were scored by, as the user wrote it."""
    return str(manifest.fit.get("metric") or "accuracy")
