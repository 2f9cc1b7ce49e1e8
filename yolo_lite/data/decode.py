"""The pixels of an encoded image as 8 bits, by OpenCV or Pillow, and the border at which their errors become ours.

16 bits are scaled by the value of white, and rounded; floats are multiplied by 255 (0..1 is expected). Of an animation
the first image is read.

Damaged pixels are refused where a decoder can tell: by the checksums of PNG and deflate (which libtiff does not always
reach), and by LZW and Huffman codes that do not exist. They stay unseen in what has none of these (BMP; TIFF that is
raw, PackBits or JPEG), and where the codes of a JPEG happen to make sense again.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, Literal

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import open_regular
from yolo_lite.data.listening import LISTENER
from yolo_lite.data.suffixes import kinds_of_pillow

# How OpenCV is asked for a number of channels: alpha is dropped, grey expanded, colour made grey.
FLAGS = {1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, 3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH}
# These are OpenCV's to decode. Pillow does the others: there OpenCV fills what is transparent, or leaves the 10 bits of
# an .avif or .ppm unscaled.
_OF_OPENCV = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP"})
_OF_A_STATED_RANGE = frozenset({"PPM", "JPEG2000"})  # whose 16 bits Pillow has scaled by what the header says
NPY = b"\x93NUMPY"
TURNED = (5, 6, 7, 8)  # the orientations that swap height and width
_LEFT_FOR_RIGHT, _UPSIDE_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)  # those that a flip undoes, after the swap
JPEG_END = b"\xff\xd9"
# What a whole file ends with. Pillow itself finds a WebP that is cut off.
END = {"JPEG": JPEG_END, "MPO": JPEG_END, "PNG": b"IEND\xaeB`\x82", "WEBP": b""}
_TAIL = 64  # bytes in which the end is expected; some writers pad with zeros
ANY_RANGE = 65535  # the largest value of 16 bits
_FLOAT_SLACK = 0.5  # floats this far outside 0..1 are cut; further out they are of another scale, and refused
_LONGEST_REASON = 300  # letters of a library's message
# How files state two sides that Pillow does not open: in words Radiance (.hdr, .pic), .pam and .pfm, in bytes OpenEXR
# (the corners of a window) and what is damaged of PNG, GIF, BMP and JPEG.
_IN_WORDS = re.compile(rb"[-+][XY]\s+(\d+)\s+[-+][XY]\s+(\d+)|WIDTH\s+(\d+)\s+HEIGHT\s+(\d+)|\AP[Ff]\s+(\d+)\s+(\d+)")
_IN_BYTES: tuple[tuple[bytes, Literal["big", "little"], re.Pattern[bytes]], ...] = (
    (b"\x89PNG", "big", re.compile(rb"IHDR(.{4})(.{4})", re.DOTALL)),
    (b"\xff\xd8", "big", re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]...(..)(..)", re.DOTALL)),
    (b"GIF8", "little", re.compile(rb"\AGIF8..(..)(..)", re.DOTALL)),
    (b"BM", "little", re.compile(rb"\ABM.{16}(.{4})(.{4})", re.DOTALL)),
)
_WINDOW = re.compile(rb"dataWindow\0box2i\0\x10\0\0\0(.{4})(.{4})(.{4})(.{4})", re.DOTALL)
_HEADER = 2**16  # bytes in which words are looked for
# Pixels that a byte of a file may hold at most: deflate packs 1032 bytes of up to 8 pixels, Huffman codes take a bit or
# more for 64 pixels.
_DENSEST = {"PNG": 8 * 1032, "JPEG": 1032, "MPO": 1032}
_DENSE, _LARGE = 2**14, 2**25  # of other formats, which may hold a plain colour in a few bytes, where they are large
_SCAN, _MOST_SCANS = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e][\1-\4]"), 100  # of a JPEG; usual are up to ten
# What libjpeg prints where the pixels that follow are mostly garbage, perhaps within a line that another thread's TIFF
# has begun. Bytes in front of a marker, or one wrong code, rarely show: cameras and converters write such files.
_GARBAGE = re.compile(rb"Corrupt JPEG data: (premature end of data segment|found marker .*)|Premature end of JPEG file")
_PNG = b"\x89PNG\r\n\x1a\n"


@contextmanager
def damage_told(path: str | Path) -> Iterator[None]:
    """Turn whatever a library raises for the content of a file into a DataError that begins with the path.

    Where the system failed and not the file, the OSError with its number is the cause. What the libraries in C print
    meanwhile, at each use of the file, is not said.
    """
    try:
        with LISTENER.silence():
            yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except Exception as error:
        # The decoders of Pillow and its plugins raise anything from AttributeError to ZeroDivisionError: to name them
        # all would be to wait for the next one.
        raise DataError(f"{path}: not a readable image: {_reason(error)}") from _cause(error)


@cache
def log_nothing() -> None:
    """Keep OpenCV's log of damaged files from the terminal, in any thread, unless its variable asks for it."""
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.errno else str(error)
    return " ".join(str(text).split())[:_LONGEST_REASON] or type(error).__name__


