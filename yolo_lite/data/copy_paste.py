"""Copy-paste: objects cut out of an image and put onto another (Ghiasi et al., arXiv:2012.07177)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from yolo_lite.data.augment import warp_pixels
from yolo_lite.data.instances import Instances, Sample
from yolo_lite.data.outlines import Outlines, Ring, mask_of, rings_of

ZOOM = (0.5, 1.25)  # of the pasted objects
CHANCE = 0.5  # of each object to be pasted


def copy_paste(host: Sample, donor: Sample, rng: np.random.Generator) -> Sample:
    """The host with some of the donor's objects, mirrored half the time, zoomed and shifted together.

    Both have outlines; of the donor, only objects that have one are pasted. The box of a pasted object is that of its
    outline, as far as its mask reaches in the image. What it lies upon loses the share that is hidden, and its box
    ends where nothing of it is seen any more.
    """
    shape, outlines = host.image.shape, donor.instances.outlines
    assert outlines
    matrix = _random_place(shape, donor.image.shape, rng)
    has_outline = np.diff(outlines.first_ring) > 0
    chosen = np.flatnonzero([known and rng.random() < CHANCE for known in has_outline])
    moved = donor.instances.select(chosen).warped(matrix)
    assert moved.outlines
    rings = [moved.outlines.of(row) for row in range(len(moved))]
    masks = [mask_of(own, shape) for own in rings]
    rows = np.flatnonzero([mask.any() for mask in masks])
    if not len(rows):
        return host
    cover = np.bitwise_or.reduce([masks[row] for row in rows])
    image, is_pasted = host.image.copy(), cover.astype(bool)
    image[is_pasted] = warp_pixels(donor.image, matrix, (shape[1], shape[0]))[is_pasted]
    boxes = [_overlap(_extent(rings[row]), box_of(masks[row])) for row in rows]
    shares = [min(masks[row].sum() / max(_area(rings[row]), 1), 1.0) for row in rows]
    pasted = moved.select(rows).clipped((0, 0), (shape[1], shape[0]))
    pasted = replace(pasted, xyxy=np.array(boxes), share=np.array(shares))
    return Sample(image, Instances.concat([_hide(host.instances, cover), pasted]))


def _random_place(host: tuple[int, ...], donor: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A 3x3 matrix that mirrors, zooms and shifts the donor; of the two, the smaller lies within the larger."""
    zoom, is_mirrored = rng.uniform(*ZOOM), rng.random() < 0.5
    free_x, free_y = host[1] - zoom * donor[1], host[0] - zoom * donor[0]
    left, top = rng.uniform(0, 1, 2) * (free_x, free_y)
    x_zoom, x_shift = (-zoom, left + zoom * donor[1]) if is_mirrored else (zoom, left)
    return np.array([[x_zoom, 0, x_shift], [0, zoom, top], [0, 0, 1]])


def _extent(rings: Sequence[Ring]) -> np.ndarray:
    points = np.concatenate(rings)
    return np.concatenate((points.min(axis=0), points.max(axis=0)))


def _area(rings: Sequence[Ring]) -> float:
    return sum(cv2.contourArea(ring.astype(np.float32)) for ring in rings)


def _overlap(first: np.ndarray, second: Sequence[float]) -> np.ndarray:
    return np.concatenate((np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])))


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """xyxy of the pixels that are not 0; there must be one."""
    left, top, width, height = cv2.boundingRect(mask)
    return left, top, left + width, top + height


def _hide(instances: Instances, cover: np.ndarray) -> Instances:
    """The objects under a cover uint8 ``[H, W]``: boxes, shares and outlines of what is still seen of them."""
    assert instances.outlines
    xyxy, share = instances.xyxy.copy(), instances.share.copy()
    outlines = [instances.outlines.of(row) for row in range(len(instances))]
    left, top, right, bottom = box_of(cover)
    is_touched = (xyxy[:, :2] < (right, bottom)).all(axis=1) & (xyxy[:, 2:] > (left, top)).all(axis=1)
    for row in np.flatnonzero(is_touched):
        x1, y1, x2, y2 = xyxy[row]
        mask = mask_of(outlines[row], cover.shape)
        if not outlines[row]:
            mask[round(y1) : round(y2), round(x1) : round(x2)] = 1
        seen = mask & ~cover
        num_pixels, num_seen = int(mask.sum()), int(seen.sum())
        if num_seen < num_pixels:
            share[row] *= num_seen / num_pixels
            xyxy[row] = _overlap(xyxy[row], box_of(seen) if num_seen else (x1, y1, x1, y1))
            outlines[row] = rings_of(seen) if outlines[row] else []
    return replace(instances, xyxy=xyxy, share=share, outlines=Outlines.pack(outlines))
