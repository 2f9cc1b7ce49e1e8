"""The labelled objects of images, the rules that they must keep in every format, and how a format is read."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.outlines import Outlines, Ring, concat_offsets, gather_rows, offsets_of

# Annotation tools round: coordinates less than this part of a side outside the image are clipped, others are errors.
TOLERANCE = 0.01
# Coordinates are rounded to 1/100 of a pixel, so that fractions of six digits equal the pixels they were made from.
STEPS_PER_PIXEL = 100
SYSTEM_ERROR = "system error"  # a kind of problem that may be gone at the next reading
OF_OBJECTS = ("label", "xyxy", "area", "crowd")  # arrays with a row for each object


class Annotation(NamedTuple):
    """One object as a label file states it."""

    where: str  # file and line, or how else to find it there
    label: int
    xyxy: tuple[float, ...]  # pixels of the image
    rings: tuple[Ring, ...] = ()  # outlines, where the file has them
    area: float | None = None  # square pixels, where the file states it
    crowd: bool = False  # not learnt, not counted as missed, and nothing found in it counts as wrong


class Problem(NamedTuple):
    """Why a row or a file was left out."""

    kind: str  # a key of doctor.SEVERITY, or SYSTEM_ERROR
    text: str  # where it is, what was expected and what was found


class Labels(NamedTuple):
    """What the files of n images say, T objects together; DatasetIndex explains the fields that it has too."""

    size: np.ndarray  # [n, 2], 0 0 where an image is left out
    first: np.ndarray
    label: np.ndarray
    xyxy: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    outlines: Outlines | None
    problems: list[list[Problem]]  # [n] what was left out of each image, and why

    @property
    def usable(self) -> np.ndarray:
        """The images int64 that are not left out."""
        return np.flatnonzero(self.size.all(axis=1))

    def select(self, images: np.ndarray) -> Labels:
        """The labels of some images, in this order; ``images`` [m] int64."""
        rows, first = gather_rows(self.first, images)
        return Labels(
            size=self.size[images],
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
            size=np.concatenate([part.size for part in parts]),
            first=concat_offsets([part.first for part in parts]),
            outlines=Outlines.concat([part.outlines for part in parts]),
            problems=[own for part in parts for own in part.problems],
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in OF_OBJECTS},
        )


def check_annotations(
    found: Iterable[Annotation | Problem], size: tuple[int, int], drop_repeats: bool = True
) -> Labels:
    """Sort the annotations of one image of (height, width) pixels into usable objects and problems."""
    usable: list[Annotation] = []
    problems: list[Problem] = []
    seen = set()
    for one in found:
        if isinstance(one, Problem):
            problems.append(one)
        elif isinstance(box := _inside(one, size), Problem):
            problems.append(box)
        elif drop_repeats and (one.label, box) in seen:
            problems.append(Problem("repeated object", f"{one.where}: repeats an earlier object"))
        else:
            seen.add((one.label, box))
            usable.append(one._replace(xyxy=box))
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
    """How the labels of a split are read; one subclass a format, with ``file_of`` and ``annotations`` of its own.

    ``root`` is the dataset's folder, ``place`` the folder or file that its key ``labels`` names, if it does, ``names``
    those of the classes.
    """

    path: Path | None = None  # the one file of all images, in a format that has one
    drop_repeats = True  # whether an object counts once that is stated several times

    def __init__(self, root: Path, place: Path | None, names: tuple[str, ...]) -> None:
        self.root, self.place, self.names = root, place, names

    def load(self) -> None:
        """Read what all images share, once, before the first ``read`` or ``ids``; a DataError where that fails."""

    def file_of(self, image: Path) -> Path:
        """The file that holds the labels of an image, or would; it need not exist. Nothing has to be loaded for it."""
        raise NotImplementedError

    def annotations(self, image: Path, size: tuple[int, int]) -> Iterable[Annotation | Problem]:
        """What each row says of an image of (height, width) pixels; called by several threads at once.

        Raises:
            DataError: the labels cannot be read, or do not belong to this image, which is then left out.
        """
        raise NotImplementedError

    def read(self, image: Path, size: tuple[int, int]) -> Labels:
        """The labels of one image of (height, width) pixels; raises what ``annotations`` does."""
        return check_annotations(self.annotations(image, size), size, self.drop_repeats)

    def ids(self, images: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of n images ``[n]`` and of the C classes ``[C]``, int64, for results in COCO's form."""
        return np.arange(len(images)), np.arange(len(self.names))

    def unlisted(self, images: Collection[Path]) -> dict[str, list[str]]:
        """What the one file of all images holds beyond these images: names, by a word for what they are."""
        return {}


class FileReader(LabelReader):
    """A format with a label file for each image; an image without one is background."""

    suffix: str
    twins: Mapping[str, str]  # folders of images, and those of their labels

    def parse(self, content: bytes, path: Path, size: tuple[int, int]) -> Iterable[Annotation | Problem]:
        """What each row of a label file says; a DataError where the file is of an image of another size."""
        raise NotImplementedError

    def annotations(self, image: Path, size: tuple[int, int]) -> Iterable[Annotation | Problem]:
        path = self.file_of(image)
        try:
            return self.parse(path.read_bytes(), path, size) if path.exists() else ()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    def file_of(self, image: Path) -> Path:
        """Where the label file of an image is expected.

        It is in the folder ``place``, if given, under the image's path below the root (without a leading ``images``) or
        its bare name. Otherwise the path's last folder that has a twin becomes that, as ``images`` becomes ``labels``;
        failing that, it is beside the image.
        """
        # Strings take a sixth of the time of Path, and this is called for every image at every start.
        beside = os.path.splitext(image)[0] + self.suffix
        if self.place:
            below = Path(os.path.relpath(beside, self.root))
            below = below.relative_to(below.parts[0]) if below.parts[0] in self.twins else below
            mirrored = self.place / below
            return mirrored if mirrored.is_file() else self.place / below.name
        parts = beside.split(os.sep)
        for number in reversed(range(len(parts) - 1)):
            if parts[number] in self.twins:
                mapped = os.sep.join((*parts[:number], self.twins[parts[number]], *parts[number + 1 :]))
                return Path(mapped if os.path.isfile(mapped) or not os.path.isfile(beside) else beside)
        return Path(beside)
