"""Outlines as pixels, and pixels as outlines: COCO's run lengths, and masks that a network learns.

A mask is uint8, 1 inside: where the middle of a pixel is. Several rings are the parts of one object; a ring that leads
to a hole and back, as ``join_rings`` makes it, is outside there. M objects of an image of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import faster_coco_eval.core.mask as coco_mask
import numpy as np

from yolo_lite.data.instances import Instances
from yolo_lite.data.outlines import Ring, of_boxes

STRIDE = 4  # pixels of the network input to one of a mask that is learnt


def mask_of(rings: Sequence[Ring], shape: tuple[int, ...]) -> np.ndarray:
    """Pixels ``[H, W]`` inside any of the rings, as COCO's own programs draw them."""
    mask = np.zeros(shape[:2], dtype=np.uint8)
    rings = [ring for ring in rings if len(ring) > 2]
    if rings:
        corner = np.concatenate(rings)
        low, high = np.floor(corner.min(axis=0)).clip(0), np.ceil(corner.max(axis=0)).clip(max=shape[1::-1])
        (left, top), (right, bottom) = low.astype(int).tolist(), high.astype(int).tolist()
        if left < right and top < bottom:  # the rest would be slow
            polygons = [(ring - low).ravel().tolist() for ring in rings]
            runs = coco_mask.merge(coco_mask.frPyObjects(polygons, bottom - top, right - left))
            mask[top:bottom, left:right] = coco_mask.decode(runs)
    return mask


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
