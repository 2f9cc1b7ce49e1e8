"""Tables of text for the terminal, plain or as Markdown, and the result of an evaluation as one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

HEADER = ("class", "images", "objects", "precision", "recall", "mAP50", "mAP50-95")
NAME_WIDTH = 24  # characters: with it the table fits into a terminal of 80


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Plain text; the first column is aligned left, the others, which are numbers, right."""
    names = _padded([row[:1] for row in rows], str.ljust)
    numbers = _padded([row[1:] for row in rows], str.rjust)
    return "\n".join("  ".join((*name, *cells)) for name, cells in zip(names, numbers, strict=True))


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown that is aligned in the terminal too; the first row is the header."""
    padded = _padded(rows, str.ljust)
    lines = ["| " + " | ".join(cells) + " |" for cells in padded]
    ruler = "|" + "|".join("-" * (len(cell) + 2) for cell in padded[0]) + "|"
    return "\n".join([lines[0], ruler, *lines[1:]])


def _padded(rows: Sequence[Sequence[str]], pad: Callable[[str, int], str]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[pad(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows]


def shortened(name: str) -> str:
    """A class name of 24 characters at most."""
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


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
    """A header, the overall row, then one row a class in the order given."""
    return aligned_table([HEADER, *(_cells(row) for row in (overall, *rows))])


def _cells(row: ClassRow) -> tuple[str, ...]:
    ratios = ("-" if math.isnan(ratio) else f"{ratio:.3f}" for ratio in row[3:])
    return (shortened(row.name), str(row.images), str(row.objects), *ratios)
