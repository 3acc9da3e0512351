"""Write a bundle: a folder and a .zip of the same files, both whole or absent."""

from __future__ import annotations

import errno
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from edgecomp.bundle.manifest import FileEntry, Manifest
from edgecomp.errors import BundleError
from edgecomp.files import atomic_folder, sha256_of, stage_file

MANIFEST_NAME = "manifest.json"
# Of a bundle whose model.tflite is packed for TFLM: what LiteRT runs in its place.
UNPACKED_NAME = "unpacked.tflite"
# The start of the zip format's calendar: a time of our own would make two equal bundles differ.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def file_entries(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """What the manifest says of every file."""
    return {name: FileEntry(sha256=sha256_of(data), bytes=len(data)) for name, data in sorted(files.items())}


def bundle_name(model: str, device: str) -> str:
    """Name of the bundle of a model, by the name of its file or folder, for a device."""
    return f"{Path(model).stem}-{device}"


def runner_script() -> bytes:
    """The run_model.py that goes into every bundle."""
    return Path(__file__).with_name("run_model.py").read_bytes()


def require_writable(folder: Path) -> None:
    """Fail before the work rather than after it.

    Raises:
        BundleError: The output folder cannot be made or written to.
    """
    probe = folder / ".edgecomp-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BundleError(
            f"Cannot write to the output folder {folder}: {_why(error)}.", hint="Choose another one with --out."
        ) from error


def write_bundle(out: Path, name: str, manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Path, str]:
    """Write `out/name/` and `out/name.zip`.

    Args:
        out: Folder of the bundles; made if it is missing.
        name: Of this bundle.
        manifest: Its `files` must describe `files`.
        files: Everything but the manifest.

    Returns:
        The path of the .zip and its sha256. The same content gives the same bytes.

    Raises:
        BundleError: The disk is full, the folder cannot be written to, ...; nothing is left behind.
    """
    text = json.dumps(manifest.to_json(), indent=2, sort_keys=True) + "\n"
    content = {**files, MANIFEST_NAME: text.encode()}
    archive = _zip(content)
    folder, path = out / name, out / f"{name}.zip"
    staged: Path | None = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Both are complete on disk before either takes its name.
        with atomic_folder(folder) as temporary:
            for member, data in content.items():
                (temporary / member).write_bytes(data)
            staged = stage_file(path, archive)
        staged.replace(path)
    except OSError as error:
        raise BundleError(
            f"Cannot write the bundle {folder}: {_why(error)}.", hint="Free some space or choose another --out."
        ) from error
    finally:
        if staged is not None:
            staged.unlink(missing_ok=True)
    return path, sha256_of(archive)


def _zip(content: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for member in sorted(content):
            info = zipfile.ZipInfo(member, _ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, content[member], compresslevel=9)
    return stream.getvalue()


def _why(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    return (error.strerror or str(error)).lower()
