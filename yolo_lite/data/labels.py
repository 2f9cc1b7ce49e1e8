"""The labelled objects of images, the rules that they must keep in every format, and how a format is read."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_lite.config.regular import read_regular
from yolo_lite.data.outlines import Outlines, Ring, concat_offsets, gather_rows, offsets_of
from yolo_lite.data.pairing import pair_files

# Annotation tools round: coordinates less than this part of a side outside the image are clipped, others are errors.
TOLERANCE = 0.01
# Coordinates are rounded to 1/100 of a pixel, so that fractions of six digits equal the pixels they were made from.
STEPS_PER_PIXEL = 100
SYSTEM_ERROR = "system error"  # a kind of problem that may be gone at the next reading
OF_OBJECTS = ("label", "xyxy", "area", "crowd")  # arrays with a row for each object
DAMAGED = "unreadable image"
UNREADABLE = (DAMAGED, SYSTEM_ERROR)
# Problems of a whole image, which is then left out with every row that its labels have.
OF_IMAGES = (*UNREADABLE, "labels of another image", "unlisted image")
# What rows (see ``row_kinds``) and images (see ``turned``) say about how all of their split are to be read.
HINTS = (
    *("wide", "columns", "squares", "boxed", "pose", "polygon", "oriented"),
    *("misnamed", "swapped", "turned", "stored"),
)
MAJORITY = 9  # hints of one kind decide if there are this many times those of the other


class Annotation(NamedTuple):
    """One object as a label file states it."""

    where: str  # file and line, or how else to find it there
    label: int
    xyxy: tuple[float, ...]  # pixels of the image
    rings: tuple[Ring, ...] = ()  # outlines, where the file has them
    area: float | None = None  # square pixels, where the file states it
    crowd: bool = False  # not learnt, not counted as missed, and nothing found in it counts as wrong


class Problem(NamedTuple):
    """Why rows or a file were left out."""

    kind: str  # a key of doctor.SEVERITY, or SYSTEM_ERROR
    text: str  # where it is, what was expected and what was found
    rows: int = 1  # rows of label files that are left out by it


class Hint(NamedTuple):
    """Something a row or an image says about how all of its split are to be read; no row of its own."""

    kind: str  # one of HINTS
    times: int = 1


def counted(hints: np.ndarray) -> dict[str, int]:
    """How often each hint was given over all images ``[n, len(HINTS)]``."""
    return dict(zip(HINTS, hints.sum(axis=0).tolist(), strict=True))


class Stated(NamedTuple):
    """The size of the image as its labels state it, in whatever type; null, 0 and words mean that it is unknown."""

    height: Any
    width: Any
    where: str  # the file


class Labels(NamedTuple):
    """What the files of n images say, T objects together; DatasetIndex explains the fields that it has too."""

    size: np.ndarray  # [n, 2], 0 0 where an image is left out
    first: np.ndarray
    label: np.ndarray
    xyxy: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    outlines: Outlines | None
    rows: np.ndarray  # [n] int64, rows in the label files: objects and rows left out
    hints: np.ndarray  # [n, len(HINTS)] int64
    problems: list[list[Problem]]  # [n] what was left out of each image, and why

    @property
    def usable(self) -> np.ndarray:
        """The images int64 that are not left out."""
        return np.flatnonzero(self.size.all(axis=1))

    def select(self, images: np.ndarray) -> Labels:
        """The labels of some images, in this order; ``images`` [m] int64."""
        rows, first = gather_rows(self.first, images)
        return Labels(
            **{name: getattr(self, name)[images] for name in ("size", "rows", "hints")},
            first=first,
            outlines=self.outlines and self.outlines.select(rows),
            problems=[self.problems[image] for image in images],
            **{name: getattr(self, name)[rows] for name in OF_OBJECTS},
        )

    @staticmethod
    def concat(parts: Sequence[Labels]) -> Labels:
        """The images of all parts, one part behind the other; with outlines where every part has them."""
        parts = [check_annotations([], (0, 0)).select(np.arange(0)), *parts]  # gives the types of no part at all
        return Labels(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in ("size", "rows", "hints")},
            first=concat_offsets([part.first for part in parts]),
            outlines=Outlines.concat([part.outlines for part in parts]),
            problems=[own for part in parts for own in part.problems],
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in OF_OBJECTS},
        )


def check_annotations(
    found: Iterable[Annotation | Problem | Hint], size: tuple[int, int], drop_repeats: bool = True
) -> Labels:
    """Sort the annotations of one image of (height, width) pixels into usable objects and problems."""
    usable: list[Annotation] = []
    problems: list[Problem] = []
    hints: Counter[str] = Counter()
    seen = set()
    for one in found:
        if isinstance(one, Hint):
            hints[one.kind] += one.times
        elif isinstance(one, Problem):
            problems.append(one)
        elif isinstance(box := _inside(one, size), Problem):
            problems.append(box)
        elif drop_repeats and (one.label, box) in seen:
            problems.append(Problem("repeated object", f"{one.where}: repeats an earlier object"))
        else:
            seen.add((one.label, box))
            usable.append(one._replace(xyxy=box))
    if any(problem.kind in OF_IMAGES for problem in problems):
        size, usable = (0, 0), []
    xyxy = np.array([one.xyxy for one in usable], dtype=np.float64).reshape(-1, 4)
    stated = np.array([one.area for one in usable], dtype=np.float64)  # NaN where it is None
    return Labels(
        size=np.array([size], dtype=np.int64),
        first=offsets_of([len(usable)]),
        label=np.array([one.label for one in usable], dtype=np.int64),
        xyxy=xyxy,
        area=np.where(np.isnan(stated), (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1), stated),
        crowd=np.array([one.crowd for one in usable], dtype=bool),
        outlines=Outlines.pack([one.rings for one in usable]),
        rows=np.array([len(usable) + sum(problem.rows for problem in problems)], dtype=np.int64),
        hints=np.array([[hints[kind] for kind in HINTS]], dtype=np.int64),
        problems=[problems],
    )


def _inside(one: Annotation, size: tuple[int, int]) -> tuple[float, ...] | Problem:
    """The box xyxy clipped to the image and rounded, or what is wrong with it."""
    (height, width), (x1, y1, x2, y2) = size, one.xyxy
    if not all(map(math.isfinite, one.xyxy)):
        return Problem("not finite", f"{one.where}: expected finite numbers, found a box {one.xyxy}")
    bounded = tuple(zip(one.xyxy, (width, height, width, height), strict=True))
    if any(not -TOLERANCE * side <= value <= (1 + TOLERANCE) * side for value, side in bounded):
        found = f"expected a box inside the {width} x {height} image, found ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        return Problem("outside the image", f"{one.where}: {found}")
    box = tuple(round(min(max(value, 0.0), side) * STEPS_PER_PIXEL) / STEPS_PER_PIXEL for value, side in bounded)
    if box[2] <= box[0] or box[3] <= box[1]:
        found = f"{x2 - x1:g} x {y2 - y1:g} pixels"
        return Problem("without area", f"{one.where}: expected a width and height above 0, found {found}")
    return box


class LabelReader:
    """How the labels of a split are read; one subclass a format, with ``annotations`` and often ``label_files``.

    ``root`` is the dataset's folder, ``place`` the folder or file that its key ``labels`` names, if it does, ``names``
    those of the classes.
    """

    path: Path | None = None  # the one file of all images, in a format that has one
    drop_repeats = True  # whether an object counts once that is stated several times
    numbers_classes = False  # whether labels have the numbers of classes instead of their names
    with_outlines = True  # whether they are asked for
    reading = ""  # how the rows of the split are to be understood, where they do not say it one by one
    folders: Sequence[str] = ()  # of images, that the sources of the splits name
    kpt_shape: tuple[int, int] | None = None  # keypoints of a pose row and numbers of each, where the YAML says it

    def __init__(self, root: Path, place: Path | None, names: tuple[str, ...]) -> None:
        self.root, self.place, self.names = root, place, names

    def label_files(self, images: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """The file that holds the labels of each of n images, or would, and whether it is there ``[n]`` bool.

        Nothing has to be loaded for it.

        Raises:
            DataError: two images have one file, or an image two.
        """
        raise NotImplementedError

    def load(self, images: Sequence[str]) -> None:
        """Read what all images share, before the first ``annotations``; a DataError where that is not unique."""

    def annotations(
        self, image: str, file: str, size: tuple[int, int]
    ) -> Iterable[Annotation | Problem | Hint | Stated]:
        """What each row of an image's label file says, the image of (height, width) pixels; called by several threads.

        Raises:
            OSError: the file cannot be read; the image is left out.
        """
        raise NotImplementedError

    def ids(self, images: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of n images ``[n]`` and of the C classes ``[C]``, int64, for results in COCO's form."""
        return np.arange(len(images)), np.arange(len(self.names))

    def decide(self, hints: np.ndarray) -> str:
        """The ``reading`` that the hints of all images ``[n, len(HINTS)]`` speak for.

        Raises:
            DataError: they could be two things; the message has the choice to make.
        """
        swapped, turned, stored = (counted(hints)[kind] for kind in ("swapped", "turned", "stored"))
        if turned > MAJORITY * stored or not swapped:
            return ""
        return "stored" if stored > MAJORITY * turned else "unknown"

    def remarks(self, images: Sequence[str], hints: np.ndarray) -> list[Problem]:
        """What is worth a line about the labels as a whole; rows that belong to none of the images among it.

        ``hints`` are those of the first images: behind them stand images of other splits that share the labels.
        """
        swapped = counted(hints)["swapped"]
        if not swapped or self.reading == "unknown":
            return []
        text = f"EXIF turns {swapped} images after their sizes were stated: boxes are read as those of the"
        return [Problem("how rows are read", f"{text} {self.reading or 'turned'} image, as the boxes fit", rows=0)]

    def class_names(self, images: Sequence[str]) -> list[str]:
        """The names of the classes, in a format whose files have them; used where the YAML has no ``names``."""
        return []


