"""The one way a picture gets to the network's size: scaled to fit, centred on grey, invertible exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

GREY = 114  # value of the padding, in every channel
Canvas = Callable[[int, int], tuple[int, int]]  # height and width of a resized picture -> of the network's input


class Letterbox(NamedTuple):
    """Where the picture lies in the canvas: x in the canvas is ``x * scale_x + left``."""

    scale_x: float
    scale_y: float
    left: int
    top: int


def fitted_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Height and width after scaling the longest side to ``longest`` pixels, at least 1."""
    scale = longest / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Height and width rounded up to multiples of ``stride``."""
    return -(-height // stride) * stride, -(-width // stride) * stride


def canvas_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """The network input for a picture: half a stride of grey or more in height and width, as YOLOv5 validates.

    Objects at the border are found better with it (LOG.md).
    """
    return padded_size(height + stride // 2, width + stride // 2, stride)


def square_canvas(height: int, width: int, size: int) -> tuple[int, int]:
    """The input of a network that takes squares of one size, whatever the picture."""
    return size, size


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area averaging where it shrinks (no aliasing), linear where it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(height, width, -1)  # OpenCV drops the axis of a single channel


def letterbox_of(original_size: tuple[int, int], size: tuple[int, int], canvas: tuple[int, int]) -> Letterbox:
    """The letterbox of a picture that was resized to ``size`` and lies in the middle of ``canvas``; (height, width)."""
    left, top = (canvas[1] - size[1]) // 2, (canvas[0] - size[0]) // 2
    return Letterbox(size[1] / original_size[1], size[0] / original_size[0], left, top)


def pad(image: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """The resized picture in the middle of a grey canvas of (height, width)."""
    height, width, channels = image.shape
    left, top = (canvas[1] - width) // 2, (canvas[0] - height) // 2
    padded = np.full((*canvas, channels), GREY, dtype=np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded


def on_canvas(
    image: np.ndarray, original_size: tuple[int, int], canvas: tuple[int, int]
) -> tuple[np.ndarray, Letterbox]:
    """A resized picture in the middle of a canvas of (height, width), and how it got there."""
    return pad(image, canvas), letterbox_of(original_size, (image.shape[0], image.shape[1]), canvas)


def to_canvas(xyxy: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """Boxes ``[*, 4]`` from pixels of the original picture to pixels of the canvas."""
    scale_x, scale_y, left, top = letterbox
    return xyxy * (scale_x, scale_y, scale_x, scale_y) + (left, top, left, top)


def to_original(xyxy: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """The inverse of ``to_canvas``."""
    scale_x, scale_y, left, top = letterbox
    return (xyxy - (left, top, left, top)) / (scale_x, scale_y, scale_x, scale_y)
