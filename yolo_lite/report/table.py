"""Tables of text for the terminal, plain or as Markdown, and the result of an evaluation as one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

HEADER = ("class", "images", "objects", "precision", "recall", "mAP50", "mAP50-95")
NAME_WIDTH = 24  # characters: with it the table fits into a terminal of 80


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Plain text; the first column is aligned left, the others, which are numbers, right."""
    line = "  ".join(f"{{:{'>' if column else '<'}{width}}}" for column, width in enumerate(_widths(rows)))
    return "\n".join(line.format(*row) for row in rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown that is aligned in the terminal too; the first row is the header."""
    line = "| " + " | ".join(f"{{:{width}}}" for width in _widths(rows)) + " |"
    ruler = "|" + "|".join("-" * (width + 2) for width in _widths(rows)) + "|"
    header, *others = (line.format(*row) for row in rows)
    return "\n".join([header, ruler, *others])


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


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
    table: list[Sequence[str]] = [HEADER]
    for name, images, objects, *ratios in (overall, *rows):
        cells = ("-" if math.isnan(ratio) else f"{ratio:.3f}" for ratio in ratios)
        table.append((shortened(name), str(images), str(objects), *cells))
    return aligned_table(table)
