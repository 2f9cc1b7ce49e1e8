"""YOLO label files: ``class cx cy w h``, or ``class x1 y1 x2 y2 x3 y3 ...`` for a polygon, row by row, as fractions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yolo_lite.config.errors import DataError
from yolo_lite.data.labels import Annotation, Labels, Problem, Ring, checked, label_path
from yolo_lite.ops.box_arrays import xyxy_to_cxcywh

if TYPE_CHECKING:
    from yolo_lite.data.index import DatasetIndex

TWINS = {"images": "labels"}


class YoloLabels:
    """One text file a picture; a picture without one is background."""

    def __init__(self, root: Path, place: Path | None, names: tuple[str, ...]) -> None:
        self.root, self.folder, self.num_classes = root, place, len(names)

    def file_of(self, image: Path) -> Path:
        """In the folder ``labels`` beside ``images``, or beside the image."""
        return label_path(image, self.root, self.folder, ".txt", TWINS)

    def read(self, image: Path, size: tuple[int, int]) -> Labels:
        """The rows that can be used; the others are named.

        Raises:
            DataError: the file cannot be opened.
        """
        path = self.file_of(image)
        if not path.exists():
            return checked([], size)
        try:
            rows = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            return checked([Problem("unreadable labels", f"{path}: cannot be read: {error}")], size)
        found = (self._parse(row, f"{path}:{number}", size) for number, row in enumerate(rows, 1) if row.strip())
        return checked(found, size)

    def _parse(self, row: str, where: str, size: tuple[int, int]) -> Annotation | Problem:
        words, most = row.split(), self.num_classes - 1
        try:
            values = [float(word) for word in words]
        except ValueError:
            return Problem("not a number", f"{where}: expected numbers, found {row.strip()[:60]!r}")
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            expected = "expected 5 columns, or a class and at least 3 points"
            return Problem("wrong columns", f"{where}: {expected}, found {len(values)} columns")
        if not all(map(math.isfinite, values)):
            return Problem("not finite", f"{where}: expected finite numbers, found {row.strip()[:60]!r}")
        if values[0] != int(values[0]) or not 0 <= values[0] <= most:
            return Problem("unknown class", f"{where}: expected a class in 0..{most}, found {words[0]}")
        height, width = size
        if len(values) == 5:
            _, x, y, w, h = values
            box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            return Annotation(where, int(values[0]), box)
        ring = np.array(values[1:]).reshape(-1, 2) * (width, height)
        box = (*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist())
        return Annotation(where, int(values[0]), box, (ring.astype(np.float32),))


def write(index: DatasetIndex, names: list[Path], folder: Path, split: str, polygons: bool) -> str:
    """A text file a picture below ``labels``; this format knows no crowds, which are left out."""
    for position, name in enumerate(names):
        height, width = index.size[position].tolist()
        rows = []
        for thing in index.rows(position):
            rings = index.rings.of(thing) if polygons and index.rings else []
            box = xyxy_to_cxcywh(index.xyxy[thing]).reshape(2, 2)
            points = (_joined(rings) if rings else box) / (width, height)
            rows.append(f"{index.label[thing]} {' '.join(f'{value:.8g}' for value in points.ravel())}\n")
        path = folder / "labels" / name.with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(rows), encoding="ascii")
    return "labels"


def _joined(rings: list[Ring]) -> np.ndarray:
    """One polygon ``[q, 2]`` of several: lines of no width lead from each to the next, and back."""
    if len(rings) == 1:
        return rings[0].astype(np.float64)
    closed = [np.concatenate((ring, ring[:1])) for ring in rings]
    back = [ring[:1] for ring in rings[-2:0:-1]]
    return np.concatenate(closed + back).astype(np.float64)
