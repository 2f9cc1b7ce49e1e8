"""The result of an evaluation as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

HEADER = ("class", "images", "objects", "precision", "recall", "mAP50", "mAP50-95")
NAME_WIDTH = 24  # characters: with it the table fits into a terminal of 80


class ClassRow(NamedTuple):
    """The result of one class; ratios in 0..1, NaN where there is nothing to measure."""

    name: str
    images: int  # with an object of the class
    objects: int
    precision: float
    recall: float
    map50: float
    map50_95: float


def class_table(rows: Sequence[ClassRow], overall: ClassRow) -> str:
    """An aligned table of plain text: a header, the overall row, then one row a class in the order given."""
    table = [HEADER, *(_cells(row) for row in (overall, *rows))]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return "\n".join(_line(cells, widths) for cells in table)


def _cells(row: ClassRow) -> tuple[str, ...]:
    name = row.name if len(row.name) <= NAME_WIDTH else row.name[: NAME_WIDTH - 1] + "…"
    ratios = ("-" if math.isnan(ratio) else f"{ratio:.3f}" for ratio in row[3:])
    return (name, str(row.images), str(row.objects), *ratios)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join((cells[0].ljust(widths[0]), *numbers))
