"""Images with flipped bytes, cuts, splices and false headers: size and pixels agree, or a DataError names the file."""

from __future__ import annotations

import functools
import io
import random
import struct
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from yolo_lite.config.errors import DataError
from yolo_lite.data.images import image_size, read_image

HEIGHT, WIDTH = 12, 18
SECONDS = 3.0  # of the processor, that one file may take
MEGABYTES = 1500  # above what the process had before: pixels of as many as the largest image has
OF_PILLOW = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "WEBP": ["RGB", "RGBA"],
    "TIFF": ["1", "L", "P", "RGB", "RGBA", "I;16", "F", "CMYK"],
    "BMP": ["1", "P", "RGB"],
    "DIB": ["RGB"],
    "GIF": ["P", "RGB"],
    "PPM": ["1", "L", "RGB", "I;16"],
    **{kind: ["RGB", "RGBA"] for kind in ("JPEG2000", "AVIF", "DDS", "TGA")},
    **{kind: ["RGB"] for kind in ("MPO", "PCX", "QOI", "SGI")},
    **{kind: ["RGBA"] for kind in ("ICNS", "ICO")},
    "MSP": ["1"],
    "SPIDER": ["F"],
    "BLP": ["P"],
}
OF_OPENCV = (".hdr", ".pfm", ".pam", ".sr", ".png", ".tiff", ".jp2", ".exr", ".avif", ".gif")
TYPES = ("u1", "<u2", ">u2", "<f2", ">f2", "f4", "f8", "i1", "i4", "i8", "?", "c8", "U3", "O", "u1,f4", "M8[s]")
# Numbers that headers overflow at, in both orders of bytes.
EDGES = [struct.pack(order + code, value) for order in "<>" for code, value in (
    ("H", 0), ("H", 65535), ("H", 32768), ("I", 0), ("I", 2**32 - 1), ("I", 2**31 - 1), ("I", 60000), ("I", 10**6),
)]  # fmt: skip


@functools.cache
def valid_files() -> list[bytes]:
    """Small images of every kind that can be written here, some of them turned, animated or with text."""
    rng, files = np.random.default_rng(0), []
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.init()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    for kind, mode in ((kind, mode) for kind, modes in OF_PILLOW.items() for mode in modes):
        source = Image.fromarray(pixels).convert("I" if mode == "I;16" else mode).convert(mode)
        more = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
        several = {"save_all": True, "append_images": [source]} if kind in ("GIF", "TIFF", "WEBP") else {}
        for options in ({}, *filter(None, (more, several))):
            stream = io.BytesIO()
            try:
                source.save(stream, kind, **options)
            except (OSError, KeyError, ValueError, AttributeError):  # which this Pillow does not write
                continue
            if stream.getvalue() not in files:
                files.append(stream.getvalue())
    return files + opencv_files(pixels) + numpy_files(rng)


def opencv_files(pixels: np.ndarray) -> list[bytes]:
    variants = pixels, (pixels / 255).astype(np.float32), pixels.astype(np.uint16) * 257, pixels[..., 0]
    files = []
    for suffix in OF_OPENCV:
        for each in variants:
            try:
                found, content = cv2.imencode(suffix, each)
            except cv2.error:  # of a type that the format has not, or a format that is left out of this OpenCV
                continue
            files += [content.tobytes()] if found else []
    return files


def numpy_files(rng: np.random.Generator) -> list[bytes]:
    files = []
    shapes = (HEIGHT, WIDTH, 3), (HEIGHT, WIDTH, 5), (0, 4), (1,) * 12, ()
    for dtype, shape in [*((dtype, (HEIGHT, WIDTH)) for dtype in TYPES), *(("u1", shape) for shape in shapes)]:
        stream, array = io.BytesIO(), np.zeros(shape, dtype)
        if array.dtype.kind in "uf":
            array[...] = rng.random(shape) * (1 if array.dtype.kind == "f" else 200)
        np.save(stream, np.asfortranarray(array) if rng.random() < 0.3 else array, allow_pickle=True)
        files.append(stream.getvalue())
    return files


