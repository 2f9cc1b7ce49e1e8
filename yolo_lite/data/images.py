"""Reading one image file: size from its header where that can be trusted, pixels by OpenCV or Pillow.

A header that claims over twice Pillow's MAX_IMAGE_PIXELS (179 million) is refused before memory is taken.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from yolo_lite.config.errors import DataError
from yolo_lite.data.decode import ANY_RANGE, FLAGS, as_8_bits, check_channels, check_shape, decoded, opened, orientation
from yolo_lite.data.suffixes import image_suffixes
from yolo_lite.data.tiff import TIFF, tiff_pixels

NPY = b"\x93NUMPY"
TURNED = (5, 6, 7, 8)  # the orientations that swap height and width
_JPEG_END = b"\xff\xd9"
# What a whole file ends with. Pillow itself finds a WebP that is cut off.
_END = {"JPEG": _JPEG_END, "MPO": _JPEG_END, "PNG": b"IEND\xaeB`\x82", "WEBP": b""}
_TAIL = 64  # bytes in which the end is expected; some writers pad with zeros
# What Pillow, OpenCV, numpy and tifffile raise for content that is damaged or no image.
DAMAGED = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error, cv2.error)


@contextmanager
def _errors_name(path: str | Path) -> Iterator[None]:
    """Turn what damaged content raises into a DataError that begins with the path."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error


def image_size(path: str | Path, channels: int = 3) -> tuple[int, int]:
    """Height and width in pixels as decoded, EXIF rotation applied.

    JPEG, PNG and WebP tell by header and end, .npy by its header. Everything else is decoded: a turned PNG or WebP
    too, and any format where ``channels`` is neither 1 nor 3.

    Raises:
        DataError: the file is missing, no image, cut off, too large, or has another number of channels.
    """
    with _errors_name(path), open(path, "rb") as file:
        start = file.read(len(NPY))
        file.seek(0)
        if start == NPY:
            (height, width, found), _, _ = npy_header(file)
            check_channels(found, channels)
            return height, width
        if channels in FLAGS and start[:4] not in TIFF:
            image = opened(file)
            kind, (width, height) = (image.format or "", image.size) if image else ("", (0, 0))
            is_turned = image is not None and orientation(image) in TURNED
            # The orientation of a JPEG is honoured by every version of OpenCV, that of other formats by some.
            end = _END.get(kind)
            if end is not None and (not is_turned or end == _JPEG_END):
                if _is_truncated(file, end):
                    raise DataError(f"the {kind} file is cut off, its end is missing")
                return (width, height) if is_turned else (height, width)
    height, width = read_image(path, channels).shape[:2]
    return height, width


def exif_orientation(path: str | Path) -> int:
    """The EXIF orientation of an image file; 1 where Pillow cannot read it."""
    try:
        with Image.open(path) as image:
            return orientation(image)
    except DAMAGED:
        return 1


def _is_truncated(file: BinaryIO, end: bytes) -> bool:
    file.seek(-min(_TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
    if end in file.read():
        return False
    # Rare: something follows the end, such as the film of a phone's "motion photo".
    file.seek(0)
    content, at = file.read(), 2
    # The pixels of a JPEG begin behind its segments, one of which may hold a whole thumbnail.
    while end == _JPEG_END and at + 4 <= len(content) and content[at + 1] != 0xDA:
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return content.find(end, at) < 0


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
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with _errors_name(path):
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


def npy_header(file: BinaryIO) -> tuple[tuple[int, int, int], bool, np.dtype]:
    """The shape ``[H, W, channels]``, whether columns come first in the file, and the type of the pixels."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise DataError(f"expected an array [H, W] or [H, W, channels], found the shape {shape}")
    height, width, channels = (*shape, 1)[:3]
    check_shape((height, width, channels))
    return (height, width, channels), is_fortran, dtype


def npy_pixels(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    shape, is_fortran, dtype = npy_header(file)
    found, expected = len(content) - file.tell(), math.prod(shape) * dtype.itemsize
    if dtype.hasobject or found < expected:
        raise DataError(f"expected {expected} bytes of plain numbers behind the .npy header, found {found}")
    return np.ndarray(shape, dtype, content, file.tell(), order="F" if is_fortran else "C")


def as_channels(pixels: np.ndarray, channels: int, path: str | Path) -> np.ndarray:
    """Pixels uint8 ``[H, W, n]`` as ``[H, W, channels]``: grey and RGB become one another, else n must agree."""
    with _errors_name(path):
        check_channels(pixels.shape[2], channels)
    if pixels.shape[2] == channels:
        return pixels
    return np.repeat(pixels, 3, axis=2) if channels == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
