"""Sizes that label files state: they must be the image's, but EXIF may have turned it since.

A phone stores an image on its side and says so by EXIF. Some tools state the size as stored and draw boxes on the
turned image (Label Studio), others know no EXIF at all (labelImg): only boxes that fit one of the two tell which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from yolo_lite.data.decode import TURNED, exif_orientation
from yolo_lite.data.labels import TOLERANCE, Annotation, Hint, Problem, Stated

ROUNDED = 2  # pixels that a stated side may be off by rounding
# From pixels of the stored image, ``width`` x ``height``, to those of the turned one, by EXIF orientation.
TURNS: dict[int, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
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
    agrees = 0 in claimed or max(abs(claimed[0] - size[0]), abs(claimed[1] - size[1])) <= ROUNDED
    is_asked = reading == "stored" or (claimed == size[::-1] and not agrees)
    orientation = exif_orientation(image) if is_asked else 1
    is_swapped = not agrees and claimed == size[::-1] and orientation in TURNED
    if is_swapped:
        yield Hint("swapped")
        yield from (Hint(kind) for one in rows if isinstance(one, Annotation) for kind in _fits(one, size))
    # Sides that EXIF swaps and that are stated as they are now speak for boxes of the turned image, here at least.
    is_known = orientation in TURNED and agrees and claimed == size != size[::-1]
    if reading == "stored" and (is_swapped or agrees) and not is_known:
        yield from (_turned(one, orientation, size) for one in rows)
    elif agrees or (is_swapped and reading == ""):
        yield from rows
    else:
        place = stated.where if stated else ""
        text = f"{image}: {size[1]} x {size[0]} pixels, but {place} has it as {claimed[1]} x {claimed[0]}"
        if is_swapped:
            text += ", as stored, before EXIF turns it: no box tells whether they are of the stored or the turned image"
        count = sum(getattr(one, "rows", 1) for one in rows if not isinstance(one, Hint))
        yield Problem("labels of another image", text, count)


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


def _turned(one: Annotation | Problem | Hint, orientation: int, size: tuple[int, int]) -> Annotation | Problem | Hint:
    """An annotation of the stored image as one of the turned image of (height, width) pixels."""
    if not isinstance(one, Annotation) or orientation not in TURNS:
        return one
    width, height = size if orientation in TURNED else size[::-1]  # of the stored one
    corners = np.array(one.xyxy, dtype=np.float64).reshape(2, 2)
    corners = np.stack(TURNS[orientation](*corners.T, width, height), axis=1)
    rings = tuple(np.stack(TURNS[orientation](*ring.T, width, height), axis=1) for ring in one.rings)
    return one._replace(xyxy=(*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()), rings=rings)


def around_turned(box: Sequence[float], degrees: Any, size: tuple[int, int]) -> tuple[float, ...]:
    """The upright box xyxy around a box that is turned about its centre (CVAT's rotation), cut at the image's edges."""
    (x1, y1, x2, y2), turn = box, math.radians(float(degrees))
    sides = np.array([[x2 - x1, y2 - y1]]) / 2
    with np.errstate(all="ignore"):  # numbers without end give a box without one, which is refused as such
        half = sides @ np.abs([[math.cos(turn), math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        centre = np.array([x1 + x2, y1 + y2]) / 2
        corners = np.concatenate((centre - half, centre + half)).clip(0, size[::-1])
    return tuple(corners.ravel().tolist())
