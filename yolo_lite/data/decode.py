"""The pixels of an encoded image as 8 bits, by OpenCV or Pillow.

16 bits are scaled by the value of white, and rounded; floats are multiplied by 255 (0..1 is expected). Of an animation
the first image is read.
"""

from __future__ import annotations

import io
import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from yolo_lite.config.errors import DataError
from yolo_lite.data.suffixes import register_plugins

# How OpenCV is asked for a number of channels: alpha is dropped, grey expanded, colour made grey.
FLAGS = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
# These are OpenCV's to decode. Pillow does the others: there OpenCV fills what is transparent, or leaves the 10 bits of
# an .avif or .ppm unscaled.
_OF_OPENCV = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP"})
_OF_A_STATED_RANGE = frozenset({"PPM", "JPEG2000"})  # whose 16 bits Pillow has scaled by what the header says
NPY = b"\x93NUMPY"
TURNED = (5, 6, 7, 8)  # the orientations that swap height and width
# What Pillow, OpenCV, numpy and tifffile raise for content that is damaged or no image.
DAMAGED = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error, cv2.error)
JPEG_END = b"\xff\xd9"
# What a whole file ends with. Pillow itself finds a WebP that is cut off.
END = {"JPEG": JPEG_END, "MPO": JPEG_END, "PNG": b"IEND\xaeB`\x82", "WEBP": b""}
_TAIL = 64  # bytes in which the end is expected; some writers pad with zeros
ANY_RANGE = 65535  # the largest value of 16 bits
_FLOAT_SLACK = 0.5  # floats this far outside 0..1 are cut; further out they are of another scale, and refused
_UPRIGHT = {  # what undoes an orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def opened(file: BinaryIO) -> Image.Image | None:
    """The image, not yet decoded; None where Pillow does not know the format. A decompression bomb is refused."""
    register_plugins()
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        return None


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where it is not given. XMP is not asked, for OpenCV does not know it."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, TypeError, ValueError, struct.error):  # damaged EXIF beside a sound image
        return 1


def exif_orientation(path: str | Path) -> int:
    """The EXIF orientation of an image file; 1 where Pillow cannot read it."""
    try:
        with Image.open(path) as image:
            return orientation(image)
    except DAMAGED:
        return 1


def decoded(content: bytes, channels: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` of 8 bits, of anything but a TIFF."""
    image = opened(io.BytesIO(content))
    if image is None or image.format in _OF_OPENCV:
        pixels = by_opencv(content, FLAGS.get(channels, cv2.IMREAD_UNCHANGED), white)
        if pixels is not None:
            return pixels
    return by_pillow(image, channels, white)


def by_pillow(image: Image.Image | None, channels: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` of 8 bits in the order RGB or RGBA; an error where there is no image."""
    if image is None:
        raise DataError("not a readable image: neither OpenCV nor Pillow can decode it")
    image = image.transpose(_UPRIGHT[turn]) if (turn := orientation(image)) in _UPRIGHT else image
    if image.mode[0] in "IF":  # integers of 16 or 32 bits, floats
        pixels = np.asarray(image)
        if image.mode == "I" and 0 <= pixels.min() <= pixels.max() <= ANY_RANGE:
            pixels = pixels.astype(np.uint16)
        return as_8_bits(pixels, ANY_RANGE if image.format in _OF_A_STATED_RANGE else white)[..., None]
    if image.mode in ("1", "L") or (image.mode == "LA" and channels in FLAGS):
        image = image.convert("L")
    elif channels in FLAGS:
        image = image.convert("RGB")
    elif image.mode not in ("LA", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def by_opencv(content: bytes, flags: int, white: int) -> np.ndarray | None:
    """uint8 ``[H, W, n]`` in the order RGB or RGBA; None where OpenCV cannot decode it."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if image is None:
        return None
    image = as_8_bits(image, white)
    if image.ndim == 2:
        return image[..., None]
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def check_shape(shape: tuple[int, int, int]) -> None:
    """Refuse what would take more memory than the largest RGB image."""
    most = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
    if shape[0] * shape[1] * max(shape[2] / 3, 1) > most:
        raise DataError(f"a header of {shape[1]} x {shape[0]} pixels exceeds limit of {most} pixels, refused")


def check_channels(found: int, channels: int) -> None:
    if found != channels and not (found in FLAGS and channels in FLAGS):
        raise DataError(f"expected {channels} channels (key channels of the dataset YAML), found {found}")


def as_8_bits(pixels: np.ndarray, white: int) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # in either order of bytes
        return cv2.convertScaleAbs(pixels.astype(np.uint16, copy=False), alpha=255 / white).reshape(pixels.shape)
    if pixels.dtype.kind != "f":
        raise DataError(f"expected pixels of uint8, uint16 or float, found {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())  # NaN where one pixel is
    if not (low >= -_FLOAT_SLACK and high <= 1 + _FLOAT_SLACK):
        raise DataError(f"expected floats in 0..1, found {low:g}..{high:g}")
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def is_truncated(file: BinaryIO, end: bytes) -> bool:
    """Whether a file stops before the end of its image."""
    file.seek(-min(_TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
    if end in file.read():
        return False
    # Rare: something follows the end, such as the film of a phone's "motion photo".
    file.seek(0)
    content, at = file.read(), 2
    # The pixels of a JPEG begin behind its segments, one of which may hold a whole thumbnail.
    while end == JPEG_END and at + 4 <= len(content) and content[at + 1] != 0xDA:
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return content.find(end, at) < 0


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
