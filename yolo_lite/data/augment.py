"""Augmentation: pure functions of pictures, boxes and a random generator.

Boxes are xyxy in pixels and may reach over the border until the one filter at the end, which compares what is
visible with the whole, unclipped box. s is the side of the square network input.
"""

from __future__ import annotations


from typing import NamedTuple

import cv2
import numpy as np

from yolo_lite.config.schema import Hyp
from yolo_lite.data.letterbox import GREY, pad

MIN_SIDE = 2.0  # pixels; smaller boxes are dropped
MIN_VISIBLE = 0.1  # of the whole box's area
MAX_ASPECT = 100.0


class Sample(NamedTuple):
    """A picture and its objects on the way through augmentation."""

    image: np.ndarray  # uint8 [H, W, 3] RGB
    label: np.ndarray  # [m] int64
    whole: np.ndarray  # [m, 4] float64, xyxy, unclipped
    visible: np.ndarray  # [m, 4] float64, xyxy, the part that lies in the picture so far


def centred(sample: Sample, size: int) -> Sample:
    """The picture, at most ``size`` on each side, in the middle of a grey square."""
    height, width = sample.image.shape[:2]
    shift = np.array([(size - width) // 2, (size - height) // 2] * 2)
    return Sample(pad(sample.image, (size, size)), sample.label, sample.whole + shift, sample.visible + shift)


def mosaic(samples: list[Sample], size: int, rng: np.random.Generator) -> Sample:
    """Four pictures around a random centre of a 2s x 2s canvas (Bochkovskiy et al., arXiv:2004.10934)."""
    canvas = np.full((2 * size, 2 * size, 3), GREY, dtype=np.uint8)
    centre_x, centre_y = rng.integers(size // 2, 3 * size // 2, size=2, endpoint=True)
    parts = []
    for quadrant, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        left = centre_x - width if quadrant % 2 == 0 else centre_x
        top = centre_y - height if quadrant < 2 else centre_y
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, 2 * size), min(top + height, 2 * size)
        canvas[y1:y2, x1:x2] = sample.image[y1 - top : y2 - top, x1 - left : x2 - left]
        whole = sample.whole + (left, top, left, top)
        parts.append((sample.label, whole, np.clip(whole, (x1, y1, x1, y1), (x2, y2, x2, y2))))
    return Sample(canvas, *(np.concatenate(rows) for rows in zip(*parts, strict=True)))


def random_warp(width: int, height: int, size: int, hyp: Hyp, rng: np.random.Generator) -> np.ndarray:
    """A 3x3 matrix from a width x height picture to the s x s input: perspective, rotation, scale, shear, shift."""
    to_origin = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-hyp.perspective, hyp.perspective, 2)
    angle, zoom = rng.uniform(-hyp.degrees, hyp.degrees), rng.uniform(1 - hyp.scale, 1 + hyp.scale)
    rotation = np.eye(3)
    rotation[:2] = cv2.getRotationMatrix2D((0, 0), angle, zoom)
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-hyp.shear, hyp.shear, 2)))
    back = np.eye(3)
    back[:2, 2] = rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * size
    return back @ shear @ rotation @ perspective @ to_origin


def warp(sample: Sample, matrix: np.ndarray, size: int) -> Sample:
    """Picture and boxes through a 3x3 matrix onto an s x s grey square."""
    border = {"dsize": (size, size), "borderValue": (GREY, GREY, GREY)}
    if np.any(matrix[2, :2]):
        image = cv2.warpPerspective(sample.image, matrix, **border)
    else:
        image = cv2.warpAffine(sample.image, matrix[:2], **border)
    visible = np.clip(_warp_boxes(sample.visible, matrix), 0, size)
    return Sample(image, sample.label, _warp_boxes(sample.whole, matrix), visible)


def _warp_boxes(xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The upright boxes around warped boxes ``[m, 4]``."""
    corners = xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    points = np.concatenate((corners, np.ones_like(corners[..., :1])), axis=-1) @ matrix.T  # [m, 4, 3]
    points = points[..., :2] / points[..., 2:]
    return np.concatenate((points.min(axis=1), points.max(axis=1)), axis=-1)


def mixup(first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
    """A blend of two pictures with the objects of both (Zhang et al., arXiv:1710.09412), near half and half."""
    share = rng.beta(32.0, 32.0)
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0)
    return Sample(image, *(np.concatenate(rows) for rows in zip(first[1:], second[1:], strict=True)))


def random_hsv(image: np.ndarray, hyp: Hyp, rng: np.random.Generator) -> np.ndarray:
    """Hue shifted, saturation and value scaled by random factors of 1 +- hsv_h, hsv_s, hsv_v."""
    factors = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    if not (hyp.hsv_h or hyp.hsv_s or hyp.hsv_v):
        return image
    levels = np.arange(256)
    tables = [(levels * factors[0]) % 180, np.clip(levels * factors[1], 0, 255), np.clip(levels * factors[2], 0, 255)]
    table = np.stack(tables, axis=-1).astype(np.uint8)[None]  # [1, 256, 3]
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB)


def random_flips(sample: Sample, hyp: Hyp, rng: np.random.Generator) -> Sample:
    """Mirrored upside down and left to right with the chances ``flipud`` and ``fliplr``."""
    image, (height, width) = sample.image, sample.image.shape[:2]
    up_down, left_right = rng.random(2) < (hyp.flipud, hyp.fliplr)
    if up_down or left_right:
        image = cv2.flip(image, -1 if up_down and left_right else int(left_right))

    def mirrored(xyxy: np.ndarray) -> np.ndarray:
        if left_right:
            xyxy = xyxy[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
        if up_down:
            xyxy = xyxy[:, [0, 3, 2, 1]] * (1, -1, 1, -1) + (0, height, 0, height)
        return xyxy

    return Sample(image, sample.label, mirrored(sample.whole), mirrored(sample.visible))


def kept_boxes(whole: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Which objects ``[m]`` are still worth learning: sides, visible share of the unclipped area, aspect."""
    size, whole_size = visible[:, 2:] - visible[:, :2], whole[:, 2:] - whole[:, :2]
    shares = size.prod(axis=1) > MIN_VISIBLE * whole_size.prod(axis=1)
    aspect = size.max(axis=1) < MAX_ASPECT * size.min(axis=1)
    return (size > MIN_SIDE).all(axis=1) & shares & aspect


def needs_warp(hyp: Hyp) -> bool:
    """Whether the geometric keys ask for anything at all."""
    return any((hyp.degrees, hyp.translate, hyp.scale, hyp.shear, hyp.perspective))
