"""Where the files that ship with edgecomp are: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path


def resource_folder(name: str) -> Path:
    """The folder `device_profiles` or `calibration_data`, wherever this edgecomp was installed from."""
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name} is missing beside {package}: the installation is incomplete")
