"""One image file: its size and its pixels agree whatever the format, and what is cut off is found."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image, ImageOps, PngImagePlugin

from yolo_lite.config.errors import DataError
from yolo_lite.data import tiff
from yolo_lite.data.doubts import value_range
from yolo_lite.data.images import image_size, read_image
from yolo_lite.data.suffixes import image_suffixes

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}
SUFFIXES = {**FORMATS, "AVIF": ".avif"}
ORIENTATION = 0x0112


def noise(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def quarters() -> Image.Image:
    """An image whose corners tell how it was turned, smooth enough for JPEG."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[20:, :30], pixels[:20, 30:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


def encoded(kind: str, pixels: np.ndarray | None = None, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise() if pixels is None else pixels).save(stream, kind, **options)
    return stream.getvalue()


def save(image: Image.Image, path: Path, kind: str | None = None, **options) -> None:
    """Write an image, where the installed Pillow can."""
    Image.init()
    if (kind or Image.registered_extensions().get(path.suffix)) not in Image.SAVE:
        pytest.skip(f"the installed Pillow does not write {kind or path.suffix}")
    image.save(path, kind, **options)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def with_thumbnail() -> bytes:
    """A JPEG whose EXIF holds a whole small JPEG, end marker and all."""
    segment = b"Exif\0\0" + encoded("JPEG", noise(8, 8))
    content = encoded("JPEG")
    return content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:]


# ------------------------------------------------------------------------------------------------- kinds of pixels


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_those_that_pillow_reads(tmp_path, kind):
    path = tmp_path / f"picture{FORMATS[kind]}"
    quarters().save(path)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.shape[:2] == image_size(path) == (40, 60)
    assert np.abs(image - expected).max() <= (8 if kind in ("JPEG", "WEBP") else 0)  # decoders round differently


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_other_modes_become_rgb_and_lose_their_alpha(tmp_path, mode):
    path = tmp_path / "picture.png"
    source = Image.fromarray(noise(channels=4) if mode == "RGBA" else noise(channels=1))
    source = source.convert("RGB").quantize(16) if mode == "P" else source.convert(mode)
    source.save(path)
    expected = np.asarray(source)[..., :3] if mode == "RGBA" else np.asarray(source.convert("RGB"))
    assert image_size(path) == (40, 60)
    np.testing.assert_array_equal(read_image(path), expected)


