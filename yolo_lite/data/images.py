"""Reading one image file: size from its header where that can be trusted, pixels by OpenCV or Pillow.

Pixels come as 8 bits. 16 bits are scaled by the value of white that the set's YAML states, or 65535, and rounded;
floats are multiplied by 255 (0..1 is expected). Of an animation the first image is read.
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
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from yolo_lite.config.errors import DataError
from yolo_lite.data.suffixes import register_plugins

# How OpenCV is asked for a number of channels: alpha is dropped, grey expanded, colour made grey.
_FLAGS = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
# These are OpenCV's to decode. Pillow does the others: there OpenCV fills what is transparent, or leaves the 10 bits of
# an .avif or .ppm unscaled.
_OF_OPENCV = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP"})
_OF_A_STATED_RANGE = frozenset({"PPM", "JPEG2000"})  # whose 16 bits Pillow has scaled by what the header says
ANY_RANGE = 65535  # the largest value of 16 bits
_MULTIPLIED = 1
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUMPY"
HAS_TIFFFILE = importlib.util.find_spec("tifffile") is not None
_FLOAT_SLACK = 0.5  # floats this far outside 0..1 are cut; further out they are of another scale, and refused

TURNED = (5, 6, 7, 8)  # the orientations that swap height and width
_UPRIGHT = {  # what undoes an orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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
            image = _opened(file)
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
        if content.startswith(_NPY):
            pixels = _npy_pixels(content)
        elif content.startswith(_TIFF):
            pixels = _tiff_pixels(content, channels, white)
        else:
            pixels = _pixels(content, channels, white)
        pixels = _as_8_bits(pixels, white)
    return as_channels(pixels, channels, path)


def _opened(file: BinaryIO) -> Image.Image | None:
    """The image, not yet decoded; None where Pillow does not know the format. A decompression bomb is refused."""
    register_plugins()
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        return None


def _pixels(content: bytes, channels: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` of 8 bits, of anything but a TIFF."""
    image = _opened(io.BytesIO(content))
    if image is None or image.format in _OF_OPENCV:
        pixels = _decoded(content, _FLAGS.get(channels, cv2.IMREAD_UNCHANGED), white)
        if pixels is not None:
            return pixels
    if image is None:
        raise DataError(f"not a readable image ({len(content)} bytes)")
    return _by_pillow(image, channels, white)


