"""Reading one image file: size from its header where that can be trusted, pixels by OpenCV."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from yolo_lite.config.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # the orientations that swap height and width
_JPEG_END = b"\xff\xd9"
# What a whole file ends with. Pillow itself finds a WebP that is cut off.
_END = {"JPEG": _JPEG_END, "MPO": _JPEG_END, "PNG": b"IEND\xaeB`\x82", "WEBP": b""}
_TAIL = 64  # bytes in which the end is expected; some writers pad with zeros


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels as decoded, EXIF rotation applied.

    JPEG, PNG and WebP tell by their header and their end. Other formats are decoded, and so are a turned PNG and WebP.

    Raises:
        DataError: the file is missing, no image, or cut off.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = orientation(image) in _TURNED
            kind = image.format or ""
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error
    # The orientation of a JPEG is honoured by every version of OpenCV, that of other formats by some.
    if kind not in _END or (is_turned and _END[kind] != _JPEG_END):
        height, width = read_image(path).shape[:2]
        return height, width
    if _is_truncated(path, _END[kind]):
        raise DataError(f"{path}: the {kind} file is cut off, its end is missing")
    return (width, height) if is_turned else (height, width)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where it is not given. XMP is not asked, for OpenCV does not know it."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_EXIF_ORIENTATION, 1))
    except (SyntaxError, TypeError, ValueError, struct.error):  # damaged EXIF beside a sound picture
        return 1


def _is_truncated(path: str | Path, end: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-min(_TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
        if end in file.read():
            return False
        file.seek(0)
        content = file.read()
    # Rare: something follows the end, such as the film of a phone's "motion photo".
    return content.find(end, _first_scan(content) if end == _JPEG_END else 0) < 0


def _first_scan(content: bytes) -> int:
    """Where the pixels of a JPEG begin: behind its segments, one of which may hold a whole thumbnail."""
    at = 2
    while at + 4 <= len(content) and content[at + 1] != 0xDA:
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return at


def read_image(path: str | Path) -> np.ndarray:
    """RGB pixels, uint8 ``[H, W, 3]``; EXIF rotation applied, grey and palette expanded, alpha dropped.

    Raises:
        DataError: the file is missing or cannot be decoded.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        image = None
    if image is None:
        raise DataError(f"{path}: not a readable image ({content.size} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
