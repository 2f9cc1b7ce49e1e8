"""Which label file belongs to which image: a pairing that is one to one, or an error that names both."""

from __future__ import annotations

import filecmp
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from yolo_lite.config.errors import DataError

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
ADVICE = "rename one of them, or list the images that are meant in a text file"


class Folder:
    """The names of the files in a folder, listed once instead of asking the disk for every file."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with os.scandir(path or ".") as entries:
                names = [entry.name for entry in entries if not entry.is_symlink() or os.path.exists(entry.path)]
        except (OSError, ValueError):  # no such folder, or a file
            names = []
        # Names may be there in another normal form of Unicode, as macOS and archives write them.
        self._names = {unicodedata.normalize("NFC", name): name for name in names} | dict(
            zip(names, names, strict=True)
        )

    def find(self, name: str) -> str | None:
        """The path of the file of this name, None if there is none."""
        found = self._names.get(name) or (
            None if name.isascii() else self._names.get(unicodedata.normalize("NFC", name))
        )
        return f"{self.path}{os.sep}{found}" if found else None


def pair_files(
    images: Sequence[str], suffix: str, folders_of: Callable[[str], list[str]]
) -> tuple[list[str], np.ndarray]:
    """The label file of each of n images, or where it is expected, and whether it is there ``[n]`` bool.

    Args:
        suffix: of label files; their stem is the image's.
        folders_of: the folders in which the labels of a folder's images may be, the likeliest first.

    Raises:
        DataError: two images have one label file, or an image has two that differ.
    """
    places: dict[str, list[Folder]] = {}
    files: list[str] = []
    there = np.zeros(len(images), dtype=bool)
    for position, image in enumerate(images):
        folder, name = os.path.split(image)
        if folder not in places:
            places[folder] = [Folder(place) for place in folders_of(folder) or [folder]]
        label = os.path.splitext(name)[0] + suffix
        found = [path for place in places[folder] if (path := place.find(label))]
        if len(found) > 1 and not filecmp.cmp(found[0], found[1], shallow=False):
            raise DataError(f"{image}: two label files that differ: {found[0]} and {found[1]}; remove one of them")
        there[position] = bool(found)
        files.append(found[0] if found else os.path.join(places[folder][0].path, label))
    _check_unique(images, files, there)
    return files, there


def _check_unique(images: Sequence[str], files: Sequence[str], there: np.ndarray) -> None:
    """Whether no label file that is there belongs to two images."""
    if len(set(files)) == len(files):
        return
    owner: dict[str, str] = {}
    for position in np.flatnonzero(there).tolist():
        image, file = images[position], files[position]
        if (other := owner.setdefault(file, image)) != image:
            raise DataError(f"{file}: the label file of two images, {other} and {image}: {ADVICE}")


def names_beside(folders: Iterable[str], root: str | os.PathLike[str]) -> Iterator[tuple[str, list[str]]]:
    """The files with class names that exporters put beside labels, and what they say: one name a line."""
    places = sorted({place for folder in folders for place in (folder, os.path.dirname(folder))} | {os.fspath(root)})
    for path in (os.path.join(place, name) for place in places for name in NAME_FILES):
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = [unicodedata.normalize("NFC", line.strip()) for line in file]
        except (OSError, UnicodeDecodeError):  # there is none
            continue
        yield path, [line for line in lines if line]
