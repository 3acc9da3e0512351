"""Write the JSON Schemas in docs/ from the models in the code.

    python scripts/write_schemas.py

A test holds the files against the code, so run this after changing edgecomp/results.py, matrix_result.py, profile.py,
hardware.py or bundle/manifest.py.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from edgecomp.bundle.manifest import Manifest
from edgecomp.matrix_result import MatrixResult
from edgecomp.profile import DeviceProfile
from edgecomp.results import FitResult

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCHEMAS: dict[str, type[BaseModel]] = {
    "fit-result.schema.json": FitResult,
    "fit-matrix.schema.json": MatrixResult,
    "bundle-manifest.schema.json": Manifest,
    "device-profile.schema.json": DeviceProfile,
}


def schema_text(model: type[BaseModel]) -> str:
    """The JSON Schema of what `to_json` gives."""
    return json.dumps(model.model_json_schema(by_alias=True, mode="serialization"), indent=2) + "\n"


def main() -> None:
    """Write every schema."""
    for name, model in SCHEMAS.items():
        (DOCS / name).write_text(schema_text(model))


if __name__ == "__main__":
    main()
