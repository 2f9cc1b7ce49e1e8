"""What speaks against a split, though every file of it can be read: images and objects that teach nothing, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.augment import MIN_SIDE
from yolo_lite.data.decode import ANY_RANGE, NPY, check_chunks, damage_told, npy_header, npy_pixels, open_image
from yolo_lite.data.labels import FileReader, Problem
from yolo_lite.data.letterbox import fitted_size
from yolo_lite.data.pairing import Folder, fold, names_beside
from yolo_lite.data.tiff import TIFF, tiff_pages

if TYPE_CHECKING:
    from yolo_lite.data.index import DatasetIndex
    from yolo_lite.data.split import SplitFiles

SAMPLED = 16  # images that are looked at for the range of their pixels
DEEP = (".png", ".tif", ".tiff", ".npy")  # files that may have 16 bits
LARGE_SHARE = 0.25  # of images or objects that teach nothing
OTHER_SUFFIXES = {".txt": "YOLO", ".xml": "Pascal VOC", ".json": "labelme"}  # of label files, one an image


def doubts(index: DatasetIndex, files: SplitFiles) -> Iterator[Problem]:
    """A line for each thing that a user should look at before training."""
    crowds, objects = int(index.crowd.sum()), len(index.crowd)
    if crowds > LARGE_SHARE * objects:
        text = f"{crowds} of {objects} objects teach nothing: they are crowds (iscrowd 1) or difficult, not learnt and"
        text += " not counted; CVAT writes masks that were drawn with a brush so: export them as polygons or boxes"
        yield Problem("crowds", text, rows=0)
    fractions = int((index.xyxy <= 1).all(axis=1).sum())
    if fractions > LARGE_SHARE * objects and not files.reader.numbers_classes:
        text = f"{fractions} of {objects} boxes lie within one pixel: expected pixels, found fractions of the image"
        yield Problem("fractions for pixels", text, rows=0)
    if isinstance(files.reader, FileReader):
        yield from _unlabelled(files, files.reader)
    if files.reader.numbers_classes:
        yield from _other_order(files)
    yield from _pixel_range(files.images, index.white)


def training_sizes(index: DatasetIndex, longest: int, tile: int = 0) -> np.ndarray:
    """The sizes ``[T, 2]`` of all objects but crowds in images, or windows, whose longest side is ``longest``."""
    seen = np.minimum(index.size, tile) if tile else index.size
    sizes, which = np.unique(seen, axis=0, return_inverse=True)
    fitted = np.array([fitted_size(height, width, longest) for height, width in sizes.tolist()]).reshape(-1, 2)
    scale = (fitted / sizes)[which.reshape(-1)][index.owner, ::-1]
    return ((index.xyxy[:, 2:] - index.xyxy[:, :2]) * scale)[~index.crowd]


def doubts_of_sizes(
    index: DatasetIndex, longest: int, anchors: np.ndarray | None, anchor_t: float, tile: int = 0
) -> list[str]:
    """Lines about objects that a model of these anchors ``[A, 2]`` cannot learn at ``longest`` pixels."""
    sizes = training_sizes(index, longest, tile)
    lines = too_small(sizes, longest), "" if anchors is None else unmatched(sizes, longest, anchors, anchor_t)
    return [line for line in lines if line]


def without_outlines(index: DatasetIndex) -> str:
    """A line where objects of an index with outlines have none; else empty."""
    assert index.outlines
    count = int((~index.crowd & (np.diff(index.outlines.first_ring) == 0)).sum())
    return f"{count} of {index.num_objects} objects have no outline: masks of their boxes are learnt" if count else ""


def too_small(sizes: np.ndarray, longest: int) -> str:
    """A line where many objects are too small to be learnt; ``sizes`` are those of ``training_sizes``. Else empty."""
    shortest = sizes.min(axis=1)
    small = int((shortest <= MIN_SIDE).sum())
    if small <= LARGE_SHARE * len(shortest):
        return ""
    text = f"{small} of {len(shortest)} objects teach nothing: they are {MIN_SIDE:g} pixels or less wide or high"
    return f"{text} at {longest} px; a larger --imgsz, or windows (the key tile), would keep them"


def unmatched(sizes: np.ndarray, longest: int, anchors: np.ndarray, anchor_t: float) -> str:
    """A line where many objects match none of the anchors ``[A, 2]``; empty where they do."""
    ratios = best_ratios(sizes, anchors)
    count = int((ratios >= anchor_t).sum())
    if count <= LARGE_SHARE * len(ratios):
        return ""
    text = (
        f"{count} of {len(ratios)} objects teach no anchor: their sides are not within {anchor_t:g} times those of any"
    )
    return f"{text} at {longest} px; yolo-lite anchors finds some that fit"


def best_ratios(size: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Compare each object with its nearest anchor: the larger ratio ``[T]`` of their widths or heights, 1 or more.

    An object can be learnt where it is below ``anchor_t`` (``loss.assigners.build_targets``).
    """
    logs, best = np.log(size), np.full(len(size), np.inf)
    for anchor in np.log(anchors):
        best = np.minimum(best, np.abs(logs - anchor).max(axis=1))
    return np.exp(best)


