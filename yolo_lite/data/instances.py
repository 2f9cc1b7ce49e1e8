"""The objects of one image on their way through augmentation.

Everything that moves objects is a 3x3 matrix, so boxes and outlines go the same way, and all that cuts them is a
rectangle. Coordinates are pixels of the image, counted from the edge of the first pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from yolo_lite.data.outlines import IDENTITY, Outlines, Point, of_boxes, warp_points


@dataclass(frozen=True)
class Instances:
    """The m objects of an image."""

    label: np.ndarray  # [m] int64
    xyxy: np.ndarray  # [m, 4] float64, the part of each object that lies in the image
    share: np.ndarray  # [m] float64, the area of that part as a fraction of the whole object's, 0..1
    outlines: Outlines | None = None  # where the labels have them and they were asked for

    def __len__(self) -> int:
        return len(self.label)

    def select(self, rows: np.ndarray) -> Instances:
        """Some of the objects: ``rows`` are indices ``[k]`` int64 or a choice ``[m]`` bool."""
        rows = np.arange(len(self))[rows]
        outlines = self.outlines and self.outlines.select(rows)
        return Instances(self.label[rows], self.xyxy[rows], self.share[rows], outlines)

    @staticmethod
    def concat(parts: Sequence[Instances]) -> Instances:
        """The objects of all parts; they have outlines where every part has them."""
        label, xyxy, share = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("label", "xyxy", "share")
        )
        return Instances(label, xyxy, share, Outlines.concat([part.outlines for part in parts]))

    def warped(self, matrix: np.ndarray) -> Instances:
        """The objects after a 3x3 matrix, boxes upright around the warped ones; what gets behind the viewer is NaN.

        Where the image is cut as well, ``warped_onto`` draws closer boxes.
        """
        points = self.xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
        corners = warp_points(points, matrix).reshape(-1, 4, 2)
        xyxy = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=-1)
        outlines = self.outlines and self.outlines._replace(corner=warp_points(self.outlines.corner, matrix))
        return replace(self, xyxy=xyxy, outlines=outlines)

    def clipped(self, low: Point, high: Point) -> Instances:
        """The parts within the rectangle from ``low`` to ``high``, x and y; shares shrink with the areas."""
        if self._has_rings:
            return self._cut(IDENTITY, low, high)
        xyxy = np.minimum(np.maximum(self.xyxy, low * 2), high * 2)
        whole, part = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (self.xyxy, xyxy))
        share = self.share * part / np.maximum(whole, 1e-9)  # no area, no share
        return replace(self, xyxy=xyxy, share=share)

    def warped_onto(self, matrix: np.ndarray, size: Point) -> Instances:
        """What of the objects lies after a 3x3 matrix in an image of ``size``, width and height.

        Boxes are drawn around what the image leaves of an outline, or of a turned box: around the whole and then cut
        they would also hold what the image has cut off.
        """
        is_upright = not matrix[(0, 1, 2, 2), (1, 0, 0, 1)].any()
        if is_upright and not self._has_rings:
            return self.warped(matrix).clipped((0, 0), size)
        return self._cut(matrix, (0, 0), size)

    @property
    def _has_rings(self) -> bool:
        return self.outlines is not None and len(self.outlines.corner) > 0

    def _cut(self, matrix: np.ndarray, low: Point, high: Point) -> Instances:
        """The parts within a rectangle after a matrix, by their outlines; by their boxes where these have no area."""
        whole, drawn = of_boxes(self.xyxy), np.zeros(len(self), dtype=bool)
        if self.outlines and self._has_rings and (both := Outlines.concat((self.outlines, whole))):
            drawn = self.outlines.area > 0
            whole = both.select(np.arange(len(self)) + np.where(drawn, 0, len(self)))
        part = whole.clipped(low, high, matrix)
        share = self.share * np.minimum(part.area / np.maximum(whole.area, 1e-9), 1)  # no area, no share
        part = part._replace(corner=warp_points(part.corner, matrix).clip(low, high))
        return replace(self, xyxy=part.xyxy, share=share, outlines=self.outlines and part.only(drawn))


class Sample(NamedTuple):
    """An image and its objects on their way through augmentation."""

    image: np.ndarray  # uint8 [H, W, channels]
    instances: Instances


def shift_matrix(x: float, y: float) -> np.ndarray:
    """The 3x3 matrix of a shift by x and y pixels."""
    return scale_matrix(1, 1, x, y)


def scale_matrix(x: float, y: float, left: float = 0, top: float = 0) -> np.ndarray:
    """The 3x3 matrix that scales the two axes and then shifts by left and top; a scale of -1 mirrors."""
    return np.array([[x, 0, left], [0, y, top], [0, 0, 1.0]])
