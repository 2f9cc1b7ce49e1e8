"""Sizes that label files state: they must be the image's, but EXIF may have turned it since.

A phone stores an image on its side and says so by EXIF. Some tools state the size as stored and draw boxes on the
turned image (Label Studio), others know no EXIF at all (labelImg): only boxes that fit one of the two tell which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from yolo_lite.data.images import TURNED, exif_orientation
from yolo_lite.data.labels import TOLERANCE, Annotation, Hint, Problem, Stated

ROUNDED = 2  # pixels that a stated side may be off by rounding
# From pixels of the stored image, ``width`` x ``height``, to those of the turned one, by EXIF orientation.
Turn = Callable[..., tuple[np.ndarray, np.ndarray]]
TURNS: dict[int, Turn] = {
    2: lambda x, y, width, height: (width - x, y),
    3: lambda x, y, width, height: (width - x, height - y),
    4: lambda x, y, width, height: (x, height - y),
    5: lambda x, y, width, height: (y, x),
    6: lambda x, y, width, height: (height - y, x),
    7: lambda x, y, width, height: (height - y, width - x),
    8: lambda x, y, width, height: (y, width - x),
}

Found = Annotation | Problem | Hint | Stated


def fitted(
    found: Sequence[Found], size: tuple[int, int], image: str, reading: str
) -> Iterator[Annotation | Problem | Hint]:
    """What the rows say of an image of (height, width) pixels, in its pixels; one problem where the sizes disagree.

    Args:
        reading: where EXIF has swapped the sides since the size was stated, whose pixels boxes are in: ``""`` for the
            turned image, "stored" for the stored one, "unknown".
    """
    rows = [one for one in found if not isinstance(one, Stated)]
    stated = next((one for one in found if isinstance(one, Stated)), None)
    claimed = size if stated is None else (pixels_stated(stated.height) or 0, pixels_stated(stated.width) or 0)
    if stated is None or 0 in claimed or max(abs(claimed[0] - size[0]), abs(claimed[1] - size[1])) <= ROUNDED:
        turn = _turn(image, claimed, size) if reading == "stored" else None
        yield from rows if turn is None else (_turned(one, turn, size) for one in rows)
        return
    where = f"{image}: {size[1]} x {size[0]} pixels, but {stated.where} has it as {claimed[1]} x {claimed[0]}"
    turn = TURNS.get(exif_orientation(image)) if claimed == size[::-1] else None
    if turn is not None:
        yield Hint("swapped")
        yield from (Hint(kind) for one in rows if isinstance(one, Annotation) for kind in _fits(one, size))
        if reading == "":
            yield from rows
            return
        if reading == "stored":
            yield from (_turned(one, turn, size) for one in rows)
            return
        where += ", as stored, before EXIF turns it: no box tells whether they are of the stored or the turned image"
    yield Problem(
        "labels of another image", where, sum(getattr(one, "rows", 1) for one in rows if not isinstance(one, Hint))
    )


def pixels_stated(stated: Any) -> int | None:
    """A side in pixels as a file states it; None where it is 0, null or no number: unknown."""
    try:
        return int(float(stated)) or None
    except (TypeError, ValueError, OverflowError):
        return None


def _fits(one: Annotation, size: tuple[int, int]) -> list[str]:
    """Whether a box fits the turned or the stored image alone."""
    longest = (1 + TOLERANCE) * np.array(size)
    turned, stored = (bool((np.array(one.xyxy[2:]) <= sides).all()) for sides in (longest[::-1], longest))
    return [] if turned == stored else ["turned" if turned else "stored"]


def _turn(image: str, claimed: tuple[int, int], size: tuple[int, int]) -> Turn | None:
    """What EXIF does to an image of a stored reading whose size does not tell: all but turned sides that are stated."""
    orientation = exif_orientation(image)
    is_known = orientation in TURNED and size[0] != size[1] and claimed == size
    return None if is_known else TURNS.get(orientation)


def _turned(one: Annotation | Problem | Hint, turn: Turn, size: tuple[int, int]) -> Annotation | Problem | Hint:
    """An annotation of the stored image as one of the turned image of (height, width) pixels."""
    if not isinstance(one, Annotation):
        return one
    width, height = size  # of the stored one
    corners = np.array(one.xyxy, dtype=np.float64).reshape(2, 2)
    corners = np.stack(turn(*corners.T, width, height), axis=1)
    rings = tuple(np.stack(turn(*ring.T, width, height), axis=1) for ring in one.rings)
    return one._replace(xyxy=(*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()), rings=rings)