def _cause(error: Exception) -> Exception | None:
    """The error, as an OSError where memory ran out; EINVAL and ENXIO are of the file's making."""
    if isinstance(error, MemoryError) or getattr(error, "code", None) == cv2.Error.StsNoMem:
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return None if getattr(error, "errno", None) in (errno.EINVAL, errno.ENXIO) else error


def open_image(path: str | Path) -> BinaryIO:
    """Open a regular file; one that is larger than the pixels of the largest image is refused before it is read."""
    file = open_regular(path)
    found, most = os.fstat(file.fileno()).st_size, 3 * np.float32().itemsize * most_pixels()
    if found > most:
        file.close()
        raise DataError(f"a file of {found} bytes exceeds limit of {most:.0f} bytes, refused")
    return file


def opened(file: BinaryIO) -> ImageFile.ImageFile | None:
    """The image, not yet decoded; None where Pillow does not know the format. A decompression bomb is refused."""
    try:
        image = Image.open(file, formats=kinds_of_pillow())
    except UnidentifiedImageError:
        return None
    at = file.tell()  # from which some of Pillow's decoders go on
    check_density(image.height, image.width, file.seek(0, os.SEEK_END), image.format or "")
    file.seek(at)
    return image


def check_density(height: int, width: int, num_bytes: int, kind: str = "") -> None:
    """Refuse what claims more pixels than a file of so many bytes can hold."""
    most = _DENSEST[kind] * num_bytes if kind in _DENSEST else max(_DENSE * num_bytes, _LARGE)
    if height * width > most:
        raise DataError(f"a header of {width} x {height} pixels, of which the file can hold {most} at most, refused")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where it is not given. XMP is not asked, and other decoders do not ask it."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF beside a sound image, of which Pillow makes any error
        return 1


def exif_orientation(path: str | Path) -> int:
    """The EXIF orientation of an image file; 1 where Pillow cannot read it."""
    try:
        with damage_told(path), open_image(path) as file:
            image = opened(file)
            return orientation(image) if image else 1
    except DataError:
        return 1


def stated_size(image: Image.Image, turn: int) -> tuple[int, int]:
    """Height and width as an image states them that is not yet decoded, after its EXIF orientation has been undone."""
    return image.size if turn in TURNED else image.size[::-1]


