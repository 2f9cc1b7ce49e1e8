"""One image file: its size and its pixels agree whatever the format, and what is cut off is found."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from yolo_lite.config.errors import DataError
from yolo_lite.data.images import IMAGE_SUFFIXES, image_size, read_image

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}
ORIENTATION = 0x0112


def noise(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def quarters() -> Image.Image:
    """A picture whose corners tell how it was turned, smooth enough for JPEG."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[20:, :30], pixels[:20, 30:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


def encoded(kind: str, pixels: np.ndarray | None = None, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise() if pixels is None else pixels).save(stream, kind, **options)
    return stream.getvalue()


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


# ------------------------------------------------------------------------------------------------------- rotation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_to_size_and_pixels(tmp_path, kind, orientation):
    path = tmp_path / f"turned{FORMATS[kind]}"
    quarters().save(path, kind, exif=exif_of(orientation))
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
    assert path.suffix.lower() in IMAGE_SUFFIXES
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
