"""The files of an exported dataset, and what their names and lists say about its splits."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import read_regular
from yolo_lite.data.files import HIDDEN, list_sources, walk
from yolo_lite.data.suffixes import image_suffixes

SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What else the name of a split's folder may say: obj_train_data, test_images, coco-val2017.
BESIDE = re.compile(
    "images?|imgs?|photos?|pics?|frames?|labels?|labs?|annotations?|anno?t?s?|txts?|xmls?|jsons?|gt|boxes"
    "|data|dataset|set|split|part|obj|voc|coco|yolo|zip"
)
RUNS = re.compile("(^|/)runs/(train|val|test|detect|predict|track|segment|pose|obb|check|show)/")
USED = {
    ".csv",
    ".txt",
    ".xml",
    ".json",
    ".yaml",
    ".yml",
    ".data",
    ".names",
    ".labels",
}  # endings of what is read, but images


class Statement(NamedTuple):
    """What a file of a set, or its folders, say about it."""

    how: str  # for people
    splits: dict[str, list[str]]  # images
    sources: Mapping[str, list[str]] = {}  # what a dataset YAML may name for a split as it stands
    names: tuple[str, ...] = ()  # of classes
    keys: Mapping[str, Any] = {}  # of a dataset YAML
    notes: tuple[str, ...] = ()


class Tree:
    """The files below a folder, without what operating systems leave there; paths are relative, with ``/``."""

    def __init__(self, root: Path, files: Sequence[str] | None = None, notes: Sequence[str] = ()) -> None:
        self.root, self.notes = root, notes  # what was left out
        if files is not None:
            self.files = files

    @cached_property
    def files(self) -> Sequence[str]:
        return _walk(self.root)

    @cached_property
    def images(self) -> list[str]:
        return [file for file in self.files if _suffix(file) in image_suffixes()]

    @cached_property
    def places(self) -> set[str]:
        """All files and folders."""
        return {*self.files, *(str(folder) for file in self.files for folder in PurePosixPath(file).parents)}

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """The images of each name without its ending."""
        images: dict[str, list[str]] = defaultdict(list)
        for image in self.images:
            images[os.path.splitext(image)[0].rpartition("/")[2]].append(image)
        return images

    def ending(self, *suffixes: str) -> list[str]:
        return [file for file in self.files if file.lower().endswith(suffixes)]

    def find(self, path: str, near: str = "") -> str | None:
        """The file or folder that a path means which was written on another machine: its longest end that is here.

        It is looked for beside the file ``near`` that has it, then around that, at last below the root.
        """
        parts = [part for part in re.split(r"[/\\]+", path) if part not in ("", ".", "..")]
        around = [f"{folder}/" for folder in PurePosixPath(near).parents if str(folder) != "."] + [""]
        places = (f"{folder}{'/'.join(parts[first:])}" for first in range(len(parts)) for folder in around)
        return next((place for place in places if place in self.places), None)

    def below(self, folder: str) -> list[str]:
        return self.images if folder == "." else [image for image in self.images if image.startswith(f"{folder}/")]

    def lines(self, file: str) -> tuple[str, ...]:
        """The rows of a text file that are not empty; raises DataError where it is none."""
        try:
            rows = read_regular(self.root / file).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.root / file}: expected a text file in UTF-8: {error}") from error
        return tuple(filter(None, map(str.strip, rows)))

    def listed(self, file: str) -> tuple[list[str], list[str]]:
        """The images that the rows of a list file name, by path, name, or as Pascal VOC does by stem; and other rows.

        Raises:
            DataError: it is no list, or a row may be several images.
        """
        images: list[str] = []
        unknown: list[str] = []
        for path in list_sources(self.root, [file], self.root).images:
            row = os.path.relpath(path, self.root / os.path.dirname(file))
            found = os.path.relpath(path, self.root) if os.path.isfile(path) else self._by_id(row, file)
            (images if found else unknown).append(found or row)
        return [image.replace(os.sep, "/") for image in images], unknown

    def _by_id(self, row: str, file: str) -> str | None:
        name = os.path.basename(row)
        alike = {*self.by_stem.get(name, ()), *self.by_stem.get(os.path.splitext(name)[0], ())}
        ends = {one: (f"/{one}", f"/{os.path.splitext(one)[0]}") for one in sorted(alike)}
        fitting = [one for one, both in ends.items() if any(end.endswith(f"/{row}") for end in both)]
        # VOC2007 and VOC2012 may lie side by side: a list means the images of its own tree.
        tree = file.partition("ImageSets/")[0] if "ImageSets/" in file else ""
        fitting = [one for one in fitting if one.startswith(tree)] or fitting
        if len(fitting) > 1:
            raise DataError(f"{self.root / file}: {row!r} may be {fitting[0]} or {fitting[1]}")
        return fitting[0] if fitting else None


def open_folder(root: Path) -> Tree:
    """The folder that holds all there is in a folder; raises DataError where there is no image."""
    tree = Tree(root)
    if not tree.images:
        raise DataError(f"{root}: expected a dataset, found no image; some exporters leave them out unless asked")
    runs = [] if all(map(RUNS.search, tree.images)) else list(filter(RUNS.search, tree.files))
    files = [file for file in tree.files if not runs or not RUNS.search(file)]
    notes = [f"left out: what runs wrote, {len(runs)} files, the first: {runs[0]}"] if runs else []
    used = [
        os.path.dirname(file)
        for file in files
        if _suffix(file) in USED | image_suffixes() and "readme" not in file.lower()
    ]
    inner = os.path.commonpath(used)
    start = f"{inner}/" if inner else ""
    return Tree(root / inner, [file[len(start) :] for file in files if file.startswith(start)], notes)


def read_sources(root: Path, sources: Iterable[str]) -> list[str]:
    """The images that are there of those that sources of a dataset YAML name; raises DataError as its reading does."""
    return list(filter(os.path.isfile, list_sources(root, sources, root).images))


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _walk(root: Path) -> list[str]:
    """The files below a folder that are not hidden, by their paths below it."""
    start = len(str(root).rstrip(os.sep))
    below = (file[start:] for file in walk(str(root)).files)
    return [file[1:].replace(os.sep, "/") for file in below if not HIDDEN.search(file) and not file.endswith(os.sep)]


def split_word(name: str, is_folder: bool = False) -> str | None:
    """The split that a name tells, ``instances_val2017`` val; that of a folder only if it says little else."""
    words = re.findall("[a-z]+", name.lower())
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    is_plain = all(word in SPLIT_WORDS or BESIDE.fullmatch(word) for word in words)
    return splits.pop() if len(splits) == 1 and (is_plain or not is_folder) else None


def split_of(file: str) -> str | None:
    """The split that the folders of a file tell, the outermost first."""
    folders = PurePosixPath(file).parts[:-1]
    return next((split for folder in folders if (split := split_word(folder, is_folder=True))), None)


def by_folder(images: Iterable[str]) -> Statement:
    """The splits that the images' folders tell; without any, all images are train."""
    splits: dict[str, list[str]] = defaultdict(list)
    for image in images:
        splits[split_of(image) or ""].append(image)
    others = splits.pop("", [])
    if "train" not in splits:
        splits["train"] = others
    return Statement(
        "folders" if len(splits) > 1 or not others else "", {one: own for one, own in splits.items() if own}
    )


