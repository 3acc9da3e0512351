"""From wheels to one archive of what the device gets: a plain tree that an import finds.

Unpacking happens here, not on the device: there it takes neither pip nor room for the wheels.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from edgecomp.errors import SetupError
from edgecomp.files import sha256_of

# It is loaded with LiteRT's CompiledModel and ends the process (SIGILL) on cores without LSE atomics: Pi 3, Pi 4.
# 17 MB that no CPU needs.
DROPPED = ("libLiteRtWebGpuAccelerator.so",)
_BLOCK_BYTES = 4096
_MAX_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Archive:
    """What is sent.

    Attributes:
        data: A .tar.gz of plain files.
        digest: Of the tree: the same files give the same name on the device, whoever packed them.
        tree_bytes: What the files take on a disk, in blocks.
        dropped: Files that were left out.
    """

    data: bytes
    digest: str
    tree_bytes: int
    dropped: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of `data`."""
        return sha256_of(self.data)


def pack_wheels(paths: Sequence[Path]) -> Archive:
    """Unpack wheels into one tree and pack that.

    Raises:
        SetupError: A wheel is damaged, leads out of its folder, or is too large to be one.
    """
    tree: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
    dropped: list[str] = []
    opened: list[zipfile.ZipFile] = []
    try:
        for path in paths:
            try:
                wheel = zipfile.ZipFile(path)
                opened.append(wheel)
                for item in wheel.infolist():
                    name = place_of(item.filename, path.name)
                    if name is None or item.is_dir():
                        continue
                    if PurePosixPath(name).name in DROPPED:
                        dropped.append(name)
                        continue
                    tree[name] = (wheel, item)
            except (zipfile.BadZipFile, OSError) as error:
                raise _damaged(path.name) from error
        if sum(item.file_size for _, item in tree.values()) > _MAX_BYTES:
            raise SetupError(f"The wheels hold more than {_MAX_BYTES // 2**30} GiB, which no TFLite runtime does.")
        return _pack(tree, tuple(dropped))
    finally:
        for wheel in opened:
            wheel.close()


def place_of(name: str, wheel: str) -> str | None:
    """Where a member of a wheel goes in the tree; None for what an import does not need (scripts, headers).

    Raises:
        SetupError: The name leads out of the tree.
    """
    parts = name.rstrip("/").split("/")
    if "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise SetupError(f"{wheel} is no proper wheel: it holds {name!r}.", hint="Get it again from where you trust.")
    if not parts[0].endswith(".data"):
        return "/".join(parts)
    is_library = len(parts) > 2 and parts[1] in ("purelib", "platlib")
    return "/".join(parts[2:]) if is_library else None


def _pack(tree: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]], dropped: tuple[str, ...]) -> Archive:
    digest = hashlib.sha256()
    packed = io.BytesIO()
    tree_bytes = 0
    # A third of the size; level 6 takes twice as long and saves 8 % more.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=3, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, (wheel, item) in sorted(tree.items()):
            try:
                content = wheel.read(item)  # Checks its CRC.
            except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
                raise _damaged(Path(cast(str, wheel.filename)).name) from error
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            tree_bytes += -(-len(content) // _BLOCK_BYTES) * _BLOCK_BYTES
    return Archive(packed.getvalue(), digest.hexdigest(), tree_bytes, dropped)


def _damaged(wheel: str) -> SetupError:
    return SetupError(f"A wheel is damaged: {wheel}.", hint="Remove it and get it again.")
