"""Reading one YOLO label file: ``class cx cy w h``, or ``class x1 y1 x2 y2 x3 y3 ...`` for a polygon, row by row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Annotation tools round: what lies outside 0..1 by less than this is clipped, what lies further is an error.
TOLERANCE = 0.01


class Labels(NamedTuple):
    """The objects of one picture."""

    label: np.ndarray  # [m] int64
    xyxy: np.ndarray  # [m, 4] float64, fractions of the picture in 0..1
    problems: list[str]  # one for each row that was left out: file, line, reason


def read_labels(path: str | Path, num_classes: int) -> Labels:
    """Read a label file; a row that cannot be used is left out and named."""
    try:
        rows = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return Labels(*_arrays([]), [f"{path}: cannot be read: {error}"])
    objects: list[tuple[int, tuple[float, ...]]] = []
    problems, seen = [], set()
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        parsed = _parse_row(row, num_classes)
        if isinstance(parsed, str):
            problems.append(f"{path}:{number}: {parsed}")
        elif parsed in seen:
            problems.append(f"{path}:{number}: repeats an earlier row")
        else:
            seen.add(parsed)
            objects.append(parsed)
    return Labels(*_arrays(objects), problems)


def _arrays(objects: list[tuple[int, tuple[float, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    label = np.array([label for label, _ in objects], dtype=np.int64)
    return label, np.array([box for _, box in objects], dtype=np.float64).reshape(-1, 4)


def _parse_row(row: str, num_classes: int) -> tuple[int, tuple[float, ...]] | str:
    """Class and xyxy fractions of a row, or what is wrong with it."""
    words = row.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"expected numbers, found {row.strip()[:60]!r}"
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        return f"expected 5 columns, or a class and at least 3 points, found {len(values)} columns"
    if not all(map(math.isfinite, values)):
        return f"expected finite numbers, found {row.strip()[:60]!r}"
    if values[0] != int(values[0]) or not 0 <= values[0] < num_classes:
        return f"expected a class in 0..{num_classes - 1}, found {words[0]}"
    box = _box_of(values[1:])
    if min(box) < -TOLERANCE or max(box) > 1 + TOLERANCE:
        return f"expected coordinates in 0..1, found a box from {box[:2]} to {box[2:]}"
    left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in box)
    if right <= left or bottom <= top:
        return f"expected a width and height above 0, found {row.strip()[:60]!r}"
    return int(values[0]), (left, top, right, bottom)


def _box_of(values: list[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
