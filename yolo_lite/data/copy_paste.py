"""Copy-paste: objects cut out of a picture and put onto another (Ghiasi et al., arXiv:2012.07177).

Rings are polygons ``[q, 2]``, x and y in pixels of the picture; an object has some, or none and is then its box.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from yolo_lite.data.augment import Sample, warp_pixels
from yolo_lite.data.shapes import to_sixteenths

ZOOM = (0.5, 1.25)  # of the pasted objects
CHANCE = 0.5  # of each object to be pasted

Rings = Sequence[np.ndarray]


def copy_paste(
    host: Sample, host_rings: Sequence[Rings], donor: Sample, donor_rings: Sequence[Rings], rng: np.random.Generator
) -> Sample:
    """The host with some of the donor's objects, mirrored half the time, zoomed and shifted together.

    The box of a pasted object is that of its outline, as far as its mask reaches in the picture. What it lies upon
    loses the share that is hidden, and its box ends where nothing of it is seen any more.
    """
    matrix = _random_place(host.image.shape, donor.image.shape, rng)
    chosen = np.flatnonzero([bool(rings) and rng.random() < CHANCE for rings in donor_rings])
    moved = [[ring @ matrix[:2, :2].T + matrix[:2, 2] for ring in donor_rings[int(row)]] for row in chosen]
    masks = [mask_of(rings, host.image.shape) for rings in moved]
    seen = np.array([mask.sum() for mask in masks])
    rows = np.flatnonzero(seen > 0)
    if not len(rows):
        return host
    cover = np.bitwise_or.reduce([masks[row] for row in rows])
    image, pasted = host.image.copy(), cover.astype(bool)
    image[pasted] = warp_pixels(donor.image, matrix, (host.image.shape[1], host.image.shape[0]))[pasted]
    xyxy, share = _still_seen(host, host_rings, cover)
    boxes = [_common(_extent(moved[row]), box_of(masks[row])) for row in rows]
    whole = np.array([sum(cv2.contourArea(ring.astype(np.float32)) for ring in moved[row]) for row in rows])
    return Sample(
        image,
        np.concatenate((host.label, donor.label[chosen[rows]])),
        np.concatenate((xyxy, boxes)),
        np.concatenate((share, np.minimum(seen[rows] / np.maximum(whole, 1), 1))),
    )


def _random_place(host: tuple[int, ...], donor: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A 3x3 matrix that mirrors, zooms and shifts the donor; of the two, the smaller lies within the larger."""
    zoom, is_mirrored = rng.uniform(*ZOOM), rng.random() < 0.5
    free_x, free_y = host[1] - zoom * donor[1], host[0] - zoom * donor[0]
    left, top = rng.uniform(0, 1, 2) * (free_x, free_y)
    if is_mirrored:
        return np.array([[-zoom, 0, left + zoom * donor[1]], [0, zoom, top], [0, 0, 1]])
    return np.array([[zoom, 0, left], [0, zoom, top], [0, 0, 1]])


def _extent(rings: Rings) -> np.ndarray:
    points = np.concatenate(rings)
    return np.concatenate((points.min(axis=0), points.max(axis=0)))


def _common(first: np.ndarray, second: Sequence[float]) -> np.ndarray:
    """What two boxes xyxy that touch share."""
    return np.concatenate((np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])))


def mask_of(rings: Rings, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels uint8 ``[H, W]``, 1 inside any of the rings."""
    mask = np.zeros(shape[:2], dtype=np.uint8)
    for ring in rings:
        cv2.fillPoly(mask, [to_sixteenths(ring)], 1, shift=4)
    return mask


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """xyxy of the pixels that are not 0; there must be one."""
    left, top, width, height = cv2.boundingRect(mask)
    return left, top, left + width, top + height


def _still_seen(host: Sample, rings: Sequence[Rings], cover: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and shares of the host's objects under a cover uint8 ``[H, W]``."""
    xyxy, share = host.xyxy.copy(), host.share.copy()
    left, top, right, bottom = box_of(cover)
    touched = (xyxy[:, :2] < (right, bottom)).all(axis=1) & (xyxy[:, 2:] > (left, top)).all(axis=1)
    for row in np.flatnonzero(touched):
        x1, y1, x2, y2 = xyxy[row]
        mask = mask_of(rings[int(row)], cover.shape)
        if not rings[int(row)]:
            mask[round(y1) : round(y2), round(x1) : round(x2)] = 1
        seen = mask & ~cover
        num_pixels, num_seen = int(mask.sum()), int(seen.sum())
        if num_seen < num_pixels:
            share[row] *= num_seen / num_pixels
            xyxy[row] = _common(xyxy[row], box_of(seen) if num_seen else (x1, y1, x1, y1))
    return xyxy, share
