"""A folder of images: train/<class>/<image>, test/<class>/<image>; val and calib are optional.

The index of a class is its place among the sorted folder names. A split without class folders (test/<image>) has no
labels. Images become (height, width, 3) uint8, or (height, width, 1) where every image of the folder has one channel.
The orientation that cameras note in EXIF is not applied: training pipelines ignore it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgecomp.data.options import DataOptions
from edgecomp.data.sources import CHUNK_BYTES, SPLITS, UNNAMED, Batch
from edgecomp.errors import DataError, UsageError, did_you_mean

_FOLDERS = dict(zip(SPLITS, ("train", "val", "calib", "test"), strict=True))
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")
_FORMATS = ("JPEG", "PNG", "BMP")
_GRAY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
# Pillow raises SyntaxError and ValueError, too, on damaged files.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class _Picture:
    path: Path
    label: int | None


class ImageSource:
    """Reads folders of images."""

    def accepts(self, source: str) -> bool:
        """Any folder."""
        return Path(source).is_dir()

    def open(self, options: DataOptions) -> OpenImages:
        """List the images and read size and channels of each."""
        if options.group_key is not None:
            raise UsageError(
                f"--group-key {options.group_key}: groups are read from an .npz file only, not from a folder.",
                hint="Put the validation images in val/<class>/ by hand.",
            )
        return OpenImages(Path(options.source), options.image_size)


class OpenImages:
    """A folder whose images have been listed.

    Raises:
        DataError: Classes that differ between splits, sizes that differ, or a file that is no image.
    """

    def __init__(self, root: Path, size: tuple[int, int] | None) -> None:
        self.notes: list[str] = []
        self._root = root
        self._skipped = 0
        self._check_folders()
        classes = {split: self._classes(split) for split in SPLITS if (root / _FOLDERS[split]).is_dir()}
        self.class_names = self._agreed(classes)
        self._pictures = {split: self._list(split, names) for split, names in classes.items()}
        self._size, self._is_gray = self._survey(size)
        if self._skipped:
            self.notes.append(
                f"Files of {root.name} that are not {', '.join(_EXTENSIONS)}, skipped: {self._skipped:,}."
            )

    def count(self, split: str) -> int | None:
        """Images of a split."""
        return len(self._pictures[split]) if split in self._pictures else None

    def batches(self, split: str) -> Iterator[Batch] | None:
        """The decoded images of a split, in the order of their sorted paths."""
        return self._read(self._pictures[split]) if split in self._pictures else None

    def _read(self, pictures: list[_Picture]) -> Iterator[Batch]:
        rows = max(1, CHUNK_BYTES // (self._size[0] * self._size[1] * (1 if self._is_gray else 3)))
        for start in range(0, len(pictures), rows):
            some = pictures[start : start + rows]
            images = np.stack([self._decode(picture.path) for picture in some])
            labels = [picture.label for picture in some if picture.label is not None]
            yield Batch({UNNAMED: images}, {UNNAMED: np.array(labels, dtype=np.int64)} if labels else {})

    def _decode(self, path: Path) -> np.ndarray:
        height, width = self._size
        try:
            with Image.open(path, formats=_FORMATS) as image:
                # A palette with transparency goes through RGBA, or Pillow guesses.
                whole = image.convert("RGBA") if image.mode in ("P", "PA") else image
                picture = whole.convert("L" if self._is_gray else "RGB")
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(picture, dtype=np.uint8).reshape(height, width, -1)

    def _check_folders(self) -> None:
        known = tuple(_FOLDERS.values())
        others = [item.name for item in sorted(self._root.iterdir()) if item.is_dir() and item.name not in known]
        others = [name for name in others if not name.startswith((".", "_"))]
        for name in others:
            if name.startswith(known):
                raise DataError(
                    f"{self._root}: the folder {name} is not a known split.", hint=did_you_mean(name, known)
                )
        if others and not any((self._root / name).is_dir() for name in known):
            raise DataError(
                f"{self._root}: has none of the folders {', '.join(known)}, but {', '.join(others[:5])}.",
                hint="Sort the images as train/<class>/<image> and test/<class>/<image>.",
            )
        if others:
            self.notes.append(f"Folders of {self._root.name} that are not used: {', '.join(others)}.")

    def _classes(self, split: str) -> tuple[str, ...]:
        """Sorted class folders of a split; empty where its images lie in it directly."""
        folder = self._root / _FOLDERS[split]
        names = tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and item.name[0] != "."))
        loose = [item for item in folder.iterdir() if _is_image(item)]
        if names and loose:
            raise DataError(
                f"{folder}: has class folders and images beside them, such as {loose[0].name}.",
                hint="Move every image into the folder of its class.",
            )
        return names

    def _agreed(self, classes: dict[str, tuple[str, ...]]) -> tuple[str, ...] | None:
        reference = "train" if classes.get("train") else "test"
        expected = classes.get(reference, ())
        for split, names in classes.items():
            missing = set(expected) - set(names) if names and split != "calibration" else set()
            extra = set(names) - set(expected)
            if missing or extra:
                difference = [f"{name} is missing in {_FOLDERS[split]}" for name in sorted(missing)[:3]]
                difference += [f"{name} is only in {_FOLDERS[split]}" for name in sorted(extra)[:3]]
                raise DataError(
                    f"{self._root}: {_FOLDERS[reference]} has {len(expected)} classes and {_FOLDERS[split]} has "
                    f"{len(names)}: {', '.join(difference)}.",
                    hint="Every split needs the same class folders; a folder may be empty.",
                )
        return expected or None

    def _list(self, split: str, names: tuple[str, ...]) -> list[_Picture]:
        folder = self._root / _FOLDERS[split]
        places: list[tuple[Path, int | None]] = [(folder, None)]
        if names and self.class_names is not None:
            places = [(folder / name, self.class_names.index(name)) for name in names]
        pictures = []
        for place, label in places:
            for path in sorted(place.rglob("*")):
                if _is_image(path):
                    pictures.append(_Picture(path, label))
                elif path.is_file() and not path.name.startswith("."):
                    self._skipped += 1
        return pictures

    def _survey(self, wanted: tuple[int, int] | None) -> tuple[tuple[int, int], bool]:
        """(height, width) of the arrays, and whether every image is gray."""
        size, first = wanted, None
        is_gray, resized = True, 0
        for picture in (picture for pictures in self._pictures.values() for picture in pictures):
            height, width, mode = _look(picture.path)
            is_gray = is_gray and mode in _GRAY_MODES
            if size is None:
                size, first = (height, width), picture.path
            elif (height, width) != size and wanted is None:
                raise DataError(
                    f"{picture.path}: is {height} x {width} pixels, but {first} is {size[0]} x {size[1]}.",
                    hint=f"Pass --image-size {size[0]}x{size[1]} to resize every image to one size.",
                )
            resized += (height, width) != size
        if resized and size is not None:
            self.notes.append(f"Images that are resized to {size[0]} x {size[1]} (bilinear): {resized:,}.")
        return size or (1, 1), is_gray


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _EXTENSIONS and path.is_file() and not path.name.startswith(".")


def _look(path: Path) -> tuple[int, int, str]:
    """Height, width and Pillow mode by the header of a file."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            mode, (width, height) = image.mode, image.size
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if mode not in _GRAY_MODES + _COLOUR_MODES:
        raise DataError(f"{path}: has more than 8 bits per channel (mode {mode}).", hint="Store it with 8 bits.")
    return height, width, mode


def _unreadable(path: Path, error: Exception) -> DataError:
    text = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    if str(path) in text:
        text = "not a JPEG, PNG or BMP image"
    return DataError(f"{path}: cannot be read as an image: {text}.", hint="Repair the file or take it out.")


SOURCE = ImageSource()
