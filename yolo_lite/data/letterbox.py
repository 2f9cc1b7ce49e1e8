"""The letterbox: how an image gets to the network's size, scaled to fit and centred on grey, and exactly back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

GREY = 114  # value of the padding, in every channel
Canvas = Callable[[int, int], tuple[int, int]]  # height and width of a resized image -> of the network's input


class Letterbox(NamedTuple):
    """Where an image lies in its canvas: x in the canvas is ``x * scale_x + left``."""

    scale_x: float
    scale_y: float
    left: float
    top: float


def fitted_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Height and width after scaling the longest side to ``longest`` pixels, at least 1."""
    scale = longest / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Height and width rounded up to multiples of ``stride``."""
    return -(-height // stride) * stride, -(-width // stride) * stride


def canvas_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """The network input for an image, with half a stride of grey or more, as YOLOv5 validates; LOG.md says why."""
    return padded_size(height + stride // 2, width + stride // 2, stride)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by area averaging where the image shrinks (no aliasing), linearly where it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(height, width, -1)  # OpenCV drops the axis of a single channel


def on_canvas(image: np.ndarray, original: tuple[int, int], canvas: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    """Put a resized image in the middle of a grey canvas of (height, width), and say where it lies."""
    height, width, channels = image.shape
    left, top = (canvas[1] - width) // 2, (canvas[0] - height) // 2
    padded = np.full((*canvas, channels), GREY, dtype=np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded, Letterbox(width / original[1], height / original[0], left, top)


def to_canvas(xyxy: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """Boxes ``[*, 4]`` from pixels of the original image to pixels of the canvas."""
    scale_x, scale_y, left, top = letterbox
    return xyxy * (scale_x, scale_y, scale_x, scale_y) + (left, top, left, top)


def to_original(xyxy: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """The inverse of ``to_canvas``."""
    scale_x, scale_y, left, top = letterbox
    return (xyxy - (left, top, left, top)) / (scale_x, scale_y, scale_x, scale_y)