def test_16_bits_are_scaled_to_8(tmp_path):
    path = tmp_path / "deep.png"
    values = np.array([[0, 256, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(path)
    image = read_image(path)
    assert image.shape == (1, 4, 3) and image_size(path) == (1, 4)
    assert np.abs(image[0, :, 0] - values[0] / 257).max() <= 1


def test_cmyk_is_converted(tmp_path):
    path = tmp_path / "print.jpg"
    Image.fromarray(np.tile(np.array([200, 30, 90, 20], np.uint8), (16, 16, 1)), "CMYK").save(path, quality=100)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_image(path) - expected).max() < 12


# Suffixes that hold what Pillow writes, lossless or nearly so.
OTHER_FORMATS = {
    ".jfif": "JPEG", ".jpe": "JPEG", ".mpo": "MPO", ".gif": "GIF", ".avif": "AVIF", ".jp2": "JPEG2000", ".ppm": "PPM",
    ".pnm": "PPM", ".dib": "DIB", ".tga": "TGA", ".pcx": "PCX", ".sgi": "SGI", ".ico": "ICO", ".apng": "PNG",
    ".dds": "DDS", ".qoi": "QOI", ".j2k": "JPEG2000",
}  # fmt: skip


@pytest.mark.parametrize("suffix", OTHER_FORMATS)
def test_everything_that_pillow_or_opencv_decodes_is_an_image(tmp_path, suffix):
    kind, path = OTHER_FORMATS[suffix], tmp_path / f"picture{suffix}"
    assert suffix in image_suffixes() or kind == "AVIF"  # which old versions do not have
    options = {"sizes": [(60, 40)]} if kind == "ICO" else {"quality": 95} if kind in ("JPEG", "MPO", "AVIF") else {}
    save(quarters(), path, kind, **options)
    image = read_image(path)
    assert image.shape == (40, 60, 3) and image_size(path) == (40, 60) and read_image(path, 1).shape == (40, 60, 1)
    assert np.abs(image - np.asarray(quarters()).astype(int)).mean() < (12 if options else 2)


@pytest.mark.parametrize("suffix", [".sr", ".hdr", ".pam", ".pgm", ".pbm", ".pfm"])
def test_formats_of_opencv_are_read_whoever_knows_them(tmp_path, suffix):
    pixels = np.where(np.asarray(quarters().convert("L")) > 50, 255, 0)  # .pbm has but these
    if suffix in (".hdr", ".pfm"):
        pixels = (np.dstack([pixels] * 3) / 255).astype(np.float32)
    path = written(tmp_path / f"picture{suffix}", pixels if pixels.ndim == 3 else pixels.astype(np.uint8))
    assert suffix in image_suffixes() and image_size(path) == (40, 60)
    assert set(np.unique(read_image(path) ^ read_image(path)[0, 0])) == {0, 255}


HEIF = """
from PIL import Image, PngImagePlugin
def register_heif_opener():
    Image.register_open("HEIF", PngImagePlugin.PngImageFile)
    Image.register_extension("HEIF", ".heic")
"""


def test_an_installed_plugin_of_pillow_is_used(tmp_path):
    """In a process of its own, for Pillow forgets no plugin."""
    (tmp_path / "pillow_heif.py").write_text(HEIF)
    code = "from yolo_lite.data.suffixes import image_suffixes; print('.heic' in image_suffixes())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_what_holds_no_photograph_is_no_image():
    assert not image_suffixes() & {".pdf", ".eps", ".ps", ".mpg", ".h5", ".txt", ".xml", ".json", ".grib", ".wmf", ""}


@pytest.mark.parametrize("kind", ["GIF", "MPO", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_image_of_several_is_read(tmp_path, kind):
    path, rest = tmp_path / "several", [Image.new("RGB", (60, 40), (0, 0, 250))] * 2
    save(Image.new("RGB", (60, 40), (250, 0, 0)), path, kind, save_all=True, append_images=rest)
    if kind == "MPO" and Image.open(path).format != "MPO":
        pytest.skip("the installed Pillow writes it malformed")
    assert image_size(path) == (40, 60) and np.abs(read_image(path)[20, 30].astype(int) - (250, 0, 0)).max() <= 8


def test_pillow_decodes_what_opencv_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    for suffix in (".png", ".tif", ".bmp"):
        quarters().save(tmp_path / f"picture{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"picture{suffix}"), np.asarray(quarters()))
    quarters().save(tmp_path / "turned.jpg", exif=exif_of(6), quality=100)
    assert read_image(tmp_path / "turned.jpg").shape == image_size(tmp_path / "turned.jpg") + (3,) == (60, 40, 3)


# ---------------------------------------------------------------------------------------------------------- alpha

SHEER = (200, 120, 40, 64)  # a colour, three quarters transparent


def tiff_of(pixels: np.ndarray, photometric: int, extra: int | None = None) -> bytes:
    """A TIFF with the meaning of its last sample: 1 multiplied alpha, 2 other alpha, 0 something else."""
    (height, width, samples), content = pixels.shape, pixels.tobytes()
    depths = struct.pack(f"<{samples}H", *[8 * pixels.itemsize] * samples)
    tags = [(256, width), (257, height), (259, 1), (262, photometric), (273, 300), (277, samples), (278, height)]
    tags += [(279, len(content))] + ([] if extra is None else [(338, extra)])
    entries = [struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags]
    entries.insert(2, struct.pack("<HHII", 258, 3, samples, 280))
    directory = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + b"".join(entries) + bytes(4)
    return directory.ljust(280, b"\0") + depths.ljust(20, b"\0") + content


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".gif", ".avif", ".jp2", ".tga"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_dropped_everywhere_alike(tmp_path, suffix, mode):
    source = Image.new("RGBA", (60, 40), SHEER)
    source.paste((*SHEER[:3], 0), (0, 0, 20, 20))
    if mode == "P":
        source = Image.new("P", (60, 40), 1)
        source.putpalette([0, 0, 0, *SHEER[:3]])
    source = source if source.mode == mode else source.convert(mode)
    options = {"quality": 100} if suffix in (".avif", ".webp") else {}
    options |= {"exact": True, "lossless": True} if suffix == ".webp" else {}
    try:
        save(source, tmp_path / f"sheer{suffix}", **options, **({"transparency": 1} if mode == "P" else {}))
    except OSError:
        pytest.skip("no such file")
    expected = np.array(SHEER[:3] if mode != "LA" else [source.getpixel((50, 30))[0]] * 3)
    image = read_image(tmp_path / f"sheer{suffix}")
    assert image.shape == (40, 60, 3) and np.abs(image[30:] - expected).max() <= 2
    assert np.abs(image[:15, :15] - expected).max() <= 2  # where nothing of it would be seen
    grey = read_image(tmp_path / f"sheer{suffix}", 1)[30, 30, 0]
    assert abs(int(grey) - expected @ (0.299, 0.587, 0.114)) <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_a_tiff_are_not_multiplied_by_its_alpha(tmp_path, dtype, channels):
    factor, path = (257 if dtype == np.uint16 else 1), tmp_path / "sheer.tif"
    pixels = np.tile(np.array(SHEER, dtype) * dtype(factor), (8, 9, 1))
    multiplied = pixels * np.array([SHEER[3] / 255] * 3 + [1])
    for stored, extra in ((pixels, 2), (multiplied.astype(dtype), 1)):
        path.write_bytes(tiff_of(stored, 2, extra))
        assert np.abs(read_image(path, channels)[..., :3].astype(int) - SHEER[:3]).max() <= 3
    path.write_bytes(tiff_of(pixels, 2, 0))  # a fourth band
    np.testing.assert_array_equal(read_image(path, channels), pixels[..., :channels] // factor)


# ------------------------------------------------------------------------------------------------------- rotation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied_to_size_and_pixels(tmp_path, kind, orientation):
    path = tmp_path / f"turned{SUFFIXES[kind]}"
    save(quarters(), path, kind, exif=exif_of(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
    image = read_image(path)
    assert image_size(path) == image.shape[:2]
    if kind == "WEBP" and cv2.__version__ < "5":
        pytest.skip("this OpenCV does not turn a WebP; size and pixels agree all the same")
    assert image.shape == expected.shape
    assert np.abs(image - expected).mean() < 12  # a wrong turn differs by more than 60


@pytest.mark.parametrize("orientation", [0, 9, 6000])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, orientation):
    path = tmp_path / "odd.jpg"
    quarters().save(path, exif=exif_of(orientation))
    assert image_size(path) == read_image(path).shape[:2] == (40, 60)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_a_sound_picture(tmp_path):
    path = tmp_path / "damaged.jpg"
    for exif in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        path.write_bytes(encoded("JPEG", exif=exif))
        assert image_size(path) == read_image(path).shape[:2] == (40, 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_alone_is_not_applied(tmp_path, kind):
    """Pillow would take it into account, the decoder does not: size and pixels must agree."""
    path = tmp_path / f"edited{FORMATS[kind]}"
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    options = {"pnginfo": text} if kind == "PNG" else {"xmp": xmp.encode()}
    path.write_bytes(encoded(kind, **options))
    assert image_size(path) == read_image(path).shape[:2] == (40, 60)


def test_size_of_a_png_is_read_without_decoding_it(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded("PNG"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert image_size(path) == (40, 60)


# ---------------------------------------------------------------------------------------------- what is cut off


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_file_is_found_wherever_it_is_cut(tmp_path, kind):
    path, content = tmp_path / f"cut{FORMATS[kind]}", encoded(kind)
    for cut in (*np.linspace(1, len(content) - 100, 15).astype(int), len(content) - 3, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=path.name):
            image_size(path)


def test_a_thumbnails_end_does_not_pass_for_the_pictures_end(tmp_path):
    path, content = tmp_path / "cut.jpg", with_thumbnail()
    path.write_bytes(content)
    assert image_size(path) == read_image(path).shape[:2] == (40, 60)
    end_of_thumbnail = content.index(b"\xff\xd9") + 2
    for cut in np.linspace(end_of_thumbnail + 100, len(content) - 1, 15).astype(int):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match="cut"):
            image_size(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_follows_the_end_is_no_harm(tmp_path, kind):
    path, content = tmp_path / f"long{FORMATS[kind]}", encoded(kind)
    # The last one is a film behind a photo: it holds every marker by chance.
    film = noise(300, 300).tobytes() + b"\xff\xda" + bytes(100)
    for tail in (b"\0", bytes(1000), b"garbage" * 100, film):
        path.write_bytes(content + tail)
        assert image_size(path) == read_image(path).shape[:2] == (40, 60)


# ------------------------------------------------------------------------------------------- what is no image


@pytest.mark.parametrize("read", [image_size, read_image])
@pytest.mark.parametrize("content", [None, b"", b"not an image, but a text\n" * 10, bytes(5000)])
def test_what_is_no_image_is_refused_by_name(tmp_path, read, content):
    path = tmp_path / "no image.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"no image\.jpg"):
        read(path)


def test_a_folder_is_no_image(tmp_path):
    for read in (image_size, read_image):
        with pytest.raises(DataError, match=tmp_path.name):
            read(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(encoded("PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 60 // 2 - 1)
    with pytest.raises(DataError, match=r"bomb.png.*exceeds limit"):
        image_size(path)


def test_what_opencv_refuses_to_decode_is_a_data_error(tmp_path, monkeypatch):
    """More than 2**30 pixels, for one."""

    def refuse(*args):
        raise cv2.error("pixels <= CV_IO_MAX_IMAGE_PIXELS")

    path = tmp_path / "huge.png"
    path.write_bytes(encoded("PNG"))
    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(DataError, match=r"huge\.png"):
        read_image(path)


# ---------------------------------------------------------------------------------------------------- file names


@pytest.mark.parametrize("name", ["A.JPG", "two words.Png", "a#1%20.jpg", "größe_猫.png", "v1.2.final.jpeg", "-x.tiff"])
def test_any_file_name_will_do(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encoded({".jp": "JPEG", ".pn": "PNG", ".ti": "TIFF"}[Path(name).suffix.lower()[:3]]))
    assert path.suffix.lower() in image_suffixes()
    assert image_size(path) == image_size(str(path)) == read_image(path).shape[:2] == (40, 60)


def test_symbolic_links_are_followed(tmp_path):
    (tmp_path / "target.png").write_bytes(encoded("PNG"))
    os.symlink("target.png", tmp_path / "link.png")
    np.testing.assert_array_equal(read_image(tmp_path / "link.png"), noise())


def test_the_suffix_may_lie(tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded("PNG"))
    np.testing.assert_array_equal(read_image(path), noise())
    assert image_size(path) == (40, 60)


# ---------------------------------------------------------------------------------------- deep and many channels


DEEP = np.arange(65536, dtype=np.uint16).reshape(256, 256)  # every value of 16 bits


def written(path: Path, pixels: np.ndarray) -> Path:
    """A file by OpenCV, or by numpy where the suffix says so."""
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if path.suffix == ".tiff" else []  # older OpenCVs lose some of floats
        assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels, plain)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
@pytest.mark.parametrize("white", [255, 1023, 4095, 3000])
def test_16_bits_are_scaled_by_a_stated_white(tmp_path, suffix, white):
    values = np.array([[0, 1, white // 2, white - 1, white, white + 1, 65535]], dtype=np.uint16)
    image = read_image(written(tmp_path / f"deep{suffix}", values), 1, white)[..., 0]
    assert np.abs(image - values.clip(max=white) * (255 / white)).max() <= 0.5
    shallow = written(tmp_path / f"shallow{suffix}", noise())
    np.testing.assert_array_equal(read_image(shallow, 3, white), read_image(shallow))


def test_a_format_that_states_its_range_is_scaled_by_that(tmp_path):
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 3 1 1023\n" + np.array([0, 512, 1023], ">u2").tobytes())
    for white in (65535, 4095):
        assert read_image(path, 1, white)[0, :, 0].tolist() == [0, 128, 255]
    packed = b"".join((2048 << 12 | 4095).to_bytes(3, "big") for _ in range(4))  # of 12 bits each, as a TIFF may say
    content = bytearray(tiff_of(np.frombuffer(packed, np.uint8).reshape(2, 6, 1), 1))
    for tag, value in ((256, 4), (258, 12)):
        struct.pack_into("<I", content, content.index(struct.pack("<H", tag)) + 8, value)
    (tmp_path / "packed.tif").write_bytes(content)
    assert read_image(tmp_path / "packed.tif", 1, 4095)[..., 0].tolist() == [[128, 255, 128, 255]] * 2
    path.write_bytes(b"P6 1 1 1023\n" + np.array([0, 512, 1023], ">u2").tobytes())
    assert read_image(path, white=4095).tolist() == [[[0, 128, 255]]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_the_range_of_16_bits_is_found_and_of_nothing_else(tmp_path):
    deep = np.dstack([noise().astype(np.uint16) * 16, np.full((40, 60), 65535, np.uint16)])  # alpha does not count
    for name, pixels in (("a.png", deep), ("a.tiff", deep[..., :3]), ("a.npy", deep[..., :3])):
        pixels[0, 0, :3] = 4095
        assert value_range(written(tmp_path / name, pixels[..., ::-1]))[1] == 4095
    for name in ("b.png", "b.tiff", "b.npy", "b.jpg"):
        assert value_range(written(tmp_path / name, noise())) is None
    (tmp_path / "c.tif").write_bytes(b"II*\0damaged")
    assert value_range(tmp_path / "c.tif") is value_range(tmp_path / "none.png") is None


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
@pytest.mark.parametrize("is_colour", [False, True])
def test_every_16_bit_value_is_scaled_by_its_type(tmp_path, suffix, is_colour):
    pixels = np.dstack([DEEP, DEEP[::-1], DEEP.T]) if is_colour else DEEP
    path = written(tmp_path / f"deep{suffix}", pixels)
    expected = np.round(np.atleast_3d(pixels) / 257)
    np.testing.assert_array_equal(read_image(path), expected.repeat(1 if is_colour else 3, axis=2))
    assert image_size(path) == (256, 256)
    assert np.abs(read_image(path, 1)[..., 0] - expected.mean(axis=2)).max() <= (100 if is_colour else 0)


@pytest.mark.parametrize("suffix", [".tiff", ".npy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_from_0_to_1_are_scaled_by_255_and_cut(tmp_path, suffix, dtype):
    values = np.array([[-0.1, 0.0, 0.5, 1.0, 1.2, 100 / 255]], dtype=dtype).repeat(2, axis=0)
    for pixels in (values, np.dstack([values] * 3)):
        image = read_image(written(tmp_path / f"float{suffix}", pixels))
        assert image.dtype == np.uint8 and image[0, :, 2].tolist() == [0, 0, 128, 255, 255, 100]


@pytest.mark.parametrize(("value", "found"), [(np.nan, "nan"), (np.inf, "inf"), (254.0, "254"), (-3.0, "-3")])
def test_floats_of_another_scale_are_refused(tmp_path, value, found):
    pixels = np.zeros((4, 4), np.float32)
    pixels[1, 2] = value
    for suffix in (".tiff", ".npy"):
        with pytest.raises(DataError, match=f"float{suffix}: expected floats in 0..1, found .*{found}"):
            read_image(written(tmp_path / f"float{suffix}", pixels))


def test_other_types_of_pixels_are_refused(tmp_path):
    for dtype in (np.int16, np.int64, np.bool_, np.complex64):
        np.save(tmp_path / "odd.npy", np.zeros((4, 4), dtype))
        with pytest.raises(DataError, match=r"odd\.npy: expected pixels of uint8, uint16 or float, found"):
            read_image(tmp_path / "odd.npy")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("suffix", "channels"), [(".png", 4), (".tiff", 4), (".npy", 4), (".npy", 2), (".npy", 7)])
def test_many_channels_come_as_the_file_has_them(tmp_path, suffix, channels, dtype):
    if suffix == ".png" and dtype == np.float32:
        pytest.skip("there is no such file")
    bright = noise(channels=channels)
    factor = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    pixels = (bright * np.float64(factor)).astype(dtype)
    path = tmp_path / f"many{suffix}"
    # OpenCV writes BGRA.
    written(path, pixels if suffix == ".npy" else pixels[..., [3, 0, 1, 2]])
    image = read_image(path, channels)
    assert image.dtype == np.uint8 and image_size(path, channels) == (40, 60)
    np.testing.assert_array_equal(image, bright)


def test_the_pages_of_a_tiff_are_channels(tmp_path):
    pages = [noise(channels=1) // (number + 1) for number in range(6)]
    path = tmp_path / "pages.tif"
    assert cv2.imwritemulti(str(path), pages)
    np.testing.assert_array_equal(read_image(path, 6), np.dstack(pages))
    assert image_size(path, 6) == (40, 60)
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], pages[0])  # as ever: the first page
    for channels in (5, 7):
        with pytest.raises(DataError, match=f"pages.tif: expected {channels} channels .*, found"):
            read_image(path, channels)


def test_a_tiff_of_many_samples_is_read_by_tifffile(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for planar in ("contig", "separate"):
        pixels = noise(channels=6)
        stored = pixels if planar == "contig" else np.moveaxis(pixels, 2, 0)
        tifffile.imwrite(tmp_path / "bands.tif", stored, planarconfig=planar, photometric="minisblack")
        np.testing.assert_array_equal(read_image(tmp_path / "bands.tif", 6), pixels)


def test_without_tifffile_a_tiff_of_many_samples_says_what_it_needs(tmp_path, monkeypatch):
    path = tmp_path / "bands.tif"
    path.write_bytes(tiff_header(40, 60, samples=6))
    monkeypatch.setattr(tiff, "HAS_TIFFFILE", False)
    with pytest.raises(DataError, match=r"bands.tif: .*more than 4 samples a pixel needs the package tifffile"):
        read_image(path, 6)
    with pytest.raises(DataError, match=r"bands.tif: expected 3 channels .*, found 6"):
        image_size(path, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".npy"])
def test_grey_and_colour_become_one_another(tmp_path, suffix):
    colour = np.asarray(quarters())
    path = written(tmp_path / f"colour{suffix}", colour)
    grey = read_image(path, 1)
    assert grey.shape == (40, 60, 1) and image_size(path, 1) == (40, 60)
    expected = colour @ (0.299, 0.587, 0.114)
    assert np.abs(grey[..., 0] - expected).mean() < 3
    path = written(tmp_path / f"grey{suffix}", grey[..., 0])
    assert np.ptp(read_image(path).astype(int), axis=2).max() == 0
    assert np.abs(read_image(path)[..., 0].astype(int) - grey[..., 0]).max() <= 4


@pytest.mark.parametrize("read", [image_size, read_image])
@pytest.mark.parametrize(("suffix", "found"), [(".png", 3), (".jpg", 3), (".tiff", 3), (".npy", 3), (".npy", 5)])
def test_another_number_of_channels_is_refused_with_both_numbers(tmp_path, read, suffix, found):
    path = written(tmp_path / f"wrong{suffix}", noise(channels=found))
    with pytest.raises(DataError, match=rf"wrong\{suffix}: expected 4 channels .*, found {found}"):
        read(path, 4)
    if found == 5:
        with pytest.raises(DataError, match=r"expected 3 channels .*, found 5"):
            read(path, 3)


# --------------------------------------------------------------------------------------------- headers that lie


def tiff_header(height: int, width: int, samples: int = 1) -> bytes:
    """A TIFF that is nothing but its tags."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 200), (277, samples), (278, height)]
    tags.append((279, height * width * samples % 2**32))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + bytes(200)


def png_header(height: int, width: int) -> bytes:
    """A PNG of many pixels that are one and the same, in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(10000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def npy_header(*shape: int) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(1000)


BOMBS = {
    "bomb.png": png_header(60000, 60000),
    "bomb.tif": tiff_header(60000, 60000),
    "bomb.npy": npy_header(60000, 60000, 3),
    "deep.npy": npy_header(2000, 2000, 10**6),
}


@pytest.mark.parametrize("read", [image_size, read_image])
@pytest.mark.parametrize("name", BOMBS)
def test_a_header_of_too_many_pixels_is_refused_before_memory_is_taken(tmp_path, read, name):
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"{name}: .*exceeds limit of \d+ pixels"):
            read(path, 10**6 if name == "deep.npy" else 3)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("read", [image_size, read_image])
@pytest.mark.parametrize(
    "content", [b"II*\0", b"II*\0\xff\xff\xff\xff", tiff_header(40, 60)[:60], b"\x93NUMPY\1\0", npy_header(0, 3)]
)
def test_damaged_headers_are_refused_by_name(tmp_path, read, content):
    path = tmp_path / "damaged.tif"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.tif"):
        read(path)


def test_a_npy_file_is_cut_off_or_holds_no_numbers(tmp_path):
    path = tmp_path / "cut.npy"
    path.write_bytes(npy_header(40, 60, 3))
    with pytest.raises(DataError, match=r"cut.npy: expected 7200 bytes of plain numbers behind .*, found 1000"):
        read_image(path)
    np.save(path, np.array([[print]]), allow_pickle=True)
    with pytest.raises(DataError, match=r"cut.npy: expected 8 bytes of plain numbers"):
        read_image(path)