def by_lists(tree: Tree, lists: Iterable[tuple[str, str]], how: str = "") -> Statement | None:
    """The splits of list files: ``train`` by ``ImageSets/Main/train.txt``, or by a file with paths of images."""
    splits: dict[str, list[str]] = defaultdict(list)
    sources: dict[str, list[str]] = defaultdict(list)
    notes = []
    for split, file in lists:
        images, unknown = tree.listed(file)
        if images:
            splits[split] = list(dict.fromkeys((*splits[split], *images)))
            sources[split].append(file)
            notes += [f"{file}: {len(unknown)} rows name no image, the first: {unknown[0]}"] if unknown else []
    if not splits:
        return None
    if "train" not in splits:
        listed = {image for images in splits.values() for image in images}
        splits["train"] = [image for image in tree.images if image not in listed]
    how = how or ", ".join(file for files in sources.values() for file in files)
    return Statement(how, {split: own for split, own in splits.items() if own}, sources, notes=tuple(notes))


def list_files_in(tree: Tree) -> list[tuple[str, str]]:
    """List files and their splits. Of VOC's, those of Main; trainval where there is no train."""
    found = []
    for path in map(PurePosixPath, tree.ending(".txt")):
        is_main = "ImageSets" not in path.parts or path.parent.name in ("Main", "ImageSets")
        if is_main and (split := SPLIT_WORDS.get(path.stem.lower())):
            found.append((split, str(path)))
    has_train = any(split == "train" and not file.endswith("trainval.txt") for split, file in found)
    return [(split, file) for split, file in found if not (has_train and file.endswith("trainval.txt"))]
