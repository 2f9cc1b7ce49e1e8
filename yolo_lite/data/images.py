"""Reading one image file: size from its header where that can be trusted, pixels by OpenCV.

Pixels come as 8 bits, scaled by their type: 16 bits divided by 257 and rounded, floats times 255 (0..1 is expected).
A header that claims over twice Pillow's MAX_IMAGE_PIXELS (179 million) is refused before memory is taken.
"""

from __future__ import annotations

import importlib
import importlib.util
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
from PIL import ExifTags, Image, TiffImagePlugin

from yolo_lite.config.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".npy"})

# How OpenCV is asked for a number of channels: alpha is dropped, grey expanded, colour made grey.
_FLAGS = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUMPY"
HAS_TIFFFILE = importlib.util.find_spec("tifffile") is not None
_FLOAT_SLACK = 0.5  # floats this far outside 0..1 are cut; further out they are of another scale, and refused

TURNED = (5, 6, 7, 8)  # the orientations that swap height and width
_JPEG_END = b"\xff\xd9"
# What a whole file ends with. Pillow itself finds a WebP that is cut off.
_END = {"JPEG": _JPEG_END, "MPO": _JPEG_END, "PNG": b"IEND\xaeB`\x82", "WEBP": b""}
_TAIL = 64  # bytes in which the end is expected; some writers pad with zeros
# What Pillow, OpenCV, numpy and tifffile raise for content that is damaged or no image.
_DAMAGED = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error, cv2.error)


@contextmanager
def _errors_name(path: str | Path) -> Iterator[None]:
    """Turn what damaged content raises into a DataError that begins with the path."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error


def image_size(path: str | Path, channels: int = 3) -> tuple[int, int]:
    """Height and width in pixels as decoded, EXIF rotation applied.

    JPEG, PNG and WebP tell by header and end, .npy by its header. Everything else is decoded: a turned PNG or WebP
    too, and any format where ``channels`` is neither 1 nor 3.

    Raises:
        DataError: the file is missing, no image, cut off, too large, or has another number of channels.
    """
    with _errors_name(path), open(path, "rb") as file:
        start = file.read(len(_NPY))
        file.seek(0)
        if start == _NPY:
            (height, width, found), _, _ = _npy_header(file)
            _check_channels(found, channels)
            return height, width
        if channels in _FLAGS and start[:4] not in _TIFF:
            with Image.open(file) as image:
                kind, (width, height), is_turned = image.format or "", image.size, orientation(image) in TURNED
            # The orientation of a JPEG is honoured by every version of OpenCV, that of other formats by some.
            end = _END.get(kind)
            if end is not None and (not is_turned or end == _JPEG_END):
                if _is_truncated(file, end):
                    raise DataError(f"the {kind} file is cut off, its end is missing")
                return (width, height) if is_turned else (height, width)
    height, width = read_image(path, channels).shape[:2]
    return height, width


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
    except _DAMAGED:
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


def read_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """Pixels uint8 ``[H, W, channels]``; EXIF rotation applied.

    3 channels are RGB, grey and palette expanded, alpha dropped; 1 is grey, colour converted. For other numbers alpha
    and the pages of a TIFF count as channels. A TIFF with more than 4 samples a pixel is read by the package tifffile.

    Raises:
        DataError: the file is missing, cannot be decoded, is too large or has another number of channels.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with _errors_name(path):
        if content.startswith(_NPY):
            pixels = _npy_pixels(content)
        elif content.startswith(_TIFF):
            pixels = _tiff_pixels(content, channels)
        else:
            Image.open(io.BytesIO(content))  # refuses a decompression bomb
            pixels = _decoded(content, _FLAGS.get(channels, cv2.IMREAD_UNCHANGED))
        pixels = _as_8_bits(pixels)
    return as_channels(pixels, channels, path)


