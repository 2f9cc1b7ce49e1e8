"""Outlines of objects: polygons in packed arrays, and what can be done with them.

T objects have R rings (polygons) of Q corners, x and y in pixels of the image: several rings where an object is seen in
several parts, none where only its box is known. ``first`` arrays hold where each thing begins and the last one ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

Ring = np.ndarray  # [q, 2] float, the corners of a polygon
Point = tuple[float, float]  # x, y
IDENTITY = np.eye(3)


class Outlines(NamedTuple):
    """Outlines of T objects."""

    corner: np.ndarray  # [Q, 2] float
    first_corner: np.ndarray  # [R + 1] int64
    first_ring: np.ndarray  # [T + 1] int64

    @staticmethod
    def pack(outlines: Iterable[Sequence[Ring]]) -> Outlines:
        outlines = list(outlines)
        rings = [ring for own in outlines for ring in own]
        corner = np.concatenate(rings) if rings else np.zeros((0, 2), np.float32)
        return Outlines(corner, offsets_of([len(ring) for ring in rings]), offsets_of([len(own) for own in outlines]))

    @staticmethod
    def concat(parts: Sequence[Outlines | None]) -> Outlines | None:
        """The objects of all parts, one part behind the other; None where a part is None."""
        known = [part for part in parts if part]
        if len(known) < len(parts):
            return None
        corner, first_corner, first_ring = zip(*known, strict=True)
        return Outlines(np.concatenate(corner), concat_offsets(first_corner), concat_offsets(first_ring))

    def of(self, row: int | np.integer) -> list[Ring]:
        first, end = self.first_ring[row : row + 2]
        begins = self.first_corner[first : end + 1]
        return np.split(self.corner[begins[0] : begins[-1]], begins[1:-1] - begins[0]) if end > first else []

    def select(self, rows: np.ndarray) -> Outlines:
        """The outlines of some objects, ``rows`` [m] int64."""
        rings, first_ring = gather_rows(self.first_ring, rows)
        corners, first_corner = gather_rows(self.first_corner, rings)
        return Outlines(self.corner[corners], first_corner, first_ring)

    def only(self, rows: np.ndarray) -> Outlines:
        """The same objects, those outside of a choice ``[T]`` bool without rings."""
        first_ring = offsets_of(np.diff(self.first_ring) * rows)
        return self.select(np.flatnonzero(rows))._replace(first_ring=first_ring)

    def clipped(self, low: Point, high: Point, matrix: np.ndarray = IDENTITY) -> Outlines:
        """The parts that lie within the rectangle from ``low`` to ``high`` after a matrix (Sutherland, Hodgman, 1974).

        They are those of the outlines before it: the sides of the rectangle are carried back, not the corners forth,
        so that what perspective puts behind the viewer needs no care. Parts of one ring stay joined along the border
        of the rectangle; a ring outside it is left without corners.
        """
        sides = (
            sign * (matrix[axis] - limit[axis] * matrix[2]) for axis in (0, 1) for sign, limit in ((1, low), (-1, high))
        )
        parts = self
        for side in sides:  # [3], positive for what is kept
            parts = parts._cut(parts.corner @ side[:2] + side[2])
        return parts

    def within(self, xyxy: np.ndarray, size: Point) -> Outlines:
        """The parts within an image; none where an outline is not of its label's box ``[T, 4]`` (IoU below 0.5)."""
        parts = self.clipped((0, 0), size)
        drawn = parts.xyxy
        overlap = np.minimum(drawn[:, 2:], xyxy[:, 2:]) - np.maximum(drawn[:, :2], xyxy[:, :2])
        own, stated = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (drawn, xyxy))
        is_trusted = 3 * overlap.clip(min=0).prod(axis=1) >= own + stated
        return parts if is_trusted.all() else parts.only(is_trusted)

    def _cut(self, depth: np.ndarray) -> Outlines:
        """The parts where ``depth`` ``[Q]``, linear between corners, is not negative."""
        is_inside = depth >= 0
        if is_inside.all():
            return self
        corner, following = self.corner, self._following
        is_crossed = is_inside != is_inside[following]  # by the edge to the next corner
        begin = np.flatnonzero(is_crossed)
        end = following[begin]
        part = depth[begin] / (depth[begin] - depth[end])
        place = offsets_of(is_inside.astype(np.int64) + is_crossed)  # where what is left of each corner begins
        cut = np.empty((place[-1], 2))
        cut[place[:-1][is_inside]] = corner[is_inside]
        cut[place[1:][is_crossed] - 1] = corner[begin] + part[:, None] * (corner[end] - corner[begin])
        return self._replace(corner=cut, first_corner=place[self.first_corner])

    @property
    def _following(self) -> np.ndarray:
        """The next corner ``[Q]`` of the same ring, the first one's after the last."""
        first, following = self.first_corner, np.arange(1, len(self.corner) + 1)
        has_corners = first[1:] > first[:-1]
        following[first[1:][has_corners] - 1] = first[:-1][has_corners]
        return following

    @property
    def area(self) -> np.ndarray:
        """Area ``[T]`` of each object: that of its rings by the formula of Gauss, added up."""
        x, y = (self.corner - self.corner[:1]).T
        following = self._following
        doubled = sums_of(x * y[following] - x[following] * y, self.first_corner)  # of each ring, with a sign
        return sums_of(np.abs(doubled), self.first_ring) / 2

    @property
    def xyxy(self) -> np.ndarray:
        """The box ``[T, 4]`` around each object, zeros where it has no corner."""
        ends, xyxy = self.first_corner[self.first_ring], np.zeros((len(self.first_ring) - 1, 4))
        seen = ends[1:] > ends[:-1]
        if seen.any():
            first = ends[:-1][seen]
            corners = (function.reduceat(self.corner, first) for function in (np.minimum, np.maximum))
            xyxy[seen] = np.concatenate(tuple(corners), axis=1)
        return xyxy


def of_boxes(xyxy: np.ndarray) -> Outlines:
    """The outlines of boxes ``[T, 4]``: one ring of four corners each."""
    first = np.arange(len(xyxy) + 1)
    return Outlines(xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), 4 * first, first)


def offsets_of(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where things of these lengths begin, and the end of the last: ``[n]`` to ``[n + 1]``."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def sums_of(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The sum of the values of each thing, 0 where it has none."""
    return np.bincount(np.repeat(np.arange(len(first) - 1), np.diff(first)), values, len(first) - 1)


def concat_offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The offsets of all things, those of one part behind the other."""
    return offsets_of(np.concatenate([np.diff(part) for part in parts]))


def gather_rows(first: np.ndarray, things: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some things, one thing behind the other, and where each begins among them."""
    counts = np.diff(first)[things]
    begins = offsets_of(counts)
    return np.arange(begins[-1]) + np.repeat(first[things] - begins[:-1], counts), begins


def warp_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points ``[n, 2]`` through a 3x3 matrix; NaN where perspective puts them behind the viewer."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]  # [n, 3]
    return moved[:, :2] / np.where(moved[:, 2:] > 0, moved[:, 2:], np.nan)
