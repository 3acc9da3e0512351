"""Read and verify a bundle, a folder or a .zip."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from edgecomp.bundle.manifest import Manifest
from edgecomp.bundle.writer import MANIFEST_NAME
from edgecomp.errors import BundleError
from edgecomp.files import sha256_of
from edgecomp.profile import DeviceProfile

# No file of a bundle is larger; a hostile .zip may unpack to anything.
_MAX_FILE_BYTES = 2 << 30


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file in memory, the manifest parsed."""

    path: Path
    manifest: Manifest
    files: dict[str, bytes]

    def golden(self) -> dict[str, np.ndarray]:
        """Arrays of golden.npz: input_0, ..., output_0, ..., as the model stores them."""
        try:
            with np.load(io.BytesIO(self.files["golden.npz"]), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"{self.path}: golden.npz cannot be read: {error}.") from error


def profile_of(bundle: Bundle) -> DeviceProfile:
    """The profile of the device that a bundle was made for.

    Raises:
        BundleError: It is not there, or no profile.
    """
    if "profile.toml" not in bundle.files:
        raise BundleError(f"{bundle.path}: profile.toml is missing.")
    try:
        return DeviceProfile.model_validate(tomllib.loads(bundle.files["profile.toml"].decode()))
    except (ValueError, ValidationError) as error:
        raise BundleError(f"{bundle.path}: profile.toml cannot be read: {str(error).splitlines()[0]}.") from error


def read_bundle(path: Path) -> Bundle:
    """Open a bundle and check the sha256 of every file.

    Raises:
        BundleError: Missing, not a bundle, or a file that is missing, changed or not in the manifest.
    """
    files = _read_files(path)
    if MANIFEST_NAME not in files:
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_NAME}.", hint="`edgecomp fit` makes bundles.")
    try:
        manifest = Manifest.model_validate(json.loads(files.pop(MANIFEST_NAME)))
    except (ValueError, ValidationError) as error:
        raise BundleError(
            f"{path}: {MANIFEST_NAME} cannot be read: {str(error).splitlines()[0]}.",
            hint="It may come from another version of edgecomp: make the bundle again.",
        ) from error
    for name in sorted(manifest.files.keys() | files.keys()):
        # They are written under these names, here and on devices.
        if Path(name).name != name or name == ".." or not name.isprintable():
            raise BundleError(f"{path}: {name!r} is no plain file name.")
        if name not in files:
            raise BundleError(f"{path}: {name} is missing.")
        if name not in manifest.files:
            raise BundleError(f"{path}: {name} is not in the manifest.")
        if sha256_of(files[name]) != manifest.files[name].sha256:
            raise BundleError(f"{path}: {name} has changed: its sha256 is not the one in the manifest.")
    return Bundle(path, manifest, files)


def _read_files(path: Path) -> dict[str, bytes]:
    if not path.exists():
        raise BundleError(f"There is no bundle at {path}.", hint="`edgecomp fit` writes to bundles/ by default.")
    try:
        if path.is_dir():
            return {item.name: item.read_bytes() for item in sorted(path.iterdir()) if item.is_file()}
        with zipfile.ZipFile(path) as archive:
            large = [info.filename for info in archive.infolist() if info.file_size > _MAX_FILE_BYTES]
            if large:
                raise BundleError(f"{path}: {large[0]} is larger than any file of a bundle.")
            return {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise BundleError(f"{path} cannot be read as a bundle: {error}.") from error
