"""Images that cannot be read: when the index is made, or, where it could tell the size of them, when they are used.

The latter's files are damaged further in, or have changed or gone since. Each is named, counted and, in training,
replaced by the next image: a pure function of the sample and of which files are bad. Where too many are, the run ends.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.index import DatasetIndex
from yolo_lite.data.labels import OF_OBJECTS
from yolo_lite.data.outlines import gather_rows

MOST = 0.1  # of the images of a split
FEW = 3  # so many may be unreadable in any split
# The process has no descriptors or no memory left: every other image would fail as well.
_OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

Unreadable = Iterable[tuple[int, str]]  # positions in an index, and what is wrong, a line that begins with the path


def reason_of(error: DataError) -> str:
    """What is wrong with an image; the error is raised again where it is not the image's."""
    if getattr(error.__cause__, "errno", None) in _OF_THE_PROCESS:
        raise error
    return str(error)


def first_readable(
    read: Callable[[int], np.ndarray], position: int, num_images: int, found: dict[int, str]
) -> tuple[int, np.ndarray]:
    """The image at ``position`` or the next one that can be read, and its pixels; ``found`` gets those that cannot.

    Raises:
        DataError: too many in a row cannot.
    """
    own: dict[int, str] = {}
    for step in range(num_images):
        one = (position + step) % num_images
        try:
            return one, read(one)
        except DataError as error:
            own[one] = found[one] = reason_of(error)
        check_share(own, num_images)
    raise AssertionError("the share is checked before all images have been tried")


def check_share(found: Mapping[int, str], num_images: int) -> None:
    """Raise a DataError where too many images of a split, or all, cannot be read."""
    if len(found) > max(FEW, MOST * num_images) or len(found) == num_images:
        told = f"{len(found)} of {num_images} images cannot be read, which is more than {MOST:.0%} (or than {FEW})"
        what_to_do = "yolo-lite check names all: repair them or take them out of the set"
        raise DataError(f"{told}; {what_to_do}; the first: {next(iter(found.values()))}")


def check_index(index: DatasetIndex, data_file: str | Path, split: str) -> None:
    """Raise a DataError where the index has left out more that cannot be read than may be unreadable at its use."""
    try:
        check_share(dict(enumerate(index.unreadable)), len(index) + len(index.unreadable))
    except DataError as error:
        raise DataError(f"{data_file}: {split}: {error}") from None


def all_unreadable(found: Iterable[Mapping[int, str]], num_images: int) -> dict[int, str]:
    """What all processes have found, by position; DataError where it is too much."""
    joined = dict(sorted(one for own in found for one in own.items()))
    if joined:
        check_share(joined, num_images)
    return joined


def without_images(index: DatasetIndex, positions: Iterable[int]) -> tuple[DatasetIndex, np.ndarray]:
    """The index without some of its images and their objects, and the positions int64 of those that are left."""
    kept = np.setdiff1d(np.arange(len(index)), np.fromiter(positions, np.int64))
    rows, first = gather_rows(index.first, kept)
    of_images = {name: getattr(index, name)[kept] for name in ("paths", "size", "image_id")}
    of_objects = {name: getattr(index, name)[rows] for name in OF_OBJECTS}
    outlines = index.outlines and index.outlines.select(rows)
    return replace(index, first=first, outlines=outlines, **of_images, **of_objects), kept
