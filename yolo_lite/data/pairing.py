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


class Folders:
    """The names of the files in folders; each folder is listed once instead of asking the disk for every file."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, str]] = {}

    def find(self, folder: str, name: str) -> str | None:
        """The path of a file of this name, also one in another normal form of Unicode; None if there is none."""
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = _listed(folder)
        found = names.get(name) or (None if name.isascii() else names.get(unicodedata.normalize("NFC", name)))
        return found and os.path.join(folder, found)


def _listed(folder: str) -> dict[str, str]:
    try:
        names = os.listdir(folder or ".")
    except OSError:  # no such folder, or a file
        return {}
    return {unicodedata.normalize("NFC", name): name for name in names if not name.isascii()} | {n: n for n in names}


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
    listing, places = Folders(), dict[str, list[str]]()
    files: list[str] = []
    there = np.zeros(len(images), dtype=bool)
    for position, image in enumerate(images):
        folder, name = os.path.split(image)
        if (candidates := places.get(folder)) is None:
            candidates = places[folder] = folders_of(folder)
        label = os.path.splitext(name)[0] + suffix
        found = [path for place in candidates if (path := listing.find(place, label))]
        if len(found) > 1 and not filecmp.cmp(found[0], found[1], shallow=False):
            raise DataError(f"{image}: two label files that differ: {found[0]} and {found[1]}; remove one of them")
        there[position] = bool(found)
        files.append(found[0] if found else os.path.join(*(candidates[:1] or [folder]), label))
    _check_unique(images, files, there)
    return files, there


def _check_unique(images: Sequence[str], files: Sequence[str], there: np.ndarray) -> None:
    owner: dict[str, str] = {}
    for position in np.flatnonzero(there).tolist():
        image, file = images[position], files[position]
        other = owner.setdefault(file, image)
        if other != image:
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