def _unlabelled(files: SplitFiles, reader: FileReader) -> Iterator[Problem]:
    """Images without a label file: many of them, or some that have one of another format."""
    missing = np.flatnonzero(~files.has_labels)
    others = _other_formats([files.images[i] for i in missing], reader)
    for suffix, found in others.items():
        image, label = found[0]
        text = (
            f"{len(found)} images have a {suffix} file ({OTHER_SUFFIXES[suffix]}) but no {reader.suffix} file and count"
        )
        yield Problem("labels of another format", f"{text} as background, the first: {image} with {label}", rows=0)
    if len(missing) and files.stray_labels:
        text = f"{len(files.stray_labels)} {reader.suffix} files beside the labels belong to no image"
        text = f"{text}, and {len(missing)} images have none: {files.stray_labels[0]}, {files.images[missing[0]]}"
        yield Problem("labels of no image", text, rows=0)
    if len(missing) > LARGE_SHARE * len(files.images) and not others:
        first = missing[0]
        text = f"{len(missing)} of {len(files.images)} images have no label file and count as background, the first:"
        text = f"{text} {files.images[first]}, for there is no {files.labels[first]}"
        yield Problem("images without label file", text, rows=0)


def _other_formats(images: Sequence[str], reader: FileReader) -> dict[str, list[tuple[str, str]]]:
    """The images that have a label file of another format, beside them or in its folder, and that file, by suffix."""
    places, found = dict[str, list[Folder]](), dict[str, list[tuple[str, str]]]()
    for image in images:
        folder, name = os.path.split(image)
        if folder not in places:
            twins = (folder.replace(f"{os.sep}images", f"{os.sep}{twin}") for twin in ("labels", "annotations"))
            places[folder] = [Folder(place) for place in dict.fromkeys((folder, *twins))]
        for suffix in OTHER_SUFFIXES.keys() - {reader.suffix}:
            label = os.path.splitext(name)[0] + suffix
            if path := next((path for place in places[folder] if (path := place.find_alike(label))), None):
                found.setdefault(suffix, []).append((image, path))
    return found


def _other_order(files: SplitFiles) -> Iterator[Problem]:
    """Whether a ``classes.txt`` or the like beside the labels numbers the classes in another way than ``names``."""
    own = files.reader.names
    for path, names in names_beside({label.rpartition(os.sep)[0] for label in files.labels}, files.root):
        theirs, ours = ([fold(name) for name in one] for one in (names, own))
        moved = [name for name in theirs if name in ours and theirs.index(name) != ours.index(name)]
        if moved:
            found = f"{moved[0]!r} is {theirs.index(moved[0])} there and {ours.index(moved[0])} in the dataset YAML"
            text = f"{path}: the classes are in another order than names: {found}; the labels are read by the YAML's"
            yield Problem("classes in another order", text, rows=0)


def _pixel_range(images: Sequence[str], white: int) -> Iterator[Problem]:
    """Whether 16-bit images hold much less, or more, than the value that white is taken for."""
    sample = [image for image in images[:: -(-len(images) // SAMPLED) or 1] if image.lower().endswith(DEEP)]
    found = [value for value in map(value_range, sample) if value is not None]
    above = [high for _, high in found if high > white]
    dark = [high for _, high in found if white == ANY_RANGE >= 4 * high]
    grey = [(low, high) for low, high in found if 0 < 16 * (high - low) <= white]
    if above:
        text = f"16-bit images have values up to {max(above)}, what is above {white} becomes white"
        yield Problem("range of 16 bits", f"{text}: see the keys bits and max_value", rows=0)
    elif len(grey) > LARGE_SHARE * len(found) and not dark:
        text = f"{len(grey)} of {len(found)} 16-bit images that were looked at have values in a narrow band"
        text = f"{text} ({grey[0][0]} to {grey[0][1]}) and become nearly one grey; stretch them before training"
        yield Problem("range of 16 bits", text, rows=0)
    elif len(dark) > LARGE_SHARE * len(found):
        text = f"{len(dark)} of {len(found)} 16-bit images that were looked at have values up to {max(dark)}"
        text = (
            f"{text} of {ANY_RANGE} and become nearly black; write bits: {max(max(dark).bit_length(), 8)} in the YAML"
        )
        yield Problem("range of 16 bits", text, rows=0)


def value_range(path: str | Path) -> tuple[int, int] | None:
    """Least and largest value of a PNG, TIFF or .npy file of 16 bits; None for others, and for what is damaged."""
    try:
        with damage_told(path), open_image(path) as file:
            if not _has_16_bits(file):
                return None
            file.seek(0)
            content = file.read()
            if content.startswith(NPY):
                pixels: np.ndarray | None = npy_pixels(content)
            else:
                check_chunks(content)
                pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except DataError:
        return None
    return None if pixels is None or pixels.dtype != np.uint16 else (int(pixels.min()), int(pixels.max()))


def _has_16_bits(file: BinaryIO) -> bool:
    start = file.read(25)
    file.seek(0)
    if start.startswith(NPY):
        return npy_header(file)[2].newbyteorder("=") == np.uint16
    if start.startswith(TIFF):
        return tiff_pages(file, 1)[0].bits == 16
    return start.startswith(b"\x89PNG") and start[-1] == 16