class FileReader(LabelReader):
    """A format with a label file for each image; an image without one is background."""

    suffix: str
    twins: Mapping[str, str]  # folders of images, and those of their labels, in lower case; any case is found

    def parse(self, content: bytes, path: str, size: tuple[int, int]) -> Iterable[Annotation | Problem | Hint | Stated]:
        """What each row of a label file says."""
        raise NotImplementedError

    def annotations(
        self, image: str, file: str, size: tuple[int, int]
    ) -> Iterable[Annotation | Problem | Hint | Stated]:
        try:
            content = read_regular(file)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no path at all
            return ()
        return self.parse(content, file, size)

    def label_files(self, images: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Where the label file of each image is expected.

        It is in the folder ``place``, if given, under the image's path below the root (without a leading ``images``);
        or under its bare name, if no image has one there. Otherwise a folder of its path that has a twin becomes that,
        as ``images`` becomes ``labels``, the last one first; failing that, it is beside the image.
        """
        return pair_files(images, self.suffix, self._in_place(images) if self.place else self._by_twins)

    def _by_twins(self, folder: str) -> list[str]:
        parts = folder.split(os.sep)
        numbers = [number for number, part in enumerate(parts) if part.lower() in self.twins]
        twins = (os.sep.join((*parts[:i], self.twins[parts[i].lower()], *parts[i + 1 :])) for i in reversed(numbers))
        return [*twins, folder]

    def _in_place(self, images: Sequence[str]) -> Callable[[str], list[str]]:
        def mirrored(folder: str) -> list[str]:
            below = os.path.relpath(folder, self.root).split(os.sep)
            below = below[1:] if below[0].lower() in self.twins or below == ["."] else below
            return [os.path.join(str(self.place), *below)] if ".." not in below else []

        _, there = pair_files(images, self.suffix, mirrored)
        return mirrored if there.any() else lambda folder: [str(self.place)]
