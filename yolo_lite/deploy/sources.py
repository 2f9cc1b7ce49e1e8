"""What ``--source`` means: image files, videos, cameras and streams, as one iterator of named frames."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.images import IMAGE_SUFFIXES, as_channels, image_size, read_image
from yolo_lite.data.index import list_files
from yolo_lite.engine.run_folder import unique_stems

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})
STREAM_SCHEMES = ("rtsp", "rtmp", "udp", "http", "https")
READ_AHEAD = 4  # images that are read while the network is at work on others
READERS = 2  # threads; OpenCV decodes outside of Python's lock
USUAL_FPS = 25.0  # of a camera or stream that does not tell

Skip = Callable[[DataError], None]  # what becomes of an input that cannot be read


class Media(NamedTuple):
    """One thing to look at."""

    address: str  # a file, the number of a camera, or the URL of a stream
    kind: Literal["image", "video", "live"]
    stem: Path  # relative, no other's: where its results go


class Frame(NamedTuple):
    """An image, or one of a video."""

    image: np.ndarray  # uint8 [H, W, channels], mostly RGB
    file: str = ""  # what it was read from
    stem: Path = Path()
    number: int | None = None  # in its video, from 0
    fps: float = 0.0  # of its video


def find_media(sources: Sequence[str]) -> list[Media]:
    """What folders, list files, glob patterns, files, camera numbers and URLs name, each once, in their order.

    Raises:
        DataError: a source names nothing; whether files can be read is seen later.
    """
    files: dict[str, Path] = {}  # by absolute path, as first written
    for source in sources:
        for file in () if is_live(source) else _files(source):
            files.setdefault(os.path.abspath(file), file)
    live = [Media(source, "live", Path(f"live{number}")) for number, source in enumerate(filter(is_live, sources))]
    return [*map(_media, files.values(), unique_stems(list(files))), *live]


def _media(file: Path, stem: Path) -> Media:
    return Media(str(file), "video" if file.suffix.lower() in VIDEO_SUFFIXES else "image", stem)


def is_live(source: str) -> bool:
    """Whether a source is a camera, by its number, or a stream, by its URL.

    Raises:
        DataError: the URL is of a kind that is no stream.
    """
    scheme, colon, _ = source.partition("://")
    if colon and scheme.lower() not in STREAM_SCHEMES:
        raise DataError(f"--source {source}: expected a URL of {', '.join(STREAM_SCHEMES)}, found {scheme}")
    return bool(colon) or (source.isdecimal() and not Path(source).exists())


def _files(source: str) -> list[Path]:
    files = list_files(Path(), source, f"--source {source}", IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    if not files:
        raise DataError(f"--source {source}: no image or video in it")
    return files


def count_frames(media: Sequence[Media]) -> int | None:
    """About how many frames will come; None where nobody knows."""
    if any(one.kind == "live" for one in media):
        return None
    videos = [cv2.VideoCapture(one.address) for one in media if one.kind == "video"]
    return len(media) - len(videos) + sum(max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) for video in videos)


def read_frames(media: Sequence[Media], skip: Skip, channels: int = 3) -> Iterator[Frame]:
    """All frames in their order, few of them in memory; what cannot be read is handed to ``skip``."""
    for is_image, group in itertools.groupby(media, key=lambda one: one.kind == "image"):
        reader = _images if is_image else _videos
        yield from reader(group, skip, channels)


def read_frame_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """Pixels uint8 ``[H, W, channels]`` of a file that validation would take too.

    Raises:
        DataError: the file is missing, no image, or cut off.
    """
    image_size(path, channels)  # finds what is cut off, which OpenCV would fill with grey
    return read_image(path, channels)


def _images(media: Iterator[Media], skip: Skip, channels: int) -> Iterator[Frame]:
    ahead: deque[tuple[Media, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        while True:
            for one in itertools.islice(media, READ_AHEAD - len(ahead)):
                ahead.append((one, pool.submit(read_frame_image, one.address, channels)))
            if not ahead:
                return
            one, image = ahead.popleft()
            try:
                frame = Frame(image.result(), one.address, one.stem)
            except DataError as problem:
                skip(problem)
                continue
            yield frame


def _videos(media: Iterator[Media], skip: Skip, channels: int) -> Iterator[Frame]:
    for one in media:
        try:
            yield from _video(one, channels)
        except DataError as problem:
            skip(problem)


def _video(media: Media, channels: int) -> Iterator[Frame]:
    """The frames of a video, a camera or a stream, as they are asked for.

    Raises:
        DataError: it cannot be opened, or ends more than a second before its end.
    """
    camera = media.kind == "live" and media.address.isdecimal()
    capture = cv2.VideoCapture(int(media.address) if camera else media.address)
    if camera:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the image of now, not of a while ago
    told = capture.get(cv2.CAP_PROP_FPS)
    fps = told if 0 < told < 1000 else USUAL_FPS
    number = 0
    try:
        while (read := capture.read())[0]:
            image = as_channels(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB), channels, media.address)
            yield Frame(image, media.address, media.stem, number, fps)
            number += 1
        expected = 0 if media.kind == "live" else capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    if number == 0:
        raise DataError(f"{media.address}: cannot be opened, or holds no frame that OpenCV can read")
    if number + fps < expected:
        raise DataError(f"{media.address}: damaged, {number} of {expected:.0f} frames could be read")
