"""Which label file belongs to which image: a pairing that is one to one, or an error that names both."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import read_regular

NAME_FILES = ("classes.txt", "labels.txt", "class_names.txt", "names.txt", "_darknet.labels", "obj.names", "notes.json")
ADVICE = "rename one of them, or list the images that are meant in a text file"


class Folder:
    """The names of the files in a folder, listed once instead of asking the disk for every file."""

    def __init__(self, path: str) -> None:
        self.path = as_there(path)
        try:
            with os.scandir(self.path or ".") as entries:
                names = [entry.name for entry in entries if not entry.is_symlink() or os.path.exists(entry.path)]
        except (OSError, ValueError):  # no such folder, or a file
            names = []
        self.names = set(names)

    @cached_property
    def _alike(self) -> dict[str, str]:
        """The names by their folded forms; "" for what several have."""
        folded = Counter(map(fold, self.names))
        return {fold(name): name if folded[fold(name)] == 1 else "" for name in self.names}

    def find_alike(self, name: str) -> str | None:
        """The path of the file of this name, in whatever letters; None if there is none, or several."""
        found = name if name in self.names else self._alike.get(fold(name))
        return f"{self.path}{os.sep}{found}" if found else None


def fold(name: str) -> str:
    """A name as file systems that know neither case nor normal forms of Unicode (macOS, Windows) see it."""
    return unicodedata.normalize("NFC", name).casefold()


def as_there(path: str) -> str:
    """A folder as it is called on the disk, where only its case or its normal form is another."""
    folder, name = os.path.split(path)
    if os.path.isdir(path) or not name or folder == path:
        return path
    folder = as_there(folder)
    try:
        alike = [found for found in os.listdir(folder or ".") if fold(found) == fold(name)]
    except (OSError, ValueError):
        alike = []
    return os.path.join(folder, alike[0]) if len(alike) == 1 else path


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
        found = [f"{place.path}{os.sep}{label}" for place in places[folder] if label in place.names]
        found = found or [path for place in places[folder] if (path := place.find_alike(label))]
        if len(found) > 1 and not _agree(found[0], found[1]):
            raise DataError(f"{image}: two label files that differ: {found[0]} and {found[1]}; remove one of them")
        there[position] = bool(found)
        files.append(found[0] if found else os.path.join(places[folder][0].path, label))
    check_unique(images, files, there)
    return files, there


def _agree(first: str, second: str) -> bool:
    """Whether two label files have the same words, or the second one is text of another kind, such as a caption."""
    words, others = (read_regular(file).split() for file in (first, second))
    return words == others or (second.endswith(".txt") and bool(others) and not has_numbers(second))


def has_numbers(file: str) -> bool:
    """Whether a text file holds rows of numbers, as YOLO's label files do."""
    try:
        return re.fullmatch(rb"(\xef\xbb\xbf)?[\s\d.eE+-]*\d[\s\d.eE+-]*", read_regular(file)) is not None
    except OSError:
        return False


def check_unique(images: Sequence[str], files: Sequence[str], there: np.ndarray) -> None:
    """Raise DataError where a label file that is there belongs to two images, which may be of different splits."""
    if len(set(files)) == len(files):
        return
    owner: dict[str, str] = {}
    for position in np.flatnonzero(there).tolist():
        image, file = images[position], files[position]
        if (other := owner.setdefault(file, image)) != image:
            raise DataError(f"{file}: the label file of two images, {other} and {image}: {ADVICE}")


def stray_files(labels: Sequence[str], suffix: str) -> list[str]:
    """The files of this suffix in the folders of labels that are none of them, nor a list of names or of files."""
    known, folders = set(labels), {os.path.dirname(label) for label in labels}
    around = map(os.path.dirname, folders)  # a flat folder around those of the splits or clips
    folders |= {place for place in around if fold(os.path.basename(place)) in ("labels", "annotations")}
    files = (os.path.join(folder, name) for folder in sorted(folders) for name in sorted(Folder(folder).names))
    lists = {"train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt", "data.txt", "notes.txt"}
    return [
        file
        for file in files
        if file.lower().endswith(suffix) and file not in known
        if not is_name_file(name := os.path.basename(file)) and name.lower() not in lists
    ]


def names_beside(folders: Iterable[str], root: str | os.PathLike[str]) -> Iterator[tuple[str, list[str]]]:
    """The files with class names that exporters put beside labels, and the names by their numbers."""
    places = sorted({place for folder in folders for place in (folder, os.path.dirname(folder))} | {os.fspath(root)})
    for folder in map(Folder, places):
        for name in sorted(name for name in folder.names if is_name_file(name)):
            if names := names_in(path := os.path.join(folder.path, name)):
                yield path, names


def is_name_file(name: str) -> bool:
    return name.lower() in NAME_FILES or name.lower().endswith(".names")


def names_in(path: str | os.PathLike[str]) -> list[str]:
    """The class names in a file: one a line, or Label Studio's ``notes.json``; none where it is something else."""
    try:
        text = read_regular(path).decode("utf-8-sig")
        rows = json.loads(text)["categories"] if Path(path).suffix.lower() == ".json" else text.splitlines()
        names = [row if isinstance(row, str) else str(row["name"]) for row in sorted(rows, key=_number)]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []
    return [name for text in names if (name := unicodedata.normalize("NFC", text.strip()))]


def _number(row: Any) -> int:
    return 0 if isinstance(row, str) else int(row["id"])
