"""Frames: what ``--source`` means (image files, videos, cameras and streams), and the images that Python hands over."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from yolo_lite.config.errors import DataError
from yolo_lite.config.regular import open_regular
from yolo_lite.config.run_lock import MARK
from yolo_lite.data.decode import ANY_RANGE, damage_told
from yolo_lite.data.files import each_once, list_sources
from yolo_lite.data.images import as_channels, image_size, read_image
from yolo_lite.data.inputs import without_wildcards
from yolo_lite.data.outputs import Inputs
from yolo_lite.data.suffixes import image_suffixes
from yolo_lite.engine.run_folder import comparable, unique_stems

DRAWN_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")  # else .jpg is written
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
STREAM_SCHEMES = ("rtsp", "rtmp", "udp", "http", "https")
USUAL_FPS = 25.0  # of a camera or stream that does not tell

LONGEST_NAME = 255  # bytes
OWN_NAMES = ("crops", "labels", "predictions.json", MARK)


class Media(NamedTuple):
    address: str  # a file, the number of a camera, or the URL of a stream
    kind: Literal["image", "video", "live"]
    stem: Path  # relative, no other's: where its results go
    drawn: Path = Path()  # likewise, of an image with what was found in it


class Frame(NamedTuple):
    """An image, or one of a video."""

    image: np.ndarray  # uint8 [H, W, channels], mostly RGB
    file: str = ""  # what it was read from
    stem: Path = Path()
    drawn: Path = Path()
    number: int | None = None  # in its video, from 0
    fps: float = 0.0  # of its video


def find_media(sources: Sequence[str], remark: Callable[[str], None] = lambda _: None) -> list[Media]:
    """What folders, list files, glob patterns, files, camera numbers and URLs name, each once, in their order.

    ``remark`` gets a line for each thing that is passed over or named differently than a user may expect.

    Raises:
        DataError: a source names nothing; whether files can be read is seen later.
    """
    live, paths = list[str](), list[str]()
    for source in sources:
        if is_live(source):
            live.append(source)
            continue
        listing = list_sources(Path(), [source], f"--source {source}", image_suffixes() | VIDEO_SUFFIXES)
        for line in listing.remarks():
            remark(f"--source {source}: {line}")
        if not listing.images:
            raise DataError(f"--source {source}: no image or video in it")
        paths += listing.images
    files = [Path(path) for path in each_once(paths)[0]]
    return [*_media_of(files, remark), *_live_media(live, files)]


def _media_of(files: Sequence[Path], remark: Callable[[str], None]) -> list[Media]:
    is_video = [file.suffix.lower() in VIDEO_SUFFIXES for file in files]
    videos = [position for position, video in enumerate(is_video) if video]
    stems = unique_stems(list(map(os.path.abspath, files)), videos)
    whole = [str(stem) for stem, file in zip(stems, files, strict=True) if file.suffix and stem.name == file.name]
    if whole:
        clash = f"{len(whole)} inputs have a name that others have too; their results keep the ending in theirs"
        remark(f"{clash}: {', '.join(whole[:3])}{', ...' if len(whole) > 3 else ''}")
    kinds: list[Literal["image", "video"]] = ["video" if video else "image" for video in is_video]
    rows = zip(map(str, files), kinds, stems, _drawn_names(files, stems), strict=True)
    return [Media(*row) for row in rows]


def _drawn_names(files: Sequence[Path], stems: Sequence[Path]) -> list[Path]:
    """A name of its own for each annotated image: the image's, or one that ends in .jpg where that is not written."""
    own = [stem.with_name(file.name) for file, stem in zip(files, stems, strict=True)]
    # Of those that some file systems do not tell apart none keeps its name.
    count = Counter(map(comparable, own))
    taken = {comparable(folder) for stem in stems for folder in stem.parents}
    kept = [name for name in own if name.suffix.lower() in DRAWN_SUFFIXES and count[comparable(name)] == 1]
    drawn = {name: name for name in kept if comparable(name) not in taken}
    taken |= set(map(comparable, drawn))
    for name, stem in sorted(zip(own, stems, strict=True)):
        if name not in drawn:
            numbered = (f"{stem}.{number}" for number in itertools.count(2))
            names = (Path(f"{start}.jpg") for start in itertools.chain((stem, name), numbered))
            fitting = (one for one in names if len(os.fsencode(one.name)) <= LONGEST_NAME)
            drawn[name] = next(one for one in fitting if comparable(one) not in taken)
            taken.add(comparable(drawn[name]))
    # What else is written in the run folder has a name there.
    is_taken = any(comparable(Path(name.parts[0])) in OWN_NAMES for name in drawn.values())
    return [Path("images", drawn[name]) if is_taken else drawn[name] for name in own]


def _live_media(sources: Sequence[str], files: Sequence[Path]) -> Iterator[Media]:
    """Cameras and streams, with names that no part of a file's path has."""
    parts = {comparable(Path(part)) for file in files for part in (*file.absolute().parts, file.stem)}
    names = (name for number in itertools.count() if (name := f"live{number}") not in parts)
    return (Media(source, "live", Path(name)) for source, name in zip(sources, names, strict=False))


