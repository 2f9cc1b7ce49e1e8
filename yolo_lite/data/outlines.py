"""Outlines of objects: polygons in packed arrays, and what can be done with them.

T objects have R rings (polygons) of Q corners, x and y in pixels of the image: several rings where an object is seen in
several parts, none where only its box is known. ``first`` arrays hold where each thing begins and the last one ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

Ring = np.ndarray  # [q, 2] float, the corners of a polygon


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

    def clipped(self, low: tuple[float, float], high: tuple[float, float]) -> Outlines:
        """The parts within the rectangle from ``low`` to ``high`` (Sutherland, Hodgman, 1974).

        Parts of one ring stay joined along the border of the rectangle; a ring outside it is left without corners.
        """
        return self._cut(0, low[0], 1)._cut(0, high[0], -1)._cut(1, low[1], 1)._cut(1, high[1], -1)

    def _cut(self, axis: int, limit: float, sign: int) -> Outlines:
        """What lies at or above ``limit`` on an axis; at or below it with ``sign`` -1."""
        corner, first = self.corner, self.first_corner
        depth = sign * (corner[:, axis] - limit)  # [Q]
        is_inside = depth >= 0
        if is_inside.all():
            return self
        following = np.arange(1, len(corner) + 1)  # the next corner of the same ring
        has_corners = first[1:] > first[:-1]
        following[first[1:][has_corners] - 1] = first[:-1][has_corners]
        is_crossed = is_inside != is_inside[following]  # by the edge to the next corner
        part = depth / np.where(is_crossed, depth - depth[following], 1)
        crossing = corner + part[:, None] * (corner[following] - corner)
        kept = np.stack((is_inside, is_crossed), axis=1)  # [Q, 2]
        first_corner = np.concatenate(([0], kept.sum(axis=1).cumsum()))[first]
        return self._replace(corner=np.stack((corner, crossing), axis=1)[kept], first_corner=first_corner)


def offsets_of(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where things of these lengths begin, and the end of the last: ``[n]`` to ``[n + 1]``."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


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


def join_rings(rings: Sequence[Ring]) -> Ring:
    """One polygon float64 ``[q, 2]`` of several: lines of no width lead from each to the next, and back."""
    if len(rings) == 1:
        return rings[0].astype(np.float64)
    closed = [np.concatenate((ring, ring[:1])) for ring in rings]
    back = [ring[:1] for ring in rings[-2:0:-1]]
    return np.concatenate(closed + back).astype(np.float64)


def to_sixteenths(points: np.ndarray) -> np.ndarray:
    """Points for cv2 with shift=4: whole 1/16 pixels, counted from the middle of the first pixel."""
    return np.round((points - 0.5) * 16).astype(np.int32)


def mask_of(rings: Sequence[Ring], shape: tuple[int, ...]) -> np.ndarray:
    """Pixels uint8 ``[H, W]``, 1 inside any of the rings."""
    mask = np.zeros(shape[:2], dtype=np.uint8)
    for ring in rings:
        if len(ring):
            cv2.fillPoly(mask, [to_sixteenths(ring)], 1, shift=4)
    return mask


def rings_of(mask: np.ndarray) -> list[Ring]:
    """The inverse of ``mask_of``: a ring for each connected part, which leads round the holes of the part too."""
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings: dict[int, list[Ring]] = {}
    for number, contour in enumerate(contours):
        parent = int(hierarchy[0, number, 3])  # -1 for the outside of a part
        rings.setdefault(number if parent < 0 else parent, []).append(contour.reshape(-1, 2) + 0.5)
    return [join_rings(own) for own in rings.values()]
