"""YOLO label files: rows ``class cx cy w h``, or ``class x1 y1 x2 y2 x3 y3 ...`` for a polygon, as fractions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from yolo_lite.data.labels import Annotation, FileReader, Problem


class YoloReader(FileReader):
    """One text file for each image."""

    suffix, twins = ".txt", {"images": "labels"}

    def parse(self, content: bytes, path: Path, size: tuple[int, int]) -> Iterator[Annotation | Problem]:
        try:
            rows = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            yield Problem("unreadable labels", f"{path}: cannot be read: {error}")
            return
        for number, row in enumerate(rows, 1):
            if row.strip():
                yield self._object(row, f"{path}:{number}", size)

    def _object(self, row: str, where: str, size: tuple[int, int]) -> Annotation | Problem:
        words, most = row.split(), len(self.names) - 1
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
