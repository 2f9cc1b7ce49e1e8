"""Reading one image file: size from its header where that can be trusted, pixels by OpenCV or Pillow.

A header that claims over twice Pillow's MAX_IMAGE_PIXELS (179 million) is refused before memory is taken.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.decode import (
    ANY_RANGE,
    END,
    FLAGS,
    NPY,
    as_8_bits,
    check_channels,
    damage_told,
    decoded,
    is_truncated,
    npy_header,
    npy_pixels,
    open_image,
    opened,
    orientation,
    stated_size,
)
from yolo_lite.data.suffixes import image_suffixes
from yolo_lite.data.tiff import TIFF, tiff_pixels


def image_size(path: str | Path, channels: int = 3) -> tuple[int, int]:
    """Height and width in pixels as decoded, EXIF rotation applied.

    JPEG, PNG and WebP tell by header and end, .npy by its header. Everything else is decoded, as is any format where
    ``channels`` is neither 1 nor 3.

    Raises:
        DataError: the file is missing, no image, cut off, too large, or has another number of channels.
    """
    with damage_told(path), open_image(path) as file:
        start = file.read(len(NPY))
        file.seek(0)
        if start == NPY:
            (height, width, found), _, _ = npy_header(file)
            check_channels(found, channels)
            return height, width
        if channels in FLAGS and start[:4] not in TIFF:
            image = opened(file)
            end = END.get(image.format or "") if image else None
            if image is not None and end is not None:
                if is_truncated(file, end):
                    raise DataError(f"the {image.format} file is cut off, its end is missing")
                return stated_size(image, orientation(image))
    height, width = read_image(path, channels).shape[:2]
    return height, width


def read_image(path: str | Path, channels: int = 3, white: int = ANY_RANGE) -> np.ndarray:
    """Pixels uint8 ``[H, W, channels]``; EXIF rotation applied.

    3 channels are RGB, grey and palette expanded, alpha dropped; 1 is grey, colour converted. For other numbers alpha
    and the pages of a TIFF count as channels. A TIFF with more than 4 samples a pixel is read by the package tifffile.

    Args:
        path: an image file of any kind, whatever its suffix.
        channels: of the pixels.
        white: the value of a white pixel of 16 bits, where the format does not state it.

    Raises:
        DataError: the file is missing, cannot be decoded, is too large or has another number of channels.
    """
    with damage_told(path):
        with open_image(path) as file:
            content = file.read()
        if not content:
            raise DataError("not a readable image: the file is empty")
        if content.startswith(NPY):
            pixels = npy_pixels(content)
        elif content.startswith(TIFF):
            pixels = tiff_pixels(content, channels, white)
        elif content[4:10] == b"ftyphe" and not image_suffixes() & {".heic"}:
            raise DataError("not a readable image: a HEIC file, whatever its name; pip install pillow-heif")
        else:
            pixels = decoded(content, channels, white)
        pixels = as_8_bits(pixels, white)
    return as_channels(pixels, channels, path)


def as_channels(pixels: np.ndarray, channels: int, path: str | Path) -> np.ndarray:
    """Pixels uint8 ``[H, W, n]`` as ``[H, W, channels]``: grey and RGB become one another, else n must agree."""
    with damage_told(path):
        check_channels(pixels.shape[2], channels)
    if pixels.shape[2] == channels:
        return pixels
    return np.repeat(pixels, 3, axis=2) if channels == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
