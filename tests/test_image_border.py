"""What hostile files do at the border of the decoders: one kind of error, no other program, no memory untested."""

from __future__ import annotations

import errno
import io
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, PngImagePlugin
from test_images import noise, npy_header, png_header, quarters, tiff_of

from yolo_lite.config.errors import DataError
from yolo_lite.data import images
from yolo_lite.data.decode import _GARBAGE, exif_orientation
from yolo_lite.data.images import image_size, read_image
from yolo_lite.data.index import read_image_labels
from yolo_lite.data.labels import SYSTEM_ERROR
from yolo_lite.data.listening import LISTENER
from yolo_lite.deploy.sources import Media, count_frames, frames_of

READERS = [image_size, read_image]


def png(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------- one kind of error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a"), NotImplementedError(), RecursionError("deep"), ZeroDivisionError(), AttributeError("x"),
     AssertionError(), OverflowError("big"), UnicodeDecodeError("ascii", b"\xff", 0, 1, "no"), struct.error("s"),
     zlib.error("z"), SystemError("tile"), KeyError(7), cv2.error("two\nlines"),
     Image.DecompressionBombError("exceeds"),
     OSError("no number"), OSError(errno.EINVAL, "Invalid argument"), Warning("w"), StopIteration()],
)  # fmt: skip
@pytest.mark.parametrize("read", READERS)
def test_whatever_a_decoder_raises_names_the_file_in_one_line(tmp_path, monkeypatch, read, error):
    (tmp_path / "a.png").write_bytes(png(noise()))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", fail)
    if isinstance(error, (struct.error, KeyError)):  # Pillow takes these for another format
        monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"a\.png: not a readable image: .") as caught:
        read(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    assert getattr(caught.value.__cause__, "errno", None) is None  # the file's fault: other runs need not look again


@pytest.mark.parametrize(
    ("error", "number"),
    [(OSError(errno.EMFILE, "Too many open files"), errno.EMFILE), (OSError(errno.EIO, "I/O"), errno.EIO),
     (OSError(errno.ESTALE, "Stale"), errno.ESTALE), (MemoryError(), errno.ENOMEM)],
)  # fmt: skip
def test_an_error_of_the_system_is_no_fault_of_the_file(tmp_path, monkeypatch, error, number):
    (tmp_path / "a.png").write_bytes(png(noise()))

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(images, "open_image", fail)
    for read in READERS:
        with pytest.raises(DataError, match=r"a\.png: ") as caught:
            read(tmp_path / "a.png")
        assert caught.value.__cause__.errno == number
    labels = read_image_labels(NoLabels(), 3, False, str(tmp_path / "a.png"), "a.txt")
    assert labels.problems[0][0].kind == SYSTEM_ERROR


class NoLabels:
    """A reader that finds no labels."""

    def annotations(self, *_: object) -> list[object]:
        return []


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
@pytest.mark.parametrize("read", [*READERS, exif_orientation])
def test_only_regular_files_are_opened(tmp_path, kind, read):
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    if read is exif_orientation:
        assert read(path) == 1
        return
    said = "No such device or address" if kind == "socket" else f"a {kind}, expected a regular file"
    with pytest.raises(DataError, match=rf"x\.png: not a readable image: {said}") as caught:
        read(path)
    assert getattr(caught.value.__cause__, "errno", errno.EISDIR) == errno.EISDIR  # no fault of the system


def test_a_pipe_named_as_a_film_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "film.mp4")
    media = [Media(str(tmp_path / "film.mp4"), "video", Path("film"))]
    assert count_frames(media) == 0
    with pytest.raises(DataError, match=r"film\.mp4: .*a pipe, expected a regular file"):
        list(frames_of(media[0], 3, 255))


