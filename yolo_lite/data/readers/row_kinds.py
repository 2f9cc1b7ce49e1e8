"""What YOLO's rows of more than 6 columns are: polygons, oriented boxes, or boxes with keypoints (pose).

A row alone may be several of these; what it looks like is a hint, and all rows of a split decide together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.labels import MAJORITY, Hint, counted

SLACK = 0.01  # points and boxes are this far outside the image at most
QUORUM = 0.25  # the least part of all wide rows that may decide what they are


def hints_of(values: np.ndarray) -> Iterator[Hint]:
    """What the numbers of a wide row behind its class look like; nothing if they can be neither."""
    columns = len(values) + 1
    is_pose = any(_is_pose(values, each) for each in keypoint_sizes(columns))
    is_polygon = columns % 2 == 1 and _is_polygon(values.reshape(-1, 2))
    is_oriented = columns == 9 and _is_parallelogram(values.reshape(-1, 2))
    if not (is_pose or is_polygon):
        return
    yield from (Hint("wide"), Hint("columns", columns), Hint("squares", columns**2))
    if _is_boxed(values):
        yield Hint("boxed")
    if is_oriented:
        yield Hint("oriented")
    if is_oriented or is_pose != is_polygon:
        yield Hint("polygon" if is_oriented or is_polygon else "pose")


def kind_of(hints: np.ndarray) -> str:
    """What the hints of all images ``[n, len(HINTS)]`` speak for: "pose", or "" for polygons and boxes.

    Rows of keypoints have the same number of columns. Where rows that pass for polygons all have 7 or all 9, and all
    begin with a box inside the image, they may as well be boxes with a confidence and something else behind them.

    Raises:
        DataError: they could be two things.
    """
    counts = counted(hints)
    wide, pose, polygon = (counts[kind] for kind in ("wide", "pose", "polygon"))
    is_uniform = wide * counts["squares"] == counts["columns"] ** 2
    if pose > MAJORITY * polygon and pose >= QUORUM * wide and is_uniform:
        return "pose"
    is_short = counts["columns"] <= 9 * wide  # polygons in the middle of the image begin with a box too
    are_boxed = is_uniform and is_short and counts["boxed"] == wide > counts["oriented"]
    if not wide or (polygon > MAJORITY * pose and polygon >= QUORUM * wide and not are_boxed):
        return ""
    found = f"{wide} rows of more than 6 columns: {pose} look like boxes with keypoints, {polygon} like polygons"
    found += f", {counts['boxed']} begin with a box"
    raise DataError(f"{found}; say what they are: labels_are: polygon, or obb, or pose (or kpt_shape: [17, 3])")


def keypoint_sizes(columns: int) -> list[int]:
    """The numbers of a keypoint, 2 or 3, with which a row may have so many columns."""
    return [each for each in (2, 3) if columns > 6 and (columns - 5) % each == 0]


def _is_boxed(values: np.ndarray) -> bool:
    """Whether the first four numbers are a box inside the image."""
    centre, side = values[:2], values[2:4]
    return bool((side > 0).all() and (abs(centre - 0.5) + side / 2 <= 0.5 + SLACK).all())


def _is_pose(values: np.ndarray, each: int) -> bool:
    """Whether a row begins with a box, and the keypoints behind it are not far from it."""
    centre, side, points = values[:2], values[2:4], values[4:].reshape(-1, each)
    if not _is_boxed(values):
        return False
    # The third number is 0, 1 or 2 for how well a point is seen, or a confidence.
    if each == 3 and not ((points[:, 2] == 2) | (abs(points[:, 2] - 0.5) <= 0.5)).all():
        return False
    seen = points[points.any(axis=1), :2]  # a point that is not there is written as zeros
    return bool((abs(seen - centre) <= side).all())


def _is_polygon(points: np.ndarray) -> bool:
    """Whether all points are in the image and the second, the size of a box otherwise, is not far from the others."""
    if (abs(points - 0.5) > 0.5 + SLACK).any():
        return False
    others = np.delete(points, 1, axis=0)
    low, high = others.min(axis=0), others.max(axis=0)
    return bool((abs(points[1] - (low + high) / 2) <= 1.5 * (high - low).max()).all())


def _is_parallelogram(points: np.ndarray) -> bool:
    apart = abs(points[0] + points[2] - points[1] - points[3]).max()
    return bool(apart <= SLACK * (points.max(axis=0) - points.min(axis=0)).max())
