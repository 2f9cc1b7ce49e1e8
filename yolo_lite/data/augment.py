"""Augmentation: pure functions of pictures, boxes and a random generator.

Boxes are xyxy in pixels, cut where a picture ends; what is left of each object's own area is carried along as its
share, for the one filter at the end. s is the side of the square network input.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from yolo_lite.config.schema import Hyp
from yolo_lite.data.letterbox import GREY, pad

MIN_SIDE = 2.0  # pixels; smaller boxes are dropped
MIN_VISIBLE = 0.1  # of the whole object's area
MAX_ASPECT = 100.0


class Sample(NamedTuple):
    """A picture and its objects on the way through augmentation."""

    image: np.ndarray  # uint8 [H, W, channels]; an RGB mosaic not yet warped has a fourth
    label: np.ndarray  # [m] int64
    xyxy: np.ndarray  # [m, 4] float64, the part of each object that lies in the picture
    share: np.ndarray  # [m] float64, that part's area as a fraction of the whole object's, 0..1


def centred(sample: Sample, size: int) -> Sample:
    """The picture, at most ``size`` on each side, in the middle of a grey square."""
    height, width = sample.image.shape[:2]
    shift = np.array([(size - width) // 2, (size - height) // 2] * 2)
    return sample._replace(image=pad(sample.image, (size, size)), xyxy=sample.xyxy + shift)


def mosaic(samples: list[Sample], size: int, rng: np.random.Generator) -> Sample:
    """Four pictures around a random centre of a 2s x 2s canvas (Bochkovskiy et al., arXiv:2004.10934)."""
    channels = samples[0].image.shape[2]
    # OpenCV 5 warps four channels twice as fast as three.
    canvas = np.full((2 * size, 2 * size, 4 if channels == 3 else channels), GREY, dtype=np.uint8)
    centre_x, centre_y = rng.integers(size // 2, 3 * size // 2, size=2, endpoint=True)
    parts = []
    for quadrant, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        left = centre_x - width if quadrant % 2 == 0 else centre_x
        top = centre_y - height if quadrant < 2 else centre_y
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, 2 * size), min(top + height, 2 * size)
        seen = sample.image[y1 - top : y2 - top, x1 - left : x2 - left]
        if channels == 3:
            cv2.cvtColor(seen, cv2.COLOR_RGB2RGBA, dst=canvas[y1:y2, x1:x2])
        else:
            canvas[y1:y2, x1:x2] = seen
        parts.append((sample.label, *cut(sample.xyxy + (left, top, left, top), sample.share, (x1, y1), (x2, y2))))
    return Sample(canvas, *(np.concatenate(rows) for rows in zip(*parts, strict=True)))


def cut(
    xyxy: np.ndarray, share: np.ndarray, low: tuple[float, float], high: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut at the rectangle from ``low`` to ``high``, and the shares that are left."""
    inside = np.minimum(np.maximum(xyxy, low * 2), high * 2)
    return inside, share * area(inside) / np.maximum(area(xyxy), 1e-9)  # no area, no share


def area(xyxy: np.ndarray) -> np.ndarray:
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])


def random_warp(width: int, height: int, size: int, hyp: Hyp, rng: np.random.Generator) -> np.ndarray:
    """A 3x3 matrix from a width x height picture to the s x s input: perspective, rotation, scale, shear, shift."""
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-hyp.perspective, hyp.perspective, 2)
    angle, zoom = rng.uniform(-hyp.degrees, hyp.degrees), rng.uniform(1 - hyp.scale, 1 + hyp.scale)
    rotation = np.eye(3)
    rotation[:2] = cv2.getRotationMatrix2D((0, 0), angle, zoom)
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-hyp.shear, hyp.shear, 2)))
    back = _shift(*rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * size)
    return back @ shear @ rotation @ perspective @ _shift(-width / 2, -height / 2)


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def warp(sample: Sample, matrix: np.ndarray, size: int, channels: int = 3) -> Sample:
    """Picture and boxes through a 3x3 matrix onto an s x s grey square; ``channels`` without a mosaic's fourth."""
    image = sample.image
    if channels == 3:
        image = image if image.shape[2] == 4 else cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        image = cv2.cvtColor(warp_pixels(image, matrix, (size, size)), cv2.COLOR_RGBA2RGB)
    else:
        image = warp_pixels(image, matrix, (size, size))
    return Sample(image, sample.label, *cut(_warp_boxes(sample.xyxy, matrix), sample.share, (0, 0), (size, size)))