def test_a_drawing_starts_no_other_program(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n")
    for read in READERS:
        with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
            read(path)


def test_libraries_in_c_print_nothing(tmp_path, capfd):
    content = bytearray(png(noise()))
    content[-20] ^= 255
    (tmp_path / "a.png").write_bytes(content)
    os.write(2, b"before\n")
    with pytest.raises(DataError):
        read_image(tmp_path / "a.png")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def tiff(compression: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise()).save(stream, "TIFF", compression=compression, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"])
def test_a_packed_tiff_has_the_pixels_that_opencv_makes_of_it(tmp_path, compression, mode, orientation):
    exif_data = Image.Exif()
    exif_data[274] = orientation
    Image.fromarray(noise()).convert(mode).save(tmp_path / "a.tif", compression=compression, exif=exif_data)
    expected = cv2.imdecode(np.fromfile(tmp_path / "a.tif", np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    found = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, expected)
    assert image_size(tmp_path / "a.tif") == found.shape[:2] == ((60, 40) if orientation == 6 else (40, 60))


def in_threads(paths: list[Path]) -> list[str]:
    """What eight threads at once make of files: ``""``, or the error."""

    def outcome(path: Path) -> str:
        try:
            return "" if read_image(path).any() else "black"
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(outcome, paths))


def photograph() -> bytes:
    stream = io.BytesIO()
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8), (320, 240))
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_garbage_is_refused_in_any_thread_by_the_name_of_its_file_and_in_silence(tmp_path, capfd):
    """File descriptor 2 is that of all threads: libjpeg's words must not be taken for those about another image."""
    paths = [tmp_path / f"{number}.jpg" for number in range(160)]
    for number, path in enumerate(paths):
        content = bytearray(photograph() if number % 4 < 3 else tiff("tiff_lzw"))
        if number % 5 < 2:
            middle = len(content) // 2
            content[middle : middle + 200] = b"" if number % 4 < 3 else bytes(200)
        path.write_bytes(content)
    os.write(2, b"before\n")
    for number, told in enumerate(in_threads(paths)):
        reason = "damaged within its pixels: Corrupt JPEG data: " if number % 4 < 3 else "decoder error"
        assert (f"{paths[number]}: " in told and reason in told) if number % 5 < 2 else not told, (number, told)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_what_others_write_while_an_image_is_decoded_is_passed_on(capfd):
    with LISTENER.silence():
        with LISTENER.silence():
            os.write(2, b"\repoch 1/2:  50%")
            os.write(2, b"Corrupt JPEG data: 3 extraneous bytes before marker 0xd9\n")
            os.write(2, b"libpng warning: iCCP: known incorrect sRGB profile")
        assert capfd.readouterr().err == "\repoch 1/2:  50%"
        os.write(2, b"\ntempfile.tif: Using code not yet in table.\nerror: /a/b.yaml: no such file\n")
    assert capfd.readouterr().err == "error: /a/b.yaml: no such file\n"


def test_damage_is_heard_within_a_line_that_another_thread_has_begun(capfd):
    """libtiff writes a line in pieces: between two of them stands what libjpeg says of another image."""

    def decode():
        for words in (b"tempfile.tif: ", b"Corrupt JPEG data: premature end of data segment\n"):
            with LISTENER.silence():  # what stands there is passed on as another thread leaves
                os.write(2, words)
        os.write(2, b"Using code not yet in table.\n")

    assert LISTENER.heard(decode, _GARBAGE)[1] == "Corrupt JPEG data: premature end of data segment"
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_meanwhile_has_its_own_stderr_and_listener(tmp_path, capfd):
    (tmp_path / "a.jpg").write_bytes(photograph())
    with LISTENER.silence(), LISTENER.lock:
        child = os.fork()
        if not child:
            os.write(2, b"the child\n")
            os._exit(0 if read_image(tmp_path / "a.jpg").any() and not LISTENER.users else 3)
        assert os.waitpid(child, 0)[1] == 0
    assert capfd.readouterr().err == "the child\n"


def test_words_about_an_image_end_nothing_where_the_terminal_is_gone():
    kept, (ours, theirs) = os.dup(2), pytest.importorskip("pty").openpty()
    os.dup2(theirs, 2)
    for end in (theirs, ours):
        os.close(end)
    try:
        with LISTENER.silence():
            os.write(2, b"Corrupt JPEG data: 3 extraneous bytes before marker 0xd9\nsomebody else\n")
        assert LISTENER.kept < 0 and LISTENER.users == 0
        with pytest.raises(OSError, match="Input/output error"):  # it leads where it led
            os.write(2, b"lost")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_without_a_stderr_images_are_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(photograph())
    code = "import os, sys; from yolo_lite.data.images import read_image as r; os.close(2); print(r(sys.argv[1]).shape)"
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "a.jpg"], stdout=subprocess.PIPE, check=True)
    assert found.stdout == b"(240, 320, 3)\n"