def decoded(content: bytes, channels: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` of 8 bits, of anything but a TIFF, turned as the EXIF orientation says."""
    image = opened(io.BytesIO(content))
    if image is None:
        for sides in _stated(content):
            check_shape((*sides, 3))
    # Turned here, not by OpenCV: its versions differ in what they read of EXIF data, and from Pillow.
    turn, flags = orientation(image) if image else 1, FLAGS.get(channels, cv2.IMREAD_UNCHANGED)
    stated = stated_size(image, turn) if image and image.format in END else None
    pixels = None
    if image is None or image.format in _OF_OPENCV:
        pixels = by_opencv(content, flags | cv2.IMREAD_IGNORE_ORIENTATION, white)
    pixels = upright(by_pillow(image, channels, white) if pixels is None else pixels, turn)
    if stated and pixels.shape[:2] != stated:
        raise DataError(f"the header says {stated} (height, width), the pixels are {pixels.shape[:2]}")
    return pixels


def upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` without the EXIF orientation ``turn``."""
    pixels = pixels.swapaxes(0, 1) if turn in TURNED else pixels
    pixels = pixels[:, ::-1] if turn in _LEFT_FOR_RIGHT else pixels
    return np.ascontiguousarray(pixels[::-1] if turn in _UPSIDE_DOWN else pixels)


def _stated(content: bytes) -> Iterator[tuple[int, int]]:
    """Two sides wherever a file that Pillow does not open may state them."""
    for found in _IN_WORDS.finditer(content[:_HEADER]):
        one, other = (int(side) for side in found.groups() if side is not None)
        yield one, other
    for start, order, pattern in _IN_BYTES:
        for found in pattern.finditer(content) if content.startswith(start) else ():
            one, other = (abs(int.from_bytes(side, order, signed=start == b"BM")) for side in found.groups())
            yield one, other
    for found in _WINDOW.finditer(content[:_HEADER]):
        left, top, right, bottom = (int.from_bytes(edge, "little", signed=True) for edge in found.groups())
        yield bottom - top + 1, right - left + 1


def check_chunks(content: bytes) -> None:
    """Refuse a PNG with a chunk that claims more bytes than there are, for which OpenCV would take the memory.

    And a JPEG of very many scans: some sixty bytes each have the decoder go through the whole image once more.
    """
    is_jpeg = content.startswith(b"\xff\xd8")
    if is_jpeg and content.count(b"\xff\xda") > _MOST_SCANS and len(_SCAN.findall(content)) > _MOST_SCANS:
        raise DataError(f"a JPEG of more than {_MOST_SCANS} scans, refused")
    at, kind = len(_PNG), b""
    while content.startswith(_PNG) and at + 8 <= len(content) and kind != b"IEND":
        kind = content[at + 4 : at + 8]
        at += 12 + int.from_bytes(content[at : at + 4], "big")
        if at > len(content):
            raise DataError("the PNG file is cut off, or a chunk of it claims more bytes than the file has")


def by_pillow(image: Image.Image | None, channels: int, white: int) -> np.ndarray:
    """Pixels ``[H, W, n]`` of 8 bits in the order RGB or RGBA; an error where there is no image."""
    if image is None:
        raise DataError("not a readable image: neither OpenCV nor Pillow can decode it")
    if image.mode[0] in "IF":  # integers of 16 or 32 bits, floats
        pixels = np.asarray(image)
        if image.mode == "I" and 0 <= pixels.min() <= pixels.max() <= ANY_RANGE:
            pixels = pixels.astype(np.uint16)
        return as_8_bits(pixels, ANY_RANGE if image.format in _OF_A_STATED_RANGE else white)[..., None]
    if image.mode == "1" or (image.mode == "LA" and channels in FLAGS):
        image = image.convert("L")
    elif channels in FLAGS and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def by_opencv(content: bytes, flags: int, white: int) -> np.ndarray | None:
    """uint8 ``[H, W, n]`` in the order RGB or RGBA; None where OpenCV cannot decode it."""
    check_chunks(content)
    log_nothing()
    decode = partial(cv2.imdecode, np.frombuffer(content, np.uint8), flags)
    image, told = LISTENER.heard(decode, _GARBAGE) if content.startswith(b"\xff\xd8") else (decode(), "")
    if told:
        raise DataError(f"the JPEG file is damaged within its pixels: {told}")
    if image is None:
        return None
    image = as_8_bits(image, white)
    if image.ndim == 2:
        return image[..., None]
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def most_pixels() -> float:
    """What Pillow takes for a decompression bomb."""
    return 2 * (Image.MAX_IMAGE_PIXELS or math.inf)


def check_shape(shape: tuple[int, int, int]) -> None:
    """Refuse what would take more memory than the largest RGB image."""
    most = most_pixels()
    if shape[0] * shape[1] * max(shape[2] / 3, 1) > most:
        raise DataError(f"a header of {shape[1]} x {shape[0]} pixels exceeds limit of {most} pixels, refused")


def check_channels(found: int, channels: int) -> None:
    if found != channels and not (found in FLAGS and channels in FLAGS):
        raise DataError(f"expected {channels} channels (key channels of the dataset YAML), found {found}")


def check_type(dtype: np.dtype) -> None:
    if dtype not in (np.uint8, np.uint16, np.dtype(np.uint16).newbyteorder()) and dtype.kind != "f":
        raise DataError(f"expected pixels of uint8, uint16 or float, found {dtype}"[:_LONGEST_REASON])


def as_8_bits(pixels: np.ndarray, white: int) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # in either order of bytes
        return cv2.convertScaleAbs(pixels.astype(np.uint16, copy=False), alpha=255 / white).reshape(pixels.shape)
    check_type(pixels.dtype)
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
    """The shape ``[H, W, channels]``, whether columns come first in the file, and the type of the pixels.

    Raises:
        DataError: the shape or the type is no image's, or the file is too short for them.
    """
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read(file)
    except MemoryError:  # Python's parser, in brackets within brackets
        raise DataError("not a readable .npy header") from None
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise DataError(f"expected an array [H, W] or [H, W, channels], found the shape {shape}"[:_LONGEST_REASON])
    height, width, channels = (*shape, 1)[:3]
    check_shape((height, width, channels))
    start = file.tell()
    found, expected = file.seek(0, os.SEEK_END) - start, height * width * channels * dtype.itemsize
    file.seek(start)
    if dtype.hasobject or found < expected:
        raise DataError(f"expected {expected} bytes of plain numbers behind the .npy header, found {found}")
    check_type(dtype)
    return (height, width, channels), is_fortran, dtype


def npy_pixels(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    shape, is_fortran, dtype = npy_header(file)
    return np.ndarray(shape, dtype, content, file.tell(), order="F" if is_fortran else "C")
