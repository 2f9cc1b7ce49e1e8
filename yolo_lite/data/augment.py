"""Augmentation that mixes and moves images: pure functions of samples and a random generator.

Boxes are cut where an image ends; what is left of each object's own area is carried along as its share, for the one
filter at the end. s is the side of the square network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from yolo_lite.config.hyp import AugmentSection
from yolo_lite.data.instances import Instances, Sample, scale_matrix, shift_matrix
from yolo_lite.data.letterbox import GREY, on_canvas
from yolo_lite.data.masks import mask_of, rings_of
from yolo_lite.data.outlines import Outlines

MIN_SIDE = 2.0  # pixels; smaller boxes are dropped
MIN_VISIBLE = 0.1  # of the whole object's area
MAX_ASPECT = 100.0
PASTED_ZOOM = (0.5, 1.25)  # of objects that copy-paste takes
PASTED_CHANCE = 0.5  # of each


def centre(sample: Sample, size: int) -> Sample:
    """The image, at most ``size`` on each side, in the middle of a grey square."""
    image, letterbox = on_canvas(sample.image, sample.image.shape[:2], (size, size))
    return Sample(image, sample.instances.warped(shift_matrix(letterbox.left, letterbox.top)))


def mosaic(samples: list[Sample], size: int, rng: np.random.Generator) -> Sample:
    """Four images around a random centre of a 2s x 2s canvas (Bochkovskiy et al., arXiv:2004.10934)."""
    channels = samples[0].image.shape[2]
    # OpenCV 5 warps four channels twice as fast as three.
    canvas = np.full((2 * size, 2 * size, 4 if channels == 3 else channels), GREY, dtype=np.uint8)
    centre_x, centre_y = rng.integers(size // 2, 3 * size // 2, size=2, endpoint=True)
    parts = []
    for quadrant, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        left = centre_x - width if quadrant % 2 == 0 else centre_x
        top = centre_y - height if quadrant < 2 else centre_y
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, 2 * size), min(top + height, 2 * size)
        seen = sample.image[y1 - top : y2 - top, x1 - left : x2 - left]
        if channels == 3:
            cv2.cvtColor(seen, cv2.COLOR_RGB2RGBA, dst=canvas[y1:y2, x1:x2])
        else:
            canvas[y1:y2, x1:x2] = seen
        parts.append(sample.instances.warped(shift_matrix(left, top)).clipped((x1, y1), (x2, y2)))
    return Sample(canvas, Instances.concat(parts))


def random_warp(shape: tuple[int, ...], size: int, hyp: AugmentSection, rng: np.random.Generator) -> np.ndarray:
    """A 3x3 matrix from an image of this shape to the s x s input: perspective, rotation, scale, shear, shift."""
    perspective, rotation, shear = np.eye(3), np.eye(3), np.eye(3)
    perspective[2, :2] = rng.uniform(-hyp.perspective, hyp.perspective, 2)
    angle, zoom = rng.uniform(-hyp.degrees, hyp.degrees), rng.uniform(1 - hyp.scale, 1 + hyp.scale)
    rotation[:2] = cv2.getRotationMatrix2D((0, 0), angle, zoom)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-hyp.shear, hyp.shear, 2)))
    back = shift_matrix(*rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * size)
    return back @ shear @ rotation @ perspective @ shift_matrix(-shape[1] / 2, -shape[0] / 2)


def warp(sample: Sample, matrix: np.ndarray, size: int, channels: int = 3) -> Sample:
    """Image and objects through a 3x3 matrix onto an s x s grey square; ``channels`` without a mosaic's fourth."""
    image = warp_pixels(sample.image, matrix, (size, size))
    image = cv2.cvtColor(image, cv2.COLOR_RGBA2RGB) if (channels, image.shape[2]) == (3, 4) else image
    return Sample(image, sample.instances.warped_onto(matrix, (size, size)))


