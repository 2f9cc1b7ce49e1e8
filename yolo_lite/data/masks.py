"""Outlines as pixels, and pixels as outlines: COCO's run lengths, and masks that a network learns.

A mask is uint8, 1 inside: where the middle of a pixel is. Several rings are the parts of one object; a ring that leads
to a hole and back, as ``join_rings`` makes it, is outside there. M objects of an image of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import faster_coco_eval.core.mask as coco_mask
import numpy as np

from yolo_lite.data.instances import Instances
from yolo_lite.data.outlines import Ring, of_boxes
from yolo_lite.data.turned import ROUNDED

STRIDE = 4  # that of ops.masks, which needs torch


def runs_of(rings: Sequence[Ring], height: int, width: int) -> dict[str, Any]:
    """COCO's run lengths ``{"size", "counts"}`` of the pixels inside any of the rings, to the bit those of pycocotools.

    Its lines lead through fifths of a pixel: rings are rounded to 1/100, as files state them and float32 does not.
    """
    polygons = [ring.astype(np.float64).round(2).ravel().tolist() for ring in rings if len(ring) > 2]
    return coco_mask.merge(coco_mask.frPyObjects(polygons or [[0.0] * 6], height, width))


def mask_of(rings: Sequence[Ring], shape: tuple[int, ...]) -> np.ndarray:
    """Pixels ``[H, W]`` inside any of the rings."""
    mask = np.zeros(shape[:2], dtype=np.uint8)
    if any(len(ring) for ring in rings):
        corner = np.concatenate(rings)
        low, high = np.floor(corner.min(axis=0)).clip(0), np.ceil(corner.max(axis=0)).clip(max=shape[1::-1])
        (left, top), (right, bottom) = low.astype(int).tolist(), high.astype(int).tolist()
        if left < right and top < bottom:  # the rest would be slow
            runs = runs_of([ring - low for ring in rings], bottom - top, right - left)
            mask[top:bottom, left:right] = coco_mask.decode(runs)
    return mask


def mask_of_runs(runs: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask of COCO's run lengths, compressed or as a list of counts, of an image of (height, width) pixels.

    Raises:
        ValueError: they are damaged, or of an image of another size, which may be turned.
    """
    stated, counts = runs.get("size"), runs.get("counts")
    sides = stated if isinstance(stated, list) and all(isinstance(side, int) for side in stated) else []
    if len(sides) != 2 or np.abs(np.sort(sides) - np.sort(size)).max() > ROUNDED:
        raise ValueError(f"expected run lengths of {list(size)} (height, width), found size {stated!r:.60}")
    is_list = isinstance(counts, list) and all(type(one) is int and 0 <= one < 2**32 for one in counts)
    if not (is_list or isinstance(counts, (str, bytes))):
        raise ValueError(f"expected counts of run lengths, a text or whole numbers, found {counts!r:.60}")
    try:
        if is_list:
            runs = coco_mask.frPyObjects({"size": sides, "counts": counts}, *sides)
        return coco_mask.decode(runs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"run lengths that cannot be read: {error}") from error


def rings_of(mask: np.ndarray) -> list[Ring]:
    """The inverse of ``mask_of``: a ring for each connected part, which leads round the holes of the part too."""
    left, top, width, height = cv2.boundingRect(mask)
    # Of every pixel its corners and the middles of its edges too, 3 x 3 points: outlines lead along the edges.
    points = mask[top : top + height, left : left + width].repeat(2, axis=0).repeat(2, axis=1)
    points = cv2.dilate(np.pad(points, ((0, 1), (0, 1))), np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, hierarchy = cv2.findContours(points, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings: dict[int, list[Ring]] = {}
    for number, contour in enumerate(contours):
        parent = int(hierarchy[0, number, 3])  # -1 for the outside of a part
        ring = contour.reshape(-1, 2) / 2 + (left, top)
        rings.setdefault(number if parent < 0 else parent, []).append(ring)
    return [join_rings(own) for own in rings.values()]


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


def learnt_masks(instances: Instances, height: int, width: int) -> np.ndarray:
    """Masks ``[M, H / 4, W / 4]`` of the objects in a network input: of their boxes if they have no rings.

    What is too thin to hold the middle of a pixel gets those that its outline touches.
    """
    masks = np.zeros((len(instances), height // STRIDE, width // STRIDE), np.uint8)
    boxes = of_boxes(instances.xyxy)
    for row, mask in enumerate(masks):
        own = [ring for ring in instances.outlines.of(row) if len(ring) > 2] if instances.outlines else []
        rings = [ring / STRIDE for ring in own or boxes.of(row)]
        mask[:] = mask_of(rings, mask.shape)
        if not mask.any():
            cv2.fillPoly(mask, [to_sixteenths(ring) for ring in rings], 1, shift=4)
    return masks
