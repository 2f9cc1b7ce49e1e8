"""YOLO label files: one text file for each image, rows of fractions.

``class cx cy w h`` is a box, ``class x1 y1 x2 y2 x3 y3 ...`` a polygon, ``class x1 y1 ... x4 y4`` an oriented box and
``class cx cy w h x1 y1 (v1) ...`` a box with keypoints. What rows of more than 5 columns are is stated by the dataset
YAML (``labels_are``, ``kpt_shape``) or told from all rows of a split together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from yolo_lite.config.bounds import LARGEST
from yolo_lite.data.labels import Annotation, FileReader, Hint, Problem, counted
from yolo_lite.data.readers.row_kinds import hints_of, keypoint_sizes, kind_of

EXPECTED = {
    "": "5 columns, or a class and at least 3 points",
    "box": "5 columns (labels_are: box)",
    "polygon": "5 columns, or a class and at least 3 points (labels_are: polygon)",
    "obb": "5 columns, or a class and 4 points (labels_are: obb)",
    "pose": "a class, a box and keypoints of 2 or 3 numbers (labels_are: pose)",
}


class YoloReader(FileReader):
    """One text file for each image."""

    suffix, twins = ".txt", {"images": "labels"}
    numbers_classes = True

    def parse(self, content: bytes, path: str, size: tuple[int, int]) -> Iterator[Annotation | Problem | Hint]:
        try:
            rows = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            yield Problem("unreadable labels", f"{path}: cannot be read: {error}", rows=0)
            return
        for number, row in enumerate(rows, 1):
            if row.strip():
                yield from self._row(row, f"{path}:{number}", size)

    def _row(self, row: str, where: str, size: tuple[int, int]) -> Iterator[Annotation | Problem | Hint]:
        words, most = row.split(), len(self.names) - 1
        try:
            values = [float(word) for word in words]
        except ValueError:
            yield Problem("not a number", f"{where}: expected numbers, found {row.strip()[:60]!r}")
            return
        if not all(abs(value) <= LARGEST for value in values):  # of NaN too
            yield Problem("not finite", f"{where}: expected finite numbers, found {row.strip()[:60]!r}")
            return
        if len(values) > 6:
            yield from hints_of(np.array(values[1:]))
        if not self._has_columns(len(values)):
            hint = " (the last a confidence, as of --save-txt?)" if len(values) > 5 and len(values) % 2 == 0 else ""
            yield Problem("wrong columns", f"{where}: expected {self._expected()}, found {len(values)} columns{hint}")
        elif values[0] != int(values[0]) or not 0 <= values[0] <= most:
            yield Problem("unknown class", f"{where}: expected a class in 0..{most}, found {words[0]}")
        elif len(values) == 5 or self.reading == "pose":
            yield Annotation(where, int(values[0]), _box(values[1:5], size))
        else:
            ring = np.array(values[1:]).reshape(-1, 2) * size[::-1]
            box = (*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist())
            yield Annotation(where, int(values[0]), box, (ring.astype(np.float32),))

    def _has_columns(self, count: int) -> bool:
        if count == 5 or self.reading == "box":
            return count == 5
        if self.reading == "pose":
            return count == 5 + math.prod(self.kpt_shape) if self.kpt_shape else keypoint_sizes(count) != []
        return count == 9 if self.reading == "obb" else count >= 7 and count % 2 == 1

    def _expected(self) -> str:
        stated = self.reading == "pose" and self.kpt_shape
        return f"5 or {5 + math.prod(stated)} columns (kpt_shape: {list(stated)})" if stated else EXPECTED[self.reading]

    def decide(self, hints: np.ndarray) -> str:
        return kind_of(hints)

    def remarks(self, images: Sequence[str], hints: np.ndarray) -> list[Problem]:
        counts, line = counted(hints), ""
        wide = counts["wide"]
        if wide and self.reading == "pose":
            line = "boxes with keypoints (pose): the boxes are used, the keypoints ignored"
        elif wide and (self.reading == "obb" or 2 * counts["oriented"] > wide):
            line = f"{wide} oriented boxes (obb): the upright box around each is used"
        return [Problem("how rows are read", line, rows=0)] if line else []


def _box(values: list[float], size: tuple[int, int]) -> tuple[float, ...]:
    (x, y, w, h), (height, width) = values, size
    return ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
