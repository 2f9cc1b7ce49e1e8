"""Large images in views, the whole and windows that cover it, and what is found in them as detections of the image.

V views and K detections of one image, boxes xyxy in its pixels. A seam is a side of a window inside the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from yolo_lite.ops.nms import DetectOptions

SEAM = 0.01  # of a window's longest side: how near to a seam a box may end and still be cut by it
OUTWARD = np.array([-1, -1, 1, 1])  # sides of a box times this: larger numbers are further out, on every side


class Tiles(NamedTuple):
    """How images are cut into windows."""

    size: int = 0  # pixels of the image that a side of a window has; 0: there are none
    overlap: float = 0.2  # share of a window that its neighbour sees too, or more

    def __str__(self) -> str:
        return f", and windows of {self.size} px of the image that overlap by {self.overlap:g}" if self.size else ""


def views_of(height: int, width: int, tiles: Tiles) -> np.ndarray:
    """The views ``[V, 4]`` int64 of an image: the whole and, where it does not fit into one, its windows in rows."""
    whole = np.array([[0, 0, width, height]])
    if not tiles.size or max(height, width) <= tiles.size:
        return whole
    y, x = np.meshgrid(_starts(height, tiles), _starts(width, tiles), indexing="ij")
    low = np.stack((x.ravel(), y.ravel()), axis=1)
    return np.concatenate((whole, np.concatenate((low, np.minimum(low + tiles.size, (width, height))), axis=1)))


def _starts(side: int, tiles: Tiles) -> np.ndarray:
    """Where windows begin along a side: evenly, as few as the overlap allows."""
    beyond, step = max(side - tiles.size, 0), max(int(tiles.size * (1 - tiles.overlap)), 1)
    steps = -(-beyond // step)
    return np.arange(steps + 1) * beyond // max(steps, 1)


def sight_of(box: np.ndarray, view: np.ndarray, height: int, width: int) -> np.ndarray:
    """How far sides of boxes ``[K, 4]`` were seen in their views, times OUTWARD: to a seam that cuts, else inf."""
    seam, edge = SEAM * (view[:, 2:] - view[:, :2]).max(axis=1, keepdims=True), view * OUTWARD
    is_cut = (box * OUTWARD >= edge - seam) & (edge < np.array([0, 0, width, height]))
    return np.where(is_cut, edge, np.inf)


def merge(
    box: np.ndarray, score: np.ndarray, label: np.ndarray, sight: np.ndarray, options: DetectOptions
) -> tuple[np.ndarray, list[list[int]]]:
    """NMS over the detections of all views: boxes ``[R, 4]``, best first, and the rows each is made of.

    A box is dropped for a better one of its class if, as far as both could be seen, they overlap by an IoU above
    ``options.iou``, or if a seam cuts it and more than that share of it lies in the better one. Where a seam cuts the
    better one, it ends where a dropped one does that was seen further: they become one. Without seams this is NMS.
    """
    sides, left = box * OUTWARD, np.argsort(-score, kind="stable")
    group = np.zeros_like(label) if options.agnostic else label
    boxes, rows = [], list[list[int]]()
    while len(left) and len(rows) < options.max_detections:
        best, left = left[0], left[1:]
        one, seen, own, new = sides[best], sight[best], list[int](), [int(best)]
        while new:
            own += new
            kept = group[left] != group[best]
            near = left[~kept]
            same, is_piece = _compared(one, seen, sides[near], sight[near], options.iou)
            kept[~kept] = ~(same | is_piece)
            left = left[kept]
            one, seen, new = _completed(one, seen, sides, sight, near[same])
        boxes.append(one * OUTWARD)
        rows.append(own)
    return np.array(boxes).reshape(-1, 4), rows


def _compared(
    one: np.ndarray, seen: np.ndarray, others: np.ndarray, sight: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the others ``[K, 4]`` are the same object as one, and which are cut pieces in it."""
    both = np.minimum(seen, sight)
    one, others = np.minimum(one, both), np.minimum(others, both)
    shared, own, areas = _area(np.minimum(one, others)), _area(one), _area(others)
    return shared > iou * (own + areas - shared), np.isfinite(sight).any(axis=1) & (shared > iou * areas)


def _area(sides: np.ndarray) -> np.ndarray:
    return np.maximum(sides[:, :2] + sides[:, 2:], 0).prod(axis=1)


def _completed(
    one: np.ndarray, seen: np.ndarray, sides: np.ndarray, sight: np.ndarray, same: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A box, how far it was seen, and the rows, best first, whose sides took the place of those that a seam cut."""
    one, seen, new = one.copy(), seen.copy(), []
    for side in np.flatnonzero(np.isfinite(seen)) if len(same) else ():
        further = same[sight[same, side].argmax()]  # the first of equals: the best
        if sight[further, side] > seen[side]:
            one[side], seen[side] = sides[further, side], sight[further, side]
            new.append(int(further))
    return one, seen, [*dict.fromkeys(new)]
