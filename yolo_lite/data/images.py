"""Reading one image file: size from its header, pixels by OpenCV."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from yolo_lite.config.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

_EXIF_ORIENTATION = 0x0112
_TAIL = 64  # bytes in which a whole file's end marker is expected; some writers pad with zeros


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels as decoded (EXIF rotation applied), from the header and the file's end alone.

    Raises:
        DataError: the file is missing, no image, or cut off.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5:
                height, width = width, height
            kind = image.format
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error
    if _is_truncated(path, kind):
        raise DataError(f"{path}: the {kind} file is cut off, its end is missing")
    return height, width


def _is_truncated(path: str | Path, kind: str | None) -> bool:
    marker = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "")
    if marker is None:
        return False
    with open(path, "rb") as file:
        file.seek(-min(_TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
        if marker in file.read():
            return False
        file.seek(0)
        content = file.read()
    # Rare: data behind the end marker. A JPEG's scans never hold the marker, but a thumbnail before them may.
    return content.rfind(marker) < max(content.rfind(b"\xff\xda"), 0) if kind == "JPEG" else marker not in content


def read_image(path: str | Path) -> np.ndarray:
    """RGB pixels, uint8 ``[H, W, 3]``; EXIF rotation applied, grey and palette expanded, alpha dropped.

    Raises:
        DataError: the file is missing or cannot be decoded.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise DataError(f"{path}: not a readable image ({content.size} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
