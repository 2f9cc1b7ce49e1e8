"""PNG masks: one file for each image, in a folder ``masks`` beside ``images``; every value but 0 is an object.

Of one class, values may be colours. Of several, they are ``1000 * class + number`` in a grey file of 16 bits, as
Cityscapes counts. Value 255 of a palette is VOC's border, of no object: nothing is learnt there, as in a crowd.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.decode import check_shape, damage_told, opened
from yolo_lite.data.labels import Annotation, FileReader, Problem, Stated, counted
from yolo_lite.data.masks import rings_of

OF_A_CLASS = 1000  # values
MOST = 10_000  # objects of an image
BORDER = 255  # of a palette


class MasksReader(FileReader):
    """One PNG for each image."""

    suffix, twins = ".png", {"images": "masks", "pngimages": "masks", "jpegimages": "SegmentationObject"}
    drop_repeats = False  # two objects may fill one box

    def _by_twins(self, folder: str) -> list[str]:
        return [*super()._by_twins(folder)[:-1], os.path.join(folder, "masks")]  # beside images lie images

    def decide(self, hints: np.ndarray) -> str:
        """Where EXIF swaps the sides of a file, it has the pixels of the stored image, whatever its boxes fit."""
        return "stored" if counted(hints)["swapped"] else ""

    def parse(self, content: bytes, path: str, size: tuple[int, int]) -> Iterator[Annotation | Problem | Stated]:
        try:
            with damage_told(path):
                values, mode = _values(content)
        except DataError as error:
            yield Problem("unreadable labels", str(error), rows=0)
            return
        yield Stated(values.shape[0], values.shape[1], path)
        if mode == "RGB" and len(self.names) > 1:
            expected = f"grey values {OF_A_CLASS} * class + number of {len(self.names)} classes"
            yield Problem("unreadable labels", f"{path}: expected {expected}, found colours", rows=0)
            return
        found, counts = np.unique(values, return_counts=True)
        if len(found) > MOST:
            text = f"expected a value an object, found {len(found)} values: smoothed edges, or a photograph?"
            yield Problem("unreadable labels", f"{path}: {text}", rows=0)
            return
        order = np.argsort(values, axis=None, kind="stable")  # the pixels of each value, one value behind the other
        parts = np.split(order, np.cumsum(counts)[:-1])
        for value, pixels in zip(found.tolist(), parts, strict=True):
            if value:
                yield self._object(value, pixels, values.shape, mode, path)

    def _object(
        self, value: int, pixels: np.ndarray, shape: tuple[int, ...], mode: str, path: str
    ) -> Annotation | Problem:
        label = 0 if len(self.names) == 1 else value // OF_A_CLASS
        where, is_border = f"{path}: value {value}", mode == "P" and value == BORDER
        if label >= len(self.names):
            expected = f"{OF_A_CLASS} * class + number, a class in 0..{len(self.names) - 1}"
            return Problem("unknown class", f"{where}: expected {expected}, found class {label}")
        rows, columns = np.divmod(pixels, shape[1])
        (left, right), (top, bottom) = ((int(axis.min()), int(axis.max()) + 1) for axis in (columns, rows))
        rings: list[np.ndarray] = []
        if self.with_outlines:
            mask = np.zeros((bottom - top, right - left), np.uint8)
            mask[rows - top, columns - left] = 1
            rings = [(ring + (left, top)).astype(np.float32) for ring in rings_of(mask)]
        return Annotation(where, label, (left, top, right, bottom), tuple(rings), float(len(pixels)), is_border)


def _values(content: bytes) -> tuple[np.ndarray, str]:
    """The values ``[H, W]`` of a file's pixels, colours as one number, and Pillow's name of their mode.

    They are 0 where the file is transparent.
    """
    image = opened(io.BytesIO(content))
    if image is None:
        raise DataError("expected a PNG")
    check_shape((image.height, image.width, 3))
    is_seen = np.asarray(image.getchannel("A")) > 0 if "A" in image.getbands() else 1
    if image.mode in ("1", "L", "LA", "P") or image.mode.startswith("I"):
        return np.asarray(image.getchannel(0) if image.mode == "LA" else image) * is_seen, image.mode
    return np.asarray(image.convert("RGB")).astype(np.int64) @ (65536, 256, 1) * is_seen, "RGB"