def warp_pixels(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels through a 3x3 matrix onto grey of ``size``, width and height."""
    if image.shape[2] == 3:  # OpenCV 5 warps four channels much faster
        warped = warp_pixels(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), matrix, size)
        return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    if image.shape[2] > 4:  # OpenCV's borders have four channels
        groups = np.split(image, range(4, image.shape[2], 4), axis=2)
        return np.dstack([warp_pixels(group, matrix, size) for group in groups])
    # Boxes count from the edge of the first pixel, OpenCV counts from its middle.
    pixel_matrix = shift_matrix(-0.5, -0.5) @ matrix @ shift_matrix(0.5, 0.5)
    if np.any(matrix[2, :2]):
        warped = cv2.warpPerspective(image, pixel_matrix, size, borderValue=(GREY,) * 4)
        x, y, constant = np.linalg.inv(pixel_matrix)[2]
        if constant + min(x * size[0], 0) + min(y * size[1], 0) <= 0:  # there is a horizon in the image
            is_behind = x * np.arange(size[0]) + (y * np.arange(size[1]) + constant)[:, None] <= 0
            warped[is_behind] = GREY  # OpenCV shows there what lies behind the viewer
    else:
        warped = cv2.warpAffine(image, pixel_matrix[:2], size, borderValue=(GREY,) * 4)
    return warped.reshape(size[1], size[0], -1)  # OpenCV drops the axis of a single channel


def mixup(first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
    """A blend of two images with the objects of both (Zhang et al., arXiv:1710.09412), near half and half."""
    share = rng.beta(32.0, 32.0)
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0).reshape(first.image.shape)
    return Sample(image, Instances.concat([first.instances, second.instances]))


def copy_paste(host: Sample, donor: Sample, rng: np.random.Generator) -> Sample:
    """The host with some of the donor's objects (Ghiasi et al., arXiv:2012.07177), which are moved together.

    Both have outlines; of the donor, only objects that have one are pasted. The box of a pasted object is that of its
    outline, as far as its mask reaches in the image. What it lies upon loses the share that is hidden, and its box
    ends where nothing of it is seen any more.
    """
    shape, outlines = host.image.shape, donor.instances.outlines
    assert outlines
    matrix = _random_place(shape, donor.image.shape, rng)
    chosen = np.flatnonzero([rings and rng.random() < PASTED_CHANCE for rings in np.diff(outlines.first_ring)])
    moved = donor.instances.select(chosen).warped(matrix)
    assert moved.outlines
    rings = [moved.outlines.of(row) for row in range(len(moved))]
    masks = [mask_of(own, shape) for own in rings]
    num_pixels = [cv2.countNonZero(mask) for mask in masks]
    rows = np.flatnonzero(num_pixels)
    if not len(rows):
        return host
    cover = np.bitwise_or.reduce([masks[row] for row in rows])
    image, is_pasted = host.image.copy(), cover.astype(bool)
    image[is_pasted] = warp_pixels(donor.image, matrix, (shape[1], shape[0]))[is_pasted]
    pasted = moved.select(rows).clipped((0, 0), (shape[1], shape[0]))
    for new, row in enumerate(rows):
        points, area = np.concatenate(rings[row]), sum(cv2.contourArea(np.float32(ring)) for ring in rings[row])
        pasted.xyxy[new] = _overlap(np.concatenate((points.min(axis=0), points.max(axis=0))), box_of(masks[row]))
        pasted.share[new] = min(num_pixels[row] / max(area, 1), 1.0)
    return Sample(image, Instances.concat([_hide(host.instances, cover), pasted]))


def _random_place(host: tuple[int, ...], donor: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A 3x3 matrix that mirrors, zooms and shifts the donor; of the two, the smaller lies within the larger."""
    zoom, is_mirrored = rng.uniform(*PASTED_ZOOM), rng.random() < 0.5
    width, height = zoom * donor[1], zoom * donor[0]
    left, top = rng.uniform(0, 1, 2) * (host[1] - width, host[0] - height)
    return scale_matrix(-zoom, zoom, left + width, top) if is_mirrored else scale_matrix(zoom, zoom, left, top)


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
        num_pixels, num_seen = cv2.countNonZero(mask), cv2.countNonZero(seen)
        if num_seen < num_pixels:
            share[row] *= num_seen / num_pixels
            xyxy[row] = _overlap(xyxy[row], box_of(seen) if num_seen else (x1, y1, x1, y1))
            outlines[row] = rings_of(seen) if outlines[row] else []
    return replace(instances, xyxy=xyxy, share=share, outlines=Outlines.pack(outlines))


def worth_learning(instances: Instances) -> np.ndarray:
    """Which objects ``[m]`` are kept: by their sides, aspect, and how much of them is still to be seen; NaN is not."""
    size = instances.xyxy[:, 2:] - instances.xyxy[:, :2]
    shortest, longest = size.min(axis=1), size.max(axis=1)
    return (shortest > MIN_SIDE) & (longest < MAX_ASPECT * shortest) & (instances.share > MIN_VISIBLE)
