"""TIFF files, whose tags say what OpenCV and Pillow are to be asked for."""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import TiffImagePlugin

from yolo_lite.config.errors import DataError
from yolo_lite.data.decode import (
    ANY_RANGE,
    FLAGS,
    by_opencv,
    by_pillow,
    check_channels,
    check_density,
    check_shape,
    log_nothing,
    opened,
)

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how the files begin
HAS_TIFFFILE = importlib.util.find_spec("tifffile") is not None
_MULTIPLIED, _UNCOMPRESSED = 1, 1
# LZW, deflate (by two numbers) and PackBits, of which Pillow refuses what is damaged; OpenCV, which gives the same
# pixels, goes on behind it. Bilevel or grey, RGB and palette.
_PACKED, _PLAIN = (5, 8, 32946, 32773), (1, 2, 3)


class Page(NamedTuple):
    """What the tags of a TIFF say of a page."""

    shape: tuple[int, int, int]  # height, width, samples a pixel
    is_float: bool
    bits: int  # of a sample
    alpha: int  # of RGBA: _MULTIPLIED where colours are, 2 where they are not; 0 where there is none
    end: int  # of the pixels, in bytes of the file, at least
    rows: int  # that the strips have; those of tiles are not counted
    is_packed: bool  # and of 8 bits, so that Pillow shall decode it


def tiff_pages(file: BinaryIO, most: int) -> list[Page]:
    """Up to ``most`` pages, all of one shape and type."""
    start = file.read(8)  # tag by tag, for Pillow itself opens no 16-bit colour, nor more than 4 samples
    tags = TiffImagePlugin.ImageFileDirectory_v2(start + (file.read(8) if 43 in start[2:4] else b""))
    pages: list[Page] = []
    while tags.next and len(pages) < most:
        file.seek(tags.next)
        tags.load(file)
        shape = (int(tags[257]), int(tags[256]), int(tags.get(277, 1)))
        bits, alpha = (int(np.atleast_1d(tags.get(tag, usual))[0]) for tag, usual in ((258, 1), (338, 0)))
        is_rgba = shape[2] == 4 and tags.get(262) == 2 and alpha in (1, 2)
        if not 0 < bits <= 64:
            raise DataError(f"expected a TIFF with up to 64 bits a sample, found {bits}")
        extent = _extent(tags, shape[0], math.prod(shape) * bits // 8)
        is_packed = bits == 8 and shape[2] in (1, 3) and tags.get(259) in _PACKED and tags.get(262) in _PLAIN
        pages.append(Page(shape, 3 in tags.get(339, ()), bits, alpha if is_rgba else 0, *extent, is_packed))
    if len({page[:2] for page in pages}) != 1:
        raise DataError(f"expected a TIFF with pages of one shape, found {[page.shape for page in pages]}")
    return pages


def _extent(tags: TiffImagePlugin.ImageFileDirectory_v2, height: int, num_bytes: int) -> tuple[int, int]:
    """Where the pixels of a page end in the file, at least, and how many rows its strips have."""
    is_tiled = 324 in tags
    offsets, counts = (np.atleast_1d(tags.get(tag, 0)) for tag in ((324, 325) if is_tiled else (273, 279)))
    if tags.get(259, 1) == _UNCOMPRESSED:  # counts of bytes are then often wrong, and nobody needs them
        end = max(int(offsets.max()), int(offsets.min()) + num_bytes)
    else:
        end = int((offsets + counts).max()) if offsets.shape == counts.shape else 0
    return end, height if is_tiled else len(offsets) * min(int(tags.get(278, height)), height)


def _check_extent(content: bytes, pages: Sequence[Page]) -> None:
    """Refuse pages whose pixels are not all there: OpenCV would leave the rows black."""
    for page in pages:
        if page.end > len(content) or page.rows < page.shape[0]:
            raise DataError("the TIFF file is cut off, or its tags claim more rows than it has")


def _usual_pixels(content: bytes, page: Page, flags: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` of 8 bits of the first page, with colours that are not multiplied by its alpha."""
    _check_extent(content, [page])
    flags = cv2.IMREAD_UNCHANGED if page.is_float or page.alpha else flags
    pixels, image = None, opened(io.BytesIO(content)) if page.is_packed else None
    if not image and (page.bits != 8 or not page.alpha):  # OpenCV would multiply 8 bits; it scales 10, 12, 14 by itself
        pixels = by_opencv(content, flags, white if page.bits == 16 else ANY_RANGE)
    if pixels is None:
        channels = 3 if flags in FLAGS.values() else 4
        return by_pillow(image or opened(io.BytesIO(content)), channels, white if page.bits == 16 else 2**page.bits - 1)
    if page.alpha == _MULTIPLIED:
        colour, alpha = pixels[..., :3], pixels[..., 3:]
        pixels = np.dstack((np.rint(colour / alpha.clip(1) * 255.0).clip(max=255).astype(np.uint8), alpha))
    return pixels


def tiff_pixels(content: bytes, channels: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]``, n samples of the only page or as many pages."""
    pages = tiff_pages(io.BytesIO(content), 1 if channels in FLAGS else channels + 1)
    height, width, samples = pages[0].shape
    check_shape((height, width, samples * len(pages)))
    check_density(height, width, len(content))
    if channels in FLAGS and samples <= 4:
        return _usual_pixels(content, pages[0], FLAGS[channels], white)[..., :3]
    check_channels(samples * len(pages), channels)
    if len(pages) > 1:
        _check_extent(content, pages)
        log_nothing()
        found, decoded = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if not found or len(decoded) != channels:
            raise DataError(f"not a readable TIFF of {channels} pages")
        return np.stack(decoded, axis=2)
    if samples == 4:
        return _usual_pixels(content, pages[0], cv2.IMREAD_UNCHANGED, white)
    if not HAS_TIFFFILE:
        hint = "pip install tifffile, or keep the channels as pages or in a .npy file"
        raise DataError(f"a TIFF with more than 4 samples a pixel needs the package tifffile: {hint}")
    with importlib.import_module("tifffile").TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages[0]
        return np.moveaxis(page.asarray(), page.axes.index("S"), -1)