def inputs_of(sources: Sequence[str], media: Sequence[Media]) -> Inputs:
    """What sources read and a command must not harm: folders with all that lies below them, and files."""
    places = [os.path.expanduser(source) for source in sources if not is_live(source)]
    walked = [place for place in places if os.path.isdir(place) or "**" in Path(place).parts]
    files = [*filter(os.path.isfile, places), *(one.address for one in media if one.kind != "live")]
    return Inputs(tuple(map(without_wildcards, walked)), tuple(files))


def is_live(source: str) -> bool:
    """Whether a source is a camera, by its number, or a stream, by its URL."""
    scheme, colon, _ = source.partition("://")
    if colon and scheme.lower() not in STREAM_SCHEMES:
        raise DataError(f"--source {source}: expected a URL of {', '.join(STREAM_SCHEMES)}, found {scheme}")
    return bool(colon) or (source.isdecimal() and not Path(source).exists())


def count_frames(media: Sequence[Media]) -> int | None:
    """About how many frames will come; None where nobody knows."""
    if any(one.kind == "live" for one in media):
        return None
    films = [one.address for one in media if one.kind == "video" and os.path.isfile(one.address)]
    num_images = sum(one.kind == "image" for one in media)
    return num_images + sum(max(int(cv2.VideoCapture(film).get(cv2.CAP_PROP_FRAME_COUNT)), 0) for film in films)


def frames_of(media: Media, channels: int, white: int) -> Iterator[Frame]:
    """All frames of an input, each read when it is asked for; DataError where it cannot be read, or not to its end."""
    if media.kind == "image":
        yield as_frame(media.address, channels, white)._replace(stem=media.stem, drawn=media.drawn)
    else:
        yield from _video(media, channels)


def _video(media: Media, channels: int) -> Iterator[Frame]:
    """The frames of a video, a camera or a stream; one that ends more than a second before its end is damaged."""
    camera = media.kind == "live" and media.address.isdecimal()
    if media.kind == "video":
        with damage_told(media.address):
            open_regular(media.address).close()  # OpenCV would wait for what comes through a pipe
    capture = cv2.VideoCapture(int(media.address) if camera else media.address)
    if camera:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the image of now, not of a while ago
    told = capture.get(cv2.CAP_PROP_FPS)
    fps = told if 0 < told < 1000 else USUAL_FPS
    number = 0
    try:
        while (read := capture.read())[0]:
            image = as_channels(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB), channels, media.address)
            yield Frame(image, media.address, media.stem, number=number, fps=fps)
            number += 1
        expected = 0 if media.kind == "live" else capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    if number == 0:
        raise DataError(f"{media.address}: cannot be opened, or holds no frame that OpenCV can read")
    if number + fps < expected:
        raise DataError(f"{media.address}: damaged, {number} of {expected:.0f} frames could be read")


def as_frame(image: Any, channels: int = 3, white: int = ANY_RANGE) -> Frame:
    """One image: a path, a numpy array, a PIL image or a tensor, as ``Predictor.predict`` takes them.

    Files and PIL images are turned as their EXIF data says; floats of a tensor are rounded to 255 steps. The frame has
    ``channels``: grey and RGB become one another, other numbers have to be the image's.
    """
    if isinstance(image, (str, os.PathLike)):
        file = os.fspath(image)
        image_size(file, channels)  # finds what is cut off, which OpenCV would fill with grey
        return Frame(read_image(file, channels, white), file)
    if isinstance(image, Image.Image):
        pixels = _from_pil(image)
    elif isinstance(image, Tensor):
        pixels = _from_tensor(image, channels)
    elif isinstance(image, np.ndarray):
        pixels = image
    else:
        raise DataError(f"expected a path, a numpy array, a PIL image or a tensor, found {type(image).__name__}")
    has_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, channels))
    if pixels.dtype != np.uint8 or not has_shape or not pixels.size:
        found = f"found {pixels.dtype} {list(pixels.shape)}"
        raise DataError(f"expected pixels uint8 [H, W, 3] (RGB) or [H, W] (grey), {found}")
    pixels = np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[..., None])
    file = getattr(image, "filename", "") if isinstance(image, Image.Image) else ""
    return Frame(as_channels(pixels, channels, file or type(image).__name__), file)


def _from_pil(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise DataError(f"expected a PIL image of 8 bits, found mode {image.mode}")
    with damage_told(getattr(image, "filename", "") or "PIL image"):  # it decodes late: the file may be cut off
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _from_tensor(image: Tensor, channels: int) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (3, channels) or not image.numel():
        raise DataError(f"expected a tensor [3, H, W] (RGB), found {list(image.shape)}")
    if image.is_floating_point():
        low, high = (float(value) for value in image.aminmax())
        if not 0 <= low <= high <= 1:
            raise DataError(f"expected floats in 0..1 in a tensor, found {low:g}..{high:g}")
        image = (image.float() * 255).round().to(torch.uint8)
    return image.detach().permute(1, 2, 0).cpu().numpy()