def _decoded(content: bytes, flags: int) -> np.ndarray:
    """uint8 ``[H, W, n]`` in the order RGB or RGBA."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if image is None:
        raise DataError(f"not a readable image ({len(content)} bytes)")
    image = _as_8_bits(image)
    if image.ndim == 2:
        return image[..., None]
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _tiff_pages(content: bytes, most: int) -> list[tuple[int, int, int, bool]]:
    """Height, width, samples a pixel and whether they are floats, of up to ``most`` pages; they are all the same."""
    file = io.BytesIO(content)  # tag by tag, for Pillow itself opens no 16-bit colour, nor more than 4 samples
    start = file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(start + (file.read(8) if 43 in start[2:4] else b""))
    pages: list[tuple[int, int, int, bool]] = []
    while tags.next and len(pages) < most:
        file.seek(tags.next)
        tags.load(file)
        pages.append((int(tags[257]), int(tags[256]), int(tags.get(277, 1)), 3 in tags.get(339, ())))
    if len(set(pages)) != 1:
        raise DataError(f"expected a TIFF with pages of one shape, found {pages}")
    return pages


def _tiff_pixels(content: bytes, channels: int) -> np.ndarray:
    is_plain = channels in _FLAGS
    pages = _tiff_pages(content, 1 if is_plain else channels + 1)
    height, width, samples, is_float = pages[0]
    _check_shape((height, width, samples * len(pages)))
    if is_plain and samples <= 4:
        return _decoded(content, cv2.IMREAD_UNCHANGED if is_float else _FLAGS[channels])
    _check_channels(samples * len(pages), channels)
    if len(pages) > 1:
        found, decoded = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if not found or len(decoded) != channels:
            raise DataError(f"not a readable TIFF of {channels} pages")
        return np.stack(decoded, axis=2)
    if samples == 4:
        return _decoded(content, cv2.IMREAD_UNCHANGED)
    if not HAS_TIFFFILE:
        hint = "pip install tifffile, or keep the channels as pages or in a .npy file"
        raise DataError(f"a TIFF with more than 4 samples a pixel needs the package tifffile: {hint}")
    with importlib.import_module("tifffile").TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages[0]
        return np.moveaxis(page.asarray(), page.axes.index("S"), -1)


def _npy_header(file: BinaryIO) -> tuple[tuple[int, int, int], bool, np.dtype]:
    """The shape ``[H, W, channels]``, whether columns come first in the file, and the type of the pixels."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise DataError(f"expected an array [H, W] or [H, W, channels], found the shape {shape}")
    height, width, channels = (*shape, 1)[:3]
    _check_shape((height, width, channels))
    return (height, width, channels), is_fortran, dtype


def _npy_pixels(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    shape, is_fortran, dtype = _npy_header(file)
    found, expected = len(content) - file.tell(), math.prod(shape) * dtype.itemsize
    if dtype.hasobject or found < expected:
        raise DataError(f"expected {expected} bytes of plain numbers behind the .npy header, found {found}")
    return np.ndarray(shape, dtype, content, file.tell(), order="F" if is_fortran else "C")


def _check_shape(shape: tuple[int, int, int]) -> None:
    """Refuse what would take more memory than the largest RGB image."""
    most = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
    if shape[0] * shape[1] * max(shape[2] / 3, 1) > most:
        raise DataError(f"a header of {shape[1]} x {shape[0]} pixels exceeds limit of {most} pixels, refused")


def _check_channels(found: int, channels: int) -> None:
    if found != channels and not (found in _FLAGS and channels in _FLAGS):
        raise DataError(f"expected {channels} channels (key channels of the dataset YAML), found {found}")


def _as_8_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # in either order of bytes
        return cv2.convertScaleAbs(pixels.astype(np.uint16, copy=False), alpha=1 / 257).reshape(pixels.shape)
    if pixels.dtype.kind != "f":
        raise DataError(f"expected pixels of uint8, uint16 or float, found {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())  # NaN where one pixel is
    if not (low >= -_FLOAT_SLACK and high <= 1 + _FLOAT_SLACK):
        raise DataError(f"expected floats in 0..1, found {low:g}..{high:g}")
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def as_channels(pixels: np.ndarray, channels: int, path: str | Path) -> np.ndarray:
    """Pixels uint8 ``[H, W, n]`` as ``[H, W, channels]``: grey and RGB become one another, else n must agree."""
    with _errors_name(path):
        _check_channels(pixels.shape[2], channels)
    if pixels.shape[2] == channels:
        return pixels
    return np.repeat(pixels, 3, axis=2) if channels == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