def warp_pixels(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels through a 3x3 matrix onto grey of ``size``, width and height."""
    if image.shape[2] > 4:  # OpenCV's borders have four channels
        groups = np.split(image, range(4, image.shape[2], 4), axis=2)
        return np.dstack([warp_pixels(group, matrix, size) for group in groups])
    # Boxes count from the edge of the first pixel, OpenCV counts from its middle.
    pixel_matrix = _shift(-0.5, -0.5) @ matrix @ _shift(0.5, 0.5)
    if np.any(matrix[2, :2]):
        warped = cv2.warpPerspective(image, pixel_matrix, size, borderValue=(GREY,) * 4)
    else:
        warped = cv2.warpAffine(image, pixel_matrix[:2], size, borderValue=(GREY,) * 4)
    return warped.reshape(size[1], size[0], -1)  # OpenCV drops the axis of a single channel


def _warp_boxes(xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The upright boxes around warped boxes ``[m, 4]``; NaN where perspective puts a part behind the viewer."""
    corners = xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    points = np.concatenate((corners, np.ones_like(corners[..., :1])), axis=-1) @ matrix.T  # [m, 4, 3]
    points = points[..., :2] / np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
    return np.concatenate((points.min(axis=1), points.max(axis=1)), axis=-1)


def mixup(first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
    """A blend of two pictures with the objects of both (Zhang et al., arXiv:1710.09412), near half and half."""
    share = rng.beta(32.0, 32.0)
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0).reshape(first.image.shape)
    return Sample(image, *(np.concatenate(rows) for rows in zip(first[1:], second[1:], strict=True)))


def random_hsv(image: np.ndarray, hyp: Hyp, rng: np.random.Generator) -> np.ndarray:
    """Hue shifted, saturation and value scaled by random factors of 1 +- hsv_h, hsv_s, hsv_v.

    Pictures of other than three channels have a brightness alone: hsv_v scales it.
    """
    factors = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    if not (hyp.hsv_h or hyp.hsv_s or hyp.hsv_v):
        return image
    levels = np.arange(256)
    tables = [(levels * factors[0]) % 180, np.clip(levels * factors[1], 0, 255), np.clip(levels * factors[2], 0, 255)]
    if image.shape[2] != 3:
        return cv2.LUT(image, tables[2].astype(np.uint8)).reshape(image.shape)
    table = np.stack(tables, axis=-1).astype(np.uint8)[None]  # [1, 256, 3]
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB)


def random_flips(sample: Sample, hyp: Hyp, rng: np.random.Generator) -> Sample:
    """Mirrored upside down and left to right with the chances ``flipud`` and ``fliplr``."""
    image, xyxy, (height, width) = sample.image, sample.xyxy, sample.image.shape[:2]
    up_down, left_right = rng.random(2) < (hyp.flipud, hyp.fliplr)
    if up_down or left_right:
        image = cv2.flip(image, -1 if up_down and left_right else int(left_right)).reshape(image.shape)
    if left_right:
        xyxy = xyxy[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
    if up_down:
        xyxy = xyxy[:, [0, 3, 2, 1]] * (1, -1, 1, -1) + (0, height, 0, height)
    return sample._replace(image=image, xyxy=xyxy)


def worth_learning(sample: Sample) -> np.ndarray:
    """Which objects ``[m]`` are kept: by their sides, aspect, and how much of them is still to be seen; NaN is not."""
    size = sample.xyxy[:, 2:] - sample.xyxy[:, :2]
    shortest, longest = size.min(axis=1), size.max(axis=1)
    return (shortest > MIN_SIDE) & (longest < MAX_ASPECT * shortest) & (sample.share > MIN_VISIBLE)


def needs_warp(hyp: Hyp) -> bool:
    """Whether the geometric keys ask for anything at all."""
    return any((hyp.degrees, hyp.translate, hyp.scale, hyp.shear, hyp.perspective))