def damaged(files: list[bytes], rng: random.Random) -> bytes:
    """One of the files after some changes, mostly of its header."""
    content = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 1, 1, 2, 8))):
        length = len(content)
        place = rng.randrange(min(length, rng.choice((32, 128, 10**9)))) if length else 0
        way = rng.randrange(12)
        if way <= 5 and length:
            content[place] ^= 1 << rng.randrange(8)
        elif way == 6:
            content[place : place + rng.randrange(1, 5)] = rng.randbytes(rng.randrange(5))
        elif way <= 8:
            edge = rng.choice(EDGES)
            content[place : place + len(edge)] = edge
        elif way == 9:
            del content[place if rng.random() < 0.5 else max(length - place, 1) :]
        elif way == 10:
            other = rng.choice(files)
            start = rng.randrange(len(other))
            content[place : place + rng.choice((0, 16, 10**9))] = other[start : start + rng.choice((16, 64, 10**9))]
        else:
            number = b"%d" % rng.choice((0, -1, 7, 255, 65536, 10**6, 10**9, 10**20))
            digits = [at for at in range(min(length, 200)) if content[at : at + 1].isdigit()]
            if digits:
                at = rng.choice(digits)
                content[at : at + 1] = number
    return with_checksums(bytes(content)) if rng.random() < 0.5 else bytes(content)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold now, so that more than these is tried."""
    parts, at = [content[:8]], 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        parts += [content[at:end], struct.pack(">I", zlib.crc32(content[at + 4 : end]))]
        at = end + 4
    return b"".join((*parts, content[at:])) if len(parts) > 1 else content


def verdict(path: Path, channels: int) -> str:
    """What the readers make of a file, after all that must hold of it."""
    found: list[tuple[int, int] | None] = []
    for read in (image_size, lambda *given: read_image(*given).shape[:2]):
        try:
            found.append(read(path, channels))
        except DataError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 1000, error
            found.append(None)
    assert None in found or found[0] == found[1], found
    return "read" if found[1] else "refused" if found[0] is None else "fails late"


def fuzz(folder: Path, seed: int, cases: int) -> Counter[str]:
    """Read damaged files; the first one that breaks a law stays in the folder."""
    resource = pytest.importorskip("resource")  # Windows has none
    files, rng, path = valid_files(), random.Random(seed), folder / "damaged"
    before, verdicts = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Counter[str]()
    for _ in range(cases):
        path.write_bytes(damaged(files, rng))
        start = time.process_time()
        verdicts[verdict(path, rng.choice((1, 3, 3, 3, 4, 5)))] += 1
        assert time.process_time() - start < SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024
    return verdicts


def test_the_files_that_are_damaged_here_are_read_before(tmp_path):
    verdicts = Counter[str]()
    for content in valid_files():
        (tmp_path / "valid").write_bytes(content)
        verdicts[verdict(tmp_path / "valid", 3)] += 1
    assert verdicts["read"] > 60 and not verdicts["fails late"], verdicts


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_alike_or_refused_by_name_and_in_silence(tmp_path, capfd):
    verdicts = fuzz(tmp_path, seed=0, cases=1000)
    assert min(verdicts["read"], verdicts["refused"], verdicts["fails late"]) >= 10, verdicts
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_in_silence_by_threads_too_and_as_by_one_alone(tmp_path, capfd):
    files, rng = valid_files(), random.Random(1)
    capfd.readouterr()  # of those that OpenCV does not write
    paths = [tmp_path / str(number) for number in range(400)]
    for path in paths:
        path.write_bytes(damaged(files, rng))
    alone = [verdict(path, 3) for path in paths]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(functools.partial(verdict, channels=3), paths)) == alone
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(1, 6))
def test_ten_thousand_damaged_files_are_read_alike_or_refused(tmp_path, seed):
    assert fuzz(tmp_path, seed, cases=10_000)["read"] > 100