# -------------------------------------------------------------------------------------------------------- orientation


def exif(kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    """EXIF data whose only tag is an orientation of this type."""
    inside = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", 26)
    start = struct.pack(order + "2sHIHHHI", b"II" if order == "<" else b"MM", 42, 8, 1, 274, kind, count)
    return b"Exif\0\0" + start + inside + bytes(4) + (value if len(value) > 4 else b"")


ORIENTATIONS = {
    "a number": exif(3, 1, struct.pack("<H", 6)),
    "a number, the other way round": exif(3, 1, struct.pack(">H", 6), ">"),
    "a long number": exif(4, 1, struct.pack("<I", 6)),
    "a long number, the other way round": exif(4, 1, struct.pack(">I", 6), ">"),
    "a byte": exif(1, 1, b"\6"),
    "text": exif(2, 2, b"6\0"),
    "long text": exif(2, 8, b"6 turned"),
    "a list": exif(3, 2, struct.pack("<2H", 6, 8)),
    "rational": exif(5, 1, struct.pack("<2I", 6, 1)),
    "infinite": exif(5, 1, struct.pack("<2I", 6, 0)),
    "a float": exif(11, 1, struct.pack("<f", 6)),
    "no number": exif(11, 1, struct.pack("<f", np.nan)),
    "huge": exif(4, 1, struct.pack("<I", 2**32 - 2)),
    "negative": exif(9, 1, struct.pack("<i", -6)),
    "unknown type": exif(77, 1, b"\6"),
    "many": exif(3, 2**31, struct.pack("<I", 4000)),
}


@pytest.mark.parametrize("given", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_readers_agree_on_any_orientation(tmp_path, kind, given, channels):
    path = tmp_path / "turned"
    quarters().save(path, kind, exif=ORIENTATIONS[given])
    size = image_size(path, channels)
    assert size == read_image(path, channels).shape[:2] and size in ((40, 60), (60, 40))
    if "number" in given and given != "no number":
        assert size == (60, 40)


def test_four_channels_are_turned_as_three_are(tmp_path):
    source = quarters().convert("RGBA")
    source.save(tmp_path / "turned.png", exif=exif(3, 1, struct.pack("<H", 8)))
    image = read_image(tmp_path / "turned.png", 4)
    assert image_size(tmp_path / "turned.png", 4) == image.shape[:2] == (60, 40)
    np.testing.assert_array_equal(image, np.asarray(source.transpose(Image.Transpose.ROTATE_90)))


# ----------------------------------------------------------------------------------------------------- declared sizes


def chunk_of(num_bytes: int) -> bytes:
    """A PNG with a chunk that claims so many bytes."""
    content = png(noise())
    return content[:33] + struct.pack(">I", num_bytes) + b"teXt" + content[33:]


def hdr(height: int, width: int) -> bytes:
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (height, width) + bytes(100)


def exr(side: int) -> bytes:
    window = b"dataWindow\0box2i\0\x10\0\0\0" + struct.pack("<4i", 0, 0, side - 1, side - 1)
    return b"\x76\x2f\x31\x01\2\0\0\0" + window + bytes(100)


def text_chunk(size: int) -> bytes:
    """A PNG with text that takes so many bytes when it is unpacked."""
    content, packed = png(noise()), b"key\0\0" + zlib.compress(bytes(size), 9)
    chunk = b"zTXt" + packed
    return content[:33] + struct.pack(">I", len(packed)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


def sparse_tiff() -> bytes:
    content = bytearray(tiff_of(noise(channels=1)[..., None], 1))
    for tag in (256, 257, 278):
        struct.pack_into("<I", content, content.index(struct.pack("<HH", tag, 3)) + 8, 13000)
    return bytes(content)


CLAIMS: dict[str, Callable[[], bytes]] = {
    "far too large": lambda: png_header(60000, 60000),
    "too large for its bytes": lambda: png_header(13000, 13000),
    "a chunk": lambda: chunk_of(2**31 - 1),
    "Radiance": lambda: hdr(60000, 60000),
    "OpenEXR": lambda: exr(60000),
    "PAM": lambda: b"P7\nWIDTH 60000\nHEIGHT 60000\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(99),
    "PFM": lambda: b"PF\n60000 60000\n-1.0\n" + bytes(99),
    "PPM": lambda: b"P6 60000 60000 255\n" + bytes(99),
    "GIF": lambda: b"GIF89a" + struct.pack("<2H", 65535, 65535) + bytes(99),
    "BMP": lambda: b"BM" + bytes(12) + struct.pack("<I2iHH", 40, 60000, 60000, 1, 24) + bytes(99),
    "JPEG": lambda: (
        b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">2H", 60000, 60000) + b"\3\1\x11\0\2\x11\0\3\x11\0" * 9
    ),
    "TIFF": sparse_tiff,
    "text": lambda: text_chunk(2**25),
    "numpy": lambda: npy_header(13000, 13000, 3),
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_file_claims_is_refused_before_memory_is_taken(tmp_path, read, name):
    resource = pytest.importorskip("resource")
    path = tmp_path / "claim.png"
    path.write_bytes(CLAIMS[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"claim\.png: "):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB: what no Python code takes


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_is_larger_than_any_image_is_not_read(tmp_path, read):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(DataError, match=r"large\.png: a file of 8589934592 bytes exceeds limit"):
        read(tmp_path / "large.png")


def test_a_jpeg_of_very_many_scans_is_refused_before_hours_are_spent(tmp_path):
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    (tmp_path / "scans.jpg").write_bytes(content[:-2] + 90 * scan + content[-2:])
    assert read_image(tmp_path / "scans.jpg").shape == (64, 64, 3)
    (tmp_path / "scans.jpg").write_bytes(content[:-2] + 100 * scan + content[-2:])
    with pytest.raises(DataError, match=r"scans\.jpg: a JPEG of more than 100 scans"):
        read_image(tmp_path / "scans.jpg")


def test_strips_beyond_the_end_are_found(tmp_path):
    """OpenCV would leave their rows black."""
    path, content = tmp_path / "cut.tif", tiff_of(noise(), 2)
    path.write_bytes(content)
    assert image_size(path) == (40, 60)
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"cut\.tif: the TIFF file is cut off"):
        image_size(path)


# ------------------------------------------------------------------------------------------------------------- arrays


def header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + bytes(10_000)


PLAIN = "{'descr': '|u1', 'fortran_order': False, 'shape': (40, 60), }"
HEADERS = {
    "brackets": PLAIN.replace("(40, 60)", "(" * 3000 + "1" + ")" * 3000),
    "minus": PLAIN.replace("(40, 60)", "-" * 4000 + "1"),
    "digits": PLAIN.replace("40", "4" * 5000),
    "huge": PLAIN.replace("40", "4" * 400),
    "negative": PLAIN.replace("40", "-40"),
    "empty": PLAIN.replace("40", "0"),
    "deep": PLAIN.replace("(40, 60)", f"({'1, ' * 64})"),
    "long items": PLAIN.replace("|u1", "S1000000000"),
    "structured": PLAIN.replace("'|u1'", str([(f"f{i}", "u1") for i in range(300)])),
    "nothing": "",
    "a call": PLAIN.replace("(40, 60)", "__import__('os').system('true')"),
    **{
        kind: PLAIN.replace("|u1", kind)
        for kind in ("|b1", "<c8", "<U1", "<i1", "<i8", "<u4", "|O", "<M8[s]", "V1", "x")
    },
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.filterwarnings("ignore")
def test_an_array_that_is_no_image_is_refused_in_one_line(tmp_path, read, name):
    (tmp_path / "odd.npy").write_bytes(header(HEADERS[name]))
    with pytest.raises(DataError, match=r"odd\.npy: ") as caught:
        read(tmp_path / "odd.npy")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert getattr(caught.value.__cause__, "errno", None) is None


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<f2", ">f2", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_any_order_of_bytes_and_axes_are_read(tmp_path, dtype, order):
    kind = np.dtype(dtype)
    scale = 1 / 255 if kind.kind == "f" else 257 if kind.itemsize == 2 else 1
    np.save(tmp_path / "a.npy", np.asarray(noise() * np.float64(scale), kind, order=order))
    assert image_size(tmp_path / "a.npy") == (40, 60)
    assert np.abs(read_image(tmp_path / "a.npy").astype(int) - noise()).max() <= 1