def _by_pillow(image: Image.Image, channels: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` of 8 bits in the order RGB or RGBA."""
    image = image.transpose(_UPRIGHT[turn]) if (turn := orientation(image)) in _UPRIGHT else image
    if image.mode[0] in "IF":  # integers of 16 or 32 bits, floats
        pixels = np.asarray(image)
        if image.mode == "I" and 0 <= pixels.min() <= pixels.max() <= ANY_RANGE:
            pixels = pixels.astype(np.uint16)
        return _as_8_bits(pixels, ANY_RANGE if image.format in _OF_A_STATED_RANGE else white)[..., None]
    if image.mode in ("1", "L") or (image.mode == "LA" and channels in _FLAGS):
        image = image.convert("L")
    elif channels in _FLAGS:
        image = image.convert("RGB")
    elif image.mode not in ("LA", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _decoded(content: bytes, flags: int, white: int) -> np.ndarray | None:
    """uint8 ``[H, W, n]`` in the order RGB or RGBA; None where OpenCV cannot decode it."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if image is None:
        return None
    image = _as_8_bits(image, white)
    if image.ndim == 2:
        return image[..., None]
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


class _Page(NamedTuple):
    """What the tags of a TIFF say of a page."""

    shape: tuple[int, int, int]  # height, width, samples a pixel
    is_float: bool
    bits: int  # of a sample
    alpha: int  # of RGBA: _MULTIPLIED where colours are, 2 where they are not; 0 where there is none


def _tiff_pages(file: BinaryIO, most: int) -> list[_Page]:
    """Up to ``most`` pages, all of one shape and type."""
    start = file.read(8)  # tag by tag, for Pillow itself opens no 16-bit colour, nor more than 4 samples
    tags = TiffImagePlugin.ImageFileDirectory_v2(start + (file.read(8) if 43 in start[2:4] else b""))
    pages: list[_Page] = []
    while tags.next and len(pages) < most:
        file.seek(tags.next)
        tags.load(file)
        shape = (int(tags[257]), int(tags[256]), int(tags.get(277, 1)))
        bits, alpha = (int(np.atleast_1d(tags.get(tag, 0))[0]) for tag in (258, 338))
        is_rgba = shape[2] == 4 and tags.get(262) == 2 and alpha in (1, 2)
        pages.append(_Page(shape, 3 in tags.get(339, ()), bits, alpha if is_rgba else 0))
    if len({page[:2] for page in pages}) != 1:
        raise DataError(f"expected a TIFF with pages of one shape, found {[page.shape for page in pages]}")
    return pages


def _usual_tiff(content: bytes, page: _Page, flags: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` of 8 bits of the first page, with colours that are not multiplied by its alpha."""
    is_opencvs = page.bits != 8 or not page.alpha  # it would multiply 8 bits itself
    flags = cv2.IMREAD_UNCHANGED if page.is_float or page.alpha else flags
    pixels = _decoded(content, flags, white) if is_opencvs else None
    if pixels is None:
        return _by_pillow(Image.open(io.BytesIO(content)), 3 if flags in _FLAGS.values() else 4, white)
    if page.alpha == _MULTIPLIED:
        colour, alpha = pixels[..., :3], pixels[..., 3:]
        pixels = np.dstack((np.rint(colour / alpha.clip(1) * 255.0).clip(max=255).astype(np.uint8), alpha))
    return pixels


def _tiff_pixels(content: bytes, channels: int, white: int) -> np.ndarray:
    pages = _tiff_pages(io.BytesIO(content), 1 if channels in _FLAGS else channels + 1)
    height, width, samples = pages[0].shape
    _check_shape((height, width, samples * len(pages)))
    if channels in _FLAGS and samples <= 4:
        return _usual_tiff(content, pages[0], _FLAGS[channels], white)[..., :3]
    _check_channels(samples * len(pages), channels)
    if len(pages) > 1:
        found, decoded = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if not found or len(decoded) != channels:
            raise DataError(f"not a readable TIFF of {channels} pages")
        return np.stack(decoded, axis=2)
    if samples == 4:
        return _usual_tiff(content, pages[0], cv2.IMREAD_UNCHANGED, white)
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


def largest_value(path: str | Path) -> int | None:
    """The largest value of a PNG, TIFF or .npy file of 16 bits; None for other images, and for what is damaged."""
    try:
        with open(path, "rb") as file:
            if not _has_16_bits(file):
                return None
            file.seek(0)
            content = file.read()
        if content.startswith(_NPY):
            return int(_npy_pixels(content).max())
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), _FLAGS[3])
    except (DataError, *_DAMAGED):
        return None
    return None if pixels is None or pixels.dtype != np.uint16 else int(pixels.max())


def _has_16_bits(file: BinaryIO) -> bool:
    start = file.read(25)
    file.seek(0)
    if start.startswith(_NPY):
        return _npy_header(file)[2].newbyteorder("=") == np.uint16
    if start.startswith(_TIFF):
        return _tiff_pages(file, 1)[0].bits == 16
    return start.startswith(b"\x89PNG") and start[-1] == 16


def _as_8_bits(pixels: np.ndarray, white: int) -> np.ndarray:
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


def as_channels(pixels: np.ndarray, channels: int, path: str | Path) -> np.ndarray:
    """Pixels uint8 ``[H, W, n]`` as ``[H, W, channels]``: grey and RGB become one another, else n must agree."""
    with _errors_name(path):
        _check_channels(pixels.shape[2], channels)
    if pixels.shape[2] == channels:
        return pixels
    return np.repeat(pixels, 3, axis=2) if channels == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
